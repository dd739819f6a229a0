"""Versions: what is required is read from Coffey's own metadata, and no version with a known hole passes."""

import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cluster.findings import Finding
from cluster.health.versions import FLOORS, Requirements, check_versions, own_requirements

REQUIRED = Requirements(
    python=">=3.11",
    tested=("3.11", "3.12", "3.13"),
    packages=("ray[train]>=2.55", "torch>=2.10", "pyarrow>=20", "boto3>=1.38", "rich>=13.9", "moto>=5; extra == 'dev'"),
)
INSTALLED = {"ray": "2.60.0", "torch": "2.13.0+cpu", "pyarrow": "26.0.1", "boto3": "1.44.5", "rich": "15.0.0"}
# The last release with each hole.
HOLES = {"ray": "2.54.1", "torch": "2.9.1", "pyarrow": "14.0.0"}


def check(
    installed: dict[str, str], *, python: str = "3.12.4", required: Requirements = REQUIRED
) -> dict[str, Finding]:
    version_of: Callable[[str], str | None] = installed.get
    return {it.check: it for it in check_versions(required, python=python, version_of=version_of)}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    return {it.check: it.verdict for it in findings.values() if it.verdict != "OK"}


def test_what_is_as_required_passes_and_extras_are_not_asked_for() -> None:
    findings = check(INSTALLED)

    assert verdicts(findings) == {}
    assert findings["torch"].found == "2.13.0+cpu"
    assert findings["packages"].found == "2 others are as Coffey requires"


@pytest.mark.parametrize(
    ("package", "line", "cve"),
    [("ray", "Ray", "CVE-2026-41486"), ("torch", "torch", "CVE-2026-24747"), ("pyarrow", "Arrow", "CVE-2023-47248")],
)
def test_a_version_with_a_known_hole_fails_by_its_name(package: str, line: str, cve: str) -> None:
    findings = check(INSTALLED | {package: HOLES[package]})

    assert verdicts(findings) == {line: "FAIL"}
    assert cve in findings[line].found
    assert findings[line].fix.startswith(f"pip install -U '{package}>=")
    assert findings[line].exit_code == 3
    # Even if Coffey did not ask for more.
    assert check(INSTALLED | {package: HOLES[package]}, required=Requirements())[line].verdict == "FAIL"


def test_what_the_project_requires_excludes_every_known_hole() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    specifiers = {it.name: it.specifier for it in map(Requirement, project["dependencies"])}

    assert HOLES.keys() == FLOORS.keys()
    for package, version in HOLES.items():
        assert not specifiers[package].contains(version), package


def test_a_safe_version_that_is_older_than_required_fails_too() -> None:
    findings = check(INSTALLED | {"pyarrow": "19.0.1"})

    assert verdicts(findings) == {"Arrow": "FAIL"}
    assert (findings["Arrow"].found, findings["Arrow"].fix) == (
        "19.0.1, and Coffey requires >=20",
        "pip install -U 'pyarrow>=20'",
    )


def test_builds_before_a_release_count_as_older_and_builds_after_it_as_newer() -> None:
    assert verdicts(check(INSTALLED | {"torch": "2.10.0a0+nv25"})) == {"torch": "FAIL"}
    assert verdicts(check(INSTALLED | {"torch": "2.14.0.dev20260101+cu130", "ray": "3.0.0.dev0"})) == {}


def test_what_is_missing_or_too_old_is_named_with_the_command_that_mends_it() -> None:
    without_ray = {name: version for name, version in INSTALLED.items() if name != "ray"}
    findings = check(without_ray | {"boto3": "1.20"})

    assert verdicts(findings) == {"Ray": "FAIL", "packages": "FAIL"}
    assert findings["Ray"].found == "is not installed"
    assert findings["packages"].found == "boto3 1.20 (>=1.38)"
    assert findings["packages"].fix == "pip install -U 'boto3>=1.38'"
    assert "rich is missing" in check({})["packages"].found


def test_a_python_that_is_too_old_fails_and_one_that_nobody_tried_is_a_concern() -> None:
    assert verdicts(check(INSTALLED, python="3.10.14")) == {"Python": "FAIL"}
    assert verdicts(check(INSTALLED, python="3.14.0")) == {"Python": "WARN"}
    assert "tested with 3.11, 3.12, 3.13" in check(INSTALLED, python="3.14.0")["Python"].found


def test_without_metadata_only_what_is_safe_can_be_told() -> None:
    assert verdicts(check(INSTALLED, required=Requirements())) == {"packages": "WARN"}


def test_requirements_are_those_that_the_installation_names() -> None:
    told = metadata.requires("coffey")
    assert own_requirements().packages == tuple(told or ())
    assert own_requirements().python == ">=3.11"
    assert set(own_requirements().tested) >= {"3.11", "3.12", "3.13"}
