"""Contrastive representation distillation (Tian et al. 2020, 1910.10699).

    L = -Σ_sides 1/N Σ_i (log h(i, i) + Σ_k log (1 - h(i, k))),  h = x / (x + m / M),   x(i, k) = exp(v_i u_k / τ) / Z

v: the output of one side, one vector a row, through a learned linear layer and to length 1; u: what the other side had
for a row when it was last seen, a moving average of length 1; M: rows of the data set; m: negatives; Z: M times the
mean of exp(v u / τ) over the first batch. h tells a row from others; both sides learn their layers.

The negatives are drawn from all rows, once for a batch and not for each of its rows, so that scores are one product of
matrices: N m numbers of memory. A row that is among its own negatives leaves itself out. The reference draws for each
row, and of other classes. Two banks of M vectors are part of every checkpoint. Published weight: 0.8.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.pair import tap_of
from students.objectives.relations import RelationTerm, directions, vectors
from students.objectives.term import Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn


class CRDTerm(RelationTerm):
    """Tell a row's output from those of other rows, across student and teacher (1910.10699)."""

    needs_rows = True

    term: Literal["crd"] = "crd"
    width: Annotated[int, Field(ge=1)] = 128
    """Features of the space in which both sides are compared."""
    negatives: Annotated[int, Field(ge=1)] = 16384
    """Rows that each row is held against; small data sets want fewer."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """τ: divides the cosines."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of what a bank had for a row in what it has next."""

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return both layers, both banks `[M, width]`, both log Z, and what the negatives are drawn from."""
        import torch
        from torch import nn

        state = nn.Module()
        sides = (
            ("student", shapes.student_taps[self.student]),
            ("teacher", shapes.teacher_taps[tap_of(self.teacher)]),
        )
        for side, shape in sides:
            state.add_module(side, nn.Linear(math.prod(shape), self.width))
            state.register_buffer(f"{side}_bank", directions(torch.randn(shapes.num_rows, self.width)))
            state.register_buffer(f"{side}_log_z", torch.tensor(float("nan")))
        state.register_buffer("next_seed", torch.randint(1 << 62, ()))
        return state

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats, of both sides; in training mode, the banks take the batch in and new negatives come next."""
        import torch
        import torch.nn.functional as F

        state, rows_N = seen.state, seen.rows_N
        assert state is not None and rows_N is not None  # noqa: S101, PT018 - `build` returns one; `needs_rows`
        student_out, teacher_out = self.outputs(seen)
        embedded = {
            side: directions(state.get_submodule(side)(vectors(output)))
            for side, output in (("student", student_out), ("teacher", teacher_out))
        }
        negatives_K = self._draw(state).to(rows_N.device)
        is_own_NK = rows_N[:, None] == negatives_K
        loss = student_out.new_zeros(())
        for side, other in (("student", "teacher"), ("teacher", "student")):
            bank_MD = state.get_buffer(f"{other}_bank")
            own_N = (embedded[side] * bank_MD[rows_N]).sum(dim=1) / self.temperature
            other_NK = embedded[side] @ bank_MD[negatives_K].T / self.temperature
            log_z = self._log_z(state, side, torch.cat([own_N, other_NK.flatten()]).detach())
            # log h = log sigmoid(log x - log (m / M)): no epsilon, and no logarithm of what is rounded to 0.
            log_even = log_z + math.log(self.negatives / len(bank_MD))
            rejected_NK = F.logsigmoid(log_even - other_NK).masked_fill(is_own_NK, 0)
            loss = loss - (F.logsigmoid(own_N - log_even) + rejected_NK.sum(dim=1)).mean()
        if state.training:
            self._remember(state, embedded, rows_N)
        return loss

    def _log_z(self, state: "nn.Module", side: str, scores: "torch.Tensor") -> "torch.Tensor":
        """Return log Z; in training mode it stays what the first scores make of it."""
        log_z = state.get_buffer(f"{side}_log_z")
        if not log_z.isnan():
            return log_z
        num_rows = len(state.get_buffer(f"{side}_bank"))
        found = scores.logsumexp(dim=0) - math.log(len(scores) / num_rows)
        return log_z.copy_(found) if state.training else found

    def _draw(self, state: "nn.Module") -> "torch.Tensor":
        """Return rows of the data set, int64 `[m]`: a function of the state, and so the same on all workers."""
        import torch

        generator = torch.Generator().manual_seed(int(state.get_buffer("next_seed")))
        return torch.randint(len(state.get_buffer("student_bank")), (self.negatives,), generator=generator)

    def _remember(self, state: "nn.Module", embedded: "dict[str, torch.Tensor]", rows_N: "torch.Tensor") -> None:
        for side, embedded_ND in embedded.items():
            bank_MD = state.get_buffer(f"{side}_bank")
            mixed_ND = self.momentum * bank_MD[rows_N] + (1 - self.momentum) * embedded_ND.detach()
            bank_MD[rows_N] = directions(mixed_ND)
        state.get_buffer("next_seed").add_(1)
