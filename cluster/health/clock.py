"""The clock of this machine, as far as it can be judged without another."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cluster.clocks import MOST_SKEW_S
from cluster.findings import Finding, concern, failure, fine

_FIX = "Set the clock of this machine (NTP): S3 refuses requests that are 15 minutes off."


def check_clock(now_s: Callable[[], float] = time.time, *, witness: Path = Path(__file__)) -> Finding:
    """Compare the clock with the time at which a file was written, by default this one."""
    told_s, written_s = now_s(), witness.stat().st_mtime
    found = f"{_iso(told_s)} UTC"
    if told_s < written_s - MOST_SKEW_S:
        return failure("clock", f"{found}, and Coffey's own files are of {_iso(written_s)}", _FIX)
    return fine("clock", found)


def check_skew(skew_s: float | None) -> Finding:
    """Judge how far the clock of a cluster is from ours."""
    if skew_s is None:
        return fine("clock", "the cluster does not tell the time")
    found = f"the cluster's and this machine's differ by {skew_s:.0f} s"
    return concern("clock", found, "Set the clocks of both (NTP).") if skew_s > MOST_SKEW_S else fine("clock", found)


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
