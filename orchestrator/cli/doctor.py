"""`doctor`: whether this machine, the cluster and the store are fit for a job."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import AsJson, Overrides
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.findings import Checkup


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="A job: its store, cluster and resources too.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URI", help="A store to try; by default that of the job.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="The dashboard of a Ray cluster, where jobs are submitted.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything that a job stands on, and say how to mend what fails. Leaves nothing behind."""
    checkups = _checkups(spec, store, address, overrides or ())
    # The lowest: what is wrong with this machine comes before what is wrong further away.
    code = min((it.exit_code for checkup in checkups for it in checkup.findings if it.exit_code), default=0)
    if as_json:
        print_json({"exit_code": code, "checkups": checkups})
    else:
        for checkup in checkups:
            _print_checkup(checkup)
        verdicts = Counter(it.verdict for checkup in checkups for it in checkup.findings)
        print(", ".join(f"{verdicts[verdict]} {verdict}" for verdict in ("OK", "WARN", "FAIL")))
    raise typer.Exit(code)


def _checkups(
    spec: Path | None, store: str | None, address: str | None, overrides: Sequence[str]
) -> tuple["Checkup", ...]:
    if spec is None:
        if overrides:
            raise typer.BadParameter("there is no job to override: give its SPEC", param_hint="--set")
        checkups = _of_machine(address)
    else:
        from orchestrator.load import load_spec
        from orchestrator.planning.readiness import check_readiness

        job = load_spec(spec, overrides)
        checkups, store = check_readiness(job, dashboard=address), store or job.store
    return checkups if store is None else (*checkups, _of_store(store))


def _of_machine(address: str | None) -> tuple["Checkup", ...]:
    from cluster.findings import Checkup
    from cluster.health.checkup import check_machine
    from cluster.health.doors import check_dashboard

    if address is None:
        return (check_machine(),)
    return check_machine(), Checkup(of=f"dashboard {address}", findings=check_dashboard(address)[0])


def _of_store(uri: str) -> "Checkup":
    from cluster.findings import Checkup
    from cluster.storage.checkup import check_up
    from cluster.storage.open import open_store

    place = open_store(uri)
    return Checkup(of=f"store {place.uri}", findings=check_up(place))


def _print_checkup(checkup: "Checkup") -> None:
    print(checkup.of)
    print_table(("", "check", "found"), ((it.verdict, it.check, it.found) for it in checkup.findings))
    for finding in checkup.findings:
        if finding.fix:
            print(f"{finding.verdict} {finding.check}: {finding.fix}")
    print()
