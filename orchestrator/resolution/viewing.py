"""In which views a job sees its training rows, and whether rows have the shape for it."""

from cluster.errors import SpecError
from cluster.shards.schema import LABEL, ROW
from cluster.shards.views.spec import View, ViewsConfig
from orchestrator.sources.read import source_columns
from orchestrator.spec import JobSpec


class ViewMisfitError(SpecError):
    """Rows cannot be seen as `data.views` says."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"data.views.{self.field}: {self.reason}."


def views_of(spec: JobSpec) -> tuple[View | None, ...]:
    """Return the views that teachers label, in the order in which training sees them; None is the rows as they are."""
    return (None,) if spec.data.views is None else spec.data.views.within(spec.train.epochs)


def views_of_student(spec: JobSpec) -> ViewsConfig | None:
    """Return what the student's training depends on: a count that it does not reach is none."""
    views = spec.data.views
    return views_of_lone(spec) if views and views.count and views.count >= spec.train.epochs else views


def views_of_lone(spec: JobSpec) -> ViewsConfig | None:
    """Return how a training without teachers sees the rows: nothing is stored, so in a new view in every epoch."""
    return None if spec.data.views is None else spec.data.views.model_copy(update={"count": None})


def check_views(spec: JobSpec) -> None:
    """See that the rows of the source can be seen so, and that a model looks at what is changed.

    Raises:
        ViewMisfitError: they cannot, or none does.
    """
    views = spec.data.views
    if views is None:
        return
    columns = {column.name: column for column in source_columns(spec.data)}
    names = ", ".join(name for name in columns if name not in (LABEL, ROW))
    if views.column not in (columns if len(columns) > 1 else {None, *columns}):
        raise ViewMisfitError("column", f"found {views.column or 'none'}, and the data has {names}; name one of them")
    name = views.column or names
    if reason := views.misfit(columns[name]):
        field, _, rest = reason.partition(": ")
        raise ViewMisfitError(field, rest)
    read = {spec.student.inputs.column, *(teacher.inputs.column for teacher in spec.teachers)}
    if not read & {None, name}:
        raise ViewMisfitError(
            "column", f"no model reads {name}; expected one of {', '.join(sorted(filter(None, read)))}"
        )
    if views.is_mixed and (others := read - {None, name}):
        raise ViewMisfitError(
            "column",
            f"a model reads {sorted(filter(None, others))[0]}, and rows of {name} are blended: it would see one row, "
            "and its label be for two; expected models that read the same column",
        )
