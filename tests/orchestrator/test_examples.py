"""Every job that Coffey ships: it loads, it resolves where its data is, and its models fit the data."""

import os
from pathlib import Path

import pytest
import torch

from cluster.models import ModelConfig
from cluster.modules import build_module, input_array, num_parameters, to_inputs
from cluster.storage.open import open_store
from orchestrator.demo.job import demo_spec
from orchestrator.load import dump_spec, load_spec, parse_spec
from orchestrator.planning.plan import make_plan
from orchestrator.resolution.resolve import resolve
from orchestrator.sources.errors import SourceMissingError
from orchestrator.sources.read import class_names, read_source, source_files
from orchestrator.spec import JobSpec
from students.spec import StudentConfig
from teachers.spec import TeacherConfig

ROOT = Path(__file__).parents[2]
JOBS = sorted(path for folder in ("examples", "orchestrator/demo") for path in (ROOT / folder).rglob("*.yaml"))


@pytest.fixture(params=JOBS, ids=lambda path: str(path.relative_to(ROOT)), scope="module")
def spec(request: pytest.FixtureRequest) -> JobSpec:
    return load_spec(request.param)


def need_data_of(spec: JobSpec) -> None:
    """Skip where the data is not installed, which the continuous build never may."""
    missing = [path for path in source_files(spec.data) if not path.exists()]
    if missing and not os.environ.get("CI"):
        pytest.skip(str(SourceMissingError(str(missing[0]), spec.data.read.source, "No such file or directory")))


def models_of(spec: JobSpec) -> list[ModelConfig]:
    """Return the student's model first, then those of the teachers."""
    configs: list[StudentConfig | TeacherConfig] = [spec.student, *spec.teachers]
    return [
        ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs)
        for config in configs
        if config.model is not None
    ]


def test_there_are_jobs_to_look_at() -> None:
    assert {path.name for path in JOBS} >= {
        "job.yaml",
        "fashion.yaml",
        "response.yaml",
        "features.yaml",
        "relations.yaml",
        "specialists.yaml",
    }


def test_a_job_loads_and_survives_being_written_out(spec: JobSpec) -> None:
    assert parse_spec(dump_spec(spec), "dumped.yaml") == spec


def test_a_job_resolves_and_names_as_many_classes_as_its_data_has(spec: JobSpec) -> None:
    need_data_of(spec)
    job = resolve(spec)
    assert len(job.teachers) == len(spec.teachers)
    without_names = spec.data.model_copy(update={"classes": None})
    assert len(job.classes) == len(class_names(without_names))


def test_a_plan_of_a_job_takes_it_as_it_is_and_finds_nothing_done(spec: JobSpec, tmp_path: Path) -> None:
    need_data_of(spec)
    plan = make_plan(spec, open_store(str(tmp_path)))
    assert {step.state for step in plan.steps} == {"to do"}
    assert {step.kind for step in plan.steps} >= {"ingest", "train", "evaluate", "export"}
    assert {f"label:{teacher.name}" for teacher in spec.teachers} <= {step.name for step in plan.steps}


def test_every_model_maps_rows_of_the_data_to_one_logit_for_each_class_that_it_knows(spec: JobSpec) -> None:
    need_data_of(spec)
    source = read_source(spec.data)
    rows = {name: array[:5] for name, array in source.test.columns.items()}
    known = [source.classes, *(teacher.classes or source.classes for teacher in spec.teachers if teacher.model)]
    for config, classes in zip(models_of(spec), known, strict=True):
        module = build_module(config).eval()
        inputs = to_inputs(input_array(rows, config.inputs), config.inputs)
        with torch.inference_mode():
            logits = module(inputs)
        assert logits.shape == (5, len(classes)), config.factory
        assert torch.isfinite(logits).all()
        assert not torch.equal(logits[0], logits[1]), f"{config.factory} does not look at its input"


def test_teachers_are_of_different_kinds_and_the_student_is_smaller_than_all_together(spec: JobSpec) -> None:
    student, *teachers = models_of(spec)
    if not teachers:
        pytest.skip("nobody but the student itself, or others like it, teaches here")
    assert len({config.factory for config in teachers}) == len(teachers) > 1
    assert num_parameters(build_module(student)) < sum(num_parameters(build_module(config)) for config in teachers)


class TestDemo:
    def test_it_goes_where_it_is_told_with_the_seeds_that_it_is_given(self) -> None:
        spec = demo_spec("s3://bucket/pre fix", [4, 5])
        assert (spec.store, spec.train.seeds) == ("s3://bucket/pre fix", (4, 5))
        assert spec.data.read.source == "digits"

    def test_labels_are_scarce(self) -> None:
        data = demo_spec("store", [0]).data
        assert (data.labelled, data.validation) == (400, 200)

    def test_its_student_is_at_least_ten_times_smaller_than_its_teachers(self) -> None:
        student, *teachers = map(num_parameters, map(build_module, models_of(demo_spec("store", [0]))))
        assert len(teachers) == 3
        assert sum(teachers) >= 10 * student
