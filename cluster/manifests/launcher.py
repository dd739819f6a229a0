"""From a job's needs to the file from which `ray up` starts a cluster, on machines that it rents or that exist."""

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from cluster.config import Config
from cluster.errors import SpecError
from cluster.manifests.pools import Pool
from cluster.manifests.spec import LauncherConfig
from cluster.resources import NodeConfig

TOKEN_FILE = "~/.ray/auth_token"  # noqa: S105  where Ray looks for the token, and `ray get-auth-token` leaves it
_HEAD = "head"
_STOP = "ray stop"
_START = "ulimit -n 65536; RAY_AUTH_MODE=token ray start"


class NodeMissingError(SpecError):
    """The provider is not told which machines to rent."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"cluster.launcher.{self.key}: nothing says which machine to rent; expected what the provider needs to "
            "know, such as `InstanceType: g5.xlarge` on AWS."
        )


class NodesAsTheyAreError(SpecError):
    """Machines that exist would have to offer something by name, and nobody tells Ray there that they do."""

    def __init__(self, pool: str, needs: str) -> None:
        super().__init__(pool, needs)
        self.pool, self.needs = pool, needs

    def __str__(self) -> str:
        return (
            f"cluster.launcher.provider is local, and the {self.pool} need nodes with {self.needs}: the launcher uses "
            "machines that exist as they are. Start Ray there yourself (`ray start --resources --labels`), and submit "
            "with --address; or ask for nodes without it."
        )


class NodeType(Config):
    """Machines that are alike."""

    resources: dict[str, int]
    labels: dict[str, str]
    """Of the nodes of Ray."""
    min_workers: int
    max_workers: int
    node_config: dict[str, JsonValue]


class LauncherCluster(Config):
    """The file; its keys are those of Ray's launcher."""

    cluster_name: str
    provider: dict[str, JsonValue]
    auth: dict[str, JsonValue]
    docker: dict[str, str] | None
    max_workers: int | None
    idle_timeout_minutes: float
    head_node_type: str | None
    available_node_types: dict[str, NodeType] | None
    file_mounts: dict[str, str]
    setup_commands: tuple[str, ...]
    head_start_ray_commands: tuple[str, ...]
    worker_start_ray_commands: tuple[str, ...]

    def tree(self) -> dict[str, Any]:
        """Return mappings, sequences and plain values, as they are written."""
        return self.model_dump(mode="json", exclude_none=True)


def launcher_cluster(config: LauncherConfig, *, name: str, pools: Sequence[Pool]) -> LauncherCluster:
    """Return the cluster `name` with so many machines as the pools ask for.

    Machines that exist are all used as they are.

    Raises:
        NodeMissingError: nothing says which machines to rent.
        NodesAsTheyAreError: machines that exist are asked for resources or labels that they would have to be given.
    """
    if config.is_local:
        _check_plain(pools)
    return LauncherCluster(
        cluster_name=name,
        provider=config.provider,
        auth=config.auth,
        docker={"image": config.image, "container_name": "coffey"} if config.image else None,
        max_workers=None if config.is_local else sum(pool.most for pool in pools),
        idle_timeout_minutes=config.idle_minutes,
        head_node_type=None if config.is_local else _HEAD,
        available_node_types=None if config.is_local else _node_types(config, pools),
        # The file, not what it says: the launcher copies it to every machine.
        file_mounts={TOKEN_FILE: TOKEN_FILE},
        setup_commands=config.setup,
        head_start_ray_commands=(
            _STOP,
            f"{_START} --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ),
        worker_start_ray_commands=(_STOP, f"{_START} --address=$RAY_HEAD_IP:6379"),
    )


def _check_plain(pools: Sequence[Pool]) -> None:
    for pool in pools:
        if needs := NodeConfig(custom=dict(pool.custom), labels=dict(pool.labels)).named:
            raise NodesAsTheyAreError(pool.name, needs)


def _node_types(config: LauncherConfig, pools: Sequence[Pool]) -> dict[str, NodeType]:
    described = {"teachers": config.teacher_node, "students": config.student_node}
    if not config.head_node:
        raise NodeMissingError("head_node")
    head = NodeType(resources={"CPU": 0}, labels={}, min_workers=0, max_workers=0, node_config=config.head_node)
    return {_HEAD: head} | {pool.name: _node_type(pool, described[pool.name]) for pool in pools}


def _node_type(pool: Pool, node: dict[str, JsonValue]) -> NodeType:
    if not node:
        raise NodeMissingError(f"{pool.name.removesuffix('s')}_node")
    gpus = {"GPU": pool.gpus} if pool.gpus else {}
    return NodeType(
        resources={"CPU": pool.cpus, **gpus, **pool.special},
        labels=pool.kind.labels,
        min_workers=pool.least,
        max_workers=pool.most,
        node_config=node,
    )
