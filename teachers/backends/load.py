"""From a teacher's configuration and its weights in the store to a loaded model."""

from cluster.models import ModelConfig
from cluster.resources import ResourceConfig
from cluster.shards.codecs.spec import HiddenConfig
from cluster.shards.verified import fetch_verified
from cluster.storage.protocol import ObjectStore
from cluster.weights import StoredWeights
from teachers.backends.module import ModuleBackend
from teachers.backends.onnx import OnnxBackend
from teachers.backends.protocol import Backend
from teachers.spec import TeacherConfig


def load_backend(store: ObjectStore, config: TeacherConfig, weights: StoredWeights, *, on: ResourceConfig) -> Backend:
    """Fetch the weights, compare their digest, and load the model onto `on`: its threads, and a GPU if it has one."""
    body = bytes(fetch_verified(store, weights.key, digest=weights.digest, num_bytes=weights.num_bytes))
    where = f"teacher {config.name} ({weights.key})"
    if config.model is None:
        return OnnxBackend(config.inputs, body, num_threads=on.num_threads, on_gpu=on.gpu > 0, where=where)
    model = ModelConfig(factory=config.model, arguments=config.arguments, inputs=config.inputs)
    head = (config.labels.head, config.labels.width) if isinstance(config.labels, HiddenConfig) else None
    return ModuleBackend(model, body, on_gpu=on.gpu > 0, where=where, head=head, taps=config.taps)
