"""The weighted sum of terms that a student minimises."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from students.objectives.cross_entropy import cross_entropy_rows
from students.objectives.kl import kl_rows
from students.spec import CrossEntropyTerm, KLTerm, TermConfig


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


class Objective:
    """Sums its terms so that, over an epoch, every row that a term applies to has the same say.

    A term over the labelled rows is divided by their expected number in a batch, not by the number in this one:
    otherwise the only labelled row of a batch would weigh as much as fifty in another, and the loss would depend
    on who holds
    which rows.
    """

    def __init__(self, terms: Sequence[TermConfig], *, labelled_share: float) -> None:
        self._terms, self._labelled_share = terms, labelled_share

    def __call__(self, logits_NC: torch.Tensor, batch: Batch, *, global_rows: int) -> torch.Tensor:
        """Return this part's contribution to the loss of a global batch of `global_rows` rows; a scalar in nats."""
        parts = [self._term(term, logits_NC, batch) for term in self._terms]
        return torch.stack(parts).sum() / global_rows

    def _term(self, term: TermConfig, logits_NC: torch.Tensor, batch: Batch) -> torch.Tensor:
        match term:
            case KLTerm():
                assert batch.target_logits_NC is not None, "a plan never gives a KL term without teachers"  # noqa: S101
                rows = kl_rows(logits_NC, batch.target_logits_NC, temperature=term.temperature)
                return term.weight * rows.sum()
            case CrossEntropyTerm():
                rows = cross_entropy_rows(logits_NC, batch.labels_N, label_smoothing=term.label_smoothing)
                return term.weight * rows.sum() / max(self._labelled_share, 1e-12)
