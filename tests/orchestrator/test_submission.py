"""What a job needs of a cluster, and what is refused before anything is sent."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import SpecError
from cluster.manifests.pools import Pool, UnlikeNodesError
from cluster.manifests.secrecy import SecretInManifestError
from cluster.session import Capacity
from orchestrator.load import parse_spec
from orchestrator.planning.placement import DoesNotFitError, check_room
from orchestrator.planning.planned import Part
from orchestrator.planning.room import grown
from orchestrator.spec import JobSpec
from orchestrator.submission import (
    SectionMissingError,
    StoreOutOfReachError,
    pools_of,
    render_launcher,
    render_ray_job,
    submission_of,
    told_of_growth,
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
RENTED = "cluster.launcher={provider: {type: aws}, head_node: {x: 1}, teacher_node: {x: 1}, student_node: {x: 1}}"


def spec(store: str, *overrides: str) -> JobSpec:
    return parse_spec(SPEC.format(store=store), "job.yaml", overrides)


def shared(project: Path) -> tuple[str, ...]:
    """Return what gives the pods a volume that they and this machine have."""
    return KUBERNETES, f"cluster.kubernetes.volume={{claim: shared, mount_path: '{project.parent}/volume'}}"


def rendered(job: JobSpec, folder: Path, part: Part = "all") -> dict[str, Any]:
    (folder / "job.yaml").write_text("")
    sent = submission_of(job, folder / "job.yaml", (), part)
    found: dict[str, Any] = yaml.safe_load(render_ray_job(job, sent).manifest)
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

    def test_a_part_of_the_job_needs_no_nodes_of_the_other(self) -> None:
        both = pools_of(spec("s"))
        assert tuple(pools_of(spec("s"), part)[0] for part in ("teachers", "student")) == both  # type: ignore[arg-type]
        assert [len(pools_of(spec("s"), part)) for part in ("teachers", "student")] == [1, 1]  # type: ignore[arg-type]
        # Generations label with the student's part.
        job = spec("s", "generations={count: 2, replicas: 2}", "objective=[{term: cross_entropy}, {term: kl}]")
        assert [pool.name for pool in pools_of(job, "student")] == ["teachers", "students"]

    def test_nodes_offer_what_teachers_and_workers_ask_for_by_name(self) -> None:
        asked = ("teachers.wide.resources={gpu: 1, accelerator: L4, custom: {licence: 2}, labels: {market: spot}}",)
        train = "train.nodes={accelerator: A100, labels: {zone: a}}"
        teachers, students = pools_of(spec("s", *asked, train))
        assert (teachers.accelerator, teachers.custom, teachers.labels) == ("L4", {"licence": 2}, {"market": "spot"})
        assert (students.accelerator, students.custom, students.labels) == ("A100", {}, {"zone": "a"})
        with pytest.raises(UnlikeNodesError, match="teacher wide needs accelerator=L4, and teacher deep needs accel"):
            pools_of(spec("s", *asked, "teachers.deep.resources={gpu: 1, accelerator: A100}"))


class TestGrowth:
    """A cluster that begins as its head alone, on which the job that is told of its growth is not refused."""

    @pytest.mark.parametrize("part", ["all", "teachers", "student"])
    def test_a_job_that_is_told_finds_room_for_all_of_it(self, project: Path, part: Part) -> None:
        job = spec(f"{project.parent}/volume/store", *shared(project), "train.nodes={accelerator: L4}")
        words = shlex.split(rendered(job, project, part)["spec"]["entrypoint"])
        overrides = [word for option, word in pairwise(words) if option == "--set"]
        told = spec("s", *(word for word in overrides if word.startswith("cluster.may_grow_to=")))
        assert told.cluster.may_grow_to
        head = Capacity.of_nodes([Capacity(0, 0)])
        teachers = () if part == "student" else job.teachers
        train = None if part == "teachers" else job.train
        with pytest.raises(DoesNotFitError):
            check_room(teachers, train, head)
        check_room(teachers, train, grown(head, told.cluster.may_grow_to))
        if part != "all":
            with pytest.raises(DoesNotFitError):
                check_room(job.teachers, job.train, grown(head, told.cluster.may_grow_to))

    def test_nodes_that_are_there_are_not_counted_twice(self) -> None:
        pools = pools_of(spec("s"))
        (override,) = told_of_growth(spec("s"), pools)
        kinds = spec("s", override).cluster.may_grow_to
        there = [
            Capacity(kind.cpus, kind.gpus, labels=kind.labels, special={"memory": 1e9})
            for kind in kinds
            for _ in range(kind.nodes)
        ]
        assert len(grown(Capacity.of_nodes(there), kinds).nodes) == sum(pool.most for pool in pools) == len(there)

    def test_a_spec_that_says_so_itself_is_not_overruled(self, project: Path) -> None:
        own = "cluster.may_grow_to=[{nodes: 9, cpus: 64, gpus: 8}]"
        job = spec(f"{project.parent}/volume/store", *shared(project), own)
        assert "may_grow_to" not in rendered(job, project)["spec"]["entrypoint"]
        assert render_launcher(spec("s", RENTED, own))[1] == ()

    def test_of_rented_machines_the_next_command_tells_and_of_machines_that_exist_nobody(self) -> None:
        job = spec("s", RENTED)
        assert render_launcher(job)[1] == told_of_growth(job, pools_of(job))
        assert len(render_launcher(job)[1]) == 1
        local = "cluster.launcher={provider: {type: local, head_ip: a, worker_ips: [b]}}"
        assert render_launcher(spec("s", local))[1] == ()


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
        image = "cluster.kubernetes.image=https://me:hunter2@registry/coffey"
        with pytest.raises(SecretInManifestError, match=r"containers\[0\]\.image"):
            rendered(spec(f"{project.parent}/volume/store", *shared(project), image), project)
        provider = "cluster.launcher.provider={type: local, head_ip: a, worker_ips: [], password: hunter2}"
        with pytest.raises(SecretInManifestError, match=r"cluster\.provider\.password") as error:
            render_launcher(spec("s", provider))
        assert "hunter2" not in str(error.value)


def test_a_ray_job_runs_on_its_store_with_its_files(project: Path) -> None:
    volume = project.parent / "volume"
    found = rendered(spec(f"{volume}/store", *shared(project)), project)
    words = found["spec"]["entrypoint"]
    assert words.startswith("coffey run job.yaml --set cluster.address=auto --set ")
    assert f"{volume}/store" in words
    assert words.endswith(" --set cluster.store_is_shared=true")
    (package,) = (volume / "store" / "packages").iterdir()
    assert f"file://{package}" in found["spec"]["runtimeEnvYAML"]
