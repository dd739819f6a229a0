"""One training, fully resolved: what a worker is handed, and what it leaves behind.

Fitting a teacher, training the lone student and distilling the student are the same loop with different tasks.
"""

from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cluster.config import Config
from cluster.identity import identity_of
from cluster.models import ModelConfig
from cluster.optimizers import OptimizerConfig
from cluster.shards.labelset import LabelSetRecord
from cluster.shards.schema import Digest, Identity
from students.objectives.catalogue import TermConfig
from students.spec import Combine, OrderConfig

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
    ensemble: str | None = None
    """Key of the record with what held-out rows taught of combining the parts; None where nothing is learned."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_learned(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # A key that is not there is no part of an identity: targets that learn nothing are what they are without it.
        return {name: value for name, value in dump(self).items() if name != "ensemble" or value is not None}


class TrainingTask(Config):
    """Everything that determines a training, and where its results go."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,79}$")]
    folder: Literal["teachers", "students"]
    model: ModelConfig
    model_source: str
    """Digest of the factory's source file."""
    dataset: Identity
    held_out: Identity
    """Data set on which accuracy is watched; never trained on."""
    targets: Targets | None = None
    objective: tuple[TermConfig, ...]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    optimizer: OptimizerConfig
    seed: int
    order: OrderConfig
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def identity(self) -> str:
        """Identity of the trained weights; where they go and what they are called is not part of it."""
        return identity_of("training", RECIPE, self.model_dump(mode="json", exclude={"name", "folder"}))

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


class Execution(Config):
    """How a training is carried out, which never changes what it is."""

    accumulate: int = 1
    compile: bool = False
    checkpoint_every_s: float = 30.0
    labels_timeout_s: float = 600.0
    threads: int = 1


class EpochPoint(Config):
    """One epoch: mean training loss, and accuracy and NLL (nats) on the held-out rows."""

    epoch: int
    loss: float
    accuracy: float
    nll: float


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
    """Wall time of the last attempt; what an earlier one had done is not in it."""
    waited_s: float = 0.0
    """Part of it in which training waited for labels."""


class ProgressRecord(Config):
    """`progress.json`: overwritten as training goes on; for display alone."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
