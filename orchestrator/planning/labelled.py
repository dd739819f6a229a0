"""What a store holds of the label sets of a job, and which of them it needs."""

from collections.abc import Mapping

from cluster.errors import DataError
from cluster.shards.dataset import DatasetRecord
from cluster.shards.labelset import LabelSet, LabelSetRecord, manifest_key
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from orchestrator.resolution.beside import reads_stored
from orchestrator.resolution.resolve import Job
from students.ensembles.record import EnsembleRecord


class SealMisfitError(DataError):
    """A seal names other shards than the data set has."""

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(where, found, expected)
        self.where, self.found, self.expected = where, found, expected

    def __str__(self) -> str:
        return (
            f"{self.where}: this seal names {self.found}, and the data set has {self.expected}. It was written over "
            "or copied from elsewhere. `coffey labels repair` takes it back, and the next run labels what is missing."
        )


class Labelled:
    """The label sets of some data sets, by their identities; None for those that are not written yet."""

    def __init__(self, store: ObjectStore, datasets: Mapping[str, DatasetRecord | None]) -> None:
        self._store, self._datasets = store, datasets

    def is_sealed(self, record: LabelSetRecord) -> bool:
        """Return whether a set is complete."""
        return LabelSet(self._store, record).is_sealed()

    def num_rows(self, record: LabelSetRecord) -> int:
        """Return how many rows are labelled."""
        dataset = self._datasets[record.dataset]
        if dataset is None:
            return 0
        missing = set(self.missing(record))
        return sum(shard.rows for number, shard in enumerate(dataset.shards) if number not in missing)

    def missing(self, record: LabelSetRecord) -> list[int]:
        """Return the shards that are not committed; the data set has to exist."""
        dataset = self._datasets[record.dataset]
        assert dataset is not None  # noqa: S101 - called after ingest
        if self.is_sealed(record):
            return []
        committed = LabelSet(self._store, record).committed_numbers()
        return [number for number in range(len(dataset.shards)) if number not in committed]

    def check_seal(self, record: LabelSetRecord) -> None:
        """Compare what a set says of itself with what is asked for, and its seal, if there is one, with the data set.

        Raises:
            SealMisfitError: the seal is of other shards.
            BadRecordError, ForeignLabelsError: one of them cannot be read, or is that of other labels.
        """
        LabelSet(self._store, record).check_description()
        dataset = self._datasets[record.dataset]
        if dataset is None or not self.is_sealed(record):
            return
        found = [commit.rows for commit in LabelSet(self._store, record).load_manifest().commits]
        expected = [shard.rows for shard in dataset.shards]
        if found != expected:
            where = f"{self._store.uri}/{manifest_key(record)}"
            raise SealMisfitError(where, *(f"{len(rows)} shards of {sum(rows):,} rows" for rows in (found, expected)))


def teachers_left_out(store: ObjectStore, job: Job) -> tuple[str, ...] | None:
    """Return the teachers that a greedy selection leaves out; None as long as it has not been made."""
    if job.fusion is None or job.fusion.ensemble is None or job.spec.fusion.select != "greedy":
        return ()
    if not store.exists(job.fusion.ensemble):
        return None
    return read_record(store, job.fusion.ensemble, EnsembleRecord).unused


def unread_label_sets(job: Job, left_out: tuple[str, ...] | None) -> frozenset[LabelSetRecord]:
    """Return the label sets of training rows that no training reads, of the teachers that the spec names.

    While nobody knows who is left out, they are those that wait for it.
    """
    objective = job.spec.objective
    is_matched = any(term.reads & {"target", "sparse"} for term in objective)
    return frozenset(
        record
        for teacher in job.teachers
        if not (is_matched and left_out is not None and teacher.config.name not in left_out)
        and not reads_stored(objective, teacher.config)
        for record in teacher.label_sets
        if record.dataset == job.datasets.train
    )
