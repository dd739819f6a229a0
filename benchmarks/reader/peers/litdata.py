"""litdata: binary chunks, rows one by one, chunks and the rows within them shuffled."""

from pathlib import Path

from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch

ROWS = 20_000


def build(data: Data, folder: Path) -> Epoch:
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number in range(min(ROWS, data.rows)):
        writer[number] = data.row(number)
    writer.done()
    writer.merge(1)
    rows = StreamingDataset(str(folder), shuffle=True)
    return lambda _: iter(StreamingDataLoader(rows, batch_size=BATCH_SIZE, num_workers=0))
