"""Training on views: the student sees what its teachers saw, whoever reads, from wherever it goes on."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from cluster.shards.schema import NO_LABEL
from cluster.shards.views.look import look
from cluster.shards.views.spec import ViewsConfig
from students.batches import TrainingData
from students.group import Alone
from students.live import LiveTeachers
from students.loop import train
from students.objectives.cross_entropy import CrossEntropyTerm
from students.objectives.fitnet import FitNetTerm
from students.objectives.kl import KLTerm
from students.objectives.objective import Batch, Objective
from students.objectives.term import TermInputs
from students.spec import OrderConfig
from students.task import Execution, TrainedRecord, TrainingTask
from tests.fixtures.crashing_store import Killed
from tests.fixtures.seen import BATCH, ROWS, SHARD_ROWS, Seen, checksums
from tests.fixtures.tiny import targets
from tests.students.test_taps import DiesAtOnce

CPU = torch.device("cpu")
STEPS = -(-ROWS // BATCH)
AUGMENTED: dict[str, Any] = {
    "augment": [{"kind": "crop", "padding": 2}, {"kind": "flip"}, {"kind": "rotate"}, {"kind": "noise", "std": 9.0}]
}
VIEWS = {
    "one for each epoch": AUGMENTED,
    "fewer than epochs": {**AUGMENTED, "count": 2},
    "rows as they are first": {**AUGMENTED, "plain_first": True},
    "blended": {**AUGMENTED, "mixup": 0.5, "cutmix": 1.0, "count": 2},
}
all_views = pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS.keys())


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "store", labelled=40)


def views(**options: Any) -> ViewsConfig:
    return ViewsConfig.model_validate(options)


def read(seen: Seen, task: TrainingTask, *, rank: int = 0, world_size: int = 1, first_step: int = 0) -> list[Batch]:
    data = TrainingData(seen.store, task, Execution(), rank=rank, world_size=world_size)
    return list(data.batches(first_step=first_step, device=CPU))


def pictures(batches: list[Batch]) -> list[bytes]:
    return [row.numpy().tobytes() for batch in batches for row in batch.inputs]


@all_views
def test_every_batch_holds_the_pictures_that_its_teacher_saw(seen: Seen, options: dict[str, Any]) -> None:
    for batch in read(seen, seen.taught(views(**options))):
        assert batch.target_logits_NC is not None
        expected = log_softmax(checksums(batch.inputs.numpy()).astype(np.float64), axis=1)
        assert np.abs(batch.target_logits_NC.numpy() - expected).max() < 1e-4


@all_views
def test_every_epoch_holds_every_row_once_in_the_view_that_is_its_turn(seen: Seen, options: dict[str, Any]) -> None:
    config = views(**options)
    batches = read(seen, seen.taught(config))
    for epoch in range(3):
        view = config.view(config.number_in(epoch))
        starts = range(0, ROWS, SHARD_ROWS)
        shards = [{name: array[at : at + SHARD_ROWS] for name, array in seen.arrays.items()} for at in starts]
        images = np.concatenate([look(shard, view)["image"] for shard in shards])
        # As the model is fed: single precision, from 0 to 1.
        expected = [(torch.from_numpy(image).float() * (1 / 255)).numpy().tobytes() for image in images]
        assert sorted(pictures(batches[epoch * STEPS : (epoch + 1) * STEPS])) == sorted(expected)


def test_labels_of_blended_rows_stand_beside_them(seen: Seen) -> None:
    config = views(mixup=1.0, count=1)
    rows = {}
    for at in range(0, ROWS, SHARD_ROWS):
        shard = look({name: array[at : at + SHARD_ROWS] for name, array in seen.arrays.items()}, config.view(0))
        for image, *labels in zip(
            *(shard[name] for name in ("image", "label", ".partner_label", ".own_share")), strict=True
        ):
            rows[(torch.from_numpy(image).float() * (1 / 255)).numpy().tobytes()] = [float(label) for label in labels]
    for batch in read(seen, seen.taught(config)):
        assert batch.partner_labels_N is not None
        assert batch.own_shares_N is not None
        found = zip(batch.labels_N, batch.partner_labels_N, batch.own_shares_N, strict=True)
        for picture, labels in zip(pictures([batch]), found, strict=True):
            assert [float(label) for label in labels] == rows[picture]
        part = batch.part(slice(2, 5))
        assert part.partner_labels_N is not None
        assert torch.equal(part.partner_labels_N, batch.partner_labels_N[2:5])


@all_views
def test_any_number_of_workers_sees_the_same_from_any_step(seen: Seen, options: dict[str, Any]) -> None:
    task = seen.taught(views(**options))
    alone = read(seen, task)
    shares = [read(seen, task, rank=rank, world_size=3) for rank in range(3)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
        assert torch.equal(torch.cat([part.labels_N for part in parts]), whole.labels_N)
    for first_step in (1, STEPS, 2 * STEPS + 3):
        later = read(seen, task, first_step=first_step)
        assert pictures(later) == pictures(alone[first_step:])


@all_views
def test_a_training_that_was_killed_ends_bit_for_bit_like_one_that_was_not(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def run(store: Any, execution: Execution) -> TrainedRecord:
        return train(store, task, execution, Alone())

    whole, killed = (Seen(tmp_path / name, labelled=40) for name in ("whole", "killed"))
    _, task = (place.taught(views(**options)) for place in (whole, killed))
    expected = run(whole.store, Execution())
    for _ in range(2):
        with pytest.raises(Killed):
            run(DiesAtOnce(killed.store), Execution(checkpoint_every_s=0.0))
    found = run(killed.store, Execution())
    assert (found.weights_digest, found.points) == (expected.weights_digest, expected.points)


@pytest.mark.parametrize("count", [1, 3, None])
def test_labels_that_wait_in_their_shards_keep_no_file_open_of_a_view_that_is_past(
    seen: Seen, count: int | None
) -> None:
    config, epochs = views(**AUGMENTED, count=count), 6
    for view in config.within(epochs):
        seen.label(seen.record.seen(view))
    order = OrderConfig(lanes=4, window_rows=10**9)
    task = seen.task(views=config, targets=targets(seen.record), order=order, epochs=epochs)
    data = TrainingData(seen.store, task, Execution(), rank=0, world_size=1)
    num_open = list[int]()
    for batch in data.batches(first_step=0, device=CPU):
        open_files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        of_labels = [Path(file).parts for file in open_files if file.startswith(f"{seen.store.uri}/labels/")]
        num_open.append(len({parts[-3] for parts in of_labels}))
        assert batch.target_logits_NC is not None
        expected = log_softmax(checksums(batch.inputs.numpy()).astype(np.float64), axis=1)
        assert np.abs(batch.target_logits_NC.numpy() - expected).max() < 1e-4
    # Of one view the last rows are copied while the next one is read, and the one after it is read ahead.
    assert 0 < max(num_open) <= 3


def test_without_teachers_every_epoch_may_see_a_view_of_its_own(seen: Seen) -> None:
    batches = read(seen, seen.task(views=views(**AUGMENTED), objective=(CrossEntropyTerm(),)))
    assert len(set(pictures(batches))) == 3 * ROWS


def test_more_views_ask_teachers_for_none_that_is_there(seen: Seen) -> None:
    def asked(count: int) -> list[int]:
        return [seen.label(seen.record.seen(view)) for view in views(**AUGMENTED, count=count).within(9)]

    assert asked(2) == [ROWS, ROWS]
    assert asked(4) == [0, 0, ROWS, ROWS]
    assert asked(3) == [0, 0, 0]


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_modules_of_teachers_have_seen_the_same_pictures(seen: Seen, kind: str) -> None:
    hint, config = (KLTerm(), FitNetTerm(student="1", teacher="wide:sums")), views(**VIEWS["blended"])
    beside = {"live_teachers": (seen.live(),)} if kind == "live" else {"stored_taps": (seen.tapped,)}
    task = seen.taught(config, seen.tapped, objective=hint, **beside)
    live = LiveTeachers(seen.store, task, CPU)
    data = TrainingData(seen.store, task, Execution(), rank=0, world_size=1, live=live)
    for batch in map(live.watched, data.batches(first_step=0, device=CPU)):
        (output,) = batch.teacher_taps.values()
        assert np.array_equal(output.numpy(), checksums(batch.inputs.numpy()))


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_an_epoch_divides_by_the_rows_that_have_a_label_in_its_own_view(seen: Seen, mixing: dict[str, Any]) -> None:
    task = seen.task(views=views(**mixing, plain_first=True), objective=(CrossEntropyTerm(),), epochs=2)
    data = TrainingData(seen.store, task, Execution(), rank=0, world_size=1)
    objective = Objective(task.objective, labelled_share=data.labelled_share)
    losses = np.zeros(2)
    for step, batch in enumerate(data.batches(first_step=0, device=CPU)):
        losses[step // STEPS] += float(objective(torch.zeros(len(batch), 3), batch, global_rows=ROWS))

    # A student that knows nothing loses log 3 on each row with a label; of blended rows, both must have one.
    config, partners = views(**mixing).view(1), 0
    for at in range(0, ROWS, SHARD_ROWS):
        shard = look({name: array[at : at + SHARD_ROWS] for name, array in seen.arrays.items()}, config)
        partners += int(((shard["label"] != NO_LABEL) & (shard[".partner_label"] != NO_LABEL)).sum())
    assert losses == pytest.approx([np.log(3), np.log(3) * partners / (ROWS * (40 / ROWS) ** 2)])


def test_cross_entropy_of_a_blend_is_that_of_its_two_labels_by_their_shares() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((40, 5))).requires_grad_()
    own, other = (torch.from_numpy(rng.integers(0, 5, 40)) for _ in range(2))
    own[:7] = other[:7] = NO_LABEL
    share = torch.from_numpy(rng.random(40).astype(np.float32))
    term = CrossEntropyTerm(label_smoothing=0.1)

    def losses(logits_NC: torch.Tensor) -> torch.Tensor:
        return term.rows(TermInputs(logits_NC, own, partner_labels_N=other, own_shares_N=share))

    # One distribution to match, in place of two losses that are added.
    target = np.full((40, 5), 0.1 / 5)
    for labels, part in ((own, share.double().numpy()), (other, 1 - share.double().numpy())):
        np.add.at(target, (np.arange(40), labels.numpy()), 0.9 * part)
    log_q = log_softmax(logits.detach().numpy(), axis=1)
    is_labelled = np.arange(40) >= 7
    expected = -(target * log_q).sum(axis=1) * is_labelled
    assert np.abs(losses(logits).detach().numpy() - expected).max() < 1e-9
    (gradient,) = torch.autograd.grad(losses(logits).sum(), logits)
    by_hand = (np.exp(log_q) - target) * is_labelled[:, None]
    assert np.abs(gradient.numpy() - by_hand).max() < 1e-9
    assert torch.autograd.gradcheck(losses, logits)


def test_views_are_part_of_the_identity_of_a_training_and_those_without_are_what_they_were(seen: Seen) -> None:
    plain = seen.task()
    assert "views" not in plain.model_dump(mode="json")
    others = [plain, *(seen.task(views=views(**options)) for options in VIEWS.values())]
    assert len({task.identity for task in others}) == len(others)
    for one, other in itertools.pairwise(others):
        assert one.prefix != other.prefix
