"""What a model costs: its size, and the time of one row on one thread."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import onnx
import torch

from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, in_fast_layout, input_array, load_weights, num_parameters, to_inputs
from cluster.resources import ResourceConfig
from cluster.shards.records import read_record
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from orchestrator.resolution.labellers import ResolvedTeacher
from orchestrator.resolution.weights import weights_of
from students.exits import StudentExit, load_exits, used_parameters
from students.task import TrainedRecord, TrainingTask
from students.trained import build_trained
from teachers.backends.load import load_backend

_TIMED_CALLS = 30
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Measured:
    """Size and speed; of an ensemble, the sums over its teachers."""

    parameters: int | None
    num_bytes: int
    latency_ms: float

    def __add__(self, other: "Measured") -> "Measured":
        known = self.parameters is not None and other.parameters is not None
        parameters = (self.parameters or 0) + (other.parameters or 0) if known else None
        return Measured(parameters, self.num_bytes + other.num_bytes, self.latency_ms + other.latency_ms)


def measure_teacher(store: ObjectStore, teacher: ResolvedTeacher, rows: Mapping[str, np.ndarray]) -> Measured:
    """Load a teacher as a replica does, and time it on single rows."""
    # Without taps: what they cost is no part of the model.
    weights, config = weights_of(store, teacher), teacher.config.model_copy(update={"taps": {}})
    backend = load_backend(store, config, weights, on=ResourceConfig(cpu=1))
    one_row = {name: array[:1] for name, array in rows.items()}
    if config.model is None:
        graph = onnx.load_from_string(bytes(store.get(weights.key))).graph
        parameters = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    else:
        model = ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs)
        parameters = num_parameters(build_module(model))
    return Measured(parameters, weights.num_bytes, _median_ms(lambda: backend.forward(one_row)))


def load_student(store: ObjectStore, task: TrainingTask) -> torch.nn.Module:
    """Return a trained module in evaluation mode; raises `ObjectMissingError` before it is trained."""
    record = read_record(store, task.record_key, TrainedRecord)
    body = fetch_verified(store, record.weights_key, digest=record.weights_digest, num_bytes=record.num_bytes)
    module = build_trained(task, record)
    load_weights(module, bytes(body), where=f"{store.uri}/{record.weights_key}")
    return in_fast_layout(module).eval()


def measure_student(
    store: ObjectStore, task: TrainingTask, data: Sequence[Mapping[str, np.ndarray]]
) -> tuple[Measured, list[np.ndarray]]:
    """Return what a trained student costs, and its logits, float32 `[rows, classes]`, for each part of `data`."""
    record = read_record(store, task.record_key, TrainedRecord)
    latency_ms, logits = _run(load_student(store, task), task.model.inputs, data)
    return Measured(record.parameters, record.num_bytes, latency_ms), logits


def load_student_exits(
    store: ObjectStore, task: TrainingTask, rows: Mapping[str, np.ndarray]
) -> dict[str, StudentExit]:
    """Return the exits of a trained student by the modules at which it ends; some `rows` are run through it."""
    record = read_record(store, task.record_key, TrainedRecord)
    inputs = to_inputs(input_array(rows, task.model.inputs)[:2], task.model.inputs)
    return load_exits(store, record, load_student(store, task), inputs=inputs) if record.exits else {}


def measure_exits(
    store: ObjectStore, task: TrainingTask, data: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, tuple[Measured, list[np.ndarray]]]:
    """Return what `measure_student` does, of each exit by the module at which it ends; its size is what it uses."""
    config, measured = task.model.inputs, {}
    for path, module in load_student_exits(store, task, data[0]).items():
        used = used_parameters(module, to_inputs(input_array(data[0], config)[:2], config))
        sizes = sum(it.numel() for it in used), sum(it.numel() * it.element_size() for it in used)
        latency_ms, logits = _run(module, config, data)
        measured[path] = Measured(*sizes, latency_ms), logits
    return measured


def _run(
    module: torch.nn.Module, config: InputConfig, data: Sequence[Mapping[str, np.ndarray]]
) -> tuple[float, list[np.ndarray]]:
    """Return the time of one row, and the logits of each part of `data`."""

    def forward(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        batches = to_inputs(input_array(arrays, config), config).split(_BATCH_ROWS)
        logits: np.ndarray = torch.cat([module(batch) for batch in batches]).float().numpy()
        return logits

    with torch.inference_mode():
        one_row = {name: array[:1] for name, array in data[0].items()}
        return _median_ms(lambda: forward(one_row)), [forward(arrays) for arrays in data]


def _median_ms(call: Callable[[], object]) -> float:
    """Return the median time of a call after as many calls again to warm up."""
    times = []
    for _ in range(2 * _TIMED_CALLS):
        started_s = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started_s))
    return median(times[_TIMED_CALLS:])
