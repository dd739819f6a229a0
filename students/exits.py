"""A student that ends before its end: at one of its modules, with a head that was learned beside it."""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cluster.identity import digest_of
from cluster.modules import load_weights, save_weights
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from cluster.tapping import UntappableError, module_at, tensor_in
from cluster.weights import StoredWeights
from students.objectives.exit_head import ExitHead
from students.task import TrainedExit, TrainedRecord

_NAME = "student"


class StudentExit(nn.Module):
    """Logits of the output of one module; what the student would compute after it is not computed."""

    def __init__(self, student: nn.Module, path: str, head: nn.Module, *, inputs: torch.Tensor) -> None:
        """`inputs` are some rows, on which the calls of the module are counted: it ends after the last.

        Raises:
            ModuleMissingError: the student has no such module.
            UntappableError: it does not call it, or it returns something else than a tensor.
        """
        super().__init__()
        self.student, self.head, self._path, self._num_calls = student, head, path, 0
        with torch.inference_mode():
            self._num_calls = len(self._outputs(inputs))
        if not self._num_calls:
            raise UntappableError(_NAME, path, "is not called by the model")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits `[N, C]`."""
        logits_NC: torch.Tensor = self.head(self._outputs(inputs)[-1])
        return logits_NC

    def _outputs(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return what the calls of the module give."""
        outputs: list[torch.Tensor] = []

        def remember(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.append(tensor_in(output, path=self._path, name=_NAME))
            # An exporter follows modules from entry to end, and leaves out what no output needs by itself.
            if len(outputs) == self._num_calls and not torch.compiler.is_exporting():
                raise _Reached

        handle = module_at(self.student, self._path, name=_NAME).register_forward_hook(remember)
        try:
            self.student(inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        return outputs


class _Reached(Exception):
    """The module was called as often as it is."""


def packed_exits(prefix: str, heads: Mapping[str, nn.Module]) -> list[tuple[TrainedExit, bytes]]:
    """Return what is to be kept of each head, by the module that it follows, and the bytes to put under its key."""
    packed = []
    for path, head in heads.items():
        body = save_weights(head)
        digest = digest_of(body)
        weights = StoredWeights(key=f"{prefix}/{digest}.safetensors", digest=digest, num_bytes=len(body))
        packed.append((TrainedExit(module=path, weights=weights), body))
    return packed


def load_exits(
    store: ObjectStore, record: TrainedRecord, student: nn.Module, *, inputs: torch.Tensor
) -> dict[str, StudentExit]:
    """Return the exits of a trained student, in evaluation mode, by the modules at which it ends; they share it."""
    exits = {}
    for found in record.exits:
        weights = found.weights
        body = fetch_verified(store, weights.key, digest=weights.digest, num_bytes=weights.num_bytes)
        head = ExitHead.like(safetensors.torch.load(bytes(body)))
        exits[found.module] = StudentExit(student, found.module, head, inputs=inputs).eval()
    return exits


def exit_of(student: nn.Module, path: str, body: bytes, *, inputs: torch.Tensor) -> StudentExit:
    """Return the exit, in evaluation mode, whose weights are these safetensors; the student gets them too."""
    weights = safetensors.torch.load(body)
    head = ExitHead.like({name.removeprefix("head."): weights[name] for name in weights if name.startswith("head.")})
    found = StudentExit(student, path, head, inputs=inputs).eval()
    load_weights(found, body, where=f"exit {path}")
    return found


def used_parameters(module: nn.Module, inputs: torch.Tensor) -> list[nn.Parameter]:
    """Return the parameters on which the outputs for some rows depend."""
    parameters = list(module.requires_grad_().parameters())
    with torch.enable_grad():
        gradients = torch.autograd.grad(module(inputs).sum(), parameters, allow_unused=True)
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
