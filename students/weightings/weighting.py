"""What a weighting is: how much each teacher counts on each row, when several become one target.

A weighting is one file. Its docstring gives the paper, the formula and the shapes; its class the options. torch is
imported when shares are computed and not when options are read, so that a plan needs none.

`fusion.weights` are the prior π: a method that reads them departs from them, and rows of which it has nothing to say
follow them.

Legend: K teachers, N rows, C classes.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from cluster.config import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

Source = Literal["weights", "teachers", "labels", "column", "student"]
"""`weights`: the prior; `teachers`: what they say of a row; `labels`: class indices, where a row has one; `column`: one
of the data set; `student`: what training has come to, so that shares change with every step."""


@dataclass(frozen=True)
class Panel:
    """What a weighting may look at: the teachers' word on the rows of one worker."""

    teachers: tuple[str, ...]
    """Their names, in the order of the K."""
    log_probs_KNC: "torch.Tensor"
    """Calibrated; without gradient."""
    prior_K: "torch.Tensor"
    """The shares of `fusion.weights`; positive, and 1 in sum."""
    labels_N: "torch.Tensor"
    """int64; `NO_LABEL` where there is none."""
    columns: "Mapping[str, torch.Tensor]" = field(default_factory=dict)
    """int64 `[N]`; what the data set says of the rows besides, if the weighting names it."""
    student_logits_NC: "torch.Tensor | None" = None
    """Without gradient; None before training."""
    inputs: "torch.Tensor | None" = None
    """float32 `[N, *shape]`; None before training."""
    global_rows: int = 0
    """Rows of the global batch, of which these are a part; 0 before training."""
    sum_over_workers: "Callable[[torch.Tensor], torch.Tensor]" = lambda values: values
    state: "nn.Module | None" = None
    """What the weighting's `build` returned."""

    @property
    def prior_KN(self) -> "torch.Tensor":
        """The prior, on every row."""
        return self.prior_K[:, None].expand(self.log_probs_KNC.shape[:2])

    @property
    def student_NC(self) -> "torch.Tensor":
        """The student's logits, for a weighting that reads them."""
        assert self.student_logits_NC is not None, "shares that change with training are computed there"  # noqa: S101
        return self.student_logits_NC


class Weighting(Config):
    """How the shares of the teachers are found."""

    reads: ClassVar[frozenset[Source]] = frozenset({"weights"})
    needs_every_class: ClassVar[bool] = False
    """Whether it fails where labels hold some classes only."""
    needs_whole_batches: ClassVar[bool] = False
    """Whether shares depend on all rows of the global batch."""

    @property
    def changes_with_training(self) -> bool:
        """Whether shares are other ones at every step, so that teachers cannot be fused before."""
        return "student" in self.reads

    @property
    def column_read(self) -> str | None:
        """The column of the data set that it reads, if it does."""
        return None

    def build(self, *, num_teachers: int, num_classes: int, num_inputs: int) -> "nn.Module | None":
        """Return what the weighting learns; it is saved with the student, and never exported.

        It learns to make the fused target right: the loss is the cross-entropy of the target with the labels.
        """
        return None

    @abstractmethod
    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return the share of each teacher on each row, `[K, N]`: not negative, and 1 in sum over the teachers."""


def normalised(weights_KN: "torch.Tensor") -> "torch.Tensor":
    """Return weights made to sum to 1 over the teachers."""
    return weights_KN / weights_KN.sum(dim=0)


def complements(burdens_KN: "torch.Tensor") -> "torch.Tensor":
    """Return (1 - b) / (K - 1) for burdens that sum to 1 over K teachers: the less burden, the larger the share."""
    import torch

    others = len(burdens_KN) - 1
    return (1 - burdens_KN) / others if others else torch.ones_like(burdens_KN)
