"""The plan: every step, whether it is done, and what is left.

Making one changes nothing, and needs neither torch nor Ray.
"""

from typing import Literal

from cluster.config import Config
from cluster.session import Capacity, local_capacity
from cluster.shards.calibration import Method, calibration_key
from cluster.shards.dataset import DatasetRecord, dataset_key
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from orchestrator.planning.labelled import Labelled, teachers_left_out, unread_label_sets
from orchestrator.planning.placement import Placement, misfits, place, unanswered
from orchestrator.planning.planned import Part, PlannedStep, StepKind, StepState
from orchestrator.resolution.beside import loaded_beside
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.rules.weighing import FusedWhen, fused_when
from orchestrator.sources.quarantine import describe_quarantine
from orchestrator.spec import JobSpec
from students.ensembles.record import EnsembleRecord
from students.members import groups_of
from students.spec import TrainConfig
from students.task import TrainingTask
from teachers.spec import TeacherConfig


class Plan(Config):
    """What a run would do."""

    name: str
    store: str
    steps: tuple[PlannedStep, ...]
    pipelined: bool
    """Whether training starts while labels still arrive."""
    pipelined_because: str
    fused: FusedWhen | None
    """When the teachers become one target; None where there are none."""
    fused_because: str
    members: Literal["side by side", "in turns"] | None = None
    """How students that exchange weights share the cluster; None where there are none, or nobody knows yet."""
    members_because: str = ""
    notes: tuple[str, ...] = ()
    """What only the cluster of the job can say."""


def make_plan(spec: JobSpec, store: ObjectStore) -> Plan:
    """Say what is done and what is left.

    A cluster at an address is taken to be large enough; what does not fit is said when the run reaches it. Without an
    address it is one that is started on this machine, as far as that can have what the job asks for.

    Raises:
        DoesNotFitError: the cluster would be one on this machine, and that is too small.
        SealMisfitError: labels that count as complete are not those of their data set.
        BadRecordError, ForeignLabelsError: a record in the store cannot be read, or is that of other labels; and what
            `resolve` raises.
    """
    inspection = Inspection(resolve(spec), store)
    inspection.check_seals()
    placement: Placement | None = None
    notes: tuple[str, ...] = ()
    if spec.cluster.address is None:
        capacity = local_capacity(spec.cluster.cpus)
        notes = unanswered(misfits(*inspection.left(), capacity), spec.cluster)
        placement = None if notes else inspection.place(capacity)
    asked = "the job's cluster" if notes else "the cluster at cluster.address"
    fused, fused_because = fused_when(spec.fusion, spec.objective) if spec.teachers else (None, "there are no teachers")
    return Plan(
        name=spec.name,
        store=store.uri,
        steps=inspection.steps(),
        pipelined=placement.pipelined if placement else False,
        pipelined_because=placement.because if placement else f"decided when {asked} answers",
        fused=fused,
        fused_because=fused_because,
        members=placement.members if placement else None,
        members_because=placement.members_because if placement else "",
        notes=notes,
    )


class Inspection:
    """Compares a job with what is in the store."""

    def __init__(self, job: Job, store: ObjectStore) -> None:
        self._job, self._store = job, store
        self._datasets = {
            identity: read_record(store, key, DatasetRecord) if store.exists(key := dataset_key(identity)) else None
            for identity in job.datasets.distinct()
        }
        self._labelled, self._left_out = Labelled(store, self._datasets), teachers_left_out(store, job)
        self._unread = unread_label_sets(job, self._left_out)

    def steps(self) -> tuple[PlannedStep, ...]:
        """Return all steps in the order of the data's way."""
        job = self._job
        steps = [self.ingest()]
        steps += [self.fit(teacher.fit) for teacher in job.teachers if teacher.fit is not None]
        steps += [self.label(teacher) for teacher in job.teachers]
        if (method := job.spec.fusion.calibration) is not None:
            steps += [self.calibrate(teacher, method) for teacher in job.teachers]
        if job.fusion is not None and job.fusion.ensemble is not None:
            steps.append(self.combine(job.fusion.ensemble))
        if job.fused is not None:
            steps.append(self.fuse(job.fused))
        if job.baselines:
            steps.append(self.baseline())
        for generation in job.generations:
            steps += [self.generation(generation), self.label(generation)]
        steps += [self.train(), self.evaluate(), self.export()]
        return tuple(steps)

    def ingest(self) -> PlannedStep:
        """Look for the data sets."""
        records = list(self._datasets.values())
        found = [record for record in records if record is not None]
        rows = sum(record.rows for record in found)
        left_out = describe_quarantine(self._store, self._job.datasets.train)
        return PlannedStep(
            name="ingest",
            kind="ingest",
            identity=self._job.datasets.train,
            state=_state(len(found), len(records)),
            rows=rows if len(found) == len(records) else None,
            rows_done=rows,
            note=f"{self._job.spec.data.read.source}: training, labelled, held-out and test rows{left_out}",
        )

    def fit(self, task: TrainingTask) -> PlannedStep:
        """Look for a fitted teacher."""
        return self._trained(f"fit:{task.name}", "fit", (task,), note=f"{task.epochs} epochs on the labelled rows")

    def label(self, teacher: ResolvedTeacher) -> PlannedStep:
        """Count the committed shards of a teacher."""
        needed = self.needed(teacher)
        records = [self._datasets[record.dataset] for record in needed]
        rows = [sum(shard.rows for shard in record.shards) if record else None for record in records]
        done = sum(self._labelled.num_rows(record) for record in needed)
        sealed = sum(self._labelled.is_sealed(record) for record in needed)
        known = None if None in rows else sum(count for count in rows if count is not None)
        state: StepState = "done" if sealed == len(records) else ("partial" if done else "to do")
        note = f"{teacher.config.max_replicas} x {teacher.config.resources} on Ray Serve"
        if teacher.views != (teacher.train,):
            note = f"{len(teacher.views)} view(s) of the training rows, {note}"
        if not set(teacher.views) & set(needed):
            note += ", no training rows " + ("before it is selected" if self._left_out is None else "are read")
        return PlannedStep(
            name=f"label:{teacher.config.name}",
            kind="label",
            identity=teacher.train.identity,
            state=state,
            rows=known,
            rows_done=done,
            note=note,
        )

    def check_seals(self) -> None:
        """Compare the seals of labels that count as complete with their data sets.

        Raises:
            SealMisfitError: labels are not those of their data set.
            BadRecordError, ForeignLabelsError: a seal cannot be read, or is that of other labels.
        """
        records = [record for labeller in self._job.labellers for record in self.needed(labeller)]
        for record in [*records, *(() if self._job.fused is None else self._job.seen(self._job.fused))]:
            self._labelled.check_seal(record)

    def needed(self, teacher: ResolvedTeacher) -> tuple[LabelSetRecord, ...]:
        """Return the label sets of a teacher that anybody reads, as far as that is known."""
        return tuple(record for record in teacher.label_sets if record not in self._unread)

    @property
    def awaits_selection(self) -> bool:
        """Whether held-out rows are still to say which teachers have a say."""
        return self._left_out is None

    def calibrate(self, teacher: ResolvedTeacher, method: Method) -> PlannedStep:
        """Look for a teacher's calibration."""
        key, note = calibration_key(teacher.held_out, method), f"{method}, on the held-out rows"
        return self._recorded(f"calibrate:{teacher.config.name}", "calibrate", key, note=note)

    def combine(self, key: str) -> PlannedStep:
        """Look for what the held-out rows taught of how to combine the teachers."""
        fusion = self._job.spec.fusion
        note = f"{fusion.combine} of {'selected' if fusion.select == 'greedy' else 'all'} teachers"
        if self._store.exists(key):
            note = ", ".join([note, *_shares(read_record(self._store, key, EnsembleRecord))])
        return self._recorded("combine", "combine", key, note=f"{note}, on the held-out rows")

    def fuse(self, record: LabelSetRecord) -> PlannedStep:
        """Look for the fused labels."""
        dataset, records = self._datasets[record.dataset], self._job.seen(record)
        done = sum(map(self._labelled.num_rows, records))
        is_sealed = all(map(self._labelled.is_sealed, records))
        return PlannedStep(
            name="fuse",
            kind="fuse",
            identity=record.identity,
            state="done" if is_sealed else ("partial" if done else "to do"),
            rows=len(records) * dataset.rows if dataset else None,
            rows_done=done,
            note=f"{self._job.spec.fusion.combine}, {self._job.spec.fusion.weighting.method} shares",
        )

    def train(self) -> PlannedStep:
        """Look for the trained students."""
        train = self._job.spec.train
        note = f"{len(train.seeds)} seed(s), {train.epochs} epochs, {train.num_workers_shown}"
        if beside := loaded_beside(self._store, self._job.students[0].live_teachers):
            note += f"; {beside}"
        if (cohort := self._job.spec.cohort) is not None:
            note = f"{note}, {1 + len(cohort.members)} members that learn together ({cohort.method})"
        return self._trained(f"train:{self._job.spec.student.name}", "train", self._job.students, note=note)

    def generation(self, generation: ResolvedTeacher) -> PlannedStep:
        """Look for a generation before the student."""
        assert generation.fit is not None, "generations are trained"  # noqa: S101
        train, name = self._job.spec.train, f"train:{generation.config.name}"
        return self._trained(name, "train", (generation.fit,), note=f"{train.epochs} epochs, {train.num_workers_shown}")

    def baseline(self) -> PlannedStep:
        """Look for the lone students."""
        assert self._job.spec.baseline is not None  # noqa: S101 - called only with baselines in the job
        lengths = ", ".join(map(str, self._job.spec.baseline.epochs))
        seen = ", of the rows as they are and in views" if self._job.spec.data.views else ""
        tasks = tuple(task for tasks in self._job.baselines for task in tasks)
        return self._trained("baseline", "baseline", tasks, note=f"on labels alone, {lengths} epochs{seen}")

    def evaluate(self) -> PlannedStep:
        """Look for the figures."""
        return self._recorded("evaluate", "evaluate", self._job.evaluation_key, note="all models on the test rows")

    def export(self) -> PlannedStep:
        """Look for the exported files."""
        return self._recorded("export", "export", self._job.export_key, note=", ".join(self._job.spec.export))

    def trainings(self) -> tuple[PlannedStep, ...]:
        """Look for all that the student's model is trained for, in order: the generations, then the student."""
        return *map(self.generation, self._job.generations), self.train()

    def left(self, part: Part = "all") -> tuple[list[TeacherConfig], TrainConfig | None]:
        """Return who needs room for a part of the job.

        What is done needs none: labels may come from a larger cluster, last week.
        """
        job = self._job
        labellers = {"all": job.labellers, "teachers": job.teachers, "student": job.generations}[part]
        teachers = [
            teacher.config
            for teacher in labellers
            if _is_left(self.label(teacher)) or (teacher.fit is not None and _is_left(self.fit(teacher.fit)))
        ]
        trains = any(map(_is_left, self.trainings())) or (bool(job.baselines) and _is_left(self.baseline()))
        return teachers, job.spec.train if trains and part != "teachers" else None

    def place(self, capacity: Capacity, part: Part = "all") -> Placement:
        """Decide how the labelling and the training that are left of a part of the job share a cluster."""
        job = self._job
        labellers = () if part == "student" else job.teachers
        teachers = [teacher.config for teacher in labellers if _is_left(self.label(teacher))]
        train = job.spec.train if part != "teachers" and _is_left(self.trainings()[0]) else None
        num_groups = len(groups_of(job.students))
        return place(teachers, train, capacity, fused_first=job.fused is not None, num_groups=num_groups)

    def missing(self, record: LabelSetRecord) -> list[int]:
        """Return the shards of a label set that are not committed; the data set has to exist."""
        return self._labelled.missing(record)

    def _trained(self, name: str, kind: StepKind, tasks: tuple[TrainingTask, ...], *, note: str) -> PlannedStep:
        done = sum(self._store.exists(task.record_key) for task in tasks)
        return PlannedStep(name=name, kind=kind, identity=tasks[0].identity, state=_state(done, len(tasks)), note=note)

    def _recorded(self, name: str, kind: StepKind, key: str, *, note: str) -> PlannedStep:
        identity = key.rpartition("-")[2].removesuffix(".json").rpartition("/")[2]
        state = _state(int(self._store.exists(key)), 1)
        return PlannedStep(name=name, kind=kind, identity=identity, state=state, note=note)


def _shares(record: EnsembleRecord) -> list[str]:
    """Say who has which part of a selection, and who has none."""
    found = zip(record.teachers, record.shares, strict=False)
    return [f"{name} {100 * share:.0f} %" if share else f"{name} unused" for name, share in found]


def _is_left(step: PlannedStep) -> bool:
    return step.state != "done"


def _state(done: int, total: int) -> StepState:
    return "done" if done == total else ("partial" if done else "to do")
