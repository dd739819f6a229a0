"""The door to distributions: every codec through the store, and temperatures that labels do not hold."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError
from cluster.shards.codecs.codec import TemperatureNotServedError
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, HiddenConfig, SampledConfig, TopKConfig
from cluster.shards.commits import ForeignLabelsError
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.records import overwrite_record, read_record
from cluster.shards.shared import (
    SharedLostError,
    SharedRecord,
    has_shared,
    publish_shared,
    read_shared,
    withdraw_shared,
)
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError
from tests.fixtures.distributions import top_k_outputs

CLASSES = 5
LOGITS = np.random.default_rng(0).standard_normal((4, CLASSES)).astype(np.float32)
HEAD = {"weight": np.eye(CLASSES, dtype=np.float32)[None], "bias": np.zeros((1, CLASSES), np.float32)}
TOP_K = TopKConfig(k=CLASSES, temperatures=(2.0,), tail_samples=0)
HIDDEN = HiddenConfig(head="head", width=CLASSES)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def labels_in(store: DirectoryStore, config: AnyCodecConfig) -> LabelSet:
    record = LabelSetRecord(
        teacher="wide",
        teacher_identity="1" * 16,
        dataset="d" * 16,
        columns=codec_of(config, CLASSES).columns(),
        codec=config,
        num_classes=CLASSES,
    )
    return LabelSet.create(store, record)


def written(store: DirectoryStore, config: AnyCodecConfig) -> LogitsReader:
    labels = labels_in(store, config)
    outputs = {"logits": LOGITS, "hidden": LOGITS, "draws": np.argsort(-LOGITS)[:, :2]}
    if isinstance(config, TopKConfig):
        outputs |= top_k_outputs(config, LOGITS)
    if isinstance(config, HiddenConfig):
        outputs |= publish_shared(labels, HEAD)
    labels.commit(0, labels.encode(codec_of(config, CLASSES).pack(outputs)), rows=4, statistics={})
    return LogitsReader(LabelSet(store, labels.record))


@pytest.mark.parametrize("config", [DenseConfig(), HIDDEN])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 17.0])
def test_codecs_that_lose_no_class_serve_any_temperature(
    store: DirectoryStore, config: AnyCodecConfig, temperature: float
) -> None:
    assert written(store, config).read(0, temperature=temperature) == pytest.approx(LOGITS, abs=2e-3)


@pytest.mark.parametrize(
    ("config", "temperature", "served"),
    [
        (TOP_K, 3.0, "1 and 2"),
        (TOP_K.model_copy(update={"temperatures": (2.0, 4.0)}), 1.5, "1, 2 and 4"),
        (SampledConfig(draws=2), 2.0, "1"),
    ],
)
def test_a_temperature_that_labels_do_not_hold_is_refused_with_those_that_they_do(
    store: DirectoryStore, config: AnyCodecConfig, temperature: float, served: str
) -> None:
    reader = written(store, config)

    with pytest.raises(TemperatureNotServedError) as refusal:
        reader.read(0, temperature=temperature)

    message = str(refusal.value)
    assert f"{reader.labels.record.prefix}: asked for the temperature {temperature:g}" in message
    assert f"`{config.codec}` labels are exact at {served} and nowhere else" in message
    assert "`labels.codec` set to `dense`" in message
    assert ("labels.temperatures" in message) == (config.codec == "topk")
    assert str(pickle.loads(pickle.dumps(refusal.value))) == message
    assert isinstance(refusal.value, DataError)


class TestShared:
    def test_the_first_writer_decides(self, store: DirectoryStore) -> None:
        labels = labels_in(store, HIDDEN)
        other = HEAD | {"bias": np.ones((1, CLASSES), np.float32)}

        assert not has_shared(labels)
        first, second = publish_shared(labels, HEAD), publish_shared(labels, other)

        assert has_shared(labels)
        assert np.array_equal(first["bias"], second["bias"])
        assert np.array_equal(read_shared(labels)["weight"], HEAD["weight"])

    def test_most_codecs_share_nothing(self, store: DirectoryStore) -> None:
        assert read_shared(labels_in(store, TOP_K)) == {}

    def test_once_shards_are_there_losing_it_is_told_apart_from_its_not_being_there_yet(
        self, store: DirectoryStore
    ) -> None:
        labels = labels_in(store, HIDDEN)
        publish_shared(labels, HEAD)
        (hidden,) = labels.record.columns
        labels.commit(0, labels.encode({"hidden": np.ones((2, *hidden.shape), hidden.dtype)}), rows=2, statistics={})
        store.delete(f"{labels.record.prefix}/shared.json")

        with pytest.raises(SharedLostError, match="is missing, and shards are committed"):
            read_shared(labels)

        assert withdraw_shared(labels) == (0,)
        assert labels.committed_numbers() == set()
        with pytest.raises(ObjectMissingError):
            read_shared(labels)

    def test_what_is_missing_damaged_or_of_another_teacher_is_refused(self, store: DirectoryStore) -> None:
        labels = labels_in(store, HIDDEN)
        with pytest.raises(ObjectMissingError):
            read_shared(labels)

        publish_shared(labels, HEAD)
        key = f"{labels.record.prefix}/shared.json"
        stranger = read_record(store, key, SharedRecord).model_copy(update={"labelset": "0" * 16})
        (data,) = [stat.key for stat in store.list(f"{labels.record.prefix}/shared/")]
        store.put(data, bytes(store.get(data))[:-1] + b"x")
        with pytest.raises(ShardCorruptError):
            read_shared(labels)

        overwrite_record(store, key, stranger)
        with pytest.raises(ForeignLabelsError):
            read_shared(labels)
