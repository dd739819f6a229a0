"""What a user says of generations: the student's model trained anew, again and again, each time by the one before.

Born-again networks (Furlanello et al. 2018, 1805.04770). With z_g the logits of generation g,

    L_g = Σ_t w_t L_t(z_g, y, p_(g-1)),   p_(g-1) = softmax(z_(g-1)),   or the mean over all generations so far

Generation 0 learns by the job's `objective`, from its teachers if there are any. What a generation says of the training
rows is labelled before the next one begins, with other initial weights and the same schedule. The last one is the
student.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cluster.config import Config
from cluster.resources import ResourceConfig
from students.cohorts.catalogue import CohortConfig
from students.objectives.catalogue import TermConfig
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.kl import KLTerm
from teachers.spec import ReplicaRange


class GenerationsConfig(Config):
    """How often the student is born again, and what each generation learns from the one before (1805.04770)."""

    count: Annotated[int, Field(ge=2, le=100)] = 3
    """Generations in all; the last one is the student, the others teach."""
    objective: Annotated[tuple[TermConfig, ...], Field(min_length=1)] = (
        KLTerm(weight=0.5),
        CrossEntropyTerm(weight=0.5),
    )
    """What every generation but the first minimises; what it reads of teachers is what the generations before say."""
    target: Literal["previous", "mean"] = "previous"
    """Whom a generation learns from: the one before, or the mean of the distributions of all before."""
    replicas: Annotated[int, Field(ge=1)] | ReplicaRange = 1
    """Copies of a generation that label side by side."""
    resources: ResourceConfig = ResourceConfig()
    """What each of them reserves."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the generations before the student."""
        return tuple(f"generation-{number}" for number in range(self.count - 1))


def unborn(generations: GenerationsConfig, cohort: CohortConfig | None) -> Iterator[str]:
    """Yield what keeps a generation from learning from the labels of the one before."""
    if cohort is not None:
        yield (
            "generations: what comes of a cohort may be another member, or several fused, and a generation that "
            "labels is the student's model; expected `generations` or `cohort`, not both"
        )
    if not any("target" in term.reads for term in generations.objective):
        yield (
            "generations.objective: no term reads what the generation before says; expected at least one that does, "
            "such as `kl`"
        )
    for term in generations.objective:
        if term.of is not None:
            yield (
                f"generations.objective: the term `{term.term}` is `of` {term.of}, and a generation learns from those "
                "before it alone; leave `of` out"
            )
        if term.takes_specialists:
            yield (
                f"generations.objective: the term `{term.term}` reads a teacher of some classes, and generations know "
                "them all; expected `kl`"
            )
        if "sparse" in term.reads:
            yield (
                f"generations.objective: the term `{term.term}` reads the likeliest classes as a teacher wrote them, "
                "and generations write every logit; expected `kl`"
            )
        if "taps" in term.reads:
            yield (
                f"generations.objective: the term `{term.term}` reads outputs of modules, which generations do not "
                "store; expected terms that read outputs alone, such as `kl`"
            )
