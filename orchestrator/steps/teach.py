"""Labelling and training, one after the other or, where the cluster has room for both, at the same time."""

import asyncio
from collections.abc import Mapping, Sequence

from ray.serve.handle import DeploymentHandle

from cluster.session import Capacity
from orchestrator.context import RunContext
from orchestrator.labellers import ResolvedTeacher
from orchestrator.placement import Placement
from orchestrator.steps.calibrate import calibrate_teachers
from orchestrator.steps.fuse import fuse_labels
from orchestrator.steps.label import Labelling
from orchestrator.steps.train import Training, trainings
from teachers.hosting import hosted, release


def label_and_train(context: RunContext, capacity: Capacity) -> None:
    """Have every missing shard labelled and every student trained."""
    missing = _missing(context, context.job.teachers)
    training, *later = trainings(context)
    placement = context.inspect().place(capacity)
    if placement.pipelined:
        context.said(f"training follows the labels as they arrive: {placement.because}")
        _together(context, missing, training)
    else:
        _one_after_the_other(context, missing, training, placement)
    for generation, training in zip(context.job.generations, later, strict=True):
        _label_side_by_side(_missing(context, [generation]))
        asyncio.run(training.run())


def _missing(context: RunContext, teachers: Sequence[ResolvedTeacher]) -> list[Labelling]:
    """Return what teachers still have to label, and account for what they have."""
    labellings = [Labelling(context, teacher) for teacher in teachers]
    for labelling in labellings:
        labelling.seal_complete()
        if not labelling.needs_teacher:
            context.reused(context.inspect().label(labelling.teacher))
    return [labelling for labelling in labellings if labelling.needs_teacher]


def _one_after_the_other(
    context: RunContext, missing: Sequence[Labelling], training: Training, placement: Placement
) -> None:
    by_name = {labelling.teacher.config.name: labelling for labelling in missing}
    for wave in placement.waves:
        _label_side_by_side([by_name[config.name] for config in wave])
    calibrate_teachers(context)
    fuse_labels(context)
    asyncio.run(training.run())


def _together(context: RunContext, missing: Sequence[Labelling], training: Training) -> None:
    async def train_when_calibrated() -> None:
        for labelling in missing:
            await labelling.held_out_labelled.wait()
        calibrate_teachers(context)
        await training.run()

    async def both() -> None:
        await asyncio.gather(_label(missing, handles), train_when_calibrated())

    with hosted([labelling.prepare() for labelling in missing]) as handles:
        asyncio.run(both())


def _label_side_by_side(labellings: Sequence[Labelling]) -> None:
    if labellings:
        with hosted([labelling.prepare() for labelling in labellings]) as handles:
            asyncio.run(_label(labellings, handles))


async def _label(labellings: Sequence[Labelling], handles: Mapping[str, DeploymentHandle]) -> None:
    async def label_and_release(labelling: Labelling) -> None:
        handle = handles[labelling.teacher.config.name]
        await labelling.run(handle)
        # Not at the end of a training that follows: whatever the teacher holds, others may be waiting for.
        release(handle)

    await asyncio.gather(*map(label_and_release, labellings))
