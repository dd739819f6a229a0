"""The model that a training has left, without its weights."""

from torch import nn

from cluster.modules import build_module
from students.cohorts.fused import Fused
from students.cohorts.method import FIRST, FUSED, OnlineMethod
from students.cohorts.sharing import Sharing
from students.task import TrainedRecord, TrainingTask


def build_trained(task: TrainingTask, record: TrainedRecord) -> nn.Module:
    """Return the student, or the member of the cohort that is exported, or all of them as one."""
    models = {FIRST: task.model} | {peer.name: peer.model for peer in task.peers}
    if record.exported != FUSED:
        return build_module(models[record.exported or FIRST])
    modules = [build_module(model) for model in models.values()]
    shared = task.cohort.shared_modules if isinstance(task.cohort, OnlineMethod) else ()
    return Fused(modules, Sharing(modules, shared))
