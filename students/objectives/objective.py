"""The weighted sum of terms that a student minimises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import nn

from students.objectives.average import WeightAverage
from students.objectives.schedules import at
from students.objectives.sparse_target import SparseTarget
from students.objectives.term import BatchTerm, RowTerm, Shapes, TeacherTap, Term, TermInputs

_UNKNOWN = Shapes()


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch, on its device. N rows, C classes."""

    inputs: torch.Tensor
    """float32 `[N, *shape]`."""
    labels_N: torch.Tensor
    """int64; `NO_LABEL` where there is none."""
    target_logits_NC: torch.Tensor | None = None
    """float32, from the teachers; None when nobody teaches."""
    rows_N: torch.Tensor | None = None
    """int64; the number of each row in the data set."""
    teacher_taps: Mapping[TeacherTap, torch.Tensor] = field(default_factory=dict)
    """float32 `[N, ...]`; outputs of modules of teachers."""
    sparse: SparseTarget | None = None
    """What one teacher's labels store, for terms that read it so."""
    teacher_logits: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """float32 `[N, C]` for each teacher, calibrated, where an objective asks for more than what is fused of them."""
    teacher_inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """float32 `[N, *shape]`, by name; for teachers that run beside the student."""
    peer_logits: tuple[torch.Tensor, ...] = ()
    """float32 `[N, C]` for each peer of a member of a cohort, once it says anything; without gradient."""
    partner_labels_N: torch.Tensor | None = None
    """int64; where rows are blended, the labels of those that are blended in; `NO_LABEL` where either has none."""
    own_shares_N: torch.Tensor | None = None
    """float32; the share of `labels_N` in each row, beside `partner_labels_N`."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def part(self, rows: slice) -> "Batch":
        """Return some of the rows."""
        return Batch(
            self.inputs[rows],
            self.labels_N[rows],
            None if self.target_logits_NC is None else self.target_logits_NC[rows],
            None if self.rows_N is None else self.rows_N[rows],
            {tap: output[rows] for tap, output in self.teacher_taps.items()},
            sparse=None if self.sparse is None else self.sparse.part(rows),
            teacher_logits={teacher: logits_NC[rows] for teacher, logits_NC in self.teacher_logits.items()},
            teacher_inputs={teacher: inputs[rows] for teacher, inputs in self.teacher_inputs.items()},
            peer_logits=tuple(logits_NC[rows] for logits_NC in self.peer_logits),
            partner_labels_N=None if self.partner_labels_N is None else self.partner_labels_N[rows],
            own_shares_N=None if self.own_shares_N is None else self.own_shares_N[rows],
        )


class Blend(Protocol):
    """Fuses the teachers anew at every step."""

    def __call__(
        self, student_logits_NC: torch.Tensor, batch: Batch, *, global_rows: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the target `[N, C]`, a constant, and this worker's contribution to the loss by which it learns."""


class Objective(nn.Module):
    """Sums its terms so that, over an epoch, every row that a term applies to has the same say.

    A term over the labelled rows is divided by their expected number in a batch, not by the number in this one:
    otherwise the only labelled row of a batch would weigh as much as fifty in another, and the loss would depend
    on who holds which rows.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        labelled_share: float,
        shapes: Shapes = _UNKNOWN,
        heads: "Mapping[TeacherTap, tuple[torch.Tensor, torch.Tensor]]" = MappingProxyType({}),
        gather: "Callable[[torch.Tensor], torch.Tensor] | None" = None,
        world_size: int = 1,
        blend: Blend | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        """`labelled_share` is that of the data set's rows.

        `gather` concatenates the rows of all workers, in the order of their ranks; gradients flow to our own.

        `heads` are weight and bias of linear layers of teachers, on the device on which losses are computed. `blend`
        fuses the teachers, where they are not fused before; what it learns is saved with the rest, as is the `average`
        of the student's weights, where terms read what it says.
        """
        super().__init__()
        self.blend, self.average = blend, average
        self._terms, self._heads = terms, heads
        self._labelled_share = labelled_share
        self._gather, self._world_size = gather or (lambda rows: rows), world_size
        # A place without a state holds an empty module, so that states keep their places.
        self.states = nn.ModuleList([term.build(shapes) or nn.Module() for term in terms])
        for term, state in zip(terms, self.states, strict=True):
            if isinstance(term, BatchTerm):
                self._share_gradients(state)

    def _share_gradients(self, state: nn.Module) -> None:
        """Count a worker's share of each gradient: every worker computes the whole, and they are summed."""
        for parameter in state.parameters():
            parameter.register_hook(lambda gradient: gradient / self._world_size)

    def heads(self) -> dict[str, nn.Module]:
        """Return what makes logits of the outputs of modules of the student, by their paths."""
        pairs = zip(self._terms, self.states, strict=True)
        return {path: head for term, state in pairs for path, head in term.heads_of(state).items()}

    def forward(
        self,
        logits_NC: torch.Tensor,
        batch: Batch,
        *,
        global_rows: int,
        progress: float = 0.0,
        student_taps: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> torch.Tensor:
        """Return this worker's contribution to the loss of a global batch of `global_rows` rows; a scalar.

        `progress` is the share of the training's steps that are taken; `student_taps` has the outputs of the student's
        modules that terms read, float32 `[N, ...]`.
        """
        parts, target_NC = [], batch.target_logits_NC
        if self.blend is not None:
            target_NC, learnt = self.blend(logits_NC.detach(), batch, global_rows=global_rows)
            parts.append(learnt)
        seen = TermInputs(
            logits_NC,
            batch.labels_N,
            target_NC,
            rows_N=batch.rows_N,
            partner_labels_N=batch.partner_labels_N,
            own_shares_N=batch.own_shares_N,
            student_taps=student_taps,
            teacher_taps=batch.teacher_taps,
            sparse=batch.sparse,
            average_logits_NC=None if self.average is None else self.average(batch.inputs),
            labelled_share=self._expected_labelled(batch),
            progress=progress,
        )
        for term, state in zip(self._terms, self.states, strict=True):
            read_NC = target_NC if term.of is None else batch.teacher_logits[term.of]
            own = replace(seen, target_logits_NC=read_NC, state=state)
            loss = self._contribution(term, own, global_rows)
            parts.append(at(term.weight, progress) * loss)
        return torch.stack(parts).sum()

    def _expected_labelled(self, batch: Batch) -> float:
        # A blended row has a label where both of its rows have one, whichever epochs see rows blended.
        return max(self._labelled_share ** (1 if batch.partner_labels_N is None else 2), 1e-12)

    def _contribution(self, term: Term, seen: TermInputs, global_rows: int) -> torch.Tensor:
        seen = replace(
            seen,
            student_taps={module: seen.student_taps[module] for module in term.student_modules},
            teacher_taps={tap: seen.teacher_taps[tap] for tap in term.teacher_modules},
            heads={head: self._heads[head] for head in term.teacher_heads},
        )
        match term:
            case RowTerm():
                expected = seen.labelled_share if "labels" in term.reads else 1.0
                return term.rows(seen).sum() / (expected * global_rows)
            case BatchTerm():
                loss = term.loss(self._of_all_workers(seen))
                # Each worker computes the whole loss and its gradient for its own rows. The gradients are summed over
                # the workers, and so are the values that are shown: of those, each worker counts its share.
                return loss - (1 - 1 / self._world_size) * loss.detach()
            case _:
                raise TypeError(f"{type(term).__name__} is neither a RowTerm nor a BatchTerm")

    def _of_all_workers(self, seen: TermInputs) -> TermInputs:
        target, average = seen.target_logits_NC, seen.average_logits_NC
        return replace(
            seen,
            student_logits_NC=self._gather(seen.student_logits_NC),
            labels_N=self._gather(seen.labels_N),
            target_logits_NC=None if target is None else self._gather(target),
            rows_N=None if seen.rows_N is None else self._gather(seen.rows_N),
            student_taps={module: self._gather(output) for module, output in seen.student_taps.items()},
            teacher_taps={tap: self._gather(output) for tap, output in seen.teacher_taps.items()},
            sparse=None,
            average_logits_NC=None if average is None else self._gather(average),
        )
