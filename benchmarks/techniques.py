"""Every technique on Fashion-MNIST with 5,000 labels: the same teachers, student, steps and seeds, in one table.

Each technique is one `coffey run` of `examples/fashion.yaml` with another objective, in one store: teachers and labels
are made once, and what was trained before is found again. `gain` is the difference to the same student without
teachers, in standard errors of the two means over the seeds. Time of a step and memory are measured apart, in turns: a
process for each technique and round trains one epoch of the same rows; they are relative to plain KL in that round.

    python -m benchmarks.techniques [TECHNIQUE ...] [--store URI] [--rounds N] [--set KEY=VALUE ...]
"""

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from orchestrator.load import load_spec
from orchestrator.resolve import resolve

SPEC = "examples/fashion.yaml"
PLAIN = "kl"
LABELS = {"term": "cross_entropy", "weight": 0.1}
TERMS: dict[str, dict[str, Any]] = {
    "kl": {"term": "kl", "weight": 0.9},
    "kl, T = 4": {"term": "kl", "temperature": 4, "weight": 0.9},
    "adaptive_kl": {"term": "adaptive_kl", "weight": 0.9},
    "dist": {"term": "dist", "weight": 2.0},
    "dkd": {"term": "dkd", "weight": 0.9},
    "jsd": {"term": "jsd", "weight": 0.9},
    "mse": {"term": "mse", "weight": 0.9},
    "reverse_kl": {"term": "reverse_kl", "weight": 0.9},
    "skew_kl": {"term": "skew_kl", "weight": 0.9},
    "standardised_kl": {"term": "standardised_kl", "weight": 0.9},
    "taid": {"term": "taid", "weight": 0.9},
    "tvd": {"term": "tvd", "weight": 0.9},
}
"""The term of each technique that matches the teachers; the labels' cross-entropy stands beside it."""


def main() -> None:
    """Run, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("techniques", nargs="*", help=f"by default all: {', '.join(TERMS)}")
    parser.add_argument("--store", default="./coffey-store")
    parser.add_argument("--rounds", type=int, default=3, help="epochs that are timed for each (default: %(default)s)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--epoch-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.epoch_of:
        print(json.dumps(one_epoch(settings(options.epoch_of, options))))
        return
    if unknown := set(options.techniques) - set(TERMS):
        parser.error(f"no technique is called {sorted(unknown)[0]!r}; there are {', '.join(TERMS)}")
    names = list(dict.fromkeys([PLAIN, *(options.techniques or TERMS)]))
    reports = {name: run(settings(name, options)) for name in names}
    costs = measured(names, options)
    print(table(reports, costs))
    summaries = {name: report["summary"] for name, report in reports.items()}
    print(json.dumps({"benchmark": "techniques", "costs": costs, "summaries": summaries}))


def settings(name: str, options: argparse.Namespace) -> list[str]:
    """Return the values of the spec that make it the technique's."""
    objective = json.dumps([TERMS[name], LABELS])
    return [f"store={options.store}", f"objective={objective}", *options.overrides]


def run(overrides: list[str]) -> dict[str, Any]:
    """Do what is left of the job, and return its report."""
    command = [sys.executable, "-m", "orchestrator.cli", "run", SPEC, "--json", *_set(overrides)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(found.stdout)["report"]
    return report


def measured(names: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the time of a step and the memory of each technique as multiples of plain KL's, medians over rounds."""
    rounds = [{name: _in_a_process(name, options) for name in names} for _ in range(options.rounds)]
    return {
        name: {
            field: round(median(found[name][field] / found[PLAIN][field] for found in rounds), 3)
            for field in ("seconds", "peak_bytes")
        }
        for name in names
    }


def one_epoch(overrides: list[str]) -> dict[str, float]:
    """Train one epoch here, remove it again, and return its seconds and the largest memory of this process."""
    from cluster.storage.open import open_store
    from students.group import Alone
    from students.loop import train
    from students.task import Execution

    spec = load_spec(Path(SPEC), overrides)
    store, task = open_store(spec.store), resolve(spec).students[0].model_copy(update={"epochs": 1, "name": "cost"})
    record = train(store, task, Execution(), Alone())
    for stat in list(store.list(f"{task.prefix}/")):
        store.delete(stat.key)
    # Not `ru_maxrss`: that of a child begins with the size of the parent that it was forked from.
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"seconds": record.seconds - record.waited_s, "peak_bytes": int(kib) * 1024}


def table(reports: dict[str, dict[str, Any]], costs: dict[str, dict[str, float]]) -> str:
    """Return the figures of all as Markdown, the most accurate first."""
    head = ["technique", "accuracy %", "gain, standard errors", "KL to the ensemble", "agreement %", "ECE"]
    lines = [[*head, "time of a step", "memory"], ["---"] * (len(head) + 2)]
    lone = _of_role(next(iter(reports.values())), "baseline")
    lines.append(["without teachers", _accuracy(lone), "", "", "", f"{fmean(one['ece'] for one in lone):.3f}", "", ""])
    for name in sorted(reports, key=lambda name: -reports[name]["summary"]["student_accuracy"]):
        students = _of_role(reports[name], "student")
        (beside,) = (it for it in reports[name]["agreements"] if it["role"] == "ensemble")
        lines.append(
            [
                name,
                _accuracy(students),
                f"{_gain(students, lone):+.1f}",
                f"{beside['kl']:.4f}",
                f"{100 * beside['agreement']:.2f}",
                f"{fmean(one['ece'] for one in students):.3f}",
                f"{costs[name]['seconds']:.2f}",
                f"{costs[name]['peak_bytes']:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_role(report: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [model for model in report["models"] if model["role"] == role]


def _accuracy(models: list[dict[str, Any]]) -> str:
    found = [100 * model["accuracy"] for model in models]
    return f"{fmean(found):.2f}" + (f" ± {stdev(found):.2f}" if len(found) > 1 else "")


def _gain(students: list[dict[str, Any]], lone: list[dict[str, Any]]) -> float:
    ours, theirs = ([model["accuracy"] for model in models] for models in (students, lone))
    error = math.sqrt(sum(stdev(found) ** 2 / len(found) for found in (ours, theirs) if len(found) > 1))
    return (fmean(ours) - fmean(theirs)) / error if error else math.nan


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.techniques", "--epoch-of", name, "--store", options.store]
    command += _set(options.overrides)
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    cost: dict[str, float] = json.loads(found.stdout)
    return cost


def _set(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


if __name__ == "__main__":
    main()
