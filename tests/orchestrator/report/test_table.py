"""What the terminal shows at the end of a run is complete, plain and harmless."""

import io
import re
import statistics

import pytest
from rich.console import Console

from orchestrator.report.page import render_page
from orchestrator.report.record import OwnResult, Report, ViewsSummary
from orchestrator.report.table import print_report
from orchestrator.report.verdict import verdict
from tests.orchestrator.report.hostile import ALL
from tests.orchestrator.report.records import SEEDS, WARNING, make_report, with_text_in_every_string


def printed(report: Report, width: int = 80) -> str:
    """Return what a pipe of that width receives."""
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return re.split(r"  +", line.strip())


def test_each_model_stands_in_one_line_with_its_figures() -> None:
    report = make_report()
    text = printed(report)
    for model in report.models[:4]:
        assert line_of(text, model.name + " ") == [
            model.name,
            f"{100 * model.accuracy:.2f}",
            f"{model.nll:.3f}",
            f"{model.ece:.3f}",
            f"{model.parameters:,}",
            f"{model.num_bytes / 1024:.1f} KiB",
            f"{model.latency_ms:.3f}",
        ]


def test_a_teacher_of_some_classes_has_its_likelihood_on_a_line_of_its_own() -> None:
    report = make_report()
    own = OwnResult(classes=4, rows=200, accuracy=0.9785)
    first = report.models[0].model_copy(update={"own": own, "accuracy": 0.41})
    text = printed(report.model_copy(update={"models": (first, *report.models[1:])}))
    assert line_of(text, first.name + " ")[:3] == [first.name, "41.00", f"{first.parameters:,}"]
    assert line_of(text, "  on rows it knows") == [
        "on rows it knows",
        "97.85",
        f"{first.nll:.3f}",
        f"{first.ece:.3f}",
    ]


@pytest.mark.parametrize("role", ["baseline", "student"])
def test_seeds_are_summed_up_by_mean_and_standard_deviation_and_all_shown(role: str) -> None:
    report = make_report()
    text = printed(report)
    accuracies = [100 * model.accuracy for model in report.models if model.role == role]
    summary = f"{statistics.fmean(accuracies):.2f} ±{statistics.stdev(accuracies):.2f}"
    assert line_of(text, f"{role} (mean of 3)")[1] == summary
    for seed, accuracy in enumerate(accuracies):
        assert re.search(rf"^  seed {seed} +{accuracy:.2f} ", text, re.MULTILINE)


def test_each_step_stands_in_one_line_with_outcome_time_rows_and_rate() -> None:
    text = printed(make_report())
    assert line_of(text, "ingest") == ["ingest", "reused", "0.0 s", "\N{EN DASH}", "\N{EN DASH}"]
    assert line_of(text, "label wide") == ["label wide", "computed", "3.0 s", "1,237", "4,106"]
    assert "1 min 11 s in all; 3,711 rows went through a teacher." in text


def test_the_ensemble_without_each_teacher_stands_in_one_line() -> None:
    text = printed(make_report())
    assert line_of(text, "without wide") == ["without wide", "93.82", "0.215", "50.00"]
    assert line_of(text, "without forest") == ["without forest", "95.82", "0.155", "0.00"]
    assert "without" not in printed(make_report(contributions=())).partition("step")[0]


def test_a_run_from_the_cache_says_that_no_teacher_worked() -> None:
    assert "no row went through a teacher" in printed(make_report(teacher_rows_computed=0))


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ((), "when it was trained on plain rows."),
        (SEEDS, "when it was trained in views too."),
        ((1,), "when it was trained in views too with seed(s) 1, and on plain rows with others."),
    ],
)
def test_the_terminal_and_the_page_say_what_was_seen_and_which_lone_student_was_the_best(
    seeds: tuple[int, ...], said: str
) -> None:
    report = make_report(views=ViewsSummary(number=10, changes=("crop", "mixup"), lone_in_views=seeds))
    expected = "Training rows were seen in 10 view(s): crop, mixup. The lone student did best on the held-out rows "
    assert expected + said in " ".join(printed(report).split())
    assert f"<p>{expected}{said}</p>" in render_page(report)
    assert "view" not in printed(make_report())


def test_verdict_and_warnings_are_printed_whole() -> None:
    report = make_report(warnings=(WARNING, "Second\nof two lines."))
    words = " ".join(printed(report).split())
    assert verdict(report) in words
    assert f"Warning: {WARNING}" in words
    assert "Warning: Second of two lines." in words


def test_a_pipe_of_80_columns_gets_plain_text_within_80_columns() -> None:
    text = printed(make_report(warnings=(WARNING,)))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_figures_are_whole_at_any_width(width: int) -> None:
    huge = (
        make_report()
        .models[0]
        .model_copy(
            update={
                "name": "a-teacher-with-a-name-as-long-as-they-come",
                "parameters": 70_553_706_496,
                "num_bytes": 2**37,
            }
        )
    )
    report = make_report(models=(huge, *make_report().models))
    text = printed(report, width)
    assert "…" not in text
    assert "..." not in text
    for figure in ("70,553,706,496", "128.0 GiB", "94.40 ±0.41", "37,110"):
        assert figure in text


def test_names_can_neither_colour_nor_steer_the_terminal() -> None:
    report = with_text_in_every_string(make_report(warnings=(WARNING,)), "[red]\x1b[2J\x07\x9b31m\r\u202e")
    text = printed(report, width=200)
    assert "[red]" in text
    assert not set(text) & set("\x1b\x07\x9b\r\u202e")


def test_hostile_names_are_printed_as_they_are() -> None:
    text = "".join(printed(with_text_in_every_string(make_report(), ALL), width=2000).split())
    assert "<script>window.caught=1</script>" in text
