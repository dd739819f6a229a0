"""In which views a job saw its training rows: two sentences, for the page and for the terminal."""

from orchestrator.report.notation import count
from orchestrator.report.record import Report, ViewsSummary


def views_sentence(report: Report) -> str | None:
    """Return in which views training rows were seen, and which lone student was the best; None without views."""
    if report.views is None:
        return None
    seeds = [model.seed for model in report.models if model.role == "baseline" and model.seed is not None]
    said = f"Training rows were seen in {count(report.views.number)} view(s): {', '.join(report.views.changes)}."
    return f"{said} {_lone(report.views, seeds)}" if seeds else said


def _lone(views: ViewsSummary, seeds: list[int]) -> str:
    told = "The lone student did best on the held-out rows"
    if not views.lone_in_views:
        return f"{told} when it was trained on plain rows."
    if set(views.lone_in_views) == set(seeds):
        return f"{told} when it was trained in views too."
    among = ", ".join(str(seed) for seed in views.lone_in_views)
    return f"{told} when it was trained in views too with seed(s) {among}, and on plain rows with others."
