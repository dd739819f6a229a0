"""From rows to a committed shard: what a teacher says is read back, and labelling again gives the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.special import softmax

from cluster.errors import TeacherError
from cluster.shards.codecs.open import codec_of
from cluster.shards.codecs.spec import AnyCodecConfig, TapConfig
from cluster.shards.commits import Commit
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.taps import signs, tap_columns, unpack_tap
from cluster.storage.directory import DirectoryStore
from teachers.backends.head import HeadError
from teachers.backends.load import load_backend
from teachers.labeller import Labeller
from teachers.outputs import OutputRefusedError
from teachers.spec import TeacherConfig
from teachers.weights import weights_in_store
from tests.fixtures.tiny import Smooth, Tied

ROWS, CLASSES = 23, 6
X = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)

CODECS = {
    "dense": {"codec": "dense"},
    "topk": {"codec": "topk", "k": CLASSES, "tail_samples": 0},
    "topk with draws": {"codec": "topk", "k": 3, "values": "int4", "tail_samples": 2},
    "sampled": {"codec": "sampled", "draws": 7},
    "hidden": {"codec": "hidden", "head": "2", "width": 16},
    "hidden int8": {"codec": "hidden", "head": "2", "width": 16, "values": "int8"},
}


def teacher(codec: dict[str, object], model: str = "Smooth", **arguments: int) -> TeacherConfig:
    return TeacherConfig.model_validate(
        {
            "name": "wide",
            "model": f"tests.fixtures.tiny:{model}",
            "arguments": arguments,
            "weights": "w.safetensors",
            "labels": codec,
        }
    )


def labeller_of(store: DirectoryStore, config: TeacherConfig, module: torch.nn.Module, *, batch_size: int) -> Labeller:
    body = safetensors.torch.save({name: tensor.clone() for name, tensor in module.state_dict().items()})
    weights = weights_in_store("teachers/wide", body, backend="module")
    store.put(weights.key, body)
    return Labeller("wide", load_backend(store, config, weights, on=config.resources), batch_size)


def record_of(codec: AnyCodecConfig, num_classes: int = CLASSES) -> LabelSetRecord:
    return LabelSetRecord(
        teacher="wide",
        teacher_identity="1" * 16,
        dataset="d" * 16,
        columns=codec_of(codec, num_classes).columns(),
        codec=codec,
        num_classes=num_classes,
    )


def label(folder: Path, codec: dict[str, object], *, batch_size: int = 5) -> tuple[LabelSet, Commit, torch.nn.Module]:
    torch.manual_seed(0)
    store, module = DirectoryStore(folder), Smooth(classes=CLASSES)
    config = teacher(codec, classes=CLASSES)
    labeller = labeller_of(store, config, module, batch_size=batch_size)
    labels, seen = LabelSet.create(store, record_of(config.labels)), []
    outputs = labeller.outputs(labels.record, 3, {"x": X}, on_batch=seen.append)
    assert seen == [*range(batch_size, ROWS, batch_size), ROWS]
    return labels, labeller.commit(labels, 3, outputs), module


@pytest.mark.parametrize(("codec", "error"), [("dense", 1e-3), ("topk", 1e-3), ("hidden", 1e-3), ("hidden int8", 0.02)])
def test_what_is_read_back_is_what_the_module_says(tmp_path: Path, codec: str, error: float) -> None:
    labels, commit, module = label(tmp_path, CODECS[codec])

    with torch.inference_mode():
        expected = softmax(module(torch.from_numpy(X)).double().numpy(), axis=1)
    assert softmax(LogitsReader(labels).read(3), axis=1) == pytest.approx(expected, abs=error)
    assert commit.rows == ROWS
    assert commit.statistics["mean_confidence"] == pytest.approx(expected.max(axis=1).mean(), abs=1e-5)


@pytest.mark.parametrize("codec", CODECS)
def test_labelling_again_in_batches_of_another_size_gives_the_same_bytes(tmp_path: Path, codec: str) -> None:
    # Of a linear layer that is summed in another order the last bits may differ, and float16 hides them.
    _, first, _ = label(tmp_path / "first", CODECS[codec], batch_size=23)
    _, second, _ = label(tmp_path / "second", CODECS[codec], batch_size=23)
    third, _, _ = label(tmp_path / "third", CODECS[codec], batch_size=4)

    assert first.digest == second.digest
    draws = [name for name in ("draws", "tail_ids") if name in third.read(3)]
    again, _, _ = label(tmp_path / "first", CODECS[codec], batch_size=23)
    assert all(np.array_equal(third.read(3)[name], again.read(3)[name]) for name in draws)


@pytest.mark.parametrize(
    ("head", "width", "found"),
    [
        ("9", 16, "there is no such module"),
        ("1", 16, "which is a Tanh"),
        ("2", 8, "16 wide, where labels.width is 8"),
        ("0", 4, "whose output is not the model's"),
    ],
)
def test_a_layer_that_cannot_stand_for_the_output_is_refused(tmp_path: Path, head: str, width: int, found: str) -> None:
    with pytest.raises(HeadError, match=found) as refusal:
        label(tmp_path, {"codec": "hidden", "head": head, "width": width})

    assert isinstance(refusal.value, TeacherError)
    assert f"labels.head is {head!r}" in str(refusal.value)


def test_a_head_without_a_bias_adds_nothing(tmp_path: Path) -> None:
    store, module = DirectoryStore(tmp_path), Tied(4)
    config = teacher({"codec": "hidden", "head": "second", "width": 4}, "Tied", features=4)
    labels = LabelSet.create(store, record_of(config.labels, 4))
    labeller = labeller_of(store, config, module, batch_size=8)

    labeller.commit(labels, 0, labeller.outputs(labels.record, 0, {"x": X}))

    with torch.inference_mode():
        assert LogitsReader(labels).read(0) == pytest.approx(module(torch.from_numpy(X)).numpy(), abs=2e-3)


TAPS = {"1": TapConfig(project=4, values="int8"), "0": TapConfig()}


def tapped(folder: Path, module: torch.nn.Module, *, batch_size: int) -> tuple[Labeller, LabelSet]:
    """Return a teacher and its label set, in which outputs of its modules are stored."""
    store, config = DirectoryStore(folder), teacher(CODECS["dense"], classes=CLASSES).model_copy(update={"taps": TAPS})
    plain = record_of(config.labels)
    columns = plain.columns + tap_columns(TAPS, {"0": (16,), "1": (4,)})
    record = LabelSetRecord.model_validate(plain.model_dump() | {"columns": columns, "taps": TAPS})
    return labeller_of(store, config, module, batch_size=batch_size), LabelSet.create(store, record)


@pytest.mark.parametrize("batch_size", [4, 23])
def test_what_is_stored_of_modules_is_what_they_give(tmp_path: Path, batch_size: int) -> None:
    torch.manual_seed(0)
    module = Smooth(classes=CLASSES)
    labeller, labels = tapped(tmp_path, module, batch_size=batch_size)

    labeller.commit(labels, 0, labeller.outputs(labels.record, 0, {"x": X}))

    arrays, state = labels.read(0), {name: values.double().numpy() for name, values in module.state_dict().items()}
    entered = X @ state["0.weight"].T + state["0.bias"]
    projected = np.tanh(entered) @ signs(16, 4)
    steps = np.abs(projected).max(axis=1, keepdims=True) / 127
    assert unpack_tap(TAPS, "0", arrays) == pytest.approx(entered, rel=1e-3, abs=1e-5)
    assert np.all(np.abs(unpack_tap(TAPS, "1", arrays) - projected) <= 0.51 * steps)
    with torch.inference_mode():
        assert LogitsReader(labels).read(0) == pytest.approx(module(torch.from_numpy(X)).numpy(), abs=2e-3)


@pytest.mark.parametrize("codec", ["topk with draws", "sampled", "hidden"])
@pytest.mark.parametrize("values_at_once", [1, 2 * CLASSES * 5, 1 << 20])
def test_how_many_batches_are_checked_in_one_call_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, values_at_once: int
) -> None:
    _, alone, _ = label(tmp_path / "alone", CODECS[codec])
    monkeypatch.setattr("teachers.labeller._VALUES_AT_ONCE", values_at_once)

    _, together, _ = label(tmp_path / "together", CODECS[codec])

    assert together == alone


def test_logits_of_another_shape_are_refused_before_batches_are_joined(tmp_path: Path) -> None:
    torch.manual_seed(0)
    store, config = DirectoryStore(tmp_path), teacher(CODECS["dense"], classes=CLASSES)
    labeller = labeller_of(store, config, Smooth(classes=CLASSES), batch_size=5)

    with pytest.raises(OutputRefusedError, match=r"shape \[5, 6\], expected \[5, 7\]: rows, classes"):
        labeller.outputs(record_of(config.labels, CLASSES + 1), 0, {"x": X})


def test_an_output_of_a_module_that_is_no_number_is_refused_though_the_logits_are(tmp_path: Path) -> None:
    module = Smooth(classes=CLASSES)
    with torch.no_grad():
        module[0].weight[3] = 1e30  # of which tanh makes 1
    labeller, labels = tapped(tmp_path, module, batch_size=5)

    with pytest.raises(OutputRefusedError, match=r"value 3 in row \d.*finite outputs of the tapped module of at most"):
        labeller.outputs(labels.record, 3, {"x": X})


def test_a_row_that_is_no_number_is_named_and_nothing_is_committed(tmp_path: Path) -> None:
    store, module = DirectoryStore(tmp_path), Smooth(classes=CLASSES)
    config = teacher(CODECS["topk with draws"], classes=CLASSES)
    labeller, rows = labeller_of(store, config, module, batch_size=5), X.copy()
    rows[17, 2] = np.nan

    with pytest.raises(OutputRefusedError, match="teacher wide, shard 3: found nan for class 0 in row 17"):
        labeller.outputs(record_of(config.labels), 3, {"x": rows})
