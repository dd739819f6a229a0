"""Export: the student of the first seed, and where it may end before its end, as files that others can use.

Each file is checked against the trained module.
"""

import json
import warnings

import numpy as np
import onnxruntime
import ray
import torch

from cluster.config import Config
from cluster.errors import PartialResult
from cluster.failures import redacting
from cluster.identity import digest_of
from cluster.modules import input_array, load_weights, save_weights, to_inputs
from cluster.shards.dataset import Dataset
from cluster.shards.records import publish_record, read_record
from cluster.shards.schema import Digest
from cluster.storage.patience import open_patiently
from cluster.storage.protocol import ObjectStore
from cluster.tasks import result_of
from orchestrator.context import RunContext
from orchestrator.figures.measuring import load_student, load_student_exits
from orchestrator.resolution.resolve import Job
from students.exits import exit_of
from students.task import TrainedRecord
from students.trained import build_trained
from teachers.weights import CLASSES_KEY

_LARGEST_DIFFERENCE = 1e-4
"""Relative to the largest logit: what float32 in another order may make of it."""


class ExportedFile(Config):
    """One file of the student, or of one of its exits."""

    format: str
    exit: str | None = None
    """Module of the student at which it ends."""
    key: str
    digest: Digest
    num_bytes: int


class ExportRecord(Config):
    """`export/….json`: the files that exist."""

    student: str
    files: tuple[ExportedFile, ...]


class NotExportableError(PartialResult):
    """The student is trained, and cannot be written in this format."""

    def __init__(self, format_name: str, reason: str) -> None:
        super().__init__(format_name, reason)
        self.format_name, self.reason = format_name, reason

    def __str__(self) -> str:
        return (
            f"export {self.format_name}: {self.reason}. Everything else is done and reported. Leave the format out of "
            "`export`, or change the operation that it cannot render."
        )


def export(context: RunContext) -> None:
    """Write the files that are not there."""
    planned = context.inspect().export()
    if planned.state == "done":
        context.reused(planned)
        return
    with context.step(planned):
        result_of(_export.remote(context.store.uri, context.job))


@ray.remote(num_cpus=1, max_retries=3)
def _export(store_uri: str, job: Job) -> ExportRecord:
    with redacting():
        return export_files(open_patiently(store_uri), job)


def export_files(store: ObjectStore, job: Job) -> ExportRecord:
    """Write every file and the record of them.

    Raises:
        NotExportableError: a model cannot be written in a format, or computes something else from it.
    """
    task = job.students[0]
    blank = build_trained(task, read_record(store, task.record_key, TrainedRecord))
    rows = Dataset.open(store, job.datasets.test).read(0)
    inputs = to_inputs(input_array(rows, task.model.inputs), task.model.inputs)[:64]
    models: list[tuple[str | None, torch.nn.Module]] = [(None, load_student(store, task))]
    models += load_student_exits(store, task, rows).items()
    files = []
    for path, module in models:
        name = job.spec.student.name if path is None else f"{job.spec.student.name}-at-{path}"
        for format_name in job.spec.export:
            body = _to_safetensors(module, job) if format_name == "safetensors" else _to_onnx(module, inputs)
            _check(format_name, _outputs(format_name, body, blank, path, inputs), module, inputs)
            digest = digest_of(body)
            key = f"{task.prefix}/export/{digest[:16]}/{name}.{format_name}"
            store.put(key, body)
            files.append(ExportedFile(format=format_name, exit=path, key=key, digest=digest, num_bytes=len(body)))
    return publish_record(store, job.export_key, ExportRecord(student=task.identity, files=tuple(files)))


def _to_safetensors(module: torch.nn.Module, job: Job) -> bytes:
    """Return the weights with the class names, so that whoever uses them as a teacher is checked against its data."""
    return save_weights(module, {CLASSES_KEY: json.dumps(job.classes)})


def _to_onnx(module: torch.nn.Module, inputs: torch.Tensor) -> bytes:
    """Return the graph with any number of rows as its first axis."""
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        try:
            program = torch.onnx.export(
                module,
                (inputs[:2],),
                dynamo=True,
                dynamic_shapes=({0: rows},),
                input_names=["inputs"],
                output_names=["logits"],
                verbose=False,
            )
        except Exception as error:  # the exporter has no common base for what it cannot render
            raise NotExportableError("onnx", str(error).strip().partition("\n")[0]) from error
    assert program is not None  # noqa: S101 - it returns one unless it is given a file
    body: bytes = program.model_proto.SerializeToString()
    return body


def _outputs(
    format_name: str, body: bytes, blank: torch.nn.Module, path: str | None, inputs: torch.Tensor
) -> np.ndarray:
    """Return the logits that an exported file computes, as its user would; `blank` is the student, to be filled."""
    if format_name == "onnx":
        session = onnxruntime.InferenceSession(body, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
    module = blank.eval()
    if path is None:
        load_weights(module, body, where="export")
    else:
        module = exit_of(module, path, body, inputs=inputs)
    with torch.inference_mode():
        outputs: np.ndarray = module(inputs).numpy()
    return outputs


def _check(format_name: str, found: np.ndarray, module: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Raise `NotExportableError` unless these are the student's logits, up to rounding."""
    with torch.inference_mode():
        expected = module(inputs).numpy()
    difference = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if not difference <= _LARGEST_DIFFERENCE:
        raise NotExportableError(format_name, f"its logits differ from the student's by a share of {difference:.2g}")
