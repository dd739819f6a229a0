"""Be your own teacher: exits in the middle of the student learn from its end (Zhang et al. 2019, 1905.08094).

    L = CE(q_E, y) + Σ_{i<E} (1 - α) CE(q_i, y) + α T² KL(softmax(z_E / T) || softmax(z_i / T)) + β ||F_i - F_E||²

Exits i < E are modules of the student, the last one, E, is its own output. An exit has a head that is learned with the
student: the mean f_i over positions, then z_i = V_i f_i + c_i. If `features` names what the student's own classifier
reads, the head goes through features of that width, F_i = U_i f_i + d_i and z_i = V_i max(F_i, 0) + c_i; F_E is the
mean over positions of what the student has there. z_E and F_E teach the exits as constants. Where the article has
convolutions before each exit there is one linear map. Rows without a label lack the CE alone. The code of the authors
sums ||F_i - F_E||² over the 128 rows of a batch, and means all else: its β of 1e-6 is one of 1.28e-4 here.

Each exit is evaluated and exported as a model of its own, which ends there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from students.objectives.kl import kl_rows
from students.objectives.maps import misfit_of, num_channels
from students.objectives.schedules import Temperature, at
from students.objectives.term import ModulePath, RowTerm, Shapes, TermInputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from students.objectives.exit_head import ExitHead


class OwnTeacherTerm(RowTerm):
    """Exits in the middle of the student, which learn from its end and can be exported (1905.08094)."""

    family = "self"
    reads = frozenset({"labels", "taps"})

    term: Literal["own_teacher"] = "own_teacher"
    exits: Annotated[tuple[ModulePath, ...], Field(min_length=1)]
    """Modules of the student after which an exit is built."""
    features: ModulePath | None = None
    """Module of the student whose output its own classifier reads; by default exits have no hints, and β no effect."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the student's end in what an exit learns; the rest is that of the labels."""
    temperature: Temperature = 3.0
    beta: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the hints."""

    @model_validator(mode="after")
    def _exits_are_distinct(self) -> "OwnTeacherTerm":
        if len(set(self.exits)) < len(self.exits):
            raise ValueError(f"exits holds a module twice: {', '.join(self.exits)}; expected each once")
        return self

    @property
    def student_modules(self) -> tuple[str, ...]:
        """The exits, and what the student's own classifier reads."""
        return self.exits if self.features is None else (*self.exits, self.features)

    def misfit(self, shapes: Shapes) -> str | None:
        """Refuse outputs that have more axes than a map."""
        found = ((path, shapes.student_taps[path]) for path in self.student_modules)
        reasons = (misfit_of(shape, shape, names=(f"the student's {path}",) * 2) for path, shape in found)
        return next(filter(None, reasons), None)

    def build(self, shapes: Shapes) -> "nn.Module":
        """Return the head of each exit, in their order."""
        from torch import nn

        from students.objectives.exit_head import ExitHead

        num_hints = None if self.features is None else num_channels(shapes.student_taps[self.features])
        return nn.ModuleList(
            ExitHead(num_channels(shapes.student_taps[path]), shapes.num_classes, num_hints=num_hints)
            for path in self.exits
        )

    def heads_of(self, state: "nn.Module") -> Mapping[str, "nn.Module"]:
        """Return the heads by the modules that they follow."""
        return dict(zip(self.exits, state.children(), strict=True))

    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the loss of the end and of all exits, `[N]`."""
        assert seen.state is not None  # noqa: S101 - `build` returns one
        loss = self._of_labels(seen.student_logits_NC, seen)
        for path, head in self.heads_of(seen.state).items():
            loss = loss + self._of_exit(head, seen.student_taps[path], seen)  # type: ignore[arg-type]
        return loss

    def _of_exit(self, head: "ExitHead", output: "torch.Tensor", seen: TermInputs) -> "torch.Tensor":
        from students.objectives.exit_head import pooled

        hint = head.hint(output)
        logits_NC = head.classified(hint)
        temperature = at(self.temperature, seen.progress)
        taught = self.alpha * kl_rows(logits_NC, seen.student_logits_NC.detach(), temperature=temperature)
        if self.features is not None:
            gap_NH = hint - pooled(seen.student_taps[self.features]).detach()
            taught = taught + self.beta * gap_NH.square().sum(dim=1)
        # A term that reads labels is divided by the share of the rows that have one; these parts count on all rows.
        return (1 - self.alpha) * self._of_labels(logits_NC, seen) + seen.labelled_share * taught

    def _of_labels(self, logits_NC: "torch.Tensor", seen: TermInputs) -> "torch.Tensor":
        import torch.nn.functional as F

        from cluster.shards.schema import NO_LABEL

        return F.cross_entropy(logits_NC, seen.labels_N, reduction="none", ignore_index=NO_LABEL)
