"""`submit`, `status`, `logs`, `stop`: a job on a Ray cluster that runs elsewhere, and the runs in a store."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import EnvironmentFailure, SpecError
from orchestrator.cli.options import Address, AsJson, JobId, Overrides, SpecFile
from orchestrator.cli.output import print_json, print_table

if TYPE_CHECKING:
    from cluster.jobs import JobState
    from orchestrator.events import RunState
    from orchestrator.spec import JobSpec

_COMMAND_NOT_FOUND = 127
# Where the store of a bucket is, as this machine sees it; never who may enter.
_STORE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


class NothingToLookAtError(SpecError):
    """`status` was given neither a store nor a cluster."""

    def __str__(self) -> str:
        return "status of what? Expected a spec, --store URI, or --address URL of a cluster."


class CoffeyMissingError(EnvironmentFailure):
    """The cluster has no `coffey` command."""

    def __init__(self, submission_id: str) -> None:
        super().__init__(submission_id)
        self.submission_id = submission_id

    def __str__(self) -> str:
        return (
            f"job {self.submission_id}: the cluster has no `coffey` command. "
            "Install coffey where the cluster's processes run, and submit again."
        )


@dataclass(frozen=True)
class _Submission:
    """What is sent to a cluster for one spec."""

    submission_id: str
    entrypoint: str
    working_dir: Path
    excludes: tuple[Path, ...]
    env: dict[str, str]


def submit(
    spec: SpecFile,
    *,
    address: Address,
    overrides: Overrides = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the log, and exit with the exit code of the job.")
    ] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Submit although the cluster lets in everybody who can reach it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job on a running Ray cluster."""
    from cluster import jobs
    from orchestrator.load import load_spec

    sent = _submission(load_spec(spec, overrides or ()), spec, overrides or ())
    package = jobs.submit(
        address,
        entrypoint=sent.entrypoint,
        working_dir=sent.working_dir,
        submission_id=sent.submission_id,
        env=sent.env,
        excludes=sent.excludes,
        allow_open=allow_open,
    )
    facts = {"job": sent.submission_id, "address": address, "entrypoint": sent.entrypoint, "files": package.num_files}
    if not as_json:
        size = f"{package.num_bytes / 1024 / 1024:.1f} MiB"
        print(f"Submitted {sent.submission_id}; files that travel with it: {package.num_files} ({size}).")
        print(_ways_on(address, sent.submission_id), flush=True)
    elif not wait:
        print_json(facts)
    if wait:
        _wait(address, sent.submission_id, facts, as_json=as_json)


def status(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SPEC] [RUN]", help="A spec, for its store; a run, a job's name or a submission id."),
    ] = None,
    store: Annotated[str | None, typer.Option(metavar="URI", help="The store that holds the runs.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="The dashboard of a Ray cluster, to ask it for jobs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how runs in a store, or jobs on a cluster, are doing."""
    names = [word for word in what or () if not word.endswith((".yaml", ".yml"))]
    specs = [word for word in what or () if word not in names]
    if len(names) > 1 or len(specs) > 1:
        raise typer.BadParameter("expected at most one spec and one run")
    if address is not None:
        _status_of_jobs(address, names, as_json=as_json)
    elif store is not None or specs:
        _status_of_runs(store or _store_of(Path(specs[0])), names, as_json=as_json)
    else:
        raise NothingToLookAtError


def logs(
    job: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print what a submitted job has printed."""
    from cluster import jobs

    if not follow:
        print(jobs.read_logs(address, job), end="", flush=True)
        return
    for piece in jobs.follow_logs(address, job):
        print(piece, end="", flush=True)


def stop(job: JobId, address: Address, as_json: AsJson = False) -> None:
    """Ask a submitted job to end; what it has done is kept."""
    from cluster import jobs

    was_running = jobs.stop(address, job)
    if as_json:
        print_json({"job": job, "was_running": was_running})
    else:
        print(f"Asked {job} to stop." if was_running else f"{job} had ended already.")


def _submission(job: "JobSpec", spec: Path, overrides: Sequence[str]) -> _Submission:
    from cluster.identity import canonical_json, digest_of
    from cluster.storage.open import open_store
    from orchestrator.specfile.overrides import written

    here, path = Path.cwd(), spec.absolute()
    working_dir = here if path.is_relative_to(here) else path.parent
    settings = [written("cluster.address", "auto"), *overrides]
    is_bucket = job.store.startswith("s3://")
    store = job.store if is_bucket else open_store(job.store).uri
    if not is_bucket:
        settings.append(written("store", store))  # the job runs in another directory
    words = ["coffey", "run", str(path.relative_to(working_dir))]
    for setting in settings:
        words += ["--set", setting]
    unique = digest_of(canonical_json({"spec": job, "at": time.time_ns(), "by": os.getpid()}))[:8]
    submission_id = f"{job.name}-{unique}"
    named = {name: os.environ[name] for name in _STORE_VARIABLES if is_bucket and os.environ.get(name)}
    return _Submission(
        submission_id=submission_id,
        entrypoint=shlex.join(words),
        working_dir=working_dir,
        excludes=() if is_bucket else (Path(store),),
        env=named | {"COFFEY_SUBMISSION_ID": submission_id},
    )


def _wait(address: str, submission_id: str, facts: dict[str, object], *, as_json: bool) -> None:
    from cluster import jobs

    try:
        for piece in jobs.follow_logs(address, submission_id):
            print(piece, end="", flush=True, file=sys.stderr if as_json else sys.stdout)
    except KeyboardInterrupt:
        print(f"\nThe job goes on.\n{_ways_on(address, submission_id)}", file=sys.stderr, flush=True)
        raise
    except EnvironmentFailure as error:
        # The log is for people, the exit code for programs: losing the one must not lose the other.
        print(f"coffey: the log broke off ({error}). Waiting for the job to end.", file=sys.stderr, flush=True)
    code = jobs.wait(address, submission_id)
    if code == _COMMAND_NOT_FOUND:
        raise CoffeyMissingError(submission_id)
    if as_json:
        print_json(facts | {"exit_code": code})
    raise typer.Exit(code)


def _ways_on(address: str, submission_id: str) -> str:
    """Return the commands with which a submitted job is followed, looked at and ended."""
    where = [submission_id, "--address", address]
    commands = (["logs", *where, "-f"], ["status", *where], ["stop", *where])
    return "\n".join(f"  {shlex.join(['coffey', *words])}" for words in commands)


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


def _store_of(spec: Path) -> str:
    from orchestrator.load import load_spec

    return load_spec(spec).store


def _job_row(job: "JobState") -> tuple[str, ...]:
    code = "" if job.exit_code is None else str(job.exit_code)
    return job.id, job.state, job.started or "", job.ended or "", code


def _run_row(state: "RunState") -> tuple[str, ...]:
    return state.run, state.state, state.step, state.updated, state.error or state.message
