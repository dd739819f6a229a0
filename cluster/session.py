"""A connection to Ray: a cluster of our own on this machine, or one that runs already."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.errors import EnvironmentFailure

# Ray reads these when it is imported and hands them to every process it starts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s delays the end of every training by as much
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}
_OBJECT_STORE_BYTES = 256 * 1024 * 1024


class ClusterUnreachableError(EnvironmentFailure):
    """No Ray cluster answers at the address, or none could be started here."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return (
            f"Ray at {self.address}: {self.reason}. Check cluster.address and RAY_AUTH_TOKEN, or leave the address out "
            "to start a cluster on this machine."
        )


@dataclass(frozen=True)
class Capacity:
    """What a cluster can hand out in all."""

    cpus: float
    gpus: float


def local_capacity(cpus: float | None) -> Capacity:
    """Return what a cluster started on this machine would have, without starting it."""
    return Capacity(cpus if cpus is not None else float(len(os.sched_getaffinity(0))), 0.0)


@contextlib.contextmanager
def ray_session(address: str | None, *, cpus: float | None = None) -> Iterator[Capacity]:
    """Connect to Ray for the length of the context; a cluster started here listens on loopback and ends with it.

    Raises:
        ClusterUnreachableError: there is no such cluster, or it refuses us.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    with tempfile.TemporaryDirectory(prefix="coffey-", ignore_cleanup_errors=True) as logs:
        try:
            with _ray_noise_in(f"{logs}/ray.log"):
                _connect(address, cpus)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterUnreachableError(address or "this machine", f"{type(error).__name__}: {error}") from error
        try:
            total = ray.cluster_resources()
            yield Capacity(total.get("CPU", 0.0), total.get("GPU", 0.0))
        finally:
            with _ray_noise_in(f"{logs}/ray.log"):
                ray.shutdown()


def _connect(address: str | None, cpus: float | None) -> None:
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": False}
    if address is not None:
        ray.init(address=address, **quiet)
        return
    # Workers import the user's models as the driver does: from the directory of the command.
    os.environ["PYTHONPATH"] = _python_path()
    # A cluster that was killed leaves its address behind; "local" never looks for it.
    ray.init(
        address="local",
        num_cpus=None if cpus is None else int(cpus),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        **quiet,
    )


def _python_path() -> str:
    entries = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(entries))


@contextlib.contextmanager
def _ray_noise_in(path: str) -> Iterator[None]:
    """Send what Ray's processes write to our terminal to a file instead."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
