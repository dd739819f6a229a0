"""Takes the time of contestants that take turns, so that a machine that changes its speed is the same for all."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from benchmarks.reader.data import Epoch


@dataclass
class Times:
    """What one contestant took in each round."""

    rows_per_s: list[float] = field(default_factory=list)
    first_batch_ms: list[float] = field(default_factory=list)


def race(contestants: Mapping[str, Epoch], *, rounds: int, cut_s: float) -> dict[str, Times]:
    """Run `rounds` epochs of each after one that warms up. An epoch that takes longer than `cut_s` is cut there."""
    times = {name: Times() for name in contestants}
    for number in range(rounds + 1):
        for name, epoch in contestants.items():
            rows_per_s, first_ms = _timed(epoch, number, cut_s)
            if number > 0:
                times[name].rows_per_s.append(rows_per_s)
                times[name].first_batch_ms.append(first_ms)
    return times


def ratio(times: Mapping[str, Times], name: str, to: str) -> float:
    """Return the median over the rounds of the one's speed over the other's."""
    pairs = zip(times[name].rows_per_s, times[to].rows_per_s, strict=True)
    return round(median(ours / theirs for ours, theirs in pairs), 3)


def _timed(epoch: Epoch, number: int, cut_s: float) -> tuple[float, float]:
    started_s = time.perf_counter()
    batches = epoch(number)
    rows = len(next(batches)["row"])
    first_s = time.perf_counter() - started_s
    for batch in itertools.takewhile(lambda _: time.perf_counter() - started_s < cut_s, batches):
        rows += len(batch["row"])
    return rows / (time.perf_counter() - started_s), first_s * 1000
