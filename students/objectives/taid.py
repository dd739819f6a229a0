"""Temporally adaptive interpolated distillation (Shing et al. 2025, 2501.16937).

    L = T² KL(p_t || q),   p_t = softmax(((1 - t) z_s + t z_t) / T),   z_s in p_t without gradient

The target moves from the student to the teachers as t goes from `start` to 1, at least along a line, and faster while
the loss falls: t grows by α sigmoid(m) (1 - t), where m is a moving average (decay β) of the relative drop of the loss.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.objectives.kl import kl_rows
from students.objectives.schedules import Temperature, at
from students.objectives.term import BatchTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn

_EPSILON = 1e-15


class TAIDTerm(BatchTerm):
    """KL to a target that moves from the student to the fused teachers, times T² (2501.16937).

    It judges rows one by one, but t follows the loss of the global batch, so that any number of workers has the same.
    """

    needs_every_class = True

    term: Literal["taid"] = "taid"
    temperature: Temperature = 1.0
    start: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """t at the first step."""
    alpha: Annotated[float, Field(ge=0)] = 5e-4
    """Size of the steps that t takes by itself."""
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average."""

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return t, the moving average and the last loss, as buffers."""
        import torch
        from torch import nn

        state = nn.Module()
        state.register_buffer("t", torch.tensor(self.start, dtype=torch.float64))
        state.register_buffer("average", torch.tensor(0.0, dtype=torch.float64))
        state.register_buffer("last_loss", torch.tensor(float("nan"), dtype=torch.float64))
        return state

    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return nats times T²; in training mode, t moves on."""
        assert seen.state is not None  # noqa: S101 - `build` returns one
        share = float(seen.state.get_buffer("t"))
        mixed_NC = (1 - share) * seen.student_logits_NC.detach() + share * seen.target_NC
        loss = kl_rows(seen.student_logits_NC, mixed_NC, temperature=at(self.temperature, seen.progress)).mean()
        if seen.state.training:
            self._move_on(seen.state, loss.detach().double(), seen.progress)
        return loss

    def _move_on(self, state: "nn.Module", loss: "torch.Tensor", progress: float) -> None:
        t, average, last_loss = (state.get_buffer(name) for name in ("t", "average", "last_loss"))
        if not last_loss.isnan():
            drop = (last_loss - loss) / (last_loss + _EPSILON)
            average.mul_(self.beta).add_((1 - self.beta) * drop)
            line = self.start + (1 - self.start) * progress
            t.copy_((t + self.alpha * average.sigmoid() * (1 - t)).clamp(min=line, max=1.0))
        last_loss.copy_(loss)
