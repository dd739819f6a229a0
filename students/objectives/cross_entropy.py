"""Cross-entropy with the labels, on the rows that have one.

    L = -Σ_c y(c) log q(c),   y = (1 - ε) onehot + ε / C

with label smoothing ε (1512.00567). Rows without a label count nothing. A row that is blended of two, with a share λ
of its own, counts λ L + (1 - λ) L' (1710.09412).
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class CrossEntropyTerm(RowTerm):
    """Cross-entropy with the labels, on the rows that have one."""

    family = "supervised"
    reads = frozenset({"labels"})

    term: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all classes (1512.00567)."""

    @property
    def needs_one_label(self) -> bool:
        """Never: a blended row counts with both of its labels."""
        return False

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats, `[N]`; 0 where the label is `NO_LABEL`."""
        own_N = self._nats(seen.student_logits_NC, seen.labels_N)
        if seen.partner_labels_N is None or seen.own_shares_N is None:
            return own_N
        return own_N.lerp(self._nats(seen.student_logits_NC, seen.partner_labels_N), 1 - seen.own_shares_N.to(own_N))

    def _nats(self, logits_NC: "torch.Tensor", labels_N: "torch.Tensor") -> "torch.Tensor":
        import torch.nn.functional as F

        from cluster.shards.schema import NO_LABEL

        return F.cross_entropy(
            logits_NC, labels_N, reduction="none", ignore_index=NO_LABEL, label_smoothing=self.label_smoothing
        )
