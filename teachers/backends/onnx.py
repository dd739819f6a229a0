"""An ONNX file, run by onnxruntime."""

import os
from collections.abc import Mapping

import numpy as np
import onnxruntime
import torch

from cluster.models import InputConfig
from cluster.modules import WeightsError, input_array, to_inputs
from teachers.backends.protocol import Forward


class OnnxBackend:
    """Runs the graph's first output on its only input."""

    def __init__(self, inputs: InputConfig, model: bytes, *, num_threads: int, on_gpu: bool, where: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Weights in a file of their own would be read from wherever this process stands, and no digest covers them.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        wanted = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # onnxruntime raises classes of its own without a common base
            raise WeightsError(where, f"onnxruntime cannot load it ({error})") from error
        graph_inputs = self._session.get_inputs()
        if len(graph_inputs) != 1:
            raise WeightsError(where, f"the graph has {len(graph_inputs)} inputs, expected 1")
        if graph_inputs[0].type != "tensor(float)":
            raise WeightsError(where, f"its input is a {graph_inputs[0].type}, expected tensor(float)")
        self._inputs, self._name = inputs, graph_inputs[0].name

    def forward(self, arrays: Mapping[str, np.ndarray]) -> Forward:
        """Run a batch."""
        inputs = to_inputs(input_array(arrays, self._inputs), self._inputs).numpy()
        logits = np.asarray(self._session.run(None, {self._name: inputs})[0], dtype=np.float32)
        return Forward(torch.from_numpy(logits))

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Never asked for: a spec that stores hidden states of a graph is refused."""
        raise AssertionError("a graph has no module to watch")
