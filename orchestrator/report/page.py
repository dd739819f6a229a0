"""`report.html`: the record of a run as one page that needs nothing but a browser.

It loads nothing, runs nothing, and escapes whatever the record holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report.charts import curves_chart, reliability_chart
from orchestrator.report.groups import CurveGroup, ModelGroup, curve_groups, model_groups
from orchestrator.report.notation import change, count, decimals, duration, percent, points, rate, size
from orchestrator.report.record import CalibrationResult, Report
from orchestrator.report.samples import MOST_CLASSES, cards
from orchestrator.report.verdict import verdict
from orchestrator.report.views import views_sentence

_HERE = Path(__file__).parent
_MOST_CLASS_NAMES = 100


@dataclass(frozen=True)
class _Scale:
    """The axis of the column of dots in the table of models."""

    low: float
    high: float

    def place(self, accuracy: float) -> str:
        """Return where `accuracy` lies between the ends, as a CSS length."""
        return f"{100 * (accuracy - self.low) / (self.high - self.low):.2f}%"


def render_page(report: Report) -> str:
    """Return the page as HTML text; equal reports give equal pages."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    written = (change, count, decimals, duration, percent, points, rate, size)
    environment.filters |= {write.__name__: write for write in written}
    environment.globals |= {"points": points, "decimals": decimals}
    groups = model_groups(report)
    return environment.get_template("page.html.jinja").render(
        report=report,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704, our own file
        verdict=verdict(report),
        views=views_sentence(report),
        groups=groups,
        ensemble=next((group for group in groups if group.role == "ensemble"), None),
        is_taught=any(group.role in {"teacher", "generation"} for group in groups),
        scale=_scale(groups),
        curves=_curves(curve_groups(report)),
        reliability=_reliability(report),
        cards=cards(report),
        class_key=_class_key(report),
        total_s=sum(step.seconds for step in report.steps),
        most_class_names=_MOST_CLASS_NAMES,
    )


def _scale(groups: Sequence[ModelGroup]) -> _Scale:
    """Span all accuracies by whole percents, one at least."""
    accuracies = [model.accuracy for group in groups for model in group.members]
    low, high = math.floor(100 * min(accuracies)), math.ceil(100 * max(accuracies))
    return _Scale(low / 100, max(high, low + 1) / 100)


def _curves(groups: Sequence[CurveGroup]) -> list[tuple[CurveGroup, Markup]]:
    return [
        (group, curves_chart(group, [other for other in groups if other is not group], chart_id=f"curves-{place}"))
        for place, group in enumerate(groups)
    ]


def _reliability(report: Report) -> list[tuple[CalibrationResult, Markup]]:
    return [
        (calibration, reliability_chart(calibration, chart_id=f"reliability-{place}"))
        for place, calibration in enumerate(report.calibrations)
    ]


def _class_key(report: Report) -> list[tuple[int, str]]:
    """Return number and name of each class, where strips have room for numbers that are not the names themselves."""
    key = list(enumerate(report.data.classes))
    return [] if len(key) > MOST_CLASSES or all(name == str(number) for number, name in key) else key
