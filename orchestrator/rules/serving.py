"""Whether stored labels hold what a job asks of them: a codec that keeps some classes is exact at some temperatures."""

from collections.abc import Iterator, Sequence

from cluster.shards.codecs.spec import TopKConfig, listed
from students.objectives.catalogue import TermConfig
from students.objectives.sparse_kl import SparseKLTerm
from students.spec import FusionConfig
from students.weightings.gradient import GradientWeighting
from teachers.spec import TeacherConfig

_OF_VOTES = ("vote", "dawid_skene")
"""Combinations that read nothing but the likeliest class, which is the same at every temperature."""


def unserved(teachers: Sequence[TeacherConfig], fusion: FusionConfig, objective: Sequence[TermConfig]) -> Iterator[str]:
    """Yield what is asked of teachers' labels that they will not hold, with the fields that say so."""
    yield from _of_sparse_terms(teachers, fusion, objective)
    terms = [term for term in objective if term.reads & {"target", "sparse"}]
    asked = sorted({term.target_temperature for term in terms if term.target_temperature is not None})
    changing = [term.term for term in terms if term.target_temperature is None]
    for teacher in teachers:
        served, theirs = teacher.labels.served, f"the `{teacher.labels.codec}` labels of teacher {teacher.name}"
        if served is None:
            continue
        if fusion.calibration is not None:
            yield (
                f"fusion.calibrate is {fusion.calibrate}, and {theirs} are exact at {listed(served)} only, not at a "
                "fitted temperature; expected fusion.calibrate: none, or labels of codec `dense` or `hidden`"
            )
        yield from _of_combining(theirs, fusion, codec=teacher.labels.codec)
        if teacher.labels.codec == "sampled":
            yield from _of_draws(theirs, fusion, terms, num_teachers=len(teachers))
        yield from _of_weighting(theirs, fusion, served, asked)
        if changing:
            yield (
                f"objective: the temperature of term `{changing[0]}` follows a schedule, and {theirs} are exact at "
                f"{listed(served)} only; expected a number"
            )
        for temperature in asked:
            if temperature not in served:
                yield (
                    f"objective: a term has temperature {temperature:g}, and {theirs} are exact at "
                    f"{listed(served)} only; expected one of these, or labels that serve it"
                )
        if len(asked) > 1:
            yield f"objective: terms have temperatures {listed(tuple(asked))}; with {theirs} expected one for all"
        if asked == [1.0]:
            continue
        if fusion.when == "write" and fusion.combine not in _OF_VOTES:
            yield f"fusion.when is write, which fuses at temperature 1; with {theirs} expected `read`, or terms at 1"
        if fusion.combine == "mean_probability" and len(teachers) > 1 and any(term.of is None for term in terms):
            yield (
                "fusion.combine is mean_probability, whose tempered form needs every class of every teacher, which "
                f"{theirs} do not hold; expected mean_logit, or terms at temperature 1"
            )


def _of_combining(theirs: str, fusion: FusionConfig, *, codec: str) -> Iterator[str]:
    """Yield what a way to combine reads of each teacher that labels of some classes do not hold."""
    if fusion.combine == "stacking":
        yield (
            f"fusion.combine is stacking, which reads the probability of every class, and {theirs} do not hold them; "
            "expected labels of codec `dense` or `hidden`, or another way to combine"
        )
    if fusion.combine in _OF_VOTES and codec == "sampled":
        yield (
            f"fusion.combine is {fusion.combine}, which reads each teacher's likeliest class, and {theirs} hold draws, "
            "of which the most frequent may be another; expected mean_probability, or labels of another codec"
        )


def _of_sparse_terms(
    teachers: Sequence[TeacherConfig], fusion: FusionConfig, objective: Sequence[TermConfig]
) -> Iterator[str]:
    """Yield what keeps a term from reading the labels of one teacher as they are stored."""
    terms = [term for term in objective if isinstance(term, SparseKLTerm)]
    if not terms:
        return
    if len(teachers) > 1:
        yield (
            f"objective: the term `sparse_kl` reads labels as one teacher wrote them, and there are {len(teachers)} "
            "teachers; expected one, or the term `kl`, which reads what is fused of them"
        )
    if fusion.when == "write":
        yield "fusion.when is write, and the term `sparse_kl` reads labels as the teacher wrote them; expected `read`"
    for teacher in teachers:
        if not isinstance(teacher.labels, TopKConfig):
            yield (
                f"objective: the term `sparse_kl` reads the likeliest classes and the mass of the others, and the "
                f"labels of teacher {teacher.name} are of codec `{teacher.labels.codec}`; expected `topk`, or the term "
                "`kl`"
            )
        elif teacher.labels.tail_samples == 0 and any(term.tail == "sampled" for term in terms):
            yield (
                f"objective: a term has tail: sampled, and the labels of teacher {teacher.name} hold no draws; "
                "expected labels.tail_samples above 0, or another tail"
            )


def _of_weighting(
    theirs: str, fusion: FusionConfig, served: tuple[float, ...], asked: Sequence[float]
) -> Iterator[str]:
    """Yield what the weighting asks of labels that are exact at some temperatures only."""
    weighting = fusion.weighting
    if weighting.needs_every_class:
        yield (
            f"fusion.weighting is `{weighting.method}`, which needs the probability of every class, and {theirs} hold "
            "some; expected another weighting, or labels of codec `dense` or `hidden`"
        )
    if isinstance(weighting, GradientWeighting) and [weighting.temperature] != asked:
        yield (
            f"fusion.weighting.temperature is {weighting.temperature:g}, and {theirs} are exact at {listed(served)} "
            "only, read at one for all; expected that of the terms"
        )


def _of_draws(theirs: str, fusion: FusionConfig, terms: Sequence[TermConfig], *, num_teachers: int) -> Iterator[str]:
    """Yield what goes wrong where classes that were not drawn have no probability at all."""
    for term in terms:
        if term.needs_every_class:
            yield (
                f"objective: the term `{term.term}` needs a probability of every class, and {theirs} give none to "
                "classes that were not drawn; expected another term, or labels of another codec"
            )
    if fusion.combine == "mean_logit" and num_teachers > 1:
        yield (
            f"fusion.combine is mean_logit, which keeps only classes that every teacher finds possible, and {theirs} "
            "hold only those that were drawn; expected mean_probability"
        )
