"""One technique: what is asked of `coffey run`, and the figures of its report."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.techniques.catalogue import COMMON, TECHNIQUES
from benchmarks.techniques.lines import Run

SPEC = "examples/fashion.yaml"


@dataclass(frozen=True)
class Asked:
    """A technique, and where and how it is to be run."""

    technique: str
    changes: dict[str, Any]
    """Keys of the spec and their values: of the technique, and of what the user sets."""
    store: str

    @classmethod
    def of(cls, technique: str, store: str, overrides: Sequence[str]) -> "Asked":
        """Return what to ask; `overrides` are the user's, `key=value`."""
        changes = COMMON | TECHNIQUES[technique].changes
        for override in overrides:
            key, _, value = override.partition("=")
            changes[key] = value
        return cls(technique, json.loads(json.dumps(changes)), store)

    @property
    def overrides(self) -> list[str]:
        """The same as `key=value`."""
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.changes.items()}
        return [f"store={self.store}", *(f"{key}={text}" for key, text in texts.items())]


def run(asked: Asked) -> Run:
    """Do what is left of the job, and return what it reached. Raises CalledProcessError where the job fails."""
    settings = [word for override in asked.overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "orchestrator.cli", "run", SPEC, "--json", *settings]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    report: dict[str, Any] = json.loads(found.stdout)["report"]
    students, lone = (_of_role(report["models"], role) for role in ("student", "baseline"))
    beside = next(iter(_of_role(report["agreements"], "ensemble")), {"kl": None, "agreement": None})
    return Run(
        technique=asked.technique,
        family=TECHNIQUES[asked.technique].family,
        changes=asked.changes,
        accuracies=[model["accuracy"] for model in students],
        lone_accuracies=[model["accuracy"] for model in lone],
        ece=fmean(model["ece"] for model in students),
        lone_ece=fmean(model["ece"] for model in lone),
        ensemble_accuracy=report["summary"]["ensemble_accuracy"],
        kl=beside["kl"],
        agreement=beside["agreement"],
        wall_s=report["wall_s"],
    )


def _of_role(items: Sequence[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    return [item for item in items if item["role"] == role]
