"""Augmentations at work on images `[N, C, H, W]` of any of the types that views may change.

Geometry is computed in float64 and values in float32, element by element, with operations that are rounded correctly;
sines and cosines are rounded to what every library agrees on. So every machine gets the same bytes.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cluster.shards.views.draws import integers_from, shares_from
from cluster.shards.views.spec import CropConfig, FlipConfig, RotateConfig, ZoomConfig

_FINE = 2.0**-24


def cropped(images: np.ndarray, config: CropConfig, bits_NK: np.ndarray) -> np.ndarray:
    """Shift each image."""
    padding, (rows, _, height, width) = config.padding, images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    top_N, left_N = (integers_from(bits_NK[:, place], 2 * padding + 1) for place in (0, 1))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    shifted: np.ndarray = windows.transpose(0, 2, 3, 1, 4, 5)[np.arange(rows), top_N, left_N]
    return shifted


def flipped(images: np.ndarray, config: FlipConfig, bits_NK: np.ndarray) -> np.ndarray:
    """Mirror some images."""
    is_mirrored_N = shares_from(bits_NK[:, 0]) < config.share
    images = images.copy()
    images[is_mirrored_N] = images[is_mirrored_N, ..., ::-1]
    return images


def zoomed(images: np.ndarray, config: ZoomConfig, bits_NK: np.ndarray) -> np.ndarray:
    """Enlarge a part of each image."""
    height, width = images.shape[2:]
    side_N = config.least + (1 - config.least) * shares_from(bits_NK[:, 0])
    y_NH, x_NW = (
        _zoomed_axis(length, side_N, shares_from(bits_NK[:, place])) for place, length in ((1, height), (2, width))
    )
    return _sampled(images, y_NH[:, :, None], x_NW[:, None, :])


def rotated(images: np.ndarray, config: RotateConfig, bits_NK: np.ndarray) -> np.ndarray:
    """Turn each image, counterclockwise where the angle is positive."""
    height, width = images.shape[2:]
    angles_N = np.deg2rad(config.degrees * (2 * shares_from(bits_NK[:, 0]) - 1))
    sin, cos = (np.rint(f(angles_N) / _FINE)[:, None, None] * _FINE for f in (np.sin, np.cos))
    down = np.arange(height)[None, :, None] - (height - 1) / 2
    right = np.arange(width)[None, None, :] - (width - 1) / 2
    return _sampled(images, cos * down + sin * right + (height - 1) / 2, cos * right - sin * down + (width - 1) / 2)


def stored_as(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return float32s as the type of a column; integers are rounded, to even, and kept in their range."""
    if dtype.kind == "u":
        values = np.clip(np.rint(values), 0, np.iinfo(dtype).max)
    stored: np.ndarray = values.astype(dtype, copy=False)
    return stored


def _zoomed_axis(length: int, side_N: np.ndarray, at_N: np.ndarray) -> np.ndarray:
    """Return where along an axis the pixels of each image come from, `[N, length]`."""
    start_N = at_N * (1 - side_N) * length
    places = start_N[:, None] + (np.arange(length) + 0.5) * side_N[:, None] - 0.5
    inside: np.ndarray = np.clip(places, 0, length - 1)
    return inside


def _sampled(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the values at `y`, `x`, which broadcast to `[N, H, W]`, between pixels linearly; beyond the last one 0."""
    rows, channels, height, width = images.shape
    # One more line of zeros behind: a place may be exactly on the line beyond the last pixel.
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2))).astype(np.float32)
    y, x = np.clip(y, -1, height), np.clip(x, -1, width)
    top, left = np.floor(y), np.floor(x)
    down, right = ((y - top)[:, None].astype(np.float32), (x - left)[:, None].astype(np.float32))
    stride = width + 3
    plane = np.arange(rows * channels).reshape(rows, channels, 1, 1) * ((height + 3) * stride)
    index = plane + ((top + 1) * stride + left + 1).astype(np.int64)[:, None]
    upper, lower = (
        np.take(padded, index + line) * (1 - right) + np.take(padded, index + line + 1) * right for line in (0, stride)
    )
    return stored_as(upper * (1 - down) + lower * down, images.dtype)
