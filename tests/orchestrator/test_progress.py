"""What is shown while a run goes on: lines that a log can hold or a program can read, bars that never break."""

import io
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.progress import (
    JsonLines,
    LiveBars,
    PlainLines,
    Progress,
    Silent,
    describe_end,
    describe_rows,
    one_line,
    open_progress,
)

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters; the newline ends a line."""

ANSI = "\x1b[36mray::label()\x1b[39m (pid=7)\n\n\tTraceback\r\n  \x1b[1;31mNaN\x1b[0m in row 3"

steps = st.sampled_from(["ingest", "fit:wide", "label:dog", "train:student"])
rows = st.none() | st.integers(0, 10**7)
texts = st.sampled_from([ANSI, "", "\n", "[/]", "[red]x", ":dog:", "epoch 3 of 9"]) | st.text(max_size=40)
calls = st.one_of(
    st.tuples(st.just("started"), steps, rows, st.integers(0, 100)),
    st.tuples(st.just("advanced"), steps, rows, texts),
    st.tuples(st.just("finished"), steps, rows, st.floats(0, 1e6)),
    st.tuples(st.just("said"), steps, rows, texts),
)


def replay(display: Progress, story: list[tuple[str, str, int | None, object]]) -> None:
    """Tell a display a story, in which steps may end before they begin."""
    for call, step, number, more in story:
        match call:
            case "started":
                display.started(step, rows=number, done=int(str(more)))
            case "advanced":
                display.advanced(step, rows=number, note=str(more))
            case "finished":
                outcome = "reused" if number is None else "computed"
                display.finished(step, outcome=outcome, seconds=float(str(more)), rows=number)
            case _:
                display.said(str(more))


def tell(display: Progress) -> None:
    """Tell what a small run tells."""
    display.finished("ingest", outcome="reused", seconds=0.0, rows=None)
    display.started("label:dog", rows=1000, done=200)
    display.advanced("label:dog", rows=600, note="")
    display.said("label:dog: shard 3 is tried again: " + ANSI)
    display.finished("label:dog", outcome="continued", seconds=4.0, rows=800)
    display.started("train:student", rows=None, done=0)
    display.advanced("train:student", rows=None, note="epoch 1 of 3, 91.5% on held-out rows")
    display.finished("train:student", outcome="computed", seconds=12.34, rows=None)


class TestPlainLines:
    @settings(deadline=None)
    @given(st.lists(calls, max_size=30))
    def test_lines_have_no_control_characters_and_are_never_empty(
        self, story: list[tuple[str, str, int | None, object]]
    ) -> None:
        file = io.StringIO()
        replay(PlainLines(file, every_s=0.0), story)
        text = file.getvalue()
        assert not CONTROL.search(text)
        assert all(line.strip() for line in text.splitlines())
        assert all(line == line.rstrip() for line in text.splitlines())

    def test_a_run_reads_like_a_table(self) -> None:
        file = io.StringIO()
        tell(PlainLines(file, every_s=3600.0))
        assert file.getvalue().splitlines() == [
            "ingest                 reused",
            "label:dog: shard 3 is tried again: ray::label() (pid=7) Traceback NaN in row 3",
            "label:dog              4.0 s, 800 rows, 200 rows/s",
            "train:student          12.3 s",
        ]

    def test_a_step_that_takes_long_shows_how_far_it_is(self) -> None:
        file = io.StringIO()
        tell(PlainLines(file, every_s=0.0))
        shown = [line for line in file.getvalue().splitlines() if "600" in line or "epoch" in line]
        assert re.fullmatch(r"label:dog              600 of 1,000 rows, [\d,]+ rows/s, \d+ s left", shown[0])
        assert shown[1] == "train:student          epoch 1 of 3, 91.5% on held-out rows"


class TestJsonLines:
    @settings(deadline=None)
    @given(st.lists(calls, max_size=30))
    def test_every_line_is_one_object_whatever_it_holds(self, story: list[tuple[str, str, int | None, object]]) -> None:
        file = io.StringIO()
        replay(JsonLines(file), story)
        found = [json.loads(line) for line in file.getvalue().split("\n")[:-1]]
        assert [line["event"] for line in found] == [call for call, *_ in story]

    def test_a_program_gets_every_number(self) -> None:
        file = io.StringIO()
        tell(JsonLines(file))
        found = [json.loads(line) for line in file.getvalue().splitlines()]
        assert found[1] == {"event": "started", "step": "label:dog", "rows": 1000, "done": 200}
        assert found[2] == {"event": "advanced", "step": "label:dog", "rows": 600, "note": ""}
        assert found[4] == {"event": "finished", "step": "label:dog", "outcome": "continued", "seconds": 4, "rows": 800}


class TestLiveBars:
    @settings(deadline=None)
    @given(st.lists(calls, max_size=20))
    def test_no_story_breaks_the_display(self, story: list[tuple[str, str, int | None, object]]) -> None:
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        display = LiveBars(console)
        with display.bars:
            replay(display, story)
            display.bars.refresh()

    def test_words_are_shown_as_they_are(self) -> None:
        console = Console(file=io.StringIO(), record=True, width=100)
        tell(LiveBars(console))
        LiveBars(console).said("[bold]not[/bold] :dog: [/]")
        assert console.export_text().splitlines() == [
            "ingest                 reused",
            "label:dog: shard 3 is tried again: ray::label() (pid=7) Traceback NaN in row 3",
            "label:dog              4.0 s, 800 rows, 200 rows/s",
            "train:student          12.3 s",
            "[bold]not[/bold] :dog: [/]",
        ]

    def test_bars_show_steps_that_run_and_begin_where_an_earlier_run_ended(self) -> None:
        file = io.StringIO()
        display = LiveBars(Console(file=file, force_terminal=True, width=120, color_system=None))
        with display.bars:
            display.started("label:dog", rows=1000, done=250)
            assert [(task.description, task.completed, task.total) for task in display.bars.tasks] == [
                ("label:dog", 250, 1000)
            ]
            display.advanced("label:dog", rows=500, note="[one] note")
            display.bars.refresh()
            assert display.bars.tasks[0].completed == 500
            display.finished("label:dog", outcome="computed", seconds=1.0, rows=750)
            assert display.bars.tasks == []
        assert "500 of 1,000 rows" in file.getvalue()
        assert "[one] note" in file.getvalue()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (describe_rows(None, 10, 1.0), ""),
        (describe_rows(5, None, 0.0), "5 rows"),
        (describe_rows(0, 1000, 3.0), "0 of 1,000 rows"),
        (describe_rows(1500, None, 3.0), "1,500 rows, 500 rows/s"),
        (describe_rows(500, 2000, 5.0), "500 of 2,000 rows, 100 rows/s, 15 s left"),
        (describe_rows(2000, 2000, 5.0), "2,000 of 2,000 rows, 400 rows/s"),
        (describe_rows(55_100, 60_000, 1.0, before=55_000), "55,100 of 60,000 rows, 100 rows/s, 49 s left"),
        (describe_rows(55_000, 60_000, 1.0, before=55_000), "55,000 of 60,000 rows"),
        (describe_rows(10, None, 1.0, before=20), "10 rows"),
        (describe_end("reused", 0.0, None), "reused"),
        (describe_end("computed", 2.0, None), "2.0 s"),
        (describe_end("computed", 2.0, 0), "2.0 s"),
        (describe_end("continued", 2.0, 3000), "2.0 s, 3,000 rows, 1,500 rows/s"),
        (one_line(ANSI), "ray::label() (pid=7) Traceback NaN in row 3"),
        (one_line(" \n\x1b[0m"), ""),
        (one_line("5 µs, naïve 点"), "5 µs, naïve 点"),
    ],
)
def test_numbers_are_put_into_words(words: str, expected: str) -> None:
    assert words == expected


@pytest.mark.parametrize(
    ("quiet", "as_json", "expected"),
    [(True, False, Silent), (True, True, Silent), (False, True, JsonLines), (False, False, PlainLines)],
)
def test_the_display_is_the_one_that_was_asked_for_and_writes_to_standard_error(
    capsys: pytest.CaptureFixture[str], quiet: bool, as_json: bool, expected: Callable[..., Progress]
) -> None:
    with open_progress(quiet=quiet, as_json=as_json) as display:
        assert type(display) is expected
        tell(display)
    output, errors = capsys.readouterr()
    assert output == ""
    assert bool(errors) == (not quiet)
