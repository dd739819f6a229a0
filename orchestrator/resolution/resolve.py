"""From a spec to identities: what every step would produce, without doing any of it.

Reads the source files and the weights for their digests, and nothing else. Imports neither torch nor Ray; the models of
a job that taps modules are built, for the shapes, and need torch.
"""

from dataclasses import dataclass

from cluster.identity import identity_of
from cluster.shards.calibration import calibration_key
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.labelset import LabelSetRecord
from orchestrator.resolution.beside import live_teacher, peers_of, reads_live, reads_stored
from orchestrator.resolution.generations import resolve_generations
from orchestrator.resolution.labellers import ResolvedTeacher, resolve_teacher
from orchestrator.resolution.probing import check_terms, probe
from orchestrator.resolution.sharing import check_sharing
from orchestrator.resolution.specialists import check_specialists, classes_to_fit
from orchestrator.resolution.splits import DatasetIds, columns_of_rows, dataset_ids
from orchestrator.resolution.trainings import Lesson, lone_tasks, student_task
from orchestrator.resolution.viewing import check_views, views_of
from orchestrator.sources.read import class_names, source_digests
from orchestrator.spec import JobSpec
from students.ensembles.record import check_num_weights, ensemble_key
from students.task import Target, Targets, TrainingTask
from students.weightings.column import check_column

RECIPE = 1
EVALUATION_RECIPE = 2
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Job:
    """A spec with every identity in it."""

    spec: JobSpec
    classes: tuple[str, ...]
    datasets: DatasetIds
    teachers: tuple[ResolvedTeacher, ...]
    """Empty where something else teaches the student."""
    fused: LabelSetRecord | None
    """The label set that the fuse step writes, if one is asked for; in views, one for each."""
    generations: tuple[ResolvedTeacher, ...]
    """Trainings of the student's model that teach the next one, in order; the student is the last generation."""
    students: tuple[TrainingTask, ...]
    """One for each seed."""
    baselines: tuple[tuple[TrainingTask, ...], ...]
    """For each seed one for each candidate length; empty without a baseline."""

    @property
    def fusion(self) -> Targets | None:
        """How the teachers are fused for training rows, while reading or before; None where there are none."""
        return _fusion(self.spec, self.teachers)

    def seen(self, record: LabelSetRecord) -> tuple[LabelSetRecord, ...]:
        """Return the label sets that stand for one of the training rows: itself, or one for each view."""
        return tuple(record.seen(view) for view in views_of(self.spec))

    @property
    def labellers(self) -> tuple[ResolvedTeacher, ...]:
        """All that write label sets: the teachers, and the generations that teach."""
        return *self.teachers, *self.generations

    @property
    def trainings(self) -> tuple[TrainingTask, ...]:
        """The trainings of the student's model in order: each generation, and then one for each seed."""
        return *(generation.fit for generation in self.generations if generation.fit is not None), *self.students

    @property
    def evaluation_key(self) -> str:
        """Key of the record with all figures."""
        facts = {
            "classes": list(self.classes),
            "test": self.datasets.test,
            "teachers": [[teacher.test.identity, teacher.held_out.identity] for teacher in self.teachers],
            "fusion": self.fusion,
            "students": [task.identity for task in self.students],
            "baselines": [[task.identity for task in tasks] for tasks in self.baselines],
        }
        if self.generations:
            facts |= {"generations": [[one.test.identity, one.held_out.identity] for one in self.generations]}
        return f"evaluations/{self.spec.student.name}-{identity_of('evaluation', EVALUATION_RECIPE, facts)}.json"

    @property
    def export_key(self) -> str:
        """Key of the record that names the exported files."""
        facts = {"student": self.students[0].identity, "formats": sorted(self.spec.export)}
        return f"{self.students[0].prefix}/export/{identity_of('export', RECIPE, facts)}.json"


def resolve(spec: JobSpec) -> Job:
    """Compute every identity.

    Raises:
        SourceMissingError, SourceFormatError: the data is not what the spec says.
        WeightsMissingError, UnsafeWeightsError, ClassMapError: the same of a teacher's weights.
        ModelSourceError: a model's module cannot be found.
        CodecMisfitError: a teacher's labels cannot be stored as the spec says.
        WeightingColumnError: the fusion asks for a column that the rows do not have.
        UnlikeSpecialistsError: teachers that know some classes are not put together as they can be.
        TooManyWeightsError: there are too many classes for the way in which teachers are combined.
        ModuleMissingError, UntappableError, NoHeadError, TapMisfitError, TermMisfitError: a module that is named is not
            there, or what it gives cannot be stored or compared.
        NotSharedError: members of a cohort cannot have a module in common.
        ViewMisfitError: rows cannot be seen as `data.views` says.
    """
    classes = class_names(spec.data)
    datasets = dataset_ids(spec.data, classes=classes, digests=source_digests(spec.data))
    datasets = datasets.for_specialists(classes_to_fit(spec.teachers, classes))
    if spec.fusion.weighting.column_read is not None:
        check_column(spec.fusion.weighting, columns_of_rows(spec.data))
    check_num_weights(spec.fusion, teachers=len(spec.teachers), classes=len(classes))
    check_views(spec)
    probed = probe(spec, num_classes=len(classes))
    check_terms(spec, probed.shapes(num_classes=len(classes)))
    check_sharing(spec, num_classes=len(classes))
    teachers = tuple(resolve_teacher(spec, teacher, datasets, classes, probed) for teacher in spec.teachers)
    check_specialists(spec, teachers, classes)
    targets, fused = _fusion(spec, teachers), None
    if targets is not None and spec.fusion.when == "write":
        fused = _fused(spec, targets, datasets, num_classes=len(classes))
        targets = Targets(combine="mean_logit", parts=(Target(labels=fused, weight=1.0),))
    first = _lesson(spec, targets, teachers)
    generations, lesson = resolve_generations(spec, first, datasets, num_classes=len(classes))
    return Job(
        spec=spec,
        classes=classes,
        datasets=datasets,
        teachers=teachers,
        fused=fused,
        generations=generations,
        students=tuple(
            student_task(spec, datasets, lesson, name=f"{spec.student.name}-{seed}", seed=seed)
            for seed in spec.train.seeds
        ),
        baselines=tuple(lone_tasks(spec, datasets, seed=seed) for seed in spec.train.seeds) if spec.baseline else (),
    )


def _fusion(spec: JobSpec, teachers: tuple[ResolvedTeacher, ...]) -> Targets | None:
    if not teachers:
        return None
    method = spec.fusion.calibration
    parts = tuple(
        Target(
            labels=teacher.train,
            weight=spec.fusion.weights.get(teacher.config.name, 1.0),
            calibration=None if method is None else calibration_key(teacher.held_out, method),
        )
        for teacher in teachers
    )
    held_out, calibrations = [teacher.held_out for teacher in teachers], [part.calibration for part in parts]
    learned = ensemble_key(spec.fusion, held_out, calibrations)
    return Targets(combine=spec.fusion.combine, parts=parts, ensemble=learned, weighting=spec.fusion.weighting)


def _fused(spec: JobSpec, targets: Targets, datasets: DatasetIds, *, num_classes: int) -> LabelSetRecord:
    return LabelSetRecord(
        teacher=ENSEMBLE,
        teacher_identity=identity_of("fusion", RECIPE, {"targets": targets}),
        dataset=datasets.train,
        columns=codec_of(DenseConfig(), num_classes).columns(),
        compression=spec.data.compression,
    )


def _lesson(spec: JobSpec, targets: Targets | None, teachers: tuple[ResolvedTeacher, ...]) -> Lesson:
    return Lesson(
        spec.objective,
        targets=targets,
        stored_taps=tuple(teacher.train for teacher in teachers if reads_stored(spec.objective, teacher.config)),
        live_teachers=tuple(
            live_teacher(teacher.config, teacher.identity, teacher.fit.record_key if teacher.fit else teacher.given)
            for teacher in teachers
            if reads_live(spec.objective, teacher.config)
        ),
        cohort=spec.cohort,
        peers=peers_of(spec.cohort, spec.student),
    )
