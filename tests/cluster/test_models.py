"""References to models: their form, and the digest of the source behind them, found without running it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.errors import SpecError
from cluster.identity import digest_of
from cluster.models import InputConfig, ModelConfig, ModelSourceError, source_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of an importable package `written_zoo` with a module that may not be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "written_zoo"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text("raise RuntimeError('imported')\n")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "written_zoo"]:
        del sys.modules[name]


@pytest.mark.parametrize("reference", ["models:MLP", "a.b_c.d1:Zoo.small", "_private:_f", "torch.nn:Linear"])
def test_a_reference_is_a_module_and_a_name_in_it(reference: str) -> None:
    assert ModelConfig(factory=reference).factory == reference


@pytest.mark.parametrize(
    "reference", ["models", "models.MLP", ":MLP", "models:", "models:MLP()", "a b:c", "a/b:c", "1a:b", "a:b:c", "a:b\n"]
)
def test_anything_else_is_refused_with_the_form_that_is_expected(reference: str) -> None:
    with pytest.raises(ValidationError, match=r"is not of the form package\.module:factory"):
        ModelConfig(factory=reference)


def test_the_digest_is_that_of_the_source_file_which_is_not_run(package: Path) -> None:
    source = package / "models.py"

    assert source_digest("written_zoo.models:MLP") == digest_of(source.read_bytes())
    assert "written_zoo.models" not in sys.modules


def test_edited_code_is_another_model_and_another_name_in_it_is_not(package: Path) -> None:
    before = source_digest("written_zoo.models:MLP")

    assert source_digest("written_zoo.models:CNN") == before
    with (package / "models.py").open("a") as source:
        source.write("# changed\n")
    assert source_digest("written_zoo.models:MLP") != before


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no_such_module:MLP", "there is no module no_such_module"),
        ("no_such_package.models:MLP", "No module named 'no_such_package'"),
        ("written_zoo.none:MLP", "there is no module written_zoo.none"),
        ("written_zoo.models.deeper:MLP", "imported"),
        ("sys:exit", "sys is part of Python itself"),
        ("written_zoo..models:MLP", "written_zoo"),
        ("written_zoo.:MLP", "written_zoo"),
    ],
)
def test_a_module_that_is_not_there_is_named(package: Path, reference: str, reason: str) -> None:
    with pytest.raises(ModelSourceError) as refusal:
        source_digest(reference)

    assert str(refusal.value).startswith(f"{reference}: ")
    assert reason in str(refusal.value)
    assert isinstance(refusal.value, SpecError)


@pytest.mark.parametrize("std", [0, 0.0, -1, [1.0, 0.0], float("nan"), float("inf")])
def test_nothing_is_divided_by_zero(std: float | list[float]) -> None:
    with pytest.raises(ValidationError):
        InputConfig(std=std)


def test_whole_numbers_mean_the_same_as_fractions() -> None:
    assert InputConfig(mean=1, std=[1, 2]) == InputConfig(mean=1.0, std=[1.0, 2.0])
    assert InputConfig(mean=1, std=[1, 2]).model_dump_json() == InputConfig(mean=1.0, std=[1.0, 2.0]).model_dump_json()
