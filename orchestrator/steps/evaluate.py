"""Evaluate: every model on the test rows, against the labels, the other models and the clock."""

import ray

from cluster.shards.dataset import Dataset
from cluster.shards.records import publish_record
from cluster.storage.open import open_store
from cluster.tasks import result_of
from orchestrator.context import RunContext
from orchestrator.evaluation import EvaluationRecord
from orchestrator.resolve import Job
from orchestrator.scoring import score_job


def evaluate(context: RunContext) -> None:
    """Write the evaluation if it is not there."""
    planned = context.inspect().evaluate()
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned) as account:
        account.rows = _rows(context)
        result_of(_evaluate.remote(context.store.uri, context.job))


def _rows(context: RunContext) -> int:
    """Return the test rows that all models together are judged on."""
    job = context.job
    ensembles = 0 if job.fusion is None else 1
    models = len(job.labellers) + ensembles + len(job.baselines) + len(job.students)
    return models * Dataset.open(context.store, job.datasets.test).record.rows


@ray.remote(num_cpus=1, max_retries=3)
def _evaluate(store_uri: str, job: Job) -> EvaluationRecord:
    store = open_store(store_uri)
    return publish_record(store, job.evaluation_key, score_job(store, job))
