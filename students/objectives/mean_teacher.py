"""Mean teacher: the average of the student's own weights teaches it (Tarvainen, Valpola 2017, 1703.01780).

    L = 1/C Σ_c (p'(c) - q(c))²  or  Σ_c p'(c) (log p'(c) - log q(c)),   p' = softmax(z'),  q = softmax(z)

z' are the logits of a model with the weights θ', which follow those of the student, θ, after every step t = 1, 2, …:
θ' <- a θ' + (1 - a) θ, a = min(1 - 1 / (t + 1), `decay`); at first θ' = θ. It sees the rows that the student sees, in
training mode: where the student has dropout, the two draw noise of their own, and its batch normalisation gathers
statistics of its own. No gradient flows through it. No label is read, so it teaches on every row; the article adds
cross-entropy on the labelled ones, and lets a weight of 100 for `mse` rise from 0 in the first part of the training.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.kl import kl_rows
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class MeanTeacherTerm(RowTerm):
    """Distance to the moving average of the student's own weights (1703.01780)."""

    family = "self"
    reads = frozenset({"average"})

    term: Literal["mean_teacher"] = "mean_teacher"
    consistency: Literal["mse", "kl"] = "mse"
    """Mean squared difference of the probabilities, or forward KL at temperature 1."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share that the average keeps of itself at a step, once it has come that far."""
    export: Literal["student", "average"] = "student"
    """Whose weights are scored after each epoch, evaluated and exported."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the distance, `[N]`; nats for `kl`."""
        assert seen.average_logits_NC is not None, "a training that has this term keeps an average"  # noqa: S101
        if self.consistency == "kl":
            return kl_rows(seen.student_logits_NC, seen.average_logits_NC, temperature=1.0)
        gap_NC = seen.student_logits_NC.softmax(dim=1) - seen.average_logits_NC.softmax(dim=1)
        return gap_NC.square().mean(dim=1)
