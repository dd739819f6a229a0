"""Follow: labels that the teachers' part of the job writes, on whatever cluster, seen in the store alone."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from cluster.shards.labelset import LabelSetRecord
from cluster.storage.lull import Lull
from orchestrator.context import RunContext
from orchestrator.planning.plan import Inspection
from students.arrivals import LabelsLateError

_POLL_S = 1.0


def await_labels(
    context: RunContext,
    records: Sequence[LabelSetRecord],
    *,
    clock_s: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until every shard of some label sets is committed.

    Raises:
        LabelsLateError: no shard of any of them was committed for `cluster.labels_timeout_s`, outages of the store not
            counted.
    """
    inspection, timeout_s = context.inspect(), context.job.spec.cluster.labels_timeout_s
    least, lull = None, Lull(timeout_s, clock_s=clock_s)
    while missing := _missing(inspection, records, lull):
        left = sum(len(numbers) for _, numbers in missing)
        if least is None:
            context.said(f"waits for labels of {', '.join(dict.fromkeys(record.teacher for record, _ in missing))}")
        if least is None or left < least:
            least = left
            lull.begin()
        elif lull.is_over:
            record, numbers = missing[0]
            raise LabelsLateError(f"{context.store.uri}/{record.prefix}", numbers[0], timeout_s)
        pause(_POLL_S)


def _missing(
    inspection: Inspection, records: Sequence[LabelSetRecord], lull: Lull
) -> list[tuple[LabelSetRecord, list[int]]]:
    # One look for each, or many label sets would take as long as an outage.
    found = [(record, lull.look(partial(inspection.missing, record))) for record in records]
    return [(record, numbers) for record, numbers in found if numbers]
