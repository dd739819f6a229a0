"""Did it pay? One sentence, for the page and for the terminal."""

from orchestrator.report.groups import model_groups
from orchestrator.report.notation import count, percent, ratio
from orchestrator.report.record import Report, Summary

_MANY_TIMES = 2
"""From here on a difference in size is told as a factor, below it as a percentage."""


def verdict(report: Report) -> str:
    """Return one sentence that says whether distillation paid, with the figures that say so.

    It claims a difference only where that exceeds the standard deviation between seeds and the error of the test rows.
    """
    summary = report.summary
    deeds = [*_recovery(summary), *_compression(report), *_speed(report)]
    parts = [f"{_judgement(summary)}: {_accuracies(report)}"]
    can_recover = summary.baseline_accuracy is not None and summary.ensemble_accuracy is not None
    if can_recover and summary.gap_recovered is None:
        parts.append("the ensemble is no better than the lone student, so there is no gap to recover")
    if deeds:
        parts.append(f"the student {_listed(deeds)}")
    return "; ".join(parts) + "."


def _judgement(summary: Summary) -> str:
    match summary.clear_gain:
        case None:
            return "Not compared with a lone student"
        case 0.0:
            return "No clear difference"
        case gain:
            return "Distillation paid" if gain > 0 else "Distillation did not pay"


def _accuracies(report: Report) -> str:
    summary = report.summary
    seeds = sum(model.role == "student" for model in report.models)
    subjects = [
        f"the student is right on {percent(summary.student_accuracy)} of {count(report.data.test_rows)} test rows"
    ]
    subjects[0] += f" (mean of {seeds} seeds)" if seeds > 1 else " (one seed)"
    if summary.baseline_accuracy is not None:
        lone = "the same student"
        if any(cohort.is_other_model for cohort in report.cohorts):
            lone = "the student as the job names it, which is another model,"
        subjects.append(f"{lone} trained {_alone(summary)} on {percent(summary.baseline_accuracy)}")
    if summary.ensemble_accuracy is not None:
        subjects.append(f"the ensemble on {percent(summary.ensemble_accuracy)}")
    return _listed(subjects)


def _alone(summary: Summary) -> str:
    return "on the same labels alone" if summary.ensemble_accuracy is None else "without teachers"


def _recovery(summary: Summary) -> list[str]:
    match summary.gap_recovered:
        case None:
            return []
        case gap if gap > 1:
            return [f"goes beyond the ensemble ({percent(gap, 0)} of the gap)"]
        case gap if gap > 0:
            return [f"recovers {percent(gap, 0)} of the gap between those two"]
        case _:
            return ["recovers none of the gap between those two"]


def _compression(report: Report) -> list[str]:
    compression = report.summary.compression
    if compression is None:
        return []
    return [f"has {_compared(compression)} {_teachers_counted(report)}"]


def _compared(compression: float) -> str:
    word, times = ("fewer", compression) if compression > 1 else ("more", 1 / compression)
    if times >= _MANY_TIMES:
        return f"{ratio(times)} times {word} parameters than"
    share = abs(1 - 1 / compression)
    return f"{percent(share, 0)} {word} parameters than" if share >= 0.005 else "as many parameters as"


def _teachers_counted(report: Report) -> str:
    """Say whose parameters those of the ensemble are: a selection leaves some teachers out."""
    used = sum(one.share != 0 for one in report.contributions)
    if used == len(report.contributions):
        return "the teachers together"
    return "the one teacher in use" if used == 1 else f"the {used} teachers in use together"


def _speed(report: Report) -> list[str]:
    latency_ms = {group.role: group.mean("latency_ms") for group in model_groups(report)}
    ensemble_ms, student_ms = latency_ms.get("ensemble", 0.0), latency_ms.get("student", 0.0)
    if not (ensemble_ms and student_ms):
        return []
    if student_ms > ensemble_ms:
        return [f"answers {ratio(student_ms / ensemble_ms)} times slower than the ensemble"]
    return [f"answers {ratio(ensemble_ms / student_ms)} times faster than the ensemble"]


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
