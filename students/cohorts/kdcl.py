"""Collaborative learning (Guo, Wang, Wu, Yu, Liang, Hu, Luo 2020, KDCL, doi 10.1109/CVPR42600.2020.01103).

    L = w Σ_k T² KL(p_t || p_k),   p = softmax(z / T),   p_t = softmax(z_t / T) without gradient

One target for all members, better than any of them, on each row with label y:

    naive        z_t = z_k of the member with the least cross-entropy
    linear       z_t = Σ_k α_k z_k,   α = argmin CE(Σ_k α_k z_k, y) over α >= 0 with Σ α = 1
    min_logit    z_t(c) = min_k (z_k(c) - z_k(y))
    general      z_t = Σ_k w_k z_k,   w = C⁻¹ 1 / (1ᵀ C⁻¹ 1),   C = E + 1e-6 tr(E)/K I,
                 E_ij = mean of (p_i - y)·(p_j - y) at T = 1

E is measured on the held-out rows after every epoch; its weights may be negative. Before the first, and on a row that
has no label where one is needed, z_t is the mean of the members' logits.
"""

from typing import TYPE_CHECKING, Literal

from students.cohorts.method import Discussion, OnlineMethod
from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at

if TYPE_CHECKING:
    import torch
    from torch import nn

_RIDGE = 1e-6
"""Added to the diagonal of C, relative to its mean: members that err alike share their weight."""


class KDCLCohort(OnlineMethod):
    """All members learn one target that is made of what they say (doi 10.1109/CVPR42600.2020.01103)."""

    reads = frozenset({"members", "labels", "held-out rows"})

    method: Literal["kdcl"] = "kdcl"
    variant: Literal["naive", "linear", "min_logit", "general"] = "naive"
    """How the target is made; `general` alone reads the held-out rows, and no labels."""
    temperature: Temperature = 2.0

    @property
    def reads_labels(self) -> bool:
        """All but `general` do."""
        return self.variant != "general"

    def build(self, *, num_members: int, num_features: int) -> "nn.Module | None":
        """Return the weights of the members, `[K]`, for `general`."""
        if self.variant != "general":
            return None
        import torch
        from torch import nn

        state = nn.Module()
        state.register_buffer("weights_K", torch.full((num_members,), 1 / num_members, dtype=torch.float64))
        return state

    def learn_of(self, errors_KK: "torch.Tensor", state: "nn.Module | None") -> None:
        """Weigh the members by the inverse of their covariance."""
        if state is not None:
            state.get_buffer("weights_K").copy_(inverse_weights(errors_KK))

    def rows(self, discussion: Discussion) -> "torch.Tensor":
        """Return nats times T², `[N]`."""
        temperature, weight = at(self.temperature, discussion.progress), at(self.weight, discussion.progress)
        log_t_NC = log_probs(self.target(discussion), temperature)
        taught_N = kl(log_t_NC[None], log_probs(discussion.logits_KNC, temperature)).sum(dim=0)
        return weight * temperature**2 * taught_N

    def target(self, discussion: Discussion) -> "torch.Tensor":
        """Return the logits that all members learn, `[N, C]`; without gradient."""
        from cluster.shards.schema import NO_LABEL
        from students.cohorts.simplex import best_mixture

        logits_KNC = discussion.logits_KNC.detach()
        if discussion.state is not None:
            weights_K = discussion.state.get_buffer("weights_K").to(logits_KNC)
            return (weights_K[:, None, None] * logits_KNC).sum(dim=0)
        is_labelled_N1 = (discussion.labels_N != NO_LABEL)[:, None]
        labels_N = discussion.labels_N.clamp(min=0)
        match self.variant:
            case "naive":
                found_NC = _least_wrong(logits_KNC, labels_N)
            case "linear":
                shares_KN = best_mixture(logits_KNC, labels_N)
                found_NC = (shares_KN.to(logits_KNC)[:, :, None] * logits_KNC).sum(dim=0)
            case _:
                found_NC = (logits_KNC - _own(logits_KNC, labels_N)).amin(dim=0)
        target_NC: torch.Tensor = found_NC.where(is_labelled_N1, logits_KNC.mean(dim=0))
        return target_NC


def _least_wrong(logits_KNC: "torch.Tensor", labels_N: "torch.Tensor") -> "torch.Tensor":
    """Return, of each row, the logits that find its label the likeliest, `[N, C]`; of equals the first."""
    likelihoods_KN1 = _own(logits_KNC.log_softmax(dim=-1), labels_N)
    best_1NC = likelihoods_KN1.argmax(dim=0)[None].expand(1, *logits_KNC.shape[1:])
    return logits_KNC.gather(0, best_1NC)[0]


def _own(values_KNC: "torch.Tensor", labels_N: "torch.Tensor") -> "torch.Tensor":
    """Return the values of the labels, `[K, N, 1]`."""
    return values_KNC.gather(2, labels_N[None, :, None].expand(len(values_KNC), -1, 1))


def inverse_weights(errors_KK: "torch.Tensor") -> "torch.Tensor":
    """Return C⁻¹ 1 / (1ᵀ C⁻¹ 1), `[K]`; the same for all where nobody errs."""
    import torch

    ones_K = torch.ones_like(errors_KK[0])
    size = errors_KK.diagonal().mean()
    if size == 0:
        return ones_K / len(ones_K)
    solved_K = torch.linalg.solve(errors_KK / size + _RIDGE * ones_K.diag(), ones_K)
    weights_K: torch.Tensor = solved_K / solved_K.sum()
    return weights_K
