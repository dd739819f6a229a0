"""The list of techniques: what the code says of itself, and the page that is made of it."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from orchestrator.techniques import Technique, as_markdown, techniques
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.weightings.catalogue import WeightingConfig

ROOT = Path(__file__).parents[2]
REQUIRED: dict[str, object] = {
    "student": "layer",
    "student_end": "layer",
    "teacher": "wide:layer",
    "teacher_end": "wide:layer",
    "head": "wide:fc",
    "column": "domain",
    "routes": {"wide": [0]},
    "shared": ["layer"],
}
of_each = pytest.mark.parametrize("technique", techniques(), ids=lambda it: it.name)


def test_the_page_in_docs_is_what_the_code_says() -> None:
    assert (ROOT / "docs/techniques.md").read_text(encoding="utf-8") == as_markdown(techniques())


@of_each
def test_each_technique_names_its_paper_its_formula_and_the_meaning_of_its_options(technique: Technique) -> None:
    assert re.search(r"\d{4}\.\d{4,5}|doi 10\.|openreview", technique.source)
    assert re.search(r"^    .* = ", technique.source, flags=re.MULTILINE)
    assert [option.name for option in technique.options if not option.meaning] == []
    assert technique.reads


@of_each
def test_each_technique_is_found_by_its_name_and_the_default_that_is_shown_is_the_default(technique: Technique) -> None:
    catalogues = {"term": TermConfig, "weighting": WeightingConfig, "cohort": CohortConfig}
    key, catalogue = "term" if technique.kind == "term" else "method", catalogues[technique.kind]
    shown = {option.name: option.default for option in technique.options}
    needed = {name: REQUIRED[name] for name, default in shown.items() if default == "required"}
    if technique.name == "reviewkd":
        needed = {name: [value, value] for name, value in needed.items()}
    found = TypeAdapter(catalogue).validate_python({key: technique.name, **needed})

    assert shown == {
        name: "required" if name in needed else str(getattr(found, name))
        for name in type(found).model_fields
        if name != key and (name != "of" or "target" in technique.reads)
    }
