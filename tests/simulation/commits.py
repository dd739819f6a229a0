"""Commits through a network that loses one answer in ten: whoever wins is told so, and nobody else is."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSet
from cluster.storage.open import open_store
from tests.fixtures.faulty_proxy import AnswerLost, FaultyProxy, SeededPlan
from tests.fixtures.s3_servers import S3Server
from tests.simulation.teacher import RECORD, ROWS, outputs

LOST_SHARE = 0.1


@dataclass(frozen=True)
class CommitResult:
    """What writers were told, and what is in the store."""

    commits: int
    answers_lost: int
    false_conflicts: int
    """Commits of a lone writer that were answered with another's record."""
    wrong_acknowledgements: int
    """Answers that differ from the record in the store."""
    missing: int
    """Numbers that are not in the store."""


def commit_through_losses(server: S3Server, *, commits: int, seed: int, threads: int = 16) -> CommitResult:
    """Commit `commits` shards, each by one writer, over a proxy that loses one answer to a PUT in ten."""
    plan = SeededPlan(seed, LOST_SHARE, faults=(AnswerLost(),), methods=frozenset({"PUT"}))
    proxy = FaultyProxy(server.url, plan)
    # The proxy draws by path: in a bucket and under a prefix of a fixed name, a seed loses the same answers again.
    bucket = "commits"
    server.admin.create_bucket(Bucket=bucket)
    with proxy.running(), _environment(server.environment() | {"AWS_ENDPOINT_URL": proxy.url}):
        labels = LabelSet.create(open_store(f"s3://{bucket}/{seed}"), RECORD)

        def commit(number: int) -> Commit:
            statistics = {"attempt": float(number)}
            return labels.commit(number, labels.encode(outputs(number % 8, number)), rows=ROWS, statistics=statistics)

        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(commit, range(commits)))
    with _environment(server.environment()):
        reader = LabelSet(open_store(f"s3://{bucket}/{seed}"), RECORD)
        with ThreadPoolExecutor(threads) as pool:
            stored = list(pool.map(reader.committed, range(commits)))
    return CommitResult(
        commits=len(answers),
        answers_lost=Counter(proxy.met)["AnswerLost"],
        false_conflicts=sum(answer.statistics != {"attempt": number} for number, answer in enumerate(answers)),
        wrong_acknowledgements=sum(map(_differ, answers, stored)),
        missing=sum(commit is None for commit in stored),
    )


def _differ(answer: Commit, stored: Commit | None) -> bool:
    return answer != stored


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
