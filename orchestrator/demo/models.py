"""Three teachers of different kinds for images of 8 x 8 pixels, and one small student.

Input `[N, 1, 8, 8]`, output `[N, classes]`.
"""

import torch
from torch import nn


class WideCNN(nn.Sequential):
    """Two wide convolutions and one pooling."""

    def __init__(self, channels: int = 64, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(channels * 16, classes),
        )


class DeepCNN(nn.Sequential):
    """Six narrow convolutions with residual connections."""

    def __init__(self, channels: int = 32, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, padding=1),
            *(_Residual(channels) for _ in range(3)),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(channels * 16, classes),
        )


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = inputs + self.body(inputs)
        return outputs


class WideMLP(nn.Sequential):
    """Two wide layers on all pixels; sees no neighbourhood, so it errs elsewhere than the convolutions."""

    def __init__(self, width: int = 256, classes: int = 10) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(width, classes),
        )


class SmallMLP(nn.Sequential):
    """The student: one narrow hidden layer."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
