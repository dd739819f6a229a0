"""What docs/shard-format.md promises to readers in other languages, held against the code and a store of version 1."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import blake3
import numpy as np
import pyarrow as pa
import pytest
from scipy.special import softmax

from cluster.config import Config
from cluster.identity import canonical_json
from cluster.shards.commits import Commit, Manifest
from cluster.shards.dataset import Dataset, DatasetRecord
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.records import encode_record
from cluster.shards.shared import SharedRecord
from cluster.storage.directory import DirectoryStore

ROOT = Path(__file__).parents[3]
STORE = DirectoryStore(ROOT / "tests/fixtures/store_v1")
DATASET = "datasets/9002f21b709615ba"
LABELS = "labels/9002f21b709615ba/wide-40bcd7cbc9d5b207"
PAGE = (ROOT / "docs/shard-format.md").read_text()
RECORDS: dict[str, type[Config]] = {
    f"{DATASET}/dataset.json": DatasetRecord,
    f"{LABELS}/labelset.json": LabelSetRecord,
    f"{LABELS}/commits/00000000.json": Commit,
    f"{LABELS}/manifest.json": Manifest,
    "labels/9002f21b709615ba/inner-481e487675a15ac0/shared.json": SharedRecord,
}
LOGITS = [
    [0.10491943359375, -0.53564453125, 0.361572265625],
    [1.3037109375, 0.947265625, -0.70361328125],
    [-1.265625, -0.623046875, 0.04132080078125],
    [-2.32421875, -0.21875, -1.24609375],
    [-0.732421875, -0.54443359375, -0.31640625],
]
"""What the teachers of the store have said, but for `inner` and `narrow`."""
LINEAR = [
    [0.0, -3.125, 1.625],
    [2.1875, -0.75, 1.375],
    [0.875, 5.6875, -3.5625],
    [1.625, 1.25, -0.25],
    [-1.25, 0.375, -1.375],
]


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
    assert manifest.rows == 5
    assert np.concatenate([shard["image"] for shard in inputs]).tolist() == images
    assert np.concatenate([shard["label"] for shard in inputs]).tolist() == [2, -1, 0, -1, 1]
    assert np.concatenate([shard["row"] for shard in inputs]).tolist() == [3, 0, 4, 1, 2]
    assert np.concatenate([labels.read(0)["logits"], labels.read(1)["logits"]]).tolist() == LOGITS


@pytest.mark.parametrize(
    ("name", "temperatures", "expected", "error"),
    [
        ("wide-40bcd7cbc9d5b207", (0.5, 1.0, 3.0), LOGITS, 1e-12),
        ("few-a6fe9dc026339133", (1.0, 2.0, 4.0), LOGITS, 3e-4),
        ("bytes-e8746ef7ed491a46", (1.0, 2.0), LOGITS, 2e-3),
        ("nibbles-7b19aa860cafdb9c", (1.0,), LOGITS, 3e-4),
        ("inner-481e487675a15ac0", (1.0, 7.0), LINEAR, 1e-6),
        ("narrow-07516cdba5708afb", (1.0, 7.0), LINEAR, 4e-3),
    ],
)
def test_every_codec_of_version_1_gives_back_what_the_teacher_said(
    name: str, temperatures: tuple[float, ...], expected: list[list[float]], error: float
) -> None:
    # With three classes of which two are kept nothing is lost, so that what is decoded is what was encoded.
    for temperature in temperatures:
        logits = decoded(name, temperature) / temperature
        assert softmax(logits, axis=1) == pytest.approx(softmax(np.array(expected) / temperature, axis=1), abs=error)


def test_draws_of_version_1_are_read_as_shares() -> None:
    shares = [[1, 1, 2], [3, 1, 0], [1, 1, 2], [0, 1, 3], [2, 1, 1]]

    assert softmax(decoded("drawn-38966f8a3abab7ec", 1.0), axis=1) == pytest.approx(np.array(shares) / 4, abs=1e-6)


def decoded(name: str, temperature: float) -> np.ndarray:
    record = LabelSetRecord.model_validate_json(bytes(STORE.get(f"labels/9002f21b709615ba/{name}/labelset.json")))
    assert record.prefix.endswith(name)
    reader = LogitsReader(LabelSet(STORE, record))
    return np.concatenate([reader.read(number, temperature=temperature) for number in (0, 1)]).astype(np.float64)


def read_by_the_page(root: Path, dataset: str, labels: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield the zipped shards of a store as somebody reads it who has the page, and none of our code."""
    inputs = json.loads((root / dataset / "dataset.json").read_text())
    commits = json.loads((root / labels / "manifest.json").read_text())["commits"]
    for number, (entry, commit) in enumerate(zip(inputs["shards"], commits, strict=True)):
        assert (commit["number"], commit["rows"]) == (number, entry["rows"])
        yield {
            **file_by_the_page(root / dataset / f"{number:08d}.arrow", entry, inputs["columns"]),
            **file_by_the_page(root / labels / "data" / f"{commit['digest']}.arrow", commit, commit["columns"]),
        }


def file_by_the_page(path: Path, entry: dict[str, object], columns: list[dict[str, object]]) -> dict[str, np.ndarray]:
    body = path.read_bytes()
    assert (len(body), blake3.blake3(body).hexdigest()) == (entry["num_bytes"], entry["digest"])
    footer_bytes = int.from_bytes(body[-10:-6], "little")
    assert b"ARROW:extension" not in body[-10 - footer_bytes : -10]
    file = pa.ipc.open_file(body)
    assert (file.num_record_batches, file.schema.metadata) == (1, {b"coffey.shard": b"1"})
    assert file.schema.names == [column["name"] for column in columns]
    batch, arrays = file.get_batch(0), {}
    for column in columns:
        array, field = batch[column["name"]], file.schema.field(column["name"])
        assert (json.loads(field.metadata[b"shape"]), array.null_count) == (column["shape"], 0)
        values = array.flatten() if column["shape"] else array
        arrays[column["name"]] = values.to_numpy().reshape(entry["rows"], *column["shape"])
    return arrays


def test_a_reader_that_knows_only_the_page_reads_the_same_bits() -> None:
    ours, labels = list(Dataset.open(STORE, "9002f21b709615ba")), LabelSet(STORE, description())
    labels.load_manifest()

    theirs = list(read_by_the_page(Path(STORE.uri), DATASET, LABELS))

    assert len(theirs) == len(ours) == 2
    for number, (shard, found) in enumerate(zip(ours, theirs, strict=True)):
        expected = {**shard, **labels.read(number)}
        assert list(found) == list(expected)
        assert all(found[name].dtype == expected[name].dtype for name in expected)
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


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
