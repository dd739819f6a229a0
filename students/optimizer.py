"""The optimizer that a spec asks for, over what is trained."""

from typing import Any

import torch
from torch import nn

from cluster.optimizers import OptimizerConfig


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters that have a gradient; its learning rate is set anew at every step."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    match config.name:
        case "adamw":
            return torch.optim.AdamW(parameters, **options)
        case "adam":
            return torch.optim.Adam(parameters, **options)
        case "sgd":
            return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **options)
