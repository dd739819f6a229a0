"""Where the weights of a teacher lie in the store, whoever made them."""

from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from orchestrator.resolve import ResolvedTeacher
from students.task import TrainedRecord


def weights_of(store: ObjectStore, teacher: ResolvedTeacher) -> StoredWeights:
    """Return the weights that the user gave, or those of the finished fit; raises `ObjectMissingError` before that."""
    if teacher.fit is None:
        assert teacher.given is not None  # noqa: S101 - a resolved teacher has one or the other
        return teacher.given
    record = read_record(store, teacher.fit.record_key, TrainedRecord)
    return StoredWeights(key=record.weights_key, digest=record.weights_digest, num_bytes=record.num_bytes)
