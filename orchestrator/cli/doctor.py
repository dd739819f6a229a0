"""`doctor`: whether what a job needs keeps its promises."""

from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import AsJson, StoreUri
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.storage.checkup import Finding


def doctor(store: StoreUri, as_json: AsJson = False) -> None:
    """Try everything that Coffey asks of a store, and say how to mend what fails. Leaves nothing behind."""
    from cluster.storage.checkup import check_up
    from cluster.storage.open import open_store

    place = open_store(store)
    findings = check_up(place)
    code = max(finding.exit_code for finding in findings)
    if as_json:
        print_json({"store": place.uri, "exit_code": code, "findings": findings})
    else:
        _print_findings(findings)
    raise typer.Exit(code)


def _print_findings(findings: tuple["Finding", ...]) -> None:
    print_table(("", "check", "found"), ((it.verdict, it.check, it.found) for it in findings))
    for finding in findings:
        if finding.fix:
            print(f"{finding.verdict} {finding.check}: {finding.fix}")
