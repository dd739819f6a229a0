"""What is sent elsewhere to run a job: the command, the files, and the cluster that it needs."""

import importlib.metadata
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.errors import SpecError
from cluster.identity import canonical_json, digest_of
from cluster.jobs import refuse_secrets_in
from cluster.manifests.launcher import launcher_cluster
from cluster.manifests.pools import Pool, Unit, pool_of
from cluster.manifests.rayjob import name_of, ray_job
from cluster.manifests.secrecy import refuse_secrets
from cluster.manifests.spec import KubernetesConfig
from cluster.package import Package, publish
from cluster.resources import ResourceConfig
from cluster.storage.open import open_store
from cluster.yaml_text import dump_yaml
from orchestrator.planning.planned import Part
from orchestrator.spec import JobSpec
from orchestrator.specfile.overrides import written
from students.cohorts.codistillation import CodistillationCohort
from teachers.spec import ReplicaRange

# Where the store of a bucket is, as this machine sees it; never who may enter.
_STORE_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


class SectionMissingError(SpecError):
    """The spec does not describe the kind of cluster that is asked for."""

    def __init__(self, target: str, section: str, needs: str) -> None:
        super().__init__(target, section, needs)
        self.target, self.section, self.needs = target, section, needs

    def __str__(self) -> str:
        return f"--target {self.target}: the spec has no `{self.section}`; expected it with at least `{self.needs}`."


class StoreOutOfReachError(SpecError):
    """Pods could not reach the store, or this machine cannot put the job's files where they do."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store, self.reason = store, reason

    def __str__(self) -> str:
        return (
            f"store {self.store}: a directory, and {self.reason}. Expected s3://bucket/prefix, or a directory "
            "of a volume that the pods and this machine have at the same path: cluster.kubernetes.volume."
        )


@dataclass(frozen=True)
class Submission:
    """What is sent to a cluster for one spec."""

    submission_id: str
    part: Part
    entrypoint: str
    working_dir: Path
    excludes: tuple[Path, ...]
    """Paths that stay behind although they lie in `working_dir`."""
    env: dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """A RayJob, and what was put into the store for it."""

    name: str
    manifest: str
    package: Package
    package_uri: str


def submission_of(job: JobSpec, spec: Path, overrides: Sequence[str], part: Part = "all") -> Submission:
    """Return what runs a part of `job` on a cluster: `coffey run` with the file `spec` and the same overrides."""
    here, path = Path.cwd(), spec.absolute()
    working_dir = here if path.is_relative_to(here) else path.parent
    settings = [written("cluster.address", "auto"), *overrides]
    is_bucket = _is_bucket(job)
    store = job.store if is_bucket else open_store(job.store).uri
    if not is_bucket:
        settings.append(written("store", store))  # the job runs in another directory
    words = ["coffey", "run", str(path.relative_to(working_dir)), *chosen(settings, part)]
    unique = digest_of(canonical_json({"spec": job, "at": time.time_ns(), "by": os.getpid()}))[:8]
    submission_id = f"{job.name}-{unique}"
    named = {name: os.environ[name] for name in _STORE_VARIABLES if is_bucket and os.environ.get(name)}
    return Submission(
        submission_id=submission_id,
        part=part,
        entrypoint=shlex.join(words),
        working_dir=working_dir,
        excludes=() if is_bucket else (Path(store),),
        env=named | {"COFFEY_SUBMISSION_ID": submission_id},
    )


def chosen(settings: Sequence[str], part: Part = "all") -> list[str]:
    """Return the options of a command line that runs a part of a job with these overrides."""
    named = [] if part == "all" else ["--part", part]
    return [*named, *(word for setting in settings for word in ("--set", setting))]


def render_ray_job(job: JobSpec, sent: Submission) -> Rendered:
    """Put the files of a submission into the store, and return the RayJob that fetches and runs them.

    Raises:
        SpecError: the spec does not describe pods, they cannot reach the store, or something looks like a credential.
        StorageError: the store does not take the files.
    """
    config = job.cluster.kubernetes
    if config is None:
        raise SectionMissingError("rayjob", "cluster.kubernetes", "image")
    refuse_secrets_in(sent.env)
    _check_shared(job, config)
    pools = pools_of(job, sent.part)
    settings = list(told_of_growth(job, pools))
    if not _is_bucket(job):
        settings.append("cluster.store_is_shared=true")  # a directory is of the volume that all pods have
    package, uri = publish(sent.working_dir, open_store(job.store), excludes=sent.excludes)
    manifest = ray_job(
        config,
        submission_id=sent.submission_id,
        entrypoint=" ".join([sent.entrypoint, *map(shlex.quote, chosen(settings))]),
        working_dir=uri,
        env=sent.env,
        pools=pools,
        ray_version=importlib.metadata.version("ray"),
    ).tree()
    refuse_secrets(manifest, "RayJob")
    return Rendered(name_of(sent.submission_id), dump_yaml(manifest), package, uri)


def render_launcher(job: JobSpec, part: Part = "all") -> tuple[str, tuple[str, ...]]:
    """Return the file from which `ray up` starts a cluster for a part of a job, and what tells the job of its growth.

    Of machines that exist only the spec can tell.

    Raises:
        SpecError: the spec does not describe machines, or something looks like a credential.
    """
    config = job.cluster.launcher
    if config is None:
        raise SectionMissingError("ray-up", "cluster.launcher", "provider")
    pools = pools_of(job, part)
    tree = launcher_cluster(config, name=job.name if part == "all" else f"{job.name}-{part}", pools=pools).tree()
    refuse_secrets(tree, "cluster")
    return dump_yaml(tree), () if config.is_local else told_of_growth(job, pools)


def told_of_growth(job: JobSpec, pools: Sequence[Pool]) -> tuple[str, ...]:
    """Return the override that tells a job which nodes its cluster may have; none where the spec says so itself.

    A cluster begins as less than the job needs, which would be refused.
    """
    if job.cluster.may_grow_to or not pools:
        return ()
    kinds = [pool.kind.model_dump(mode="json", exclude_defaults=True) for pool in pools]
    return (f"cluster.may_grow_to={json.dumps(kinds)}",)


def pools_of(job: JobSpec, part: Part = "all") -> tuple[Pool, ...]:
    """Return the nodes that a part of a job needs: for what labels, between its bounds, and for the workers that train.

    Raises:
        UnlikeNodesError, NodeNotToBeHadError: it asks for nodes that cannot be started for it.
    """
    teachers = () if part == "student" else job.teachers
    units = [_replicas(f"teacher {teacher.name}", teacher.replicas, teacher.resources) for teacher in teachers]
    if part == "teachers":
        return tuple(filter(None, [pool_of("teachers", units)]))
    if job.generations is not None:
        # They label when the teachers have, on the same nodes if these suffice.
        later = _replicas("each generation", job.generations.replicas, job.generations.resources)
        units.append(replace(later, least=0))
    train, cohort = job.train, job.cohort
    num_groups = 1 + len(cohort.members) if isinstance(cohort, CodistillationCohort) else 1
    least, most = num_groups * train.min_workers, num_groups * train.max_workers
    trains = Unit("training", train.resources, least, most)
    return tuple(filter(None, (pool_of("teachers", units), pool_of("students", [trains]))))


def _replicas(who: str, replicas: int | ReplicaRange, resources: ResourceConfig) -> Unit:
    least, most = (replicas, replicas) if isinstance(replicas, int) else (replicas.min, replicas.max)
    return Unit(who, resources, least, most)


def _is_bucket(job: JobSpec) -> bool:
    return job.store.startswith("s3://")


def _check_shared(job: JobSpec, config: KubernetesConfig) -> None:
    if _is_bucket(job):
        return
    store = open_store(job.store).uri
    if config.volume is None:
        raise StoreOutOfReachError(store, "the pods of a RayJob have no volume")
    path = Path(config.volume.mount_path)
    if not Path(store).is_relative_to(path):
        raise StoreOutOfReachError(store, f"it is not below {path}, where the pods have their volume")
    if not path.is_dir():
        raise StoreOutOfReachError(store, f"there is no {path} here, to leave the job's files in")
