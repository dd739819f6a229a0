"""How weights are updated, as configuration: for teachers that we fit and for students alike."""

import math
from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Config


class OptimizerConfig(Config):
    """An optimizer of torch and the course of its learning rate."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW (1711.05101), Adam (1412.6980), or SGD with Nesterov momentum."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD alone."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """From the peak towards zero, which is reached one step after the last; or constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps in which the learning rate rises linearly to the peak."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest L2 norm of the whole gradient."""


def learning_rate(config: OptimizerConfig, *, step: int, num_steps: int) -> float:
    """Return the learning rate of `step` (from 0) out of `num_steps`: a pure function, so resuming needs no state."""
    warmup_steps = math.ceil(config.warmup * num_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return config.lr * (1 - progress)
