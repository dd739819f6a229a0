"""From a teacher's configuration and its weights in the store to a loaded model."""

from cluster.models import ModelConfig
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from teachers.backends.module import ModuleBackend
from teachers.backends.onnx import OnnxBackend
from teachers.backends.protocol import Backend
from teachers.spec import TeacherConfig
from teachers.weights import StoredWeights


def load_backend(store: ObjectStore, config: TeacherConfig, weights: StoredWeights) -> Backend:
    """Fetch the weights, compare their digest, and load the model."""
    body = bytes(fetch_verified(store, weights.key, digest=weights.digest, num_bytes=weights.num_bytes))
    where = f"teacher {config.name} ({weights.key})"
    if config.model is None:
        return OnnxBackend(config.inputs, body, num_threads=config.resources.num_threads, where=where)
    model = ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs)
    return ModuleBackend(model, body, where=where)
