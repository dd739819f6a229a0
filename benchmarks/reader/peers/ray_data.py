"""Ray Data: Parquet files in shuffled order, rows shuffled in a buffer of 4,096; a conversion of our own."""

import logging
from pathlib import Path

import pyarrow.parquet as pq
import ray
import ray.data

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch, arrays_of, table_of


def build(data: Data, folder: Path) -> Epoch:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    folder.mkdir()
    table = table_of(data)
    for start in range(0, data.rows, data.shard_rows):
        pq.write_table(table.slice(start, data.shard_rows), folder / f"{start:09d}.parquet", compression="zstd")
    rows = ray.data.read_parquet(str(folder), shuffle="files")
    options = {"batch_size": BATCH_SIZE, "batch_format": "pyarrow", "local_shuffle_buffer_size": 4_096}
    return lambda _: map(arrays_of, rows.iter_batches(**options))
