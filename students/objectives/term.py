"""What a term of an objective is: options with a formula behind them.

A term is one file. Its docstring gives the paper, the formula and the shapes; its class the options. torch is imported
when a loss is computed and not when options are read, so that a plan needs none.

Legend: N rows of a batch, C classes.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from cluster.config import Config
from cluster.shards.codecs.spec import ModulePath as ModulePath  # noqa: PLC0414 - terms find it here
from students.objectives.schedules import Schedule, Weight

if TYPE_CHECKING:
    import torch
    from torch import nn

    from students.objectives.sparse_target import SparseTarget

Input = Literal["target", "labels", "taps", "sparse", "average"]
"""`target`: the fused teachers; `labels`: class indices, where a row has one; `taps`: outputs of modules; `sparse`: one
teacher as it is stored, some classes and the mass of the others; `average`: the mean of the student's own weights."""

Family = Literal["response-based", "feature-based", "relation-based", "self", "supervised"]


class TeacherTap(NamedTuple):
    """The output of one module of one teacher."""

    teacher: str
    module: str


@dataclass(frozen=True)
class Shapes:
    """What a term may know when it builds what it learns."""

    num_rows: int = 0
    """Rows of the data set."""
    num_classes: int = 0
    student_taps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of one row, for each module of the student that the term names."""
    teacher_taps: Mapping[TeacherTap, tuple[int, ...]] = field(default_factory=dict)
    heads: Mapping[TeacherTap, tuple[int, ...]] = field(default_factory=dict)
    """`[C, D]` of the weights of each linear layer that the term names."""


@dataclass(frozen=True)
class TermInputs:
    """What a term may look at: rows of one worker, or for a `BatchTerm` the whole global batch."""

    student_logits_NC: "torch.Tensor"
    labels_N: "torch.Tensor"
    """int64; `NO_LABEL` where there is none."""
    target_logits_NC: "torch.Tensor | None" = None
    """The teachers, calibrated and fused, or the one that the term is `of`."""
    rows_N: "torch.Tensor | None" = None
    """int64; the number of each row in the data set."""
    partner_labels_N: "torch.Tensor | None" = None
    """int64; where rows are blended, the labels of those that are blended in; `NO_LABEL` where either has none."""
    own_shares_N: "torch.Tensor | None" = None
    """float32; the share of `labels_N` in each row, beside `partner_labels_N`."""
    student_taps: "Mapping[str, torch.Tensor]" = field(default_factory=dict)
    """Outputs of the student's modules that the term names, float32 `[N, ...]`."""
    teacher_taps: "Mapping[TeacherTap, torch.Tensor]" = field(default_factory=dict)
    """The same of teachers; without gradient."""
    heads: "Mapping[TeacherTap, tuple[torch.Tensor, torch.Tensor]]" = field(default_factory=dict)
    """Weight `[C, D]` and bias `[C]` of the linear layers of teachers that the term names; without gradient."""
    sparse: "SparseTarget | None" = None
    """The one teacher, at the temperature of the term; None for a `BatchTerm`."""
    average_logits_NC: "torch.Tensor | None" = None
    """What the average of the student's weights says; without gradient."""
    labelled_share: float = 1.0
    """Share of the rows, as they are seen, that are expected to have a label: what a term that reads labels is divided
    by."""
    progress: float = 0.0
    """Share of the training's steps that are taken."""
    state: "nn.Module | None" = None
    """What the term's `build` returned."""

    @property
    def target_NC(self) -> "torch.Tensor":
        """The fused teachers, for a term that reads them."""
        assert self.target_logits_NC is not None, "a plan gives no such term without teachers"  # noqa: S101
        return self.target_logits_NC


class Term(Config):
    """One summand of an objective."""

    family: ClassVar[Family] = "response-based"
    reads: ClassVar[frozenset[Input]] = frozenset({"target"})
    needs_every_class: ClassVar[bool] = False
    """Whether it fails where the teachers give a class no probability at all, as stored draws do."""
    takes_specialists: ClassVar[bool] = False
    """Whether it is `of` a teacher that may know some classes only, whose other logits are minus infinity."""
    needs_rows: ClassVar[bool] = False
    """Whether it keeps something for each row of the data set, and so has to know which rows it sees."""

    weight: Weight = 1.0
    """Share of the term in the sum: a number, or a schedule of numbers."""
    # What was trained before a term could name a teacher keeps its identity.
    of: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")] | None = Field(
        default=None, exclude_if=lambda of: of is None
    )
    """The one teacher that it reads, by name; by default all of them, fused."""

    @property
    def target_temperature(self) -> float | None:
        """Temperature at which it reads the fused teachers, 1 if it has none; None if a schedule changes it."""
        temperature = getattr(self, "temperature", 1.0)
        return None if isinstance(temperature, Schedule) else temperature

    @property
    def student_modules(self) -> tuple[str, ...]:
        """Modules of the student whose outputs it reads."""
        return ()

    @property
    def teacher_modules(self) -> tuple[TeacherTap, ...]:
        """Modules of teachers whose outputs it reads."""
        return ()

    @property
    def teacher_heads(self) -> tuple[TeacherTap, ...]:
        """Linear layers of teachers whose weights it reads."""
        return ()

    @property
    def needs_one_label(self) -> bool:
        """Whether it takes a row for one of one class, which a row that is blended of two is not."""
        return "labels" in self.reads

    @property
    def needs_teachers(self) -> bool:
        """Whether it reads anything of teachers: what they say, outputs of their modules, or their weights."""
        return bool(self.reads & {"target", "sparse"} or self.teacher_modules or self.teacher_heads)

    def misfit(self, shapes: Shapes) -> str | None:
        """Return why outputs of these shapes cannot be compared, if they cannot.

        It is asked before any work is done, when the number of rows is not known yet.
        """
        return None

    def heads_of(self, state: "nn.Module") -> "Mapping[str, nn.Module]":
        """Return heads that make logits of outputs of the student's modules, by path, out of what `build` returned.

        A module with its head is a model of its own: it is evaluated and exported beside the student.
        """
        return {}

    def build(self, shapes: Shapes) -> "nn.Module | None":
        """Return what the term learns or remembers; it is saved with the student."""
        return None


class RowTerm(Term):
    """A term that judges every row by itself. If it reads labels it counts on the labelled rows alone."""

    @abstractmethod
    def rows(self, seen: TermInputs) -> "torch.Tensor":
        """Return the loss of each row, `[N]`; 0 on a row that lacks the label it needs."""


class BatchTerm(Term):
    """A term about relations among the rows of a batch: it sees the global batch of all workers."""

    @abstractmethod
    def loss(self, seen: TermInputs) -> "torch.Tensor":
        """Return the loss of the whole batch; a scalar of the size of a mean over rows."""
