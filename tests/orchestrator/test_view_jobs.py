"""Jobs that see their training rows in views: every part that asks for labels asks for those of each view."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from cluster.errors import SpecError
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.records import read_record
from cluster.shards.views.look import look
from cluster.storage.open import open_store
from orchestrator.catalogue import label_sets
from orchestrator.planning.plan import Inspection
from orchestrator.publishing import build_report
from orchestrator.report.record import ViewsSummary
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.resolution.viewing import ViewMisfitError
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.fuse import write_fused
from orchestrator.steps.ingest import ingest
from orchestrator.steps.label import Labelling
from orchestrator.upkeep import repair, rerun
from students.batches import epoch_order
from students.task import TrainedRecord, TrainingTask
from tests.fixtures.jobs import (
    HELD_OUT,
    SPEC,
    TEST_ROWS,
    TRAIN_ROWS,
    finished_job,
    job_spec,
    label,
    logits_of,
    new_context,
    write_sources,
)
from tests.fixtures.labelled_job import LabelledJob, labelled_job

ROWS, REST = TRAIN_ROWS - HELD_OUT, HELD_OUT + TEST_ROWS
AUGMENT = "data.views.augment=[{kind: crop, padding: 1}, {kind: flip}]"
BRIEF = ("train.seeds=[0]", "baseline.epochs=[2]")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sources(folder)
    return folder


def trainings(job: Job) -> list[TrainingTask]:
    return [*job.students, *(task for tasks in job.baselines for task in tasks)]


def test_a_job_in_views_runs_to_its_end_and_more_views_ask_teachers_for_the_new_ones_alone(tmp_path: Path) -> None:
    first, context = finished_job(tmp_path, AUGMENT, "data.views.count=2", *BRIEF)
    assert context.teacher_rows == 3 * (2 * ROWS + REST)
    assert {step.state for step in context.inspect().steps()} == {"done"}
    plain, viewed = (
        read_record(context.store, task.record_key, TrainedRecord).points[-1] for task in first.baselines[0]
    )
    is_better = (viewed.accuracy, -viewed.nll) > (plain.accuracy, -plain.nll)
    assert build_report(context, command="coffey run", wall_s=1.0).views == ViewsSummary(
        number=2, changes=("crop", "flip"), lone_in_views=(0,) if is_better else ()
    )
    context.log.close("done")

    more = resolve(job_spec(tmp_path, AUGMENT, "data.views.count=3", *BRIEF))
    found = Inspection(more, context.store).label(more.teachers[0])
    assert (found.state, found.rows, found.rows_done) == ("partial", 3 * ROWS + REST, 2 * ROWS + REST)
    assert found.note.startswith("3 view(s) of the training rows, ")

    shown = {(summary.teacher, summary.view) for summary in label_sets(context.store)}
    assert shown == {(teacher.config.name, view) for teacher in first.teachers for view in (None, 0, 1)}


def test_without_a_count_there_is_a_view_for_each_epoch_and_a_count_beyond_that_is_the_same(files: Path) -> None:
    open_ended, ample = (resolve(job_spec(files, AUGMENT, *more)) for more in ((), ("data.views.count=9",)))
    assert len(open_ended.teachers[0].views) == 3
    assert [task.identity for task in trainings(open_ended)] == [task.identity for task in trainings(ample)]


def test_the_lone_student_is_tried_on_plain_rows_and_on_a_new_view_in_every_epoch(files: Path) -> None:
    plain, few = (resolve(job_spec(files, *more)) for more in ((), (AUGMENT, "data.views.count=1")))
    assert [task.views and task.views.count for task in few.students] == [1, 1]
    for without, (*tried, short, long) in zip(plain.baselines, few.baselines, strict=True):
        assert tried == list(without)
        assert short.views == long.views == few.spec.data.views.model_copy(update={"count": None})
        assert [short.epochs, long.epochs] == [task.epochs for task in without]


def test_the_rows_as_they_are_have_the_labels_of_a_job_without_views(files: Path) -> None:
    plain, seen = (resolve(job_spec(files, *more)) for more in ((), (AUGMENT, "data.views.plain_first=true")))
    for one, other in zip(plain.teachers, seen.teachers, strict=True):
        assert one.views == (one.train,)
        assert other.views[0] == one.train
        assert len({record.identity for record in other.views}) == 3
        assert (one.held_out, one.test, one.identity) == (other.held_out, other.test, other.identity)


def test_generations_say_of_every_view_what_the_next_one_learns_from(files: Path) -> None:
    job = resolve(job_spec(files, AUGMENT, "data.views.count=2", "generations.count=2"))
    (generation,) = job.generations
    assert generation.views == tuple(generation.train.seen(view) for view in job.spec.data.views.within(3))
    assert generation.fit.views == job.students[0].views == job.spec.data.views


def test_views_are_labelled_in_the_order_in_which_epochs_read_them(files: Path, tmp_path: Path) -> None:
    job = resolve(job_spec(files, AUGMENT, "data.views.count=2", f"store={tmp_path}"))
    context = new_context(job, open_store(job.spec.store))
    ingest(context)
    teacher, train = job.teachers[1], job.spec.train
    requests = Labelling(context, teacher).requests
    dataset = Dataset.open(context.store, job.datasets.train)
    expected = [(teacher.held_out, 0)]
    for epoch, record in enumerate(teacher.views):
        order = epoch_order(dataset, train.order, batch_size=train.batch_size, seed=0, epoch=epoch)
        expected += [(record, number) for number in order.shards_by_first_use()]
    assert [(request.record, request.number) for request in requests] == [*expected, (teacher.test, 0)]


def test_fused_labels_are_those_of_what_teachers_say_of_each_view(tmp_path: Path) -> None:
    write_sources(tmp_path)
    overrides = ("data.views={mixup: 1.0, count: 2}", "fusion.when=write", "fusion.calibrate=none", *BRIEF)
    overrides = (*overrides, "objective=[{term: kl}]")
    job = resolve(job_spec(tmp_path, *overrides))
    context = new_context(job, open_store(job.spec.store))
    ingest(context)
    teachers, fused = job.teachers[1:], job.fused
    assert fused is not None
    assert job.fusion is not None
    parts = job.fusion.parts[1:]
    for teacher in teachers:
        label(context, teacher)
    targets = job.fusion.model_copy(update={"parts": parts})
    for record in job.seen(fused):
        assert Inspection(job, context.store).fuse(fused).rows == 2 * ROWS
        write_fused(context.store, record, targets)
        for number, arrays in enumerate(Dataset.open(context.store, record.dataset)):
            said = [log_softmax(logits_of(context, it, look(arrays, record.view)), axis=1) for it in teachers]
            expected = logsumexp(said, axis=0) - np.log(len(said))
            found = log_softmax(LogitsReader(LabelSet(context.store, record)).read(number), axis=1)
            assert np.abs(found - expected).max() < 2e-2
    assert Inspection(job, context.store).fuse(fused).state == "done"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LabelledJob:
    views = {"augment": [{"kind": "zoom"}], "mixup": 1.0, "count": 1}
    return labelled_job(tmp_path_factory.mktemp("made"), views=views)


def test_a_teacher_that_is_asked_again_sees_the_view_again(made: LabelledJob) -> None:
    (record,) = made.job.teachers[0].views
    teacher = made.teachers.rerun_of(record.prefix)
    assert teacher is not None
    assert [it.difference for it in rerun(made.store, record, teacher, num_shards=3, seed=0)] == [0.0] * 3

    plain = teacher.ask(made.record, 0).columns["logits"]
    assert np.abs(plain - LabelSet(made.store, record).read(0)["logits"]).max() > 1


def test_a_broken_shard_of_a_view_is_put_back(made: LabelledJob) -> None:
    (record,) = made.job.teachers[0].views
    commit = LabelSet(made.store, record).load_manifest().commits[1]
    key = f"{record.prefix}/data/{commit.digest}.arrow"
    body = bytes(made.store.get(key))
    made.store.put(key, body[:-1])
    assert repair(made.store, record.prefix, teachers=made.teachers).put_back == (1,)
    assert bytes(made.store.get(key)) == body


def test_a_plan_of_views_needs_neither_torch_nor_ray_nor_scipy(files: Path) -> None:
    program = (
        "import sys\n"
        "from orchestrator.load import parse_spec\n"
        "from orchestrator.resolution.resolve import resolve\n"
        f"resolve(parse_spec({SPEC.format(folder=files)!r}, 'job.yaml', [{AUGMENT!r}]))\n"
        "print(sorted({'torch', 'ray', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MIXED = "data.views={mixup: 1.0}"
REFUSED: list[tuple[list[str], type[SpecError], str]] = [
    (["data.views={count: 3}"], SpecInvalidError, "data.views changes nothing"),
    (["data.views={mixup: 0}"], SpecInvalidError, "data.views.mixup: found 0"),
    (["data.views={augment: [{kind: shear}]}"], SpecInvalidError, "shear"),
    (
        [MIXED, "objective=[{term: kl}, {term: dkd}]"],
        SpecInvalidError,
        "the term `dkd` reads one label of each row, and data.views.mixup gives it two",
    ),
    (
        [MIXED, "objective=[{term: kl}, {term: restricted_kl, of: given}]"],
        SpecInvalidError,
        "the term `restricted_kl` reads one label of each row, .* with `trust: all`",
    ),
    (
        ["data.views={cutmix: 1.0}", "fusion.weighting={method: confidence}"],
        SpecInvalidError,
        "fusion.weighting `confidence` reads the label .*data.views.cutmix blends",
    ),
    (
        [MIXED, "cohort={method: one, shared: [first]}"],
        SpecInvalidError,
        "cohort: `one` reads one label of each row, and data.views.mixup gives it two; .* such as `dml`",
    ),
    (
        [MIXED, "cohort={method: kdcl, variant: linear}"],
        SpecInvalidError,
        "cohort: `kdcl` reads one label of each row",
    ),
    (
        [MIXED, "generations.objective=[{term: dkd}]"],
        SpecInvalidError,
        "the term `dkd` reads one label of each row",
    ),
    (
        [MIXED, "objective=[{term: kl}, {term: crd, student: first, teacher: 'given:layer'}]"],
        SpecInvalidError,
        "the term `crd` remembers each row",
    ),
    (
        ["data.views={mixup: 1.0, column: image}", "student.inputs={column: text}"],
        ViewMisfitError,
        "a model reads text, and rows of image are blended",
    ),
    ([AUGMENT, "data.views.plain_first=true", "data.views.count=1"], SpecInvalidError, "changes nothing: .*count is 1"),
    ([AUGMENT, "data.views.plain_first=true", "train.epochs=1"], SpecInvalidError, "train.epochs is 1, so there is no"),
    (["data.views.augment=[{kind: crop}]"], ViewMisfitError, "data.views.augment.0: padding is 4 .* have 4 x 4 pixels"),
    (["data.views={mixup: 1.0, column: photo}"], ViewMisfitError, "data.views.column: found photo.*has image"),
]


@pytest.mark.parametrize(("overrides", "error", "message"), REFUSED)
def test_what_views_cannot_do_is_refused_before_any_work(
    files: Path, overrides: list[str], error: type[SpecError], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(job_spec(files, *overrides))


def test_terms_that_look_at_no_label_or_at_both_learn_of_blended_rows(files: Path) -> None:
    terms = "{term: kl}, {term: cross_entropy}, {term: restricted_kl, of: given, trust: all}"
    assert resolve(job_spec(files, MIXED, f"objective=[{terms}]")).spec.data.views.is_mixed


@pytest.mark.parametrize(
    "overrides",
    [
        [MIXED, "student.inputs={column: image}"],
        ["data.views={mixup: 1.0, column: image}"],
        [MIXED, "cohort={method: kdcl, variant: general}"],
        [AUGMENT, "data.views.plain_first=true", "data.views.count=2"],
    ],
)
def test_what_views_can_do_is_not_refused(files: Path, overrides: list[str]) -> None:
    assert resolve(job_spec(files, *overrides)).students[0].views is not None


def test_views_of_a_column_that_no_model_reads_are_refused(files: Path, tmp_path: Path) -> None:
    write_sources(tmp_path)
    for part in ("train", "test"):
        with np.load(tmp_path / f"{part}.npz") as arrays:
            np.savez(tmp_path / f"{part}.npz", **arrays, depth=arrays["image"])
    models = [f"teachers.{name}.inputs={{column: image}}" for name in ("fitted", "given")]
    models += ["teachers.graph.inputs={column: image, shape: [16]}", "student.inputs={column: image}"]
    with pytest.raises(ViewMisfitError, match="no model reads depth; expected one of image"):
        resolve(job_spec(tmp_path, *models, AUGMENT, "data.views.column=depth"))
    with pytest.raises(ViewMisfitError, match="found none, and the data has image, depth; name one"):
        resolve(job_spec(tmp_path, *models, AUGMENT))
    assert resolve(job_spec(tmp_path, *models, AUGMENT, "data.views.column=image")).students
