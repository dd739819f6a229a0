"""A connection to Ray: a cluster of our own on this machine, or one that runs already."""

import contextlib
import ipaddress
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import EnvironmentFailure
from cluster.noise import noise_in

# Ray reads these when it is imported and hands them to every process it starts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s delays the end of every training by as much
    # An elastic group that has lost a node asks for as many workers as before until it has waited for so long.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}
OBJECT_STORE_BYTES = 256 * 1024 * 1024
"""Memory for Ray's objects on a cluster that is started here."""
# For a cluster of our own: nobody enters without the token, workers that train meet on loopback, and no numbers are
# told to whoever asks for them: Prometheus would, without a token.
_LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "GLOO_SOCKET_IFNAME": "lo", "RAY_enable_metrics_collection": "0"}
_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": False}


class ClusterUnreachableError(EnvironmentFailure):
    """No Ray cluster answers at the address, or none could be started here (`address` None)."""

    def __init__(self, address: str | None, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        if self.address is None:
            return (
                f"Ray did not start on this machine: {self.reason}. Look at what else takes its cores, memory and room "
                "in /tmp, then give the same command again: it continues."
            )
        return (
            f"Ray at {self.address}: {self.reason}. Check cluster.address and RAY_AUTH_TOKEN, or leave the address out "
            "to start a cluster on this machine."
        )


@dataclass(frozen=True)
class Capacity:
    """What a cluster can hand out in all, and what each of its nodes can, where there are several."""

    cpus: float
    gpus: float
    nodes: "tuple[Capacity, ...]" = ()
    special: Mapping[str, float] = field(default_factory=dict)
    """Amounts of other resources of a node, by Ray's names."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of a node."""

    @classmethod
    def of_nodes(cls, nodes: "Sequence[Capacity]") -> "Capacity":
        """Return what so many nodes can hand out."""
        return cls(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), tuple(nodes))

    @classmethod
    def of_ray(cls, nodes: Sequence[Mapping[str, Any]]) -> "Capacity":
        """Return what the nodes that `ray.nodes()` lists as alive can hand out."""
        return cls.of_nodes([cls._of_node(node) for node in nodes if node["Alive"]])

    @classmethod
    def _of_node(cls, node: Mapping[str, Any]) -> "Capacity":
        found: dict[str, float] = dict(node["Resources"])
        cpus, gpus = found.pop("CPU", 0.0), found.pop("GPU", 0.0)
        return cls(cpus, gpus, special=found, labels=node.get("Labels") or {})

    @property
    def amounts(self) -> Mapping[str, float]:
        """All that a node can hand out, by Ray's names."""
        return {**self.special, "CPU": self.cpus, "GPU": self.gpus}


def local_capacity(cpus: int | None) -> Capacity:
    """Return what a cluster started on this machine would have, without starting it."""
    return Capacity(float(cpus or len(os.sched_getaffinity(0))), float(_num_gpus()))


@contextlib.contextmanager
def ray_session(address: str | None, *, cpus: int | None = None) -> Iterator[Capacity]:
    """Connect to Ray for the length of the context; a cluster started here listens on loopback and ends with it.

    What Ray writes to the terminal meanwhile goes to a file beside its logs. An error that tells of a process that
    failed leaves the context with the last lines of that process as a note.

    Raises:
        ClusterUnreachableError: there is no such cluster, or it refuses us.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.update(_LOCAL_ENVIRONMENT)  # read when Ray is imported, and never again
    elif _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    with tempfile.TemporaryDirectory(prefix="coffey-", ignore_cleanup_errors=True) as folder:
        try:
            with noise_in(Path(folder, "ray.log")):
                logs = _start(cpus) if address is None else _join(address)
        except Exception as error:  # Ray raises the bare class when a node does not start in time
            raise ClusterUnreachableError(address, f"{type(error).__name__}: {error}".rstrip(". ")) from error
        job = ray.get_runtime_context().get_job_id()
        logs = logs or Path(folder)
        writable = logs if os.access(logs, os.W_OK) else Path(folder)
        with noise_in(writable / f"coffey-{os.getpid()}.log"):
            try:
                yield Capacity.of_ray(ray.nodes())
            except Exception as error:
                _add_last_words(error, logs, job)
                raise
            finally:
                ray.shutdown()


def _join(address: str) -> Path | None:
    """Connect to a running cluster; return the folder of its logs on this machine, None if we stand outside of it."""
    import ray

    with _own_signal_handler():
        context = ray.init(address=address, **_QUIET)
    # What Ray's client (ray://) is given tells nothing of a node.
    return _logs_of(context) if hasattr(context, "address_info") else None


def _start(cpus: int | None) -> Path:
    """Start a cluster on loopback, and return the folder of its logs."""
    import ray
    from ray._private import ray_constants

    # Ray puts the machine's address in the place of 127.0.0.1, unless it believes that there are no clusters here.
    ray_constants.ENABLE_RAY_CLUSTER = False
    # Workers import the user's models as the driver does: from the directory of the command.
    os.environ["PYTHONPATH"] = _python_path()
    with _own_signal_handler():
        # A cluster that was killed leaves its address behind; "local" never looks for it.
        context = ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            object_store_memory=OBJECT_STORE_BYTES,
            **_QUIET,
        )
    _close_token_file()
    found = context.address_info["node_ip_address"]
    if not ipaddress.ip_address(found).is_loopback:
        ray.shutdown()
        raise OSError(f"it listens on {found}, expected loopback")
    return _logs_of(context)


def _logs_of(context: Any) -> Path:
    return Path(context.address_info["session_dir"], "logs")


def _add_last_words(error: Exception, logs: Path, job: str) -> None:
    from cluster.last_words import last_words

    with contextlib.suppress(OSError):  # what explains an error must not take its place
        if words := last_words(error, logs, job):
            error.add_note(words)


def _has_token() -> bool:
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(name in os.environ for name in names) or _token_file().is_file()


def _token_file() -> Path:
    return Path("~/.ray/auth_token").expanduser()


def _close_token_file() -> None:
    """Keep the token from others of this machine, who reach its loopback too: Ray writes it for everybody to read."""
    with contextlib.suppress(OSError):
        _token_file().chmod(0o600)


def _num_gpus() -> int:
    """Count NVIDIA's devices as Ray will, which asks their driver: as many as there are and this process may see."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return devices if visible is None else min(devices, len([name for name in visible.split(",") if name.strip()]))


def _python_path() -> str:
    # Ours first: a folder of the user's called `students` must not hide the package.
    ours = str(Path(__file__).parent.parent)
    entries = [ours, os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(entries))


@contextlib.contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Keep the caller's handler of SIGTERM: Ray puts one in its place that ends the process with a stack trace."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
