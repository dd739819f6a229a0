"""From a job's submission to the RayJob that runs it on Kubernetes."""

import re
from collections.abc import Mapping, Sequence

from cluster.errors import SpecError
from cluster.manifests.kubernetes import (
    AuthOptions,
    AutoscalerOptions,
    ClaimReference,
    Container,
    EnvironmentSource,
    EnvironmentVariable,
    HeadGroup,
    Metadata,
    PodSpec,
    PodTemplate,
    RayClusterSpec,
    RayJob,
    RayJobSpec,
    Resources,
    SecretReference,
    Toleration,
    Volume,
    VolumeMount,
    WorkerGroup,
)
from cluster.manifests.pools import Pool
from cluster.manifests.spec import KubernetesConfig, PodConfig
from cluster.yaml_text import dump_yaml

_MAX_NAME = 47  # KubeRay adds to it, and some of the results are host names
_VOLUME = "store"
_EXPRESSIBLE = re.compile(r"[A-Za-z0-9_./:-]+")  # KubeRay quotes names for a shell with a single quote at each end
_MISREAD = re.compile(r"^(cpu|memory)$|gpu$|^nvidia\.com/mig-")


class ResourceMisreadError(SpecError):
    """KubeRay would make something else of the name of a resource."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return (
            f"resource {self.name!r}: a RayJob cannot give it to nodes, because KubeRay takes such a name for cores, "
            "memory or GPUs, or for more than a name. Expected letters, digits and `_ . / : -`, and no `gpu` at the "
            "end; or run the job on a cluster of your own (coffey submit --address)."
        )


def ray_job(
    config: KubernetesConfig,
    *,
    submission_id: str,
    entrypoint: str,
    working_dir: str,
    env: Mapping[str, str],
    pools: Sequence[Pool],
    ray_version: str,
) -> RayJob:
    """Return the RayJob that runs the shell command `entrypoint`.

    `working_dir` is the address of an archive that the cluster's nodes can fetch, `env` what everybody may read of the
    environment, and `ray_version` that of the image.

    Raises:
        ResourceMisreadError: nodes would need a resource that KubeRay has no way to give them.
    """
    return RayJob(
        metadata=Metadata(
            name=name_of(submission_id),
            namespace=config.namespace,
            labels={"app.kubernetes.io/managed-by": "coffey", "coffey/submission": submission_id},
        ),
        spec=RayJobSpec(
            job_id=submission_id,
            entrypoint=entrypoint,
            runtime_env_yaml=dump_yaml({"working_dir": working_dir, "env_vars": dict(env)}),
            ttl_seconds_after_finished=config.keep_s,
            active_deadline_seconds=config.deadline_s,
            backoff_limit=config.retries,
            ray_cluster_spec=RayClusterSpec(
                ray_version=ray_version,
                autoscaler_options=AutoscalerOptions(idle_timeout_seconds=config.idle_s),
                auth_options=AuthOptions(secret_name=config.token_secret),
                head_group_spec=_head(config, env),
                worker_group_specs=tuple(_workers(config, pool, env) for pool in pools),
            ),
        ),
    )


def name_of(submission_id: str) -> str:
    """Return the name of a submission's RayJob, which may hold less than an id: no `_`, and 47 letters at most."""
    name, _, unique = submission_id.replace("_", "-").rpartition("-")
    return f"{name[: _MAX_NAME - 1 - len(unique)].rstrip('-')}-{unique}"


def _head(config: KubernetesConfig, env: Mapping[str, str]) -> HeadGroup:
    # Without a core to hand out nothing but the driver runs beside what keeps the cluster together.
    container = _container(config, "ray-head", _resources(config.head_cpus, config.head.memory), env)
    return HeadGroup(ray_start_params={"num-cpus": "0"}, template=_template(config, config.head, container))


def _workers(config: KubernetesConfig, pool: Pool, env: Mapping[str, str]) -> WorkerGroup:
    pods: PodConfig = getattr(config, pool.name)
    resources = _resources(pool.cpus, pods.memory, {config.gpu: str(pool.gpus)} if pool.gpus else {})
    return WorkerGroup(
        group_name=pool.name,
        replicas=pool.least,
        min_replicas=pool.least,
        max_replicas=pool.most,
        labels=pool.kind.labels,
        resources={"CPU": str(pool.cpus), "GPU": str(pool.gpus), **_special(pool)},
        ray_start_params={},
        template=_template(config, pods, _container(config, "ray-worker", resources, env)),
    )


def _special(pool: Pool) -> dict[str, str]:
    for name in pool.special:
        if not _EXPRESSIBLE.fullmatch(name) or _MISREAD.search(name.lower()):
            raise ResourceMisreadError(name)
    return {name: str(amount) for name, amount in pool.special.items()}


def _resources(cpus: int, memory: str, gpus: Mapping[str, str] | None = None) -> Resources:
    amounts = {"cpu": str(cpus), "memory": memory, **(gpus or {})}
    return Resources(limits=amounts, requests=amounts)


def _container(config: KubernetesConfig, name: str, resources: Resources, env: Mapping[str, str]) -> Container:
    mounts = (VolumeMount(name=_VOLUME, mount_path=config.volume.mount_path),) if config.volume else None
    secret = (EnvironmentSource(secret_ref=SecretReference(name=config.secret)),) if config.secret else None
    return Container(
        name=name,
        image=config.image,
        env=tuple(EnvironmentVariable(name=variable, value=value) for variable, value in env.items()),
        env_from=secret,
        resources=resources,
        volume_mounts=mounts,
    )


def _template(config: KubernetesConfig, pods: PodConfig, container: Container) -> PodTemplate:
    claim = config.volume and ClaimReference(claim_name=config.volume.claim)
    return PodTemplate(
        spec=PodSpec(
            containers=(container,),
            service_account_name=config.service_account,
            node_selector=pods.node_selector or None,
            tolerations=tuple(Toleration(**taint.model_dump()) for taint in pods.tolerations) or None,
            volumes=(Volume(name=_VOLUME, persistent_volume_claim=claim),) if claim else None,
        )
    )
