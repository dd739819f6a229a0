"""Ingest: rows from their source into numbered input shards."""

from collections.abc import Mapping

import numpy as np

from cluster.shards.dataset import write_dataset
from cluster.shards.schema import LABEL
from orchestrator.context import RunContext
from orchestrator.sources.errors import NoOwnRowsError
from orchestrator.sources.read import read_source
from orchestrator.splits import divide, rows_of_classes


def ingest(context: RunContext) -> None:
    """Write the data sets that are not there.

    Raises:
        TooFewLabelsError, NoOwnRowsError: the rows are too few for what is asked of them.
    """
    planned = context.inspect().ingest()
    if planned.state == "done":
        context.reused(planned)
        return
    job = context.job
    with context.step(planned) as account:
        parts = divide(read_source(job.spec.data), job.spec.data)
        ids = job.datasets
        identities = {"train": ids.train, "labelled": ids.labelled, "held_out": ids.held_out, "test": ids.test}
        account.rows = 0
        for part, arrays in parts.items():
            if part == "labelled" and ids.labelled == ids.train:
                continue
            account.rows += _write(context, arrays, identities[part], job.classes)
            context.advanced(planned.name, account.rows)
        for own in ids.of_specialists:
            for part, identity, field in (
                ("labelled", own.labelled, "data.labelled"),
                ("held_out", own.held_out, "data.validation"),
            ):
                arrays = rows_of_classes(parts[part], [job.classes.index(name) for name in own.classes])
                if len(arrays[LABEL]) == 0:
                    raise NoOwnRowsError(field, own.classes, len(parts[part][LABEL]))
                account.rows += _write(context, arrays, identity, own.classes)


def _write(context: RunContext, arrays: Mapping[str, np.ndarray], identity: str, classes: tuple[str, ...]) -> int:
    """Write one data set, and return its rows."""
    data = context.job.spec.data
    record = write_dataset(
        context.store,
        arrays,
        identity=identity,
        classes=classes,
        shard_rows=data.shard_rows,
        compression=data.compression,
    )
    return record.rows
