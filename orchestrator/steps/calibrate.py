"""Calibrate: one temperature for each teacher, from its labels of the held-out rows."""

import numpy as np

from cluster.shards.calibration import calibration_key
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet
from cluster.shards.logits import LogitsReader
from cluster.shards.records import publish_record
from cluster.shards.schema import LABEL
from orchestrator.context import RunContext
from teachers.calibration import calibrate


def calibrate_teachers(context: RunContext) -> None:
    """Fit the temperatures that are not there."""
    if not context.job.spec.fusion.calibrate:
        return
    for teacher in context.job.teachers:
        planned = context.inspect().calibrate(teacher)
        if planned.state == "done":
            context.reused(planned)
            continue
        with context.step(planned) as account:
            dataset = Dataset.open(context.store, teacher.held_out.dataset)
            labels = LogitsReader(LabelSet(context.store, teacher.held_out))
            logits = np.concatenate([labels.read(number) for number in range(len(dataset.record.shards))])
            truth = np.concatenate([arrays[LABEL] for arrays in dataset])
            record = calibrate(teacher.config.name, logits, truth)
            publish_record(context.store, calibration_key(teacher.held_out), record)
            account.rows = len(truth)
