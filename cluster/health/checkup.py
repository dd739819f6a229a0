"""The checkup of this machine: every check, on what it looks at."""

import os
from collections.abc import Mapping

from cluster.findings import Checkup
from cluster.health.clock import check_clock
from cluster.health.environment import check_authentication, check_environment
from cluster.health.gpus import check_gpus, look_for_gpus
from cluster.health.loopback import check_loopback, loopback_fault
from cluster.health.room import (
    check_open_files,
    check_shared_memory,
    check_temporary_folder,
    check_working_directory,
    free_shared_memory_bytes,
    look_into,
    most_open_files,
    temporary_folder,
)
from cluster.health.versions import check_versions, own_requirements


def check_machine(
    environment: Mapping[str, str] = os.environ, *, address: str | None = None, needs_gpu: bool = False
) -> Checkup:
    """Look at this machine, for a job with this `cluster.address` that may ask for GPUs here."""
    findings = (
        *check_versions(own_requirements()),
        check_gpus(look_for_gpus(environment), needed=needs_gpu),
        check_temporary_folder(look_into(temporary_folder(environment))),
        check_working_directory(look_into(os.getcwd())),
        check_shared_memory(free_shared_memory_bytes()),
        check_open_files(most_open_files()),
        check_loopback(loopback_fault()),
        check_authentication(environment, address=address),
        check_environment(environment, address=address),
        check_clock(),
    )
    return Checkup(of="this machine", findings=findings)
