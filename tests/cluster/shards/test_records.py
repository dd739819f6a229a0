"""Records that vouch for their own bytes."""

import json
from pathlib import Path

import blake3
import pytest

from cluster.config import Config
from cluster.identity import canonical_json
from cluster.shards.records import BadRecordError, encode_record, publish_record, read_record
from cluster.storage.directory import DirectoryStore


class Species(Config):
    """A record of three kinds of fields."""

    classes: tuple[str, ...]
    mean_entropy: float = 0.25
    rows: int


RECORD = Species(classes=("cat", "emu", "žirafa"), rows=3)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def test_a_record_ends_with_the_digest_of_the_rest(store: DirectoryStore) -> None:
    publish_record(store, "a.json", RECORD)

    stored = bytes(store.get("a.json"))
    text = '{"classes":["cat","emu","žirafa"],"mean_entropy":0.25,"rows":3}'.encode()
    assert stored == text[:-1] + f',"blake3":"{blake3.blake3(text).hexdigest()}"}}'.encode()
    assert json.loads(stored)["rows"] == 3
    assert read_record(store, "a.json", Species) == RECORD


def test_a_record_written_by_hand_has_no_digest_and_is_read(store: DirectoryStore) -> None:
    store.put("a.json", canonical_json(RECORD))

    assert read_record(store, "a.json", Species) == RECORD


def test_every_flipped_bit_of_a_record_is_noticed(store: DirectoryStore) -> None:
    body = encode_record(RECORD)
    for bit in range(8 * len(body)):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        store.put("a.json", bytes(flipped))
        with pytest.raises(BadRecordError, match=r"a\.json"):
            read_record(store, "a.json", Species)


def test_a_record_that_breaks_off_is_refused_wherever_it_does(store: DirectoryStore) -> None:
    body = encode_record(RECORD)
    for length in range(len(body)):
        store.put("a.json", body[:length])
        with pytest.raises(BadRecordError, match=r"a\.json"):
            read_record(store, "a.json", Species)


def test_whoever_is_second_gets_the_record_of_the_first(store: DirectoryStore) -> None:
    second = RECORD.model_copy(update={"mean_entropy": 0.5})

    assert publish_record(store, "a.json", RECORD) == RECORD
    assert publish_record(store, "a.json", second) == RECORD
