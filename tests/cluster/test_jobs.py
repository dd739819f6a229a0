"""Submission to a real Ray head, and to servers that only look like one."""

import os
import sys
from pathlib import Path

import pytest

from cluster import jobs
from cluster.dashboard import (
    DashboardAddressError,
    DashboardUnreachableError,
    OpenDashboardError,
    TokenRefusedError,
    enter_dashboard,
)
from cluster.errors import AccessDenied, EnvironmentFailure, SpecError
from tests.fixtures.dashboards import own_address, serving
from tests.fixtures.ray_head import RayHead, free_ports
from tests.fixtures.ray_token import TOKEN


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Start each test as a user without a token, who has no address of a cluster in the environment either."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def with_token(monkeypatch: pytest.MonkeyPatch, ray_head: RayHead) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_head.token_file))


@pytest.fixture
def working_dir(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "greeting.txt").write_text("hello from the working directory\n")
    return tmp_path / "job"


def submit(ray_head: RayHead, working_dir: Path, submission_id: str, entrypoint: str, **env: str) -> None:
    jobs.submit(ray_head.url, entrypoint=entrypoint, working_dir=working_dir, submission_id=submission_id, env=env)


def python(code: str) -> str:
    return f"{sys.executable} -u -c '{code}'"


@pytest.mark.ray
class TestWithARealHead:
    def test_submitting_without_a_token_is_refused(self, ray_head: RayHead, working_dir: Path) -> None:
        with pytest.raises(TokenRefusedError, match="asks for a token") as refusal:
            submit(ray_head, working_dir, "no-token", "true")
        assert isinstance(refusal.value, AccessDenied)

    def test_submitting_with_a_wrong_token_is_refused(
        self, ray_head: RayHead, working_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", "deadbeef" * 8)
        with pytest.raises(TokenRefusedError, match="refuses the token") as refusal:
            submit(ray_head, working_dir, "wrong-token", "true")
        assert "deadbeef" not in str(refusal.value)

    @pytest.mark.usefixtures("with_token")
    def test_the_exit_code_of_the_entrypoint_comes_back(self, ray_head: RayHead, working_dir: Path) -> None:
        submit(ray_head, working_dir, "seven", python("raise SystemExit(7)"))
        assert jobs.wait(ray_head.url, "seven") == 7
        state = jobs.job_status(ray_head.url, "seven")
        assert (state.state, state.exit_code) == ("failed", 7)
        assert state.started is not None
        assert state.ended is not None
        assert state.started <= state.ended

    @pytest.mark.usefixtures("with_token")
    def test_the_job_finds_its_files_and_variables_and_its_log_streams(
        self, ray_head: RayHead, working_dir: Path
    ) -> None:
        submit(ray_head, working_dir, "greets", "cat greeting.txt && echo region $AWS_REGION", AWS_REGION="eu-north-1")
        followed = "".join(jobs.follow_logs(ray_head.url, "greets"))
        assert "hello from the working directory" in followed
        assert "region eu-north-1" in followed
        assert jobs.wait(ray_head.url, "greets") == 0
        assert jobs.read_logs(ray_head.url, "greets").splitlines()[-2:] == followed.splitlines()[-2:]

    @pytest.mark.usefixtures("with_token")
    def test_a_log_is_followed_while_the_job_runs_and_a_stopped_job_ends_as_stopped(
        self, ray_head: RayHead, working_dir: Path
    ) -> None:
        # The job would last longer than this test may: that it ends shows that it was stopped.
        submit(ray_head, working_dir, "endless", python('print("started"); import time; time.sleep(3600)'))
        log = jobs.follow_logs(ray_head.url, "endless")
        assert any("started" in piece for piece in log)
        log.close()  # type: ignore[attr-defined]
        assert jobs.job_status(ray_head.url, "endless").state == "running"
        assert jobs.stop(ray_head.url, "endless")
        assert jobs.wait(ray_head.url, "endless") == 143
        assert jobs.job_status(ray_head.url, "endless").state == "stopped"
        assert not jobs.stop(ray_head.url, "endless")

    @pytest.mark.usefixtures("with_token")
    def test_an_unknown_job_is_named_in_the_error(self, ray_head: RayHead) -> None:
        for ask in (jobs.job_status, jobs.read_logs, jobs.stop, lambda *who: list(jobs.follow_logs(*who))):
            with pytest.raises(jobs.JobUnknownError, match="no job nobody") as error:
                ask(ray_head.url, "nobody")
            assert isinstance(error.value, SpecError)

    @pytest.mark.usefixtures("with_token")
    def test_an_id_is_used_once_and_all_jobs_are_listed(self, ray_head: RayHead, working_dir: Path) -> None:
        submit(ray_head, working_dir, "twice", "true")
        with pytest.raises(jobs.JobExistsError, match="twice"):
            submit(ray_head, working_dir, "twice", "true")
        assert "twice" in [job.id for job in jobs.list_jobs(ray_head.url)]

    @pytest.mark.usefixtures("with_token")
    def test_the_address_that_is_given_beats_the_one_in_the_environment(
        self, ray_head: RayHead, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
        assert isinstance(jobs.list_jobs(ray_head.url), tuple)
        assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:1"


def test_an_open_dashboard_that_others_can_reach_is_refused_before_anything_is_sent(
    working_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving(own_address()) as (url, offered):
        with pytest.raises(OpenDashboardError, match="--allow-open") as refusal:
            jobs.submit(url, entrypoint="true", working_dir=working_dir, submission_id="x", env={})
        assert isinstance(refusal.value, AccessDenied)
        assert offered == [""]
        assert enter_dashboard(url, allow_open=True).headers == {}


def test_an_open_dashboard_on_loopback_is_let_pass_and_not_told_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving("127.0.0.1") as (url, offered):
        assert enter_dashboard(url, allow_open=False).headers == {}
        assert offered == [""]


def test_a_token_does_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving("127.0.0.1") as (other, offered), serving("127.0.0.1", status=302, location=other) as (url, _):
        with pytest.raises(DashboardUnreachableError, match="302"):
            enter_dashboard(url, allow_open=True)
        assert offered == []


def test_a_server_that_is_no_dashboard_is_told_apart() -> None:
    with serving("127.0.0.1", body=b"It works!") as (url, _), pytest.raises(DashboardUnreachableError, match="else"):
        enter_dashboard(url, allow_open=True)


def test_a_closed_port_is_an_environment_failure(working_dir: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(DashboardUnreachableError, match="refused") as error:
        jobs.submit(url, entrypoint="true", working_dir=working_dir, submission_id="x", env={})
    assert isinstance(error.value, EnvironmentFailure)


def test_a_token_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with serving("127.0.0.1", wanted=TOKEN) as (url, _), pytest.raises(TokenRefusedError, match="missing"):
        enter_dashboard(url, allow_open=True)


def test_a_token_is_shown_to_a_door_that_asks_for_one_and_to_no_reader_of_a_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving("127.0.0.1", wanted=TOKEN) as (url, offered):
        dashboard = enter_dashboard(url, allow_open=False)
    assert offered == ["", f"Bearer {TOKEN}"]
    assert TOKEN not in repr(dashboard)


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "head", "http://", "http://u:p@head:8265", "http://head:x"]
)
def test_what_is_no_dashboard_address_is_refused(address: str) -> None:
    with pytest.raises(DashboardAddressError, match="expected the address"):
        enter_dashboard(address, allow_open=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_SECRET_ACCESS_KEY", "x"), ("HF_TOKEN", "x"), ("DB_PASSWORD", "x"), ("HTTP_PROXY", "http://u:p@proxy:1")],
)
def test_credentials_do_not_travel_with_a_job(working_dir: Path, name: str, value: str) -> None:
    with pytest.raises(jobs.SecretInJobError, match=name) as error:
        jobs.submit("127.0.0.1:1", entrypoint="true", working_dir=working_dir, submission_id="x", env={name: value})
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize(
    "entrypoint",
    [
        "coffey run job.yaml --set store=http://ann:s3cr3t-of-ann@minio:9000/b",
        "coffey run job.yaml --set a=s3cr3t-of-ann",
    ],
)
def test_a_command_that_holds_a_credential_is_not_sent(
    working_dir: Path, entrypoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cr3t-of-ann")
    with pytest.raises(jobs.SecretInJobError, match="the job's command") as error:
        jobs.submit("127.0.0.1:1", entrypoint=entrypoint, working_dir=working_dir, submission_id="x", env={})
    assert "s3cr3t" not in str(error.value)
