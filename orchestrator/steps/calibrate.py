"""Calibrate each teacher, and learn how to combine them, from their labels of the held-out rows."""

import numpy as np

from cluster.shards.calibration import Method, calibration_key, calibration_of
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.records import publish_record
from cluster.shards.schema import LABEL
from orchestrator.context import RunContext
from orchestrator.resolution.labellers import ResolvedTeacher
from students.ensembles.learn import learn
from students.task import Targets
from teachers.calibration import calibrate


def calibrate_teachers(context: RunContext) -> None:
    """Fit the calibrations that are not there, and then how the teachers are combined, if that is learned."""
    if (method := context.job.spec.fusion.calibration) is not None:
        for teacher in context.job.teachers:
            _calibrate(context, teacher, method)
    targets = context.job.fusion
    if targets is not None and targets.ensemble is not None:
        _combine(context, targets, targets.ensemble)


def _calibrate(context: RunContext, teacher: ResolvedTeacher, method: Method) -> None:
    planned = context.inspect().calibrate(teacher, method)
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned) as account:
        logits, truth = _held_out(context, teacher)
        record = calibrate(teacher.config.name, logits, truth, method=method)
        publish_record(context.store, calibration_key(teacher.held_out, method), record)
        account.rows = len(truth)


def _combine(context: RunContext, targets: Targets, key: str) -> None:
    planned = context.inspect().combine(key)
    if planned.state == "done":
        context.reused(planned)
        return
    job = context.job
    with context.step(planned) as account:
        calibrations = [calibration_of(context.store, part.calibration) for part in targets.parts]
        held_out = [_held_out(context, teacher) for teacher in job.teachers]
        logits = [fitted.apply(raw) for fitted, (raw, _) in zip(calibrations, held_out, strict=True)]
        names, truth = [teacher.config.name for teacher in job.teachers], held_out[0][1]
        record = publish_record(context.store, key, learn(job.spec.fusion, names, logits, truth))
        account.rows = len(truth)
    if record.unused:
        context.said(f"{planned.name}: {', '.join(record.unused)} would add nothing on the held-out rows: left out")


def _held_out(context: RunContext, teacher: ResolvedTeacher) -> tuple[np.ndarray, np.ndarray]:
    """Return a teacher's logits `[N, C]` of the held-out rows, and the labels of these."""
    dataset = Dataset.open(context.store, teacher.held_out.dataset)
    labels = LogitsReader(LabelSet(context.store, teacher.held_out))
    logits = np.concatenate([labels.read(number) for number in range(len(dataset.record.shards))])
    return logits, np.concatenate([arrays[LABEL] for arrays in dataset])
