"""The drawings of the page: how models learned, and how far their confidence can be trusted.

Lengths are CSS pixels: a matplotlib point becomes one when the drawing is inlined.
"""

import io
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from orchestrator.report.groups import CurveGroup
from orchestrator.report.inline_svg import inline_svg
from orchestrator.report.notation import decimals
from orchestrator.report.record import CalibrationResult, Curve
from students.reliability import ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins: matplotlib wants numbers, while the page has a light and a dark scheme.
_INK, _MUTED, _RULE, _FAINT, _ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505"
_COLOURS = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    _FAINT: "var(--faint)",
    _ACCENT: "var(--accent)",
}

_P = TypeVar("_P")

_POINTS_PER_INCH = 72
_TEXT = 10.5
_MOST_POINTS = 100
"""Points drawn per line: a panel is some 200 pixels wide."""
_LARGEST_DOT = 60.0
"""Area of the dot of a bin that holds every row, square pixels."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": _TEXT,
    "axes.linewidth": 0.8,
    "axes.edgecolor": _RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def curves_chart(group: CurveGroup, others: Sequence[CurveGroup], *, chart_id: str) -> Markup:
    """Draw training loss over held-out accuracy by epoch, one line per seed, the means of other models behind."""
    strong = _ACCENT if group.role == "student" else _INK
    last_epoch = max(curve.points[-1].epoch for curve in group.curves)
    with _sheet(chart_id, width=270, height=240) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
        figure.subplots_adjust(left=0.1, right=0.87, top=0.93, bottom=0.07, hspace=0.3)
        for other in others:
            bottom.plot(*_mean_accuracy_line(other, until=last_epoch), color=_FAINT, linewidth=0.9)
        for curve in group.curves:
            top.plot(*_loss_line(curve), color=strong, linewidth=1.2)
            bottom.plot(*_accuracy_line(curve), color=strong, linewidth=1.2)
        _end_label(top, last_epoch, statistics.fmean(curve.points[-1].loss for curve in group.curves), "{:.2f}", strong)
        final = statistics.fmean(curve.points[-1].accuracy for curve in group.curves)
        _end_label(bottom, last_epoch, 100 * final, "{:.1f}", strong)
        bottom.set_ylim(_accuracy_range([group, *others]))
        for axes, title in ((top, "training loss"), (bottom, "held-out accuracy, %")):
            _title(axes, title)
            axes.locator_params(axis="y", nbins=3)
        first_epoch = min(curve.points[0].epoch for curve in group.curves)
        bottom.set_xticks(sorted({first_epoch, last_epoch}))
        label = f"Learning curves of {group.name}: held-out accuracy {100 * final:.1f} % after {last_epoch} epochs"
        return _inlined(figure, chart_id, label)


def reliability_chart(calibration: CalibrationResult, *, chart_id: str) -> Markup:
    """Draw accuracy against confidence, bin by bin, before and after calibration; a dot's area is its share of rows."""
    with _sheet(chart_id, width=270, height=168) as figure:
        before, after = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(left=0.14, right=0.985, top=0.88, bottom=0.19, wspace=0.14)
        _reliability(before, calibration.bins_before, "before")
        _reliability(after, calibration.bins_after, "after")
        before.set_ylabel("accuracy, %", color=_MUTED, labelpad=2)
        label = (
            f"Reliability of {calibration.teacher}: expected calibration error {decimals(calibration.ece_before)} "
            f"before and {decimals(calibration.ece_after)} after calibration"
        )
        return _inlined(figure, chart_id, label)


@contextmanager
def _sheet(chart_id: str, *, width: int, height: int) -> "Iterator[Figure]":
    """Yield an empty figure; its ids will depend on `chart_id`, and its text is never read as mathematics."""
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    with rc_context():
        rcdefaults()  # a user's matplotlibrc would change the page
        rcParams.update(_SETTINGS | {"svg.hashsalt": chart_id})
        yield Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), facecolor="none")


def _inlined(figure: "Figure", chart_id: str, label: str) -> Markup:
    document = io.StringIO()
    # An explicit None leaves an entry out; the date would make two renderings of one record differ.
    figure.savefig(document, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return inline_svg(document.getvalue(), chart_id=chart_id, label=label, colours=_COLOURS)


def _loss_line(curve: Curve) -> tuple[list[int], list[float]]:
    points = _thinned(curve.points)
    return [point.epoch for point in points], [point.loss for point in points]


def _accuracy_line(curve: Curve) -> tuple[list[int], list[float]]:
    points = _thinned(curve.points)
    return [point.epoch for point in points], [100 * point.accuracy for point in points]


def _mean_accuracy_line(group: CurveGroup, *, until: int) -> tuple[list[int], list[float]]:
    """Return the mean over seeds for the epochs that all of them reached: context needs no spread."""
    shared = zip(*(curve.points for curve in group.curves), strict=False)
    points = _thinned([points for points in shared if points[0].epoch <= until])
    return [seeds[0].epoch for seeds in points], [100 * statistics.fmean(p.accuracy for p in seeds) for seeds in points]


def _thinned(points: Sequence[_P]) -> Sequence[_P]:
    """Return at most `_MOST_POINTS` points, evenly chosen, the first and the last among them."""
    if len(points) <= _MOST_POINTS:
        return points
    last = len(points) - 1
    return [points[last * place // (_MOST_POINTS - 1)] for place in range(_MOST_POINTS)]


def _accuracy_range(groups: Sequence[CurveGroup]) -> tuple[float, float]:
    """Return the limits that all panels share: the lowest accuracy after a quarter of the epochs, and the highest."""
    settled = [point for group in groups for curve in group.curves for point in curve.points[len(curve.points) // 4 :]]
    accuracies = [100 * point.accuracy for point in settled]
    margin = max(0.5, 0.05 * (max(accuracies) - min(accuracies)))
    return min(accuracies) - margin, max(accuracies) + margin


def _end_label(axes: "Axes", x: float, y: float, pattern: str, colour: str) -> None:
    axes.plot([x], [y], marker="o", markersize=3.4, color=colour, clip_on=False)
    axes.annotate(
        pattern.format(y), (x, y), (5, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
    )


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, loc="left", fontsize=_TEXT, color=_MUTED, pad=5)
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.spines["left"].set_visible(False)


def _reliability(axes: "Axes", bins: Sequence[ReliabilityBin], title: str) -> None:
    filled = [part for part in bins if part.rows]
    shares = [part.rows / sum(part.rows for part in filled) for part in filled]
    confidences, accuracies = [part.confidence for part in filled], [part.accuracy for part in filled]
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, zorder=1)
    axes.vlines(
        confidences,
        confidences,
        accuracies,
        colors=_ACCENT,
        linewidth=[0.5 + 3 * share**0.5 for share in shares],
        zorder=2,
    )
    axes.scatter(
        confidences,
        accuracies,
        [7 + _LARGEST_DOT * share for share in shares],
        color=_INK,
        linewidths=0,
        zorder=3,
        clip_on=False,
    )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    axes.set_xticks((0, 0.5, 1), ("0", "50", "100"))
    axes.set_yticks((0, 0.5, 1), ("0", "50", "100"))
    axes.set_xlabel("confidence, %", color=_MUTED, labelpad=2)
    axes.set_title(title, loc="left", fontsize=_TEXT, color=_MUTED, pad=5)
