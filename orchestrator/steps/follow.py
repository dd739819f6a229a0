"""Follow: labels that the teachers' part of the job writes, on whatever cluster, seen in the store alone."""

import time
from collections.abc import Callable, Sequence

from cluster.shards.labelset import LabelSetRecord
from orchestrator.context import RunContext
from students.batches import LabelsLateError

_POLL_S = 1.0


def await_labels(
    context: RunContext, records: Sequence[LabelSetRecord], *, pause: Callable[[float], None] = time.sleep
) -> None:
    """Wait until every shard of some label sets is committed.

    Raises:
        LabelsLateError: no shard of any of them was committed for `cluster.labels_timeout_s`.
    """
    inspection, timeout_s = context.inspect(), context.job.spec.cluster.labels_timeout_s
    least, deadline_s = None, 0.0
    while missing := [(record, numbers) for record in records if (numbers := inspection.missing(record))]:
        left = sum(len(numbers) for _, numbers in missing)
        if least is None:
            context.said(f"waits for labels of {', '.join(dict.fromkeys(record.teacher for record, _ in missing))}")
        if least is None or left < least:
            least, deadline_s = left, time.monotonic() + timeout_s
        elif time.monotonic() > deadline_s:
            record, numbers = missing[0]
            raise LabelsLateError(f"{context.store.uri}/{record.prefix}", numbers[0], timeout_s)
        pause(_POLL_S)
