"""Teachers with their identities: what determines what each says, and the label sets that it will write."""

from dataclasses import dataclass
from types import MappingProxyType

from cluster.identity import digest_of, identity_of
from cluster.models import source_digest
from cluster.shards.codecs.codec import CodecMisfitError
from cluster.shards.codecs.open import codec_of
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Column
from cluster.shards.taps import tap_columns
from cluster.weights import StoredWeights
from orchestrator.resolution.probing import Probed, ShapesByPath
from orchestrator.resolution.splits import DatasetIds
from orchestrator.resolution.trainings import fit_task
from orchestrator.resolution.viewing import views_of
from orchestrator.spec import JobSpec
from students.task import TrainingTask
from teachers.spec import TeacherConfig
from teachers.weights import ForeignWeightsError, classes_in, own_classes, read_weights, weights_in_store

RECIPE = 1


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


def resolve_teacher(
    spec: JobSpec, config: TeacherConfig, datasets: DatasetIds, classes: tuple[str, ...], probed: Probed
) -> ResolvedTeacher:
    """Return a teacher that the spec names; raises as `resolve` does."""
    fit = fit_task(config, datasets)
    body = None if fit else _weights(config)
    own = _own_classes(config, body, classes)
    return labeller(
        spec,
        config,
        datasets,
        num_classes=len(own or classes),
        own=own,
        fit=fit,
        body=body,
        taps=probed.stored.get(config.name, {}),
    )


def labeller(
    spec: JobSpec,
    config: TeacherConfig,
    datasets: DatasetIds,
    *,
    num_classes: int,
    own: tuple[str, ...] = (),
    fit: TrainingTask | None = None,
    body: bytes | None = None,
    taps: ShapesByPath = MappingProxyType({}),
) -> ResolvedTeacher:
    """Return a teacher whose weights are those of the training `fit`, or the file with this `body`.

    `own` are the names of a specialist's classes; `taps` has the shapes of the outputs of modules that it stores.
    """
    facts: dict[str, object] = {"inputs": config.inputs}
    if fit is not None:
        facts |= {"fit": fit.identity}
    elif body is not None:
        facts |= {"weights": digest_of(body)} | _model_facts(config)
    identity = identity_of("teacher", RECIPE, facts)
    given = (
        None if body is None else weights_in_store(f"teachers/{config.name}-{identity}", body, backend=config.backend)
    )
    columns = _columns(config, num_classes)
    train, held_out, test = (
        LabelSetRecord(
            teacher=config.name,
            teacher_identity=identity,
            dataset=dataset,
            columns=columns + tap_columns(stored, taps),
            codec=config.labels,
            num_classes=num_classes,
            classes=own,
            taps=stored,
            compression=spec.data.compression,
        )
        # Outputs of modules are for training: no other rows are compared with a student's.
        for dataset, stored in ((datasets.train, config.taps), (datasets.held_out, {}), (datasets.test, {}))
    )
    seen = tuple(train.seen(view) for view in views_of(spec))
    return ResolvedTeacher(config, identity, fit, given, train, held_out, test, seen)


def _columns(config: TeacherConfig, num_classes: int) -> tuple[Column, ...]:
    try:
        return codec_of(config.labels, num_classes).columns()
    except CodecMisfitError as error:
        field, *facts = error.args
        raise CodecMisfitError(f"teachers.{config.name}.{field}", *facts) from error


def _weights(config: TeacherConfig) -> bytes:
    assert config.weights is not None  # noqa: S101 - the spec has exactly one of weights and fit
    return read_weights(config.weights)


def _own_classes(config: TeacherConfig, body: bytes | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a specialist's classes, as the spec says them, or else its file of weights."""
    carried = None if body is None or config.weights is None else classes_in(body, config.weights)
    if carried is not None and config.classes not in {None, carried}:
        raise ForeignWeightsError(config.name, carried, config.classes)
    return own_classes(config.name, carried or config.classes, classes)


def _model_facts(config: TeacherConfig) -> dict[str, object]:
    if config.model is None:
        return {}
    return {"model": config.model, "arguments": config.arguments, "source": source_digest(config.model)}
