"""Decoupled knowledge distillation (Zhao et al. 2022, 2203.08679).

KL splits into what teacher and student say of the row's own class y, and how they spread the rest over the others:

    L = T² (α KL([p_y, 1-p_y] || [q_y, 1-q_y]) + β KL(p̂ || q̂)),   p̂, q̂: p_T and q_T without y, normalised

α = 1 and β = 1 - p_y give the KL of Hinton; β of its own weighs the other classes where the teacher is sure.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.divergences import log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import RowTerm, TermInputs

if TYPE_CHECKING:
    import torch


class DKDTerm(RowTerm):
    """KL split into the row's own class and the others, weighed apart (2203.08679)."""

    reads = frozenset({"target", "labels"})

    term: Literal["dkd"] = "dkd"
    temperature: Temperature = 4.0
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the row's own class."""
    beta: Annotated[float, Field(ge=0)] = 8.0
    """Weight of the other classes; the paper has 1 to 8 on CIFAR-100 and 0.5 to 2 on ImageNet."""

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T², `[N]`; 0 where the label is `NO_LABEL`."""
        import torch

        temperature = at(self.temperature, seen.progress)
        own_N1 = seen.labels_N.clamp(min=0)[:, None]
        log_q_NC = log_probs(seen.student_logits_NC, temperature)
        log_p_NC = log_probs(seen.target_NC, temperature)
        own_class = _kl(_own_and_rest(log_p_NC, own_N1), _own_and_rest(log_q_NC, own_N1))
        others = _kl(_others(log_p_NC, own_N1), _others(log_q_NC, own_N1))
        loss = temperature**2 * (self.alpha * own_class + self.beta * others)
        return torch.where(seen.labels_N >= 0, loss, torch.zeros_like(loss))


def _own_and_rest(log_probs_NC: "torch.Tensor", own_N1: "torch.Tensor") -> "torch.Tensor":
    """Return the log-probabilities of the own class and of all others together, `[N, 2]`."""
    import torch

    rest_N1 = _masked(log_probs_NC, own_N1).logsumexp(dim=-1, keepdim=True)
    return torch.cat([log_probs_NC.gather(1, own_N1), rest_N1], dim=1)


def _others(log_probs_NC: "torch.Tensor", own_N1: "torch.Tensor") -> "torch.Tensor":
    """Return the log-probabilities of the other classes among themselves, `[N, C]`, with -inf at the own class."""
    return _masked(log_probs_NC, own_N1).log_softmax(dim=-1)


def _masked(log_probs_NC: "torch.Tensor", own_N1: "torch.Tensor") -> "torch.Tensor":
    return log_probs_NC.scatter(1, own_N1, float("-inf"))


def _kl(log_p: "torch.Tensor", log_q: "torch.Tensor") -> "torch.Tensor":
    """Return Σ p (log p - log q), where classes that are -inf on both sides count nothing."""
    import torch

    known = log_p > float("-inf")
    difference = torch.where(known, log_p, 0.0) - torch.where(known, log_q, 0.0)
    return (log_p.exp() * difference).sum(dim=-1)
