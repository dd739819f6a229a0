"""Ingest: rows from their source into numbered input shards."""

from cluster.shards.dataset import write_dataset
from orchestrator.context import RunContext
from orchestrator.sources.read import read_source
from orchestrator.splits import divide


def ingest(context: RunContext) -> None:
    """Write the data sets that are not there."""
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
            record = write_dataset(
                context.store,
                arrays,
                identity=identities[part],
                classes=job.classes,
                shard_rows=job.spec.data.shard_rows,
                compression=job.spec.data.compression,
            )
            account.rows += record.rows
            context.advanced(planned.name, account.rows)
