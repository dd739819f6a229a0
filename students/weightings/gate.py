"""Shares that are learnt: a gate (Lan, Zhu, Gong 2018, ONE, 1806.04606; mixtures of experts, Jacobs et al. 1991).

    w = softmax(log π + W₂ relu(W₁ x + b₁) + b₂),   x = log softmax(z_s), or the flattened inputs

The gate minimises the cross-entropy of the fused target with the labels, on the labelled rows, as ONE's does for its
ensemble of branches; the student takes the target, and the gate the student, for a constant. W₂ and b₂ begin at 0, so
that the shares begin at the prior.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.weightings.weighting import Panel, Weighting

if TYPE_CHECKING:
    import torch
    from torch import nn


class GateWeighting(Weighting):
    """On each row the shares that a small network gives, which learns on the labelled rows (1806.04606)."""

    reads = frozenset({"weights", "teachers", "labels", "student"})
    needs_every_class = True

    method: Literal["gate"] = "gate"
    sees: Literal["student", "inputs"] = "student"
    """What the gate decides by: the student's log-probabilities, or the student's inputs."""
    width: Annotated[int, Field(ge=1)] = 32
    """Units of the hidden layer."""

    def build(self, *, num_teachers: int, num_classes: int, num_inputs: int) -> "nn.Module":
        """Return the network, from `[N, num_classes]` or `[N, num_inputs]` to `[N, K]`."""
        from torch import nn

        first = nn.Linear(num_classes if self.sees == "student" else num_inputs, self.width)
        last = nn.Linear(self.width, num_teachers)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(first, nn.ReLU(), last)

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return shares, `[K, N]`, with the gradient of the gate."""
        assert panel.state is not None  # noqa: S101 - `build` returns one
        if self.sees == "student":
            seen = panel.student_NC.log_softmax(dim=-1)
        else:
            assert panel.inputs is not None  # noqa: S101 - training has them
            seen = panel.inputs.flatten(start_dim=1)
        scores_NK: torch.Tensor = panel.state(seen)
        return (scores_NK + panel.prior_K.log()).softmax(dim=-1).T
