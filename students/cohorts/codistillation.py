"""Codistillation (Anil et al. 2018, 1804.03235): members that train on workers of their own and exchange weights.

    L_i = objective_i + w (1 / (P - 1)) Σ_{j ≠ i} T² Σ_c p_j(c) (log p_j(c) - log q_i(c))

    p_j = softmax(z_j / T) of member j as it was at the end of the last round,  q_i = softmax(z_i / T)

P members. Every member sees every row, in an order of its own, and runs frozen copies of its peers in evaluation mode.
At T = 1 the gradient is that of the paper's cross-entropy to the mean of the peers' probabilities.

The paper takes the newest weights that a peer happens to have left. Here a member waits for those with which the round
before has ended, so that what it learns is a function of its seed, and a run that was killed anywhere ends the same.

Legend: N rows of a batch, C classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from students.cohorts.method import CohortMethod
from students.cohorts.rounds import Rounds
from students.objectives.kl import kl_rows
from students.objectives.schedules import Temperature, at

if TYPE_CHECKING:
    import torch


class CodistillationCohort(CohortMethod):
    """Mean of the forward KLs to the peers as they were at the end of the last round, times T² (1804.03235)."""

    method: Literal["codistillation"] = "codistillation"
    exchange_every: Annotated[int, Field(ge=1)] = 1
    """Length of a round, at whose end a member publishes its weights and waits for those of its peers."""
    unit: Literal["epochs", "steps"] = "epochs"
    """What a round's length is counted in."""
    burn_in: Annotated[int, Field(ge=1)] = 1
    """Rounds in which a member learns from the objective alone."""
    temperature: Temperature = 1.0

    @model_validator(mode="after")
    def _one_member_is_exported(self) -> "CodistillationCohort":
        if self.export == "fused":
            raise ValueError(
                "export is fused, and members that train on workers of their own are exported one by one; expected best"
            )
        return self

    def is_heard(self, *, epochs: int) -> bool:
        """Return whether members of a training of so many epochs ever learn from each other, as far as one can tell
        before it is known how many steps an epoch has."""
        return self.unit == "steps" or self.rounds(steps_per_epoch=1, epochs=epochs).count > self.burn_in

    def rounds(self, *, steps_per_epoch: int, epochs: int) -> Rounds:
        """Return the rounds of a training."""
        length = self.exchange_every * (steps_per_epoch if self.unit == "epochs" else 1)
        return Rounds(num_steps=steps_per_epoch * epochs, steps_per_round=length, burn_in=self.burn_in)

    def rows(
        self, logits_NC: "torch.Tensor", peer_logits: "Sequence[torch.Tensor]", *, progress: float
    ) -> "torch.Tensor":
        """Return the loss of each row against all peers (each `[N, C]`), nats times T², `[N]`."""
        temperature = at(self.temperature, progress)
        losses = [kl_rows(logits_NC, peer_NC, temperature=temperature) for peer_NC in peer_logits]
        return sum(losses[1:], start=losses[0]) / len(losses)
