"""The same shares on every row: a weighted average of the teachers (Hinton, Vinyals, Dean 2015, 1503.02531).

    w_k = π_k,   π = `fusion.weights`, made to sum to 1

The other methods depart from these shares.
"""

from typing import TYPE_CHECKING, Literal

from students.weightings.weighting import Panel, Weighting

if TYPE_CHECKING:
    import torch


class StaticWeighting(Weighting):
    """The shares that `fusion.weights` gives, on every row (1503.02531)."""

    method: Literal["static"] = "static"

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return the prior, `[K, N]`."""
        return panel.prior_KN
