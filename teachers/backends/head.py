"""A teacher's last linear layer, watched: what goes into it says everything that comes out."""

from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.errors import TeacherError


class HeadError(TeacherError):
    """The layer that `labels.head` names cannot stand for the model's output."""

    def __init__(self, where: str, path: str, found: str) -> None:
        super().__init__(where, path, found)
        self.where, self.path, self.found = where, path, found

    def __str__(self) -> str:
        return (
            f"{self.where}: labels.head is {self.path!r}, {self.found}; expected the path of a torch.nn.Linear whose "
            "output is the model's, and `labels.width` as wide as its input. For other models there is `codec: topk`."
        )


class WatchedHead:
    """Remembers input and output of one layer from its last forward pass."""

    def __init__(self, module: nn.Module, path: str, width: int, *, where: str) -> None:
        self._where, self._path = where, path
        try:
            layer = module.get_submodule(path)
        except AttributeError as error:
            raise HeadError(where, path, "and there is no such module") from error
        if not isinstance(layer, nn.Linear):
            raise HeadError(where, path, f"which is a {type(layer).__name__}")
        if layer.in_features != width:
            raise HeadError(where, path, f"whose input is {layer.in_features} wide, where labels.width is {width}")
        self._layer = layer
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        layer.register_forward_hook(self._remember)

    def input_of(self, logits: torch.Tensor) -> torch.Tensor:
        """Return what went into the layer when the model gave `logits`.

        Raises:
            HeadError: the layer did not run, or something comes after it.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            raise HeadError(self._where, self._path, "which the model does not call")
        entered, left = seen
        if left is not logits and not (left.shape == logits.shape and torch.equal(left, logits)):
            raise HeadError(self._where, self._path, "whose output is not the model's")
        return entered

    def parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight `[classes, width]` and bias `[classes]`, float32; a layer without a bias has zeros."""
        weight = self._layer.weight.detach().float().cpu().numpy()
        bias = self._layer.bias
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias.detach().float().cpu().numpy()

    def _remember(self, _layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        self._seen = (inputs[0], output)
