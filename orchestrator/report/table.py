"""What a run says on the terminal when it has finished: the models, where the time went, and whether it paid.

Everything is readable as plain text at 80 columns. A narrower terminal wraps lines; figures are never cut.
"""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.report.groups import ModelGroup, model_groups
from orchestrator.report.notation import count, decimals, duration, points, rate, size
from orchestrator.report.record import Report
from orchestrator.report.verdict import verdict
from orchestrator.report.views import views_sentence

_ENDLESS = 10_000


def model_table(report: Report) -> Table:
    """Return one row per model, seeds under their mean ± standard deviation."""
    table = _table("model", "accuracy %", "NLL", "ECE", "parameters", "size", "ms/row")
    for group in model_groups(report):
        style = "bold" if group.role == "student" else ""
        table.add_row(_plain(_title(group)), *_group_figures(group), style=style)
        if (own := group.members[0].own) is not None:
            figures = (points(own.accuracy), decimals(group.mean("nll")), decimals(group.mean("ece")), "", "", "")
            table.add_row("  on rows it knows", *figures, style="dim")
        if group.has_seeds:
            for model in group.members:
                figures = (
                    points(model.accuracy),
                    decimals(model.nll),
                    decimals(model.ece),
                    "",
                    "",
                    decimals(model.latency_ms),
                )
                table.add_row(f"  seed {count(model.seed)}", *figures, style="dim")
    return table


def contribution_table(report: Report) -> Table:
    """Return one row per teacher: the ensemble on the test rows without it."""
    table = _table("the ensemble", "accuracy %", "NLL", "share %")
    for without in report.contributions:
        share = count(None) if without.share is None else points(without.share)
        surprise = count(None) if without.nll is None else decimals(without.nll)
        table.add_row(_plain(f"without {without.teacher}"), points(without.accuracy), surprise, share)
    return table


def step_table(report: Report) -> Table:
    """Return one row per step: what was done and what it took."""
    table = _table("step", "outcome", "time", "rows", "rows/s")
    for step in report.steps:
        figures = (duration(step.seconds), count(step.rows), rate(step.rows_per_s))
        table.add_row(_plain(step.name), step.outcome, *figures, style="dim" if step.outcome == "reused" else "")
    return table


def print_report(report: Report, console: Console) -> None:
    """Print the tables, the verdict and the warnings."""
    adds = [contribution_table(report)] if report.contributions else []
    for table in (model_table(report), *adds, step_table(report)):
        console.print(_Whole(table), crop=False)
        console.print()
    for line in filter(None, (views_sentence(report), _totals(report))):
        console.print(_plain(line), style="dim", highlight=False)
    console.print()
    console.print(verdict(report), style="bold", highlight=False, markup=False)
    for warning in report.warnings:
        console.print()
        lines = Text("\n").join(_plain(line) for line in warning.splitlines())
        console.print(Text.assemble(("Warning: ", "bold yellow"), lines))


class _Whole:
    """A table at the width of the console, or wider if its figures need more: rich would cut them to `93.…`."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = console.measure(self._table, options=options.update(width=_ENDLESS)).minimum
        yield from console.render(self._table, options.update(width=max(needed, options.max_width)))


def _table(first: str, *others: str) -> Table:
    """Return an empty table whose first column gives way when space is short, so that no figure is cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(first, overflow="fold", min_width=10)
    for name in others:
        table.add_column(name, justify="left" if name == "outcome" else "right", no_wrap=True)
    return table


def _title(group: ModelGroup) -> str:
    return f"{group.name} (mean of {len(group.members)})" if group.has_seeds else group.name


def _group_figures(group: ModelGroup) -> tuple[str, ...]:
    model = group.members[0]
    accuracy = points(group.mean("accuracy"))
    return (
        f"{accuracy} ±{points(group.std('accuracy'))}" if group.has_seeds else accuracy,
        *(("", "") if model.own else (decimals(group.mean("nll")), decimals(group.mean("ece")))),
        count(model.parameters),
        size(model.num_bytes),
        decimals(group.mean("latency_ms")),
    )


def _totals(report: Report) -> str:
    if report.teacher_rows_computed:
        return f"{duration(report.wall_s)} in all; {count(report.teacher_rows_computed)} rows went through a teacher."
    if not any(model.role in {"teacher", "generation"} for model in report.models):
        return f"{duration(report.wall_s)} in all; nobody had to label a row."
    return f"{duration(report.wall_s)} in all; no row went through a teacher, every label came from the store."


def _plain(name: str) -> Text:
    """Return a name as it is: no markup, and nothing that a terminal would take for a command."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name))
