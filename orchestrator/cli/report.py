"""`report`: the figures of a run that is over, from what it left in the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import EnvironmentFailure, PartialResult
from orchestrator.cli.options import AsJson, StoreUri
from orchestrator.cli.output import console, print_json

if TYPE_CHECKING:
    from orchestrator.report.record import Report


class NoReportError(PartialResult):
    """The run has not come to its report."""

    def __init__(self, run: str, state: str) -> None:
        super().__init__(run, state)
        self.run, self.state = run, state

    def __str__(self) -> str:
        return (
            f"run {self.run} is {self.state} and has no report. The command that started it, given again, finishes it."
        )


class PageNotWrittenError(EnvironmentFailure):
    """The page cannot be written where it was asked for."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: cannot be written: {self.reason}. Name a file in a directory that exists."


def show_report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, or a job's name for its latest.", show_default=False)
    ],
    store: StoreUri,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page to this file, as this version draws it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the figures of a finished run, and where its page is."""
    from cluster.shards.records import read_record
    from cluster.storage.open import open_store
    from orchestrator.events import read_run
    from orchestrator.report.record import Report

    place = open_store(store)
    state = read_run(place, run)
    if not state.report:
        raise NoReportError(state.run, state.state)
    record = read_record(place, f"runs/{state.run}/report.json", Report)
    page = f"{place.uri}/runs/{state.run}/report.html" if html is None else _draw(record, html)
    if as_json:
        print_json({"run": state.run, "report_uri": page, "report": record})
        return
    from orchestrator.report.table import print_report

    print_report(record, console())
    print(f"\nReport: {page}")


def _draw(record: "Report", path: Path) -> str:
    from orchestrator.report.page import render_page

    try:
        path.write_text(render_page(record), encoding="utf-8")
    except OSError as error:
        raise PageNotWrittenError(str(path), str(error.strerror)) from error
    return str(path)
