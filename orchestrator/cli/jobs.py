"""`status`, `logs`, `stop`: runs as their store knows them, and jobs as the Ray cluster does that runs them.

All three find what they look at by the same rule: `--address` asks a cluster; else `--store`, or the store of a spec;
else the cluster in RAY_API_SERVER_ADDRESS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import SpecError
from orchestrator.cli.options import AsJson, OptionalAddress, address_in_environment
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.jobs import JobState
    from orchestrator.events import RunState

_What = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SPEC] [RUN]", help="A spec, for its store; a run, a job's name or a submission id."),
]
_Store = Annotated[str | None, typer.Option(metavar="URI", help="The store that holds the runs.", show_default=False)]


class NothingToLookAtError(SpecError):
    """A command was given neither a store nor a cluster."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return f"{self.command} of what? Expected a spec, --store URI, or --address URL of a cluster."


class NoRunNamedError(SpecError):
    """A command was told where to look, and not for what."""

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self.command = command

    def __str__(self) -> str:
        return (
            f"{self.command} of which run? Expected a run, the name of a job, or the id that `submit` printed; "
            "`coffey status` with the same options lists them."
        )


def status(what: _What = None, store: _Store = None, address: OptionalAddress = None, as_json: AsJson = False) -> None:
    """Say how runs in a store, or jobs on a cluster, are doing."""
    place = _find("status", what or (), store, address)
    if place.address is not None:
        _status_of_jobs(place.address, place.names, as_json=as_json)
    else:
        _status_of_runs(place.store, place.names, as_json=as_json)


def logs(
    what: _What = None,
    store: _Store = None,
    address: OptionalAddress = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """Print what a run has said, or all that a job on a cluster has printed."""
    place = _find("logs", what or (), store, address)
    name = place.only("logs")
    if place.address is not None:
        _logs_of_job(place.address, name, follow=follow)
    else:
        _logs_of_run(place.store, name, follow=follow)


def stop(what: _What = None, store: _Store = None, address: OptionalAddress = None, as_json: AsJson = False) -> None:
    """Ask a run or a submitted job to end; what it has done is kept."""
    place = _find("stop", what or (), store, address)
    name = place.only("stop")
    if place.address is not None:
        _stop_job(place.address, name, as_json=as_json)
    else:
        _stop_run(place.store, name, as_json=as_json)


@dataclass(frozen=True)
class _Place:
    """Where to look, and for what."""

    address: str | None
    """Of a cluster's dashboard; None: look into the store."""
    store: str
    names: tuple[str, ...]
    job: str | None = None
    """Name of the spec's job."""

    def only(self, command: str) -> str:
        """Return the one run or job that is meant: of a spec, by default the latest run."""
        if self.names:
            return self.names[0]
        if self.job is None or self.address is not None:
            raise NoRunNamedError(command)
        return self.job


def _find(command: str, what: Sequence[str], store: str | None, address: str | None) -> _Place:
    names = tuple(word for word in what if not word.endswith((".yaml", ".yml")))
    specs = [word for word in what if word not in names]
    if len(names) > 1 or len(specs) > 1:
        raise typer.BadParameter("expected at most one spec and one run")
    if address is not None:
        return _Place(address, "", names)
    if specs:
        from orchestrator.load import load_spec

        job = load_spec(Path(specs[0]))
        return _Place(None, store or job.store, names, job.name)
    if store is not None:
        return _Place(None, store, names)
    if (address := address_in_environment()) is None:
        raise NothingToLookAtError(command)
    return _Place(address, "", names)


def _status_of_jobs(address: str, names: Sequence[str], *, as_json: bool) -> None:
    from cluster import jobs

    found = [jobs.job_status(address, name) for name in names] if names else list(jobs.list_jobs(address))
    if as_json:
        print_json({"jobs": found})
    else:
        rows = [_job_row(job) for job in found]
        print_table(("job", "state", "started", "ended", ">exit code"), rows, empty="No job was submitted there.")


def _status_of_runs(store: str, names: Sequence[str], *, as_json: bool) -> None:
    from cluster.storage.open import open_store
    from orchestrator.events import read_run, read_runs

    place = open_store(store)
    found = [read_run(place, name) for name in names] if names else read_runs(place)
    if as_json:
        print_json({"store": place.uri, "runs": found})
        return
    rows = [_run_row(state) for state in found]
    print_table(("run", "state", "step", "updated", "message"), rows, empty="No job has run there yet.")
    for state in found if names else ():
        print(f"Report: {place.uri}/runs/{state.run}/report.html" if state.report else "There is no report yet.")


def _logs_of_job(address: str, job: str, *, follow: bool) -> None:
    from cluster import jobs

    for piece in jobs.follow_logs(address, job) if follow else (jobs.read_logs(address, job),):
        print(piece, end="", flush=True)


def _logs_of_run(store: str, run: str, *, follow: bool) -> None:
    import sys

    from cluster.storage.open import open_store
    from cluster.storage.patience import patient
    from orchestrator.events import read_run
    from orchestrator.following import tell_run

    place = open_store(store)
    state = read_run(place, run)
    tell_run(patient(place) if follow else place, state, sys.stdout, follow=follow)


def _stop_job(address: str, job: str, *, as_json: bool) -> None:
    from cluster import jobs

    was_running = jobs.stop(address, job)
    if as_json:
        print_json({"job": job, "was_running": was_running})
    else:
        print(f"Asked {job} to stop." if was_running else f"{job} had ended already.")


def _stop_run(store: str, run: str, *, as_json: bool) -> None:
    from cluster.storage.open import open_store
    from orchestrator.events import request_stop

    state = request_stop(open_store(store), run)
    was_running = not state.is_over
    if as_json:
        print_json({"run": state.run, "was_running": was_running})
    elif was_running:
        print(f"Asked {state.run} to stop; it looks every few seconds.")
    else:
        print(f"{state.run} had ended already: {state.state}.")


def _job_row(job: "JobState") -> tuple[str, ...]:
    code = "" if job.exit_code is None else str(job.exit_code)
    return job.id, job.state, job.started or "", job.ended or "", code


def _run_row(state: "RunState") -> tuple[str, ...]:
    return state.run, state.state, state.step, state.updated, state.remark
