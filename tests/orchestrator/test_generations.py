"""Born-again generations: who learns from whom, what stays when one is added, and what the report says of each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss

from cluster.session import Capacity
from cluster.shards.commits import Manifest
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import manifest_key
from cluster.shards.records import overwrite_record, read_record
from cluster.storage.open import open_store
from orchestrator.catalogue import label_sets
from orchestrator.cli.run import plan as plan_command
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.load import dump_spec, parse_spec
from orchestrator.planning.labelled import SealMisfitError
from orchestrator.planning.placement import DoesNotFitError, check_room
from orchestrator.planning.plan import Inspection, make_plan
from orchestrator.publishing import publish_report
from orchestrator.report.record import Report
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.sources.read import read_source
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.ingest import ingest
from orchestrator.steps.label import Labelling
from orchestrator.upkeep import Teachers
from students.batches import TrainingData
from students.task import Execution, TrainingTask
from tests.fixtures.jobs import finished_job, job_spec, narrow, new_context, trained_weights, write_sources

ALONE = ("teachers=[]", "objective=[{term: cross_entropy}]")
FITNET = "{term: fitnet, student: second, teacher: 'given:layer'}"
GREEDY = ("fusion.select=greedy",)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module", params=["previous", "mean"])
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Job, RunContext]:
    folder = tmp_path_factory.mktemp("born")
    return finished_job(folder, *ALONE, f"generations={{count: 3, target: {request.param}}}")


def job_of(files: Path, *overrides: str) -> Job:
    return resolve(job_spec(files, *overrides))


def tasks_of(job: Job) -> list[TrainingTask]:
    """Return the trainings of all generations; the last of them stands for all seeds."""
    found = [generation.fit for generation in job.generations if generation.fit]
    return [*found, job.students[0]]


def test_generations_are_trained_and_label_one_after_the_other(files: Path) -> None:
    job = job_of(files, *ALONE, "generations={count: 3}")
    names = [step.name for step in Inspection(job, open_store(job.spec.store)).steps()]
    assert names[2:] == [
        "train:generation-0",
        "label:generation-0",
        "train:generation-1",
        "label:generation-1",
        "train:student",
        "evaluate",
        "export",
    ]


@pytest.mark.parametrize(
    "overrides",
    [ALONE, ("teachers.given.taps={layer: {}}", f"objective=[{{term: cross_entropy}}, {FITNET}]"), GREEDY],
)
def test_all_that_a_generation_says_is_needed_whatever_the_first_one_learns_from(
    files: Path, overrides: tuple[str, ...]
) -> None:
    job = job_of(files, *overrides, "generations={count: 3}")
    inspection = Inspection(job, open_store(job.spec.store))
    assert len(job.generations) == 2
    for generation in job.generations:
        assert inspection.needed(generation) == (generation.held_out, generation.train, generation.test)
        assert "no training rows" not in inspection.label(generation).note


def test_the_first_generation_learns_from_the_teachers_and_the_next_from_it_alone(files: Path) -> None:
    job = job_of(files, "generations={count: 2}", "objective=[{term: kl, weight: 3}]")
    first, student = tasks_of(job)
    assert (first.targets, first.objective) == (job.fusion, job.spec.objective)
    assert student.targets is not None
    assert [part.labels for part in student.targets.parts] == [job.generations[0].train]
    assert [(term.term, term.weight) for term in student.objective] == [("kl", 0.5), ("cross_entropy", 0.5)]


def test_what_a_generation_learns_is_what_those_before_it_say(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    assert job.spec.generations is not None
    images = np.concatenate([shard["image"] for shard in Dataset.open(context.store, job.datasets.train)])
    first, second, student = tasks_of(job)
    said = [softmax(narrow(images, trained_weights(context.store, task)), axis=1) for task in (first, second)]
    expected = said[1] if job.spec.generations.target == "previous" else (said[0] + said[1]) / 2

    data = TrainingData(context.store, student, Execution(), rank=0, world_size=1)
    learnt = {
        (255 * image).round().byte().numpy().tobytes(): target.double().numpy()
        for batch in data.batches(first_step=0, device=torch.device("cpu"))
        for image, target in zip(batch.inputs, batch.target_logits_NC, strict=True)
    }

    found = softmax([learnt[image.tobytes()] for image in images], axis=1)
    assert np.abs(found - expected).max() < 1e-3  # what float16 makes of a logit


def test_no_generation_begins_with_the_weights_that_another_began_with(files: Path) -> None:
    job = job_of(files, *ALONE, "generations={count: 5}", "train.seeds=[3, 4]")
    seeds = [*(task.seed for task in tasks_of(job)), *(task.seed for task in job.students[1:])]
    assert len(set(seeds)) == 6
    assert [task.seed for task in job.students] == [3, 4]


def test_one_more_generation_leaves_those_before_it_as_they_are(files: Path) -> None:
    fewer, more = (job_of(files, *ALONE, f"generations={{count: {count}}}") for count in (3, 4))
    assert more.generations[:2] == fewer.generations
    assert more.students != fewer.students
    assert more.baselines == fewer.baselines


@pytest.mark.parametrize(
    ("changed", "num_kept"),
    [
        ("generations={count: 3, replicas: 4, resources: {cpu: 2}}", 3),
        ("generations={count: 3, target: mean}", 2),
        ("generations={count: 3, objective: [{term: kl}]}", 1),
        ("train.epochs=4", 0),
    ],
)
def test_a_change_reaches_the_generations_that_it_concerns(files: Path, changed: str, num_kept: int) -> None:
    before = job_of(files, *ALONE, "generations={count: 3}")
    after = job_of(files, *ALONE, "generations={count: 3}", changed)
    same = [one.identity == other.identity for one, other in zip(tasks_of(before), tasks_of(after), strict=True)]
    assert same == [place < num_kept for place in range(3)]
    assert (before.evaluation_key == after.evaluation_key) == (num_kept == 3)


def test_every_generation_is_judged_on_the_test_rows(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    test = read_source(job.spec.data).test
    record = read_record(context.store, job.evaluation_key, EvaluationRecord)
    assert [agreement.model for agreement in record.agreements] == ["generation-0", "generation-1"]
    found = [model for model in record.models if model.role == "generation"]
    assert [model.name for model in found] == ["generation-0", "generation-1"]
    for model, task in zip(found, tasks_of(job)[:-1], strict=True):
        said = softmax(narrow(test.columns["image"], trained_weights(context.store, task)), axis=1)
        assert model.nll == pytest.approx(log_loss(test.labels_N, said, labels=range(3)), abs=1e-3)
        assert model.epochs == job.spec.train.epochs


def test_the_report_has_figures_and_a_curve_of_every_generation(finished: tuple[Job, RunContext]) -> None:
    _, context = finished
    report, _ = publish_report(context, command="coffey run job.yaml", wall_s=1.0)
    assert isinstance(report, Report)
    curves = [(curve.model, curve.seed) for curve in report.curves]
    assert curves[-4:] == [("generation-0", None), ("generation-1", None), ("student", 0), ("student", 1)]
    assert report.teacher_rows_computed == context.teacher_rows > 0
    page = bytes(context.store.get(f"runs/{report.run}/report.html")).decode()
    assert "taught the next" in page
    assert "rows went through a teacher" in page


def test_labels_of_generations_are_label_sets_like_any_other(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    names = {found.teacher: found.state for found in label_sets(context.store)}
    assert names == {"generation-0": "sealed", "generation-1": "sealed"}
    known = Teachers(job, context.store).records
    assert set(known) == {record.prefix for one in job.generations for record in one.label_sets}


def test_a_seal_of_a_generation_is_compared_with_the_data_set_too(finished: tuple[Job, RunContext]) -> None:
    job, context = finished
    key = manifest_key(job.generations[1].train)
    whole = bytes(context.store.get(key))
    manifest = read_record(context.store, key, Manifest)
    try:
        overwrite_record(context.store, key, manifest.model_copy(update={"commits": manifest.commits[:1]}))
        with pytest.raises(SealMisfitError, match="generation-1"):
            make_plan(job.spec, context.store)
    finally:
        context.store.put(key, whole)


@pytest.mark.parametrize("generations", [(), ("generations={count: 2}",)])
def test_teachers_label_in_the_order_in_which_the_first_training_reads(
    tmp_path: Path, generations: tuple[str, ...]
) -> None:
    write_sources(tmp_path)
    job = job_of(tmp_path, "data.shard_rows=16", "train.seeds=[5, 1]", *generations)
    ingest(context := new_context(job, open_store(job.spec.store)))
    context.log.close("done")
    first = tasks_of(job)[0]
    data = TrainingData(context.store, first.model_copy(update={"targets": None}), Execution(), rank=0, world_size=1)

    requests = Labelling(context, job.teachers[1]).requests

    asked = [request.number for request in requests if request.record == job.teachers[1].train]
    assert asked == data.order(0).shards_by_first_use()
    assert len(asked) > 9


def test_a_plan_without_teachers_says_what_waits_for_labels(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = job_spec(files, *ALONE, "generations={count: 3}")
    (files / "job.yaml").write_text(dump_spec(spec))
    plan_command(files / "job.yaml")
    assert (
        "There are no teachers: the first training waits for nobody, and what follows waits for "
        "label:generation-0 and label:generation-1."
    ) in capsys.readouterr().out
    assert make_plan(spec, open_store(spec.store)).pipelined_because == "no labels of teachers are missing"


def test_a_plan_whose_first_generation_is_trained_does_not_say_that_the_student_is(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = job_spec(files, "generations={count: 2}", f"store={tmp_path / 'store'}")
    (tmp_path / "job.yaml").write_text(dump_spec(spec))
    store, task = open_store(spec.store), tasks_of(resolve(spec))[0]
    store.put(task.record_key, b"{}")
    plan_command(tmp_path / "job.yaml")
    printed = capsys.readouterr().out
    assert "Training does not start while labels still arrive: the training that comes first is done" in printed


def test_a_generation_that_is_larger_than_the_cluster_is_found_out_before_anything_runs(files: Path) -> None:
    job = job_of(files, *ALONE, "generations={count: 2, resources: {cpu: 3}}")
    with pytest.raises(DoesNotFitError, match="teacher generation-0 needs 3 CPU"):
        check_room(*Inspection(job, open_store(job.spec.store)).left(), Capacity(cpus=2, gpus=0))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generations={count: 1}", "generations.count"),
        ("generations={cuont: 3}", "did you mean `count`?"),
        ("generations={objective: [{term: kl, temprature: 2}]}", "did you mean `temperature`?"),
        ("generations={objective: [{term: cross_entropy}]}", "no term reads what the generation before says"),
        (
            "generations={objective: [{term: kl, of: given}]}",
            "is `of` given, and a generation learns",
        ),
        ("generations={objective: [{term: kl}, {term: sparse_kl}]}", "generations write every logit"),
        (
            "generations={objective: [{term: kl}, {term: fitnet, student: first, teacher: 'given:layer'}]}",
            "reads outputs of modules, which generations do not store",
        ),
        (
            "generations={objective: [{term: kl}, {term: mean_teacher}, {term: mean_teacher, export: average}]}",
            "generations.objective: the terms `mean_teacher` share one average, and their export is student and a",
        ),
        ("cohort={method: dml, members: [{name: peer}]}", "expected `generations` or `cohort`, not both"),
        ("student.name=generation-0", "the name 'generation-0' is taken"),
        ("objective=[{term: kl}]", "the term `kl` reads teachers, and there are none"),
    ],
)
def test_what_generations_cannot_do_is_refused(files: Path, override: str, message: str) -> None:
    with pytest.raises(SpecInvalidError) as refused:
        job_spec(files, *ALONE, "generations={count: 3}", override)
    assert message in str(refused.value)


def test_terms_of_whole_batches_are_refused_with_batches_in_parts(files: Path) -> None:
    with pytest.raises(SpecInvalidError, match="compares the rows of a whole batch"):
        job_spec(files, *ALONE, "generations={objective: [{term: dist}]}", "train.accumulate=2")


def test_a_spec_with_generations_survives_being_written_with_every_default(files: Path) -> None:
    spec = job_spec(files, *ALONE, "generations={count: 4, target: mean, replicas: {max: 2}}")
    assert parse_spec(dump_spec(spec), "dumped.yaml") == spec
