"""Teachers that know some of the data's classes: whether what a job makes of them has a meaning.

What a specialist says of a row of another class is noise, and nothing that it says tells which rows these are. So a
mean over specialists needs to be told (`weighting: routing`), a combination has to learn it (`stacking`,
`dawid_skene`), and a term takes a specialist's word among its own classes only (`restricted_kl`).
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from cluster.errors import SpecError
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.splits import entries_of
from orchestrator.spec import JobSpec
from students.weightings.routing import RoutingWeighting
from teachers.spec import TeacherConfig
from teachers.weights import own_classes


class UnlikeSpecialistsError(SpecError):
    """A job treats teachers that know some classes as if they knew all."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "; ".join(self.problems)


def classes_to_fit(teachers: Iterable[TeacherConfig], classes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the classes of every specialist that is fitted; raises `ClassMapError`."""
    fitted = (teacher for teacher in teachers if teacher.fit is not None)
    return [own for teacher in fitted if (own := own_classes(teacher.name, teacher.classes, classes))]


def check_specialists(spec: JobSpec, teachers: Iterable[ResolvedTeacher], classes: tuple[str, ...]) -> None:
    """Raise `UnlikeSpecialistsError` if a job asks for what teachers of some classes cannot give."""
    known = {teacher.config.name: teacher.train.classes for teacher in teachers}
    if not any(known.values()):
        return
    problems = [*_unfused(spec, known), *_misread(spec, known), *_untaught(spec, known, classes)]
    if problems:
        raise UnlikeSpecialistsError(tuple(dict.fromkeys(problems)))


def _unfused(spec: JobSpec, known: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield why the teachers cannot become one target."""
    fusion = spec.fusion
    name, own = next((name, own) for name, own in known.items() if own)
    if isinstance(fusion.weighting, RoutingWeighting):
        yield from _misrouted(fusion.weighting, known)
        if fusion.combine == "mean_logit":
            yield (
                f"fusion.combine is mean_logit, and teacher {name} gives classes that it does not know no probability: "
                "with others it leaves none to any class; expected mean_probability"
            )
        # One that has no route is a generalist: it is asked about every entry that no route names.
        if set(known) <= set(fusion.weighting.routes):
            yield from _unrouted(fusion.weighting, entries_of(spec.data, fusion.weighting.column))
    elif not fusion.has_tables:
        yield (
            f"fusion.combine is {fusion.combine}, and teacher {name} knows {len(own)} classes: what it says of rows of "
            "others is noise. Expected `stacking` or `dawid_skene`, which learn from the held-out rows whom to believe "
            "of which row, or mean_probability with `weighting: {method: routing, ...}`, if a column of the data tells "
            "it"
        )


def _misrouted(routing: RoutingWeighting, known: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield why a mean would mix what cannot be compared: on no row may teachers of other classes have a say."""
    if lost := [name for name, own in known.items() if own and name not in routing.routes]:
        yield (
            f"fusion.weighting.routes: teacher {lost[0]} knows {len(known[lost[0]])} classes and has no route; "
            "expected the entries of the column whose rows are of its classes"
        )
    for first, second in combinations(routing.routes, 2):
        both = set(routing.routes[first]) & set(routing.routes[second])
        if both and set(known.get(first, ())) != set(known.get(second, ())):
            yield (
                f"fusion.weighting.routes: rows of {min(both)} go to {first} and to {second}, which know other "
                "classes; expected an entry to go to one of them, or to teachers of the same classes"
            )


def _unrouted(routing: RoutingWeighting, entries: frozenset[int]) -> Iterator[str]:
    """Yield which entry of the column would be a question to everybody, though most know nothing of it."""
    if lost := sorted(entries.difference(*routing.routes.values())):
        yield (
            f"fusion.weighting.routes: no route names the entry {lost[0]} of the column {routing.column}, and no "
            "teacher is without a route to be asked about it; expected each entry in a route, or a teacher of all "
            "classes that has none"
        )


def _misread(spec: JobSpec, known: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield which terms cannot read what they would be given."""
    is_routed = isinstance(spec.fusion.weighting, RoutingWeighting)
    for term in spec.objective:
        if "sparse" in term.reads:
            yield (
                f"objective: the term `{term.term}` reads labels over all classes as they are stored; expected "
                "`restricted_kl` with `of`, which reads those of a specialist"
            )
        elif term.of is not None and known.get(term.of) and not term.takes_specialists:
            yield (
                f"objective: the term `{term.term}` is of {term.of}, which knows {len(known[term.of])} classes and "
                "gives the others no probability; expected `restricted_kl`, or a term of all teachers"
            )
        elif term.of is None and is_routed and term.needs_every_class:
            yield (
                f"objective: the term `{term.term}` needs a probability of every class, and a row that is routed to a "
                "specialist has none of the others; expected another term, such as `kl`"
            )


def _untaught(spec: JobSpec, known: Mapping[str, tuple[str, ...]], classes: tuple[str, ...]) -> Iterator[str]:
    """Yield the classes of which neither teachers nor labels would tell the student."""
    if not all(known.values()) or any("labels" in term.reads for term in spec.objective):
        return
    if missing := [name for name in classes if not any(name in own for own in known.values())]:
        yield (
            f"teachers: none knows the class {missing[0]!r}, and no term reads labels, so the student would never "
            "learn it; expected a teacher that does, or the term `cross_entropy`"
        )
