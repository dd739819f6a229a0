"""Whether all that a job needs is there: on this machine, and on the cluster that it is to run on."""

import os

from cluster.findings import Checkup, Finding, concern, failure, fine
from cluster.health.checkup import check_machine
from cluster.health.doors import capacity_of, check_cluster_address, check_dashboard
from cluster.session import Capacity, local_capacity
from orchestrator.planning.placement import DoesNotFitError, misfits, unanswered
from orchestrator.planning.room import grown
from orchestrator.spec import JobSpec


def check_readiness(job: JobSpec, *, dashboard: str | None) -> tuple[Checkup, ...]:
    """Look at this machine and at the cluster for a job that is submitted at a dashboard, or else run from here.

    Raises:
        DashboardAddressError: `dashboard` is no address of one.
    """
    if dashboard is not None:
        return check_machine(), _check_submission(job, dashboard)
    if (address := job.cluster.address) is not None:
        there = Checkup(of=f"cluster.address {address}", findings=(check_cluster_address(address),))
        return check_machine(address=address), there
    here = Checkup(of=f"job {job.name}", findings=_check_own_cluster(job))
    return check_machine(needs_gpu=_asks_for_gpus(job) and not job.cluster.is_another), here


def check_room_for(job: JobSpec, capacity: Capacity | None) -> Finding:
    """Judge whether each part of a job fits a cluster; None is one that does not tell how large it is."""
    if capacity is None:
        return concern("room", "the cluster does not tell how large it is", "Compare `ray status` there with the job.")
    for misfit in misfits(job.teachers, job.train, grown(capacity, job.cluster.may_grow_to)):
        return _too_small(misfit)
    if waiting := [misfit.what for misfit in misfits(job.teachers, job.train, capacity)]:
        later = "each part of the job fits what the cluster may grow to"
        return fine("room", f"{later}, for which {' and '.join(waiting)} will wait")
    return fine("room", f"each part of the job fits {_shown(capacity)}")


def check_room_here(job: JobSpec) -> Finding:
    """Judge the same for a cluster that is started on this machine, of which not everything is known before."""
    capacity = local_capacity(job.cluster.cpus)
    try:
        notes = unanswered(misfits(job.teachers, job.train, capacity), job.cluster)
    except DoesNotFitError as error:
        return _too_small(error)
    if notes:
        return concern("room", "; ".join(notes), "Ask that cluster: coffey doctor … --address URL of its dashboard.")
    return fine("room", f"each part of the job fits {_shown(capacity)}")


def _too_small(misfit: DoesNotFitError) -> Finding:
    fix = "Ask for less (replicas, resources, train.workers), or give the cluster more."
    return failure("room", f"{misfit.what} needs {misfit.asked}, and there is {misfit.found}", fix)


def _check_submission(job: JobSpec, address: str) -> Checkup:
    findings, dashboard = check_dashboard(address)
    if dashboard is not None:
        findings = (*findings, check_room_for(job, capacity_of(dashboard)))
    return Checkup(of=f"dashboard {address}", findings=findings)


def _check_own_cluster(job: JobSpec) -> tuple[Finding, ...]:
    findings = (check_room_here(job),)
    num_cores = len(os.sched_getaffinity(0))
    if job.cluster.cpus is not None and job.cluster.cpus > num_cores:
        found = f"cluster.cpus is {job.cluster.cpus}, and this machine has {num_cores}"
        return *findings, concern("cores", found, "Leave cluster.cpus out: processes that take turns are slower.")
    return findings


def _asks_for_gpus(job: JobSpec) -> bool:
    return job.train.gpus_per_worker > 0 or any(teacher.resources.gpu > 0 for teacher in job.teachers)


def _shown(capacity: Capacity) -> str:
    return f"{capacity.cpus:g} CPU and {capacity.gpus:g} GPU"
