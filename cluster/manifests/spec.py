"""What a user says of a cluster that is started for a job. Secrets are named here, and stay where they are."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from cluster.config import Config

KubeName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
"""Name of an object in Kubernetes."""

Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?$")]
"""An amount of bytes as Kubernetes writes it, such as 8Gi."""


class TolerationConfig(Config):
    """A taint that pods put up with."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PodConfig(Config):
    """Pods of one kind: what they need beside cores and GPUs, and on which nodes they may run."""

    memory: Quantity = "8Gi"
    node_selector: dict[str, str] = {}
    """Labels of the nodes of Kubernetes, such as those that say which GPU a node has."""
    tolerations: tuple[TolerationConfig, ...] = ()


class VolumeConfig(Config):
    """A volume that all pods share, to hold a store."""

    claim: KubeName
    """Name of a PersistentVolumeClaim that many pods may write (ReadWriteMany)."""
    mount_path: Annotated[str, Field(pattern=r"^/[^:]*$")]
    """Directory at which it appears in the pods."""


class KubernetesConfig(Config):
    """A RayJob of KubeRay. The cores and GPUs of its pods follow from the teachers and the training."""

    image: Annotated[str, Field(min_length=1)]
    """Has Coffey, Ray and torch, and what the models import."""
    namespace: KubeName = "default"
    service_account: KubeName | None = None
    """Service account of the pods, such as one that may enter the bucket of the store."""
    secret: KubeName | None = None
    """Name of a Secret whose entries become environment variables of the pods, such as AWS_ACCESS_KEY_ID."""
    token_secret: KubeName | None = None
    """Name of a Secret that holds the cluster's token under `auth_token`; by default KubeRay makes one."""
    gpu: str = "nvidia.com/gpu"
    """What Kubernetes calls a GPU."""
    head_cpus: Annotated[int, Field(ge=1)] = 2
    """Cores of the head, where the driver reads and writes; teachers and students do not run there."""
    head: PodConfig = PodConfig()
    teachers: PodConfig = PodConfig()
    students: PodConfig = PodConfig()
    volume: VolumeConfig | None = None
    """Holds the store, if this is no bucket."""
    idle_s: Annotated[int, Field(ge=1)] = 60
    """Seconds after which a pod without work is given back, down to what the job asks for at least."""
    keep_s: Annotated[int, Field(ge=0)] = 600
    """Seconds for which the cluster outlives the job."""
    deadline_s: Annotated[int, Field(ge=1)] | None = None
    """Seconds after which Kubernetes ends the job; by default never."""
    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failed job is started again on a fresh cluster, where it continues."""


class LauncherConfig(Config):
    """A cluster that `ray up` starts. How many machines it may have follows from the teachers and the training."""

    provider: dict[str, JsonValue]
    """As the launcher takes it: `type` and what that type needs, such as `region`."""
    auth: dict[str, JsonValue] = {}
    """As the launcher takes it, such as `ssh_user` and the path of `ssh_private_key`."""
    head_node: dict[str, JsonValue] = {}
    """What the provider needs to know of the machine of the head, such as `InstanceType` on AWS."""
    teacher_node: dict[str, JsonValue] = {}
    student_node: dict[str, JsonValue] = {}
    image: str | None = None
    """Container in which Ray runs on every machine; by default it runs on the machine itself."""
    setup: tuple[str, ...] = ()
    """Commands that make a machine ready, such as the installation of Coffey."""
    idle_minutes: Annotated[float, Field(gt=0)] = 5.0
    """Minutes after which a machine without work is given back."""

    @property
    def is_local(self) -> bool:
        """Whether the machines exist, and are listed one by one."""
        return self.provider.get("type") == "local"

    @model_validator(mode="after")
    def _has_a_provider(self) -> "LauncherConfig":
        if not self.provider.get("type"):
            raise ValueError("provider has no `type`; expected one that `ray up` knows, such as aws, gcp or local")
        if self.is_local and not {"head_ip", "worker_ips"} <= self.provider.keys():
            raise ValueError("provider is local; expected `head_ip` and `worker_ips`, the machines of the cluster")
        if self.is_local and (self.head_node or self.teacher_node or self.student_node):
            raise ValueError("provider is local, whose machines exist; expected no `head_node` and the like")
        return self
