"""Shards and records that somebody made to do harm: refused by name, in little memory, and nothing is run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import CoffeyError
from cluster.identity import canonical_json
from cluster.shards.dataset import Dataset, dataset_key
from cluster.shards.encoding import ShardFormatError, decode_shard, encode_shard
from cluster.shards.labelset import LabelSet, LabelSetRecord, manifest_key
from cluster.shards.records import BadRecordError
from cluster.shards.schema import Column
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import BadKeyError
from tests.fixtures.hostile_shards import ATTACKS, COLUMNS, ROWS, honest
from tests.fixtures.labelled import DATASET, SHARDS, label, new_store

ROOT = Path(__file__).parents[3]
ROOM_BYTES = 256 << 20  # a quarter of what each bomb holds

IN_LITTLE_ROOM = """
import json, mmap, resource, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from cluster.shards.encoding import ShardFormatError, decode_shard
from tests.fixtures.hostile_shards import COLUMNS, ROWS, honest

decode_shard(honest(), COLUMNS, rows=ROWS, where="honest")  # whatever is loaded late is loaded
used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
"""
DECODE = """
said = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    try:
        decode_shard(path.read_bytes(), COLUMNS, rows=ROWS, where=str(path))
        said[path.name] = ["accepted", ""]
    except ShardFormatError as error:
        said[path.name] = [error.found, str(error)]
    except MemoryError:
        said[path.name] = ["out of memory", ""]
print(json.dumps([said, pa.default_memory_pool().max_memory()]))
"""


def test_an_honest_file_of_these_columns_is_a_shard() -> None:
    assert set(decode_shard(honest(), COLUMNS, rows=ROWS, where="/x")) == {"logits", "label"}


def test_hostile_files_are_refused_by_name_in_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    paths = {name: folder / f"{number:02d}.arrow" for number, name in enumerate(ATTACKS)}
    for name, (build, _) in ATTACKS.items():
        paths[name].write_bytes(build())

    result = in_a_child(DECODE, str(folder))

    assert result.returncode == 0, result.stderr[-2000:]
    said, most_bytes = json.loads(result.stdout)
    for name, (_, expected) in ATTACKS.items():
        found, message = said[paths[name].name]
        assert expected in found, name
        assert found not in {"accepted", "out of memory"}, name
        assert message.startswith(str(paths[name])), name
        assert "malloc" not in message, name
        assert len(message) < 1500, name
        assert message.isprintable(), name
    assert most_bytes < 1 << 20, "Arrow allocated next to nothing"


def test_whatever_bytes_of_a_file_are_others_it_is_refused_or_gives_arrays_of_the_promised_shape() -> None:
    """In a child, so that a crash of Arrow would be seen as one."""
    result = in_a_child(MUTATE)

    assert result.returncode == 0, result.stderr[-2000:]


def in_a_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IN_LITTLE_ROOM + code, str(ROOM_BYTES), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


MUTATE = """
rng = np.random.default_rng(11)
for compression in (None, "lz4", "zstd"):
    body = honest(compression=compression)
    for number in range(3000):
        forged = bytearray(body)
        for place in rng.integers(len(body), size=rng.integers(1, 5)):
            forged[place] = rng.choice([0, 1, 0x7f, 0x80, 0xff, int(rng.integers(256))])
        try:
            arrays = decode_shard(bytes(forged), COLUMNS, rows=ROWS, where="/x")
        except ShardFormatError as error:
            assert "malloc" not in error.found, error
            continue
        assert [array.shape for array in arrays.values()] == [(ROWS, 2), (ROWS,)]
        assert all(len(array.tobytes()) == array.nbytes for array in arrays.values())
"""


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return new_store(tmp_path / "store")


def forge(store: DirectoryStore, key: str, change: "Change") -> None:
    """Change a record: by other fields, or by other bytes. It keeps no digest, which could be forged as well."""
    fields = json.loads(bytes(store.get(key)))
    del fields["blake3"]
    body = canonical_json(fields)
    store.put(key, change(body) if callable(change) else json.dumps(json.loads(body) | change).encode())


Change = dict[str, object] | Callable[[bytes], bytes]

ANY_RECORD: dict[str, tuple[Change, str]] = {
    "a later version": ({"version": 2}, "version"),
    "no version that is a number": ({"version": "one"}, "version"),
    "an unknown field": ({"command": "rm"}, "command"),
    "an unknown field with a command for terminals": ({"\x1b]0;owned\x07": 1}, "]0;owned"),
    "a field twice": (lambda body: b'{"version":1,' + body[1:], "version stands there twice"),
    "lists in lists in lists": (lambda _: b"[" * 1_000_000, "recursion limit"),
    "objects in objects": (lambda _: b'{"columns":' * 1_000_000, "recursion limit"),
    "nothing": (lambda _: b"", "Invalid JSON"),
    "half of it": (lambda body: body[: len(body) // 2], "Invalid JSON"),
    "no object": (lambda _: b"1", "the whole"),
    "other bytes than UTF-8": (lambda body: body.replace(b"columns", b"col\xffmns"), "Invalid JSON"),
    "a pickle": (lambda _: b"\x80\x04cposix\nsystem\n.", "Invalid JSON"),
    "more than a record may have": (lambda body: body + b" " * (64 << 20), "more than a record may have"),
}
IN_A_COMMIT: dict[str, tuple[Change, str]] = {
    "a digest that climbs": ({"digest": "../../../../../../etc/passwd"}, "digest"),
    "a digest from the root": ({"digest": "/etc/passwd" + "0" * 53}, "digest"),
    "a digest with a line": ({"digest": "0" * 64 + "\n"}, "digest"),
    "a digest in capitals": ({"digest": "A" * 64}, "digest"),
    "a digest with a NUL": ({"digest": "0" * 63 + "\0"}, "digest"),
    "another set's identity that climbs": ({"labelset": "../../../../xx"}, "labelset"),
    "a negative length": ({"num_bytes": -1}, "num_bytes"),
    "no length": ({"num_bytes": 0}, "num_bytes"),
    "half a row": ({"rows": 0.5}, "rows"),
    "no rows": ({"rows": 0}, "rows"),
    "a number below the first": ({"number": -1}, "number"),
    "NaN": (lambda body: body.replace(b"1.25", b"NaN"), "statistics"),
    "infinity": (lambda body: body.replace(b"1.25", b"-Infinity"), "statistics"),
    "a number beyond all": (lambda body: body.replace(b"1.25", b"1e999"), "statistics"),
    "statistics without end": ({"statistics": {str(number): 0 for number in range(100_000)}}, "statistics"),
    "a statistic twice": (lambda body: body.replace(b'"entropy":1.25', b'"e":1,"e":2'), "e stands there twice"),
    "a column that climbs": ({"columns": [{"name": "../x", "dtype": "uint8", "shape": []}]}, "columns.0.name"),
    "a type that is none": ({"columns": [{"name": "x", "dtype": "object", "shape": []}]}, "columns.0.dtype"),
    "a negative shape": ({"columns": [{"name": "x", "dtype": "uint8", "shape": [-1]}]}, "columns.0.shape.0"),
    "a shape beyond all": ({"columns": [{"name": "x", "dtype": "uint8", "shape": [10**9] * 8}]}, "values"),
    "a shape of a million sides": ({"columns": [{"name": "x", "dtype": "uint8", "shape": [-1] * 10**6}]}, "shape"),
    "a million columns that are none": ({"columns": [0] * 10**6}, "columns.0"),
}


@pytest.mark.parametrize("attack", ANY_RECORD | IN_A_COMMIT)
def test_a_hostile_commit_is_refused_by_name(store: DirectoryStore, attack: str) -> None:
    labels = label(store, "wide", range(SHARDS))
    key = f"{labels.record.prefix}/commits/00000001.json"

    assert_refused(store, key, (ANY_RECORD | IN_A_COMMIT)[attack], LabelSet(store, labels.record).commits)


@pytest.mark.parametrize("attack", ANY_RECORD)
def test_a_hostile_manifest_is_refused_by_name(store: DirectoryStore, attack: str) -> None:
    labels = label(store, "wide", range(SHARDS))
    labels.seal(SHARDS)

    assert_refused(store, manifest_key(labels.record), ANY_RECORD[attack], LabelSet(store, labels.record).commits)


@pytest.mark.parametrize("attack", ANY_RECORD)
def test_a_hostile_description_is_refused_by_name(store: DirectoryStore, attack: str) -> None:
    prefix = label(store, "wide", range(SHARDS)).record.prefix

    assert_refused(store, f"{prefix}/labelset.json", ANY_RECORD[attack], lambda: LabelSet.open(store, prefix))


@pytest.mark.parametrize("attack", ANY_RECORD)
def test_a_hostile_data_set_is_refused_by_name(store: DirectoryStore, attack: str) -> None:
    assert_refused(store, dataset_key(DATASET), ANY_RECORD[attack], lambda: Dataset.open(store, DATASET))


def assert_refused(store: DirectoryStore, key: str, attack: tuple[Change, str], read: Callable[[], object]) -> None:
    change, reason = attack
    forge(store, key, change)

    with pytest.raises(BadRecordError) as refusal:
        read()

    message = str(refusal.value)
    assert refusal.value.where == f"{store.uri}/{key}"
    assert reason in message
    assert refusal.value.exit_code == 7
    assert message.isprintable()
    assert len(message) < 1500


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a//b", "a/../b", ".hidden", "a\0b", "a\\b", "%2e%2e/b", "é"])
def test_no_key_leaves_the_store(store: DirectoryStore, name: str) -> None:
    for use in (store.get, store.exists, store.delete, lambda key: store.put(key, b"")):
        with pytest.raises(BadKeyError):
            use(name)


@pytest.mark.parametrize("identity", ["../../../../x", "0" * 15, "G" * 16, "0" * 16 + "\n"])
def test_no_identity_leaves_the_directory_of_its_set(store: DirectoryStore, identity: str) -> None:
    fields = {"teacher": "wide", "teacher_identity": "1" * 16, "dataset": identity, "columns": COLUMNS}
    with pytest.raises(ValueError, match="16 hex digits"):
        LabelSetRecord.model_validate(fields)
    with pytest.raises(ValueError, match="teacher"):
        LabelSetRecord.model_validate(fields | {"dataset": "0" * 16, "teacher": f"../{identity}"})


def test_a_link_out_of_the_store_gives_nothing_away(store: DirectoryStore, tmp_path: Path) -> None:
    labels = label(store, "wide", range(1))
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    (data,) = Path(store.uri, labels.record.prefix, "data").iterdir()
    for place, read in (
        (data, lambda: LabelSet(store, labels.record).read(0)),
        (Path(store.uri, labels.record.prefix, "labelset.json"), lambda: LabelSet.open(store, labels.record.prefix)),
    ):
        place.unlink()
        place.symlink_to(secret)
        with pytest.raises(CoffeyError) as refusal:
            read()
        assert "secret" not in str(refusal.value)


def test_a_column_that_arrow_cannot_hold_is_no_column() -> None:
    with pytest.raises(ValueError, match="at most 2147483647"):
        Column(name="x", dtype="uint8", shape=(2**16, 2**16))
    assert Column(name="x", dtype="uint8", shape=(2**31 - 1,)).row_bytes == 2**31 - 1
    with pytest.raises(ShardFormatError):
        decode_shard(encode_shard({}), [Column(name="x", dtype="uint8", shape=(2**31 - 1,))], rows=2**62, where="/x")
