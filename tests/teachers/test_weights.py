"""Weights are data: whatever could run code when it is loaded is refused by what it is, not by its name."""

import bz2
import gzip
import io
import json
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import TensorProto, helper

from cluster.identity import digest_of
from teachers.weights import (
    ClassMapError,
    UnsafeWeightsError,
    WeightsMissingError,
    classes_in,
    own_classes,
    read_weights,
    weights_in_store,
)

CLASSES = ("zero", "one", "two")


class Payload:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def buffered(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def object_array(payload: Payload) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = payload
    return array


def zipped(payload: Payload, name: str) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, pickle.dumps(payload))

    return buffered(write)


def tarred(payload: Payload) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        body = pickle.dumps(payload)
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo("pickle")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))

    return buffered(write)


def untarred(body: bytes) -> object:
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        pickled = archive.extractfile("pickle")
        assert pickled is not None
        return pickle.load(pickled)


def torch_script(payload: Payload) -> bytes:
    """Return a program of torch's own, which runs when it is called; nothing in it is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has deprecated it, but such files are around
        traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        return buffered(lambda buffer: torch.jit.save(traced, buffer))


PICKLES: dict[str, tuple[str, Callable[[Payload], bytes]]] = {
    "pickle 0": (".pkl", lambda payload: pickle.dumps(payload, protocol=0)),
    "pickle 2": (".pickle", lambda payload: pickle.dumps(payload, protocol=2)),
    "pickle 3": (".bin", lambda payload: pickle.dumps(payload, protocol=3)),
    "pickle 5": (".pkl", lambda payload: pickle.dumps({"weights": payload}, protocol=5)),
    "torch": (".pt", lambda payload: buffered(lambda buffer: torch.save({"w": payload}, buffer))),
    "legacy torch": (
        ".pth",
        lambda payload: buffered(
            lambda buffer: torch.save({"w": payload}, buffer, _use_new_zipfile_serialization=False)
        ),
    ),
    "torch tar": (".tar", tarred),
    "torch export": (".pt2", lambda payload: zipped(payload, "archive/data/sample_inputs/model.pt")),
    "TorchScript": (".ts", torch_script),
    "joblib": (".joblib", lambda payload: buffered(lambda buffer: joblib.dump([payload], buffer))),
    "joblib, compressed": (
        ".joblib",
        lambda payload: buffered(lambda buffer: joblib.dump(payload, buffer, compress=3)),
    ),
    "numpy": (".npy", lambda payload: buffered(lambda buffer: np.save(buffer, object_array(payload)))),
    "numpy archive": (".npz", lambda payload: buffered(lambda buffer: np.savez(buffer, w=object_array(payload)))),
    "keras": (".keras", lambda payload: zipped(payload, "model.weights.h5")),
    "keras, HDF5": (".h5", lambda payload: b"\x89HDF\r\n\x1a\n" + pickle.dumps(payload)),
    "gzip": (".pkl.gz", lambda payload: gzip.compress(pickle.dumps(payload))),
    "bzip2": (".pkl.bz2", lambda payload: bz2.compress(pickle.dumps(payload))),
}

LOADERS: dict[str, Callable[[bytes], object]] = {
    "pickle 0": pickle.loads,
    "pickle 2": pickle.loads,
    "pickle 3": pickle.loads,
    "pickle 5": pickle.loads,
    "torch": lambda body: torch.load(io.BytesIO(body), weights_only=False),
    "legacy torch": lambda body: torch.load(io.BytesIO(body), weights_only=False),
    "torch tar": untarred,
    "torch export": lambda body: pickle.loads(
        zipfile.ZipFile(io.BytesIO(body)).read("archive/data/sample_inputs/model.pt")
    ),
    "joblib": lambda body: joblib.load(io.BytesIO(body)),
    "joblib, compressed": lambda body: joblib.load(io.BytesIO(body)),
    "numpy": lambda body: np.load(io.BytesIO(body), allow_pickle=True),
    "numpy archive": lambda body: np.load(io.BytesIO(body), allow_pickle=True)["w"],
    "keras": lambda body: pickle.loads(zipfile.ZipFile(io.BytesIO(body)).read("model.weights.h5")),
    "keras, HDF5": lambda body: pickle.loads(body[8:]),
    "gzip": lambda body: pickle.loads(gzip.decompress(body)),
    "bzip2": lambda body: pickle.loads(bz2.decompress(body)),
}
"""What such files are meant to be read with: proof that the payloads are live. TorchScript has none of ours."""


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_of_any_kind_is_refused_under_its_own_name_and_under_others_and_runs_nothing(
    tmp_path: Path, kind: str
) -> None:
    suffix, write = PICKLES[kind]
    executed = tmp_path / "executed"
    body = write(Payload(executed))

    for name in (f"weights{suffix}", "weights", "weights.safetensors", "weights.onnx"):
        path = tmp_path / name
        path.write_bytes(body)
        with pytest.raises(UnsafeWeightsError) as refusal:
            read_weights(str(path))
        assert str(path) in str(refusal.value)
        assert "safetensors.torch.save_file" in str(refusal.value)

    assert not executed.exists()
    if kind in LOADERS:
        LOADERS[kind](body)
        assert executed.exists()


def test_the_refusal_names_the_kind_of_file() -> None:
    with pytest.raises(UnsafeWeightsError, match=r"^models/deep\.pth: found a \.pth file, expected a \.safetensors or"):
        read_weights("models/deep.pth")
    with pytest.raises(UnsafeWeightsError, match="found a nameless file"):
        read_weights("models/deep")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("pickle 5", "found a pickle under that name"),
        ("legacy torch", "found a pickle under that name"),
        ("torch", r"found a zip archive, as torch\.save"),
        ("keras, HDF5", "found an HDF5 file, as Keras writes"),
        ("numpy", "found a NumPy array"),
        ("joblib, compressed", "found a compressed file"),
        ("gzip", "found a compressed file"),
    ],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.onnx"])
def test_a_disguised_file_is_named_for_what_it_is(tmp_path: Path, kind: str, found: str, name: str) -> None:
    (tmp_path / name).write_bytes(PICKLES[kind][1](Payload(tmp_path / "executed")))

    with pytest.raises(UnsafeWeightsError, match=found):
        read_weights(str(tmp_path / name))


def lying(**entries: list[int]) -> bytes:
    header = {name: {"dtype": "U8", "shape": [4], "data_offsets": offsets} for name, offsets in entries.items()}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": [0, 4]},
        {"a": [0, 4], "b": [4, 12]},
        {"a": [0, 4], "b": [5, 8]},
        {"a": [0, 6], "b": [4, 8]},
        {"a": [-4, 8]},
        {"a": [8, 0], "b": [0, 8]},
        {"a": [0, 8, 8]},
        {},
    ],
    ids=["too short", "too long", "a hole", "an overlap", "before the start", "backwards", "three", "none"],
)
def test_a_safetensors_header_that_lies_about_its_bytes_is_refused(
    tmp_path: Path, entries: dict[str, list[int]]
) -> None:
    (tmp_path / "true.safetensors").write_bytes(lying(a=[0, 4], b=[4, 8]))
    assert safetensors.numpy.load_file(tmp_path / "true.safetensors").keys() == {"a", "b"}
    read_weights(str(tmp_path / "true.safetensors"))
    path = tmp_path / "lying.safetensors"
    path.write_bytes(lying(**entries))

    with pytest.raises(UnsafeWeightsError, match="found a header that"):
        read_weights(str(path))


def elsewhere(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("location", ["weights.bin", "../../secret", "/etc/passwd"])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function"])
def test_an_onnx_file_whose_weights_lie_elsewhere_is_refused(tmp_path: Path, location: str, where: str) -> None:
    tensor, value = elsewhere(location), helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    if where == "constant":
        nodes.append(constant)
    if where == "branch":
        branch = helper.make_graph([constant], "branch", [], [value])
        nodes.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    initializers = [tensor] if where == "initializer" else []
    functions = [helper.make_function("own", "f", [], ["w"], [constant], [])] if where == "function" else []
    graph = helper.make_graph(nodes, "g", [value], [value], initializers)
    path = tmp_path / "split.onnx"
    path.write_bytes(helper.make_model(graph, functions=functions).SerializeToString())

    with pytest.raises(UnsafeWeightsError, match="weights in a file of their own") as refusal:
        read_weights(str(path))

    assert location in str(refusal.value)


def test_half_an_onnx_file_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    (tmp_path / "half.onnx").write_bytes(helper.make_model(graph).SerializeToString()[:-5])

    with pytest.raises(UnsafeWeightsError, match="something else under that name"):
        read_weights(str(tmp_path / "half.onnx"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x05",
        (2**63).to_bytes(8, "little") + b"{}",
        (200).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
    ids=["empty", "short", "endless", "cut off", "a list", "not text", "nested too deep"],
)
def test_bytes_without_a_header_are_no_safetensors(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(body)

    with pytest.raises(UnsafeWeightsError, match="something else under that name"):
        read_weights(str(path))


def test_safetensors_and_onnx_files_come_back_as_they_are(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "a.safetensors")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["x2"])], "g", [value], [value])
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())

    for name in ("a.safetensors", "a.onnx"):
        assert read_weights(str(tmp_path / name)) == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(("name", "reason"), [("none.safetensors", "No such file"), ("folder.onnx", "Is a directory")])
def test_weights_that_are_not_there_are_named_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder.onnx").mkdir()

    with pytest.raises(WeightsMissingError, match=reason) as missing:
        read_weights(str(tmp_path / name))

    assert str(tmp_path / name) in str(missing.value)
    assert "check `weights` of the teacher" in str(missing.value)


def test_class_names_are_read_from_the_metadata_of_safetensors_alone(tmp_path: Path) -> None:
    path = tmp_path / "named.safetensors"
    tensors = {"w": np.zeros(3, np.float32)}

    def names_with(metadata: dict[str, str] | None) -> tuple[str, ...] | None:
        safetensors.numpy.save_file(tensors, path, metadata=metadata)
        return classes_in(read_weights(str(path)), str(path))

    assert names_with({"coffey.classes": json.dumps(CLASSES)}) == CLASSES
    assert names_with({"format": "pt"}) is None
    assert names_with(None) is None
    assert classes_in(b"\x08", "model.onnx") is None
    for broken in ("zero, one, two", '"zero"', "[1, 2]", "{}"):
        with pytest.raises(UnsafeWeightsError, match=r"coffey\.classes that is no JSON list of names"):
            names_with({"coffey.classes": broken})


def test_the_same_classes_in_the_same_order_or_none_at_all_are_all_of_them() -> None:
    assert own_classes("wide", CLASSES, CLASSES) == ()
    assert own_classes("wide", None, CLASSES) == ()


@pytest.mark.parametrize("found", [("zero", "one"), ("two", "zero")])
def test_some_of_the_classes_in_any_order_are_those_of_a_specialist(found: tuple[str, ...]) -> None:
    assert own_classes("low", found, CLASSES) == found


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (("zero", "two", "one"), "class 1 is 'two' for the teacher and 'one' in the data"),
        (("nil", "one", "two"), "class 0 is 'nil' for the teacher and 'zero' in the data"),
        (("zero", "tow"), "the data has no class 'tow', the nearest is 'two'"),
        (("zero", "one", "two", "x"), "the data has no class 'x'."),
        (("zero", "one", "two", "zero"), "the teacher names 'zero' twice"),
        (("zero", "zero"), "the teacher names 'zero' twice"),
        (("one",), "the teacher has 1 and tells nothing apart"),
    ],
)
def test_other_classes_are_refused_with_the_first_difference(found: tuple[str, ...], difference: str) -> None:
    with pytest.raises(ClassMapError) as refusal:
        own_classes("wide", found, CLASSES)

    message = str(refusal.value)
    assert message.startswith(f"teacher wide: its classes are {', '.join(found)}, the data set's are zero, one, two;")
    assert difference in message


def test_a_difference_among_many_classes_is_named_though_not_all_are_listed() -> None:
    expected = tuple(f"class{number}" for number in range(1000))
    found = (*expected[:700], "other", *expected[701:])

    with pytest.raises(ClassMapError) as refusal:
        own_classes("wide", found, expected)

    assert "class 700 is 'other' for the teacher and 'class700' in the data" in str(refusal.value)
    assert "class5, … (1000)" in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_weights_lie_in_the_store_under_their_digest() -> None:
    stored = weights_in_store("teachers/wide-1", b"body", backend="module")

    assert stored.key == f"teachers/wide-1/{digest_of(b'body')}.safetensors"
    assert (stored.digest, stored.num_bytes) == (digest_of(b"body"), 4)
    assert weights_in_store("teachers/wide-1", b"body", backend="onnx").key.endswith(".onnx")
