"""`submit`: a job that runs elsewhere, on a Ray cluster that is there or on one that is started for it."""

import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cluster.errors import AccessDenied, EnvironmentFailure, SpecError
from orchestrator.cli.options import (
    AsJson,
    OptionalAddress,
    Overrides,
    PartOfJob,
    SpecFile,
    address_in_environment,
)
from orchestrator.cli.output import print_json

if TYPE_CHECKING:
    from orchestrator.planning.planned import Part
    from orchestrator.spec import JobSpec
    from orchestrator.submission import Submission

_COMMAND_NOT_FOUND = 127


class Target(StrEnum):
    """Where a job goes."""

    RAY = "ray"
    RAYJOB = "rayjob"
    RAY_UP = "ray-up"


class AddressMissingError(SpecError):
    """Nobody says which cluster."""

    def __str__(self) -> str:
        return (
            "--target ray: submit to which cluster? Expected --address URL of its dashboard, RAY_API_SERVER_ADDRESS, "
            "or another --target."
        )


class ManifestNotWrittenError(SpecError):
    """The YAML cannot be written where it should."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"--out {self.path}: cannot be written: {self.reason}. Name a file in a directory that exists."


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


def submit(
    spec: SpecFile,
    *,
    target: Annotated[
        Target,
        typer.Option(
            help="A Ray cluster that runs; a RayJob of KubeRay, written as YAML; or a cluster for `ray up`, as YAML."
        ),
    ] = Target.RAY,
    address: OptionalAddress = None,
    overrides: Overrides = None,
    part: PartOfJob = None,
    apply: Annotated[bool, typer.Option("--apply", help="Hand the RayJob to `kubectl apply`.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the YAML there, in place of standard output.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the log, and exit with the exit code of the job.")
    ] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Submit although the cluster lets in everybody who can reach it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster, or write what starts a cluster for it."""
    from orchestrator.load import load_spec

    _check_options(target, address, apply=apply, out=out, wait=wait)
    job = load_spec(spec, overrides or ())
    if target is Target.RAY_UP:
        _write_launcher(job, spec, overrides or (), part or "all", out)
        return
    from orchestrator.submission import submission_of

    sent = submission_of(job, spec, overrides or (), part or "all")
    if target is Target.RAYJOB:
        _submit_ray_job(job, sent, apply=apply, out=out, wait=wait, as_json=as_json)
    else:
        _submit_to_ray(
            job, sent, address or address_in_environment(), wait=wait, allow_open=allow_open, as_json=as_json
        )


def _check_options(target: Target, address: str | None, *, apply: bool, out: Path | None, wait: bool) -> None:
    if target is not Target.RAY and address is not None:
        raise typer.BadParameter(f"--address names a cluster that runs, and --target {target.value} starts one")
    if target is not Target.RAYJOB and apply:
        raise typer.BadParameter(f"--apply hands over a RayJob; expected --target rayjob, not {target.value}")
    if target is Target.RAY and out is not None:
        raise typer.BadParameter("--out is for YAML; expected --target rayjob or ray-up")
    if wait and (target is Target.RAY_UP or (target is Target.RAYJOB and not apply)):
        raise typer.BadParameter("--wait waits for a job that is submitted, and this only writes YAML")


def _submit_to_ray(
    job: "JobSpec", sent: "Submission", address: str | None, *, wait: bool, allow_open: bool, as_json: bool
) -> None:
    from cluster import jobs

    if address is None:
        raise AddressMissingError
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
        size = _mebibytes(package.num_bytes)
        print(f"Submitted {sent.submission_id}; files that travel with it: {package.num_files} ({size}).")
        print(_ways_on(sent.submission_id, "--address", address), flush=True)
    elif not wait:
        print_json(facts)
    if wait:
        file = sys.stderr if as_json else sys.stdout
        try:
            code = _wait_on_cluster(job, address, sent.submission_id, file)
        except KeyboardInterrupt:
            _goes_on(sent.submission_id, "--address", address)
            raise
        if code == _COMMAND_NOT_FOUND:
            raise CoffeyMissingError(sent.submission_id)
        if as_json:
            print_json(facts | {"exit_code": code})
        raise typer.Exit(code)


def _wait_on_cluster(job: "JobSpec", address: str, submission_id: str, file: TextIO) -> int:
    """Follow a job by its cluster, and by its store where that is gone or knows nothing of it any more."""
    from cluster import jobs
    from cluster.storage.open import open_store
    from orchestrator.waiting import exit_code_by_store

    try:
        for piece in jobs.follow_logs(address, submission_id):
            print(piece, end="", flush=True, file=file)
    except (EnvironmentFailure, AccessDenied, jobs.JobUnknownError) as error:
        # The log is for people, the exit code for programs: losing the one must not lose the other.
        _tell(f"coffey: the log broke off ({error}). Waiting for the job to end.")
    try:
        return jobs.wait(address, submission_id)
    except jobs.JobNotStartedError:
        raise  # the cluster answers, and knows why
    except (EnvironmentFailure, AccessDenied, jobs.JobUnknownError) as error:
        _tell(f"coffey: {error}\nLooking into the store {job.store}.")
        code = exit_code_by_store(open_store(job.store), job.name, submission_id, file)
        if code is None:
            raise
        return code


def _submit_ray_job(
    job: "JobSpec", sent: "Submission", *, apply: bool, out: Path | None, wait: bool, as_json: bool
) -> None:
    from cluster.manifests import kubectl
    from orchestrator.submission import render_ray_job

    rendered = render_ray_job(job, sent)
    if out is not None:
        _write(out, rendered.manifest)
    if apply:
        kubectl.apply(rendered.manifest)
    elif out is None and not as_json:
        print(rendered.manifest, end="", flush=True)
    facts = {"job": sent.submission_id, "rayjob": rendered.name, "package": rendered.package_uri, "applied": apply}
    if as_json and not wait:
        print_json(facts | ({} if apply or out else {"manifest": rendered.manifest}))
    elif not as_json:
        size = f"{rendered.package.num_files} ({_mebibytes(rendered.package.num_bytes)})"
        _tell(f"{'Applied' if apply else 'Wrote'} RayJob {rendered.name}; files in {rendered.package_uri}: {size}.")
        _tell(_ways_on(sent.submission_id, "--store", job.store))
    if wait:
        _wait_on_store(job, sent.submission_id, rendered.name, facts, as_json=as_json)


def _wait_on_store(job: "JobSpec", submission_id: str, rayjob: str, facts: dict[str, object], *, as_json: bool) -> None:
    from cluster.storage.patience import open_patiently
    from orchestrator.following import exit_code_of_run
    from orchestrator.waiting import await_job

    place, kubernetes = open_patiently(job.store), job.cluster.kubernetes
    silence = f"No sign of the job yet: `kubectl describe rayjob {rayjob}` says what its cluster waits for."
    try:
        state = await_job(
            place,
            job.name,
            submission_id,
            sys.stderr if as_json else sys.stdout,
            retries=kubernetes.retries if kubernetes else 0,
            within_s=job.cluster.start_timeout_s,
            on_silence=lambda: _tell(silence),
        )
    except KeyboardInterrupt:
        _goes_on(submission_id, "--store", job.store)
        raise
    code = exit_code_of_run(state)
    if as_json:
        print_json(facts | {"run": state.run, "exit_code": code})
    raise typer.Exit(code)


def _write_launcher(job: "JobSpec", spec: Path, overrides: Sequence[str], part: "Part", out: Path | None) -> None:
    from orchestrator.submission import chosen, render_launcher

    text, growth = render_launcher(job, part)
    submit_again = shlex.join(["coffey", "submit", str(spec), *chosen([*overrides, *growth], part)])
    if out is None:
        print(text, end="", flush=True)
    else:
        _write(out, text)
    file = shlex.quote(str(out or "cluster.yaml"))
    _tell("Then:")
    for command in (
        "ray get-auth-token --generate",
        f"ray up {file}",
        f"ray dashboard {file}",
        f"{submit_again} --address http://127.0.0.1:8265",
        f"ray down {file}",
    ):
        _tell(f"  {command}")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ManifestNotWrittenError(str(out), str(error.strerror)) from error


def _ways_on(submission_id: str, *where: str) -> str:
    """Return the commands with which a submitted job is followed, looked at and ended."""
    named = [submission_id, *where]
    commands = (["logs", *named, "-f"], ["status", *named], ["stop", *named])
    return "\n".join(f"  {shlex.join(['coffey', *words])}" for words in commands)


def _goes_on(submission_id: str, *where: str) -> None:
    _tell(f"\nThe job goes on.\n{_ways_on(submission_id, *where)}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 1024 / 1024:.1f} MiB"
