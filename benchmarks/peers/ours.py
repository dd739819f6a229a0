"""Coffey on the same work, as a user runs it: `coffey run`, on a Ray cluster that it starts on this machine."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.peers.work import KL_WEIGHT, LABELS_WEIGHT, TEACHERS, Work

_START = "from cluster.session import ray_session\nwith ray_session(None):\n    pass"
_IMAGES = {"shape": [1, 28, 28]}


@dataclass(frozen=True)
class Ours:
    """What one run took and reached."""

    wall_s: float
    """From the command to its end: with the imports, Ray's start and end, labelling, training, the report."""
    accuracy: float


def run(work: Work, store: Path, seed: int) -> Ours:
    """Run the job; labels that are in the store are not computed again."""
    path = work.folder / "job.yaml"
    path.write_text(json.dumps(_spec(work)))
    settings = ["--set", f"store={store}", "--set", f"train.seeds=[{seed}]"]
    started_s = time.perf_counter()
    found = _python("-m", "orchestrator.cli", "run", str(path), "--json", "--quiet", *settings)
    wall_s = time.perf_counter() - started_s
    report: dict[str, Any] = json.loads(found)["report"]
    students = [model["accuracy"] for model in report["models"] if model["role"] == "student"]
    return Ours(wall_s, fmean(students))


def ray_start_s() -> float:
    """Return the seconds that a process takes to start Ray as a run does, and to end it."""
    started_s = time.perf_counter()
    _python("-c", _START)
    return time.perf_counter() - started_s


def _spec(work: Work) -> dict[str, Any]:
    cores, size = len(os.sched_getaffinity(0)), work.size
    return {
        "name": "peers",
        "data": {
            "read": {"source": "npz", "train": str(work.folder / "train.npz"), "test": str(work.folder / "test.npz")},
            "validation": size.held_out,
        },
        "teachers": [
            {
                "name": name,
                "model": f"examples.models:{factory.__name__}",
                "arguments": {"channels": size.channels},
                "weights": str(work.weights(name)),
                "inputs": _IMAGES,
                "batch_size": size.batch_size,
                "resources": {"cpu": round(cores / len(TEACHERS), 2)},
            }
            for name, factory in TEACHERS.items()
        ],
        "fusion": {"combine": "mean_logit", "calibrate": "none"},
        "student": {"model": "examples.models:SmallCNN", "inputs": _IMAGES},
        "objective": [{"term": "kl", "weight": KL_WEIGHT}, {"term": "cross_entropy", "weight": LABELS_WEIGHT}],
        "train": {
            "epochs": size.epochs,
            "batch_size": size.batch_size,
            "workers": min(cores, 8),
            "optimizer": {"name": "adamw", "lr": size.lr},
        },
        "baseline": None,
        "export": ["safetensors"],
    }


def _python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
