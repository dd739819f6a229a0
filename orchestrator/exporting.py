"""Writing label sets as files for other programs."""

import time
from pathlib import Path
from typing import Literal

from cluster.config import Config
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.parquet import export_shard, export_shared
from cluster.storage.protocol import ObjectStore
from orchestrator.progress import Progress


class Exported(Config):
    """One label set as files."""

    name: str
    state: Literal["sealed", "partial"]
    """Partial: what was committed until then."""
    files: int
    rows: int
    directory: str


def export_set(store: ObjectStore, prefix: str, output: Path, *, with_rows: bool, progress: Progress) -> Exported:
    """Write every committed shard of the label set at `prefix` into a directory of its name below `output`.

    Raises:
        DataError: the set, or a shard, is damaged.
        OutputError: a file cannot be written.
    """
    labels = LabelSet.open(store, prefix)
    inputs = Dataset.open(store, labels.record.dataset) if with_rows else None
    is_sealed, commits = labels.is_sealed(), labels.commits()
    name, started_s, rows = prefix.rpartition("/")[2], time.monotonic(), 0
    progress.started(name, rows=sum(commit.rows for commit in commits), done=0)
    if commits:
        # Not among the shards, whose columns it does not have.
        export_shared(labels, output / f"{name}.shared.parquet")
    for commit in commits:
        export_shard(labels, commit, output / name, inputs=inputs)
        rows += commit.rows
        progress.advanced(name, rows=rows, note="")
    progress.finished(name, outcome="computed", seconds=time.monotonic() - started_s, rows=rows)
    return Exported(
        name=name,
        state="sealed" if is_sealed else "partial",
        files=len(commits),
        rows=rows,
        directory=str(output / name),
    )
