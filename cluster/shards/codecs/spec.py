"""What a user says of how a teacher's distributions are stored, and what each way can serve. Imports nothing heavy."""

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config import Config


class CodecConfig(Config):
    """How the distributions of one label set are stored. Part of the set's identity."""

    codec: str
    """Name of the codec."""

    @property
    @abstractmethod
    def served(self) -> tuple[float, ...] | None:
        """Temperatures at which the labels are exact; None for all."""

    @property
    def num_draws(self) -> int:
        """Random numbers that every position needs."""
        return 0

    def serves(self, temperature: float) -> bool:
        """Return whether the labels are exact at `temperature`."""
        return self.served is None or temperature in self.served

    def __str__(self) -> str:
        settings = self.model_dump(mode="json", exclude={"codec"})
        return " ".join([self.codec, *(f"{name}={value}" for name, value in settings.items())])


class DenseConfig(CodecConfig):
    """Every logit, float16: the choice for up to some hundred classes. Serves any temperature."""

    codec: Literal["dense"] = "dense"

    @property
    def served(self) -> None:
        """Any."""
        return


class TopKConfig(CodecConfig):
    """The K likeliest classes, exact at T = 1 and at the planned temperatures; of the others their mass, and draws."""

    codec: Literal["topk"] = "topk"
    k: Annotated[int, Field(ge=1, le=1024)] = 32
    """Classes kept at every position."""
    values: Literal["float16", "int8", "int4"] = "float16"
    """Two bytes, one or a half for each log-probability; coding costs about 1e-7, 6e-7 and 1e-4 nats."""
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = (2.0, 4.0)
    """Temperatures besides 1 that the labels shall serve, ascending; two bytes each."""
    tail_samples: Annotated[int, Field(ge=0, le=256)] = 8
    """Classes drawn from the others, which make the gradients of sparse losses unbiased."""

    @model_validator(mode="after")
    def _temperatures_are_a_set(self) -> "TopKConfig":
        if 1.0 in self.temperatures or list(self.temperatures) != sorted(set(self.temperatures)):
            raise ValueError(f"temperatures is {list(self.temperatures)}; expected ascending numbers other than 1")
        return self

    @property
    def served(self) -> tuple[float, ...]:
        """1 and the planned temperatures."""
        return (1.0, *self.temperatures)

    @property
    def num_draws(self) -> int:
        """One for each draw from the tail."""
        return self.tail_samples


class SampledConfig(CodecConfig):
    """Classes drawn from the teacher's distribution and nothing else: unbiased, noisy and small. Serves T = 1."""

    codec: Literal["sampled"] = "sampled"
    draws: Annotated[int, Field(ge=1, le=4096)] = 50
    """Draws at every position, with replacement."""

    @property
    def served(self) -> tuple[float, ...]:
        """1 alone."""
        return (1.0,)

    @property
    def num_draws(self) -> int:
        """One for each draw."""
        return self.draws


class HiddenConfig(CodecConfig):
    """The input of the teacher's last linear layer, and that layer once. Serves any temperature."""

    codec: Literal["hidden"] = "hidden"
    head: Annotated[str, Field(min_length=1)]
    """Module path of the last layer, a torch.nn.Linear whose output is the teacher's, such as `classifier`."""
    width: Annotated[int, Field(ge=1)]
    """Its `in_features`."""
    values: Literal["float16", "int8"] = "float16"
    """float16 costs about 4e-7 nats, int8 about 5e-4."""

    @property
    def served(self) -> None:
        """Any."""
        return


AnyCodecConfig = Annotated[DenseConfig | TopKConfig | SampledConfig | HiddenConfig, Field(discriminator="codec")]

ModulePath = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")]
"""Where a module lies within a model, as `named_modules` gives it."""


class TapConfig(Config):
    """How the output of one module of a teacher is stored beside its distributions. Part of the set's identity.

    A row is a vector of channels, tokens of channels each, or a map with its channels first.
    """

    pool: Annotated[int, Field(ge=1)] | None = None
    """Entries that are left of each of the other axes (tokens, or height and width), as means; with 1 the axes go."""
    project: Annotated[int, Field(ge=1)] | None = None
    """Channels that are left, each a sum of all with random signs (Achlioptas 2003), which keeps distances."""
    values: Literal["float16", "int8"] = "float16"
    """Two bytes a value, or one and a scale for each row."""


def listed(temperatures: tuple[float, ...]) -> str:
    """Return `1, 2 and 4`."""
    *others, last = [f"{temperature:g}" for temperature in temperatures]
    return f"{', '.join(others)} and {last}" if others else last
