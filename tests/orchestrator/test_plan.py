"""The plan: it says of every step what the store holds, and leaves no trace."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.session import Capacity
from cluster.shards.calibration import CalibrationRecord, calibration_key
from cluster.shards.dataset import Dataset, dataset_key
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.records import publish_record, read_record
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStat, ObjectStore
from orchestrator.planning.labelled import SealMisfitError
from orchestrator.planning.placement import DoesNotFitError, check_room
from orchestrator.planning.plan import Inspection, make_plan
from orchestrator.planning.planned import PlannedStep
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.steps.ingest import ingest
from students.ensembles.record import EnsembleRecord
from tests.fixtures.jobs import (
    HELD_OUT,
    LABELLED,
    SHARD_ROWS,
    TEST_ROWS,
    TRAIN_ROWS,
    commit_all,
    finished_job,
    job_spec,
    new_context,
    train_alone,
    write_export_record,
    write_sources,
)

STEPS = [
    ("ingest", "ingest"),
    ("fit:fitted", "fit"),
    ("label:fitted", "label"),
    ("label:given", "label"),
    ("label:graph", "label"),
    ("calibrate:fitted", "calibrate"),
    ("calibrate:given", "calibrate"),
    ("calibrate:graph", "calibrate"),
    ("baseline", "baseline"),
    ("train:student", "train"),
    ("evaluate", "evaluate"),
    ("export", "export"),
]
LABEL_ROWS = TRAIN_ROWS + TEST_ROWS


class ReadOnlyStore:
    """Answers questions and refuses everything else."""

    def __init__(self, store: ObjectStore) -> None:
        self._store, self.uri = store, store.uri

    def get(self, key: str) -> memoryview:
        return self._store.get(key)

    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        return self._store.list(prefix)

    def put(self, key: str, body: bytes | memoryview) -> None:
        raise AssertionError(f"a plan wrote {key}")

    def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
        raise AssertionError(f"a plan wrote {key}")

    def delete(self, key: str) -> None:
        raise AssertionError(f"a plan deleted {key}")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_sources(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files and the store of a finished job, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    _, context = finished_job(folder)
    context.log.close("done")
    return folder


@pytest.fixture
def finished(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(finished_folder, tmp_path / "finished")


@pytest.fixture
def store(files: Path) -> DirectoryStore:
    return DirectoryStore(files / "store")


@pytest.fixture
def job(files: Path) -> Job:
    return resolve(job_spec(files))


@pytest.fixture
def ingested(job: Job, store: DirectoryStore) -> Job:
    context = new_context(job, store)
    ingest(context)
    context.log.close("done")
    return job


def step(job: Job, store: ObjectStore, name: str) -> PlannedStep:
    (found,) = [step for step in Inspection(job, ReadOnlyStore(store)).steps() if step.name == name]
    return found


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    paths = sorted(folder.rglob("*"))
    return {path: (path.stat().st_mtime_ns, None if path.is_dir() else path.read_bytes()) for path in paths}


def logits(rows: int) -> np.ndarray:
    return np.zeros((rows, 3), np.float16)


def rows_of_shards(store: ObjectStore, record: LabelSetRecord) -> list[int]:
    return [entry.rows for entry in Dataset.open(store, record.dataset).record.shards]


class TestWithoutTraces:
    def test_a_plan_of_a_job_that_never_ran_leaves_no_trace(self, files: Path, store: DirectoryStore) -> None:
        before = snapshot(files)
        plan = make_plan(job_spec(files), ReadOnlyStore(store))
        assert snapshot(files) == before
        assert not Path(store.uri).exists()
        assert [(step.name, step.kind) for step in plan.steps] == STEPS
        assert {step.state for step in plan.steps} == {"to do"}
        assert len({step.identity for step in plan.steps}) == len(STEPS)

    def test_a_plan_of_a_finished_job_finds_every_step_done_and_leaves_no_trace(self, finished: Path) -> None:
        before = snapshot(finished)
        plan = make_plan(job_spec(finished), ReadOnlyStore(DirectoryStore(finished / "store")))
        assert snapshot(finished) == before
        assert [(step.name, step.state) for step in plan.steps] == [(name, "done") for name, _ in STEPS]
        assert (plan.pipelined, plan.pipelined_because) == (False, "the training that comes first is done")

    def test_a_plan_needs_neither_torch_nor_ray(self, files: Path) -> None:
        (files / "job.yaml").write_text(
            (Path(__file__).parents[2] / "orchestrator/demo/job.yaml")
            .read_text()
            .replace("./coffey-store", str(files / "store"))
        )
        program = (
            "import sys\n"
            "from orchestrator.cli.app import exit_code_of\n"
            f"code = exit_code_of(['plan', {str(files / 'job.yaml')!r}])\n"
            "heavy = {'torch', 'ray', 'sklearn', 'onnxruntime', 'boto3', 'matplotlib', 'scipy'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else code)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
        assert done.returncode == 0, done.stderr
        assert "fit:wide" in done.stdout


class TestStates:
    def test_ingest_is_done_when_all_four_data_sets_are(self, ingested: Job, store: DirectoryStore) -> None:
        rows = TRAIN_ROWS - HELD_OUT + LABELLED - HELD_OUT + HELD_OUT + TEST_ROWS
        found = step(ingested, store, "ingest")
        assert (found.state, found.rows, found.rows_done) == ("done", rows, rows)

        store.delete(dataset_key(ingested.datasets.held_out))
        found = step(ingested, store, "ingest")
        assert (found.state, found.rows, found.rows_done) == ("partial", None, rows - HELD_OUT)

    def test_labels_count_by_committed_rows_until_every_set_is_sealed(
        self, ingested: Job, store: DirectoryStore
    ) -> None:
        given = ingested.teachers[1]
        found = step(ingested, store, "label:given")
        assert (found.state, found.rows, found.rows_done) == ("to do", LABEL_ROWS, 0)

        shards = rows_of_shards(store, given.train)
        assert shards == [SHARD_ROWS, SHARD_ROWS, TRAIN_ROWS - HELD_OUT - 2 * SHARD_ROWS]
        commit_all(store, given.train, [logits(shards[2])], first=2)
        found = step(ingested, store, "label:given")
        assert (found.state, found.rows_done) == ("partial", shards[2])
        assert Inspection(ingested, store).missing(given.train) == [0, 1]
        assert step(ingested, store, "label:fitted").state == "to do"

        for record in given.label_sets:
            commit_all(store, record, [logits(rows) for rows in rows_of_shards(store, record)])
            found = step(ingested, store, "label:given")
            assert found.state == "partial"
            assert Inspection(ingested, store).missing(record) == []
        assert found.rows_done == LABEL_ROWS

        for record in given.label_sets:
            assert step(ingested, store, "label:given").state == "partial"
            LabelSet(store, record).seal(len(rows_of_shards(store, record)))
        found = step(ingested, store, "label:given")
        assert (found.state, found.rows, found.rows_done) == ("done", LABEL_ROWS, LABEL_ROWS)
        assert Inspection(ingested, store).missing(given.train) == []

    def test_a_seal_of_other_shards_than_those_of_the_data_set_is_refused(
        self, ingested: Job, store: DirectoryStore
    ) -> None:
        record = ingested.teachers[1].train
        commit_all(store, record, [logits(SHARD_ROWS)])
        Inspection(ingested, store).check_seals()
        LabelSet(store, record).seal(1)

        with pytest.raises(SealMisfitError) as refusal:
            make_plan(ingested.spec, store)

        rows = TRAIN_ROWS - HELD_OUT
        assert f"{record.prefix}/manifest.json: this seal names 1 shards of {SHARD_ROWS} rows" in str(refusal.value)
        assert f"the data set has 3 shards of {rows} rows" in str(refusal.value)
        assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)

    def test_training_rows_that_nobody_reads_are_not_labelled(self, files: Path, store: DirectoryStore) -> None:
        taps = "teachers.given.taps={layer: {}}"
        objective = "objective=[{term: cross_entropy}, {term: fitnet, student: second, teacher: 'given:layer'}]"
        job = resolve(job_spec(files, taps, objective))
        ingest(context := new_context(job, store))
        context.log.close("done")
        inspection = Inspection(job, store)

        found = {teacher.config.name: inspection.needed(teacher) for teacher in job.teachers}

        assert found["given"] == job.teachers[1].label_sets
        assert found["graph"] == (job.teachers[2].held_out, job.teachers[2].test)
        assert inspection.label(job.teachers[2]).rows == HELD_OUT + TEST_ROWS
        assert "no training rows are read" in inspection.label(job.teachers[2]).note

    def test_teachers_that_every_worker_loads_are_named_with_their_size(
        self, files: Path, store: DirectoryStore
    ) -> None:
        hints = (f"{{term: fitnet, student: second, teacher: '{name}:layer'}}" for name in ("given", "fitted"))
        job = resolve(job_spec(files, f"objective=[{{term: kl}}, {', '.join(hints)}]"))
        size = f"{(files / 'given.safetensors').stat().st_size / 2**20:.1f} MiB of weights"
        ingest(context := new_context(job, store))
        context.log.close("done")

        note = step(job, store, "train:student").note
        assert note.endswith(f"; each worker loads fitted (not trained yet), given ({size})")
        assert job.teachers[0].fit is not None
        train_alone(store, job.teachers[0].fit)
        assert f"fitted ({size})" in step(job, store, "train:student").note
        assert "loads" not in step(resolve(job_spec(files)), store, "train:student").note

    def test_training_rows_wait_for_the_selection_and_are_labelled_by_those_who_are_selected(
        self, files: Path, store: DirectoryStore
    ) -> None:
        job = resolve(job_spec(files, "fusion.select=greedy"))
        ingest(context := new_context(job, store))
        context.log.close("done")
        before = Inspection(job, store)
        first = job.teachers[0]
        assert before.awaits_selection
        assert before.needed(first) == (first.held_out, first.test)
        assert "no training rows before it is selected" in before.label(first).note

        assert job.fusion is not None
        assert job.fusion.ensemble is not None
        record = EnsembleRecord(
            teachers=("fitted", "given", "graph"), rows=1, accuracy=1, nll=0, shares=(0.5, 0.0, 0.5)
        )
        publish_record(store, job.fusion.ensemble, record)
        after = Inspection(job, store)
        assert not after.awaits_selection
        assert [teacher.train in after.needed(teacher) for teacher in job.teachers] == [True, False, True]

    def test_a_teacher_that_labels_again_once_it_is_selected_is_one_step_of_the_run(self, tmp_path: Path) -> None:
        job, context = finished_job(tmp_path, "fusion.select=greedy")
        context.log.close("done")
        assert job.fusion is not None
        assert job.fusion.ensemble is not None
        unused = read_record(context.store, job.fusion.ensemble, EnsembleRecord).unused
        steps = [result for result in context.results if result.kind == "label"]
        assert [result.name for result in steps] == ["label:fitted", "label:given", "label:graph"]
        for result in steps:
            judged = HELD_OUT + TEST_ROWS
            assert result.rows == (judged if result.name.removeprefix("label:") in unused else LABEL_ROWS)
            assert result.outcome == "computed"
            assert result.rows_per_s == pytest.approx(result.rows / result.seconds)

        again = new_context(job, context.store)
        planned = again.inspect().label(job.teachers[0])
        again.reused(planned)
        again.finished(planned.model_copy(update={"state": "partial"}), seconds=2.0, rows=8)
        again.finished(planned.model_copy(update={"state": "partial"}), seconds=2.0, rows=None)
        again.log.close("done")
        (result,) = again.results
        assert (result.outcome, result.seconds, result.rows, result.rows_per_s) == ("continued", 4.0, 8, 2.0)

    def test_labels_of_another_teacher_do_not_count(self, ingested: Job, store: DirectoryStore) -> None:
        graph = ingested.teachers[2].train
        foreign = graph.model_copy(update={"teacher_identity": "0" * 16})
        commit_all(store, foreign, [logits(rows) for rows in rows_of_shards(store, graph)])
        assert step(ingested, store, "label:graph").rows_done == 0

    def test_trainings_of_one_step_are_counted_one_by_one(self, ingested: Job, store: DirectoryStore) -> None:
        fit = ingested.teachers[0].fit
        assert fit is not None
        train_alone(store, fit)
        assert step(ingested, store, "fit:fitted").state == "done"

        tasks = [task for tasks in ingested.baselines for task in tasks]
        for number, task in enumerate(tasks, start=1):
            assert step(ingested, store, "baseline").state == ("to do" if number == 1 else "partial")
            train_alone(store, task)
        assert step(ingested, store, "baseline").state == "done"

    def test_a_student_of_one_seed_of_two_is_partial(self, finished: Path) -> None:
        job, store = resolve(job_spec(finished)), DirectoryStore(finished / "store")
        for task, state in zip(job.students, ("partial", "to do"), strict=True):
            store.delete(task.record_key)
            assert step(job, store, "train:student").state == state

    def test_a_fused_label_set_counts_like_a_teachers(self, files: Path, store: DirectoryStore) -> None:
        job = resolve(job_spec(files, "fusion.when=write"))
        assert job.fused is not None
        assert step(job, store, "fuse").rows is None
        context = new_context(job, store)
        ingest(context)
        context.log.close("done")
        rows = TRAIN_ROWS - HELD_OUT
        assert (step(job, store, "fuse").state, step(job, store, "fuse").rows) == ("to do", rows)
        shards = [logits(count) for count in rows_of_shards(store, job.fused)]
        commit_all(store, job.fused, shards[:2])
        assert (step(job, store, "fuse").state, step(job, store, "fuse").rows_done) == ("partial", 2 * SHARD_ROWS)
        commit_all(store, job.fused, shards)
        LabelSet(store, job.fused).seal(len(shards))
        assert (step(job, store, "fuse").state, step(job, store, "fuse").rows_done) == ("done", rows)

    def test_single_records_are_there_or_not(self, ingested: Job, store: DirectoryStore) -> None:
        key = calibration_key(ingested.teachers[0].held_out)
        record = CalibrationRecord(teacher="fitted", temperature=1.0, rows=1, nll_before=1.0, nll_after=1.0)
        publish_record(store, key, record)
        assert step(ingested, store, "calibrate:fitted").state == "done"
        assert step(ingested, store, "calibrate:given").state == "to do"
        assert step(ingested, store, "calibrate:fitted").identity in key

        write_export_record(store, ingested)
        assert step(ingested, store, "export").state == "done"
        assert step(ingested, store, "evaluate").state == "to do"

    def test_steps_that_a_job_does_without_are_not_in_its_plan(self, files: Path, store: DirectoryStore) -> None:
        spec = job_spec(files, "fusion.calibrate=false", "baseline=null", "teachers.fitted.name=other")
        names = [step.name for step in make_plan(spec, store).steps]
        expected = [name for name, kind in STEPS if kind not in ("calibrate", "baseline")]
        assert names == [name.replace("fitted", "other") for name in expected]


class TestFusion:
    @pytest.mark.parametrize(
        ("overrides", "fused", "because"),
        [
            ((), "while training reads", "fusion.when is read; the shares of `static` need no student"),
            (
                ("objective=[{term: kl}, {term: kl, of: given}]",),
                "while training reads",
                "labels of given are given to",
            ),
            (("fusion.weighting={method: entropy}",), "while training reads", "the shares of `entropy` need no"),
            (
                ("fusion.when=write", "fusion.weighting={method: confidence}"),
                "once before training",
                "fusion.when is write, and the shares of `confidence` need no student",
            ),
            (("fusion.weighting={method: gate}",), "at every step", "the shares of `gate` change with training"),
        ],
    )
    def test_a_plan_says_when_teachers_are_fused_and_why(
        self, files: Path, store: DirectoryStore, overrides: tuple[str, ...], fused: str, because: str
    ) -> None:
        plan = make_plan(job_spec(files, *overrides), store)

        assert plan.fused == fused
        assert because in plan.fused_because


class TestRoom:
    def test_training_starts_early_only_where_teachers_and_workers_fit_together(
        self, files: Path, store: DirectoryStore
    ) -> None:
        roomy = make_plan(job_spec(files, "cluster.cpus=4"), store)
        assert roomy.pipelined
        assert roomy.pipelined_because == "teachers and workers together need 4 CPU of 4 CPU"
        tight = make_plan(job_spec(files, "cluster.cpus=3"), store)
        assert not tight.pipelined
        assert tight.pipelined_because == "teachers and workers together need 4 CPU, the cluster has 3 CPU"

    def test_a_cluster_elsewhere_is_asked_when_the_run_reaches_it(self, files: Path, store: DirectoryStore) -> None:
        plan = make_plan(job_spec(files, "cluster.address=auto", "teachers.given.resources.cpu=1000"), store)
        assert not plan.pipelined
        assert "when the cluster at cluster.address answers" in plan.pipelined_because

    @pytest.mark.parametrize(
        ("override", "what"),
        [
            ("teachers.given.replicas=3", "teacher given needs 3 CPU; the cluster has 2 CPU in all"),
            ("train.workers=3", "training on 3 workers needs 3 CPU"),
        ],
    )
    def test_what_would_wait_for_ever_is_said_at_once(
        self, files: Path, store: DirectoryStore, override: str, what: str
    ) -> None:
        with pytest.raises(DoesNotFitError, match=what):
            make_plan(job_spec(files, override), store)

    @pytest.mark.parametrize(
        "overrides",
        [
            ("teachers.given.resources={cpu: 1, accelerator: A100}",),
            ("teachers.given.resources.labels={zone: a}",),
            ("teachers.given.resources.custom={licence: 1}",),
            ("teachers.given.replicas=3", "cluster.may_grow_to=[{nodes: 3, cpus: 1}]"),
            ("teachers.given.replicas=3", "cluster.kubernetes={image: coffey}"),
            ("teachers.given.replicas=3", "cluster.launcher={provider: {type: aws}}"),
        ],
    )
    def test_what_this_machine_cannot_tell_is_a_note(
        self, files: Path, store: DirectoryStore, overrides: tuple[str, ...]
    ) -> None:
        plan = make_plan(job_spec(files, *overrides), store)
        (note,) = plan.notes
        assert note.startswith("teacher given needs ")
        assert note.endswith("is seen when the job's cluster answers")
        assert (plan.pipelined, plan.pipelined_because) == (False, "decided when the job's cluster answers")
        assert make_plan(job_spec(files, *overrides, "cluster.address=auto"), store).notes == ()

    def test_what_this_machine_can_tell_is_refused_beside_what_it_cannot(
        self, files: Path, store: DirectoryStore
    ) -> None:
        spec = job_spec(files, "teachers.given.resources={accelerator: A100}", "train.workers=3")
        with pytest.raises(DoesNotFitError, match="training on 3 workers needs 3 CPU"):
            make_plan(spec, store)

    def test_what_is_done_needs_no_room(self, finished: Path) -> None:
        huge = job_spec(
            finished, "teachers.given.resources.gpu=8", "train.workers=8", "teachers.fitted.resources.cpu=99"
        )
        store, job = DirectoryStore(finished / "store"), resolve(huge)
        assert {step.state for step in make_plan(huge, store).steps} == {"done"}
        check_room(*Inspection(job, store).left(), Capacity(1, 0))

        store.delete(job.students[0].record_key)
        with pytest.raises(DoesNotFitError, match="training on 8 workers"):
            make_plan(huge, store)

    @pytest.mark.parametrize("lost", ["fit", "baseline"])
    def test_what_is_trained_beside_the_student_needs_room_too(self, finished: Path, lost: str) -> None:
        huge = resolve(job_spec(finished, "teachers.fitted.resources.cpu=99", "train.cpus_per_worker=99"))
        store, task = (
            DirectoryStore(finished / "store"),
            huge.teachers[0].fit if lost == "fit" else huge.baselines[0][0],
        )
        assert task is not None
        store.delete(task.record_key)
        with pytest.raises(DoesNotFitError, match="teacher fitted" if lost == "fit" else "training on"):
            check_room(*Inspection(huge, store).left(), Capacity(2, 0))
