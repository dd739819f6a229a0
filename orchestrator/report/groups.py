"""Models in the order in which a reader compares them, seeds of the same model together."""

import statistics
from dataclasses import dataclass
from typing import Literal

from orchestrator.report.record import Curve, ModelResult, Report, Role

Figure = Literal["accuracy", "nll", "ece", "latency_ms"]
ROLES: tuple[Role, ...] = ("teacher", "ensemble", "baseline", "generation", "student")


@dataclass(frozen=True)
class ModelGroup:
    """The models of one role and name: one teacher, or one student trained from several seeds."""

    role: Role
    name: str
    members: tuple[ModelResult, ...]

    @property
    def has_seeds(self) -> bool:
        """Whether there is a spread between members to speak of."""
        return len(self.members) > 1

    def mean(self, figure: Figure) -> float:
        """Return the mean of `figure` over the members."""
        return statistics.fmean(getattr(model, figure) for model in self.members)

    def std(self, figure: Figure) -> float:
        """Return the sample standard deviation of `figure` over the members; 0 for a single one."""
        return statistics.stdev(getattr(model, figure) for model in self.members) if self.has_seeds else 0.0


@dataclass(frozen=True)
class CurveGroup:
    """How the models of one role and name learned, one curve per seed."""

    role: Role
    name: str
    curves: tuple[Curve, ...]


def model_groups(report: Report) -> tuple[ModelGroup, ...]:
    """Return the models by role and name: teachers, ensemble, baseline, generations, student."""
    members: dict[tuple[Role, str], list[ModelResult]] = {}
    for model in sorted(report.models, key=lambda model: ROLES.index(model.role)):
        members.setdefault((model.role, model.name), []).append(model)
    return tuple(ModelGroup(role, name, tuple(models)) for (role, name), models in members.items())


def curve_groups(report: Report) -> tuple[CurveGroup, ...]:
    """Return the curves that have points by role and name, in the order of `model_groups`."""
    members: dict[tuple[Role, str], list[Curve]] = {}
    for curve in sorted(report.curves, key=lambda curve: ROLES.index(curve.role)):
        if curve.points:
            members.setdefault((curve.role, curve.model), []).append(curve)
    return tuple(CurveGroup(role, name, tuple(curves)) for (role, name), curves in members.items())
