"""The page shows the record, all of it that has something to say, and nothing that it was not told."""

import base64
import io
import re
import statistics
from functools import cache
from typing import Any

import matplotlib
import pytest
from PIL import Image

from orchestrator.report.page import render_page
from orchestrator.report.record import OwnResult, Report
from orchestrator.report.samples import MOST_CLASSES, cards
from orchestrator.report.verdict import verdict
from tests.orchestrator.report.markup import Element, parse
from tests.orchestrator.report.records import FASHION, SPEC, WARNING, make_report

REPORT = make_report(warnings=(WARNING,))


@cache
def page() -> str:
    return render_page(REPORT)


def table(tree: Element, caption: str) -> list[list[str]]:
    (found,) = [part for part in tree.all("table") if part.all("caption")[0].text.startswith(caption)]
    return found.rows()


def test_title_verdict_and_warnings_come_first() -> None:
    tree = parse(page())
    assert tree.all("title")[0].text == "digits-ensemble · Coffey"
    assert [heading.text for heading in tree.all("h1")] == ["digits-ensemble"]
    assert tree.all("p", **{"class": "verdict"})[0].text == verdict(REPORT)
    assert [item.text for item in tree.all("aside")[0].all("li")] == [WARNING]
    assert [heading.text for heading in tree.all("h2")] == [
        "Warning",
        "Models",
        "Learning curves",
        "Calibration",
        "What each teacher adds",
        "Agreement",
        "Soft labels",
        "Where the time went",
        "Data",
        "Spec",
        "Environment",
        "Run it again",
    ]


def test_every_model_stands_with_its_figures_in_one_row() -> None:
    rows = table(parse(page()), "Every model")
    for model, row in zip(REPORT.models[:4], rows[1:5], strict=True):
        assert row[0].startswith(model.name)
        assert [row[1], *row[3:]] == [
            f"{100 * model.accuracy:.2f}",
            f"{model.nll:.3f}",
            f"{model.ece:.3f}",
            f"{model.parameters:,}",
            f"{model.num_bytes / 1024:.1f} KiB",
            f"{model.latency_ms:.3f}",
            str(model.epochs) if model.epochs else "\N{EN DASH}",
        ]


def test_a_teacher_of_some_classes_has_its_likelihood_under_its_own_rows() -> None:
    own = OwnResult(classes=4, rows=200, accuracy=0.9785)
    first = REPORT.models[0].model_copy(update={"own": own})
    text = render_page(make_report(models=(first, *REPORT.models[1:])))
    whole, part = table(parse(text), "Every model")[1:3]
    assert [whole[1], *whole[3:5]] == [f"{100 * first.accuracy:.2f}", "", ""]
    assert part[0] == "on the 200 rows whose class it knows (4 classes)"
    assert [part[1], *part[3:5]] == ["97.85", f"{first.nll:.3f}", f"{first.ece:.3f}"]
    assert "with a teacher that knows some classes over the rows of these" in text
    assert "with a teacher that knows some classes" not in page()


@pytest.mark.parametrize(("role", "first_row"), [("baseline", 5), ("student", 9)])
def test_seeds_stand_under_their_mean_and_standard_deviation(role: str, first_row: int) -> None:
    rows = table(parse(page()), "Every model")
    members = [model for model in REPORT.models if model.role == role]
    whole, parts = rows[first_row], rows[first_row + 1 : first_row + 4]
    assert whole[0].endswith("mean of 3 seeds")
    for column, figures, digits in (
        (1, [100 * model.accuracy for model in members], 2),
        (3, [model.nll for model in members], 3),
        (4, [model.ece for model in members], 3),
    ):
        assert whole[column] == f"{statistics.fmean(figures):.{digits}f} ±{statistics.stdev(figures):.{digits}f}"
        assert [row[column] for row in parts] == [f"{figure:.{digits}f}" for figure in figures]
    assert [row[0] for row in parts] == ["seed 0", "seed 1", "seed 2"]


def test_a_dot_stands_where_the_accuracy_lies_between_the_ends_of_its_axis() -> None:
    tree = parse(page())
    ends = tree.all("span", **{"class": "ends"})[0]
    low, high = (int(end.text) for end in ends.children)
    dots = [
        float(dot.attributes["style"].removeprefix("left: ").removesuffix("%"))
        for dot in tree.all("span", **{"class": "dot"})
    ]
    shown = [low + dot / 100 * (high - low) for dot in dots]
    assert shown[:4] == pytest.approx([100 * model.accuracy for model in REPORT.models[:4]], abs=0.01)
    assert shown[4] == pytest.approx(statistics.fmean(100 * model.accuracy for model in REPORT.models[4:7]), abs=0.01)


def test_each_model_that_learned_has_a_panel_that_ends_at_its_last_accuracy() -> None:
    panels = {
        figure.all("strong")[0].text: figure for figure in parse(page()).all("figure") if "training loss" in figure.text
    }
    assert list(panels) == ["wide", "deep", "forest", "baseline", "student"]
    for name, panel in panels.items():
        last = statistics.fmean(100 * curve.points[-1].accuracy for curve in REPORT.curves if curve.model == name)
        assert f"{last:.1f}" in [text.text for text in panel.all("text")]


def test_calibration_and_agreement_stand_with_their_figures() -> None:
    tree = parse(page())
    captions = [caption.text for caption in tree.all("figcaption") if "ECE" in caption.text]
    for calibration, caption in zip(REPORT.calibrations, captions, strict=True):
        assert caption == f"{calibration.teacher} T = {calibration.temperature:.3f} ECE 0.071 → 0.019 NLL 0.279 → 0.224"
    rows = table(tree, "The student against")[1:]
    assert [row[1] for row in rows] == ["91.20", "91.60", "92.00", "96.73", "90.32"]
    assert [row[3] for row in rows] == ["0.231", "0.211", "0.191", "0.087", "0.313"]


def test_the_ensemble_without_each_teacher_stands_with_its_losses_and_gains() -> None:
    rows = table(parse(page()), "The ensemble without")
    assert rows[1:] == [
        ["wide", "50.00", "93.82", "-2.00", "0.215", "+0.060"],
        ["deep", "50.00", "96.22", "+0.40", "0.143", "-0.012"],
        ["forest unused", "0.00", "95.82", "0.00", "0.155", "0.000"],
    ]


def test_a_share_that_no_weight_tells_is_a_dash_and_a_vector_is_called_one() -> None:
    contributions = [found.model_copy(update={"share": None}) for found in REPORT.contributions]
    calibrations = [found.model_copy(update={"method": "vector"}) for found in REPORT.calibrations]
    tree = parse(render_page(make_report(contributions=contributions, calibrations=calibrations)))
    assert {row[1] for row in table(tree, "The ensemble without")[1:]} == {"\N{EN DASH}"}
    captions = [caption.text for caption in tree.all("figcaption") if "ECE" in caption.text]
    assert all(" vector, T = " in caption for caption in captions)


def test_steps_data_spec_environment_and_command_are_there() -> None:
    tree = parse(page())
    rows = table(tree, "Steps")[1:]
    assert rows[4] == ["5", "label wide", "label", "computed", "3.0", "4.4", "1,237", "4,106"]
    assert [row[1] for row in rows] == [step.name for step in REPORT.steps]
    facts = dict(zip([name.text for name in tree.all("dt")], [value.text for value in tree.all("dd")], strict=True))
    assert facts["training rows"] == "1,237, of which 200 with a label"
    assert facts["torch"] == "2.13.0"
    spec, command = tree.all("code")
    assert "".join(part for part in spec.parts if isinstance(part, str)) == SPEC
    assert command.text == REPORT.command
    assert "3,711 rows went through a teacher" in tree.text


def test_segments_of_the_bar_are_as_long_as_their_steps() -> None:
    (bar,) = parse(page()).all("div", **{"class": "stack"})
    lengths = [float(part.attributes["style"].removeprefix("flex-grow: ")) for part in bar.children]
    assert lengths == [step.seconds for step in REPORT.steps if step.seconds]


def test_images_are_the_pixels_of_the_record() -> None:
    images = parse(page()).all("img")
    assert len(images) == 12
    for sample, image in zip(REPORT.samples, images, strict=True):
        body = base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,"))
        decoded = Image.open(io.BytesIO(body))
        assert decoded.size == (8, 8)
        assert list(decoded.tobytes()) == [grey for row in sample.pixels or () for grey in row]


def bars(strip: Element) -> dict[int, float]:
    """Return height over full height by column, from the outlines of the bars."""
    full = int(strip.attributes["viewbox"].split()[3])
    outlines = "".join(path.attributes["d"] for path in strip.all("path") if path.attributes["class"] != "column")
    return {int(x) // 10: (full - float(y)) / full for x, y in re.findall(r"M(\d+) ([\d.]+)", outlines)}


def test_bars_are_as_high_as_the_probabilities() -> None:
    strips = parse(page()).all("svg", **{"class": "strip"})
    beliefs = [shares for sample in REPORT.samples for shares in sample.probabilities.values()]
    for shares, strip in zip(beliefs, strips, strict=True):
        shown = bars(strip)
        assert [shown.get(column, 0.0) for column in range(10)] == pytest.approx(shares, abs=0.005)


def test_a_wrong_guess_is_named_and_a_right_one_is_not() -> None:
    guesses = [cell.text for cell in parse(page()).all("td", **{"class": "guess"})]
    expected = []
    for sample in REPORT.samples:
        for shares in sample.probabilities.values():
            guess = shares.index(max(shares))
            expected.append("" if guess == sample.label else f"✗ {REPORT.data.classes[guess]}")
    assert guesses == expected
    assert "" in guesses
    assert any(guesses)


def test_of_many_classes_the_true_one_and_the_most_probable_have_columns() -> None:
    report = make_report(classes=[f"class {number}" for number in range(300)])
    for sample, card in zip(report.samples, cards(report), strict=True):
        assert len(card.columns) == MOST_CLASSES
        assert sample.label in card.columns
        highest = max(range(300), key=lambda number: max(shares[number] for shares in sample.probabilities.values()))
        assert highest in card.columns


def test_classes_with_names_of_their_own_are_explained_once() -> None:
    key = parse(render_page(make_report(classes=FASHION))).all("ol", **{"class": "key"})[0]
    assert [item.text for item in key.children] == [f"{number} {name}" for number, name in enumerate(FASHION)]
    assert parse(page()).all("ol", **{"class": "key"}) == []


@pytest.mark.parametrize(
    ("field", "heading"),
    [
        ("curves", "Learning curves"),
        ("calibrations", "Calibration"),
        ("contributions", "What each teacher adds"),
        ("agreements", "Agreement"),
        ("samples", "Soft labels"),
        ("warnings", "Warning"),
    ],
)
def test_a_section_without_matter_is_left_out(field: str, heading: str) -> None:
    without: dict[str, Any] = {field: ()}
    headings = [found.text for found in parse(render_page(make_report(**without))).all("h2")]
    assert heading not in headings
    assert "Models" in headings


def test_the_least_that_a_run_can_leave_still_makes_a_page() -> None:
    full = make_report(teachers=("only",), seeds=(0,), epochs=1)
    summary = full.summary.model_copy(
        update=dict.fromkeys(
            (
                "baseline_accuracy",
                "baseline_std",
                "gap_recovered",
                "compression",
                "teachers_lead",
                "teachers_lead_stderr",
            )
        )
    )
    idle = [step.model_copy(update={"seconds": 0.0}) for step in full.steps]
    models = [model.model_copy(update={"parameters": None}) for model in full.models if model.role != "baseline"]
    plain = [sample.model_copy(update={"pixels": None}) for sample in full.samples]
    changes: dict[str, Any] = {"summary": summary, "steps": idle, "models": models, "samples": plain, "environment": {}}
    tree = parse(render_page(make_report(teachers=("only",), seeds=(0,), epochs=1, **changes)))
    assert [row[0] for row in table(tree, "Every model")[1:]] == [
        "only teacher",
        "ensemble teachers fused",
        "student distilled",
    ]
    assert tree.all("img") == []
    assert tree.all("div", **{"class": "stack"}) == []


def test_equal_records_give_equal_pages_whatever_matplotlib_is_set_to() -> None:
    with matplotlib.rc_context({"font.size": 31, "axes.grid": True, "lines.linestyle": ":", "text.parse_math": True}):
        assert render_page(make_report(warnings=(WARNING,))) == page()


def many_of_everything() -> Report:
    return make_report(
        teachers=[f"teacher-{number}" for number in range(10)],
        seeds=range(5),
        classes=[f"class {number}" for number in range(1000)],
        epochs=300,
        num_samples=16,
        side=128,
    )


def test_a_page_of_many_models_classes_and_epochs_stays_below_a_mebibyte() -> None:
    assert len(render_page(many_of_everything()).encode()) < 2**20
