"""What a person, or a program, sees while a run goes on."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from cluster.noise import own_descriptor

_PLAIN_EVERY_S = 5.0
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Progress(Protocol):
    """Told of everything that happens; decides what to show. Called from one thread at a time."""

    def started(self, step: str, *, rows: int | None, done: int) -> None:
        """A step begins; `rows` is how many it has in all, `done` how many of them an earlier run has done."""

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        """A step got further: `rows` are done so far."""

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        """A step is complete."""

    def said(self, message: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Shows nothing."""

    def started(self, step: str, *, rows: int | None, done: int) -> None:
        """Show nothing."""

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        """Show nothing."""

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        """Show nothing."""

    def said(self, message: str) -> None:
        """Show nothing."""


class JsonLines:
    """One JSON object a line, for programs."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def started(self, step: str, *, rows: int | None, done: int) -> None:
        """Write one line."""
        self._write(event="started", step=step, rows=rows, done=done)

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        """Write one line."""
        self._write(event="advanced", step=step, rows=rows, note=note)

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        """Write one line."""
        self._write(event="finished", step=step, outcome=outcome, seconds=round(seconds, 3), rows=rows)

    def said(self, message: str) -> None:
        """Write one line."""
        self._write(event="said", message=message)

    def _write(self, **fields: object) -> None:
        print(json.dumps(fields), file=self._file, flush=True)


class PlainLines:
    """Text without control characters: a line when a step ends, and now and then one in between.

    `clock` gives the seconds by which paces are reckoned; a story that is told again brings its own.
    """

    def __init__(
        self, file: TextIO, *, every_s: float = _PLAIN_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file, self._every_s, self._clock = file, every_s, clock
        self._paces: dict[str, _Pace] = {}
        self._shown_s = clock()

    def started(self, step: str, *, rows: int | None, done: int) -> None:
        """Remember when."""
        self._paces[step] = _Pace(rows, done, self._clock)

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        """Write a line if the last one is some seconds old."""
        if self._clock() - self._shown_s >= self._every_s and (state := _state(self._paces.get(step), rows, note)):
            self._shown_s = self._clock()
            self._line(f"{step:<22} {state}")

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        """Write a line."""
        self._shown_s = self._clock()
        self._line(f"{step:<22} {describe_end(outcome, seconds, rows)}")

    def said(self, message: str) -> None:
        """Write a line."""
        self._line(one_line(message))

    def _line(self, text: str) -> None:
        if text:
            print(text, file=self._file, flush=True)


class LiveBars:
    """A live display on a terminal: a bar for each step that runs, a line for each that has ended."""

    def __init__(self, console: Console) -> None:
        self.bars = RichProgress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._paces: dict[str, _Pace] = {}

    def started(self, step: str, *, rows: int | None, done: int) -> None:
        """Add a bar."""
        self._tasks[step] = self.bars.add_task(step, total=rows, completed=done, state="")
        self._paces[step] = _Pace(rows, done)

    def advanced(self, step: str, *, rows: int | None, note: str) -> None:
        """Move its bar."""
        if step in self._tasks:
            self.bars.update(self._tasks[step], completed=rows, state=_state(self._paces[step], rows, note))

    def finished(self, step: str, *, outcome: str, seconds: float, rows: int | None) -> None:
        """Replace the bar by a line."""
        if step in self._tasks:
            self.bars.remove_task(self._tasks.pop(step))
        self._print(f"{step:<22} {describe_end(outcome, seconds, rows)}")

    def said(self, message: str) -> None:
        """Print above the bars."""
        self._print(one_line(message))

    def _print(self, text: str) -> None:
        # Neither [brackets] nor :colons: are ours to interpret: `label:dog: shard 3` is no emoji.
        self.bars.console.print(text, highlight=False, markup=False, emoji=False)


def describe_rows(rows: int | None, total: int | None, seconds: float, *, before: int = 0) -> str:
    """Return rows so far, their rate and the time left, in words; `before` were there when the clock started."""
    if rows is None:
        return ""
    rate = (rows - before) / seconds if seconds > 0 else 0.0
    text = f"{rows:,} rows" if total is None else f"{rows:,} of {total:,} rows"
    if rate > 0:
        text += f", {rate:,.0f} rows/s"
        if total is not None and total > rows:
            text += f", {(total - rows) / rate:.0f} s left"
    return text


def describe_end(outcome: str, seconds: float, rows: int | None) -> str:
    """Return how a step ended, in words."""
    if outcome == "reused":
        return "reused"
    text = f"{seconds:.1f} s"
    return text if not rows else f"{text}, {rows:,} rows, {rows / max(seconds, 1e-9):,.0f} rows/s"


def one_line(text: str) -> str:
    """Return `text` on one line without colours and other control characters, as other programs' messages have them."""
    return " ".join(_CONTROL.sub(" ", text).split())


@contextlib.contextmanager
def open_progress(*, quiet: bool, as_json: bool) -> Iterator[Progress]:
    """Yield the display that suits this terminal; everything goes to standard error, results to standard output."""
    with own_descriptor(sys.stderr) as terminal:
        if quiet:
            yield Silent()
        elif as_json:
            yield JsonLines(terminal)
        elif terminal.isatty():
            live = LiveBars(Console(file=terminal))
            with live.bars:
                yield live
        else:
            yield PlainLines(terminal)


class _Pace:
    """What a step's rate is reckoned from: what it has in all, what it began with, and when."""

    def __init__(self, rows: int | None, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows, self.done, self._clock, self._started_s = rows, done, clock, clock()

    def describe(self, rows: int | None) -> str:
        return describe_rows(rows, self.rows, self._clock() - self._started_s, before=self.done)


def _state(pace: _Pace | None, rows: int | None, note: str) -> str:
    return ", ".join(filter(None, [pace.describe(rows) if pace else "", one_line(note)]))
