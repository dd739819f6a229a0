"""`demo`, `plan` and `run`: a job on this machine, or on the cluster that its spec names."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.options import AsJson, Overrides, PartOfJob, Quiet, SpecFile
from orchestrator.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.planned import PlannedStep
    from orchestrator.spec import JobSpec


def demo(
    store: Annotated[str, typer.Option(metavar="URI", help="Where everything is kept.")] = "./coffey-demo",
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="One student is trained for each.")] = "0,1,2",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compress three teachers of handwritten digits into one small student, on this machine, in a minute or so."""
    from orchestrator.demo.job import demo_spec

    _run(demo_spec(store, _seeds(seeds)), quiet=quiet, as_json=as_json)


def plan(spec: SpecFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what is done and what is left. Changes nothing."""
    from cluster.storage.open import open_store
    from orchestrator.load import load_spec
    from orchestrator.planning.plan import make_plan

    job = load_spec(spec, overrides or ())
    planned = make_plan(job, open_store(job.store))
    if as_json:
        print_json(planned)
    else:
        _print_plan(planned)


def run(
    spec: SpecFile,
    overrides: Overrides = None,
    part: PartOfJob = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do what is left of a job, and report. The same command again continues."""
    from orchestrator.load import load_spec

    job = load_spec(spec, overrides or ())
    if part == "teachers":
        _label(job, quiet=quiet, as_json=as_json)
    else:
        _run(job, part=part or "all", quiet=quiet, as_json=as_json)


def _label(job: "JobSpec", *, quiet: bool, as_json: bool) -> None:
    from cluster.storage.open import open_store
    from orchestrator.progress import open_progress
    from orchestrator.run import label_job

    store = open_store(job.store)
    with open_progress(quiet=quiet, as_json=as_json) as progress:
        result = label_job(job, store, progress=progress)
    if as_json:
        print_json({"run": result.run, "teacher_rows": result.teacher_rows})
    else:
        print(f"All labels are in {store.uri}; {result.teacher_rows:,} rows went through a teacher in this run.")


def _run(job: "JobSpec", *, quiet: bool, as_json: bool, part: Literal["all", "student"] = "all") -> None:
    from cluster.redaction import redacted
    from cluster.storage.open import open_store
    from orchestrator.progress import open_progress
    from orchestrator.run import run_job

    store = open_store(job.store)
    command = redacted(shlex.join(["coffey", *sys.argv[1:]]))
    with open_progress(quiet=quiet, as_json=as_json) as progress:
        result = run_job(job, store, command=command, progress=progress, part=part)
    if as_json:
        print_json({"run": result.run, "report_uri": result.report_uri, "report": result.report})
        return
    from orchestrator.report.table import print_report

    print_report(result.report, console())
    print(f"\nReport: {result.report_uri}")


def _print_plan(planned: "Plan") -> None:
    print(f"{planned.name} in {planned.store}")
    print_table(
        ("step", "state", ">rows", "identity", "note"),
        ((step.name, step.state, _rows(step), step.identity, step.note) for step in planned.steps),
    )
    if planned.members is not None:
        print(f"Members of the cohort train {planned.members}: {planned.members_because}")
    for note in planned.notes:
        print(f"Note: {note}.")
    left = sum(step.state != "done" for step in planned.steps)
    print("Nothing is left to do." if not left else f"{left} of {len(planned.steps)} steps are left.")
    if planned.fused is None:
        labels = [step.name for step in planned.steps if step.kind == "label"]
        later = f", and what follows waits for {' and '.join(labels)}" if labels else ""
        print(f"There are no teachers: the first training waits for nobody{later}.")
        return
    starts = "starts" if planned.pipelined else "does not start"
    print(f"Training {starts} while labels still arrive: {planned.pipelined_because}")
    print(f"Teachers are fused {planned.fused}: {planned.fused_because}")


def _rows(step: "PlannedStep") -> str:
    if step.rows is None:
        return ""
    return f"{step.rows:,}" if step.rows_done in {None, step.rows} else f"{step.rows_done:,} of {step.rows:,}"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no list of whole numbers, such as 0,1,2", param_hint="--seeds"
        ) from error
