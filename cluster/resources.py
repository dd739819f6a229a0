"""What a process reserves, and on which nodes it may run. Execution: nothing here changes a result."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from cluster.config import Config

_ACCELERATOR_PREFIX = "accelerator_type:"
_ACCELERATOR_AMOUNT = 0.001
"""With a type of accelerator Ray asks for so much of a resource that each node with one of them has."""

_KEPT = ("CPU", "GPU", "TPU", "memory", "object_store_memory")


def _is_custom(name: str) -> str:
    if name in _KEPT or name.startswith((_ACCELERATOR_PREFIX, "node:")):
        raise ValueError(f"{name} is a resource of Ray's own; expected the name of one that your nodes were given")
    return name


Amount = Annotated[float, Field(gt=0)]
ResourceName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_custom)]
LabelKey = Annotated[str, Field(pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


class NodeConfig(Config):
    """What the node of a process has to offer beside cores and GPUs."""

    custom: dict[ResourceName, Amount] = {}
    """Amounts of resources that the cluster's nodes were given by name."""
    labels: dict[LabelKey, LabelValue] = {}
    """Labels that the node carries, each with this very value."""
    accelerator: Annotated[str, Field(min_length=1)] | None = None
    """Type of the node's accelerators as Ray names it, such as `A100`."""

    @property
    def special(self) -> dict[str, float]:
        """Amounts by the names that Ray has for them, without cores and GPUs."""
        typed = {} if self.accelerator is None else {f"{_ACCELERATOR_PREFIX}{self.accelerator}": _ACCELERATOR_AMOUNT}
        return {**self.custom, **typed}

    @property
    def named(self) -> str:
        """All of it in words; empty where nothing is asked."""
        amounts = [f"{amount:g} {name}" for name, amount in self.custom.items()]
        types = [] if self.accelerator is None else [f"accelerator {self.accelerator}"]
        return ", ".join(amounts + types + [f"label {key}={value}" for key, value in self.labels.items()])


class ResourceConfig(NodeConfig):
    """What one replica or one worker reserves."""

    cpu: Amount = 1.0
    """Cores; also the number of torch threads, rounded down and at least one."""
    gpu: Annotated[float, Field(ge=0)] = 0.0

    @property
    def num_threads(self) -> int:
        """Threads that torch may use without taking another process's core."""
        return max(1, int(self.cpu))

    @property
    def amounts(self) -> Mapping[str, float]:
        """All that is reserved, by Ray's names; never 0."""
        return {"CPU": self.cpu, **({"GPU": self.gpu} if self.gpu else {}), **self.special}

    @property
    def ray_options(self) -> dict[str, object]:
        """Options of a Ray task, or of the actor of a replica."""
        options: dict[str, object] = {"num_cpus": self.cpu, "num_gpus": self.gpu}
        options |= {"resources": dict(self.custom)} if self.custom else {}
        options |= {"label_selector": dict(self.labels)} if self.labels else {}
        return options | ({"accelerator_type": self.accelerator} if self.accelerator else {})

    def __str__(self) -> str:
        gpus = f" and {self.gpu:g} GPU" if self.gpu else ""
        return ", ".join(filter(None, [f"{self.cpu:g} CPU{gpus}", self.named]))


class NodeKindConfig(NodeConfig):
    """A kind of node that a cluster may have more of than it has."""

    nodes: Annotated[int, Field(ge=1)]
    """How many of them there may be at most, those included that are there already."""
    cpus: Annotated[float, Field(ge=0)]
    """Cores of each."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
