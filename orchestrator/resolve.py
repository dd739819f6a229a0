"""From a spec to identities: what every step would produce, without doing any of it.

Reads the source files and the weights for their digests, and nothing else. Imports neither torch nor Ray; the models of
a job that taps modules are built, for the shapes, and need torch.
"""

from dataclasses import dataclass

from cluster.identity import digest_of, identity_of
from cluster.models import ModelConfig, source_digest
from cluster.shards.calibration import calibration_key
from cluster.shards.codecs.codec import CodecMisfitError
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import DenseConfig
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Column
from cluster.shards.taps import tap_columns
from cluster.weights import StoredWeights
from orchestrator.beside import live_teacher, reads_live, reads_stored
from orchestrator.probing import Probed, check_terms, probe
from orchestrator.sources.read import class_names, source_digests
from orchestrator.spec import JobSpec
from orchestrator.splits import DatasetIds, dataset_ids
from orchestrator.viewing import check_views, views_of, views_of_lone, views_of_student
from students.ensembles.record import check_num_weights, ensemble_key
from students.objectives.cross_entropy import CrossEntropyTerm
from students.spec import OrderConfig
from students.task import Target, Targets, TrainingTask
from teachers.spec import TeacherConfig
from teachers.weights import check_classes, classes_in, read_weights, weights_in_store

RECIPE = 1
EVALUATION_RECIPE = 2
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class ResolvedTeacher:
    """A teacher and everything it will write."""

    config: TeacherConfig
    identity: str
    fit: TrainingTask | None
    """The training that makes its weights, if we do."""
    given: StoredWeights | None
    """Where weights that the user gave lie in the store once it labels."""
    train: LabelSetRecord
    """Of the training rows as they are, from which those of each view follow."""
    held_out: LabelSetRecord
    test: LabelSetRecord
    views: tuple[LabelSetRecord, ...]
    """What it writes of the training rows: one set, or one for each view."""

    @property
    def label_sets(self) -> tuple[LabelSetRecord, ...]:
        """Its label sets in the order in which they are needed."""
        return self.held_out, *self.views, self.test


@dataclass(frozen=True)
class Job:
    """A spec with every identity in it."""

    spec: JobSpec
    classes: tuple[str, ...]
    datasets: DatasetIds
    teachers: tuple[ResolvedTeacher, ...]
    fused: LabelSetRecord | None
    """The label set that the fuse step writes, if one is asked for; in views, one for each."""
    students: tuple[TrainingTask, ...]
    """One for each seed."""
    baselines: tuple[tuple[TrainingTask, ...], ...]
    """For each seed one for each candidate length; empty without a baseline."""

    @property
    def fusion(self) -> Targets:
        """How the teachers are fused for training rows, whether it is done while reading or before."""
        return _fusion(self.spec, self.teachers)

    def seen(self, record: LabelSetRecord) -> tuple[LabelSetRecord, ...]:
        """Return the label sets that stand for one of the training rows: itself, or one for each view."""
        return tuple(record.seen(view) for view in views_of(self.spec))

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
        TooManyWeightsError: there are too many classes for the way in which teachers are combined.
        ModuleMissingError, UntappableError, NoHeadError, TapMisfitError, TermMisfitError: a module that is named is not
            there, or what it gives cannot be stored or compared.
        ViewMisfitError: rows cannot be seen as `data.views` says.
    """
    classes = class_names(spec.data)
    datasets = dataset_ids(spec.data, classes=classes, digests=source_digests(spec.data))
    check_num_weights(spec.fusion, teachers=len(spec.teachers), classes=len(classes))
    check_views(spec)
    probed = probe(spec, num_classes=len(classes))
    check_terms(spec, probed.shapes(num_classes=len(classes)))
    teachers = tuple(_teacher(spec, teacher, datasets, classes, probed) for teacher in spec.teachers)
    fused = _fused(spec, teachers, datasets) if spec.fusion.when == "write" else None
    targets = _fusion(spec, teachers)
    if fused is not None:
        targets = Targets(combine="mean_logit", parts=(Target(labels=fused, weight=1.0),))
    return Job(
        spec=spec,
        classes=classes,
        datasets=datasets,
        teachers=teachers,
        fused=fused,
        students=tuple(_student(spec, datasets, targets, teachers, seed) for seed in spec.train.seeds),
        baselines=tuple(_baseline(spec, datasets, seed) for seed in spec.train.seeds) if spec.baseline else (),
    )


def _teacher(
    spec: JobSpec, config: TeacherConfig, datasets: DatasetIds, classes: tuple[str, ...], probed: Probed
) -> ResolvedTeacher:
    check_classes(config.name, config.classes, classes)
    fit = _fit(config, datasets)
    body = None if fit else _weights(config, classes)
    facts: dict[str, object] = {"inputs": config.inputs}
    if fit is not None:
        facts |= {"fit": fit.identity}
    elif body is not None:
        facts |= {"weights": digest_of(body)} | _model_facts(config)
    identity = identity_of("teacher", RECIPE, facts)
    given = (
        None if body is None else weights_in_store(f"teachers/{config.name}-{identity}", body, backend=config.backend)
    )
    columns = _columns(config, len(classes))
    train, held_out, test = (
        LabelSetRecord(
            teacher=config.name,
            teacher_identity=identity,
            dataset=dataset,
            columns=columns + tap_columns(taps, probed.stored.get(config.name, {})),
            codec=config.labels,
            num_classes=len(classes),
            taps=taps,
            compression=spec.data.compression,
        )
        # Outputs of modules are for training: no other rows are compared with a student's.
        for dataset, taps in ((datasets.train, config.taps), (datasets.held_out, {}), (datasets.test, {}))
    )
    seen = tuple(train.seen(view) for view in views_of(spec))
    return ResolvedTeacher(config, identity, fit, given, train, held_out, test, seen)


def _columns(config: TeacherConfig, num_classes: int) -> tuple[Column, ...]:
    try:
        return codec_of(config.labels, num_classes).columns()
    except CodecMisfitError as error:
        field, *facts = error.args
        raise CodecMisfitError(f"teachers.{config.name}.{field}", *facts) from error


def _weights(config: TeacherConfig, classes: tuple[str, ...]) -> bytes:
    assert config.weights is not None  # noqa: S101 - the spec has exactly one of weights and fit
    body = read_weights(config.weights)
    check_classes(config.name, classes_in(body, config.weights), classes)
    return body


def _model_facts(config: TeacherConfig) -> dict[str, object]:
    if config.model is None:
        return {}
    return {"model": config.model, "arguments": config.arguments, "source": source_digest(config.model)}


def _fit(config: TeacherConfig, datasets: DatasetIds) -> TrainingTask | None:
    if config.fit is None:
        return None
    assert config.model is not None  # noqa: S101 - the spec allows `fit` only with a model
    return TrainingTask(
        name=config.name,
        folder="teachers",
        model=ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs),
        model_source=source_digest(config.model),
        dataset=datasets.labelled,
        held_out=datasets.held_out,
        objective=(CrossEntropyTerm(label_smoothing=config.fit.label_smoothing),),
        epochs=config.fit.epochs,
        batch_size=config.fit.batch_size,
        optimizer=config.fit.optimizer,
        seed=config.fit.seed,
        # Not the student's order: nothing that is said of the student may change a teacher. One worker needs one lane.
        order=OrderConfig(lanes=1),
    )


def _fusion(spec: JobSpec, teachers: tuple[ResolvedTeacher, ...]) -> Targets:
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


def _fused(spec: JobSpec, teachers: tuple[ResolvedTeacher, ...], datasets: DatasetIds) -> LabelSetRecord:
    return LabelSetRecord(
        teacher=ENSEMBLE,
        teacher_identity=identity_of("fusion", RECIPE, {"targets": _fusion(spec, teachers)}),
        dataset=datasets.train,
        columns=codec_of(DenseConfig(), teachers[0].train.num_classes).columns(),
        compression=spec.data.compression,
    )


def _student(
    spec: JobSpec, datasets: DatasetIds, targets: Targets, teachers: tuple[ResolvedTeacher, ...], seed: int
) -> TrainingTask:
    return TrainingTask(
        name=f"{spec.student.name}-{seed}",
        folder="students",
        model=_student_model(spec),
        model_source=source_digest(spec.student.model),
        dataset=datasets.train,
        held_out=datasets.held_out,
        targets=targets,
        stored_taps=tuple(teacher.train for teacher in teachers if reads_stored(spec.objective, teacher.config)),
        live_teachers=tuple(
            live_teacher(teacher.config, teacher.identity, teacher.fit.record_key if teacher.fit else teacher.given)
            for teacher in teachers
            if reads_live(spec.objective, teacher.config)
        ),
        objective=spec.objective,
        epochs=spec.train.epochs,
        batch_size=spec.train.batch_size,
        optimizer=spec.train.optimizer,
        seed=seed,
        order=spec.train.order,
        precision=spec.train.precision,
        views=views_of_student(spec),
    )


def _baseline(spec: JobSpec, datasets: DatasetIds, seed: int) -> tuple[TrainingTask, ...]:
    assert spec.baseline is not None  # noqa: S101
    return tuple(
        TrainingTask(
            name=f"baseline-{seed}-{epochs}",
            folder="students",
            model=_student_model(spec),
            model_source=source_digest(spec.student.model),
            dataset=datasets.labelled,
            held_out=datasets.held_out,
            objective=(CrossEntropyTerm(),),
            epochs=epochs,
            batch_size=spec.baseline.batch_size,
            optimizer=spec.baseline.optimizer or spec.train.optimizer,
            seed=seed,
            order=spec.train.order,
            precision=spec.train.precision,
            views=views_of_lone(spec),
        )
        for epochs in spec.baseline.epochs
    )


def _student_model(spec: JobSpec) -> ModelConfig:
    return ModelConfig(factory=spec.student.model, arguments=spec.student.arguments, inputs=spec.student.inputs)
