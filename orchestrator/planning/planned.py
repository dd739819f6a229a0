"""A step of a plan, and the parts of a job that a run may do by themselves."""

from typing import Literal

from cluster.config import Config

Part = Literal["all", "teachers", "student"]
"""`teachers`: what has to be done before anybody can learn from them; `student`: all else, wherever labels are made."""

StepKind = Literal["ingest", "fit", "label", "calibrate", "combine", "fuse", "train", "baseline", "evaluate", "export"]
StepState = Literal["done", "partial", "to do"]


class PlannedStep(Config):
    """One node of the plan."""

    name: str
    kind: StepKind
    identity: str
    state: StepState
    rows: int | None = None
    """Rows it computes in all, where that is known."""
    rows_done: int | None = None
    note: str = ""
