"""Models for images of 28 x 28 pixels: three convolutional teachers of different shape, and two small students.

Input `[N, 1, 28, 28]`, output `[N, classes]`.
"""

import torch
from torch import nn


class WideCNN(nn.Sequential):
    """Three convolutions, each followed by normalisation and pooling."""

    def __init__(self, channels: int = 32, classes: int = 10) -> None:
        super().__init__(
            *_block(1, channels),
            nn.MaxPool2d(2),
            *_block(channels, 2 * channels),
            nn.MaxPool2d(2),
            *_block(2 * channels, 4 * channels),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(36 * channels, classes),
        )


class DeepCNN(nn.Sequential):
    """Residual blocks on two scales."""

    def __init__(self, channels: int = 32, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            _Residual(channels),
            _Residual(channels),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            _Residual(2 * channels),
            _Residual(2 * channels),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(18 * channels, classes),
        )


class PatchCNN(nn.Sequential):
    """Large patches first, then depthwise and pointwise convolutions (the shape of a ConvMixer, 2201.09792)."""

    def __init__(self, channels: int = 64, depth: int = 3, classes: int = 10) -> None:
        mixers = [
            layer
            for _ in range(depth)
            for layer in (
                nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
                nn.GELU(),
                nn.BatchNorm2d(channels),
                nn.Conv2d(channels, channels, 1),
                nn.GELU(),
                nn.BatchNorm2d(channels),
            )
        ]
        super().__init__(
            nn.Conv2d(1, channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.BatchNorm2d(channels),
            *mixers,
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(4 * channels, classes),
        )


class MLP(nn.Sequential):
    """One hidden layer; 101,770 weights with 128 units."""

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, classes))


class SmallCNN(nn.Sequential):
    """Three strided convolutions; 11,018 weights with 8 channels. Maps of 14, 7 and 4 pixels lie behind 1, 3 and 5."""

    def __init__(self, channels: int = 8, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, 4 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * channels, classes),
        )


class _Residual(nn.Module):
    """relu(x + conv(conv(x))), normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(channels, channels), nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu(inputs + self.body(inputs))


def _block(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()
