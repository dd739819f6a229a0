"""Modules that several models have in common: one set of weights, computed once for a batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.errors import SpecError
from cluster.tapping import module_at
from students.objectives.maps import as_maps


class NotSharedError(SpecError):
    """What members are to have in common, they cannot."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path, self.found = path, found

    def __str__(self) -> str:
        return (
            f"cohort.shared: the module {self.path!r} {self.found}; expected one that all members call with the same "
            "tensor, whose output none of them changes in place. Name what stands before it too, or a module that "
            "holds both, such as an nn.Sequential."
        )


class Sharing:
    """Has models call the modules of the first, and remembers within a batch what these have returned."""

    def __init__(self, models: Sequence[nn.Module], paths: Sequence[str]) -> None:
        """The modules at `paths` of all models but the first are replaced.

        Raises:
            ModuleMissingError: there is no module at one of `paths`.
        """
        self._memos: dict[str, _Memo] = {}
        for path in paths:
            module = module_at(models[0], path, name="student")
            self._memos[path] = _Memo(path, module.forward)
            module.forward = self._memos[path]  # not a module around it: weights would have other names
            for place, model in enumerate(models[1:], start=1):
                module_at(model, path, name=f"member {place} of the cohort")
                model.set_submodule(path, module)

    @contextmanager
    def once(self) -> Iterator[None]:
        """Compute shared modules once while inside; outside of it they are computed whenever they are called."""
        for memo in self._memos.values():
            memo.calls = []
        try:
            yield
        finally:
            for memo in self._memos.values():
                memo.calls = None

    def features_NF(self) -> torch.Tensor | None:
        """Return the output of the last shared module in this batch, averaged over its positions; None without one."""
        if not self._memos:
            return None
        last = list(self._memos.values())[-1]
        assert last.calls, "it is asked for within a batch, after the members"  # noqa: S101
        output = last.calls[-1].output
        if not isinstance(output, torch.Tensor) or not 2 <= output.ndim <= 4:
            raise NotSharedError(last.path, "does not return a tensor [N, D], [N, L, D] or [N, C, H, W]")
        return as_maps(output).mean(dim=(2, 3))

    def check(self, models: Sequence[nn.Module], inputs: torch.Tensor) -> int:
        """Run some rows through all models; return how many features they share, 0 without shared modules.

        Raises:
            NotSharedError: a module is not called by a model, or not with the tensor with which the first calls it.
        """
        with torch.no_grad(), self.once(), _judging(models):
            for place, model in enumerate(models):
                asked = {path: memo.num_asked for path, memo in self._memos.items()}
                model(inputs)
                for path, memo in self._memos.items():
                    if memo.num_asked == asked[path]:
                        raise NotSharedError(path, "is not called by a member")
                    if place > 0 and len(memo.calls or ()) > memo.num_first:
                        raise NotSharedError(path, "is called with another tensor by a member")
                    memo.num_first = len(memo.calls or ())
            features_NF = self.features_NF()
        return 0 if features_NF is None else features_NF.shape[1]


@contextmanager
def _judging(models: Sequence[nn.Module]) -> Iterator[None]:
    """Have models in evaluation mode while inside: what they run on is no batch to learn from."""
    were_training = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, was_training in zip(models, were_training, strict=True):
            model.train(was_training)


@dataclass(frozen=True)
class _Call:
    """What a module was given and has returned."""

    given: tuple[object, ...]
    versions: tuple[int, ...]
    output: Any
    version: int

    def answers(self, given: tuple[object, ...]) -> bool:
        """Return whether these are the same numbers in the same memory, which no one has changed since."""
        is_same = len(given) == len(self.given) and all(map(_is_same, self.given, given))
        return is_same and tuple(map(_version, given)) == self.versions


class _Memo:
    """In the place of a module's `forward`: looks up what it was given before."""

    def __init__(self, path: str, forward: Callable[..., Any]) -> None:
        self.path, self._forward = path, forward
        self.calls: list[_Call] | None = None
        self.num_asked, self.num_first = 0, 0

    def __call__(self, *inputs: object, **named: object) -> Any:
        self.num_asked += 1
        if self.calls is None:
            return self._forward(*inputs, **named)
        given = (*inputs, *named, *named.values())
        for call in self.calls:
            if call.answers(given):
                if _version(call.output) != call.version:
                    raise NotSharedError(self.path, "has an output that a member changes in place")
                return call.output
        output = self._forward(*inputs, **named)
        self.calls.append(_Call(given, tuple(map(_version, given)), output, _version(output)))
        return output


def _is_same(old: object, new: object) -> bool:
    if old is new or not (isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)):
        return old is new
    # Each member has its own view of what it flattens. A graph that is drawn has no memory to compare: it may hold a
    # shared module twice.
    return not torch.compiler.is_exporting() and old.dtype == new.dtype and old.is_set_to(new)


def _version(value: object) -> int:
    """Return how often a tensor was changed in place; torch keeps no count of those of inference mode."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0
