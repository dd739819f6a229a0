"""Damage: what of a label set is not what was written, shard by shard."""

import numpy as np

from cluster.config import Config
from cluster.errors import DataError
from cluster.shards.commits import Commit
from cluster.shards.dataset import DatasetRecord, dataset_key
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectMissingError, ObjectStore


class Damage(Config):
    """One shard whose bytes, or whose record, are not what they were."""

    shard: int | None
    """None: the set's description or its seal."""
    problem: str


def dataset_of(store: ObjectStore, record: LabelSetRecord) -> DatasetRecord | None:
    """Return the record of the data set that a label set labels; None if labels were copied here without it."""
    key = dataset_key(record.dataset)
    return read_record(store, key, DatasetRecord) if store.exists(key) else None


def find_damages(labels: LabelSet, dataset: DatasetRecord | None) -> tuple[tuple[Commit, ...], tuple[Damage, ...]]:
    """Read every committed shard: its record, digest, schema, number of rows, and no NaN.

    Returns the commits that can be read, in the order of their numbers, and everything that is wrong.
    """
    commits, damages = _commits(labels)
    if dataset is not None and labels.is_sealed() and not damages and len(commits) != len(dataset.shards):
        problem = f"its seal names {len(commits)} shards, and the data set has {len(dataset.shards)}"
        damages.append(Damage(shard=None, problem=problem))
    problems = ((commit.number, _problem(labels, commit, dataset)) for commit in commits)
    damages += [Damage(shard=number, problem=problem) for number, problem in problems if problem]
    return tuple(commits), tuple(sorted(damages, key=lambda damage: -1 if damage.shard is None else damage.shard))


def _commits(labels: LabelSet) -> tuple[list[Commit], list[Damage]]:
    commits, damages = list[Commit](), list[Damage]()
    if labels.is_sealed():
        try:
            return list(labels.load_manifest().commits), []
        except DataError as error:
            damages.append(Damage(shard=None, problem=str(error)))
    for number in sorted(labels.committed_numbers()):
        try:
            commit = labels.committed(number)
        except DataError as error:
            damages.append(Damage(shard=number, problem=str(error)))
        else:
            commits += [commit] if commit is not None else []
    return commits, damages


def _problem(labels: LabelSet, commit: Commit, dataset: DatasetRecord | None) -> str:
    if dataset is not None and not _fits(commit, dataset):
        return f"it has {commit.rows} rows, which is not what shard {commit.number} of the data set has"
    try:
        arrays = labels.read(commit.number)
    except (DataError, ObjectMissingError) as error:
        return str(error)
    invalid = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    return f"{', '.join(invalid)} holds values that are no numbers" if invalid else ""


def _fits(commit: Commit, dataset: DatasetRecord) -> bool:
    return commit.number < len(dataset.shards) and dataset.shards[commit.number].rows == commit.rows
