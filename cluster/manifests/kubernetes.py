"""The objects of Kubernetes and KubeRay that a RayJob is made of, as far as Coffey says anything about them.

Fields have the names that the API gives them, in camel case when they are written.
"""

from typing import Any, Literal

from pydantic import AliasGenerator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from cluster.config import Config


class Manifest(Config):
    """A part of what is written for Kubernetes; what is None is left to it."""

    model_config = ConfigDict(alias_generator=AliasGenerator(serialization_alias=to_camel))

    def tree(self) -> dict[str, Any]:
        """Return mappings, sequences and plain values, as they are written."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Metadata(Manifest):
    """Which object it is."""

    name: str
    namespace: str
    labels: dict[str, str]


class EnvironmentVariable(Manifest):
    """One variable whose value everybody may read."""

    name: str
    value: str


class SecretReference(Manifest):
    """The name of a Secret."""

    name: str


class EnvironmentSource(Manifest):
    """Every entry of a Secret becomes a variable."""

    secret_ref: SecretReference


class VolumeMount(Manifest):
    """Where a volume of the pod appears in a container."""

    name: str
    mount_path: str


class Resources(Manifest):
    """What a container gets, and what is reserved for it: the same."""

    limits: dict[str, str]
    requests: dict[str, str]


class Container(Manifest):
    """The one container of a pod of Ray."""

    name: str
    image: str
    env: tuple[EnvironmentVariable, ...]
    env_from: tuple[EnvironmentSource, ...] | None
    resources: Resources
    volume_mounts: tuple[VolumeMount, ...] | None


class ClaimReference(Manifest):
    """The name of a PersistentVolumeClaim."""

    claim_name: str


class Volume(Manifest):
    """A volume of a pod."""

    name: str
    persistent_volume_claim: ClaimReference


class Toleration(Manifest):
    """A taint that a pod puts up with."""

    key: str | None
    operator: str
    value: str | None
    effect: str | None


class PodSpec(Manifest):
    """A pod. One that has ended is replaced, never restarted: Ray would take it for the node that it was."""

    containers: tuple[Container, ...]
    restart_policy: Literal["Never"] = "Never"
    service_account_name: str | None
    node_selector: dict[str, str] | None
    tolerations: tuple[Toleration, ...] | None
    volumes: tuple[Volume, ...] | None


class PodTemplate(Manifest):
    """What pods of a group look like."""

    spec: PodSpec


class HeadGroup(Manifest):
    """The head node of Ray."""

    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Manifest):
    """Nodes of Ray that are alike."""

    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    labels: dict[str, str]
    """Of the nodes of Ray, not of Kubernetes."""
    resources: dict[str, str]
    """What a node of Ray hands out. Stands here alone: KubeRay refuses a group with more of it in `rayStartParams`."""
    ray_start_params: dict[str, str]
    template: PodTemplate


class AuthOptions(Manifest):
    """Nobody enters without the cluster's token."""

    mode: Literal["token"] = "token"
    secret_name: str | None


class AutoscalerOptions(Manifest):
    """How Ray asks for pods and gives them back."""

    version: Literal["v2"] = "v2"
    idle_timeout_seconds: int


class RayClusterSpec(Manifest):
    """The cluster of one job."""

    ray_version: str
    enable_in_tree_autoscaling: Literal[True] = True
    autoscaler_options: AutoscalerOptions
    auth_options: AuthOptions
    head_group_spec: HeadGroup
    worker_group_specs: tuple[WorkerGroup, ...]


class RayJobSpec(Manifest):
    """A job and the cluster that is started for it, and goes with it."""

    job_id: str
    entrypoint: str
    submission_mode: Literal["HTTPMode"] = "HTTPMode"
    """The operator posts the command as it is; a pod of its own would quote it again."""
    runtime_env_yaml: str = Field(serialization_alias="runtimeEnvYAML")
    shutdown_after_job_finishes: Literal[True] = True
    ttl_seconds_after_finished: int
    active_deadline_seconds: int | None
    backoff_limit: int
    ray_cluster_spec: RayClusterSpec


class RayJob(Manifest):
    """KubeRay's custom resource."""

    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    metadata: Metadata
    spec: RayJobSpec
