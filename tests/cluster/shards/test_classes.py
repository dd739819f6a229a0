"""Label sets over some of the classes: how they are described, and how they are laid among those of the data set."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from scipy.special import softmax

from cluster.shards.calibration import Calibration
from cluster.shards.classes import ForeignClassError, known_classes
from cluster.shards.codecs.dense import LOGITS
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, TopKConfig
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.parquet import export_shard
from cluster.shards.records import read_record
from cluster.storage.directory import DirectoryStore
from tests.fixtures.distributions import top_k_outputs
from tests.fixtures.tiny import label_record, numbered, write_rows

OWN = ("blue", "red")
PLACES = [2, 0]  # among red, green, blue
LOGITS_NK = np.array([[1.0, -2.0], [0.5, 0.25], [-3.0, 4.0]], np.float32)


def specialist(store: DirectoryStore, codec: AnyCodecConfig | None = None, **changes: object) -> LabelSet:
    """Write the labels of a teacher that knows blue and red, in this order."""
    dataset = write_rows(store, numbered(3), "a")
    record = label_record(dataset, "low", classes=2, codec=codec).model_copy(update={"classes": OWN, **changes})
    labels = LabelSet.create(store, record)
    outputs = top_k_outputs(codec, LOGITS_NK) if isinstance(codec, TopKConfig) else {LOGITS: LOGITS_NK}
    packed = codec_of(record.codec, 2).pack(outputs)
    labels.commit(0, labels.encode(packed), rows=3, statistics={})
    labels.seal(1)
    return labels


@pytest.mark.parametrize("codec", [DenseConfig(), TopKConfig(k=2, tail_samples=0), TopKConfig(k=1, tail_samples=0)])
def test_logits_stand_at_the_places_of_their_classes_and_say_nothing_of_others(
    tmp_path: Path, codec: AnyCodecConfig
) -> None:
    reader = LogitsReader(specialist(DirectoryStore(tmp_path), codec))

    wide, own = reader.read(0), reader.decode_own(reader.labels.read(0))

    assert wide.shape == (3, 3)
    assert wide[:, 1].tolist() == [-np.inf] * 3
    assert np.array_equal(wide[:, PLACES], own)
    assert softmax(own, axis=1) == pytest.approx(softmax(LOGITS_NK, axis=1), abs=2e-3)
    assert known_classes(wide).tolist() == [0, 2]


def test_the_names_are_part_of_the_identity_and_their_absence_is_not(tmp_path: Path) -> None:
    record = label_record(write_rows(DirectoryStore(tmp_path), numbered(3), "a"), classes=2)
    named = record.model_copy(update={"classes": OWN})

    assert "classes" not in record.model_dump()
    assert named.identity != record.identity
    assert named.model_copy(update={"classes": OWN[::-1]}).identity != named.identity
    assert LabelSetRecord.model_validate_json(named.model_dump_json()) == named


@pytest.mark.parametrize("names", [["red"], ["red", "green", "blue"], ["red", "red"]])
def test_a_record_names_as_many_classes_as_it_has_outputs(tmp_path: Path, names: list[str]) -> None:
    record = label_record(write_rows(DirectoryStore(tmp_path), numbered(3), "a"), classes=2)
    with pytest.raises(ValidationError, match=r"classes names . classes; expected 2, or none"):
        LabelSetRecord.model_validate(record.model_dump() | {"classes": names})


def test_a_class_that_the_data_set_does_not_have_is_refused(tmp_path: Path) -> None:
    labels = specialist(DirectoryStore(tmp_path), classes=("red", "purple"))
    with pytest.raises(
        ForeignClassError, match=r"low-.*: it names the class 'purple'; expected classes of the data set"
    ):
        LogitsReader(labels)


def test_exported_shards_name_the_classes(tmp_path: Path) -> None:
    labels = specialist(DirectoryStore(tmp_path / "store"))
    path = export_shard(labels, labels.commits()[0], tmp_path)
    assert json.loads(pq.read_schema(path).metadata[b"coffey.classes"]) == list(OWN)


def test_a_calibration_leaves_out_what_the_teacher_does_not_know(tmp_path: Path) -> None:
    wide = LogitsReader(specialist(DirectoryStore(tmp_path))).read(0).astype(np.float64)
    own = Calibration(temperature=2.0, scales=(0.5, 3.0), biases=(-1.0, 0.25))
    among = Calibration(temperature=2.0, scales=(3.0, 1.0, 0.5), biases=(0.25, 0.0, -1.0))

    assert among.apply(wide)[:, PLACES] == pytest.approx(own.apply(wide[:, PLACES]), abs=1e-12)
    assert among.apply(wide)[:, 1].tolist() == [-np.inf] * 3
    assert Calibration(temperature=2.0).apply(wide)[:, 1].tolist() == [-np.inf] * 3


def test_the_description_in_the_store_is_read_back(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    labels = specialist(store)
    assert read_record(store, f"{labels.record.prefix}/labelset.json", LabelSetRecord).classes == OWN
