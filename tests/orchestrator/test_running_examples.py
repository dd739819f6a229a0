"""Every example runs from its first step to its report, and is done then: few rows and epochs, on a real cluster."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from orchestrator.load import load_spec
from orchestrator.sources.read import read_source
from orchestrator.spec import JobSpec
from tests.fixtures.ray_head import RayHead
from tests.fixtures.ray_runs import outcomes, run
from tests.orchestrator.test_examples import ROOT, need_data_of

pytestmark = pytest.mark.ray

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TRAIN_ROWS, TEST_ROWS, LABELLED, HELD_OUT = 384, 64, 192, 64
EPOCHS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that teachers that several examples share are fitted once."""
    return tmp_path_factory.mktemp("examples")


def small(path: Path, folder: Path, ray_head: RayHead) -> JobSpec:
    """Return the example on the first rows of its data, with models that are hardly trained."""
    spec = load_spec(path)
    need_data_of(spec)
    source = read_source(spec.data)
    rows = folder / f"{source.train.columns['image'].shape[1]}-pixels"
    for split, part, count in (("train", source.train, TRAIN_ROWS), ("test", source.test, TEST_ROWS)):
        columns = {name: column[:count] for name, column in part.columns.items()}
        np.savez(f"{rows}-{split}.npz", label=part.labels_N[:count].astype(np.int32), **columns)
    changes: dict[str, object] = {
        "store": str(folder / "store"),
        "data.read": {"source": "npz", "train": f"{rows}-train.npz", "test": f"{rows}-test.npz"},
        "data.labelled": LABELLED,
        "data.validation": HELD_OUT,
        "data.shard_rows": 128,
        "train.epochs": EPOCHS,
        "train.seeds": [0],
        "train.workers": 1,
        "export": ["safetensors"],
        "baseline": None,
        "cluster.address": ray_head.address,
    }
    changes |= {f"teachers.{teacher.name}.fit.epochs": 1 for teacher in spec.teachers if teacher.fit}
    return load_spec(path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_the_same_command_again_finds_everything_done(
    path: Path, folder: Path, ray_head: RayHead
) -> None:
    spec = small(path, folder, ray_head)
    report = run(spec).report
    students = [model for model in report.models if model.role == "student"]
    assert students
    assert all(math.isfinite(model.nll) for model in report.models)
    assert {model.name for model in report.models if model.role == "teacher"} == {it.name for it in spec.teachers}
    assert set(outcomes(run(spec)).values()) == {"reused"}
