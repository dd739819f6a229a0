"""The `coffey` command: its subcommands, and what becomes of an error.

Nothing heavy is imported here. A command imports what it needs when it runs, so that `--help` answers at once.
"""

import importlib
import json
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from cluster.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, CoffeyError, SpecError
from orchestrator.cli import doctor, jobs, labels, report, run, schema, submit, techniques

app = typer.Typer(
    help="Compress an ensemble of teachers into one student: label once, train many students.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.demo,
    schema.init,
    doctor.doctor,
    run.plan,
    run.run,
    submit.submit,
    jobs.status,
    jobs.logs,
    jobs.stop,
):
    app.command()(command)
app.add_typer(labels.app, name="labels")
app.command(name="report")(report.show_report)
app.command(name="schema")(schema.print_schema)
app.command(name="techniques")(techniques.print_techniques)


def main() -> NoReturn:
    """Run the command line of this process, and exit with the code of what became of it."""
    signal.signal(signal.SIGTERM, _terminate)
    # A job's models are imported from the directory in which the command runs, as `python -m` would. Our own packages
    # are imported before: a directory called `students` is not rare, and must not hide ours.
    for package in ("cluster", "teachers", "students", "orchestrator"):
        importlib.import_module(package)
    sys.path.insert(0, os.getcwd())
    code = exit_code_of(sys.argv[1:])
    if code:
        # What was broken off may have left threads inside Ray, whose code does not survive the end of the interpreter:
        # it crashes then, and the code that was meant is lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code_of(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit code after saying what went wrong, if anything did."""
    as_json = "--json" in arguments
    try:
        code = int(app(list(arguments) or ["--help"], prog_name="coffey", standalone_mode=False) or 0)
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except typer.TyperException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted("Interrupted", EXIT_INTERRUPTED, as_json=as_json)
    except _TerminatedError:
        return _interrupted("Terminated", EXIT_TERMINATED, as_json=as_json)
    except Exception as error:
        return _failed(error, as_json=as_json)


class _TerminatedError(SystemExit):
    """Somebody asked this process to end. No Exception, so that nothing on the way takes it for a failure.

    A SystemExit, because an event loop passes that on from whatever it is at, and keeps every other one to itself.
    """


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _TerminatedError(EXIT_TERMINATED)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"coffey {version('coffey')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
]


@app.callback()
def _options(version: _Version = False) -> None:  # typer makes the options of `coffey` itself of it
    pass


def _usage(error: typer.TyperException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    advice = f"`{context.command_path if context else 'coffey'} --help` says what is expected."
    _report("UsageError", f"{error.format_message()} {advice}", SpecError.exit_code, as_json=as_json)
    return SpecError.exit_code


def _interrupted(kind: str, code: int, *, as_json: bool) -> int:
    message = f"{kind.lower()}. What is done is kept: the same command again continues"
    _report(kind, f"{message}.", code, as_json=as_json)
    return code


def _failed(error: Exception, *, as_json: bool) -> int:
    from cluster.failures import own_error
    from cluster.redaction import redacted

    own = own_error(error)
    if own is None:
        print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        advice = "This is a bug in Coffey: please report it with the lines above."
        _report(type(error).__name__, f"{error}\n{advice}", CoffeyError.exit_code, as_json=as_json)
        return CoffeyError.exit_code
    # The last lines of a process that failed are notes on the error with which the run ended.
    notes = getattr(error, "__notes__", [])
    facts = {name: value for name, value in vars(own).items() if not name.startswith("__")}
    _report(type(own).__name__, str(own), own.exit_code, as_json=as_json, facts=facts, notes=notes)
    return own.exit_code


def _report(
    kind: str,
    message: str,
    code: int,
    *,
    as_json: bool,
    facts: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
) -> None:
    from cluster.redaction import redacted

    if not as_json:
        below = "".join(f"\n{textwrap.indent(note, '  ')}" for note in notes)
        print(redacted(f"coffey: {message}{below}"), file=sys.stderr, flush=True)
        return
    from pydantic_core import to_jsonable_python

    error = {
        "kind": kind,
        "message": message,
        "exit_code": code,
        "facts": to_jsonable_python(facts or {}, fallback=str),
        "notes": list(notes),
    }
    print(redacted(json.dumps({"error": error}, ensure_ascii=False)), flush=True)
