"""What runs a model: it gives the logits that torch gives, and says which weights are wrong."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper

from cluster.models import InputConfig
from cluster.modules import InputColumnError, InputShapeError, WeightsError
from cluster.shards.verified import ShardCorruptError
from cluster.storage.directory import DirectoryStore
from cluster.weights import StoredWeights
from teachers.backends.load import load_backend
from teachers.backends.onnx import OnnxBackend
from teachers.backends.protocol import Backend
from teachers.spec import TeacherConfig
from teachers.weights import weights_in_store
from tests.fixtures.tiny import Convolved, Dropped, Linear

ROWS = 9
X = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def teacher(**changes: object) -> TeacherConfig:
    fields = {"name": "wide", "model": "tests.fixtures.tiny:Linear", "weights": "w.safetensors"}
    return TeacherConfig.model_validate(fields | changes)


def stored(store: DirectoryStore, config: TeacherConfig, body: bytes) -> StoredWeights:
    weights = weights_in_store("teachers/wide", body, backend=config.backend)
    store.put(weights.key, body)
    return weights


def backend_of(store: DirectoryStore, module: torch.nn.Module, **changes: object) -> Backend:
    config = teacher(**changes)
    return load_backend(
        store, config, stored(store, config, safetensors.torch.save(module.state_dict())), on=config.resources
    )


def onnx_backend_of(store: DirectoryStore, module: torch.nn.Module, example: torch.Tensor, **inputs: object) -> Backend:
    config = teacher(model=None, weights="w.onnx", inputs=inputs)
    return load_backend(store, config, stored(store, config, exported(module, example)), on=config.resources)


def exported(module: torch.nn.Module, example: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that does without a compiler is deprecated, and fast
        torch.onnx.export(
            module.eval(),
            (example,),
            buffer,
            dynamo=False,
            input_names=["inputs"],
            output_names=["logits"],
            dynamic_axes={"inputs": {0: "rows"}, "logits": {0: "rows"}},
        )
    return buffer.getvalue()


def expected(module: torch.nn.Module, inputs: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = module.eval()(inputs).numpy()
    return logits


def test_a_module_gives_the_logits_of_plain_torch_without_dropout(store: DirectoryStore) -> None:
    module = Dropped()
    backend = backend_of(store, module, model="tests.fixtures.tiny:Dropped")

    logits = backend.forward({"x": X}).logits.numpy()

    assert logits.dtype == np.float32
    assert np.array_equal(logits, expected(module, torch.from_numpy(X)))
    assert np.array_equal(logits, backend.forward({"x": X}).logits)


def test_a_convolutional_module_gives_the_same_logits_in_its_fast_layout(store: DirectoryStore) -> None:
    module = Convolved(classes=5)
    backend = backend_of(
        store, module, model="tests.fixtures.tiny:Convolved", arguments={"classes": 5}, inputs={"shape": (1, 1, 4)}
    )

    logits = backend.forward({"x": X}).logits.numpy()

    assert logits == pytest.approx(expected(module, torch.from_numpy(X).reshape(ROWS, 1, 1, 4)), abs=1e-6)


def test_an_onnx_file_gives_the_logits_of_the_module_it_was_exported_from(store: DirectoryStore) -> None:
    module, images = Convolved(), torch.from_numpy(X).reshape(ROWS, 1, 1, 4)
    backend = onnx_backend_of(store, module, images[:2], shape=(1, 1, 4))

    for rows in (1, ROWS):
        logits = backend.forward({"x": X[:rows]}).logits.numpy()
        assert logits.dtype == np.float32
        assert logits == pytest.approx(expected(module, images[:rows]), abs=1e-5)


INPUTS: dict[str, tuple[InputConfig, np.ndarray]] = {
    "bytes are divided by 255": (InputConfig(), np.arange(36, dtype=np.uint8).reshape(9, 4)),
    "floats stay": (InputConfig(), X),
    "half precision is cast": (InputConfig(), X.astype(np.float16)),
    "integers are cast": (InputConfig(), np.arange(36, dtype=np.int32).reshape(9, 4)),
    "scaled": (InputConfig(scale=0.5), np.arange(36, dtype=np.uint8).reshape(9, 4)),
    "standardised": (InputConfig(mean=0.25, std=2.0), np.arange(36, dtype=np.uint8).reshape(9, 4)),
    "standardised one by one": (InputConfig(mean=[0.1, 0.2, 0.3, 0.4], std=[1, 2, 3, 4]), X),
}


@pytest.mark.parametrize("case", INPUTS)
def test_columns_become_inputs_alike_in_both_backends(store: DirectoryStore, case: str) -> None:
    config, column = INPUTS[case]
    module, changes = Linear(), config.model_dump()
    scale = config.scale or (1 / 255 if column.dtype == np.uint8 else 1)
    inputs = (column.astype(np.float64) * scale - np.array(config.mean)) / np.array(config.std)
    weight, bias = (tensor.detach().double().numpy() for tensor in (module.weight, module.bias))
    logits = inputs @ weight.T + bias

    of_module = backend_of(store, module, inputs=changes).forward({"x": column}).logits.numpy()
    of_onnx = onnx_backend_of(store, module, torch.zeros(2, 4), **changes).forward({"x": column}).logits.numpy()

    assert of_module == pytest.approx(logits, abs=1e-5)
    assert of_onnx == pytest.approx(logits, abs=1e-5)


def test_a_teacher_reads_the_column_it_names(store: DirectoryStore) -> None:
    module = Linear()
    backend = backend_of(store, module, inputs={"column": "y"})

    logits = backend.forward({"x": X, "y": 2 * X}).logits.numpy()

    assert np.array_equal(logits, expected(module, torch.from_numpy(2 * X)))
    with pytest.raises(InputColumnError, match=r"inputs\.column is y; the data set has x\. Name one"):
        backend.forward({"x": X})
    with pytest.raises(InputColumnError, match=r"inputs\.column is None; the data set has x, y\. Name one"):
        backend_of(store, module).forward({"x": X, "y": X})


def test_a_shape_that_the_column_has_not_is_named(store: DirectoryStore) -> None:
    with pytest.raises(InputShapeError, match=r"inputs\.shape is \[2, 3\], which does not fit rows of shape \[4\]"):
        backend_of(store, Linear(), inputs={"shape": (2, 3)}).forward({"x": X})


def assert_refused(store: DirectoryStore, body: bytes, reason: str, **changes: object) -> None:
    config = teacher(**changes)
    weights = stored(store, config, body)
    with pytest.raises(WeightsError) as refusal:
        load_backend(store, config, weights, on=config.resources)
    assert str(refusal.value).startswith(f"teacher wide ({weights.key}): ")
    assert reason in str(refusal.value)


def test_weights_of_another_module_are_named(store: DirectoryStore) -> None:
    weight, bias = torch.zeros(3, 4), torch.zeros(3)

    assert_refused(store, safetensors.torch.save({"weight": weight}), 'Missing key(s) in state_dict: "bias"')
    extra = {"weight": weight, "bias": bias, "gate": torch.zeros(3)}
    assert_refused(store, safetensors.torch.save(extra), 'Unexpected key(s) in state_dict: "gate"')
    assert_refused(
        store,
        safetensors.torch.save({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}),
        "size mismatch for weight: copying a param with shape torch.Size([2, 4])",
    )
    assert_refused(store, b"not a file of tensors", "not a safetensors file")


def model_of(*nodes: onnx.NodeProto, inputs: dict[str, int], output: int = TensorProto.FLOAT) -> bytes:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["rows", 4])

    graph = helper.make_graph(
        list(nodes), "graph", [value(name, kind) for name, kind in inputs.items()], [value("out", output)]
    )
    body: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    ).SerializeToString()
    return body


def test_onnx_files_that_cannot_be_run_are_named(store: DirectoryStore) -> None:
    onnx_file = {"model": None, "weights": "w.onnx"}
    two = model_of(helper.make_node("Add", ["a", "b"], ["out"]), inputs={"a": 1, "b": 1})
    double = model_of(
        helper.make_node("Identity", ["a"], ["out"]), inputs={"a": TensorProto.DOUBLE}, output=TensorProto.DOUBLE
    )

    assert_refused(store, b"\x08 no model at all", "onnxruntime cannot load it", **onnx_file)
    assert_refused(store, two, "the graph has 2 inputs, expected 1", **onnx_file)
    assert_refused(store, double, "its input is a tensor(double), expected tensor(float)", **onnx_file)


def test_an_onnx_file_whose_weights_lie_elsewhere_is_refused_even_where_they_can_be_read(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["out"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    whole = OnnxBackend(InputConfig(), model.SerializeToString(), num_threads=1, on_gpu=False, where="here")
    assert np.array_equal(whole.forward({"x": X}).logits.numpy(), X)

    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)

    assert_refused(
        store, (tmp_path / "m.onnx").read_bytes(), "onnxruntime cannot load it", model=None, weights="w.onnx"
    )


def test_weights_that_were_exchanged_in_the_store_are_never_parsed(store: DirectoryStore) -> None:
    config = teacher()
    weights = stored(store, config, safetensors.torch.save(Linear().state_dict()))
    store.put(weights.key, safetensors.torch.save(Linear().state_dict()))

    with pytest.raises(ShardCorruptError, match=json.dumps(weights.digest)[1:-1]):
        load_backend(store, config, weights, on=config.resources)
