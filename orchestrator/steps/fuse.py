"""Fuse: several label sets into one, so that training reads one column instead of one for each teacher."""

import ray
import torch

from cluster.shards.codecs.dense import LOGITS
from cluster.shards.codecs.open import codec_of
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.storage.patience import open_patiently
from cluster.storage.protocol import ObjectStore
from cluster.tasks import result_of
from orchestrator.context import RunContext
from students.blend import fuse_rows, names_of
from students.ensembles.ensemble import Ensemble
from students.task import Targets
from teachers.outputs import figures_of, statistics_of


def fuse_labels(context: RunContext) -> None:
    """Write the fused label set if the job asks for one and it is not there."""
    record, targets = context.job.fused, context.job.fusion
    if record is None or targets is None:
        return
    planned = context.inspect().fuse(record)
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned) as account:
        fusing = [_fuse.remote(context.store.uri, seen, targets) for seen in context.job.seen(record)]
        account.rows = sum(map(result_of, fusing))


@ray.remote(num_cpus=1, max_retries=3)
def _fuse(store_uri: str, record: LabelSetRecord, targets: Targets) -> int:
    torch.set_num_threads(1)
    return write_fused(open_patiently(store_uri), record, targets)


def write_fused(store: ObjectStore, record: LabelSetRecord, targets: Targets) -> int:
    """Fuse every shard that is not committed, seal, and return the rows that were computed."""
    labels = LabelSet.create(store, record)
    ensemble = Ensemble.open(store, targets)
    teachers = [LogitsReader(LabelSet(store, part.labels.seen(record.view))) for part in ensemble.used(targets.parts)]
    names = ensemble.used(names_of(targets))
    dataset = Dataset.open(store, record.dataset)
    num_shards = len(dataset.record.shards)
    codec, rows = codec_of(record.codec, record.num_classes), 0
    for number in sorted(set(range(num_shards)) - labels.committed_numbers()):
        log_probs_KNC = ensemble.calibrated([teacher.read(number) for teacher in teachers])
        fused = fuse_rows(ensemble, targets.weighting, names, log_probs_KNC, dataset.read(number))
        body = labels.encode(codec.pack({LOGITS: fused.numpy()}))
        labels.commit(number, body, rows=len(fused), statistics=statistics_of(figures_of(fused)))
        rows += len(fused)
    labels.seal(num_shards)
    return rows
