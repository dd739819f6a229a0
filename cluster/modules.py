"""Building `nn.Module`s and moving their weights; weights are data, never code."""

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from cluster.errors import CoffeyError, SpecError
from cluster.models import InputConfig, ModelConfig, ModelSourceError
from cluster.shards.schema import LABEL, ROW


class FactoryError(SpecError):
    """The factory cannot build the model."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(reference, reason)
        self.reference, self.reason = reference, reason

    def __str__(self) -> str:
        return (
            f"{self.reference}: {self.reason}. Expected a callable that returns a torch.nn.Module when given the "
            "`arguments`."
        )


class ModelShapeError(SpecError):
    """A model does not fit its data: its inputs, or the number of classes."""

    def __init__(self, factory: str, row_shape: list[int], found: str, num_classes: int) -> None:
        super().__init__(factory, row_shape, found, num_classes)
        self.factory, self.row_shape, self.found, self.num_classes = factory, row_shape, found, num_classes

    def __str__(self) -> str:
        return (
            f"{self.factory}: for rows of shape {self.row_shape} found {self.found}; expected outputs of shape "
            f"[rows, {self.num_classes}]. Check `inputs.shape` and the model's `arguments`."
        )


class WeightsError(CoffeyError):
    """The weights are not those of the model."""

    exit_code = 5

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.reason}. Expected the safetensors of exactly this model; "
            "check `model`, `arguments` and `weights` against each other."
        )


def import_factory(model: ModelConfig) -> Callable[..., object]:
    """Return the factory of a model.

    Raises:
        ModelSourceError: the module or the name in it does not exist, or the module cannot be imported.
    """
    module_name, _, attribute = model.factory.partition(":")
    try:
        factory: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            factory = getattr(factory, name)
    except Exception as error:  # importing runs the module, which may raise anything
        raise ModelSourceError(model.factory, f"{type(error).__name__}: {error}") from error
    return factory  # type: ignore[no-any-return]  # what is no factory is found out by calling it


def build_module(model: ModelConfig) -> nn.Module:
    """Import the factory and call it.

    Raises:
        ModelSourceError: the module or the name in it does not exist, or the module cannot be imported.
        FactoryError: the call fails, or returns something else than a module.
    """
    factory = import_factory(model)
    try:
        module = factory(**model.arguments)
    except Exception as error:
        raise FactoryError(model.factory, f"{type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise FactoryError(model.factory, f"returned {type(module).__name__}")
    return module


def check_shapes(module: nn.Module, inputs: torch.Tensor, *, num_classes: int, factory: str) -> None:
    """Run two rows through a module, before any work is spent on it.

    Raises:
        ModelShapeError: the module does not take rows of this shape, or does not return `[rows, num_classes]`.
    """
    was_training = module.training
    try:
        with torch.inference_mode():
            found = list(module.eval()(inputs[:2]).shape)
    except Exception as error:
        raise ModelShapeError(factory, list(inputs.shape[1:]), str(error).strip(), num_classes) from error
    finally:
        module.train(was_training)
    if found != [len(inputs[:2]), num_classes]:
        raise ModelShapeError(factory, list(inputs.shape[1:]), f"outputs of shape {found}", num_classes)


def in_fast_layout(module: nn.Module) -> nn.Module:
    """Return the module in `channels_last` if it convolves images: twice as fast on CPUs, and no slower on GPUs."""
    if any(parameter.dim() == 4 for parameter in module.parameters()):
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module


def save_weights(module: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the parameters and buffers as safetensors, with `metadata` in the header."""
    # Copies: safetensors takes no two names for one tensor, and models that tie their weights have them.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    return safetensors.torch.save(state, metadata=dict(metadata or {}))


def load_weights(module: nn.Module, body: bytes, *, where: str) -> None:
    """Copy safetensors into `module`.

    Raises:
        WeightsError: the bytes are no safetensors, or their names or shapes are not the module's.
    """
    try:
        module.load_state_dict(safetensors.torch.load(body), strict=True)
    except safetensors.SafetensorError as error:
        raise WeightsError(where, f"not a safetensors file ({error})") from error
    except RuntimeError as error:
        raise WeightsError(where, " ".join(str(error).split())[:400]) from error


def num_parameters(module: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())


def input_array(arrays: Mapping[str, np.ndarray], config: InputConfig) -> np.ndarray:
    """Return the column that a model reads, as stored; `[rows, *shape]`.

    Raises:
        InputColumnError: the data set has no such column, or several and none is named.
    """
    candidates = [name for name in arrays if name not in (LABEL, ROW) and "." not in name]
    if config.column is None and len(candidates) == 1:
        return arrays[candidates[0]]
    if config.column not in candidates:
        raise InputColumnError(str(config.column), ", ".join(candidates))
    return arrays[config.column]


def to_inputs(array: np.ndarray, config: InputConfig) -> torch.Tensor:
    """Return a stored column as the model's float32 input `[rows, *shape]`.

    Raises:
        InputShapeError: `shape`, `mean` or `std` do not fit the column.
    """
    scale = config.scale if config.scale is not None else (1 / 255 if array.dtype == np.uint8 else 1.0)
    inputs = torch.from_numpy(np.require(array, requirements="W")).to(torch.float32)
    if config.shape is not None:
        if math.prod(config.shape) != math.prod(array.shape[1:]):
            raise InputShapeError(f"shape is {list(config.shape)}", array.shape[1:])
        inputs = inputs.reshape(len(array), *config.shape)
    mean, std = _per_channel("mean", config.mean, inputs), _per_channel("std", config.std, inputs)
    if scale != 1.0:
        inputs = inputs * scale
    if config.mean != 0.0 or config.std != 1.0:
        inputs = (inputs - mean) / std
    return inputs


class InputShapeError(SpecError):
    """The numbers that describe a model's input are not as many as the column needs."""

    def __init__(self, given: str, row_shape: tuple[int, ...]) -> None:
        super().__init__(given, row_shape)
        self.given, self.row_shape = given, row_shape

    def __str__(self) -> str:
        return (
            f"inputs.{self.given}, which does not fit rows of shape {list(self.row_shape)}. Expected a `shape` with as "
            "many entries as a row has, and for `mean` and `std` one number, or one for each entry of the first axis."
        )


class InputColumnError(SpecError):
    """A model asks for a column that is not there, or does not say which of several."""

    def __init__(self, column: str, columns: str) -> None:
        super().__init__(column, columns)
        self.column, self.columns = column, columns

    def __str__(self) -> str:
        return f"inputs.column is {self.column}; the data set has {self.columns}. Name one of them."


def _per_channel(field: str, value: float | list[float], inputs: torch.Tensor) -> float | torch.Tensor:
    """Return a number, or one for each entry of the first axis of a row, so that it broadcasts over the others."""
    if not isinstance(value, list):
        return value
    if inputs.shape[1:2] != (len(value),):
        raise InputShapeError(f"{field} has {len(value)} values", tuple(inputs.shape[1:]))
    return torch.tensor(value).reshape(-1, *(1,) * (inputs.dim() - 2))
