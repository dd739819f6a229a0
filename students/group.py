"""The workers that train one student together."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Group(Protocol):
    """A fixed number of workers, each with a rank."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module, *, alike: Sequence[str] = ()) -> nn.Module:
        """Return the module whose gradients are averaged over the group.

        `alike` names the buffers that every worker computes by itself, and the same.
        """

    def without_exchange(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which backward passes of what `wrap` returned keep their gradients local."""

    def share_buffers(self, module: nn.Module) -> None:
        """Give every worker the buffers of rank 0, such as the running means of a BatchNorm."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of `values` over the group."""

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all workers in the order of their ranks; gradients flow to our own."""

    def from_first(self, value: int) -> int:
        """Return the value of rank 0."""


class Alone:
    """A group of one; needs neither Ray nor a process group."""

    rank, world_size = 0, 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def wrap(self, module: nn.Module, *, alike: Sequence[str] = ()) -> nn.Module:
        """Return the module itself."""
        return module

    def without_exchange(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def share_buffers(self, module: nn.Module) -> None:
        """Do nothing."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values themselves."""
        return values

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows themselves."""
        return rows

    def from_first(self, value: int) -> int:
        """Return the value itself."""
        return value


class Together:
    """The workers of torch's default process group: NCCL on GPUs, gloo on CPUs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()

    def wrap(self, module: nn.Module, *, alike: Sequence[str] = ()) -> nn.Module:
        """Return the module in DistributedDataParallel, which sends all other buffers at every forward pass."""
        # The one way there is to leave some out; what a term remembers may be large.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(alike))
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids)

    def without_exchange(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Return DDP's own context."""
        assert isinstance(wrapped, DistributedDataParallel), "it was wrapped here"  # noqa: S101
        return wrapped.no_sync()

    def share_buffers(self, module: nn.Module) -> None:
        """Broadcast them; DDP does so only when the next forward pass begins."""
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """All-reduce a copy."""
        total = values.to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """All-gather them; workers may have different numbers of rows, and the exchange needs equal ones."""
        lengths = self._gathered(torch.tensor([len(rows)], device=rows.device))
        longest = max(int(length) for length in lengths)
        padded = rows.detach().new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [part[: int(length)] for part, length in zip(self._gathered(padded), lengths, strict=True)]
        parts[self.rank] = rows
        return torch.cat(parts)

    def _gathered(self, values: torch.Tensor) -> list[torch.Tensor]:
        everyone = [torch.empty_like(values) for _ in range(self.world_size)]
        torch.distributed.all_gather(everyone, values)
        return everyone

    def from_first(self, value: int) -> int:
        """Broadcast from rank 0."""
        box = torch.tensor([value], dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(box, src=0)
        return int(box.item())


def fold_seed(*parts: int) -> int:
    """Return one 63-bit seed for a tuple of integers, so that no two steps or ranks share a stream."""
    state = 0
    for part in parts:
        state = (state * 6364136223846793005 + part + 1442695040888963407) & 0x7FFFFFFFFFFFFFFF
    return state


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that a training on `device` draws from.

    Not `torch.manual_seed`: without a GPU in use it queues a call, with a stack trace, for the day there is one;
    at every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def chunks(rows: int, count: int) -> Iterator[slice]:
    """Yield up to `count` slices of about equal length that cover `range(rows)`."""
    count = min(count, rows)
    for number in range(count):
        yield slice(rows * number // count, rows * (number + 1) // count)
