"""Export: the student of the first seed as files that others can use, each checked against the trained module."""

import json
import warnings

import numpy as np
import onnxruntime
import ray
import safetensors.torch
import torch

from cluster.config import Config
from cluster.errors import TrainingError
from cluster.identity import digest_of
from cluster.modules import input_array, to_inputs
from cluster.shards.dataset import Dataset
from cluster.shards.records import publish_record
from cluster.shards.schema import Digest
from cluster.storage.open import open_store
from orchestrator.context import RunContext
from orchestrator.measuring import load_student
from orchestrator.resolve import Job
from teachers.weights import CLASSES_KEY

_LARGEST_DIFFERENCE = 1e-4


class ExportedFile(Config):
    """One file of the student."""

    format: str
    key: str
    digest: Digest
    num_bytes: int


class ExportRecord(Config):
    """`export/….json`: the files that exist."""

    student: str
    files: tuple[ExportedFile, ...]


class ExportMismatchError(TrainingError):
    """An exported file does not compute what the student computes."""

    def __init__(self, format_name: str, difference: float) -> None:
        super().__init__(format_name, difference)
        self.format_name, self.difference = format_name, difference

    def __str__(self) -> str:
        return (
            f"export {self.format_name}: its logits differ from the student's by up to {self.difference:.2g}, "
            f"expected at most {_LARGEST_DIFFERENCE:g}. The student uses an operation that this format renders "
            "differently; leave the format out of `export`."
        )


def export(context: RunContext) -> None:
    """Write the files that are not there."""
    planned = context.inspect().export()
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned):
        ray.get(_export.remote(context.store.uri, context.job))


@ray.remote(num_cpus=1, max_retries=3)
def _export(store_uri: str, job: Job) -> ExportRecord:
    store, task = open_store(store_uri), job.students[0]
    module = load_student(store, task)
    rows = Dataset.open(store, job.datasets.test).read(0)
    inputs = to_inputs(input_array(rows, task.model.inputs), task.model.inputs)[:64]
    files = []
    for format_name in job.spec.export:
        body = _to_safetensors(module, job) if format_name == "safetensors" else _to_onnx(module, inputs)
        _check(format_name, body, module, inputs)
        suffix = "safetensors" if format_name == "safetensors" else "onnx"
        key = f"{task.prefix}/export/{job.spec.student.name}.{suffix}"
        store.put(key, body)
        files.append(ExportedFile(format=format_name, key=key, digest=digest_of(body), num_bytes=len(body)))
    return publish_record(store, job.export_key, ExportRecord(student=task.identity, files=tuple(files)))


def _to_safetensors(module: torch.nn.Module, job: Job) -> bytes:
    """Return the weights with the class names, so that whoever uses them as a teacher is checked against its data."""
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(state, metadata={CLASSES_KEY: json.dumps(job.classes)})


def _to_onnx(module: torch.nn.Module, inputs: torch.Tensor) -> bytes:
    """Return the graph with any number of rows as its first axis."""
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            module,
            (inputs[:2],),
            dynamo=True,
            dynamic_shapes=({0: rows},),
            input_names=["inputs"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None  # noqa: S101 - it returns one unless it is given a file
    body: bytes = program.model_proto.SerializeToString()
    return body


def _check(format_name: str, body: bytes, module: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Raise `ExportMismatchError` unless the file computes the student's logits."""
    with torch.inference_mode():
        expected = module(inputs).numpy()
    if format_name == "onnx":
        session = onnxruntime.InferenceSession(body, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
        difference = float(np.abs(found - expected).max())
        if not difference <= _LARGEST_DIFFERENCE:
            raise ExportMismatchError(format_name, difference)
