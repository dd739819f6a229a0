"""What docs/shard-format.md promises to readers in other languages, held against the code and a store of version 1."""

import json
import re
from pathlib import Path

import blake3
import numpy as np
import pytest

from cluster.config import Config
from cluster.identity import canonical_json
from cluster.shards.dataset import Dataset, DatasetRecord
from cluster.shards.labelset import Commit, LabelSet, LabelSetRecord, Manifest
from cluster.shards.records import encode_record
from cluster.storage.directory import DirectoryStore

ROOT = Path(__file__).parents[3]
STORE = DirectoryStore(ROOT / "tests/fixtures/store_v1")
DATASET = "datasets/9002f21b709615ba"
LABELS = "labels/9002f21b709615ba/wide-fc0a2b9137a30c8b"
PAGE = (ROOT / "docs/shard-format.md").read_text()
RECORDS: dict[str, type[Config]] = {
    f"{DATASET}/dataset.json": DatasetRecord,
    f"{LABELS}/labelset.json": LabelSetRecord,
    f"{LABELS}/commits/00000000.json": Commit,
    f"{LABELS}/manifest.json": Manifest,
}


def description() -> LabelSetRecord:
    return LabelSetRecord.model_validate_json(bytes(STORE.get(f"{LABELS}/labelset.json")))


def test_a_store_of_version_1_is_read() -> None:
    inputs = list(Dataset.open(STORE, "9002f21b709615ba"))
    labels = LabelSet(STORE, description())
    manifest = labels.load_manifest()

    images = [
        [[95, 130], [194, 217]],
        [[207, 235], [15, 163]],
        [[33, 215], [217, 130]],
        [[248, 189], [16, 69]],
        [[184, 232], [205, 78]],
    ]
    logits = [
        [0.10491943359375, -0.53564453125, 0.361572265625],
        [1.3037109375, 0.947265625, -0.70361328125],
        [-1.265625, -0.623046875, 0.04132080078125],
        [-2.32421875, -0.21875, -1.24609375],
        [-0.732421875, -0.54443359375, -0.31640625],
    ]
    assert manifest.rows == 5
    assert np.concatenate([shard["image"] for shard in inputs]).tolist() == images
    assert np.concatenate([shard["label"] for shard in inputs]).tolist() == [2, -1, 0, -1, 1]
    assert np.concatenate([shard["row"] for shard in inputs]).tolist() == [3, 0, 4, 1, 2]
    assert np.concatenate([labels.read(0)["logits"], labels.read(1)["logits"]]).tolist() == logits


@pytest.mark.parametrize("key", RECORDS)
def test_the_records_on_the_page_are_those_of_the_store(key: str) -> None:
    examples = [canonical_json(json.loads(block)) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    stored = bytes(STORE.get(key))

    assert stored in examples
    assert canonical_json(RECORDS[key].model_validate_json(stored)) == stored


def test_the_record_with_its_digest_on_the_page_is_what_is_written() -> None:
    (text,) = (block for block in re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL) if '"blake3"' in block)

    rest, _, digest = text.removesuffix('"}').rpartition(',"blake3":"')
    assert blake3.blake3(f"{rest}}}".encode()).hexdigest() == digest
    assert encode_record(description()) == text.encode()


@pytest.mark.parametrize("key", RECORDS)
def test_every_field_of_a_record_is_explained(key: str) -> None:
    assert all(f"`{field}`" in PAGE for field in RECORDS[key].model_fields)


def test_the_identity_on_the_page_is_the_digest_of_the_text_on_the_page() -> None:
    text = next(block for block in re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL) if block.startswith('{"facts"'))

    digest = blake3.blake3(text.encode()).hexdigest()

    assert digest in PAGE
    assert digest[:16] == description().identity
    assert description().prefix == LABELS
