"""Which shapes the outputs of modules have, found out before any work: the models are built, and run on rows of zeros.

Only jobs that tap modules come here, since it imports torch and the models. Nothing is computed where the models can
run on torch's meta device, which knows shapes alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.errors import SpecError
from cluster.models import ModelConfig
from cluster.shards.schema import Column
from cluster.shards.taps import reduced_shape
from orchestrator.sources.read import source_columns
from orchestrator.spec import JobSpec
from students.objectives.term import Shapes, TeacherTap
from students.task import heads_read, modules_read
from teachers.spec import TeacherConfig
from teachers.weights import classes_in, read_weights

ShapesByPath = Mapping[str, tuple[int, ...]]


class TermMisfitError(SpecError):
    """A term cannot compare the outputs that it names."""

    def __init__(self, field: str, term: str, reason: str) -> None:
        super().__init__(field, term, reason)
        self.field, self.term, self.reason = field, term, reason

    def __str__(self) -> str:
        return f"{self.field}: the term `{self.term}` cannot be computed: {self.reason}. Name other modules."


@dataclass(frozen=True)
class Probed:
    """Shapes of one row of what is tapped."""

    student: ShapesByPath = field(default_factory=dict)
    stored: Mapping[str, ShapesByPath] = field(default_factory=dict)
    """By teacher and module, as they are stored."""
    live: Mapping[TeacherTap, tuple[int, ...]] = field(default_factory=dict)
    """Of modules that terms name and nobody stores."""

    heads: Mapping[TeacherTap, tuple[int, ...]] = field(default_factory=dict)
    """Of the weights of layers that terms name."""

    def shapes(self, *, num_classes: int) -> Shapes:
        """Return what terms will see."""
        stored = {
            TeacherTap(teacher, path): shape for teacher, found in self.stored.items() for path, shape in found.items()
        }
        return Shapes(
            num_classes=num_classes,
            student_taps=self.student,
            teacher_taps={**stored, **self.live},
            heads=self.heads,
        )


def probe(spec: JobSpec, *, num_classes: int) -> Probed:
    """Return the shapes of everything that the job taps.

    Raises:
        ModuleMissingError, UntappableError, NoHeadError: a model has no such module, or it gives nothing to learn from.
        TapMisfitError: an output cannot be reduced as `taps` says.
        FactoryError, ModelShapeError: a model cannot be built, or does not fit the data.
        WeightsMissingError, UnsafeWeightsError: a file of weights cannot tell which classes its model knows.
    """
    student = [path for term in spec.objective for path in term.student_modules]
    read, heads = modules_read(spec.objective), heads_read(spec.objective)
    if not student and not read and not heads and not any(teacher.taps for teacher in spec.teachers):
        return Probed()
    columns = source_columns(spec.data)
    model = ModelConfig(factory=spec.student.model, arguments=spec.student.arguments, inputs=spec.student.inputs)
    of_student, _ = _shapes(model, columns, student, name="student", num_classes=num_classes)
    stored: dict[str, ShapesByPath] = {}
    live: dict[TeacherTap, tuple[int, ...]] = {}
    of_heads: dict[TeacherTap, tuple[int, ...]] = {}
    for teacher in spec.teachers:
        paths = [*teacher.taps, *(tap.module for tap in read if tap.teacher == teacher.name)]
        of_teacher = [head.module for head in heads if head.teacher == teacher.name]
        if teacher.model is None or not (paths or of_teacher):
            continue
        model = ModelConfig(factory=teacher.model, arguments=teacher.arguments, inputs=teacher.inputs)
        name = f"teacher {teacher.name}"
        outputs = len(_classes(teacher)) or num_classes
        found, weights = _shapes(model, columns, paths, heads=of_teacher, name=name, num_classes=outputs)
        stored[teacher.name] = _reduced(teacher, found)
        live |= {TeacherTap(teacher.name, path): found[path] for path in paths if path not in teacher.taps}
        of_heads |= {TeacherTap(teacher.name, path): shape for path, shape in weights.items()}
    return Probed(of_student, stored, live, of_heads)


def check_terms(spec: JobSpec, shapes: Shapes) -> None:
    """Ask every term whether it can compare what it names.

    Raises:
        TermMisfitError: the first that cannot.
    """
    for place, term in enumerate(spec.objective):
        if reason := term.misfit(shapes):
            raise TermMisfitError(f"objective.{place}", term.term, reason)


def _classes(teacher: TeacherConfig) -> tuple[str, ...]:
    """Return the names of its outputs where the spec or else its file of weights has them."""
    if teacher.classes is not None or teacher.weights is None:
        return teacher.classes or ()
    return classes_in(read_weights(teacher.weights), teacher.weights) or ()


def _reduced(teacher: TeacherConfig, found: ShapesByPath) -> ShapesByPath:
    return {
        path: reduced_shape(config, found[path], field=f"teachers.{teacher.name}.taps.{path}")
        for path, config in teacher.taps.items()
    }


def _shapes(
    model: ModelConfig,
    columns: Sequence[Column],
    paths: Iterable[str],
    *,
    heads: Iterable[str] = (),
    name: str,
    num_classes: int,
) -> tuple[ShapesByPath, ShapesByPath]:
    """Return the shapes of the outputs of a row, and of the weights of the heads."""
    import torch

    from cluster.modules import build_module, check_shapes, import_factory, input_array, to_inputs
    from cluster.tapping import (
        ModuleMissingError,
        NoHeadError,
        Tapped,
        UntappableError,
        blank_rows,
        parameters_of_head,
        shapes_of_taps,
    )

    paths, heads = list(paths), list(heads)
    inputs = to_inputs(input_array(blank_rows(columns), model.inputs), model.inputs)

    def shapes_on(device: str) -> tuple[ShapesByPath, ShapesByPath]:
        with torch.device(device):
            module = build_module(model)
            check_shapes(module, inputs.to(device), num_classes=num_classes, factory=model.factory)
            weights = {head: tuple(parameters_of_head(module, head, name=name)[0].shape) for head in heads}
            return shapes_of_taps(Tapped(module, paths, name=name), inputs.to(device)), weights

    import_factory(model)  # not on the meta device, where tensors of the module would have no numbers ever after
    try:
        return shapes_on("meta")
    except (ModuleMissingError, NoHeadError, UntappableError):
        raise
    except Exception:  # whatever a model does that needs numbers; what is really wrong is wrong on a CPU too
        return shapes_on("cpu")
