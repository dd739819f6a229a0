"""Bringing teachers up on Ray Serve, side by side, and taking them down."""

import contextlib
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatusOverview

from cluster.errors import TeacherError
from cluster.tasks import here
from teachers.deployment import START_TIMEOUT_S, ReplicaSetup, application
from teachers.lifeline import LIFELINE_NAMESPACE, Lifeline
from teachers.spec import TeacherConfig

_POLL_S = 0.5
_QUIET = {"log_level": "ERROR", "enable_access_log": False}


class TeacherStartError(TeacherError):
    """A teacher's replicas cannot start."""

    def __init__(self, teacher: str, reason: str) -> None:
        super().__init__(teacher, reason)
        self.teacher, self.reason = teacher, reason

    def __str__(self) -> str:
        return f"teacher {self.teacher} does not start: {self.reason}"


class ReplicasLateError(TeacherError):
    """Replicas that have to be there from the start are not."""

    def __init__(self, teacher: str, running: int, wanted: int, each: str, timeout_s: float) -> None:
        super().__init__(teacher, running, wanted, each, timeout_s)
        self.teacher, self.running, self.wanted, self.each, self.timeout_s = teacher, running, wanted, each, timeout_s

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher}: {self.running} of {self.wanted} replicas started within {self.timeout_s:g} s. "
            f"Each needs {self.each}, and the cluster has no room for another now (`ray status` says who holds it), or "
            "its model takes longer to load. Ask for fewer, or give them more time (cluster.start_timeout_s)."
        )


@contextlib.contextmanager
def hosted(
    setups: Sequence[ReplicaSetup], *, start_timeout_s: float = START_TIMEOUT_S
) -> Iterator[dict[str, DeploymentHandle]]:
    """Run one Serve application for each teacher, without an HTTP proxy, for the length of the context.

    Yields handles by the teachers' names. Applications have names of their own, so that jobs which share a cluster, and
    what an earlier driver may have left on it, never meet.

    Raises:
        TeacherStartError: a replica's constructor failed, with its reason.
        ReplicasLateError: replicas found no room, or were not ready, in time.
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
    handles: list[DeploymentHandle] = []
    try:
        targets = [
            serve.RunTarget(application(setup), name=name, route_prefix=None, logging_config=_QUIET)
            for name, setup in names.items()
        ]
        try:
            # Serve itself would wait forever for replicas that find no room.
            handles = serve.run_many(targets, wait_for_applications_running=False)
            _await_replicas(names, start_timeout_s)
        except (RuntimeError, ray.exceptions.RayError) as error:
            raise _start_error(names, error) from error
        yield {setup.config.name: handle for setup, handle in zip(setups, handles, strict=True)}
    finally:
        for handle in handles:
            handle.shutdown()  # a thread tells of its requests every second, long after the connection has ended
        for name in names:
            serve.delete(name, _blocking=False)
        ray.kill(lifeline)


def release(handle: DeploymentHandle) -> None:
    """Take a teacher down before the context ends, because nobody will ask it again."""
    serve.delete(handle.app_name, _blocking=False)


def _await_replicas(names: Mapping[str, ReplicaSetup], timeout_s: float) -> None:
    """Wait until every application has the replicas with which it starts."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = serve.status().applications
        states = {name: found[name].status for name in names}
        if all(state == "RUNNING" for state in states.values()):
            return
        if "DEPLOY_FAILED" in states.values():
            raise _start_error(names, RuntimeError("no reason given"))
        if time.monotonic() > deadline_s:
            late = next(name for name, state in states.items() if state != "RUNNING")
            raise _late(names[late].config, found[late].deployments.values(), timeout_s)
        time.sleep(_POLL_S)


def _late(
    config: TeacherConfig, deployments: Iterable[DeploymentStatusOverview], timeout_s: float
) -> ReplicasLateError:
    running = sum(deployment.replica_states.get("RUNNING", 0) for deployment in deployments)
    return ReplicasLateError(config.name, running, config.min_replicas, str(config.resources), timeout_s)


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
