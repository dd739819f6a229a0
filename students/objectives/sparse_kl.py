"""Forward KL to a teacher of whom the likeliest classes are stored, without making them dense.

S: the K stored classes; m = 1 - Σ_S p, the mass of the others; C: number of classes. p, q at the temperature T.

    renormalise   L = T² Σ_S p̂ (log p̂ - log q),   p̂ = p / Σ_S p
    bucket        L = T² (Σ_S p (log p - log q) + m (log m - log (1 - Σ_S q)))
    uniform       L = T² (Σ_S p (log p - log q) + m (log u - mean_{c∉S} log q)),   u = m / (C - K)
    sampled       L = T² (Σ_S p (log p - log q) + Σ_d w_d (log p_d - log q_d)),   Σ_d w_d f(c_d) estimates Σ_{c∉S} p f

`renormalise` takes the head for the whole and makes the student sure; `bucket` says how much mass the others have and
not which, and never exceeds the KL to all classes; `uniform` spreads it evenly; `sampled` uses classes that the teacher
drew from the others while it labelled: value and gradient are those of the KL to all classes on average over draws
(as in Anshumann et al. 2025, 2503.16870), with some noise. A row may then be below 0.
"""

import math
from typing import TYPE_CHECKING, Literal

from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch

    from students.objectives.sparse_target import SparseTarget

Tail = Literal["renormalise", "bucket", "uniform", "sampled"]


class SparseKLTerm(RowTerm):
    """Forward KL to the stored classes of one teacher, and what it makes of the others, times T² (2503.16870)."""

    reads = frozenset({"sparse"})

    term: Literal["sparse_kl"] = "sparse_kl"
    temperature: Temperature = 1.0
    tail: Tail = "bucket"
    """What becomes of the classes that are not stored: left out, one class, all alike, or as drawn by the teacher."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        target = seen.sparse
        assert target is not None, "a plan gives no such term without sparse labels"  # noqa: S101
        temperature = at(self.temperature, seen.progress)
        scaled_NC = seen.student_logits_NC / temperature
        # Not log_softmax: at 50,000 classes one more tensor of all of them would be the largest of the training.
        log_z_N = scaled_NC.logsumexp(dim=-1)
        log_p_NK = target.log_probs_NK
        if self.tail == "renormalise":
            log_p_NK = log_p_NK.log_softmax(dim=-1)
        log_q_NK = scaled_NC.gather(-1, target.ids_NK) - log_z_N[:, None]
        head_N = (log_p_NK.exp() * (log_p_NK - log_q_NK)).sum(dim=-1)
        return temperature**2 * (head_N + self._tail(scaled_NC, log_z_N, target))

    def _tail(self, scaled_NC: "torch.Tensor", log_z_N: "torch.Tensor", target: "SparseTarget") -> "torch.Tensor":
        """Return what the classes that are not stored add, `[N]`."""
        num_others = scaled_NC.shape[-1] - target.ids_NK.shape[-1]
        if num_others == 0 or self.tail == "renormalise":
            return scaled_NC.new_zeros(len(scaled_NC))
        if self.tail == "sampled":
            log_q_NS = scaled_NC.gather(-1, target.tail_ids_NS) - log_z_N[:, None]
            return (target.tail_log_masses_NS.exp() * (target.tail_log_probs_NS - log_q_NS)).sum(dim=-1)
        if self.tail == "bucket":
            # Of their own terms: 1 - Σ q loses a small tail to cancellation.
            log_q_N = scaled_NC.scatter(-1, target.ids_NK, float("-inf")).logsumexp(dim=-1) - log_z_N
            return target.log_tail_N.exp() * (target.log_tail_N - log_q_N)
        others_N = scaled_NC.sum(dim=-1) - scaled_NC.gather(-1, target.ids_NK).sum(dim=-1)
        log_u_N = target.log_tail_N - math.log(num_others)
        return target.log_tail_N.exp() * (log_u_N - (others_N / num_others - log_z_N))
