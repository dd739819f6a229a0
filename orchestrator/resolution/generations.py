"""The generations of a job: trainings of the student's model that label, one after the other, up to the student."""

from orchestrator.resolution.labellers import ResolvedTeacher, labeller
from orchestrator.resolution.splits import DatasetIds
from orchestrator.resolution.trainings import Lesson, student_task
from orchestrator.rules.rebirth import GenerationsConfig
from orchestrator.spec import JobSpec
from students.task import Target, Targets
from teachers.spec import FitConfig, TeacherConfig

_SEEDS = 2**31
"""Seeds of students are below. A generation that draws the weights of its teacher would begin where that one began."""


def resolve_generations(
    spec: JobSpec, lesson: Lesson, datasets: DatasetIds, *, num_classes: int
) -> tuple[tuple[ResolvedTeacher, ...], Lesson]:
    """Return the generations before the student, and what the student learns from; the first learns from `lesson`."""
    found: list[ResolvedTeacher] = []
    if spec.generations is None:
        return (), lesson
    for number, name in enumerate(spec.generations.names):
        seed = (number + 1) * _SEEDS + spec.train.seeds[0]
        task = student_task(spec, datasets, lesson, name=f"{spec.student.name}-{name}", seed=seed)
        config = _config(spec, spec.generations, name)
        found.append(labeller(spec, config, datasets, num_classes=num_classes, fit=task))
        heard = found if spec.generations.target == "mean" else found[-1:]
        lesson = Lesson(spec.generations.objective, targets=_mean(heard))
    return tuple(found), lesson


def _config(spec: JobSpec, generations: GenerationsConfig, name: str) -> TeacherConfig:
    """Return the student as a teacher; how it is trained says its task."""
    return TeacherConfig(
        name=name,
        model=spec.student.model,
        arguments=spec.student.arguments,
        inputs=spec.student.inputs,
        fit=FitConfig(),
        replicas=generations.replicas,
        resources=generations.resources,
    )


def _mean(teachers: list[ResolvedTeacher]) -> Targets:
    parts = tuple(Target(labels=teacher.train, weight=1.0) for teacher in teachers)
    return Targets(combine="mean_probability", parts=parts)
