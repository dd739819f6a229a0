"""Rows per second of a shuffled epoch: Coffey's reader, the limit of memory, and other formats and loaders.

Two data sets: rows of 852 bytes (an image and three teachers' logits) and of 16 KiB (the top 32 of 128 tokens). Pages
are in memory; every contestant has one reading thread and batches of 256 rows. The limit is `torch.index_select` of the
same batches from tensors in memory. Contestants take turns within a round; ratios are medians over the rounds.
Row-by-row peers are given the first 20,000 rows. A peer that is not installed is named as missing; `make peers` makes
an environment with all of them. The last line is the result as JSON.

    python -m benchmarks.reader [--rows N] [--sequences N] [--rounds N] [--cut-s S] [--s3 s3://bucket/at] [--no-peers]
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch

from benchmarks.reader import data, ours
from benchmarks.reader.data import Data, Epoch
from benchmarks.reader.race import Times, race, ratio
from cluster.memory import keep_freed_memory
from cluster.storage.open import open_store

OURS, LIMIT, S3 = "coffey", "index_select in memory", "coffey from S3"
PEERS = ("mosaicml", "litdata", "webdataset", "hugging_face", "lance", "lance_unshuffled", "ray_data")
UNSHUFFLED = "lance_unshuffled"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="small rows (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=20_000, help="rows of 16 KiB (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one warm-up (default: %(default)s)")
    parser.add_argument("--cut-s", type=float, default=4.0, help="longest epoch (default: %(default)s)")
    parser.add_argument("--s3", help="an empty place in a bucket, reached by the AWS environment")
    parser.add_argument("--no-peers", action="store_true", help="Coffey and the limit alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result: dict[str, object] = {"benchmark": "reader", "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("COFFEY_CACHE_DIR", f"{folder}/cache")
        for rows in (data.small(options.rows), data.sequences(options.sequences)):
            result[rows.name] = measured(rows, Path(folder), options)
        result["rss"] = memory_of(options.rows, Path(folder))
    print(json.dumps(result))


def measured(rows: Data, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Write one data set in every form, let all read it in turn, and return the figures."""
    store = open_store(str(folder / "store"))
    ours.write(store, rows)
    contestants: dict[str, Epoch] = {LIMIT: ours.in_memory(rows, store)}
    if options.s3:
        bucket = open_store(options.s3)
        ours.write(bucket, rows)
        contestants[S3] = ours.reader(bucket, rows)
        for _batch in ours.reader(bucket, rows)(0):  # what follows is after the first pass
            pass
    peers, missing = ({}, []) if options.no_peers else peers_of(rows, folder)
    time.sleep(2.5)  # a file that was just written is hashed at every opening
    contestants[OURS] = ours.reader(store, rows)
    started_s = time.perf_counter()
    next(ours.reader(store, rows)(0))
    cold_ms = (time.perf_counter() - started_s) * 1000
    times = race(contestants, rounds=options.rounds, cut_s=options.cut_s)
    # Apart, in rounds of their own with ours: some leave threads behind that would slow down the others.
    again = {OURS: ours.reader(store, rows), **peers}
    beside = race(again, rounds=options.rounds, cut_s=options.cut_s) if peers else {}
    report(rows, times | {name: found for name, found in beside.items() if name != OURS}, missing)
    found: dict[str, object] = {
        "row_bytes": rows.row_bytes,
        "rows_per_s": {name: round(median(found.rows_per_s)) for name, found in (beside | times).items()},
        "of_the_limit": ratio(times, OURS, LIMIT),
        "first_batch_ms": round(median(times[OURS].first_batch_ms), 1),
        "first_batch_unverified_ms": round(cold_ms, 1),
        "missing": missing,
    }
    if peers:
        best = max(peers.keys() - {UNSHUFFLED}, key=lambda name: median(beside[name].rows_per_s))
        found |= {"best_peer": best, "times_best_peer": ratio(beside, OURS, best)}
    if options.s3:
        found["s3_seconds_of_directory"] = ratio(times, OURS, S3)
    return found


def peers_of(rows: Data, folder: Path) -> tuple[dict[str, Epoch], list[str]]:
    """Return the peers that are installed, by name, and the names of the others."""
    peers, missing = dict[str, Epoch](), []
    for name in PEERS:
        try:
            module = importlib.import_module(f"benchmarks.reader.peers.{name}")
        except ImportError as error:
            print(f"{name} is missing: {error}")
            missing.append(name)
            continue
        given = rows.first(module.ROWS) if hasattr(module, "ROWS") else rows
        peers[name] = module.build(given, folder / f"{rows.name}-{name}")
    return peers, missing


def report(rows: Data, times: Mapping[str, Times], missing: list[str]) -> None:
    print(f"{rows.name}: {rows.rows:,} rows of {rows.row_bytes:,} bytes")
    for name, found in times.items():
        rate, first_ms = median(found.rows_per_s), median(found.first_batch_ms)
        spread = f"{min(found.rows_per_s):,.0f} to {max(found.rows_per_s):,.0f}"
        print(f"  {name:<24}{rate:>12,.0f} rows/s ({spread}), first batch after {first_ms:,.1f} ms")
    for name in missing:
        print(f"  {name:<24}{'missing':>12}")


def memory_of(rows: int, folder: Path) -> dict[str, float]:
    """Return the largest resident set of a process that reads two epochs of `rows` rows, and of ten times as many."""
    found = []
    for times in (1, 10):
        store = f"{folder}/store-{times}"
        ours.write(open_store(store), data.small(rows * times))
        child = [sys.executable, "-m", "benchmarks.reader.memory", store]
        answer = subprocess.run(child, check=True, capture_output=True, text=True)
        found.append(int(answer.stdout))
    print(f"memory: {found[0] / 2**20:.0f} MiB, with ten times the rows {found[1] / 2**20:.0f} MiB")
    return {"bytes": found[0], "bytes_of_ten_times_the_rows": found[1], "ratio": round(found[1] / found[0], 3)}


if __name__ == "__main__":
    main()
