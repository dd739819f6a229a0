"""What each model believes of single test rows: one card per row, one strip of bars per model."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.report.notation import percent
from orchestrator.report.record import Report, Sample

MOST_CLASSES = 12
"""Columns of a strip; of more classes those are shown that the models find most probable in that row."""
_MOST_PIXELS = 96
_COLUMN, _HEIGHT = 10, 28


@dataclass(frozen=True)
class Belief:
    """One model's soft label of a row."""

    model: str
    guess: str
    probability: float
    is_right: bool
    strip: Markup


@dataclass(frozen=True)
class Card:
    """One test row: its image, its true class, and the soft labels over the same columns."""

    row: int
    label: str
    image: str | None
    """PNG data URI."""
    columns: tuple[int, ...]
    """Class numbers, left to right."""
    shows_all: bool
    """Whether every class has a column."""
    true_class: int
    beliefs: tuple[Belief, ...]


def cards(report: Report) -> tuple[Card, ...]:
    """Return one card per sample, models in the order of the report."""
    order = {model.name: place for place, model in reversed(list(enumerate(report.models)))}
    return tuple(_card(sample, report.data.classes, order) for sample in report.samples)


def _card(sample: Sample, classes: Sequence[str], order: dict[str, int]) -> Card:
    models = sorted(sample.probabilities, key=lambda name: order.get(name, len(order)))
    columns = _columns(sample)
    return Card(
        row=sample.row,
        label=classes[sample.label],
        image=None if sample.pixels is None else _png(sample.pixels),
        columns=columns,
        shows_all=len(columns) == len(classes),
        true_class=sample.label,
        beliefs=tuple(_belief(name, sample, columns, classes) for name in models),
    )


def _columns(sample: Sample) -> tuple[int, ...]:
    """Return all classes, or if there are too many the true one and those that some model finds most probable."""
    highest = [max(shares) for shares in zip(*sample.probabilities.values(), strict=True)]
    by_height = sorted(range(len(highest)), key=lambda number: (number != sample.label, -highest[number]))
    return tuple(sorted(by_height[:MOST_CLASSES]))


def _belief(model: str, sample: Sample, columns: Sequence[int], classes: Sequence[str]) -> Belief:
    shares = sample.probabilities[model]
    guess = max(range(len(shares)), key=shares.__getitem__)
    label = f"{model}: {classes[guess]} {percent(shares[guess], 0)}, true class {percent(shares[sample.label], 0)}"
    return Belief(
        model=model,
        guess=classes[guess],
        probability=shares[guess],
        is_right=guess == sample.label,
        strip=_strip([shares[number] for number in columns], columns.index(sample.label), label),
    )


def _strip(shares: Sequence[float], true_place: int, label: str) -> Markup:
    """Return bars from the ground up, that of the true class in the accent colour on a tinted column."""
    others = "".join(_bar(place, share) for place, share in enumerate(shares) if place != true_place)
    return Markup(  # the label is escaped by `format`, the rest are numbers
        '<svg class="strip" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">'
        '<path class="column" d="M{left} 0h{column}v{height}h-{column}z"/>'
        '<path class="others" d="{others}"/><path class="truth" d="{truth}"/></svg>'
    ).format(
        label=label,
        width=_COLUMN * len(shares),
        height=_HEIGHT,
        left=_COLUMN * true_place,
        column=_COLUMN,
        others=others,
        truth=_bar(true_place, shares[true_place]),
    )


def _bar(place: int, share: float) -> str:
    height = _HEIGHT * share
    return (
        f"M{_COLUMN * place + 2} {_HEIGHT - height:.1f}h{_COLUMN - 4}V{_HEIGHT}h-{_COLUMN - 4}z"
        if share >= 0.002
        else ""
    )


def _png(pixels: Sequence[Sequence[int]]) -> str:
    from PIL import Image  # matplotlib brings it

    image = Image.frombytes("L", (len(pixels[0]), len(pixels)), b"".join(bytes(row) for row in pixels))
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    body = io.BytesIO()
    image.save(body, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(body.getvalue()).decode()}"
