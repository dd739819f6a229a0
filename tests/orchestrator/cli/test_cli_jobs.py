"""`submit`, `status`, `logs` and `stop` where no cluster answers: by manifests, and by the store alone."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stamina
import yaml

from cluster import jobs
from cluster.identity import canonical_json
from cluster.package import Package
from cluster.storage.directory import DirectoryStore
from orchestrator.cli.app import exit_code_of
from orchestrator.events import Event, EventBatch, RunState
from tests.fixtures.ray_head import free_ports

SPEC = """\
name: no-data
store: {root}/volume/store
data: {{read: {{source: npz, train: data/train.npz, test: data/test.npz}}}}
teachers:
  - {{name: wide, model: "models:Wide", fit: {{epochs: 1}}}}
student: {{model: "models:Small"}}
cluster:
  kubernetes: {{image: "registry.example/coffey:1", volume: {{claim: shared, mount_path: "{root}/volume"}}}}
  launcher: {{provider: {{type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}}}}
"""

# Applying it runs the job: it says a line, and has ended as the state that was prepared says.
KUBECTL = """\
#!/bin/sh
cat > {root}/applied.yaml
id=$(sed -n 's/^  jobId: //p' {root}/applied.yaml)
mkdir -p {root}/volume/store/runs/no-data/1/events
sed "s/ID/$id/" {root}/state.json > {root}/volume/store/runs/no-data/1/state.json
cp {root}/events.json {root}/volume/store/runs/no-data/1/events/00000000.json
"""

Coffey = Callable[..., tuple[int, str, str]]


def state(**keys: object) -> RunState:
    now = datetime.now(UTC).isoformat()
    values = {"run": "no-data/1", "name": "no-data", "state": "running", "started": now, "updated": now, "job": None}
    return RunState.model_validate(values | keys)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "volume").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "job.yaml").write_text(SPEC.format(root=tmp_path))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def coffey(project: Path, capsys: pytest.CaptureFixture[str]) -> Coffey:
    """Run a command line in this process; returns its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = exit_code_of(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def store(project: Path) -> DirectoryStore:
    return DirectoryStore(project.parent / "volume" / "store")


def write_run(store: DirectoryStore, *events: Event, **keys: object) -> None:
    store.put("runs/no-data/1/state.json", canonical_json(state(**keys)))
    store.put("runs/no-data/1/events/00000000.json", canonical_json(EventBatch(events=events)))


def said(message: str) -> Event:
    return Event(at=datetime.now(UTC).isoformat(), event="said", message=message)


def prepare_kubectl(project: Path, monkeypatch: pytest.MonkeyPatch, ending: RunState) -> None:
    root = project.parent
    (root / "state.json").write_bytes(canonical_json(ending.model_copy(update={"job": "ID"})))
    (root / "events.json").write_bytes(canonical_json(EventBatch(events=(said("the pods are up"),))))
    (root / "kubectl").write_text(KUBECTL.format(root=root))
    (root / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")


class TestRayJobs:
    def test_yaml_alone_is_on_standard_output(self, project: Path, coffey: Coffey) -> None:
        code, out, err = coffey("submit", "job.yaml", "--target", "rayjob")
        found = yaml.safe_load(out)
        assert (code, found["kind"]) == (0, "RayJob")
        assert f"Wrote RayJob {found['metadata']['name']}" in err
        assert f"coffey logs {found['spec']['jobId']} --store {project.parent}/volume/store -f" in err

    @pytest.mark.parametrize("part", ["teachers", "student"])
    def test_a_part_of_a_job_is_run_as_such(self, coffey: Coffey, part: str) -> None:
        found = yaml.safe_load(coffey("submit", "job.yaml", "--target", "rayjob", "--part", part)[1])
        assert found["spec"]["entrypoint"].startswith(f"coffey run job.yaml --part {part} --set cluster.address=auto ")
        (group,) = found["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert group["groupName"] == {"teachers": "teachers", "student": "students"}[part]

    def test_yaml_is_written_to_a_file(self, project: Path, coffey: Coffey) -> None:
        code, out, _ = coffey("submit", "job.yaml", "--target", "rayjob", "--out", "rayjob.yaml")
        assert (code, out) == (0, "")
        assert yaml.safe_load((project / "rayjob.yaml").read_text())["kind"] == "RayJob"

    @pytest.mark.parametrize(("outcome", "exit_code"), [("done", 0), ("failed", 7), ("stopped", 143)])
    def test_an_applied_job_is_followed_by_its_store_and_its_exit_code_comes_back(
        self, project: Path, coffey: Coffey, monkeypatch: pytest.MonkeyPatch, outcome: str, exit_code: int
    ) -> None:
        prepare_kubectl(project, monkeypatch, state(state=outcome, exit_code=exit_code))
        code, out, _ = coffey("submit", "job.yaml", "--target", "rayjob", "--apply", "--wait")
        assert code == exit_code
        assert out.splitlines()[0] == "the pods are up"
        assert yaml.safe_load((project.parent / "applied.yaml").read_text())["kind"] == "RayJob"

    def test_with_json_the_facts_come_in_one_object(
        self, project: Path, coffey: Coffey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare_kubectl(project, monkeypatch, state(state="done", exit_code=0))
        code, out, err = coffey("submit", "job.yaml", "--target", "rayjob", "--apply", "--wait", "--json")
        facts = json.loads(out)
        assert (code, facts["exit_code"], facts["run"], facts["applied"]) == (0, 0, "no-data/1", True)
        assert "the pods are up" in err

    def test_a_job_whose_cluster_went_without_a_word_ends_with_the_code_of_the_environment(
        self, project: Path, coffey: Coffey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare_kubectl(project, monkeypatch, state(updated="2026-01-01T00:00:00Z"))
        code, out, err = coffey("submit", "job.yaml", "--target", "rayjob", "--apply", "--wait")
        assert code == 3
        assert "no sign of life since 2026-01-01" in out
        assert "Start the job again: it continues" in err

    def test_an_attempt_that_failed_is_followed_by_the_next(
        self, project: Path, coffey: Coffey, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare_kubectl(project, monkeypatch, state(state="failed", exit_code=7))
        runs = project.parent / "volume" / "store" / "runs" / "no-data"
        with (project.parent / "kubectl").open("a") as script:
            script.write(f"mkdir -p {runs}/2\n")
            script.write(
                f"sed 's|data/1|data/2|; s/failed/done/; s/:7/:0/' {runs}/1/state.json > {runs}/2/state.json\n"
            )
        again = ("--set", "cluster.kubernetes.retries=1")
        code, out, _ = coffey("submit", "job.yaml", "--target", "rayjob", "--apply", "--wait", *again)
        assert code == 0
        assert out.splitlines()[1:] == [
            "Failed with code 7.",
            "Attempt 1 of 2 has ended. Waiting for the next one.",
            "Done.",
        ]


class TestClustersThatGo:
    """The dashboard took the job, and does not answer any more."""

    @pytest.fixture
    def waited(
        self, project: Path, coffey: Coffey, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[RunState | None], Any]:
        gone = f"http://127.0.0.1:{free_ports(1)[0]}"

        def submit_and_wait(run: RunState | None) -> tuple[int, str, str]:
            def take(_address: str, *, submission_id: str, **_job: object) -> Package:
                if run is not None:
                    store = DirectoryStore(project.parent / "volume" / "store")
                    store.put(
                        "runs/no-data/1/state.json", canonical_json(run.model_copy(update={"job": submission_id}))
                    )
                return Package(project, 1, 1)

            monkeypatch.setattr(jobs, "submit", take)
            with stamina.set_testing(True):
                return coffey("submit", "job.yaml", "--address", gone, "--wait")

        return submit_and_wait

    def test_the_store_tells_how_the_job_ended(self, waited: Callable[[RunState | None], Any]) -> None:
        code, out, err = waited(state(state="failed", exit_code=7))
        assert (code, out.splitlines()[-1]) == (7, "Failed with code 7.")
        assert "Looking into the store" in err

    def test_without_a_run_the_cluster_is_what_is_missing(self, waited: Callable[[RunState | None], Any]) -> None:
        code, _, err = waited(None)
        assert code == 3
        assert "no Ray dashboard answers" in err.splitlines()[-1]


def test_a_launcher_file_comes_with_the_commands_that_follow(project: Path, coffey: Coffey) -> None:
    options = ("--part", "teachers", "--set", "train.epochs=3")
    code, out, err = coffey("submit", "job.yaml", "--target", "ray-up", *options, "--out", "c.yaml")
    assert (code, out) == (0, "")
    assert yaml.safe_load((project / "c.yaml").read_text())["provider"]["type"] == "local"
    assert [line.strip() for line in err.splitlines()[1:]] == [
        "ray get-auth-token --generate",
        "ray up c.yaml",
        "ray dashboard c.yaml",
        "coffey submit job.yaml --part teachers --set train.epochs=3 --address http://127.0.0.1:8265",
        "ray down c.yaml",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "submit to which cluster?"),
        (["--target", "moon"], "Invalid value for '--target'"),
        (["--apply", "--address", "http://127.0.0.1:9"], "--apply hands over a RayJob"),
        (["--out", "x.yaml", "--address", "http://127.0.0.1:9"], "--out is for YAML"),
        (["--target", "rayjob", "--address", "http://127.0.0.1:9"], "--target rayjob starts one"),
        (["--target", "rayjob", "--wait"], "this only writes YAML"),
        (["--target", "ray-up", "--wait"], "this only writes YAML"),
        (["--target", "ray-up", "--out", "no/such/place.yaml"], "cannot be written"),
    ],
)
def test_options_that_contradict_each_other_are_refused(coffey: Coffey, arguments: list[str], message: str) -> None:
    code, out, err = coffey("submit", "job.yaml", *arguments)
    assert (code, out) == (2, "")
    assert message in err


class TestRuns:
    """The store alone: the cluster may be gone."""

    @pytest.mark.parametrize(
        "how", [["no-data/1", "--store", "{store}"], ["job.yaml"], ["job.yaml", "no-data-0a1b2c3d"]]
    )
    def test_a_run_is_found_by_its_spec_its_store_its_name_and_its_job(
        self, coffey: Coffey, store: DirectoryStore, how: list[str]
    ) -> None:
        write_run(store, said("hello"), state="done", exit_code=0, report=True, job="no-data-0a1b2c3d")
        how = [word.format(store=store.uri) for word in how]
        assert coffey("logs", *how)[:2] == (0, f"hello\nDone. Report: {store.uri}/runs/no-data/1/report.html\n")
        assert coffey("logs", *how, "-f")[0] == 0
        assert "no-data/1" in coffey("status", *how)[1]
        assert coffey("stop", *how)[:2] == (0, "no-data/1 had ended already: done.\n")

    def test_a_running_one_is_asked_to_stop(self, coffey: Coffey, store: DirectoryStore) -> None:
        write_run(store)
        assert "Asked no-data/1 to stop" in coffey("stop", "job.yaml")[1]
        assert json.loads(coffey("stop", "job.yaml", "--json")[1]) == {"run": "no-data/1", "was_running": True}
        assert [stat.key for stat in store.list("runs/no-data/stops/")] == ["runs/no-data/stops/1.json"]

    def test_a_lost_one_says_since_when(self, coffey: Coffey, store: DirectoryStore) -> None:
        write_run(store, updated="2026-01-01T00:00:00Z")
        code, out, _ = coffey("status", "job.yaml")
        assert code == 0
        assert "lost" in out
        assert "no sign of life since 2026-01-01T00:00:00Z" in out
        assert coffey("stop", "job.yaml")[1] == "no-data/1 had ended already: lost.\n"

    @pytest.mark.parametrize("command", ["status", "logs", "stop"])
    def test_all_three_look_in_the_same_places(
        self, coffey: Coffey, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        write_run(store, state="done", exit_code=0)
        assert f"{command} of what?" in coffey(command)[2]
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        assert coffey(command, "no-data")[0] == 3, "without a store the cluster of the environment is asked"
        assert coffey(command, "no-data", "--store", store.uri)[0] == 0
        assert coffey(command, "job.yaml", "no-data", "--address", "http://127.0.0.1:9")[0] == 3

    @pytest.mark.parametrize("command", ["logs", "stop"])
    def test_one_run_has_to_be_meant(self, coffey: Coffey, store: DirectoryStore, command: str) -> None:
        code, _, err = coffey(command, "--store", store.uri)
        assert code == 2
        assert f"{command} of which run?" in err
