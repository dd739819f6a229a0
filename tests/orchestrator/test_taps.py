"""Jobs whose terms compare modules: what cannot be is refused before any work, and what can be trains."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import CoffeyError, SpecError
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.records import read_record
from cluster.shards.schema import LABEL
from cluster.shards.taps import TapMisfitError, unpack_tap
from cluster.storage.directory import DirectoryStore
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from cluster.tapping import ModuleMissingError, NoHeadError
from orchestrator.planning.plan import make_plan
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.probing import TermMisfitError, probe
from orchestrator.resolution.resolve import ENSEMBLE, Job, resolve
from orchestrator.resolution.weights import put_weights, weights_of
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.calibrate import calibrate_teachers
from orchestrator.steps.ingest import ingest
from students.objectives.term import TeacherTap
from students.task import TrainedRecord
from teachers.backends.load import load_backend
from teachers.labeller import Labeller
from teachers.weights import WeightsChangedError
from tests.fixtures.jobs import (
    job_spec,
    linear,
    new_context,
    train_alone,
    weights_of_teacher,
    write_sources,
    write_weights,
)

STUDENT = "student={model: tests.fixtures.mapped:Mapped, inputs: {shape: [1, 4, 4]}}"
KL = "{term: kl}"
NORMALISING = """
import torch
from torch import nn

MEAN = torch.tensor(0.5)


class Normalising(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 3))

    def forward(self, inputs):
        return super().forward(inputs - MEAN if float(inputs.sum()) < 1e9 else inputs)
"""
STORED = "teachers.given.taps={layer: {}}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sources(folder)
    return folder


def hint(teacher: str = "given:layer", student: str = "first", *others: str) -> str:
    terms = [KL, f"{{term: fitnet, student: '{student}', teacher: '{teacher}'}}", *others]
    return f"objective=[{', '.join(terms)}]"


def refused(files: Path, *overrides: str) -> str:
    """Return what is said of a job of which not even the plan can be made."""
    with pytest.raises(CoffeyError) as refusal:
        make_plan(job_spec(files, *overrides), DirectoryStore(files / "none"))
    assert isinstance(refusal.value, SpecError)
    assert refusal.value.exit_code == 2
    assert not (files / "none").exists()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (
            [hint("givn:layer")],
            SpecInvalidError,
            "the teacher 'givn' (did you mean 'given'?), and there are fitted, given,",
        ),
        ([hint("graph:layer")], SpecInvalidError, "teacher graph, which is an .onnx file and has none"),
        (["teachers.graph.taps={layer: {}}"], SpecInvalidError, "`taps` name modules and an .onnx file has none"),
        (
            ["objective=[{term: fitnet, student: first, teacher: 'given:layer'}]"],
            SpecInvalidError,
            "every term reads modules alone, and the student's outputs are never trained",
        ),
        ([hint(student="frist")], ModuleMissingError, "student has no module 'frist'; the nearest are first"),
        ([hint("given:layers")], ModuleMissingError, "teacher given has no module 'layers'; the nearest are layer"),
        ([hint("fitted:lay")], ModuleMissingError, "teacher fitted has no module 'lay'; the nearest are layer"),
        (["teachers.given.taps={lay: {}}"], ModuleMissingError, "teacher given has no module 'lay'"),
        (
            ["teachers.given.taps={layer: {project: 4}}"],
            TapMisfitError,
            "given.taps.layer: project is 4, and the output of a row has the shape [3]; expected at most its 3",
        ),
        ([hint(student="0"), STUDENT], TermMisfitError, "objective.1: the term `fitnet` cannot be computed: "),
        (
            [hint("given:layer", "first", "{term: srrl, student: first, teacher: 'given:layer', head: 'given:lay'}")],
            ModuleMissingError,
            "teacher given has no module 'lay'",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    files: Path, overrides: list[str], error: type[CoffeyError], said: str
) -> None:
    with pytest.raises(error):
        resolve(job_spec(files, *overrides))
    assert said in refused(files, *overrides)


def test_a_head_that_reads_other_features_is_refused(files: Path) -> None:
    srrl = "{term: srrl, student: first, teacher: 'given:layer', head: 'given:layer'}"

    with pytest.raises(TermMisfitError, match="given:layer reads 16 features and given:layer has 3 channels"):
        resolve(job_spec(files, f"objective=[{KL}, {srrl}]"))


def test_a_head_that_is_no_linear_layer_is_refused(files: Path) -> None:
    teacher = "teachers.fitted.model=tests.fixtures.mapped:Mapped", "teachers.fitted.inputs={shape: [1, 4, 4]}"
    srrl = "{term: srrl, student: '0', teacher: 'fitted:0', head: 'fitted:0'}"

    with pytest.raises(NoHeadError, match="teacher fitted: the head '0' is a Conv2d"):
        resolve(job_spec(files, STUDENT, *teacher, f"objective=[{KL}, {srrl}]"))


@pytest.mark.parametrize("model", ["Mapped", "Measuring"])
def test_shapes_are_found_whether_or_not_a_model_runs_without_numbers(files: Path, model: str) -> None:
    teacher = f"{{name: wide, model: 'tests.fixtures.mapped:{model}', inputs: {{shape: [1, 4, 4]}}, fit: {{}}"
    taps = "taps: {'0': {pool: 2, project: 3, values: int8}, '1': {}}"

    job = resolve(job_spec(files, f"teachers=[{teacher}, {taps}}}]", STUDENT, hint("wide:0", "0")))

    assert [(column.name, column.dtype, column.shape) for column in job.teachers[0].train.columns] == [
        ("logits", "float16", (3,)),
        ("tap_0", "uint8", (3, 2, 2)),
        ("tap_0_scale", "float32", ()),
        ("tap_1", "float16", (4, 4, 4)),
    ]
    assert job.teachers[0].test.columns == job.teachers[0].held_out.columns == job.teachers[0].train.columns[:1]


def test_a_model_whose_module_keeps_numbers_has_them_after_its_shapes_were_found(files: Path, tmp_path: Path) -> None:
    """In a child: the model's module has to be imported by the plan, and by nothing before."""
    (tmp_path / "normalising.py").write_text(NORMALISING)
    teacher = "{name: wide, model: 'normalising:Normalising', inputs: {shape: [1, 4, 4]}, fit: {}}"
    script = (
        "import sys; from pathlib import Path; from orchestrator.resolution.resolve import resolve\n"
        "from tests.fixtures.jobs import job_spec\n"
        f"resolve(job_spec(Path(sys.argv[1]), {f'teachers=[{teacher}]'!r}, {STUDENT!r}, {hint('wide:0', '0')!r}))\n"
        "import normalising; print(normalising.MEAN.device, float(normalising.MEAN))"
    )

    found = subprocess.run(
        [sys.executable, "-c", script, str(files)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.stdout.split() == ["cpu", "0.5"], found.stderr[-2000:]


def identities(job: Job) -> dict[str, str]:
    """Return every identity of teachers and students."""
    found = {
        f"{name} of {teacher.config.name}": getattr(teacher, name).identity
        for teacher in job.teachers
        for name in ("train", "held_out", "test")
    }
    teachers = {f"teacher {teacher.config.name}": teacher.identity for teacher in job.teachers}
    students = {"student": job.students[0].identity, "baseline": job.baselines[0][0].identity}
    return found | teachers | students


def changed(files: Path, before: list[str], after: list[str]) -> set[str]:
    one, other = (identities(resolve(job_spec(files, *overrides))) for overrides in (before, after))
    return {name for name in one if one[name] != other[name]}


def test_taps_change_the_labels_of_training_rows_and_what_is_trained_on_them(files: Path) -> None:
    assert changed(files, [], [STORED]) == {"train of given", "student"}
    assert changed(files, [STORED], ["teachers.given.taps={layer: {values: int8}}"]) == {"train of given", "student"}
    assert changed(files, [hint()], [hint(student="second")]) == {"student"}
    assert changed(files, [hint()], [hint("fitted:layer")]) == {"student"}
    assert changed(files, [hint()], [hint(), "teachers.fitted.fit.epochs=5"]) >= {"student", "teacher fitted"}


@pytest.mark.parametrize("when", ["read", "write"])
def test_modules_that_are_stored_are_read_and_the_others_live_whatever_becomes_of_the_labels(
    files: Path, when: str
) -> None:
    both = hint("given:layer", "first", "{term: fitnet, student: second, teacher: 'fitted:layer'}")

    job = resolve(job_spec(files, both, STORED, f"fusion.when={when}"))

    task, (fitted, given, _) = job.students[0], job.teachers
    assert task.stored_taps == (given.train,)
    assert [(teacher.name, teacher.identity) for teacher in task.live_teachers] == [("fitted", fitted.identity)]
    assert fitted.fit is not None
    assert task.live_teachers[0].weights == fitted.fit.record_key
    assert task.targets is not None
    labels = {part.labels.teacher for part in task.targets.parts}
    assert labels == ({ENSEMBLE} if when == "write" else {"fitted", "given", "graph"})
    (live,) = resolve(job_spec(files, hint())).students[0].live_teachers
    assert live.weights == given.given


def label(store: ObjectStore, teacher: ResolvedTeacher) -> None:
    """Label as replicas do."""
    put_weights(store, teacher)
    backend = load_backend(store, teacher.config, weights_of(store, teacher), on=teacher.config.resources)
    labeller = Labeller(teacher.config.name, backend, teacher.config.batch_size)
    for record in teacher.label_sets:
        labels, shards = LabelSet.create(store, record), list(Dataset.open(store, record.dataset))
        for number, arrays in enumerate(shards):
            inputs = {name: array for name, array in arrays.items() if name != LABEL}
            labeller.commit(labels, number, labeller.outputs(record, number, inputs))
        labels.seal(len(shards))


def carried_out(files: Path, store: Path, *overrides: str) -> tuple[Job, list[float]]:
    """Do all steps up to the students; return the job and the losses of the first."""
    job = resolve(job_spec(files, f"store={store}", "train.seeds=[0]", "baseline=null", *overrides))
    context = new_context(job, open_store(job.spec.store))
    ingest(context)
    for teacher in job.teachers:
        if teacher.fit is not None:
            train_alone(context.store, teacher.fit)
        label(context.store, teacher)
    calibrate_teachers(context)
    train_alone(context.store, *job.students)
    context.log.close("done")
    record = read_record(context.store, job.students[0].record_key, TrainedRecord)
    return job, [point.loss for point in record.points]


def test_a_job_with_stored_taps_and_one_with_live_teachers_train_the_same_student(files: Path, tmp_path: Path) -> None:
    both = hint("given:layer", "first", "{term: fitnet, student: second, teacher: 'fitted:layer'}")

    stored, with_stored = carried_out(
        files, tmp_path / "stored", both, STORED, "teachers.fitted.taps={layer: {values: int8}}"
    )
    live, with_live = carried_out(files, tmp_path / "live", both)
    _, without = carried_out(files, tmp_path / "without")

    assert with_stored == pytest.approx(with_live, rel=1e-2)
    assert with_live[0] > 1.5 * without[0]
    assert (len(stored.students[0].stored_taps), len(stored.students[0].live_teachers)) == (2, 0)
    assert (len(live.students[0].stored_taps), len(live.students[0].live_teachers)) == (0, 2)
    store, given = DirectoryStore(tmp_path / "stored"), stored.teachers[1]
    arrays, inputs = LabelSet(store, given.train).read(0), Dataset.open(store, given.train.dataset).read(0)
    expected = linear(inputs["image"], *weights_of_teacher(store, given))
    assert unpack_tap(given.train.taps, "layer", arrays) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_terms_see_the_shapes_that_are_stored_and_those_of_live_modules(files: Path) -> None:

    both = hint("given:layer", "first", "{term: fitnet, student: second, teacher: 'fitted:layer'}")
    spec = job_spec(files, both, "teachers.given.taps={layer: {project: 2}}")

    shapes = probe(spec, num_classes=3).shapes(num_classes=3)

    assert shapes.student_taps == {"first": (2,), "second": (3,)}
    assert shapes.teacher_taps == {TeacherTap("given", "layer"): (2,), TeacherTap("fitted", "layer"): (3,)}
    assert (shapes.num_rows, shapes.num_classes) == (0, 3)


def test_weights_of_a_live_teacher_that_labelled_elsewhere_are_put_into_the_store(tmp_path: Path) -> None:
    write_sources(tmp_path)
    given = resolve(job_spec(tmp_path, hint())).teachers[1]
    store = DirectoryStore(tmp_path / "store")
    assert given.given is not None

    put_weights(store, given)
    assert bytes(store.get(given.given.key)) == (tmp_path / "given.safetensors").read_bytes()

    write_weights(tmp_path / "given.safetensors", np.ones((3, 16), np.float32), np.ones(3, np.float32))
    put_weights(store, given)  # they are there
    with pytest.raises(WeightsChangedError):
        put_weights(DirectoryStore(tmp_path / "other"), given)
