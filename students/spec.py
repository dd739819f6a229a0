"""What a user says of the student: its model, what it learns from, and how it is trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cluster.config import Config
from cluster.models import InputConfig, Reference
from cluster.optimizers import OptimizerConfig
from cluster.resources import NodeConfig, ResourceConfig
from students.weightings.catalogue import WeightingConfig
from students.weightings.static import StaticWeighting

Combine = Literal["mean_probability", "mean_logit", "vote", "dawid_skene", "stacking"]
Merit = Literal["nll", "accuracy"]
Calibrate = Literal["temperature", "vector", "none"]
NumWorkers = Annotated[int, Field(ge=1)]


def _is_a_range(workers: tuple[int, int]) -> tuple[int, int]:
    if workers[0] > workers[1]:
        raise ValueError(f"found {list(workers)}; expected [min, max] with min <= max")
    return workers


def _named(calibrate: object) -> object:
    return {True: "temperature", False: "none"}[calibrate] if isinstance(calibrate, bool) else calibrate


class StudentConfig(Config):
    """The model that is trained."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")] = "student"
    model: Reference
    arguments: dict[str, bool | int | float | str | list[int] | list[float]] = {}
    inputs: InputConfig = InputConfig()


class FusionConfig(Config):
    """How several teachers become one target.

    With weights that do not depend on the student, a weighted sum of forward KLs has the gradient of the forward KL to
    the arithmetic mean of the probabilities, and a weighted sum of reverse KLs that of the reverse KL to the geometric
    mean, which is the mean of the logits. So one fused target loses nothing. An objective tempers what is fused: for
    the mean of the logits that is the mean of the tempered teachers, for the mean of the probabilities only at T = 1.

    Shares that follow the student are found anew at every step, from what every teacher says of the batch.
    """

    combine: Combine = "mean_probability"
    """Arithmetic or (normalised) geometric mean of the teachers' distributions; shares of their votes; or one that is
    learned from held-out rows: `dawid_skene` from the confusions of their votes, `stacking` by a softmax regression."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Share of each teacher by name, made to sum to 1; a teacher that is not named has weight 1. For
    a `weighting` that is not static: the shares from which it departs."""
    weighting: WeightingConfig = StaticWeighting()
    """How shares differ from row to row or from step to step; by default they don't."""
    select: Literal["all", "greedy"] = "all"
    """`greedy`: weights from a forward selection on held-out rows; a teacher that adds nothing is left out."""
    select_by: Merit = "nll"
    """What a greedy selection improves."""
    calibrate: Annotated[Calibrate, BeforeValidator(_named, json_schema_input_type=Calibrate | bool)] = "temperature"
    """Divide each teacher's logits by one temperature, fitted on the held-out rows (1706.04599); `vector` fits a scale
    and a bias for each class too. true is `temperature`, false is `none`."""
    when: Literal["read", "write"] = "read"
    """`read`: fuse while training reads, so that other weights cost nothing. `write`: write the fused labels once, so
    that training reads one column instead of one for each teacher."""

    @property
    def calibration(self) -> Literal["temperature", "vector"] | None:
        """How each teacher is calibrated, if at all."""
        return None if self.calibrate == "none" else self.calibrate

    @property
    def has_tables(self) -> bool:
        """Whether the combination is a table that is learned."""
        return self.combine in ("dawid_skene", "stacking")

    @property
    def is_learned(self) -> bool:
        """Whether held-out rows say how the teachers are combined."""
        return self.has_tables or self.select == "greedy"

    @model_validator(mode="after")
    def _one_hand_on_the_weights(self) -> "FusionConfig":
        if self.has_tables and self.select == "greedy":
            raise ValueError(f"select is greedy, and {self.combine} learns what each teacher is worth; expected all")
        if self.is_learned and self.weights:
            learner = self.combine if self.has_tables else "select: greedy"
            raise ValueError(f"weights names teachers, and {learner} learns what each is worth; expected no weights")
        return self


class OrderConfig(Config):
    """How rows are shuffled, independently of the number of workers."""

    lanes: Annotated[int, Field(ge=1, le=4096)] = 8
    """Parts of each epoch that are read side by side; the largest number of workers."""
    window_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows of a lane that are shuffled among each other in memory; by default what fits in 24 MiB over all lanes, at
    most 2048, and of large rows 128 as long as these fit in 256 MiB."""


class TrainConfig(Config):
    """The training loop of the distilled student."""

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Rows of one update, summed over all workers. Every row is used once an epoch, so a batch may hold fewer."""
    workers: NumWorkers | Annotated[tuple[NumWorkers, NumWorkers], AfterValidator(_is_a_range)] = 1
    """How many train together; `[min, max]` for as many as the cluster has room for at the time. The order of the rows
    is the same for any number."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    nodes: NodeConfig = NodeConfig()
    """What the node of a worker must have beside these; custom amounts are reserved by each worker."""
    optimizer: OptimizerConfig = OptimizerConfig()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    """One student is trained for each; the first is exported, all are reported."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is torch's autocast; weights and updates stay in float32."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which a worker computes its share of a batch, to bound memory."""
    compile: bool = False
    """Run the student through torch.compile."""
    order: OrderConfig = OrderConfig()
    checkpoint_every_s: Annotated[float, Field(gt=0)] = 30.0
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that lost workers are replaced, going on from the last checkpoint."""
    pipelined: Literal["auto", "never"] = "auto"
    """auto: start while labels still arrive if the cluster has room for teachers and workers together."""

    @model_validator(mode="after")
    def _room_can_be_counted(self) -> "TrainConfig":
        if self.min_workers < self.max_workers and self.nodes.labels:
            raise ValueError(
                f"workers is {[self.min_workers, self.max_workers]} and nodes.labels names "
                f"{next(iter(self.nodes.labels))!r}, which Ray does not look at when it counts the room for a group "
                "that may grow; expected a number of workers, or nodes told apart by `custom` or `accelerator`"
            )
        return self

    @property
    def min_workers(self) -> int:
        """The smallest number of workers that train."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The largest number of workers that train."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def num_workers_shown(self) -> str:
        """The number of workers, or both bounds, in words."""
        least, most = self.min_workers, self.max_workers
        return f"{least} worker(s)" if least == most else f"{least} to {most} workers"

    @property
    def resources(self) -> ResourceConfig:
        """What each worker reserves."""
        return ResourceConfig(cpu=self.cpus_per_worker, gpu=self.gpus_per_worker, **self.nodes.model_dump())


class BaselineConfig(Config):
    """The same student trained without teachers, on the labelled rows: what distillation has to beat.

    Each length is trained in full, with its own schedule, and the one with the best accuracy on the held-out rows is
    reported.
    """

    epochs: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 30, 100)
    """Candidate lengths, in passes over the labelled rows."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: OptimizerConfig | None = None
    """By default that of the distilled student."""
