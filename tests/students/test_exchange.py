"""Members that train on workers of their own: against numpy, side by side or in turns, killed, and waiting in vain."""

import contextlib
import pickle
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import softmax

from cluster.modules import load_weights
from cluster.optimizers import OptimizerConfig
from cluster.shards.garbage import collect_garbage
from cluster.shards.records import read_record
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectStat, ObjectStore
from students.exchange import NeverHeardError, PeerLateError
from students.group import Alone
from students.loop import train, turns
from students.members import members_of, peers_of
from students.objectives.cross_entropy import CrossEntropyTerm
from students.rounds import forget_life, has_begun, publish_round, read_round, rounds_there, show_life
from students.task import Execution, TrainedRecord, TrainingTask
from students.trained import build_trained
from tests.fixtures.cohorts import cohort_of, files_of, in_turns, side_by_side
from tests.fixtures.crashing_store import CrashingStore, Killed
from tests.fixtures.plain_order import plain_batches
from tests.fixtures.tiny import points, task, write_rows
from tests.fixtures.tiny_workers import together as run_together
from tests.fixtures.tiny_workers import train_member

ROWS, SHARD_ROWS, STEPS = 64, 16, 4
"""An epoch has four steps."""
ALWAYS = Execution(checkpoint_every_s=0.0)
IMPATIENT = Execution(labels_timeout_s=0.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def training_in(root: Path, model: str = "Linear", **changes: object) -> TrainingTask:
    store = DirectoryStore(root)
    rows = write_rows(store, points(ROWS, seed=1, spread=0.8), "a", shard_rows=SHARD_ROWS)
    held_out = write_rows(store, points(40, seed=2, spread=0.8), "b")
    return task(rows, held_out, model, **({"epochs": 4} | changes))


def weights(store: ObjectStore, training: TrainingTask) -> dict[str, np.ndarray]:
    record = read_record(store, training.record_key, TrainedRecord)
    return safetensors.numpy.load(bytes(store.get(record.weights_key)))


def digests(store: ObjectStore, cohort: TrainingTask) -> list[str]:
    """Return the weights that each member has ended with."""
    return [read_record(store, member.record_key, TrainedRecord).weights_digest for member in members_of(cohort)]


def copied(root: Path, name: str) -> Path:
    return Path(shutil.copytree(root, root.parent / name / "store"))


def plain_cohort(
    root: Path, cohort: TrainingTask, *, steps_per_round: int, burn_in: int, weight: float, temperature: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights and biases of codistilled softmax regressions by SGD, in plain numpy."""
    rows, rate = points(ROWS, seed=1, spread=0.8), cohort.optimizer.lr
    x, onehot = rows["x"].astype(np.float64), np.eye(3)[rows["label"]]
    members, orders = [], []
    for member in members_of(cohort):
        still = member.model_copy(
            update={"membership": None, "epochs": 1, "optimizer": OptimizerConfig(name="sgd", lr=1e-30)}
        )
        store = DirectoryStore(copied(root, f"still-{member.name}"))
        train(store, still, Execution(), Alone())
        first = weights(store, still)
        members.append((first["weight"].astype(np.float64), first["bias"].astype(np.float64)))
        shards = [SHARD_ROWS] * (ROWS // SHARD_ROWS)
        orders.append(
            [
                [shard * SHARD_ROWS + row for lane in batch for shard, row in lane]
                for epoch in range(cohort.epochs)
                for batch in plain_batches(shards, lanes=4, window_rows=8, batch_size=16, seed=member.seed, epoch=epoch)
            ]
        )
    frozen = list(members)
    for step in range(cohort.epochs * STEPS):
        if step % steps_per_round == 0:
            frozen = list(members)
        heard = step // steps_per_round >= burn_in
        for number, (weight_CF, bias_C) in enumerate(members):
            picked = orders[number][step]
            logits = x[picked] @ weight_CF.T + bias_C
            gradient = softmax(logits, axis=1) - onehot[picked]
            others = [peer for place, peer in enumerate(frozen) if place != number]
            for peer_CF, peer_C in others if heard else []:
                target = softmax((x[picked] @ peer_CF.T + peer_C) / temperature, axis=1)
                gradient += weight * temperature * (softmax(logits / temperature, axis=1) - target) / len(others)
            gradient /= len(picked)
            members[number] = weight_CF - rate * gradient.T @ x[picked], bias_C - rate * gradient.sum(axis=0)
    return members


@pytest.mark.parametrize(("exchange_every", "unit", "burn_in"), [(1, "epochs", 1), (3, "steps", 2), (3, "epochs", 1)])
def test_members_learn_what_codistilled_softmax_regressions_in_plain_numpy_learn(
    root: Path, exchange_every: int, unit: str, burn_in: int
) -> None:
    sgd = OptimizerConfig(name="sgd", lr=0.3, momentum=0, schedule="constant")
    options = {"exchange_every": exchange_every, "unit": unit, "burn_in": burn_in, "weight": 0.7, "temperature": 2.0}
    cohort = cohort_of(training_in(root, optimizer=sgd), "Linear", "Linear", **options)
    steps = exchange_every * (STEPS if unit == "epochs" else 1)
    expected = plain_cohort(root, cohort, steps_per_round=steps, burn_in=burn_in, weight=0.7, temperature=2.0)

    in_turns(DirectoryStore(root), cohort)

    for member, (weight, bias) in zip(members_of(cohort), expected, strict=True):
        found = weights(DirectoryStore(root), member)
        assert found["weight"] == pytest.approx(weight, abs=2e-5)
        assert found["bias"] == pytest.approx(bias, abs=2e-5)


def test_side_by_side_and_in_turns_members_end_with_the_same_weights_whatever_the_number_of_their_workers(
    root: Path, tmp_path: Path
) -> None:
    cohort = cohort_of(training_in(root, "Smooth"), "Dropped")
    alone, together, turning = copied(root, "alone"), copied(root, "together"), copied(root, "turning")
    in_turns(DirectoryStore(root), cohort)

    side_by_side(alone, cohort, workers=[1, 1])

    assert digests(DirectoryStore(alone), cohort) == digests(DirectoryStore(root), cohort)
    smooth = cohort_of(training_in(together, "Smooth"), "Linear")
    in_turns(DirectoryStore(root), smooth)
    side_by_side(together, smooth, workers=[2, 1])
    run_together(tmp_path, 2, train_member, turning, smooth, Execution())
    for member in members_of(smooth):
        for name, values in weights(DirectoryStore(root), member).items():
            assert weights(DirectoryStore(together), member)[name] == pytest.approx(values, abs=1e-5)
            assert weights(DirectoryStore(turning), member)[name] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("after_it", [False, True])
@pytest.mark.parametrize("execution", [ALWAYS, Execution()], ids=["saving often", "saving between rounds alone"])
def test_a_cohort_killed_at_any_operation_of_the_store_ends_the_same_and_cleans_up(
    root: Path, execution: Execution, after_it: bool
) -> None:
    cohort = cohort_of(training_in(root, "Dropped", epochs=3), "Normed", exchange_every=3, unit="steps")
    whole = copied(root, "whole")
    undisturbed = CrashingStore(DirectoryStore(whole))
    in_turns(undisturbed, cohort, execution)
    everyone = (cohort, *members_of(cohort))
    left = [files_of(DirectoryStore(whole), one) for one in everyone]

    for fatal in range(int(after_it), undisturbed.num_operations, 17):
        store = DirectoryStore(copied(root, str(fatal)))
        with contextlib.suppress(Killed):
            in_turns(CrashingStore(store, fatal=fatal, after_it=after_it), cohort, execution)

        in_turns(store, cohort, execution)

        assert digests(store, cohort) == digests(DirectoryStore(whole), cohort)
        assert [files_of(store, one) for one in everyone] == left


@pytest.mark.parametrize("seed", range(4))
def test_whoever_is_killed_while_others_go_on_and_however_often_all_end_the_same(root: Path, seed: int) -> None:
    cohort = cohort_of(training_in(root, "Dropped", epochs=3), "Normed", "Linear", exchange_every=3, unit="steps")
    whole, store, draw = DirectoryStore(copied(root, "whole")), DirectoryStore(root), random.Random(seed)
    in_turns(whole, cohort)
    members, kills_left = dict(enumerate(members_of(cohort))), 12

    def started(number: int) -> Iterator[object]:
        fatal = draw.randrange(2, 50) if kills_left > 0 else None
        crashing = CrashingStore(store, fatal=fatal, after_it=draw.random() < 0.5)
        return turns(crashing, members[number], draw.choice([ALWAYS, Execution()]), Alone())

    running = {number: started(number) for number in members}
    while running:
        number = draw.choice(sorted(running))
        try:
            next(running[number])
        except Killed:
            kills_left -= 1
            running[number] = started(number)
        except StopIteration:
            del running[number]

    assert kills_left < 10
    assert digests(store, cohort) == digests(whole, cohort)
    for one in (cohort, *members.values()):
        assert files_of(store, one) == files_of(whole, one)


def test_a_finished_cohort_leaves_the_records_and_weights_of_its_members_and_the_record_of_the_best(
    root: Path,
) -> None:
    store, cohort = DirectoryStore(root), cohort_of(training_in(root, "Dropped"), "Linear")

    in_turns(store, cohort)

    members = [read_record(store, member.record_key, TrainedRecord) for member in members_of(cohort)]
    for member, record in zip(members_of(cohort), members, strict=True):
        assert files_of(store, member) == sorted(
            [f"{record.weights_digest}.safetensors", "progress.json", "trained.json"]
        )
    best = max(members, key=lambda record: (record.points[-1].accuracy, -record.points[-1].nll))
    found = read_record(store, cohort.record_key, TrainedRecord)
    assert files_of(store, cohort) == ["trained.json"]
    assert (found.identity, found.weights_digest, found.points) == (cohort.identity, best.weights_digest, best.points)
    assert [(member.name, member.points) for member in found.members] == [
        ("student", members[0].points),
        ("peer-1", members[1].points),
    ]
    assert found.exported == ("student", "peer-1")[members.index(best)]
    trained = build_trained(cohort, found)
    load_weights(trained, bytes(store.get(found.weights_key)), where="the best")


def test_a_member_keeps_no_more_rounds_than_its_peers_may_ask_for(root: Path) -> None:
    store = DirectoryStore(root)
    cohort = cohort_of(training_in(root, epochs=6), "Linear")
    kept: list[list[int]] = []

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def put_if_absent(self, key: str, body: bytes | memoryview) -> bool:
            written = store.put_if_absent(key, body)
            if "/rounds/" in key:
                kept.extend(rounds_there(store, member) for member in members_of(cohort))
            return written

    in_turns(Watching(), cohort)

    assert max(map(len, kept)) == 2
    assert [rounds_there(store, member) for member in members_of(cohort)] == [[], []]


def test_a_member_whose_peer_has_stopped_says_who_is_missing_where_and_what_to_do(root: Path) -> None:
    student, peer = members_of(cohort_of(training_in(root), "Linear"))
    show_life(DirectoryStore(root), peer)

    with pytest.raises(PeerLateError) as caught:
        train(DirectoryStore(root), student, IMPATIENT, Alone())

    text = str(caught.value)
    assert f"{student.name} waits for {peer.name}, which has not ended round 0" in text
    assert f"{peer.prefix} holds no round" in text
    assert "run the same command again" in text
    assert rounds_there(DirectoryStore(root), student) == [0]


@pytest.mark.parametrize("is_alive", [True, False], ids=["slow", "without workers"])
def test_a_peer_that_is_slow_or_has_no_workers_yet_is_waited_for(root: Path, is_alive: bool) -> None:
    store, cohort = DirectoryStore(root), cohort_of(training_in(root, epochs=2), "Linear")
    student, peer = members_of(cohort)

    def change(look: int) -> None:
        if is_alive:
            show_life(store, peer)

    class Slow:
        """Where the peer shows life whenever somebody looks, or none; and at last has ended its round."""

        def __init__(self) -> None:
            self.looks = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def list(self, prefix: str) -> Iterator[ObjectStat]:
            if prefix == f"{peer.prefix}/":
                self.looks += 1
                if self.looks < 4:
                    change(self.looks)
                else:
                    ours = read_round(store, student, 0).weights
                    publish_round(store, peer, 0, bytes(store.get(ours.key)))
            return store.list(prefix)

    slow = Slow()

    record = train(slow, student, IMPATIENT, Alone())

    assert slow.looks == 4
    assert len(record.points) == 2


def test_a_member_shows_life_between_its_checkpoints_until_the_cohort_is_done(root: Path) -> None:
    store, cohort = DirectoryStore(root), cohort_of(training_in(root), "Linear")
    student, _ = members_of(cohort)
    assert not has_begun(store, student)

    next(turns(store, student, Execution(), Alone()))  # it misses the first round of its peer

    assert has_begun(store, student)
    forget_life(store, student)
    assert not has_begun(store, student)
    in_turns(store, cohort)
    assert has_begun(store, student)  # it has ended
    assert not any("/rounds/" in stat.key for stat in store.list(""))


def test_what_a_member_taken_for_dead_writes_late_is_garbage(root: Path) -> None:
    store, cohort = DirectoryStore(root), cohort_of(training_in(root), "Linear")
    in_turns(store, cohort)
    left = [stat.key for stat in store.list("")]
    for member in members_of(cohort):
        publish_round(store, member, 1, b"late")
        show_life(store, member)

    collect_garbage(store, now_s=time.time(), grace_s=-60.0)

    assert [stat.key for stat in store.list("")] == left


def test_members_whose_rounds_of_steps_never_end_are_refused_when_training_begins(root: Path) -> None:
    store = DirectoryStore(root)
    heard, unheard = (
        cohort_of(training_in(root, epochs=2), "Linear", unit="steps", exchange_every=every) for every in (7, 8)
    )

    with pytest.raises(NeverHeardError) as caught:
        in_turns(store, unheard)

    text = str(caught.value)
    assert "after 1 round(s) of 8 step(s), and the training has 8; expected more epochs" in text
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    in_turns(store, heard)
    assert store.exists(heard.record_key)


def test_a_member_that_lost_its_checkpoints_while_others_went_on_says_so(root: Path) -> None:
    store = DirectoryStore(root)
    student, peer = members_of(cohort_of(training_in(root), "Linear"))
    show_life(store, peer)
    publish_round(store, peer, 2, b"later")

    with pytest.raises(PeerLateError, match=r"holds round 2\. .* remove the folders of all members"):
        train(store, student, IMPATIENT, Alone())


def test_members_that_take_turns_and_all_miss_something_say_so(root: Path) -> None:
    store, cohort = DirectoryStore(root), cohort_of(training_in(root), "Linear")
    with pytest.raises(Killed):
        in_turns(CrashingStore(store, fatal=90), cohort)
    student, peer = members_of(cohort)
    assert min(rounds_there(store, peer)) > 0
    for stat in list(store.list(f"{student.prefix}/checkpoints/")):
        store.delete(stat.key)

    with pytest.raises(PeerLateError, match=rf"{student.name} waits for {peer.name}.* remove the folders"):
        in_turns(store, cohort, IMPATIENT)


def test_members_are_trainings_of_their_own_and_differ_in_seed_and_model(root: Path) -> None:
    cohort = cohort_of(training_in(root, seed=5), "Linear", "Smooth")

    members = members_of(cohort)

    assert [member.name for member in members] == ["tiny-student", "tiny-peer-1", "tiny-peer-2"]
    assert len({member.seed for member in members}) == len({task.identity for task in (cohort, *members)}) - 1 == 3
    assert members[0].seed == 5
    assert [member.model.factory.rpartition(":")[2] for member in members] == ["Linear", "Linear", "Smooth"]
    for member in members:
        assert peers_of(member) == tuple(other for other in members if other != member)
    assert peers_of(cohort) == ()


def test_whatever_changes_one_member_changes_the_identity_of_all(root: Path) -> None:
    training = training_in(root)
    members = {
        name: [member.identity for member in members_of(cohort)]
        for name, cohort in {
            "one": cohort_of(training, "Linear"),
            "renamed": cohort_of(training.model_copy(update={"name": "other"}), "Linear"),
            "another model": cohort_of(training, "Smooth"),
            "another rhythm": cohort_of(training, "Linear", exchange_every=2),
            "another objective": cohort_of(
                training.model_copy(update={"objective": (CrossEntropyTerm(label_smoothing=0.1),)}), "Linear"
            ),
        }.items()
    }

    assert members.pop("renamed") == members["one"]
    assert len({identity for identities in members.values() for identity in identities}) == 8
