"""What a job needs of a cluster, and what is refused before anything is sent."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import SpecError
from cluster.manifests.pools import Pool
from cluster.manifests.secrecy import SecretInManifestError
from orchestrator.load import parse_spec
from orchestrator.spec import JobSpec
from orchestrator.submission import (
    SectionMissingError,
    StoreOutOfReachError,
    pools_of,
    render_launcher,
    render_ray_job,
    submission_of,
)

SPEC = """\
name: no_data
store: {store}
data: {{read: {{source: npz, train: train.npz, test: test.npz}}}}
teachers:
  - {{name: wide, model: "models:Wide", fit: {{}}, replicas: {{min: 1, max: 6}}, resources: {{cpu: 4, gpu: 1}}}}
  - {{name: deep, model: "models:Deep", fit: {{}}, replicas: 2, resources: {{cpu: 2, gpu: 0.5}}}}
student: {{model: "models:Small"}}
train: {{workers: 2, cpus_per_worker: 2, gpus_per_worker: 1}}
"""
KUBERNETES = "cluster.kubernetes={image: 'registry.example/coffey:1'}"


def spec(store: str, *overrides: str) -> JobSpec:
    return parse_spec(SPEC.format(store=store), "job.yaml", overrides)


def rendered(job: JobSpec, folder: Path) -> dict[str, Any]:
    (folder / "job.yaml").write_text("")
    found: dict[str, Any] = yaml.safe_load(render_ray_job(job, submission_of(job, folder / "job.yaml", ())).manifest)
    return found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "project").mkdir()
    (tmp_path / "volume").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


class TestNeeds:
    def test_teachers_between_their_bounds_and_all_workers(self) -> None:
        # A node is as large as the largest replica; of the small ones two share its GPU.
        assert pools_of(spec("s")) == (Pool("teachers", 4, 1, 2, 7), Pool("students", 2, 1, 2, 2))

    def test_members_that_exchange_weights_train_side_by_side(self) -> None:
        cohort = ("cohort={method: codistillation, members: 3}", "baseline=null")
        assert pools_of(spec("s", *cohort))[-1] == Pool("students", 2, 1, 6, 6)

    def test_members_of_one_worker_need_no_more(self) -> None:
        assert pools_of(spec("s", "cohort={method: dml, members: 3}"))[-1] == Pool("students", 2, 1, 2, 2)

    def test_generations_label_on_nodes_for_teachers_that_come_when_they_are_needed(self) -> None:
        job = spec("s", "teachers=[]", "generations={count: 2, replicas: 2}", "objective=[{term: cross_entropy}]")
        assert pools_of(job)[0] == Pool("teachers", 1, 0, 0, 2)


class TestRefusals:
    def test_a_spec_without_pods_or_machines(self, project: Path) -> None:
        with pytest.raises(SectionMissingError, match=r"--target rayjob: .*`cluster\.kubernetes`.* `image`"):
            rendered(spec("s"), project)
        with pytest.raises(SectionMissingError, match=r"--target ray-up: .*`cluster\.launcher`.* `provider`"):
            render_launcher(spec("s"))

    @pytest.mark.parametrize(
        ("store", "volume", "reason"),
        [
            ("store", None, "the pods of a RayJob have no volume"),
            ("store", "{root}/volume", "it is not below"),
            ("{root}/gone/store", "{root}/gone", "there is no .*/gone here"),
            ("{root}/volumes/store", "{root}/volume", "it is not below"),
        ],
    )
    def test_a_store_that_pods_and_this_machine_do_not_share(
        self, project: Path, store: str, volume: str | None, reason: str
    ) -> None:
        root = project.parent
        place = volume and f"cluster.kubernetes.volume={{claim: shared, mount_path: '{volume.format(root=root)}'}}"
        with pytest.raises(StoreOutOfReachError, match=reason) as error:
            rendered(spec(store.format(root=root), KUBERNETES, *filter(None, [place])), project)
        assert isinstance(error.value, SpecError)
        assert "s3://bucket/prefix" in str(error.value)

    def test_credentials_in_the_spec(self, project: Path) -> None:
        store = f"cluster.kubernetes.volume={{claim: shared, mount_path: '{project.parent}/volume'}}"
        image = "cluster.kubernetes.image=https://me:hunter2@registry/coffey"
        with pytest.raises(SecretInManifestError, match=r"containers\[0\]\.image"):
            rendered(spec(f"{project.parent}/volume/store", KUBERNETES, store, image), project)
        provider = "cluster.launcher.provider={type: local, head_ip: a, worker_ips: [], password: hunter2}"
        with pytest.raises(SecretInManifestError, match=r"cluster\.provider\.password") as error:
            render_launcher(spec("s", provider))
        assert "hunter2" not in str(error.value)


def test_a_ray_job_runs_on_its_store_with_its_files(project: Path) -> None:
    volume = project.parent / "volume"
    place = f"cluster.kubernetes.volume={{claim: shared, mount_path: '{volume}'}}"
    found = rendered(spec(f"{volume}/store", KUBERNETES, place), project)
    words = found["spec"]["entrypoint"]
    assert words.startswith("coffey run job.yaml --set cluster.address=auto --set ")
    assert f"{volume}/store" in words
    assert words.endswith(" --set cluster.store_is_shared=true")
    (package,) = (volume / "store" / "packages").iterdir()
    assert f"file://{package}" in found["spec"]["runtimeEnvYAML"]
