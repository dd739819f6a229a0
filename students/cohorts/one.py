"""One network with several ends (Lan, Zhu, Gong 2018, ONE, 1806.04606).

    L = CE(z_e, y) + w Σ_k T² KL(p_e || p_k),   z_e = Σ_k g_k z_k,   g = softmax(W x + b),   p = softmax(z / T)

Members share the modules named in `shared`; each has the rest for itself. x is the output of the last of these,
averaged over positions. p_e is a constant in the KL: the gate, and the members through it, learn from the labels alone.
W and b begin at 0, so that all members begin with the same part. The paper lets the KL rise in the first epochs: give
`weight`, which is w, a schedule.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from students.cohorts.method import Discussion, MemberConfig, Members, OnlineMethod
from students.objectives.divergences import kl, log_probs
from students.objectives.schedules import Temperature, at
from students.objectives.term import ModulePath

if TYPE_CHECKING:
    import torch
    from torch import nn


class ONECohort(OnlineMethod):
    """Members grow from one stem, and learn what a gate makes of them all (1806.04606)."""

    reads = frozenset({"members", "labels", "shared"})

    method: Literal["one"] = "one"
    members: Members = (MemberConfig(name="peer-1"), MemberConfig(name="peer-2"))
    """How many learn together, the student among them; or a list of those besides the student, which may be other
    models from where they part."""
    shared: Annotated[tuple[ModulePath, ...], Field(min_length=1)]
    """Modules that all members have in common, in the order in which the model calls them."""
    temperature: Temperature = 3.0

    @property
    def shared_modules(self) -> Sequence[str]:
        """Those that are named."""
        return self.shared

    @model_validator(mode="after")
    def _modules_are_apart(self) -> "ONECohort":
        for path in self.shared:
            if within := [other for other in self.shared if path.startswith(f"{other}.")]:
                raise ValueError(f"shared: {path!r} is a part of {within[0]!r}, which is shared; expected one of them")
        if len(set(self.shared)) < len(self.shared):
            raise ValueError(f"shared: {list(self.shared)} holds a module twice")
        return self

    def build(self, *, num_members: int, num_features: int) -> "nn.Module":
        """Return the gate, from `[N, F]` to `[N, K]`."""
        from torch import nn

        gate = nn.Linear(num_features, num_members)
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)
        return gate

    def rows(self, discussion: Discussion) -> "torch.Tensor":
        """Return nats, those of the KL times T², `[N]`."""
        import torch.nn.functional as F

        from cluster.shards.schema import NO_LABEL

        assert discussion.state is not None  # noqa: S101 - `build` returns one
        shares_KN1 = discussion.state(discussion.shared_NF).softmax(dim=-1).T[:, :, None]
        gated_NC = (shares_KN1 * discussion.logits_KNC).sum(dim=0)
        temperature, weight = at(self.temperature, discussion.progress), at(self.weight, discussion.progress)
        log_e_NC = log_probs(gated_NC.detach(), temperature)
        taught_N = kl(log_e_NC[None], log_probs(discussion.logits_KNC, temperature)).sum(dim=0)
        own_N = F.cross_entropy(gated_NC, discussion.labels_N, reduction="none", ignore_index=NO_LABEL)
        # Divided as the objective divides a term over the labelled rows.
        own_N = own_N / max(discussion.labelled_share, 1e-12)
        return own_N + weight * temperature**2 * taught_N
