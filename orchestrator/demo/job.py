"""The demo's spec, with the few things that its command may change."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.load import parse_spec
from orchestrator.spec import JobSpec
from orchestrator.specfile.overrides import written

_JOB = Path(__file__).with_name("job.yaml")


def demo_spec(store: str, seeds: Sequence[int]) -> JobSpec:
    """Return the job of `coffey demo`, kept in `store`, with one student for each seed."""
    overrides = (written("store", store), f"train.seeds=[{', '.join(map(str, seeds))}]")
    return parse_spec(_JOB.read_text(encoding="utf-8"), where=_JOB.name, overrides=overrides)
