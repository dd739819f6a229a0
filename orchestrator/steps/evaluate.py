"""Evaluate: every model on the test rows, against the labels, the other models and the clock."""

import ray

from cluster.failures import redacting
from cluster.shards.dataset import Dataset
from cluster.shards.records import publish_record
from cluster.storage.patience import open_patiently
from cluster.tasks import result_of
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.figures.scoring import score_job
from orchestrator.resolution.resolve import Job


def evaluate(context: RunContext) -> None:
    """Write the evaluation if it is not there."""
    planned = context.inspect().evaluate()
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned) as account:
        record: EvaluationRecord = result_of(_evaluate.remote(context.store.uri, context.job))
        account.rows = len(record.models) * Dataset.open(context.store, context.job.datasets.test).record.rows


@ray.remote(num_cpus=1, max_retries=3)
def _evaluate(store_uri: str, job: Job) -> EvaluationRecord:
    store = open_patiently(store_uri)
    with redacting():
        return publish_record(store, job.evaluation_key, score_job(store, job))
