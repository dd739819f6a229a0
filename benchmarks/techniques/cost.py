"""What a step of each technique costs: one epoch after the other in turns, without Ray, against plain KL's.

Each epoch has a process of its own, forked from one that has imported everything, so that no other's memory
counts. Codistillation is left out: in its first epoch members do not hear each other yet.
"""

import multiprocessing
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks.techniques.catalogue import PLAIN
from benchmarks.techniques.runs import SPEC, Asked

Figures = dict[str, float]


def costs(asked: Mapping[str, Asked], *, rounds: int) -> dict[str, Figures]:
    """Return `seconds` and `peak_bytes` of each technique as multiples of plain KL's in the same round, medians."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["students.loop", "orchestrator.resolution.resolve", "orchestrator.load"])
    asked = {name: one for name, one in asked.items() if not _is_codistilled(one)}
    found: list[dict[str, Figures]] = []
    for _ in range(rounds):
        found.append({})
        for name, one in asked.items():
            with context.Pool(1) as pool:
                found[-1][name] = pool.apply(epoch, [one.overrides])
    return {
        name: {
            field: round(median(of[name][field] / of[PLAIN][field] for of in found), 3)
            for field in ("seconds", "peak_bytes")
        }
        for name in asked
    }


def epoch(overrides: list[str]) -> Figures:
    """Train one epoch here, remove it again, and return its seconds and the largest memory of this process.

    The labels have to be in the store: a technique that was never run has none.
    """
    import torch

    from cluster.storage.open import open_store
    from orchestrator.load import load_spec
    from orchestrator.resolution.resolve import resolve
    from students.group import Alone
    from students.loop import train
    from students.task import Execution

    torch.set_num_threads(1)
    spec = load_spec(Path(SPEC), overrides)
    store, task = open_store(spec.store), resolve(spec).students[0].model_copy(update={"epochs": 1, "name": "cost"})
    record = train(store, task, Execution(), Alone())
    for stat in list(store.list(f"{task.prefix}/")):
        store.delete(stat.key)
    # Not `ru_maxrss`: that of a child begins with the size of the parent that it was forked from.
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"seconds": record.seconds - record.waited_s, "peak_bytes": int(kib) * 1024}


def _is_codistilled(asked: Asked) -> bool:
    return bool(asked.changes.get("cohort", {}).get("method") == "codistillation")
