"""What a cohort is: several students that learn at once, from each other and from the objective.

A method is one file. Its docstring gives the paper, the formula and the shapes; its class the options. torch is
imported when a loss is computed and not when options are read, so that a plan needs none.

Every member minimises the whole objective by itself, with adapters of its own; a method adds what it has them learn of
each other.

Legend: K members, N rows, C classes.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config import Config
from cluster.models import Reference
from students.objectives.schedules import Weight

if TYPE_CHECKING:
    import torch
    from torch import nn

FIRST, FUSED = "student", "fused"
"""The member that `student` describes, and all members as one model."""
_MOST = 16

Reading = Literal["members", "labels", "held-out rows", "shared"]
"""`members`: what they say of a row; `labels`: class indices, where a row has one; `held-out rows`: how members err on
them; `shared`: outputs of a module that members share."""


class MemberConfig(Config):
    """One more member."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    model: Reference | None = None
    """By default that of the student, with the student's arguments."""
    arguments: dict[str, bool | int | float | str | list[int] | list[float]] = {}
    """Of `model`."""

    @model_validator(mode="after")
    def _arguments_have_a_model(self) -> "MemberConfig":
        if self.arguments and self.model is None:
            raise ValueError(f"arguments are given and model is not; expected the model of {self.name}")
        return self


def _counted(members: object) -> object:
    """Turn a count of all members into those besides the student."""
    if isinstance(members, int) and not isinstance(members, bool):
        if not 2 <= members <= _MOST:
            raise ValueError(f"found {members}, expected a count from 2 to {_MOST}, or a list of members")
        return tuple({"name": f"peer-{number}"} for number in range(1, members))
    return members


Members = Annotated[
    Annotated[tuple[MemberConfig, ...], Field(min_length=1, max_length=_MOST - 1)],
    BeforeValidator(_counted, json_schema_input_type=Annotated[int, Field(ge=2, le=_MOST)] | list[MemberConfig]),
]


class CohortMethod(Config):
    """How students teach each other."""

    reads: ClassVar[frozenset[Reading]] = frozenset({"members"})

    members: Members = (MemberConfig(name="peer-1"),)
    """How many learn together, the student among them, alike but for their first weights; or a list of those besides
    the student."""
    export: Literal["best", "fused"] = "best"
    """What becomes of them: the one with the best accuracy on the held-out rows, among equals the least NLL; or one
    model that averages the probabilities of all."""
    weight: Weight = 1.0
    """Share of what members learn of each other, beside the objective of each: a number, or a schedule of numbers."""

    @property
    def reads_labels(self) -> bool:
        """Whether members look at class indices of rows while they teach each other, as these options have it."""
        return "labels" in self.reads

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "CohortMethod":
        names = [FIRST, FUSED, *(member.name for member in self.members)]
        if taken := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"the name {taken[0]!r} is taken; every member needs its own, `{FIRST}` is the student and `{FUSED}` "
                "stands for all"
            )
        return self


@dataclass(frozen=True)
class Discussion:
    """What a method may look at: what all members say of the rows of one worker."""

    logits_KNC: "torch.Tensor"
    """With the gradients of the members."""
    labels_N: "torch.Tensor"
    """int64; `NO_LABEL` where there is none."""
    labelled_share: float = 1.0
    """Of the rows of the data set."""
    progress: float = 0.0
    """Share of the training's steps that are taken."""
    features_NF: "torch.Tensor | None" = None
    """What members share, averaged over positions, with gradient; for a method that names modules as `shared`."""
    state: "nn.Module | None" = None
    """What the method's `build` returned."""

    @property
    def shared_NF(self) -> "torch.Tensor":
        """The shared features, for a method that reads them."""
        assert self.features_NF is not None, "a method that reads them names their module"  # noqa: S101
        return self.features_NF


class OnlineMethod(CohortMethod):
    """A method whose members learn side by side in one worker group, every batch."""

    @property
    def shared_modules(self) -> Sequence[str]:
        """Modules that all members have in common: the same weights, computed once for a batch."""
        return ()

    def build(self, *, num_members: int, num_features: int) -> "nn.Module | None":
        """Return what the method learns or remembers; it is saved with the members, and never exported.

        `num_features` are those of the shared module, 0 if there is none.
        """
        return None

    @abstractmethod
    def rows(self, discussion: Discussion) -> "torch.Tensor":
        """Return what each row adds to the loss, as `weight` has it, summed over the members, nats, `[N]`."""

    def learn_of(self, errors_KK: "torch.Tensor", state: "nn.Module | None") -> None:
        """Take in how members err together: the mean over held-out rows of (p_i - y)·(p_j - y), float64.

        Called after every epoch; `p` are probabilities, `y` is 1 for the true class and 0 for the others.
        """
