"""What a user says of a teacher."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Config
from cluster.models import InputConfig, Reference
from cluster.optimizers import OptimizerConfig
from cluster.resources import ResourceConfig
from cluster.shards.codecs.spec import AnyCodecConfig, DenseConfig, ModulePath, TapConfig

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]


class FitConfig(Config):
    """How a teacher is trained by us, on the labelled rows, before it teaches."""

    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 64
    optimizer: OptimizerConfig = OptimizerConfig()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over all classes (1512.00567)."""
    seed: int = 0


class ReplicaRange(Config):
    """Bounds between which Ray Serve scales a teacher with the work that waits."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _is_a_range(self) -> "ReplicaRange":
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; expected min <= max")
        return self


class TeacherConfig(Config):
    """A model that labels: an `nn.Module` with safetensors weights, one that we fit first, or an ONNX file."""

    name: Name
    model: Reference | None = None
    """Factory of the `nn.Module`; absent for an ONNX file."""
    arguments: dict[str, bool | int | float | str | list[int] | list[float]] = {}
    """Keyword arguments of the factory."""
    weights: str | None = None
    """Path or s3:// address of a .safetensors or .onnx file."""
    fit: FitConfig | None = None
    """Train it first, in place of loading weights."""
    inputs: InputConfig = InputConfig()
    classes: tuple[str, ...] | None = None
    """Names of its outputs in order: those of the data set, or of a specialist some of these, at least two."""
    labels: AnyCodecConfig = DenseConfig()
    """How its distributions are stored: every logit (`dense`), or for many classes `topk`, `sampled` or `hidden`."""
    taps: dict[ModulePath, TapConfig] = {}
    """Modules whose outputs for the training rows are stored beside its distributions, for terms that compare them.
    Terms may name others too: for these the teacher runs beside the student."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Rows per forward pass."""
    replicas: Annotated[int, Field(ge=1)] | ReplicaRange = 1
    resources: ResourceConfig = ResourceConfig()
    stall_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """A replica that makes no progress for so long is replaced."""

    @property
    def backend(self) -> Literal["module", "onnx"]:
        """What runs the model."""
        return "onnx" if self.model is None else "module"

    @property
    def min_replicas(self) -> int:
        """The number of replicas that there are from the start."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.min

    @property
    def max_replicas(self) -> int:
        """The largest number of replicas that may exist at once."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas.max

    @model_validator(mode="after")
    def _tells_classes_apart(self) -> "TeacherConfig":
        names = self.classes or ()
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"`classes` names {twice[0]!r} twice; expected each output's name once")
        if self.classes is not None and len(names) < 2:
            raise ValueError(
                f"`classes` names {len(names)}, and one class says nothing of a row; expected at least two, or none to "
                "mean all of the data's"
            )
        return self

    @model_validator(mode="after")
    def _has_one_origin(self) -> "TeacherConfig":
        if (self.weights is None) == (self.fit is None):
            raise ValueError("expected exactly one of `weights` (a file) and `fit` (train it first)")
        if self.model is None and (self.weights is None or not self.weights.endswith(".onnx")):
            raise ValueError("expected `model` (package.module:factory), or `weights` that name an .onnx file")
        if self.model is not None and self.weights is not None and self.weights.endswith(".onnx"):
            raise ValueError("an .onnx file is a whole model: leave out `model`")
        if self.model is None and self.labels.codec == "hidden":
            raise ValueError("`labels.codec: hidden` watches a module and an .onnx file has none; expected `topk`")
        if self.model is None and self.taps:
            raise ValueError("`taps` name modules and an .onnx file has none; expected `model`, or no `taps`")
        return self
