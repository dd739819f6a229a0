"""The one function through which teachers and students look at rows in a view."""

from collections.abc import Mapping

import numpy as np

from cluster.errors import DataError
from cluster.shards.schema import LABEL, NO_LABEL, ROW
from cluster.shards.views.draws import bits_of, normals_for
from cluster.shards.views.images import cropped, flipped, rotated, stored_as, zoomed
from cluster.shards.views.mixing import Mixing, blended, mixing_of, own_shares
from cluster.shards.views.spec import (
    AnyAugmentation,
    CropConfig,
    FlipConfig,
    NoiseConfig,
    RotateConfig,
    View,
    ZoomConfig,
)

PARTNER_LABEL = ".partner_label"
"""Column of the label of the row that is blended in; stored columns have no dot in their names."""
OWN_SHARE = ".own_share"
"""Column of the row's own share in what is seen, float32."""

_CHUNK_VALUES = 2**16
"""Values that are changed at a time: what a step leaves is still in the processor's cache for the next."""
_DRAWS = 3


class UnseenColumnError(DataError):
    """Rows have no number, or not the column that a view changes."""

    def __init__(self, column: str, columns: str) -> None:
        super().__init__(column, columns)
        self.column, self.columns = column, columns

    def __str__(self) -> str:
        return (
            f"data.views needs the column {self.column}; the data set has {self.columns}. Name one of them in "
            f"data.views.column; rows without `{ROW}` were written by an early version: use a new store."
        )


def look(arrays: Mapping[str, np.ndarray], view: View | None) -> dict[str, np.ndarray]:
    """Return the columns of a whole shard, `[rows, *shape]` each, as they are seen in a view.

    Where rows are blended and `arrays` has their labels, each has a second label too, and a share. A row that is
    blended with one that nobody labelled has no label.

    Raises:
        UnseenColumnError: the column that is to be changed, or the number of a row, is not there.
    """
    if view is None:
        return dict(arrays)
    name = seen_column(arrays, view)
    rows_N, images = arrays[ROW], _as_images(arrays[name], view)
    chunk = max(1, _CHUNK_VALUES // max(1, images[0].size))
    chunks = [slice(start, start + chunk) for start in range(0, len(images), chunk)]
    if view.augment:
        images = np.concatenate([_augmented(images[rows], view, rows_N[rows]) for rows in chunks])
    mixed: dict[str, np.ndarray] = {}
    if view.is_mixed:
        mixing = mixing_of(view, rows_N)
        images = np.concatenate([blended(images, mixing, rows) for rows in chunks])
        mixed = _labels(arrays, mixing, own_shares(mixing, images.shape[2:]))
    return {**arrays, name: _as_stored(images, arrays[name], view), **mixed}


def seen_column(columns: Mapping[str, object], view: View) -> str:
    """Return the name of the column that a view changes; raises `UnseenColumnError`."""
    if ROW not in columns:
        raise UnseenColumnError(ROW, ", ".join(columns))
    candidates = [name for name in columns if name not in (LABEL, ROW) and "." not in name]
    if view.column is None and len(candidates) == 1:
        return candidates[0]
    if view.column not in candidates:
        raise UnseenColumnError(str(view.column), ", ".join(candidates))
    return view.column


def _augmented(images: np.ndarray, view: View, rows_N: np.ndarray) -> np.ndarray:
    for place, augmentation in enumerate(view.augment):
        images = _changed(images, augmentation, (view.seed, view.number, place), rows_N)
    return images


def _changed(images: np.ndarray, augmentation: AnyAugmentation, key: tuple[int, ...], rows_N: np.ndarray) -> np.ndarray:
    match augmentation:
        case CropConfig():
            return cropped(images, augmentation, bits_of(key, rows_N, _DRAWS))
        case FlipConfig():
            return flipped(images, augmentation, bits_of(key, rows_N, _DRAWS))
        case ZoomConfig():
            return zoomed(images, augmentation, bits_of(key, rows_N, _DRAWS))
        case RotateConfig():
            return rotated(images, augmentation, bits_of(key, rows_N, _DRAWS))
        case NoiseConfig(std=std):
            noise = normals_for(key, rows_N, images[0].size).reshape(images.shape)
            return stored_as(images.astype(np.float32) + np.float32(std) * noise, images.dtype)


def _labels(arrays: Mapping[str, np.ndarray], mixing: Mixing, shares_N: np.ndarray) -> dict[str, np.ndarray]:
    if LABEL not in arrays:
        return {}
    labels_N, others_N = arrays[LABEL], arrays[LABEL][mixing.partners_N]
    is_known_N = (labels_N != NO_LABEL) & (others_N != NO_LABEL)
    labels_N, others_N = (np.where(is_known_N, each, NO_LABEL).astype(np.int32) for each in (labels_N, others_N))
    return {LABEL: labels_N, PARTNER_LABEL: others_N, OWN_SHARE: shares_N}


def _as_images(array: np.ndarray, view: View) -> np.ndarray:
    """Return a stored column as `[N, C, H, W]`; what is no image is one channel of one line."""
    match array.ndim:
        case 3:
            return array[:, None]
        case 4:
            return array if view.channels == "first" else np.moveaxis(array, -1, 1)
    return array.reshape(len(array), 1, 1, -1)


def _as_stored(images: np.ndarray, stored: np.ndarray, view: View) -> np.ndarray:
    if stored.ndim == 4 and view.channels == "last":
        images = np.moveaxis(images, 1, -1)
    return np.ascontiguousarray(images.reshape(stored.shape) if stored.ndim != 4 else images)
