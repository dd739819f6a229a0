"""Numbers that change while a student learns: a weight that rises, a temperature that falls.

A schedule is a function of progress, the share of the training's steps that are taken, in [0, 1). So it needs no state,
and a training that is resumed goes on where it was.
"""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cluster.config import Config

Share = Annotated[float, Field(ge=0, le=1)]


class Schedule(Config):
    """From one number to another, along a line or half a cosine wave; constant before and after.

    A warm-up is a line from 0 that arrives early: `{schedule: linear, start: 0, end: 1, finish: 0.1}`.
    """

    schedule: Literal["linear", "cosine"]
    start: float
    end: float
    begin: Share = 0.0
    """Progress at which it leaves `start`."""
    finish: Share = 1.0
    """Progress at which it reaches `end`."""

    @model_validator(mode="after")
    def _takes_time(self) -> "Schedule":
        if self.begin >= self.finish:
            raise ValueError(f"begin is {self.begin} and finish is {self.finish}; expected begin < finish")
        return self

    def at(self, progress: float) -> float:
        """Return the number at `progress`."""
        passed = min(1.0, max(0.0, (progress - self.begin) / (self.finish - self.begin)))
        risen = passed if self.schedule == "linear" else (1 - math.cos(math.pi * passed)) / 2
        return self.start + (self.end - self.start) * risen


def at(value: float | Schedule, progress: float) -> float:
    """Return what a number, or a schedule, is at `progress`."""
    return value.at(progress) if isinstance(value, Schedule) else value


def _check_positive(value: float | Schedule) -> float | Schedule:
    if min(_ends(value)) <= 0:
        raise ValueError("expected a number above 0 at every moment")
    return value


def _check_weight(value: float | Schedule) -> float | Schedule:
    ends = _ends(value)
    if min(ends) < 0 or max(ends) <= 0:
        raise ValueError("expected a weight above 0, or one that rises from 0 or falls to it")
    return value


def _ends(value: float | Schedule) -> tuple[float, float]:
    return (value.start, value.end) if isinstance(value, Schedule) else (value, value)


Temperature = Annotated[
    float | Schedule,
    AfterValidator(_check_positive),
    Field(description="Divides the logits: above 1 it softens the distributions. A number, or a schedule of numbers."),
]

Weight = Annotated[float | Schedule, AfterValidator(_check_weight)]
"""A term's share in the objective."""
