"""A record such as a run leaves: three teachers, their ensemble, a student with and without them from three seeds."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

from orchestrator.report.record import (
    Agreement,
    CalibrationResult,
    Contribution,
    Curve,
    CurvePoint,
    DataSummary,
    ModelResult,
    Report,
    Role,
    Sample,
    StepResult,
    Summary,
)
from students.reliability import ReliabilityBin

TEACHERS = ("wide", "deep", "forest")
SEEDS = (0, 1, 2)
CLASSES = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
WARNING = "The teachers lead the lone student by 0.4 ± 0.9 points on the held-out rows: distillation may not pay here."

SPEC = """\
name: digits-ensemble
store: ./store
data:
  source: sklearn-digits
  labelled: 200
teachers:
- name: wide
  model: examples.models:WideCNN
  fit:
    epochs: 30
fusion:
  combine: mean_probability
  calibrate: true
student:
  model: examples.models:MLP
objective:
- term: kl
  temperature: 1.0
  weight: 0.9
"""


def make_report(
    *,
    teachers: Sequence[str] = TEACHERS,
    seeds: Sequence[int] = SEEDS,
    classes: Sequence[str] = CLASSES,
    epochs: int = 30,
    num_samples: int = 12,
    side: int = 8,
    **changes: Any,
) -> Report:
    """Return the same record each time for the same arguments, but for the fields named in `changes`."""
    chance = random.Random(20)
    models = _models(teachers, seeds, epochs)
    fields = {
        "name": "digits-ensemble",
        "run": "2026-11-22T16-40-03Z-6f1d0c2a9b3e4d57",
        "created": "2026-11-22T16:40:03Z",
        "command": "coffey run digits.yaml --set train.epochs=30",
        "store": "./store",
        "wall_s": 71.24,
        "teacher_rows_computed": 3 * 1237,
        "summary": _summary(models),
        "warnings": (),
        "data": DataSummary(
            source="sklearn digits (UCI, 1,797 rows)",
            classes=tuple(classes),
            train_rows=1237,
            labelled_rows=200,
            held_out_rows=60,
            test_rows=500,
        ),
        "models": models,
        "calibrations": tuple(_calibration(name, chance) for name in teachers),
        "contributions": tuple(
            Contribution(teacher=name, share=share, accuracy=0.9582 + difference, nll=0.1547 - 3 * difference)
            for name, share, difference in zip(teachers, (0.5, 0.5, 0.0), (-0.02, 0.004, 0.0), strict=False)
        ),
        "agreements": tuple(
            Agreement(model=name, role=role, agreement=agreement, kl=kl)
            for name, role, agreement, kl in [
                *(
                    (name, "teacher", 0.912 + 0.004 * place, 0.231 - 0.02 * place)
                    for place, name in enumerate(teachers)
                ),
                ("ensemble", "ensemble", 0.9673, 0.0871),
                ("baseline", "baseline", 0.9032, 0.3127),
            ]
        ),
        "curves": tuple(_curve(name, role, seed, epochs, chance) for name, role, seed in _trained(teachers, seeds)),
        "steps": _steps(teachers),
        "samples": tuple(_sample(number, teachers, len(classes), side, chance) for number in range(num_samples)),
        "environment": {
            "coffey": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "ray": "2.60.0",
            "machine": "Linux 6.8, x86_64, 2 cores, 24 GiB",
        },
        "spec": SPEC,
    }
    return Report.model_validate(fields | changes)


def with_text_in_every_string(report: Report, text: str) -> Report:
    """Return the report with `text` before every string that a user, a file or a server may choose."""
    return Report.model_validate(_prefixed(report.model_dump(), text))


def _prefixed(value: Any, text: str) -> Any:
    match value:
        case str():
            return text + value
        case dict():
            fixed = {"role", "outcome", "method"}  # a closed set of words; the record refuses any other
            free = {"probabilities", "environment"}
            return {
                key: item
                if key in fixed
                else {text + name: _prefixed(part, text) for name, part in item.items()}
                if key in free
                else _prefixed(item, text)
                for key, item in value.items()
            }
        case list() | tuple():
            return tuple(_prefixed(item, text) for item in value)
        case _:
            return value


def _trained(teachers: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, Role, int | None]]:
    alone: list[tuple[str, Role, int | None]] = [(name, "teacher", None) for name in teachers]
    return [
        *alone,
        *(("baseline", "baseline", seed) for seed in seeds),
        *(("student", "student", seed) for seed in seeds),
    ]


def _models(teachers: Sequence[str], seeds: Sequence[int], epochs: int) -> tuple[ModelResult, ...]:
    def model(name: str, role: Role, accuracy: float, parameters: int, latency_ms: float, **more: Any) -> ModelResult:
        return ModelResult(
            name=name,
            role=role,
            accuracy=accuracy,
            nll=round(3.7 * (1 - accuracy), 4),
            ece=round(0.6 * (1 - accuracy), 4),
            parameters=parameters,
            num_bytes=4 * parameters + 1400,
            latency_ms=latency_ms,
            **more,
        )

    singles = [
        model(name, "teacher", 0.938 + 0.006 * place, 53_258 + 21_470 * place, 0.187 + 0.041 * place, epochs=epochs)
        for place, name in enumerate(teachers)
    ]
    parameters = sum(single.parameters or 0 for single in singles)
    ensemble = model("ensemble", "ensemble", 0.9582, parameters, sum(single.latency_ms for single in singles))
    kinds: list[tuple[Role, float, int]] = [("baseline", 0.9128, epochs // 2), ("student", 0.9446, epochs)]
    students = [
        model(role, role, accuracy + 0.0044 * math.sin(5 * seed + 1), 5_962, 0.0231, seed=seed, epochs=length)
        for role, accuracy, length in kinds
        for seed in seeds
    ]
    return (*singles, ensemble, *students)


def _summary(models: Sequence[ModelResult]) -> Summary:
    accuracies = {
        role: [model.accuracy for model in models if model.role == role] for role in ("baseline", "student", "ensemble")
    }
    baseline, student = statistics.fmean(accuracies["baseline"]), statistics.fmean(accuracies["student"])
    (ensemble,) = accuracies["ensemble"]
    return Summary(
        ensemble_accuracy=ensemble,
        baseline_accuracy=baseline,
        baseline_std=statistics.stdev(accuracies["baseline"]) if len(accuracies["baseline"]) > 1 else 0.0,
        student_accuracy=student,
        student_std=statistics.stdev(accuracies["student"]) if len(accuracies["student"]) > 1 else 0.0,
        gap_recovered=(student - baseline) / (ensemble - baseline),
        compression=sum(model.parameters or 0 for model in models if model.role == "teacher") / 5_962,
        teachers_lead=0.0417,
        teachers_lead_stderr=0.0156,
    )


def _curve(model: str, role: Role, seed: int | None, epochs: int, chance: random.Random) -> Curve:
    ceiling = {"teacher": 0.945, "baseline": 0.914, "student": 0.946}[role] + chance.uniform(-0.008, 0.008)
    speed = chance.uniform(0.18, 0.26) * 30 / epochs

    def point(epoch: int) -> CurvePoint:
        left = math.exp(-speed * epoch)
        accuracy = ceiling - 0.75 * left + chance.gauss(0, 0.004)
        return CurvePoint(
            epoch=epoch, loss=2.2 * left + 0.07 + chance.uniform(0, 0.03), accuracy=accuracy, nll=2.5 * left + 0.2
        )

    return Curve(model=model, role=role, seed=seed, points=tuple(point(epoch) for epoch in range(1, epochs + 1)))


def _calibration(teacher: str, chance: random.Random) -> CalibrationResult:
    return CalibrationResult(
        teacher=teacher,
        temperature=round(chance.uniform(1.3, 2.1), 4),
        ece_before=0.0713,
        ece_after=0.0189,
        nll_before=0.2794,
        nll_after=0.2236,
        bins_before=_bins(0.12, chance),
        bins_after=_bins(0.02, chance),
    )


def _bins(overconfidence: float, chance: random.Random) -> tuple[ReliabilityBin, ...]:
    def one(place: int) -> ReliabilityBin:
        low, high = place / 15, (place + 1) / 15
        rows = 0 if place < 3 else int(4 + 400 * (place / 14) ** 9)
        confidence = (low + high) / 2 if rows else 0.0
        accuracy = min(
            1.0, max(0.0, confidence - 4 * overconfidence * confidence * (1 - confidence) + chance.gauss(0, 0.02))
        )
        return ReliabilityBin(
            low=low, high=min(1.0, high), rows=rows, confidence=confidence, accuracy=accuracy if rows else 0.0
        )

    return tuple(one(place) for place in range(15))


def _steps(teachers: Sequence[str]) -> tuple[StepResult, ...]:
    fits = [
        StepResult(name=f"fit {name}", kind="fit", outcome="computed", seconds=6.1 + place)
        for place, name in enumerate(teachers)
    ]
    labels = [
        StepResult(name=f"label {name}", kind="label", outcome="computed", seconds=3.04, rows=1237, rows_per_s=4106.2)
        for name in teachers
    ]
    return (
        StepResult(name="ingest", kind="ingest", outcome="reused", seconds=0.0),
        *fits,
        *labels,
        StepResult(name="fuse", kind="fuse", outcome="computed", seconds=0.41, rows=1237, rows_per_s=3017.07),
        StepResult(name="baseline", kind="train", outcome="computed", seconds=14.2),
        StepResult(name="student", kind="train", outcome="continued", seconds=21.73, rows=37_110, rows_per_s=1707.8),
        StepResult(name="evaluate", kind="evaluate", outcome="computed", seconds=1.9),
        StepResult(name="export", kind="export", outcome="computed", seconds=0.6),
    )


def _sample(number: int, teachers: Sequence[str], num_classes: int, side: int, chance: random.Random) -> Sample:
    label, rival = number % num_classes, (3 * number + 4) % num_classes
    sharpness = {
        **{name: chance.uniform(2, 7) for name in teachers},
        "ensemble": 5.0,
        "baseline": chance.uniform(-1, 4),
        "student": 5.0,
    }
    return Sample(
        row=137 * number + 11,
        label=label,
        pixels=_pixels(number, side),
        probabilities={
            name: _softmax(_logits(num_classes, label, rival, sharp, chance)) for name, sharp in sharpness.items()
        },
    )


def _logits(num_classes: int, label: int, rival: int, sharp: float, chance: random.Random) -> list[float]:
    logits = [chance.gauss(0, 1) for _ in range(num_classes)]
    logits[rival] += 2.5
    logits[label] += sharp
    return logits


def _softmax(logits: Sequence[float]) -> tuple[float, ...]:
    weights = [math.exp(logit) for logit in logits]
    return tuple(weight / sum(weights) for weight in weights)


def _pixels(number: int, side: int) -> tuple[tuple[int, ...], ...]:
    """A bright ring of another radius and place for each number."""
    centre = side / 2 + 0.3 * math.sin(number)

    def grey(x: int, y: int) -> int:
        distance = math.hypot(x + 0.5 - centre, (y + 0.5 - side / 2) / (1 + 0.05 * number))
        return int(255 * max(0.0, 1 - abs(distance - side * (0.22 + 0.01 * number)) / (0.18 * side)))

    return tuple(tuple(grey(x, y) for x in range(side)) for y in range(side))
