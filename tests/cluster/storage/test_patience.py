"""A store that waits out an outage, on a clock that jumps."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest

from cluster.storage.directory import DirectoryStore
from cluster.storage.patience import OUTAGE_S, OutageLengthError, PatientStore, patient
from cluster.storage.protocol import ObjectMissingError, ObjectStat, ObjectStore, StoreFullError, StoreUnreachableError
from tests.fixtures.memory_store import MemoryStore
from tests.simulation.outages import Outage, OutStore

TEN_MINUTES_S = 600.0


def patient_through(outage: Outage, store: ObjectStore, *, outage_s: float = OUTAGE_S) -> PatientStore:
    return PatientStore(OutStore(store, outage), outage_s=outage_s, clock_s=outage.now_s, wait=outage.wait)


def test_every_operation_answers_as_the_store_does_after_ten_minutes_without_an_answer() -> None:
    inner = MemoryStore()
    inner.put("a/there", b"there")

    def through_an_outage() -> PatientStore:
        return patient_through(Outage(0.0, TEN_MINUTES_S), inner)

    assert through_an_outage().get("a/there") == b"there"
    assert through_an_outage().exists("a/there")
    assert [stat.key for stat in through_an_outage().list("a/")] == ["a/there"]
    assert through_an_outage().put_if_absent("a/new", b"new")
    assert not through_an_outage().put_if_absent("a/new", b"other")
    through_an_outage().put("a/there", b"changed")
    through_an_outage().delete("a/new")
    assert {stat.key: bytes(inner.get(stat.key)) for stat in inner.list("")} == {"a/there": b"changed"}


def test_an_outage_that_lasts_too_long_is_an_error_when_the_time_is_up_and_not_before() -> None:
    outage = Outage(0.0, 10_000.0)

    with pytest.raises(StoreUnreachableError, match="writing a failed"):
        patient_through(outage, MemoryStore(), outage_s=700.0).put("a", b"")

    assert outage.now_s() == pytest.approx(700.0)


def test_an_answer_is_asked_for_often_at_first_and_at_least_four_times_a_minute_later() -> None:
    outage = Outage(0.0, TEN_MINUTES_S)

    patient_through(outage, MemoryStore()).put("a", b"")

    assert sum(outage.waits[:3]) < 10
    assert max(outage.waits) <= 15.0
    assert outage.now_s() < TEN_MINUTES_S + 15.0


@pytest.mark.parametrize("error", [ObjectMissingError("s", "a"), StoreFullError("s", "writing a", "full")])
def test_what_a_store_answers_is_passed_on_at_once(error: Exception) -> None:
    class Refusing(MemoryStore):
        def get(self, key: str) -> memoryview:
            raise error

    outage = Outage(0.0, 0.0)

    with pytest.raises(type(error)):
        patient_through(outage, Refusing()).get("a")
    assert outage.waits == []


def test_a_listing_goes_on_where_it_was_interrupted() -> None:
    class BreaksOff(MemoryStore):
        failures = 2

        def list(self, prefix: str) -> Iterator[ObjectStat]:
            yield from islice(super().list(prefix), 2 + self.failures if self.failures else None)
            if self.failures:
                self.failures -= 1
                raise StoreUnreachableError(self.uri, "listing", "no answer")

    store = BreaksOff()
    for number in range(9):
        store.put(f"{number}", b"")

    found = patient_through(Outage(0.0, 0.0), store).list("")

    assert [stat.key for stat in found] == [str(number) for number in range(9)]


def test_it_says_that_it_waits_for_as_long_as_it_does() -> None:
    waits, goes_on = threading.Event(), threading.Event()

    def wait(_seconds: float) -> None:
        waits.set()
        goes_on.wait()
        outage.wait(1.0)

    outage = Outage(0.0, 1.0)
    store = PatientStore(OutStore(MemoryStore(), outage), outage_s=9.0, clock_s=outage.now_s, wait=wait)
    with ThreadPoolExecutor(1) as pool:
        assert not store.is_waiting
        written = pool.submit(store.put, "a", b"")
        waits.wait()
        assert store.is_waiting
        goes_on.set()
        written.result()
    assert not store.is_waiting


def test_a_directory_stays_as_it_is_and_the_length_of_an_outage_can_be_told(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DirectoryStore(tmp_path_factory.mktemp("store"))
    assert patient(directory) is directory
    assert isinstance(patient(MemoryStore()), PatientStore)
    monkeypatch.setenv("COFFEY_STORE_OUTAGE_S", "0")
    with pytest.raises(StoreUnreachableError):
        patient(OutStore(MemoryStore(), Outage(0.0, 1.0))).get("a")
    monkeypatch.setenv("COFFEY_STORE_OUTAGE_S", "ten minutes")
    with pytest.raises(OutageLengthError, match="'ten minutes': expected a whole number of seconds"):
        patient(MemoryStore())
