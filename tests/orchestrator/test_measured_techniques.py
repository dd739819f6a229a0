"""The benchmark of techniques: it measures all that there are, by specs that load, against the right lone student."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.techniques.catalogue import TECHNIQUES
from benchmarks.techniques.lines import Lines, Run
from benchmarks.techniques.runs import SPEC, Asked
from benchmarks.techniques.table import table
from examples.models import SmallCNN
from orchestrator.load import load_spec
from orchestrator.techniques import techniques
from students.cohorts.sharing import Sharing

ROOT = Path(__file__).parents[2]
NOT_MEASURED = {"routing", "static"}


def names_in(value: Any) -> Iterator[str]:
    """Yield what stands under `term` and `method`, however deep."""
    if isinstance(value, dict):
        yield from (value[key] for key in ("term", "method") if key in value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names_in(inner)


def lone_rows(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| without teachers")]


@pytest.fixture(scope="module")
def asked() -> dict[str, Asked]:
    return {name: Asked.of(name, "unused", []) for name in TECHNIQUES}


def test_every_technique_that_is_listed_is_measured(asked: dict[str, Asked]) -> None:
    measured = {name for one in asked.values() for key, value in one.changes.items() for name in names_in({key: value})}
    methods = {value for one in asked.values() for key, value in one.changes.items() if key.endswith(".method")}

    assert {it.name for it in techniques()} - measured - methods == NOT_MEASURED


def test_generations_specialists_and_views_are_measured_too(asked: dict[str, Asked]) -> None:
    keys = {key for one in asked.values() for key in one.changes}

    assert {"generations", "data.views"} <= keys
    assert any("classes" in teacher for one in asked.values() for teacher in one.changes.get("teachers", ()))


def test_every_entry_is_a_job_that_loads(asked: dict[str, Asked]) -> None:
    for one in asked.values():
        load_spec(ROOT / SPEC, one.overrides)


def test_members_that_share_modules_can(asked: dict[str, Asked]) -> None:
    together = [one.changes["cohort"] for one in asked.values() if "shared" in one.changes.get("cohort", {})]
    members = [SmallCNN() for _ in range(3)]
    for cohort in together:
        Sharing(members, cohort["shared"]).check(members, torch.zeros(2, 1, 28, 28))

    assert together


def test_each_lone_student_has_a_row_and_that_of_most_techniques_comes_first(tmp_path: Path) -> None:
    def ran(technique: str, *lone_accuracies: float) -> Run:
        figures = {"accuracies": (0.9, 0.8), "ece": 0.1, "lone_ece": 0.2, "wall_s": 1}
        beside = {"ensemble_accuracy": None, "kl": None, "agreement": None}
        return Run(technique=technique, family="any", changes={}, lone_accuracies=lone_accuracies, **figures, **beside)

    lines = Lines(tmp_path / "runs.jsonl")
    for run in (ran("crop", 0.75, 0.75), ran("kl", 0.5, 0.5), ran("dkd", 0.5, 0.5)):
        lines.add(run)

    first, second = lone_rows(table(lines))

    assert first.startswith("| without teachers |")
    assert "50.00" in first
    assert second.startswith("| without teachers, of crop |")
    assert "75.00" in second
