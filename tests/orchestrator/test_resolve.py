"""Identities: what changes which result, and what changes none. A table's line is a change and all that follows."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cluster.errors import SpecError
from cluster.models import ModelSourceError
from cluster.shards.calibration import calibration_key
from cluster.shards.codecs.codec import CodecMisfitError
from orchestrator.resolution.resolve import ENSEMBLE, Job, resolve
from orchestrator.sources.errors import SourceMissingError
from orchestrator.spec import JobSpec
from students.task import TrainingTask
from teachers.weights import ClassMapError, UnsafeWeightsError, WeightsMissingError
from tests.fixtures.jobs import TEACHERS, job_spec, write_graph, write_sources, write_weights

DATA = frozenset({"train", "labelled", "held_out", "test"})
LONE = frozenset({"baseline"})
STUDENT = frozenset({"student", "evaluation", "export"})
"""The distilled student, and what is said of it."""


def of_teacher(name: str) -> frozenset[str]:
    """Everything that one teacher writes."""
    return frozenset(f"{kind}:{name}" for kind in ("weights", "held_out", "train", "test", "calibration"))


LABELS_OF_TRAINING = frozenset(f"train:{name}" for name in TEACHERS)
LABELS_OF_GIVEN = of_teacher("given") - {"weights:given"}
TEACHING = frozenset().union(*map(of_teacher, TEACHERS))
ALL = DATA | TEACHING | LONE | STUDENT


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sources(folder)
    return folder


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """Files that a test may change."""
    write_sources(tmp_path)
    return tmp_path


def results(job: Job) -> dict[str, object]:
    """Return the identity of everything that a job would write."""
    found: dict[str, object] = {name: getattr(job.datasets, name) for name in sorted(DATA)}
    for teacher in job.teachers:
        name = teacher.config.name
        found[f"weights:{name}"] = teacher.fit.identity if teacher.fit else teacher.given
        for part, sets in (("held_out", [teacher.held_out]), ("train", teacher.views), ("test", [teacher.test])):
            found[f"{part}:{name}"] = [labels.prefix for labels in sets]
        found[f"calibration:{name}"] = calibration_key(teacher.held_out)
    found["student"] = [task.identity for task in job.students]
    found["baseline"] = [[task.identity for task in tasks] for tasks in job.baselines]
    found["evaluation"], found["export"] = job.evaluation_key, job.export_key
    return found


def changes(before: JobSpec, after: JobSpec) -> set[str]:
    """Return the names of the results that are not the same."""
    first, second = results(resolve(before)), results(resolve(after))
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


EXECUTION = [
    "name=other",
    "store=elsewhere",
    "teachers.given.replicas=3",
    "teachers.given.replicas={min: 1, max: 4}",
    "teachers.given.resources.cpu=0.25",
    "teachers.fitted.resources={cpu: 2, gpu: 1}",
    "teachers.fitted.batch_size=7",
    "teachers.graph.stall_timeout_s=1",
    "teachers.given.classes=[cross, ring, bar]",
    "train.workers=2",
    "train.workers=[1, 4]",
    "train.nodes={accelerator: A100, custom: {licence: 1}, labels: {zone: a}}",
    "teachers.given.resources={accelerator: A100, custom: {licence: 1}, labels: {zone: a}}",
    "train.cpus_per_worker=0.5",
    "train.gpus_per_worker=1",
    "train.accumulate=4",
    "train.compile=true",
    "train.checkpoint_every_s=1",
    "train.max_failures=0",
    "train.pipelined=never",
    "cluster.address=auto",
    "cluster.cpus=1",
    "cluster.labels_timeout_s=1",
    "cluster.start_timeout_s=1",
    "cluster.store_is_shared=true",
    "cluster.may_grow_to=[{nodes: 2, cpus: 4}]",
]
DECIDING = [
    # The student, and the same student alone.
    ("student.model=tests.fixtures.jobs:Linear", STUDENT | LONE),
    ("student.arguments.width=3", STUDENT | LONE),
    ("student.inputs.scale=1.0", STUDENT | LONE),
    ("train.optimizer.lr=0.5", STUDENT | LONE),
    ("train.optimizer.schedule=linear", STUDENT | LONE),
    ("train.precision=bfloat16", STUDENT | LONE),
    ("train.order.lanes=4", STUDENT | LONE),
    ("train.order.window_rows=16", STUDENT | LONE),
    ("train.seeds=[0, 2]", (STUDENT | LONE) - {"export"}),
    ("train.seeds=[1, 0]", STUDENT | LONE),
    ("baseline.epochs=[2, 6]", LONE | {"evaluation"}),
    ("baseline.batch_size=17", LONE | {"evaluation"}),
    ("baseline.optimizer={lr: 0.5}", LONE | {"evaluation"}),
    ("baseline=null", LONE | {"evaluation"}),
    # What the student learns, and from whom.
    ("train.epochs=4", STUDENT),
    ("train.batch_size=33", STUDENT),
    ("objective=[{term: kl, temperature: 2, weight: 0.9}, {term: cross_entropy, weight: 0.1}]", STUDENT),
    ("objective=[{term: kl, weight: 0.8}, {term: cross_entropy, weight: 0.1}]", STUDENT),
    ("objective=[{term: kl, weight: 0.9}, {term: cross_entropy, weight: 0.1, label_smoothing: 0.1}]", STUDENT),
    ("objective=[{term: kl}]", STUDENT),
    ("fusion.combine=mean_logit", STUDENT),
    ("fusion.weights={given: 2}", STUDENT),
    ("fusion.calibrate=false", STUDENT),
    ("fusion.when=write", STUDENT),
    ("fusion.calibrate=vector", STUDENT),
    ("fusion.combine=vote", STUDENT),
    ("fusion.combine=stacking", STUDENT),
    ("fusion.select=greedy", STUDENT),
    ("fusion.weighting={method: entropy}", STUDENT),
    ("fusion.weighting={method: gradient, cap: 0.5}", STUDENT),
    ("objective=[{term: kl, weight: 0.9, of: given}, {term: cross_entropy, weight: 0.1}]", STUDENT),
    ("export=[onnx]", {"export"}),
    # One teacher, and so the student.
    ("teachers.given.labels={codec: hidden, head: layer, width: 16}", LABELS_OF_GIVEN | STUDENT),
    ("teachers.given.labels={codec: hidden, head: layer, width: 16, values: int8}", LABELS_OF_GIVEN | STUDENT),
    ("teachers.fitted.fit.epochs=5", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.fit.batch_size=33", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.fit.optimizer.lr=0.5", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.fit.label_smoothing=0.1", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.fit.seed=1", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.arguments.classes=3", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.inputs.mean=0.5", of_teacher("fitted") | STUDENT),
    ("teachers.fitted.model=tests.fixtures.watched_models:Linear", of_teacher("fitted") | STUDENT),
    ("teachers.given.arguments.classes=3", of_teacher("given") | STUDENT),
    ("teachers.given.inputs.std=0.5", of_teacher("given") | STUDENT),
    ("teachers.given.model=tests.fixtures.jobs:Narrow", of_teacher("given") | STUDENT),
    ("teachers.graph.inputs.scale=0.5", of_teacher("graph") | STUDENT),
    # How training rows are seen, by everybody but who is fitted on them.
    ("data.views={mixup: 1.0}", LABELS_OF_TRAINING | STUDENT | LONE),
    ("data.views={augment: [{kind: flip}], count: 1}", LABELS_OF_TRAINING | STUDENT | LONE),
    # The rows, and so everything but weights that others trained on others.
    ("data.seed=1", ALL - {"weights:given", "weights:graph"}),
    ("data.labelled=130", ALL - {"weights:given", "weights:graph"}),
    ("data.classes=[a, b, c]", ALL - {"weights:given", "weights:graph"}),
]


@pytest.mark.parametrize("override", EXECUTION)
def test_how_a_job_is_carried_out_changes_no_result(files: Path, override: str) -> None:
    assert changes(job_spec(files), job_spec(files, override)) == set()


@pytest.mark.parametrize(("override", "expected"), DECIDING)
def test_what_decides_a_result_changes_it_and_what_follows_from_it(
    files: Path, override: str, expected: frozenset[str]
) -> None:
    assert changes(job_spec(files), job_spec(files, override)) == expected


def test_a_fourth_teacher_changes_no_other_teacher(files: Path) -> None:
    spec = job_spec(files)
    fourth = spec.teachers[0].model_copy(update={"name": "fourth", "fit": spec.teachers[0].fit})
    more = spec.model_copy(update={"teachers": (*spec.teachers, fourth)})
    assert changes(spec, more) == of_teacher("fourth") | STUDENT
    assert changes(more, spec) == of_teacher("fourth") | STUDENT


def test_teachers_that_differ_in_name_alone_have_the_same_weights_and_labels_of_their_own(files: Path) -> None:
    spec = job_spec(files)
    twin = spec.teachers[1].model_copy(update={"name": "twin"})
    _, given, _, copy = resolve(spec.model_copy(update={"teachers": (*spec.teachers, twin)})).teachers
    assert copy.identity == given.identity
    assert copy.train.identity == given.train.identity
    assert copy.train.prefix != given.train.prefix


def test_every_result_has_an_identity_of_its_own(files: Path) -> None:
    job = resolve(job_spec(files, "fusion.when=write"))
    assert job.fused is not None
    tasks = [*job.students, *(task for tasks in job.baselines for task in tasks)]
    tasks += [teacher.fit for teacher in job.teachers if teacher.fit]
    sets = [labels for teacher in job.teachers for labels in teacher.label_sets]
    identities = [task.identity for task in tasks] + [labels.identity for labels in [*sets, job.fused]]
    assert len(set(identities)) == len(identities) == 2 + 4 + 1 + 9 + 1


def test_the_same_files_elsewhere_give_the_same_identities(files: Path, own_files: Path) -> None:
    assert changes(job_spec(files), job_spec(own_files)) == set()


def test_more_classes_than_there_are_cannot_be_kept(files: Path) -> None:
    spec = job_spec(files, "teachers.given.labels={codec: topk, k: 4}", "fusion.calibrate=false")
    with pytest.raises(CodecMisfitError, match=r"^teachers\.given\.labels\.k is 4 and there are 3 classes"):
        resolve(spec)


class TestFiles:
    def test_another_byte_of_the_data_changes_all_that_is_made_from_it(self, own_files: Path) -> None:
        before = results(resolve(job_spec(own_files)))
        with (own_files / "train.npz").open("ab") as file:
            file.write(b"\0")
        after = results(resolve(job_spec(own_files)))
        assert {name for name in before if before[name] == after[name]} == {"weights:given", "weights:graph"}

    @pytest.mark.parametrize("name", ["given", "graph"])
    def test_other_weights_change_their_teacher_and_the_student(self, own_files: Path, name: str) -> None:
        before = results(resolve(job_spec(own_files)))
        weight, bias = np.ones((3, 16), np.float32), np.zeros(3, np.float32)
        write, file = (write_weights, "given.safetensors") if name == "given" else (write_graph, "graph.onnx")
        write(own_files / file, weight, bias)
        after = results(resolve(job_spec(own_files)))
        assert {name for name in before if before[name] != after[name]} == of_teacher(name) | STUDENT

    def test_weights_elsewhere_are_the_same_weights(self, own_files: Path) -> None:
        (own_files / "copy.safetensors").write_bytes((own_files / "given.safetensors").read_bytes())
        moved = job_spec(own_files, f"teachers.given.weights={own_files}/copy.safetensors")
        assert changes(job_spec(own_files), moved) == set()

    def test_weights_are_kept_under_their_digest_and_never_under_their_path(self, own_files: Path) -> None:
        given = resolve(job_spec(own_files)).teachers[1].given
        assert given is not None
        assert given.digest in given.key
        assert given.num_bytes == (own_files / "given.safetensors").stat().st_size
        assert str(own_files) not in given.key

    @pytest.fixture
    def edited(self, own_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A module of models that no one else has."""
        monkeypatch.syspath_prepend(own_files)
        path = own_files / "models_of_this_test.py"
        path.write_text("raise RuntimeError('a plan imports no model')\n")
        return path

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("student.model", STUDENT | LONE),
            ("teachers.fitted.model", of_teacher("fitted") | STUDENT),
            ("teachers.given.model", of_teacher("given") | STUDENT),
        ],
    )
    def test_an_edited_model_is_another_model(
        self, own_files: Path, edited: Path, key: str, expected: frozenset[str]
    ) -> None:
        spec = job_spec(own_files, f"{key}=models_of_this_test:Model")
        before = results(resolve(spec))
        edited.write_text(edited.read_text() + "# another line\n")
        after = results(resolve(spec))
        assert {name for name in before if before[name] != after[name]} == expected


class TestTasks:
    def test_teachers_and_the_lone_student_learn_from_labelled_rows_alone(self, files: Path) -> None:
        job = resolve(job_spec(files))
        for task in [job.teachers[0].fit, *job.baselines[0], *job.baselines[1]]:
            assert task is not None
            assert task.dataset == job.datasets.labelled != job.datasets.train
            assert task.targets is None

    def test_a_teacher_is_fitted_in_one_lane_whatever_the_student_has(self, files: Path) -> None:
        """So its batches may be smaller than the student's lanes would need."""
        job = resolve(job_spec(files, "train.order.lanes=4", "teachers.fitted.fit.batch_size=1"))
        assert job.teachers[0].fit is not None
        assert (job.teachers[0].fit.order.lanes, job.teachers[0].fit.batch_size) == (1, 1)
        assert {task.order.lanes for task in [*job.students, *job.baselines[0]]} == {4}

    def test_no_training_reads_the_test_rows_or_trains_on_held_out_rows(self, files: Path) -> None:
        job = resolve(job_spec(files))
        for task in trainings(job):
            assert task.held_out == job.datasets.held_out
            assert task.dataset in (job.datasets.train, job.datasets.labelled)
            assert job.datasets.test not in task.model_dump_json()

    def test_the_student_learns_from_every_teacher_by_its_weight_and_temperature(self, files: Path) -> None:
        job = resolve(job_spec(files, "fusion.weights={given: 2.5}"))
        for task in job.students:
            assert task.dataset == job.datasets.train
            assert task.targets is not None
            assert [part.labels for part in task.targets.parts] == [teacher.train for teacher in job.teachers]
            assert [part.weight for part in task.targets.parts] == [1, 2.5, 1]
            assert [part.calibration for part in task.targets.parts] == [
                calibration_key(teacher.held_out) for teacher in job.teachers
            ]

    def test_fused_labels_are_learnt_from_as_they_are(self, files: Path) -> None:
        job = resolve(job_spec(files, "fusion.when=write", "fusion.combine=mean_probability"))
        assert job.fused is not None
        assert job.fused.teacher == ENSEMBLE
        (part,) = job.students[0].targets.parts if job.students[0].targets else ()
        assert (part.labels, part.weight, part.calibration) == (job.fused, 1.0, None)
        assert [part.labels for part in job.fusion.parts] == [teacher.train for teacher in job.teachers]

    @pytest.mark.parametrize(
        "override",
        [
            "fusion.weights={given: 2}",
            "fusion.weighting={method: confidence}",
            "fusion.combine=mean_logit",
            "fusion.calibrate=false",
        ],
    )
    def test_another_fusion_is_another_fused_label_set(self, files: Path, override: str) -> None:
        first, second = (resolve(job_spec(files, "fusion.when=write", *more)).fused for more in ((), (override,)))
        assert first is not None
        assert second is not None
        assert first.identity != second.identity

    def test_names_tell_seeds_and_lengths_apart_and_are_no_part_of_identity(self, files: Path) -> None:
        job = resolve(job_spec(files, "student.name=small"))
        assert [task.name for task in job.students] == ["small-0", "small-1"]
        assert [[task.name for task in tasks] for tasks in job.baselines] == [
            ["baseline-0-2", "baseline-0-5"],
            ["baseline-1-2", "baseline-1-5"],
        ]
        renamed = resolve(job_spec(files, "student.name=other"))
        assert [task.identity for task in job.students] == [task.identity for task in renamed.students]
        assert job.students[0].prefix != renamed.students[0].prefix


class TestMistakes:
    def test_missing_data_and_weights_are_named(self, own_files: Path) -> None:
        (own_files / "given.safetensors").unlink()
        with pytest.raises(WeightsMissingError, match=r"given\.safetensors: no weights there"):
            resolve(job_spec(own_files))
        (own_files / "test.npz").unlink()
        with pytest.raises(SourceMissingError, match=r"test\.npz: No such file"):
            resolve(job_spec(own_files))

    def test_a_pickle_as_weights_is_refused(self, own_files: Path) -> None:
        (own_files / "given.safetensors").write_bytes(b"\x80\x04N.")
        with pytest.raises(UnsafeWeightsError, match=r"given\.safetensors: found a pickle"):
            resolve(job_spec(own_files))

    def test_classes_that_a_file_of_weights_carries_must_be_those_of_the_data(self, own_files: Path) -> None:
        def write(names: list[str]) -> None:
            state = {"layer.weight": np.ones((3, 16), np.float32), "layer.bias": np.zeros(3, np.float32)}
            metadata = {"coffey.classes": json.dumps(names)}
            safetensors.numpy.save_file(state, own_files / "given.safetensors", metadata=metadata)

        write(["cross", "ring", "bar"])
        resolve(job_spec(own_files))
        write(["ring", "cross", "bar"])
        with pytest.raises(ClassMapError, match="class 0 is 'ring' for the teacher and 'cross' in the data"):
            resolve(job_spec(own_files))

    def test_classes_that_the_spec_gives_a_teacher_must_be_those_of_the_data(self, files: Path) -> None:
        with pytest.raises(ClassMapError, match="class 2 is 'line' for the teacher and 'bar' in the data"):
            resolve(job_spec(files, "teachers.fitted.classes=[cross, ring, line]"))

    @pytest.mark.parametrize("module", ["no_such_module", "tests.no_such_module", "sys", "tests"])
    def test_a_model_without_a_source_file_is_named(self, files: Path, module: str) -> None:
        with pytest.raises(ModelSourceError, match=f"{module}:Model: "):
            resolve(job_spec(files, f"student.model={module}:Model"))

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("student.name=given", "the name 'given' is taken"),
            ("student.name=ensemble", "the name 'ensemble' is taken"),
            ("student.name=baseline", "the name 'baseline' is taken"),
            ("teachers.given.name=graph", "the name 'graph' is taken"),
            ("fusion.weights={other: 1}", "no teacher is called 'other'; there are fitted, given, graph"),
            ("fusion={combine: stacking, weights: {given: 2}}", "weights names teachers, and stacking learns"),
            ("fusion={select: greedy, weights: {given: 2}}", "and select: greedy learns what each is worth"),
            ("fusion={combine: dawid_skene, select: greedy}", "select is greedy, and dawid_skene learns"),
            ("fusion.calibrate=isotonic", "fusion.calibrate"),
            (
                "fusion={when: write, weighting: {method: gate}}",
                "shares of fusion.weighting `gate` change with training",
            ),
            (
                "fusion={combine: vote, weighting: {method: entropy}}",
                "`entropy`, whose shares are those of a mean, and fusion.combine is vote; expected mean_probability or",
            ),
            ("fusion={combine: dawid_skene, weighting: {method: gradient}}", "and fusion.combine is dawid_skene;"),
            ("fusion={combine: stacking, weighting: {method: gate}}", "and fusion.combine is stacking;"),
            (
                "fusion={select: greedy, weighting: {method: confidence}}",
                "`confidence`, and fusion.select is greedy, which finds shares too; expected `all`",
            ),
            ("fusion.weighting={method: gradient, cap: 0.3}", "cap is 0.3, and the shares of 3 teachers have to sum"),
            ("fusion.weighting={method: routing, column: d, routes: {other: [1]}}", "no teacher is called 'other'"),
            (
                "objective=[{term: kl, of: other}]",
                "is of 'other', and no teacher is called so; there are fitted, given",
            ),
            ("objective=[{term: kl}, {term: cross_entropy, of: given}]", "is `of` a teacher and reads none"),
            ("train.seeds=[1, 1]", "holds a seed twice"),
            ("baseline.epochs=[5, 5]", "holds a length twice"),
            ("train.workers=9", "train.workers is 9 and train.order.lanes is 8"),
            ("train.batch_size=15", "train.batch_size is 15 and train.order.lanes is 8"),
            ("baseline.batch_size=15", "baseline.batch_size is 15 and train.order.lanes is 8"),
            ("cluster.cpus=0.5", "cluster.cpus"),
            ("objective=[{term: cross_entropy}]", "no term reads the teachers"),
        ],
    )
    def test_contradictions_in_a_spec_are_refused(self, files: Path, override: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            job_spec(files, override)

    def test_what_needs_more_than_a_part_of_a_batch_or_than_fused_labels_is_refused(self, files: Path) -> None:
        with pytest.raises(SpecError, match=r"train.accumulate is 2, and the weighting `gradient` looks at a whole"):
            job_spec(files, "train.accumulate=2", "fusion.weighting={method: gradient}")
        with pytest.raises(SpecError, match="the term `kl` is of given alone, which labels that are fused no longer"):
            job_spec(files, "fusion.when=write", "objective=[{term: kl}, {term: kl, of: given}]")
        with pytest.raises(
            SpecError, match="select is greedy, which may leave out given, and the term `kl` is of given"
        ):
            job_spec(files, "fusion.select=greedy", "objective=[{term: kl}, {term: kl, of: given}]")
        with pytest.raises(SpecError, match=r"fusion.weighting is `gate`, and no term reads the teachers as one"):
            job_spec(files, "fusion.weighting={method: gate}", "objective=[{term: kl, of: given}]")


def trainings(job: Job) -> Iterator[TrainingTask]:
    yield from job.students
    for tasks in job.baselines:
        yield from tasks
    for teacher in job.teachers:
        if teacher.fit is not None:
            yield teacher.fit
