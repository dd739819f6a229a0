"""What faults leave behind: simulated schedules, killed processes, lost answers, flipped bits. Every count should be 0.

It measures no speed. Exits with 1 if any promise was broken; the seeds that it prints repeat what it did.

    python benchmarks/faults.py [--seed N] [--schedules N] [--kills N] [--drivers N] [--commits N] [--flips N]
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from moto.server import ThreadedMotoServer

from tests.fixtures import ceph
from tests.fixtures.ray_head import running_head
from tests.fixtures.s3_servers import Credentials, S3Server
from tests.simulation.commits import commit_through_losses
from tests.simulation.drivers import kill_drivers
from tests.simulation.flips import flip_bits
from tests.simulation.kills import kill_labelling
from tests.simulation.schedules import ViolatedSchedule, run_schedule

_CHUNK = 100
_KEYS = Credentials("AKIAFAULTS0000000000", "s" * 40)


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    name: str
    count: int
    broken: int
    """Promises that were broken."""
    figures: dict[str, object]


def main() -> None:
    """Run everything and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--drivers", type=int, default=20)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--flips", type=int, default=10_000)
    options = parser.parse_args()
    parts: list[tuple[Callable[[int, int], Outcome], int]] = [
        (schedules, options.schedules),
        (kills, options.kills),
        (drivers, options.drivers),
        (flips, options.flips),
        (commits, options.commits),
    ]
    outcomes = []
    for part, count in parts:
        outcomes.append(outcome := part(options.seed, count))
        figures = ", ".join(f"{name} {value}" for name, value in outcome.figures.items())
        print(f"{outcome.name:<20} {outcome.count:>7,}   broken {outcome.broken}   {figures}", flush=True)
    print(json.dumps({"benchmark": "faults", "seed": options.seed, "parts": [asdict(outcome) for outcome in outcomes]}))
    sys.exit(any(outcome.broken for outcome in outcomes))


def schedules(seed: int, count: int) -> Outcome:
    """Play schedules in as many processes as there are cores."""
    starts = range(seed, seed + count, _CHUNK)
    ranges = [range(start, min(start + _CHUNK, seed + count)) for start in starts]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        played = list(pool.map(_play, ranges))
    operations, faults, violated = (
        sum(column, start) for column, start in zip(zip(*played, strict=True), (0, 0, []), strict=True)
    )
    figures = {"operations": operations, "faults": faults, "violated_seeds": violated[:10]}
    return Outcome("simulated schedules", count, len(violated), figures)


def kills(seed: int, count: int) -> Outcome:
    """Kill labelling processes."""
    with tempfile.TemporaryDirectory() as folder:
        result = kill_labelling(Path(folder), kills=count, seed=seed)
    wasted = round(result.shards_wasted_per_kill, 3)
    broken = result.rows_lost + result.rows_doubled + (wasted > 1)
    figures = asdict(result) | {"shards_wasted_per_kill": wasted}
    return Outcome("killed processes", result.kills, broken, figures)


def drivers(seed: int, count: int) -> Outcome:
    """Kill drivers, one half of them while they label and one while they train."""
    with tempfile.TemporaryDirectory() as folder, running_head() as head:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(head.token_file)}
        result = kill_drivers(Path(folder), head.address, labelling=count - count // 2, training=count // 2, seed=seed)
    return Outcome("killed drivers", result.kills, result.broken, asdict(result))


def flips(seed: int, count: int) -> Outcome:
    """Flip bits of uncompressed and of compressed stores."""
    figures: dict[str, object] = {}
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        for compression, share in (("none", count - 2 * (count // 3)), ("lz4", count // 3), ("zstd", count // 3)):
            result = flip_bits(Path(folder), flips=share, seed=seed, compression=compression)
            broken += result.accepted + result.crashed
            figures[compression] = asdict(result)
    return Outcome("flipped bits", count, broken, figures)


def commits(seed: int, count: int) -> Outcome:
    """Commit through lost answers, before Ceph if it is installed and else before moto."""
    with _server() as (name, server):
        result = commit_through_losses(server, commits=count, seed=seed)
    broken = result.false_conflicts + result.wrong_acknowledgements + result.missing
    return Outcome(f"commits to {name}", count, broken, asdict(result))


def _play(seeds: range) -> tuple[int, int, list[int]]:
    operations, faults, violated = 0, 0, []
    for seed in seeds:
        try:
            passed = run_schedule(seed)
        except ViolatedSchedule as found:
            print(found, file=sys.stderr)
            violated.append(seed)
        else:
            operations += passed.operations
            faults += passed.faults
    return operations, faults, violated


@contextmanager
def _server() -> Iterator[tuple[str, S3Server]]:
    if not ceph.missing_programs():
        users = {"owner": (_KEYS.access_key, _KEYS.secret_key)}
        with (
            tempfile.TemporaryDirectory(prefix="ceph-") as folder,
            ceph.running_gateway(Path(folder), users=users) as url,
        ):
            yield "Ceph", S3Server(url, _KEYS, _KEYS)
        return
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    try:
        yield "moto", S3Server(f"http://{host}:{port}", _KEYS, _KEYS)
    finally:
        moto.stop()


if __name__ == "__main__":
    main()
