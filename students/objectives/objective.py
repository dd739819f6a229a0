"""The weighted sum of terms that a student minimises."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from students.objectives.schedules import at
from students.objectives.term import BatchTerm, RowTerm, Term, TermInputs


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch, on its device. N rows, C classes."""

    inputs: torch.Tensor
    """float32 `[N, *shape]`."""
    labels_N: torch.Tensor
    """int64; `NO_LABEL` where there is none."""
    target_logits_NC: torch.Tensor | None
    """float32, from the teachers; None when nobody teaches."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def part(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        targets = None if self.target_logits_NC is None else self.target_logits_NC[rows]
        return Batch(self.inputs[rows], self.labels_N[rows], targets)


class Objective(nn.Module):
    """Sums its terms so that, over an epoch, every row that a term applies to has the same say.

    A term over the labelled rows is divided by their expected number in a batch, not by the number in this one:
    otherwise the only labelled row of a batch would weigh as much as fifty in another, and the loss would depend
    on who holds which rows.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        labelled_share: float,
        gather: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
        world_size: int = 1,
    ) -> None:
        """`gather` concatenates the rows of all workers, in the order of their ranks; gradients flow to our own."""
        super().__init__()
        self._terms, self._labelled_share = terms, labelled_share
        self._gather, self._world_size = gather or (lambda rows: rows), world_size
        # A place without a state holds an empty module, so that states keep their places.
        self.states = nn.ModuleList([term.build() or nn.Module() for term in terms])

    def forward(
        self, logits_NC: torch.Tensor, batch: Batch, *, global_rows: int, progress: float = 0.0
    ) -> torch.Tensor:
        """Return this worker's contribution to the loss of a global batch of `global_rows` rows; a scalar.

        `progress` is the share of the training's steps that are taken.
        """
        seen = TermInputs(logits_NC, batch.labels_N, batch.target_logits_NC, progress)
        parts = []
        for term, state in zip(self._terms, self.states, strict=True):
            loss = self._contribution(term, replace(seen, state=state), global_rows)
            parts.append(at(term.weight, progress) * loss)
        return torch.stack(parts).sum()

    def _contribution(self, term: Term, seen: TermInputs, global_rows: int) -> torch.Tensor:
        match term:
            case RowTerm():
                expected = max(self._labelled_share, 1e-12) if "labels" in term.reads else 1.0
                return term.rows(seen).sum() / (expected * global_rows)
            case BatchTerm():
                loss = term.loss(self._of_all_workers(seen))
                # Each worker computes the whole loss and its gradient for its own rows. The gradients are summed over
                # the workers, and so are the values that are shown: of those, each worker counts its share.
                return loss - (1 - 1 / self._world_size) * loss.detach()
            case _:
                raise TypeError(f"{type(term).__name__} is neither a RowTerm nor a BatchTerm")

    def _of_all_workers(self, seen: TermInputs) -> TermInputs:
        target = seen.target_logits_NC
        return replace(
            seen,
            student_logits_NC=self._gather(seen.student_logits_NC),
            labels_N=self._gather(seen.labels_N),
            target_logits_NC=None if target is None else self._gather(target),
        )
