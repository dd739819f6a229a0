"""A specialist's KL: to a teacher that knows some classes, among these (Vongkulbhaisal et al. 2019, 1904.06062).

    L = m T² Σ_{c in S} p_T(c) (log p_T(c) - log q_T(c | S)),   q_T(c | S) = exp(z_c / T) / Σ_{d in S} exp(z_d / T)

S are the classes that the teacher knows, p_T its distribution over them, m the part of the row that is theirs: 1 or 0
on a row with a label, on others the student's own belief Σ_{c in S} q(c), taken for a constant. What a teacher says of
a row of another class is noise, and the paper, whose m is 1, learns it; `trust: all` is the paper's.

For teachers whose classes do not overlap the sum over them is part of the chain rule: KL(p || q) is the KL between
whose class a row is, which labels teach, and Σ_k P(S_k) KL(p(. | S_k) || q(. | S_k)). S is read off the target, whose
logits are minus infinity elsewhere: that of the one teacher that the term has to be `of`, since fused teachers give
every class a logit. A teacher that knows every class has m = 1, and the term is `kl`.
"""

from typing import TYPE_CHECKING, Literal

from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class RestrictedKLTerm(RowTerm):
    """Forward KL among the classes that a teacher knows, times T², on the rows that are theirs (1904.06062)."""

    takes_specialists = True

    term: Literal["restricted_kl"] = "restricted_kl"
    temperature: Temperature = 1.0
    trust: Literal["own", "all"] = "own"
    """`own`: rows count as far as they are of the teacher's classes; `all`: every row counts in full."""

    @property
    def needs_one_label(self) -> bool:
        """Whether a label says whose a row is."""
        return self.trust == "own"

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        import torch

        temperature = at(self.temperature, seen.progress)
        unknown_NC = seen.target_NC.isneginf()
        target_NC, student_NC = (
            (logits_NC.masked_fill(unknown_NC, -torch.inf) / temperature).log_softmax(dim=-1)
            for logits_NC in (seen.target_NC, seen.student_logits_NC)
        )
        gaps_NC = (target_NC - student_NC).masked_fill(unknown_NC, 0.0)
        loss_N = temperature**2 * (target_NC.exp() * gaps_NC).sum(dim=-1)
        return loss_N if self.trust == "all" else self._mass(seen, unknown_NC) * loss_N

    @staticmethod
    def _mass(seen: TermInputs, unknown_NC: "torch.Tensor") -> "torch.Tensor":
        """Return the part of each row that is of known classes, `[N]`."""
        import torch

        belief_NC = seen.student_logits_NC.detach().softmax(dim=-1)
        believed_N = belief_NC.masked_fill(unknown_NC, 0.0).sum(dim=-1)
        is_own_N = ~unknown_NC.gather(1, seen.labels_N.clamp(min=0)[:, None]).squeeze(1)
        return torch.where(seen.labels_N >= 0, is_own_N.to(believed_N), believed_N)
