"""Bringing teachers up on Ray Serve, side by side, and taking them down."""

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.errors import TeacherError
from cluster.tasks import here
from teachers.deployment import ReplicaSetup, application
from teachers.lifeline import LIFELINE_NAMESPACE, Lifeline

_QUIET = {"log_level": "ERROR", "enable_access_log": False}


class TeacherStartError(TeacherError):
    """A teacher's replicas cannot start."""

    def __init__(self, teacher: str, reason: str) -> None:
        super().__init__(teacher, reason)
        self.teacher, self.reason = teacher, reason

    def __str__(self) -> str:
        return f"teacher {self.teacher} does not start: {self.reason}"


@contextlib.contextmanager
def hosted(setups: Sequence[ReplicaSetup]) -> Iterator[dict[str, DeploymentHandle]]:
    """Run one Serve application for each teacher, without an HTTP proxy, for the length of the context.

    Yields handles by the teachers' names. Applications have names of their own, so that jobs which share a cluster, and
    what an earlier driver may have left on it, never meet.

    Raises:
        TeacherStartError: a replica's constructor failed, with its reason.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # serve.start has to come first: serve.run alone would open an HTTP proxy on every node.
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    token = uuid.uuid4().hex[:8]
    options = {"name": f"coffey-{token}", "namespace": LIFELINE_NAMESPACE, "scheduling_strategy": here()}
    lifeline = ray.remote(num_cpus=0)(Lifeline).options(**options).remote()
    ray.get(lifeline.__ray_ready__.remote())
    setups = [replace(setup, lifeline=f"coffey-{token}") for setup in setups]
    names = {f"coffey-{token}-{setup.config.name}": setup for setup in setups}
    try:
        targets = [
            serve.RunTarget(application(setup), name=name, route_prefix=None, logging_config=_QUIET)
            for name, setup in names.items()
        ]
        try:
            handles = serve.run_many(targets)
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise _start_error(names, error) from error
        yield {setup.config.name: handle for setup, handle in zip(setups, handles, strict=True)}
    finally:
        for name in names:
            serve.delete(name, _blocking=False)
        ray.kill(lifeline)


def release(handle: DeploymentHandle) -> None:
    """Take a teacher down before the context ends, because nobody will ask it again."""
    serve.delete(handle.app_name, _blocking=False)


def _start_error(names: Mapping[str, ReplicaSetup], error: Exception) -> TeacherStartError:
    """Find the replica's own words in Serve's status."""
    applications = serve.status().applications
    for name, setup in names.items():
        for deployment in applications[name].deployments.values() if name in applications else ():
            if deployment.status not in ("HEALTHY", "UPDATING"):
                return TeacherStartError(setup.config.name, _last_words(deployment.message))
    return TeacherStartError(", ".join(setup.config.name for setup in names.values()), _last_words(str(error)))


def _last_words(message: str) -> str:
    """Return the last line of a traceback without the class path of its exception."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # A replica that cannot start is tried several times; the traceback of the last try ends in the error itself.
    errors = [line for line in lines if "Error: " in line or "Exception: " in line]
    return (errors or lines or ["no reason given"])[-1].rpartition("Error: ")[2]
