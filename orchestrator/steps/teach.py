"""Labelling and training, one after the other or, where the cluster has room for both, at the same time."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from ray.serve.handle import DeploymentHandle

from cluster.daemons import aside
from cluster.session import Capacity
from orchestrator.context import RunContext
from orchestrator.planning.placement import Placement
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.steps.calibrate import calibrate_teachers
from orchestrator.steps.follow import await_labels
from orchestrator.steps.fuse import fuse_labels
from orchestrator.steps.label import Labelling
from orchestrator.steps.train import Training, trainings
from teachers.hosting import hosted, release


def label_and_train(context: RunContext, capacity: Capacity) -> None:
    """Have every missing shard labelled and every student trained."""
    if context.inspect().awaits_selection:
        _label_for_selection(context, context.inspect().place(capacity))
    missing = _missing(context, context.job.teachers)
    placement = context.inspect().place(capacity)
    training, *later = _trainings(context, placement)
    if placement.pipelined:
        context.said(f"training follows the labels as they arrive: {placement.because}")
        _together(context, missing, training)
    else:
        _one_after_the_other(context, missing, training, placement)
    _train_generations(context, later)


def label(context: RunContext, capacity: Capacity) -> None:
    """Have every missing shard labelled that a teacher of the spec is asked for, and train nobody."""
    if context.inspect().awaits_selection:
        _label_for_selection(context, context.inspect().place(capacity, "teachers"))
    _label_in_waves(context, _missing(context, context.job.teachers), context.inspect().place(capacity, "teachers"))


def train_elsewhere(context: RunContext, capacity: Capacity) -> None:
    """Have every student trained from labels that another run writes, now or before, on a cluster of its own.

    Training begins when the held-out rows are labelled, and follows the others shard by shard.

    Raises:
        LabelsLateError: labels stopped arriving.
    """
    teachers = context.job.teachers
    await_labels(context, [teacher.held_out for teacher in teachers])
    calibrate_teachers(context)
    if context.job.fused is not None:
        _await_all(context)
        fuse_labels(context)
    training, *later = _trainings(context, context.inspect().place(capacity, "student"))
    asyncio.run(training.run())
    _train_generations(context, later)
    _await_all(context)
    for teacher in teachers:
        if teacher.fit is not None:
            context.reused(context.inspect().fit(teacher.fit))


def _await_all(context: RunContext) -> None:
    await_labels(context, [record for teacher in context.job.teachers for record in context.inspect().needed(teacher)])
    _missing(context, context.job.teachers)  # seals what is complete, and accounts for it


def _trainings(context: RunContext, placement: Placement) -> list[Training]:
    if placement.members is not None:
        context.said(f"members of the cohort train {placement.members}: {placement.members_because}")
    return trainings(context, side_by_side=placement.members == "side by side")


def _train_generations(context: RunContext, later: Sequence[Training]) -> None:
    for generation, training in zip(context.job.generations, later, strict=True):
        _label_side_by_side(context, _missing(context, [generation]))
        asyncio.run(training.run())


def _label_for_selection(context: RunContext, placement: Placement) -> None:
    _label_in_waves(context, _missing(context, context.job.teachers), placement)
    calibrate_teachers(context)


def _missing(context: RunContext, teachers: Sequence[ResolvedTeacher]) -> list[Labelling]:
    """Return what is left to be labelled, as far as it is known that anybody needs it."""
    labellings = [Labelling(context, teacher) for teacher in teachers]
    for labelling in labellings:
        labelling.seal_complete()
        if not labelling.needs_teacher:
            context.reused(context.inspect().label(labelling.teacher))
    return [labelling for labelling in labellings if labelling.needs_teacher]


def _one_after_the_other(
    context: RunContext, missing: Sequence[Labelling], training: Training, placement: Placement
) -> None:
    _label_in_waves(context, missing, placement)
    calibrate_teachers(context)
    fuse_labels(context)
    asyncio.run(training.run())


def _label_in_waves(context: RunContext, missing: Sequence[Labelling], placement: Placement) -> None:
    by_name = {labelling.teacher.config.name: labelling for labelling in missing}
    for wave in placement.waves:
        _label_side_by_side(context, [by_name[config.name] for config in wave])


def _together(context: RunContext, missing: Sequence[Labelling], training: Training) -> None:
    async def train_when_calibrated() -> None:
        for labelling in missing:
            await labelling.held_out_labelled.wait()
        await aside(partial(calibrate_teachers, context))
        await training.run()

    async def both() -> None:
        await asyncio.gather(_label(missing, handles), train_when_calibrated())

    with _hosted(context, missing) as handles:
        asyncio.run(both())


def _label_side_by_side(context: RunContext, labellings: Sequence[Labelling]) -> None:
    if labellings:
        with _hosted(context, labellings) as handles:
            asyncio.run(_label(labellings, handles))


def _hosted(
    context: RunContext, labellings: Sequence[Labelling]
) -> AbstractContextManager[dict[str, DeploymentHandle]]:
    setups = [labelling.prepare() for labelling in labellings]
    return hosted(setups, start_timeout_s=context.job.spec.cluster.start_timeout_s)


async def _label(labellings: Sequence[Labelling], handles: Mapping[str, DeploymentHandle]) -> None:
    async def label_and_release(labelling: Labelling) -> None:
        handle = handles[labelling.teacher.config.name]
        await labelling.run(handle)
        # Not at the end of a training that follows: whatever the teacher holds, others may be waiting for.
        release(handle)

    await asyncio.gather(*map(label_and_release, labellings))
