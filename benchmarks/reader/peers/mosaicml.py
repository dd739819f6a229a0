"""mosaicml-streaming: MDS shards, rows one by one, shuffled by `py1e`."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch

# The package imports torchvision, whose own operators fail to load beside another build of torch, and whose import then
# fails for want of them. Reading rows calls none: declaring them is enough.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
for _operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _operator):
        _TORCHVISION.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from streaming import MDSWriter, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

ROWS = 20_000


def build(data: Data, folder: Path) -> Epoch:
    clean_stale_shared_memory()
    shapes = {name: array.shape[1:] for name, array in data.arrays.items()}
    types = {name: array.dtype for name, array in data.arrays.items()}
    with MDSWriter(out=str(folder), columns=dict.fromkeys(data.arrays, "bytes")) as out:
        for number in range(min(ROWS, data.rows)):
            out.write({name: value.tobytes() for name, value in data.row(number).items()})

    class Rows(StreamingDataset):
        def __getitem__(self, at: int) -> dict[str, np.ndarray]:
            row = super().__getitem__(at)
            return {name: np.frombuffer(row[name], types[name]).reshape(shapes[name]).copy() for name in types}

    rows = Rows(local=str(folder), shuffle=True, shuffle_algo="py1e", batch_size=BATCH_SIZE)
    return lambda _: iter(DataLoader(rows, batch_size=BATCH_SIZE))
