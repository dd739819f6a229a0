"""The verdict says what the figures say, and no more."""

import pytest

from orchestrator.report.record import CohortResult, Contribution, Report, Summary
from orchestrator.report.verdict import verdict
from tests.orchestrator.report.records import make_report


def report_with(**figures: float | None) -> Report:
    known = make_report(num_samples=0, epochs=1).summary.model_dump()
    return make_report(num_samples=0, epochs=1, summary=Summary.model_validate(known | figures))


def test_the_verdict_names_student_baseline_ensemble_gap_size_and_speed() -> None:
    report = report_with(
        student_accuracy=0.9446,
        baseline_accuracy=0.9128,
        ensemble_accuracy=0.9582,
        gap_recovered=0.7004,
        compression=37.6,
    )
    assert verdict(report) == (
        "Distillation paid: the student is right on 94.5 % of 500 test rows (mean of 3 seeds), the same student "
        "trained without teachers on 91.3 % and the ensemble on 95.8 %; the student recovers 70 % of the gap between "
        "those two, has 38 times fewer parameters than the 2 teachers in use together and answers 30 times faster than "
        "the ensemble."
    )


@pytest.mark.parametrize("is_other_model", [True, False])
def test_a_lone_student_is_called_the_same_only_if_it_is_of_the_model_that_is_exported(is_other_model: bool) -> None:
    cohort = CohortResult(
        seed=0, method="dml", members=(), exported="conv", because="best", is_other_model=is_other_model
    )
    text = verdict(report_with().model_copy(update={"cohorts": (cohort,)}))
    assert ("the same student trained" in text) is not is_other_model
    assert ("which is another model, trained" in text) is is_other_model


@pytest.mark.parametrize(
    ("student", "baseline", "spread", "judgement"),
    [
        (0.95, 0.90, 0.01, "Distillation paid:"),
        (0.90, 0.95, 0.01, "Distillation did not pay:"),
        (0.95, 0.94, 0.02, "No clear difference:"),
        (0.94, 0.95, 0.02, "No clear difference:"),
        (0.95, 0.95, 0.0, "No clear difference:"),
    ],
)
def test_a_difference_is_claimed_only_beyond_the_spread_of_the_seeds(
    student: float, baseline: float, spread: float, judgement: str
) -> None:
    figures = {"student_accuracy": student, "baseline_accuracy": baseline}
    assert verdict(report_with(**figures, student_std=spread, baseline_std=0.0)).startswith(judgement)
    assert verdict(report_with(**figures, student_std=0.0, baseline_std=spread)).startswith(judgement)


def test_without_a_baseline_nothing_is_said_about_what_the_teachers_added() -> None:
    text = verdict(report_with(baseline_accuracy=None, baseline_std=None, gap_recovered=None))
    assert text.startswith("Not compared with a lone student:")
    assert "gap" not in text
    assert "without teachers" not in text


def test_an_ensemble_no_better_than_the_lone_student_leaves_no_gap() -> None:
    assert "there is no gap to recover" in verdict(report_with(gap_recovered=None))


@pytest.mark.parametrize(
    ("gap", "words"),
    [(1.14, "goes beyond the ensemble (114 % of the gap)"), (0.5, "recovers 50 % of the gap"), (-0.2, "recovers none")],
)
def test_the_gap_is_told_from_beyond_to_none(gap: float, words: str) -> None:
    assert words in verdict(report_with(gap_recovered=gap))


def test_a_student_that_is_larger_and_slower_is_said_to_be() -> None:
    report = report_with(compression=0.5)
    slow = tuple(
        model.model_copy(update={"latency_ms": 3.0 if model.role == "student" else 1.5}) for model in report.models
    )
    text = verdict(report.model_copy(update={"models": slow}))
    assert "2.0 times more parameters" in text
    assert "2.0 times slower than the ensemble" in text


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        (2.0, "has 2.0 times fewer parameters than"),
        (1.25, "has 20 % fewer parameters than"),
        (1.0, "has as many parameters as"),
        (0.8, "has 25 % more parameters than"),
        (0.5, "has 2.0 times more parameters than"),
    ],
)
def test_a_small_difference_in_size_is_a_percentage(compression: float, words: str) -> None:
    assert f"{words} the" in verdict(report_with(compression=compression))


@pytest.mark.parametrize(
    ("shares", "whose"),
    [
        ((0.5, 0.2, 0.3), "than the teachers together"),
        ((None, None, None), "than the teachers together"),
        ((0.6, 0.0, 0.4), "than the 2 teachers in use together"),
        ((0.0, 1.0, 0.0), "than the one teacher in use and"),
    ],
)
def test_the_size_is_compared_with_that_of_the_teachers_in_use(shares: tuple[float | None, ...], whose: str) -> None:
    found = tuple(
        Contribution(teacher=name, share=share, accuracy=0.9, nll=0.3)
        for name, share in zip(("wide", "deep", "mlp"), shares, strict=True)
    )

    for compression in (0.5, 10.0):
        report = report_with(compression=compression).model_copy(update={"contributions": found})
        assert whose in verdict(report)


def test_one_seed_is_called_one_seed() -> None:
    assert "(one seed)" in verdict(make_report(seeds=(0,), num_samples=0, epochs=1))
