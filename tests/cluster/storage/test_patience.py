"""A store that waits out an outage, on a clock that jumps."""

from collections.abc import Iterator
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


class Watched(MemoryStore):
    """Takes its time for every answer, and asks meanwhile, now and then, whether it is waited for."""

    def __init__(self, clock: Outage, seconds: float) -> None:
        super().__init__()
        self._clock, self._left_s = clock, seconds
        self.patient = PatientStore(self, outage_s=900.0, clock_s=clock.now_s, wait=self.pass_by)
        self.awaited: dict[float, bool] = {}

    def pass_by(self, seconds: float) -> None:
        until_s = self._clock.now_s() + seconds
        while self._clock.now_s() < until_s:
            self.awaited[self._clock.now_s()] = self.patient.is_waiting
            self._clock.wait(min(0.5, until_s - self._clock.now_s()))

    def get(self, key: str) -> memoryview:
        self.pass_by(self._left_s)
        return super().get(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for found in super().list(prefix):
            self.pass_by(self._left_s)
            yield found


def test_it_says_that_it_waits_while_a_single_attempt_hangs() -> None:
    clock = Outage(0.0, 0.0)
    store = Watched(clock, 300.0)
    store.put("a", b"there")

    assert store.patient.get("a") == b"there"

    assert store.awaited == {at_s: at_s >= 1.0 for at_s in store.awaited}
    assert max(store.awaited) > 299.0
    assert not store.patient.is_waiting


def test_it_says_that_it_waits_between_attempts_too() -> None:
    clock = Outage(0.0, TEN_MINUTES_S)
    store = Watched(clock, 0.0)
    store.patient = PatientStore(OutStore(store, clock), outage_s=900.0, clock_s=clock.now_s, wait=store.pass_by)

    store.patient.put("a", b"")

    assert clock.now_s() >= TEN_MINUTES_S
    assert store.awaited == {at_s: at_s >= 1.0 for at_s in store.awaited}


def test_a_store_that_answers_at_once_is_not_waited_for_nor_are_those_who_use_its_answers() -> None:
    clock = Outage(0.0, 0.0)
    store = Watched(clock, 0.5)
    for number in range(9):
        store.put(f"{number}", b"")

    for _ in store.patient.list(""):
        clock.wait(60.0)  # at something else
        assert not store.patient.is_waiting

    assert store.awaited
    assert not any(store.awaited.values())


def test_what_outlasts_two_outages_is_not_said_to_wait_for_the_store() -> None:
    clock = Outage(0.0, 0.0)
    store = Watched(clock, 5000.0)
    store.put("a", b"")

    store.patient.get("a")

    assert {at_s for at_s, is_awaited in store.awaited.items() if is_awaited} == {
        at_s for at_s in store.awaited if 1.0 <= at_s <= 1800.0
    }


def test_an_operation_that_failed_is_over() -> None:
    clock = Outage(0.0, 10_000.0)
    store = patient_through(clock, MemoryStore(), outage_s=60.0)

    with pytest.raises(StoreUnreachableError):
        store.get("a")
    clock.wait(60.0)

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
