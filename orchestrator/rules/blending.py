"""Whether what a job computes of each row still has a meaning where rows are blended with others."""

from collections.abc import Iterator, Sequence

from cluster.shards.views.spec import ViewsConfig
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.spec import FusionConfig


def unblendable(
    views: ViewsConfig | None,
    fusion: FusionConfig,
    objective: Sequence[TermConfig],
    cohort: CohortConfig | None,
    *,
    epochs: int,
) -> Iterator[str]:
    """Yield what reads the one label, number or column of a row that no longer has one, with the fields that say so.

    `epochs` are those of the student's training.
    """
    if views is None:
        return
    if not views.augment and not views.is_mixed:
        yield "data.views changes nothing; expected `augment`, `mixup` or `cutmix`, or no `views`"
    if not any(views.within(epochs)):
        yield (
            "data.views changes nothing: the first view is the rows as they are, count is "
            f"{views.count or 'not given'} and train.epochs is {epochs}, so there is no second; expected more, or no "
            "`plain_first`"
        )
    if not views.is_mixed:
        return
    blended = "data.views." + ("mixup" if views.mixup is not None else "cutmix")
    for term in objective:
        if term.needs_one_label:
            yield (
                f"objective: the term `{term.term}` reads one label of each row, and {blended} gives it two; expected "
                "`cross_entropy`, or a term that reads no labels, as `restricted_kl` does with `trust: all`"
            )
        if term.needs_rows:
            yield (
                f"objective: the term `{term.term}` remembers each row, and {blended} blends it with another in every "
                "view; expected another term"
            )
    if cohort is not None and cohort.reads_labels:
        yield (
            f"cohort: `{cohort.method}` reads one label of each row, and {blended} gives it two; expected a method "
            "that reads no labels, such as `dml`"
        )
    if fusion.weighting.reads & {"labels", "column"}:
        yield (
            f"fusion.weighting `{fusion.weighting.method}` reads the label or a column of each row, and {blended} "
            "blends it with another; expected a weighting that reads the teachers alone"
        )
