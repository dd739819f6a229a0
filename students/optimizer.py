"""The optimizer that a spec asks for, over what is trained."""

from typing import Any

import torch
from torch import nn

from cluster.optimizers import OptimizerConfig


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters; its learning rate is set anew at every step."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    match config.name:
        case "adamw":
            return torch.optim.AdamW(module.parameters(), **options)
        case "adam":
            return torch.optim.Adam(module.parameters(), **options)
        case "sgd":
            return torch.optim.SGD(
                module.parameters(), momentum=config.momentum, nesterov=config.momentum > 0, **options
            )
