"""Ingest: rows from their source into numbered input shards."""

from cluster.session import ray_session
from cluster.shards.dataset import write_dataset
from orchestrator.context import RunContext, StepAccount
from orchestrator.planning.reach import check_reach
from orchestrator.planning.room import grown
from orchestrator.resolution.splits import divided
from orchestrator.sources.read import outgrows_memory, read_source
from orchestrator.steps.ingest_partitions import ingest_partitions
from orchestrator.steps.quarantine import leave_out


def ingest(context: RunContext) -> None:
    """Write the data sets that are not there.

    Raises:
        TooFewLabelsError, NoOwnRowsError, NoRowsError: the rows are too few for what is asked of them.
        TooManyBadRowsError: too many of them cannot be used.
        SourceMissingError, SourceFormatError, DatasetReferenceError: they cannot be read.
        StoreNotSharedError: other nodes of the cluster would write them to a directory of their own.
    """
    planned = context.inspect().ingest()
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned) as account:
        account.rows = 0
        if not outgrows_memory(context.job.spec.data):
            _ingest_here(context, account)
            return
        cluster = context.job.spec.cluster
        with ray_session(cluster.address, cpus=cluster.cpus) as capacity:
            # Before a node writes a shard to where only that node will find it.
            check_reach(context.store, cluster, grown(capacity, cluster.may_grow_to))
            from orchestrator.steps.ray_data import RayData  # costs seconds to import

            ingest_partitions(context, account, RayData())


def _ingest_here(context: RunContext, account: StepAccount) -> None:
    data, ids = context.job.spec.data, context.job.datasets
    source = read_source(data)
    leave_out(context, source.bad)
    for rows in divided(source, data, ids):
        record = write_dataset(
            context.store,
            rows.arrays,
            identity=rows.identity,
            classes=rows.classes,
            shard_rows=data.shard_rows,
            compression=data.compression,
        )
        account.rows = (account.rows or 0) + record.rows
        context.advanced(account.name, account.rows)
