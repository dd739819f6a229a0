"""Where the workers of a training meet: torch's store of keys, which asks nobody for a token.

Torch itself would listen on every interface of the machine. On a cluster that stands on loopback ours listens there
alone; on any other it has to be reached from the other nodes.
"""

import ipaddress
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's own typing forgets it

_held: list[TCPStore] = []
"""In the process of the first worker, for as long as that lives: a store ends with its last reference."""


class MeetingConfig(TorchConfig):  # type: ignore[misc]  # Ray is not typed
    """Torch's process group, whose workers meet where the cluster listens."""

    @property
    def backend_cls(self) -> type:
        """Return what Ray Train calls when a group of workers starts and ends."""
        return _MeetingBackend


@dataclass(frozen=True)
class _Meeting:
    """What every worker has to know."""

    host: str
    port: int
    backend: str
    num_workers: int
    timeout: timedelta


class _MeetingBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: MeetingConfig) -> None:
        host = worker_group.execute_single(0, ray.util.get_node_ip_address)
        meeting = _Meeting(
            host=host,
            port=worker_group.execute_single(0, open_store, host),
            backend="nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo",
            num_workers=len(worker_group),
            timeout=timedelta(seconds=backend_config.timeout_s),
        )
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get([worker_group.execute_single_async(rank, _meet, meeting, rank) for rank in range(len(worker_group))])


def open_store(host: str) -> int:
    """Open the store of a group in this process, whose node the others know by the address `host`; return its port."""
    if ipaddress.ip_address(host).is_loopback:
        listening = socket.create_server((host, 0))
        port = listening.getsockname()[1]
        store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())
    else:
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    _held.append(store)
    return int(store.port)


def _meet(meeting: _Meeting, rank: int) -> None:
    store = TCPStore(meeting.host, meeting.port, is_master=False, timeout=meeting.timeout)
    torch.distributed.init_process_group(
        meeting.backend, store=store, rank=rank, world_size=meeting.num_workers, timeout=meeting.timeout
    )
