"""Rows that are left out, noted in the store and said to whoever watches."""

from collections.abc import Sequence

from orchestrator.context import RunContext
from orchestrator.sources.quarantine import BadRow, publish_quarantine, quarantine_key


def leave_out(context: RunContext, bad: Sequence[BadRow]) -> None:
    """Say which rows are left out, where there are any."""
    if bad:
        dataset = context.job.datasets.train
        publish_quarantine(context.store, dataset, bad)
        context.said(f"{len(bad):,} rows are left out: {context.store.uri}/{quarantine_key(dataset)} says why")
