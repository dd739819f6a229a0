"""The results as Markdown, the most accurate first."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from benchmarks.techniques.lines import Lines, Run

HEAD = ["technique", "family", "accuracy %", "gain, standard errors", "KL to the ensemble", "agreement %", "ECE"]
COSTS = ["time of a step", "memory"]


def table(lines: Lines) -> str:
    """Return the table of all techniques that were run, with what is known of their costs."""
    runs = sorted(lines.runs.values(), key=lambda run: -fmean(run.accuracies))
    rows = [[*HEAD, *COSTS], ["---"] * len(HEAD + COSTS), *(_row(run, lines) for run in runs)]
    rows += _lone(runs)
    won = [run for run in runs if gain(run) > 2]
    count = f"{len(won)} of {len(runs)} beat their student without teachers by more than two standard errors."
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", count])


def gain(run: Run) -> float:
    """Return the gain over the student without teachers in standard errors of both means; nan for one seed."""
    pair = (run.accuracies, run.lone_accuracies)
    error = math.sqrt(sum(stdev(found) ** 2 / len(found) for found in pair if len(found) > 1))
    return (fmean(run.accuracies) - fmean(run.lone_accuracies)) / error if error else math.nan


def _lone(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each student without teachers, first that of most techniques: views may change it."""
    beside: dict[tuple[float, ...], list[Run]] = {}
    for run in runs:
        beside.setdefault(run.lone_accuracies, []).append(run)
    rows = []
    for accuracies, those in sorted(beside.items(), key=lambda it: -len(it[1])):
        name = f"without teachers, of {', '.join(run.technique for run in those)}" if rows else "without teachers"
        rows.append([name, "", _accuracy(accuracies), "", "", "", f"{those[0].lone_ece:.3f}", "", ""])
    return rows


def _row(run: Run, lines: Lines) -> list[str]:
    cost = lines.costs.get(run.technique)
    return [
        run.technique,
        run.family,
        _accuracy(run.accuracies),
        f"{gain(run):+.1f}",
        "" if run.kl is None else f"{run.kl:.4f}",
        "" if run.agreement is None else f"{100 * run.agreement:.2f}",
        f"{run.ece:.3f}",
        *((f"{cost.seconds:.2f}", f"{cost.peak_bytes:.2f}") if cost else ("", "")),
    ]


def _accuracy(accuracies: Sequence[float]) -> str:
    found = [100 * accuracy for accuracy in accuracies]
    return f"{fmean(found):.2f}" + (f" ± {stdev(found):.2f}" if len(found) > 1 else "")
