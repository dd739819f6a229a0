"""Three teachers into one student, end to end: Coffey, a loop by hand, torchdistill and TextBrewer.

All have the same rows, teachers, student, objective, optimizer and steps, and all cores (`work.py`). Each runs in a
process of its own, in turns within a round; seconds are medians over the rounds, of whole processes with their imports,
up to a student on disk. Coffey's are those of `coffey run` with an empty store, and with another seed in the same
store, so that labels are there. In both are Ray's start, which is measured apart too, and the figures and the report of
Coffey; nobody else's student is scored within its seconds. A peer that is not installed is named as missing;
`make peers` makes an environment with both. The last line is the result as JSON.

    python -m benchmarks.peers [--rows N] [--epochs N] [--channels N] [--teacher-epochs N] [--rounds N]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.peers import ours
from benchmarks.peers.work import Size, Work

PEERS = {
    "by hand, live teachers": ("plain", "live"),
    "by hand, logits in memory": ("plain", "cached"),
    "torchdistill, live teachers": ("torchdistill", "live"),
    "TextBrewer, live teachers": ("textbrewer", "live"),
    "TextBrewer, logits in memory": ("textbrewer", "cached"),
}
OURS, OURS_CACHED = "Coffey, empty store", "Coffey, labels in the store"

Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=60_000, help="of training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of the student (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=32, help="width of the teachers (default: %(default)s)")
    parser.add_argument("--teacher-epochs", type=int, default=1, help="that fit the teachers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    size = Size(rows=options.rows, epochs=options.epochs, channels=options.channels)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), size)
        work.prepare(options.teacher_epochs)
        rounds = [one_round(work, seed) for seed in range(options.rounds)]
    found = {
        name: {field: median(one[name][field] for one in rounds) for field in rounds[0][name]} for name in rounds[0]
    }
    print(table(found))
    print(json.dumps({"benchmark": "peers", "size": asdict(size), "rounds": rounds}))


def one_round(work: Work, seed: int) -> dict[str, Figures]:
    """Let all do the work once."""
    store = work.folder / f"store-{seed}"
    ray = {"seconds": ours.ray_start_s()}
    found: dict[str, Figures] = {"Ray's start and end alone": ray}
    for name, student_seed in ((OURS, seed), (OURS_CACHED, seed + 1000)):
        run = ours.run(work, store, student_seed)
        found[name] = {"seconds": run.wall_s, "accuracy": run.accuracy}
    for name, (module, function) in PEERS.items():
        if module == "plain" or find_spec(module):
            found[name] = _contestant(module, function, work, seed)
        else:
            print(f"{name}: missing", file=sys.stderr)
    return found


def table(found: dict[str, Figures]) -> str:
    """Return the figures as Markdown."""
    lines = ["| | s | accuracy % |", "|---|---|---|"]
    for name, figures in found.items():
        accuracy = f"{100 * figures['accuracy']:.2f}" if "accuracy" in figures else ""
        lines.append(f"| {name} | {figures['seconds']:.1f} | {accuracy} |")
    return "\n".join(lines)


def _contestant(module: str, function: str, work: Work, seed: int) -> Figures:
    command = [sys.executable, "-m", "benchmarks.peers.contestant", module, function, str(work.folder), str(seed)]
    started_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - started_s, "accuracy": work.accuracy()}


if __name__ == "__main__":
    main()
