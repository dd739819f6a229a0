"""Outputs of a model's modules, caught while it runs."""

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from cluster.errors import SpecError
from cluster.shards.schema import Column


class ModuleMissingError(SpecError):
    """A model has no module of that name."""

    def __init__(self, model: str, path: str, nearest: tuple[str, ...]) -> None:
        super().__init__(model, path, nearest)
        self.model, self.path, self.nearest = model, path, nearest

    def __str__(self) -> str:
        hint = f"the nearest are {', '.join(self.nearest)}" if self.nearest else "none is called alike"
        return (
            f"{self.model} has no module {self.path!r}; {hint}. Expected a path such as `named_modules` of the model "
            "gives."
        )


class UntappableError(SpecError):
    """A module whose output cannot be learnt from."""

    def __init__(self, model: str, path: str, found: str) -> None:
        super().__init__(model, path, found)
        self.model, self.path, self.found = model, path, found

    def __str__(self) -> str:
        return (
            f"{self.model}: the module {self.path!r} {self.found}; expected one whose output is a tensor of floats, or "
            "a tuple that begins with one, with an entry for each row on its first axis. Name another module."
        )


class NoHeadError(SpecError):
    """A term asks for the weights of a module that is no linear layer."""

    def __init__(self, model: str, path: str, found: str) -> None:
        super().__init__(model, path, found)
        self.model, self.path, self.found = model, path, found

    def __str__(self) -> str:
        return f"{self.model}: the head {self.path!r} is a {self.found}; expected the path of a torch.nn.Linear."


class Tapped(nn.Module):
    """A model that returns outputs of its modules beside its own. Its parameters keep their names within `model`."""

    def __init__(self, model: nn.Module, paths: Iterable[str], *, name: str) -> None:
        """`name` stands for the model in messages.

        Raises:
            ModuleMissingError: there is no module at one of `paths`.
        """
        super().__init__()
        self.model, self._paths, self.name = model, tuple(dict.fromkeys(paths)), name
        self._seen: dict[str, torch.Tensor] = {}
        self._handles = self._hung()

    def copy_of_model(self) -> nn.Module:
        """Return a copy of the model whose outputs nobody catches."""
        for handle in self._handles:
            handle.remove()
        copied = copy.deepcopy(self.model)
        self._handles = self._hung()
        return copied

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the model's output, and by path the float32 outputs of the last call of each module.

        Raises:
            UntappableError: a module was not called, or returned something else than a tensor.
        """
        self._seen.clear()  # a model that was called by itself left its outputs here
        output: torch.Tensor = self.model(inputs)
        taps = dict(self._seen)
        self._seen.clear()
        for path in self._paths:
            if path not in taps:
                raise UntappableError(self.name, path, "is not called by the model")
        return output, taps

    def _hung(self) -> list[RemovableHandle]:
        """Hang a hook on each module."""
        modules = {path: module_at(self.model, path, name=self.name) for path in self._paths}
        return [module.register_forward_hook(self._hook(path)) for path, module in modules.items()]

    def _hook(self, path: str) -> Any:
        def remember(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._seen[path] = tensor_in(output, path=path, name=self.name)

        return remember


def tensor_in(output: object, *, path: str, name: str) -> torch.Tensor:
    """Return the tensor that a module has returned, alone or before others, as a float32 copy.

    Raises:
        UntappableError: it has returned something else.
    """
    found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, torch.Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, torch.Tensor) else type(found).__name__
        raise UntappableError(name, path, f"returns {kind}")
    # A copy: what comes next may work in place, as ReLU(inplace=True) does.
    return found.to(torch.float32, copy=True)


def module_at(model: nn.Module, path: str, *, name: str) -> nn.Module:
    """Return the module at a path; raises `ModuleMissingError`, with the nearest paths."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise ModuleMissingError(name, path, tuple(difflib.get_close_matches(path, modules, cutoff=0.4)))
    return modules[path]


def parameters_of_head(model: nn.Module, path: str, *, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight `[C, D]` and bias `[C]` of a linear layer, float32; a layer without a bias has zeros.

    Raises:
        ModuleMissingError: there is no module at `path`.
        NoHeadError: it is no linear layer.
    """
    layer = module_at(model, path, name=name)
    if not isinstance(layer, nn.Linear):
        raise NoHeadError(name, path, type(layer).__name__)
    weight = layer.weight.detach().float()
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()


def shapes_of_taps(tapped: Tapped, inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Run some rows through a model and return the shape of a row of each tap.

    Raises:
        UntappableError: an output does not have an entry for each row.
    """
    was_training = tapped.training
    try:
        with torch.no_grad():
            _, taps = tapped.eval()(inputs)
    finally:
        tapped.train(was_training)
    for path, output in taps.items():
        if output.shape[:1] != (len(inputs),):
            raise UntappableError(tapped.name, path, f"returns {list(output.shape)} for {len(inputs)} rows")
    return {path: tuple(output.shape[1:]) for path, output in taps.items()}


def blank_rows(columns: Sequence[Column], rows: int = 2) -> Mapping[str, np.ndarray]:
    """Return rows of zeros, for what depends on their shape alone."""
    return {column.name: np.zeros((rows, *column.shape), column.dtype) for column in columns}
