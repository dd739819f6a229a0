"""An `nn.Module` given as `package.module:factory`, with safetensors weights."""

from collections.abc import Mapping

import numpy as np
import torch

from cluster.models import InputConfig, ModelConfig
from cluster.modules import build_module, in_fast_layout, input_array, load_weights, to_inputs


class ModuleBackend:
    """Runs the module in evaluation mode, without gradients."""

    def __init__(self, model: ModelConfig, weights: bytes, *, on_gpu: bool, where: str) -> None:
        self._inputs: InputConfig = model.inputs
        self._device = torch.device("cuda" if on_gpu else "cpu")
        module = build_module(model)
        load_weights(module, weights, where=where)
        self._module = in_fast_layout(module).to(self._device).eval()

    def forward(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits of a batch, float32 `[rows, classes]`."""
        with torch.inference_mode():
            inputs = to_inputs(input_array(arrays, self._inputs), self._inputs)
            logits: np.ndarray = self._module(inputs.to(self._device)).float().cpu().numpy()
        return logits
