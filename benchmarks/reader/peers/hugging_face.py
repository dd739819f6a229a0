"""Hugging Face datasets in its fastest form: Arrow tables by shuffled indices, with a conversion of our own."""

from pathlib import Path

import datasets

from benchmarks.reader.data import BATCH_SIZE, Data, Epoch, arrays_of, table_of


def build(data: Data, folder: Path) -> Epoch:
    datasets.disable_progress_bars()
    datasets.Dataset(table_of(data)).save_to_disk(str(folder))
    rows = datasets.load_from_disk(str(folder)).with_format("arrow")
    return lambda epoch: map(arrays_of, rows.shuffle(seed=epoch, keep_in_memory=True).iter(BATCH_SIZE))
