"""Manifests against what reads them: KubeRay's schema, the launcher's schema, and arithmetic done by hand."""

import importlib.util
import json
import os
import pickle
import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray.autoscaler._private.kuberay import autoscaling_config as ray_autoscaling

from cluster.errors import EnvironmentFailure, SpecError
from cluster.manifests import kubectl
from cluster.manifests.launcher import NodeMissingError, NodesAsTheyAreError, launcher_cluster
from cluster.manifests.pools import NodeNotToBeHadError, Pool, Unit, UnlikeNodesError, pool_of
from cluster.manifests.rayjob import ResourceMisreadError, name_of, ray_job
from cluster.manifests.secrecy import SecretInManifestError, refuse_secrets
from cluster.manifests.spec import KubernetesConfig, LauncherConfig
from cluster.resources import NodeConfig, ResourceConfig
from cluster.yaml_text import dump_yaml

CRDS = os.environ.get("COFFEY_KUBERAY_CRDS")
"""KubeRay's custom resource definitions, which are not part of this project."""

TEACHERS, STUDENTS = Pool("teachers", 4, 1, 2, 8), Pool("students", 2, 1, 2, 2)
SPECIAL = Pool("teachers", 4, 1, 2, 8, custom={"licence": 2}, labels={"zone": "a"}, accelerator="L4")
ENTRYPOINT = "coffey run 'jobs/no data.yaml' --set cluster.address=auto --set 'student.name=\"s 1\"'"

PLAIN = KubernetesConfig(image="registry.example/coffey:1")
FULL = KubernetesConfig.model_validate(
    {
        "image": "registry.example/coffey:1",
        "namespace": "ml",
        "service_account": "store-reader",
        "secret": "store-keys",
        "token_secret": "ray-token",
        "head": {"memory": "4Gi"},
        "teachers": {
            "memory": "16Gi",
            "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
            "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"operator": "Exists"}],
        },
        "volume": {"claim": "shared", "mount_path": "/data"},
        "deadline_s": 3600,
        "retries": 2,
    }
)
RENTED = LauncherConfig(
    provider={"type": "aws", "region": "eu-north-1"},
    auth={"ssh_user": "ubuntu", "ssh_private_key": "~/.ssh/ray.pem"},
    head_node={"InstanceType": "m5.large"},
    teacher_node={"InstanceType": "g5.xlarge"},
    student_node={"InstanceType": "g5.xlarge", "InstanceMarketOptions": {"MarketType": "spot"}},
    image="registry.example/coffey:1",
    setup=("pip install coffey",),
)
OWN = LauncherConfig(provider={"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]})


def rendered(config: KubernetesConfig, *pools: Pool, submission_id: str = "no_data-0a1b2c3d") -> dict[str, Any]:
    """Return the RayJob as a parser of YAML 1.1, which Kubernetes has, reads it."""
    job = ray_job(
        config,
        submission_id=submission_id,
        entrypoint=ENTRYPOINT,
        working_dir="s3://bucket/prefix/packages/ab.zip",
        env={"AWS_REGION": "eu-north-1", "COFFEY_SUBMISSION_ID": submission_id},
        pools=pools or (TEACHERS, STUDENTS),
        ray_version="2.60.0",
    )
    found: dict[str, Any] = yaml.safe_load(dump_yaml(job.tree()))
    return found


@cache
def kuberay() -> jsonschema.Draft202012Validator:
    """Return what judges a RayJob by its schema, closed to unknown keys wherever it names the known ones."""
    if CRDS is None:
        pytest.skip("COFFEY_KUBERAY_CRDS names no folder with KubeRay's CRDs (helm-chart/kuberay-operator/crds)")
    text = Path(CRDS, "ray.io_rayjobs.yaml").read_text()
    # The second version doubles a megabyte, and nothing here is of it.
    (version,) = yaml.load(text[: text.index("\n    name: v1alpha1")].rpartition("\n  - ")[0], yaml.CSafeLoader)[
        "spec"
    ]["versions"]
    return jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        inner["additionalProperties"] = False
    return inner


def launcher_schema() -> dict[str, Any]:
    """Return the schema by which `ray up` judges its file."""
    (folder,) = importlib.util.find_spec("ray").submodule_search_locations  # type: ignore[union-attr, misc]
    schema: dict[str, Any] = json.loads(Path(folder, "autoscaler", "ray-schema.json").read_text())
    return schema


class TestRayJobs:
    @pytest.mark.parametrize("config", [PLAIN, FULL])
    @pytest.mark.parametrize("pools", [(TEACHERS, STUDENTS), (Pool("students", 1, 0, 1, 1),), (SPECIAL,)])
    def test_kuberay_knows_every_key_and_takes_every_value(
        self, config: KubernetesConfig, pools: tuple[Pool, ...]
    ) -> None:
        kuberay().validate(rendered(config, *pools))

    @pytest.mark.parametrize(
        ("path", "key"),
        [
            (("spec",), "ttlSeconds"),
            (("spec", "rayClusterSpec"), "autoscaling"),
            (("spec", "rayClusterSpec", "authOptions"), "token"),
            (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "maxWorkers"),
            (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"), "serviceAccounts"),
        ],
    )
    def test_the_schema_would_tell_of_a_key_that_kuberay_does_not_know(
        self, path: tuple[str | int, ...], key: str
    ) -> None:
        found = part = rendered(FULL)
        for step in path:
            part = part[step]  # type: ignore[index]
        part[key] = "x"
        with pytest.raises(jsonschema.ValidationError, match=key):
            kuberay().validate(found)

    def test_the_cluster_asks_for_a_token_grows_by_itself_and_goes_with_the_job(self) -> None:
        spec = rendered(FULL)["spec"]
        cluster = spec["rayClusterSpec"]
        assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
        assert cluster["rayVersion"] == "2.60.0"  # KubeRay refuses a token without it
        assert cluster["enableInTreeAutoscaling"] is True
        assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 600)
        assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (3600, 2)
        assert "activeDeadlineSeconds" not in rendered(PLAIN)["spec"]
        assert rendered(PLAIN)["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}

    def test_the_job_runs_the_command_as_it_is_in_the_files_that_were_left_for_it(self) -> None:
        found = rendered(PLAIN)
        assert found["spec"]["entrypoint"] == ENTRYPOINT
        assert found["spec"]["submissionMode"] == "HTTPMode"  # the other modes quote the command again
        assert found["spec"]["jobId"] == found["metadata"]["labels"]["coffey/submission"] == "no_data-0a1b2c3d"
        assert yaml.safe_load(found["spec"]["runtimeEnvYAML"]) == {
            "working_dir": "s3://bucket/prefix/packages/ab.zip",
            "env_vars": {"AWS_REGION": "eu-north-1", "COFFEY_SUBMISSION_ID": "no_data-0a1b2c3d"},
        }

    def test_the_head_hands_out_nothing_and_each_pool_what_it_has(self) -> None:
        cluster = rendered(FULL)["spec"]["rayClusterSpec"]
        head = cluster["headGroupSpec"]
        assert head["rayStartParams"] == {"num-cpus": "0"}
        (container,) = head["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
        teachers, students = cluster["workerGroupSpecs"]
        assert [(it["groupName"], it["minReplicas"], it["maxReplicas"]) for it in (teachers, students)] == [
            ("teachers", 2, 8),
            ("students", 2, 2),
        ]
        # KubeRay refuses a group that says more of resources in the other place.
        assert (teachers["resources"], teachers["rayStartParams"]) == ({"CPU": "4", "GPU": "1"}, {})
        assert teachers["labels"] == {"coffey.pool": "teachers"}
        (container,) = teachers["template"]["spec"]["containers"]
        wanted = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
        assert container["resources"] == {"limits": wanted, "requests": wanted}
        assert teachers["template"]["spec"]["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
        assert "nodeSelector" not in students["template"]["spec"]

    def test_a_pool_without_gpus_asks_for_none(self) -> None:
        (group,) = rendered(PLAIN, Pool("students", 1, 0, 1, 1))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert set(group["template"]["spec"]["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}

    def test_nodes_offer_by_name_what_the_job_asks_for_by_name(self) -> None:
        cluster = rendered(FULL, SPECIAL)["spec"]["rayClusterSpec"]
        (group,) = cluster["workerGroupSpecs"]
        assert group["resources"] == {"CPU": "4", "GPU": "1", "licence": "2", "accelerator_type:L4": "1"}
        assert group["labels"] == {"coffey.pool": "teachers", "zone": "a"}
        # Oracle: Ray's own reading of such a group, by which it decides how many nodes to ask for.
        node = ray_autoscaling._node_type_from_group_spec(group, is_head=False)
        offered = {name: amount for name, amount in node["resources"].items() if name != "memory"}
        assert offered == {"CPU": 4, "GPU": 1, "licence": 2, "accelerator_type:L4": 1}
        assert node["labels"] == {"coffey.pool": "teachers", "zone": "a"}

    @pytest.mark.parametrize("name", ["Memory", "cpu", "fpgu/gpu", "my_GPU", "nvidia.com/mig-1g.5gb", "o'clock", "a b"])
    def test_a_resource_that_kuberay_would_take_for_another_is_refused_by_name(self, name: str) -> None:
        with pytest.raises(ResourceMisreadError) as error:
            rendered(PLAIN, Pool("students", 1, 0, 1, 1, custom={name: 1}))
        assert repr(name) in str(error.value)
        assert isinstance(error.value, SpecError)

    def test_every_pod_may_enter_the_store_by_reference(self) -> None:
        cluster = rendered(FULL)["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            assert pod["serviceAccountName"] == "store-reader"
            assert container["envFrom"] == [{"secretRef": {"name": "store-keys"}}]
            assert {"name": "AWS_REGION", "value": "eu-north-1"} in container["env"]
            assert container["volumeMounts"] == [{"name": "store", "mountPath": "/data"}]
            assert pod["volumes"] == [{"name": "store", "persistentVolumeClaim": {"claimName": "shared"}}]
            assert pod["restartPolicy"] == "Never"  # KubeRay refuses another beside its second autoscaler

    @given(st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True))
    def test_any_submission_has_a_name_that_kuberay_takes(self, name: str) -> None:
        found = name_of(f"{name}-0a1b2c3d")
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)  # RFC 1035, which services need
        assert len(found) <= 47
        assert found.endswith("-0a1b2c3d")


class TestLauncher:
    @pytest.mark.parametrize("config", [RENTED, OWN])
    def test_the_launcher_knows_every_key_and_takes_every_value(self, config: LauncherConfig) -> None:
        text = dump_yaml(launcher_cluster(config, name="job", pools=(TEACHERS, STUDENTS)).tree())
        jsonschema.validate(yaml.safe_load(text), launcher_schema())

    def test_machines_are_rented_between_the_bounds_and_the_head_hands_out_nothing(self) -> None:
        found = launcher_cluster(RENTED, name="job", pools=(TEACHERS, STUDENTS)).tree()
        types = found["available_node_types"]
        assert found["max_workers"] == 10
        assert found["head_node_type"] == "head"
        assert types["head"]["resources"] == {"CPU": 0}
        assert types["teachers"] == {
            "resources": {"CPU": 4, "GPU": 1},
            "labels": {"coffey.pool": "teachers"},
            "min_workers": 2,
            "max_workers": 8,
            "node_config": {"InstanceType": "g5.xlarge"},
        }

    def test_rented_machines_offer_by_name_what_the_job_asks_for_by_name(self) -> None:
        found = launcher_cluster(RENTED, name="job", pools=(SPECIAL, STUDENTS)).tree()
        jsonschema.validate(found, launcher_schema())
        teachers = found["available_node_types"]["teachers"]
        assert teachers["resources"] == {"CPU": 4, "GPU": 1, "licence": 2, "accelerator_type:L4": 1}
        assert teachers["labels"] == {"coffey.pool": "teachers", "zone": "a"}

    def test_machines_that_exist_are_given_no_names(self) -> None:
        with pytest.raises(NodesAsTheyAreError, match="the teachers need nodes with 2 licence, label zone=a") as error:
            launcher_cluster(OWN, name="job", pools=(STUDENTS, SPECIAL))
        assert isinstance(error.value, SpecError)
        # Of its accelerator a machine tells by itself.
        launcher_cluster(OWN, name="job", pools=(Pool("teachers", 4, 1, 2, 8, accelerator="L4"),))

    def test_ray_is_started_with_a_token_that_the_file_does_not_hold(self) -> None:
        found = launcher_cluster(RENTED, name="job", pools=(TEACHERS, STUDENTS)).tree()
        starts = [
            line for kind in ("head", "worker") for line in found[f"{kind}_start_ray_commands"] if "start" in line
        ]
        assert len(starts) == 2
        assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)
        assert found["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}

    def test_machines_that_exist_are_all_used_as_they_are(self) -> None:
        found = launcher_cluster(OWN, name="job", pools=(TEACHERS, STUDENTS)).tree()
        # Ray aborts if a file for such machines speaks of kinds of nodes.
        assert not {"available_node_types", "head_node_type", "max_workers"} & found.keys()

    @pytest.mark.parametrize("key", ["head_node", "teacher_node", "student_node"])
    def test_a_machine_that_nobody_describes_is_not_made_up(self, key: str) -> None:
        config = RENTED.model_copy(update={key: {}})
        with pytest.raises(NodeMissingError, match=rf"cluster\.launcher\.{key}: .* expected"):
            launcher_cluster(config, name="job", pools=(TEACHERS, STUDENTS))

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"provider": {"region": "x"}}, "provider has no `type`"),
            ({"provider": {"type": "local"}}, "expected `head_ip` and `worker_ips`"),
            (
                {"provider": {"type": "local", "head_ip": "a", "worker_ips": []}, "head_node": {"x": 1}},
                "expected no `head_node`",
            ),
        ],
    )
    def test_a_provider_that_cannot_work_is_refused(self, keys: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LauncherConfig.model_validate(keys)


class TestPools:
    @pytest.mark.parametrize(
        ("units", "expected"),
        [
            ([(1, 0, 1, 1)], (1, 0, 1, 1)),
            ([(4, 1, 1, 8)], (4, 1, 1, 8)),
            ([(1, 0.5, 1, 3)], (2, 1, 1, 2)),  # two share a GPU, and each has its core
            ([(1, 0.5, 1, 1)], (1, 1, 1, 1)),
            ([(0.5, 0, 4, 4)], (1, 0, 2, 2)),
            ([(2, 0, 3, 3), (8, 2, 1, 2)], (8, 2, 2, 3)),
            ([(2, 1, 0, 2)], (2, 1, 0, 2)),
        ],
    )
    def test_sizes_by_hand(
        self, units: list[tuple[float, float, int, int]], expected: tuple[int, int, int, int]
    ) -> None:
        pool = pool_of("teachers", [unit(*numbers) for numbers in units])
        assert pool is not None
        assert (pool.cpus, pool.gpus, pool.least, pool.most) == expected

    def test_nobody_needs_no_pool(self) -> None:
        assert pool_of("teachers", []) is None

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0.25, 0.5, 1, 2, 3.5, 8]),
                st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 1, 2]),
                st.integers(0, 5),
                st.integers(1, 5),
                st.sampled_from([None, 0.25, 0.3, 1, 1.5, 3]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_nodes_of_the_pool_hold_everybody_at_once(
        self, drawn: list[tuple[float, float, int, int, float | None]]
    ) -> None:
        units = [
            unit(cpus, gpus, least, least + more, custom={"licence": licence} if licence else {})
            for cpus, gpus, least, more, licence in drawn
        ]
        pool = pool_of("teachers", units)
        assert pool is not None
        assert filled(pool, [(unit, unit.most) for unit in units]) <= pool.most
        assert filled(pool, [(unit, unit.least) for unit in units]) <= pool.least

    def test_a_node_offers_all_that_anybody_asks_for_by_name(self) -> None:
        pool = pool_of(
            "teachers",
            [
                unit(1, 0.5, 1, 8, custom={"licence": 1.5}, labels={"zone": "a"}),
                unit(1, 1, 1, 1, labels={"zone": "a", "disk": "ssd", "coffey.pool": "teachers"}, accelerator="L4"),
                unit(1, 0, 1, 1),
            ],
        )
        assert pool == Pool("teachers", 2, 1, 3, 6, {"licence": 3}, {"zone": "a", "disk": "ssd"}, "L4")
        # What a job is told of the nodes is what Ray is told of them.
        assert pool.kind.labels == {"coffey.pool": "teachers", "zone": "a", "disk": "ssd"}
        assert set(pool.special) == set(pool.kind.special)

    @pytest.mark.parametrize(
        ("first", "second", "said"),
        [
            (
                {"accelerator": "L4"},
                {"accelerator": "A100"},
                "one needs accelerator=L4, and other needs accelerator=A1",
            ),
            ({"labels": {"zone": "a"}}, {"labels": {"zone": "b"}}, "one needs zone=a, and other needs zone=b"),
        ],
    )
    def test_those_who_need_different_nodes_are_named(
        self, first: dict[str, Any], second: dict[str, Any], said: str
    ) -> None:
        units = [unit(1, 1, 1, 1, who="one", **first), unit(1, 1, 1, 1, who="other", **second)]
        with pytest.raises(UnlikeNodesError, match=said) as error:
            pool_of("teachers", units)
        assert isinstance(error.value, SpecError)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)

    @pytest.mark.parametrize(
        ("needs", "said"),
        [
            ({"accelerator": "TPU-V4"}, "teacher a needs accelerator TPU-V4, and the nodes .* have no GPU"),
            ({"labels": {"coffey.pool": "students"}}, "teacher a needs label coffey.pool=students, and the nodes "),
        ],
    )
    def test_a_node_that_cannot_be_had_is_refused_by_what_it_lacks(self, needs: dict[str, Any], said: str) -> None:
        with pytest.raises(NodeNotToBeHadError, match=said) as error:
            pool_of("teachers", [unit(1, 0, 1, 1, who="teacher a", **needs)])
        assert isinstance(error.value, SpecError)


def unit(cpus: float, gpus: float, least: int, most: int, *, who: str = "teacher a", **needs: Any) -> Unit:
    each = ResourceConfig(cpu=cpus, gpu=gpus, **NodeConfig.model_validate(needs).model_dump())
    return Unit(who, each, least, most)


def filled(pool: Pool, counts: list[tuple[Unit, int]]) -> int:
    """Return how many nodes are taken if each unit gets nodes of its own, filled one by one, in exact arithmetic."""
    nodes, node = 0, {"CPU": pool.cpus, "GPU": pool.gpus, **pool.custom}
    for each, count in counts:
        need = {name: Fraction(str(amount)) for name, amount in each.each.amounts.items()}
        left = dict.fromkeys(need, Fraction(0))
        for _ in range(count):
            if any(left[name] < amount for name, amount in need.items()):
                nodes, left = nodes + 1, {name: Fraction(node[name]) for name in need}
            left = {name: left[name] - amount for name, amount in need.items()}
            assert min(left.values()) >= 0, "one of them is larger than a node"
    return nodes


class TestSecrecy:
    @pytest.mark.parametrize(
        ("tree", "where"),
        [
            ({"spec": {"env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]}}, "spec.env[0].AWS_SECRET_ACCESS_KEY"),
            ({"provider": {"gcp_credentials": {"credentials": "x"}}}, "provider.gcp_credentials.credentials"),
            ({"image": "https://me:hunter2@registry/coffey"}, "image"),
            ({"setup": ["export HF_TOKEN=hunter2"]}, "setup[0]"),
            ({"a": {"b": "AKIAIOSFODNN7EXAMPLE"}}, "a.b"),
            ({"auth": {"ssh_private_key": "-----BEGIN RSA PRIVATE KEY-----"}}, "auth.ssh_private_key"),
            ({"store": "https://bucket/x?X-Amz-Signature=00"}, "store"),
        ],
    )
    def test_what_looks_like_a_credential_is_refused_by_its_place(self, tree: dict[str, Any], where: str) -> None:
        with pytest.raises(SecretInManifestError, match="looks like a credential") as error:
            refuse_secrets(tree, "job")
        assert error.value.where == f"job.{where}"
        assert isinstance(error.value, SpecError)
        assert "hunter2" not in str(error.value)

    def test_references_pass(self) -> None:
        refuse_secrets(rendered(FULL))
        refuse_secrets(launcher_cluster(RENTED, name="job", pools=(TEACHERS, STUDENTS)).tree())
        refuse_secrets({"nodeSelector": {"example.org/private": "yes"}})
        refuse_secrets({"setup": ["export HF_TOKEN=$(cat /run/token)"], "entrypoint": "--set a.num_tokens=3"})


class TestKubectl:
    def test_the_manifest_is_what_kubectl_gets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_kubectl(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/got; echo created')
        assert kubectl.apply("kind: RayJob\n") == "created"
        assert (tmp_path / "got").read_text() == "kind: RayJob\n"
        assert (tmp_path / "words").read_text() == "apply -f -\n"

    def test_what_kubectl_says_is_in_the_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_kubectl(tmp_path, monkeypatch, "cat > /dev/null; echo no matches for kind RayJob >&2; exit 1")
        with pytest.raises(kubectl.ManifestNotAppliedError, match="code 1: no matches for kind RayJob") as error:
            kubectl.apply("kind: RayJob\n")
        assert isinstance(error.value, EnvironmentFailure)

    def test_without_kubectl_the_other_way_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(kubectl.KubectlMissingError, match="--out FILE"):
            kubectl.apply("kind: RayJob\n")


def fake_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "kubectl").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
