"""One training, fully resolved: what a worker is handed, and what it leaves behind.

Fitting a teacher, training the lone student and distilling the student are the same loop with different tasks.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Config
from cluster.identity import identity_of
from cluster.models import ModelConfig
from cluster.optimizers import OptimizerConfig
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Digest, Identity
from cluster.shards.views.spec import ViewsConfig
from cluster.weights import StoredWeights
from students.cohorts.catalogue import CohortConfig
from students.cohorts.codistillation import CodistillationCohort
from students.objectives.catalogue import TermConfig
from students.objectives.term import TeacherTap
from students.spec import Combine, OrderConfig
from students.weightings.catalogue import WeightingConfig
from students.weightings.static import StaticWeighting

RECIPE = 2


class Target(Config):
    """One label set's part in the fused target."""

    labels: LabelSetRecord
    weight: float
    calibration: str | None = None
    """Key of the record with the calibration; None for none."""


class Targets(Config):
    """What the student is to match."""

    combine: Combine
    parts: Annotated[tuple[Target, ...], Field(min_length=1)]
    ensemble: str | None = Field(default=None, exclude_if=lambda key: key is None)
    """Key of the record with what held-out rows taught of combining the parts; None where nothing is learned."""
    weighting: WeightingConfig = Field(
        default=StaticWeighting(), exclude_if=lambda weighting: weighting == StaticWeighting()
    )
    # Neither is part of an identity where it is not used: such targets are what they were without it.


class LiveTeacher(Config):
    """A teacher that stands beside the student, because terms read weights of it, or outputs that are not stored."""

    name: str
    identity: Identity
    model: ModelConfig
    weights: StoredWeights | str
    """Where they lie, or the key of the record of the training that makes them."""


class Peer(Config):
    """A further member of a cohort."""

    name: str
    model: ModelConfig
    model_source: str
    """Digest of the factory's source file."""


class TrainingTask(Config):
    """Everything that determines a training, and where its results go."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,119}$")]
    folder: Literal["teachers", "students"]
    model: ModelConfig
    model_source: str
    """Digest of the factory's source file."""
    dataset: Identity
    held_out: Identity
    """Data set on which accuracy is watched; never trained on."""
    targets: Targets | None = None
    stored_taps: tuple[LabelSetRecord, ...] = Field(default=(), exclude_if=lambda records: not records)
    """Label sets with outputs of modules that terms read."""
    live_teachers: tuple[LiveTeacher, ...] = Field(default=(), exclude_if=lambda teachers: not teachers)
    """Teachers of which terms read anything else. Trainings without either have the identity they always had."""
    objective: tuple[TermConfig, ...]
    cohort: CohortConfig | None = Field(default=None, exclude_if=lambda cohort: cohort is None)
    """How several students teach each other; None for one that learns by itself."""
    peers: tuple[Peer, ...] = Field(default=(), exclude_if=lambda peers: not peers)
    """The members of the cohort besides `model`."""
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    optimizer: OptimizerConfig
    seed: int
    order: OrderConfig
    views: ViewsConfig | None = Field(default=None, exclude_if=lambda views: views is None)
    """How rows are seen; label sets are then those of the rows as they are, from which those of each view follow."""
    precision: Literal["float32", "bfloat16"] = "float32"
    membership: "Membership | None" = Field(default=None, exclude_if=lambda membership: membership is None)
    """The cohort to which it belongs, if members train on workers of their own."""

    @property
    def identity(self) -> str:
        """Identity of the trained weights; where they go and what they are called is not part of it."""
        facts = self.model_dump(mode="json", exclude={"name", "folder", "membership"})
        if self.membership is not None:
            facts["membership"] = [self.membership.cohort.identity, self.membership.number]
        return identity_of("training", RECIPE, facts)

    def modules_of(self, teacher: str) -> tuple[str, ...]:
        """Return the modules of one teacher whose outputs terms read."""
        return tuple(tap.module for tap in modules_read(self.objective) if tap.teacher == teacher)

    def live_modules_of(self, teacher: str) -> tuple[str, ...]:
        """Return those that are not stored."""
        stored = {module for record in self.stored_taps if record.teacher == teacher for module in record.taps}
        return tuple(module for module in self.modules_of(teacher) if module not in stored)

    @property
    def needs_each_teacher(self) -> bool:
        """Whether the objective asks for what teachers say one by one, beside or in place of what is fused of them."""
        is_blended = self.targets is not None and self.targets.weighting.changes_with_training
        return is_blended or any(term.of is not None for term in self.objective)

    @property
    def prefix(self) -> str:
        """Where everything of this training lies in the store."""
        return f"{self.folder}/{self.name}-{self.identity}"

    @property
    def record_key(self) -> str:
        """Key of the record that is written last."""
        return f"{self.prefix}/trained.json"

    @property
    def progress_key(self) -> str:
        """Key of the record that tells how far it is."""
        return f"{self.prefix}/progress.json"


class Membership(Config):
    """A place in a cohort whose members train on workers of their own."""

    cohort: TrainingTask
    """The training that stands for all of them."""
    number: Annotated[int, Field(ge=0)]
    """0 is the student."""

    @property
    def method(self) -> CodistillationCohort:
        """How they exchange weights."""
        assert isinstance(self.cohort.cohort, CodistillationCohort), "others learn in one group"  # noqa: S101
        return self.cohort.cohort


class Execution(Config):
    """How a training is carried out, which never changes what it is."""

    accumulate: int = 1
    compile: bool = False
    checkpoint_every_s: float = 30.0
    labels_timeout_s: float = 600.0
    start_timeout_s: float = 600.0
    threads: int = 1


class MemberPoint(Config):
    """One member of a cohort after an epoch: accuracy and NLL (nats) on the held-out rows."""

    accuracy: float
    nll: float


class EpochPoint(Config):
    """One epoch: mean training loss, and accuracy and NLL (nats) on the held-out rows."""

    epoch: int
    loss: float
    """Of a cohort in one worker group: the mean over its members."""
    accuracy: float
    nll: float
    members: tuple[MemberPoint, ...] = Field(default=(), exclude_if=lambda members: not members)
    """While a cohort learns: each of its members, of which the best one or all as one are shown."""


class MemberRecord(Config):
    """One member of a cohort that has learned."""

    name: str
    parameters: int
    points: tuple[EpochPoint, ...]


class TrainedExit(Config):
    """A module at which the student may end, and where the weights of what makes logits of its output lie."""

    module: str
    weights: StoredWeights


class TrainedRecord(Config):
    """`trained.json`: a training that is complete."""

    identity: Identity
    weights_key: str
    weights_digest: Digest
    num_bytes: int
    parameters: int
    points: tuple[EpochPoint, ...]
    rows: int
    """Rows that the last attempt learned from, each as often as it did."""
    seconds: float
    """Wall time of the last attempt; what an earlier one had done is not in it, the turns of other members are."""
    waited_s: float = 0.0
    """Part of it in which training waited for labels."""
    exported: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """Whose weights these are: a member of the cohort, or `fused` for all as one; None for one that learned alone."""
    members: tuple[MemberRecord, ...] = Field(default=(), exclude_if=lambda members: not members)
    """How each member of the cohort learned."""
    exits: tuple[TrainedExit, ...] = ()


class ProgressRecord(Config):
    """`progress.json`: overwritten as training goes on; for display alone."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    members: tuple[float, ...] = Field(default=(), exclude_if=lambda members: not members)
    """The accuracy of each member of a cohort."""


def modules_read(objective: Sequence[TermConfig]) -> tuple[TeacherTap, ...]:
    """Return the modules of teachers whose outputs terms read, each once."""
    return tuple(dict.fromkeys(tap for term in objective for tap in term.teacher_modules))


def heads_read(objective: Sequence[TermConfig]) -> tuple[TeacherTap, ...]:
    """Return the linear layers of teachers whose weights terms read, each once."""
    return tuple(dict.fromkeys(head for term in objective for head in term.teacher_heads))
