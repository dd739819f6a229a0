"""An S3 store under seeded faults, against a model that knows what may have landed."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import stamina
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from cluster.shards.labelset import LabelSet
from cluster.shards.verified import ShardCorruptError
from cluster.storage import s3
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectMissingError, StoreDeniedError, StoreUnreachableError
from tests.fixtures.faulty_proxy import (
    PASSING_FAULTS,
    AnswerBrokenOff,
    AnswerHung,
    AnswerLost,
    AnswerOfSecond,
    BitFlipped,
    BlackHole,
    Fault,
    FaultyProxy,
    Refusal,
    RequestLost,
    SeededPlan,
)
from tests.fixtures.s3_servers import S3Bucket
from tests.simulation.teacher import RECORD, ROWS, outputs

FAULTS = (
    AnswerLost(),
    RequestLost(),
    AnswerOfSecond(),
    AnswerBrokenOff(),
    Refusal(403, "AccessDenied"),
    Refusal(500, "InternalError"),
    Refusal(503, "SlowDown"),
)
NO_ANSWER = (StoreUnreachableError, StoreDeniedError)
KEYS = st.sampled_from(["a", "b/c"])
BODIES = st.sampled_from([b"one", b"two", b"three"])


@pytest.fixture
def proxy(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3_bucket.server.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.mark.parametrize("fault", [AnswerHung(), BlackHole()])
def test_a_silent_socket_is_given_up_at_the_deadline(
    s3_bucket: S3Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    store = open_store(s3_bucket.uri)
    store.put("warm-up", b"")
    monkeypatch.setattr(s3, "_READ_TIMEOUT_S", 1.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the new environment makes a new client
    proxy.befall("PUT", fault)
    with pytest.raises(StoreUnreachableError, match="writing a failed"):
        store.put_if_absent("a", b"one")
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")

    assert store.put_if_absent("a", b"two") == (fault == BlackHole())
    assert store.get("a") == (b"two" if fault == BlackHole() else b"one")


def test_a_bit_that_flips_on_the_way_is_refused_and_the_next_reading_is_right(
    s3_bucket: S3Bucket, proxy: FaultyProxy
) -> None:
    labels = LabelSet.create(open_store(s3_bucket.uri), RECORD)
    labels.commit(0, labels.encode(outputs(0, 0)), rows=ROWS, statistics={})
    assert labels.committed(0) is not None
    for bit in range(0, 16_000, 1_600):
        proxy.befall("GET", BitFlipped(bit))
        with pytest.raises(ShardCorruptError):
            labels.read(0)

    assert (labels.read(0)["logits"] == outputs(0, 0)["logits"]).all()


def test_a_writer_that_lost_to_itself_is_told_its_own_record(s3_bucket: S3Bucket, proxy: FaultyProxy) -> None:
    labels = LabelSet.create(open_store(s3_bucket.uri), RECORD)
    body = labels.encode(outputs(0, 0))
    proxy.befall("PUT", AnswerOfSecond(), AnswerOfSecond())

    commit = labels.commit(0, body, rows=ROWS, statistics={"attempt": 1.0})

    assert proxy.num_waiting == 0
    assert commit.statistics == {"attempt": 1.0}


def test_a_plan_is_a_function_of_its_seed() -> None:
    def fates(seed: int) -> list[Fault | None]:
        plan = SeededPlan(seed, 0.3)
        return [plan.fault_of("PUT", f"/bucket/{number}", nth) for number in range(200) for nth in range(3)]

    assert fates(1) == fates(1) != fates(2)
    assert set(PASSING_FAULTS) < set(fates(1))
    assert 0.25 < sum(fate is not None for fate in fates(1)) / 600 < 0.35
    assert SeededPlan(1, 1.0).fault_of("DELETE", "/bucket/a", 0) is None


def store_machine(bucket: S3Bucket, proxy: FaultyProxy) -> Callable[[], RuleBasedStateMachine]:
    """Return a machine that writes and reads below a new prefix each time."""
    prefixes = itertools.count()

    class Store(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = open_store(f"{bucket.uri}/{next(prefixes)}")
            self.possible: dict[str, set[bytes | None]] = {key: {None} for key in ("a", "b/c")}

        @rule(key=KEYS, body=BODIES, fault=st.sampled_from((None, *FAULTS)))
        def put(self, key: str, body: bytes, fault: Fault | None) -> None:
            self._befall("PUT", fault)
            try:
                self.store.put(key, body)
            except NO_ANSWER:
                self.possible[key] |= {body}
            else:
                self.possible[key] = {body}

        @rule(key=KEYS, body=BODIES, fault=st.sampled_from((None, *FAULTS)))
        def put_if_absent(self, key: str, body: bytes, fault: Fault | None) -> None:
            self._befall("PUT", fault)
            landed = {body if found is None else found for found in self.possible[key]}
            try:
                is_ours = self.store.put_if_absent(key, body)
            except NO_ANSWER:
                self.possible[key] |= landed
            else:
                assert not is_ours or None in self.possible[key]
                self.possible[key] = {body} if is_ours else landed

        @rule(key=KEYS, fault=st.sampled_from((None, *FAULTS)))
        def get(self, key: str, fault: Fault | None) -> None:
            self._befall("GET", fault)
            try:
                found: bytes | None = bytes(self.store.get(key))
            except ObjectMissingError:
                found = None
            except NO_ANSWER:
                return
            assert found in self.possible[key]
            self.possible[key] = {found}

        def _befall(self, method: str, fault: Fault | None) -> None:
            if fault is not None:
                proxy.befall(method, fault)

    return Store


def test_whatever_befalls_a_request_the_store_holds_only_what_may_have_landed(
    s3_bucket: S3Bucket, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # so that every fault reaches the caller
    machine = store_machine(s3_bucket, proxy)
    with stamina.set_testing(True, attempts=1):
        run_state_machine_as_test(machine, settings=settings(max_examples=10, stateful_step_count=12, deadline=None))
