"""From a job's submission to the RayJob that runs it on Kubernetes."""

from collections.abc import Mapping, Sequence

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
from cluster.manifests.pools import POOL_LABEL, Pool
from cluster.manifests.spec import KubernetesConfig, PodConfig
from cluster.yaml_text import dump_yaml

_MAX_NAME = 47  # KubeRay adds to it, and some of the results are host names
_VOLUME = "store"


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
        labels={POOL_LABEL: pool.name},
        ray_start_params={"num-cpus": str(pool.cpus), "num-gpus": str(pool.gpus)},
        template=_template(config, pods, _container(config, "ray-worker", resources, env)),
    )


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
