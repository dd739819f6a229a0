"""Kills, hangs, notices, outages and full disks, while real jobs run on Ray on this machine: what each of them cost.

It measures recovery, not speed. Exits with 1 if any promise was broken. One integer, which is printed, fixes whom the
kills strike and when they are due. The last line is the result as JSON.

    python benchmarks/chaos.py [--seed N] [--replicas N] [--workers N] [--drivers N] [--nodes N] [--only NAME …]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cluster.session import ray_session
from tests.fixtures.ray_head import running_head
from tests.fixtures.ray_token import TOKEN
from tests.simulation.attempts import run_twice_at_once
from tests.simulation.drivers import kill_drivers
from tests.simulation.full_disks import NoMountError, fill_disk
from tests.simulation.longer_outages import live_through_outages
from tests.simulation.nodes import kill_nodes
from tests.simulation.notices import PHASES, give_notices
from tests.simulation.replicas import hang_once, kill_replicas
from tests.simulation.workers import kill_workers

OUTAGE_S = 600.0


class Result(Protocol):
    """What a trial returns: a dataclass of figures."""

    @property
    def broken(self) -> int:
        """Promises that were broken."""


@dataclass(frozen=True)
class Trial:
    """One kind of harm."""

    what: str
    count: int
    run: Callable[[Path, str, int, int], Result]
    """Is told a folder, the address of a Ray cluster, how often and the seed."""
    is_counted: bool = False
    """Whether the command line may say how often."""


def replicas(folder: Path, address: str, count: int, seed: int) -> Result:
    with ray_session(address):
        return kill_replicas(folder, kills=count, seed=seed)


def workers(folder: Path, address: str, count: int, seed: int) -> Result:
    with ray_session(address):
        return kill_workers(folder, kills=count, seed=seed)


def drivers(folder: Path, address: str, count: int, seed: int) -> Result:
    labelling = min(10, count - count // 2)  # there are shards for no more
    return kill_drivers(folder, address, labelling=labelling, training=count - labelling, seed=seed)


def nodes(folder: Path, _address: str, count: int, seed: int) -> Result:
    return kill_nodes(folder, labelling=count - count // 2, training=count // 2, seed=seed)


def hang(folder: Path, address: str, _count: int, _seed: int) -> Result:
    with ray_session(address):
        return hang_once(folder)


TRIALS = {
    "replicas": Trial("kills of replicas with requests in flight", 200, replicas, is_counted=True),
    "workers": Trial("kills of training workers in a step", 50, workers, is_counted=True),
    "drivers": Trial("kills of drivers", 50, drivers, is_counted=True),
    "nodes": Trial("nodes lost, and replaced", 20, nodes, is_counted=True),
    "hang": Trial("replicas that hang for ever", 1, hang),
    "notices": Trial("SIGTERMs, one in each phase", len(PHASES), lambda at, head, *_: give_notices(at, head)),
    "outage": Trial("outages of the store, simulated", 4, lambda *_: live_through_outages(OUTAGE_S)),
    "disk": Trial("full disks", 1, lambda at, head, *_: fill_disk(at, head)),
    "attempts": Trial("pairs of runs of one job at once", 1, lambda at, head, *_: run_twice_at_once(at, head)),
}


def main() -> None:
    """Run everything, or what is asked for, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    for name, trial in TRIALS.items():
        if trial.is_counted:
            parser.add_argument(f"--{name}", type=int, default=trial.count, metavar="N")
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="NAME")
    options = parser.parse_args()
    _have_token()
    print(f"seed {options.seed}", flush=True)
    outcomes: dict[str, dict[str, Any]] = {}
    with running_head() as head:
        for name in options.only:
            count = getattr(options, name, TRIALS[name].count)
            outcomes[name] = outcome(TRIALS[name], head.address, count, options.seed)
            show(name, outcomes[name])
    print(json.dumps({"benchmark": "chaos", "seed": options.seed, "trials": outcomes}))
    sys.exit(any(found["broken"] for found in outcomes.values()))


def outcome(trial: Trial, address: str, count: int, seed: int) -> dict[str, Any]:
    """Run one trial in a folder of its own; a trial that fails has broken a promise."""
    started_s = time.monotonic()
    with _folder() as folder:
        try:
            result = trial.run(folder, address, count, seed)
        except NoMountError as error:
            figures: dict[str, Any] = {"skipped": str(error)}
            broken = 0
        except Exception as error:
            figures, broken = {"error": f"{type(error).__name__}: {error}"}, 1
        else:
            figures, broken = asdict(result), result.broken  # type: ignore[call-overload]
    seconds = round(time.monotonic() - started_s, 1)
    return {"what": trial.what, "count": count, "broken": int(broken), "seconds": seconds, "figures": figures}


def show(name: str, found: dict[str, Any]) -> None:
    print(f"{name:<10}{found['count']:>5} {found['what']:<42} broken {found['broken']}   {found['seconds']:>7.1f} s")
    for figure, value in found["figures"].items():
        print(f"{'':<16}{figure} {value}", flush=True)


def _have_token() -> None:
    """Begin again with the token of the head in the environment: Ray reads it when it is imported, and never again."""
    if os.environ.get("RAY_AUTH_TOKEN") != TOKEN:
        os.execve(sys.executable, sys.orig_argv, os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coffey-chaos-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
