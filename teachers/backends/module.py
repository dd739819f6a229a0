"""An `nn.Module` given as `package.module:factory`, with safetensors weights."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, in_fast_layout, input_array, load_weights, to_inputs
from cluster.tapping import Tapped
from teachers.backends.head import WatchedHead
from teachers.backends.protocol import Forward


class ModuleBackend:
    """Runs the module in evaluation mode, without gradients."""

    def __init__(
        self,
        model: ModelConfig,
        weights: bytes,
        *,
        on_gpu: bool,
        where: str,
        head: tuple[str, int] | None = None,
        taps: Iterable[str] = (),
    ) -> None:
        """`head` is the path of the last layer and the width of its input; `taps` are paths of modules."""
        self._inputs: InputConfig = model.inputs
        self._device = torch.device("cuda" if on_gpu else "cpu")
        module = build_module(model)
        load_weights(module, weights, where=where)
        module = in_fast_layout(module).to(self._device)
        self._tapped = Tapped(module, taps, name=where).eval()
        self._head = None if head is None else WatchedHead(module, *head, where=where)

    def forward(self, arrays: Mapping[str, np.ndarray]) -> Forward:
        """Run a batch."""
        with torch.inference_mode():
            inputs = to_inputs(input_array(arrays, self._inputs), self._inputs)
            logits, taps = self._tapped(inputs.to(self._device))
            return Forward(logits.float(), None if self._head is None else self._head.input_of(logits), taps)

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return weight and bias of the head."""
        assert self._head is not None, "only label sets that store hidden states ask for it"  # noqa: S101
        return self._head.parameters()
