"""Where the weights of a teacher lie in the store, whoever made them."""

from cluster.identity import digest_of
from cluster.shards.records import read_record
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from orchestrator.resolution.labellers import ResolvedTeacher
from students.task import TrainedRecord
from teachers.weights import WeightsChangedError, read_weights


def weights_of(store: ObjectStore, teacher: ResolvedTeacher) -> StoredWeights:
    """Return the weights that the user gave, or those of the finished fit; raises `ObjectMissingError` before that."""
    if teacher.fit is None:
        assert teacher.given is not None  # noqa: S101 - a resolved teacher has one or the other
        return teacher.given
    record = read_record(store, teacher.fit.record_key, TrainedRecord)
    return StoredWeights(key=record.weights_key, digest=record.weights_digest, num_bytes=record.num_bytes)


def put_weights(store: ObjectStore, teacher: ResolvedTeacher) -> None:
    """See that weights that the user gave lie in the store, where every worker finds them.

    Raises:
        WeightsChangedError: the file is another one since the job was resolved.
    """
    if teacher.given is None or store.exists(teacher.given.key):
        return
    assert teacher.config.weights is not None  # noqa: S101 - that is what `given` means
    body = read_weights(teacher.config.weights)
    if digest_of(body) != teacher.given.digest:
        raise WeightsChangedError(teacher.config.weights)
    store.put(teacher.given.key, body)
