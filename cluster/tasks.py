"""Ray's tasks and actors: results with their errors out of Ray's wrapping, and actors that end with their driver."""

from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import EnvironmentFailure
from cluster.failures import own_error, reason_of


class TaskLostError(EnvironmentFailure):
    """A task's process or node died more often than it is repeated."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"a Ray task was lost: {self.reason}. Its process or its node died repeatedly, often for lack of memory. "
            "Run the same command again to go on from what is done."
        )


def result_of(ref: "ray.ObjectRef[Any]") -> Any:
    """Wait for a task and return its result.

    Raises:
        CoffeyError: what the task raised on purpose.
        TaskLostError: Ray could not carry it out.
        Exception: anything else that the task raised, which is a bug.
    """
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise own_error(error) or error from error
    except ray.exceptions.RayError as error:
        raise own_error(error) or TaskLostError(reason_of(error)) from error


def here() -> NodeAffinitySchedulingStrategy:
    """Return where to put what must not be lost with another node: on that of this process."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
