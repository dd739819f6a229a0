"""The command line as a process: what it loads, prints and returns."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from orchestrator.load import load_spec

ROOT = Path(__file__).parents[3]
COFFEY = str(Path(sys.executable).with_name("coffey"))
HEAVY = ["torch", "ray", "pyarrow", "numpy", "boto3", "sklearn", "onnx", "matplotlib"]
EXAMPLES = [*sorted((ROOT / "examples").glob("*.yaml")), *sorted((ROOT / "orchestrator").glob("**/*.yaml"))]


def coffey(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    return subprocess.run(
        [COFFEY, *arguments], cwd=cwd, env=inherited | environment, capture_output=True, text=True, check=False
    )


def write_starter(folder: Path) -> None:
    shutil.copy(ROOT / "orchestrator" / "cli" / "starter.yaml", folder / "job.yaml")


def in_process(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code that calls the command line itself, to look around afterwards."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def loaded_by(arguments: Sequence[str], cwd: Path, names: Sequence[str]) -> list[str]:
    """Return those of the modules `names` that are loaded after a command ran."""
    code = (
        "import json, sys; from orchestrator.cli.app import exit_code_of\n"
        f"assert exit_code_of({list(arguments)!r}) == 0\n"
        f"print(json.dumps(sorted(set({list(names)!r}) & set(sys.modules))))"
    )
    result = in_process(code, cwd)
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout.splitlines()[-1]))


class TestLightness:
    @pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["labels", "--help"], ["--version"]])
    def test_help_loads_nothing_but_the_command_line(self, arguments: list[str], tmp_path: Path) -> None:
        assert loaded_by(arguments, tmp_path, [*HEAVY, "ruamel", "rich"]) == []

    def test_init_and_schema_load_nothing_heavy(self, tmp_path: Path) -> None:
        assert loaded_by(["init"], tmp_path, HEAVY) == []
        assert loaded_by(["schema"], tmp_path, HEAVY) == []

    def test_a_doctor_asks_for_versions_without_loading_what_has_them(self, tmp_path: Path) -> None:
        if any(Path("/dev").glob("nvidia[0-9]*")):
            pytest.skip("torch is loaded to try a GPU")
        assert loaded_by(["doctor", "--store", "store"], tmp_path, HEAVY) == []

    def test_a_plan_needs_neither_torch_nor_ray(self, tmp_path: Path) -> None:
        write_starter(tmp_path)
        assert loaded_by(["plan", "job.yaml"], tmp_path, ["torch", "ray", "boto3", "onnxruntime"]) == []


class TestHelp:
    def test_without_a_command_the_help_is_printed(self, tmp_path: Path) -> None:
        result = coffey(cwd=tmp_path)
        assert result.returncode == 0
        assert result.stdout == coffey("--help", cwd=tmp_path).stdout

    def test_every_command_has_help(self, tmp_path: Path) -> None:
        labels = tuple(f"labels {name}" for name in ("ls", "show", "verify", "repair", "gc", "export"))
        for command in (
            "demo",
            "init",
            "doctor",
            "plan",
            "run",
            "submit",
            "status",
            "logs",
            "stop",
            "report",
            "schema",
            "techniques",
            *labels,
        ):
            result = coffey(*command.split(), "--help", cwd=tmp_path)
            assert (result.returncode, result.stderr) == (0, "")
            assert f"coffey {command}" in result.stdout

    def test_the_version_is_that_of_the_project(self, tmp_path: Path) -> None:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        assert coffey("--version", cwd=tmp_path).stdout == f"coffey {version}\n"


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["plam"], 2, "Did you mean 'plan'?"),
            (["plan"], 2, "Missing argument 'SPEC'"),
            (["plan", "--jsn"], 2, "No such option"),
            (["labels"], 2, "Missing command"),
            (["plan", "none.yaml"], 2, "none.yaml: there is no such file"),
            (["plan", "bad.yaml"], 2, "bad.yaml:1: nmae: unknown key; did you mean `name`?"),
            (["plan", "job.yaml", "--set", "trian.epochs=1"], 2, "did you mean `train`?"),
            (["run", "job.yaml", "--set", "store=ftp://somewhere"], 2, "ftp:// is not supported"),
            (["demo", "--seeds", "one"], 2, "no list of whole numbers"),
            (["init", "job.yaml"], 2, "is there already"),
            (["init", "no/such/place.yaml"], 2, "cannot be written"),
            (["status"], 2, "status of what?"),
            (["status", "a", "b", "--store", "s"], 2, "at most one spec and one run"),
            (["status", "nobody", "--store", "s"], 7, "no run 'nobody'"),
            (["report", "nobody", "--store", "s"], 7, "no run 'nobody'"),
            (["labels", "show", "nobody", "--store", "s"], 7, "no single label set 'nobody'"),
            (["logs", "x", "--address", "ray://head"], 2, "expected the address of a Ray dashboard"),
            (["logs", "x", "--address", "http://127.0.0.1:9"], 3, "no Ray dashboard answers"),
            (["submit", "job.yaml", "--address", "http://127.0.0.1:9"], 3, "no Ray dashboard answers"),
        ],
    )
    def test_a_mistake_ends_with_its_own_code_and_no_traceback(
        self, arguments: list[str], code: int, message: str, tmp_path: Path
    ) -> None:
        write_starter(tmp_path)
        (tmp_path / "bad.yaml").write_text("nmae: x\n")
        plain = coffey(*arguments, cwd=tmp_path)
        assert plain.returncode == code
        assert message in plain.stderr
        assert plain.stderr.startswith("coffey: ")
        assert "Traceback" not in plain.stderr
        assert plain.stdout == ""

    def test_with_json_an_error_is_one_object_on_standard_output(self, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text("nmae: x\n")
        result = coffey("plan", "bad.yaml", "--json", cwd=tmp_path)
        error = json.loads(result.stdout)["error"]
        assert (result.returncode, error["exit_code"], error["kind"]) == (2, 2, "SpecInvalidError")
        assert error["facts"]["problems"][0] == {
            "where": "bad.yaml:1",
            "key": "nmae",
            "message": "unknown key; did you mean `name`?",
            "suggestion": "name",
        }

    def test_with_json_a_misused_command_line_is_one_object_too(self, tmp_path: Path) -> None:
        result = coffey("plan", "--json", "--jsn", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (2, "")
        assert json.loads(result.stdout)["error"]["kind"] == "UsageError"

    def test_a_mistake_of_ours_says_so_with_a_traceback(self, tmp_path: Path) -> None:
        result = in_process(FAILING.format(error="ZeroDivisionError('by zero')"), tmp_path)
        assert result.returncode == 1
        assert "Traceback" in result.stderr
        assert "bug in Coffey" in result.stderr

    def test_an_error_of_ours_is_found_inside_of_what_ray_raises(self, tmp_path: Path) -> None:
        error = (
            "RayTaskError('label', 'a traceback', ShardCorruptError('shard 7', 'this', 'that')).as_instanceof_cause()"
        )
        result = in_process(FAILING.format(error=error), tmp_path)
        assert result.returncode == 7
        assert "a traceback" not in result.stderr
        assert result.stderr.startswith("coffey: shard 7: found this, the record says that.")

    @pytest.mark.parametrize("error", ["RuntimeError(text)", "ShardCorruptError(text, 'this', 'that')"])
    def test_no_error_shows_a_secret(self, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-ann")
        result = in_process(FAILING_TWICE.format(error=f"text = 'login with s3cr3t-of-ann'; error = {error}"), tmp_path)
        assert "s3cr3t" not in result.stdout + result.stderr
        assert "login with ***" in result.stderr
        assert "login with ***" in json.loads(result.stdout)["error"]["message"]

    def test_notes_of_an_error_stand_below_it(self, tmp_path: Path) -> None:
        error = "error = ShardCorruptError('shard 7', 'this', 'that'); error.add_note('Last lines:\\n  so long')"
        result = in_process(FAILING_TWICE.format(error=error), tmp_path)
        assert result.stderr.splitlines()[-2:] == ["  Last lines:", "    so long"]
        found = json.loads(result.stdout)["error"]
        assert found["notes"] == ["Last lines:\n  so long"]
        assert found["facts"].keys() == {"where", "found", "expected"}


FAILING_TWICE = """
from orchestrator.cli.app import app, exit_code_of
from cluster.shards.verified import ShardCorruptError

@app.command()
def fail(json: bool = False) -> None:
    {error}
    raise error

exit_code_of(['fail']), exit_code_of(['fail', '--json'])
"""

FAILING = """
import sys
from orchestrator.cli.app import app, exit_code_of
from ray.exceptions import RayTaskError
from cluster.shards.verified import ShardCorruptError

@app.command()
def fail() -> None:
    raise {error}

sys.exit(exit_code_of(['fail']))
"""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let children feel Ctrl-C: what a shell starts in the background ignores it, and so do the children of that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
class TestInterruption:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupted_command_says_how_to_go_on(self, number: signal.Signals, code: int, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            command = [COFFEY, "status", "--address", address]
            process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            # The command has come so far that it asks, and is never answered.
            with process, contextlib.closing(silent.accept()[0]):
                process.send_signal(number)
                _, said = process.communicate(timeout=30)
        assert process.returncode == code
        assert "the same command again continues" in said
        assert "Traceback" not in said

    def test_sigterm_ends_a_command_whatever_its_event_loop_is_at(self, tmp_path: Path) -> None:
        result = in_process(
            "import asyncio, os, signal, sys\n"
            "from orchestrator.cli import app\n"
            "async def work():\n"
            "    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)\n"
            "    await asyncio.Event().wait()\n"
            "app.app.command()(lambda: asyncio.run(work()))\n"
            "sys.argv = ['coffey', '<lambda>']\n"
            "app.main()\n",
            tmp_path,
        )
        assert result.returncode == 143, result.stderr
        assert "the same command again continues" in result.stderr


class TestTechniques:
    def test_they_are_listed_for_people_for_programs_and_as_a_page(self, tmp_path: Path) -> None:
        listed = json.loads(coffey("techniques", "--json", cwd=tmp_path).stdout)["techniques"]
        table, page = (coffey("techniques", *how, cwd=tmp_path).stdout for how in ([], ["--markdown"]))

        assert {"kl", "dkd", "dist", "jsd", "taid", "cross_entropy"} <= {it["name"] for it in listed}
        for it in listed:
            assert it["name"] in table
            assert f"## {it['name']}\n" in page


class TestStarterAndSchema:
    def test_the_starter_loads_and_plans(self, tmp_path: Path) -> None:
        assert coffey("init", cwd=tmp_path).returncode == 0
        assert load_spec(tmp_path / "job.yaml").name == "my-first-job"
        plan = json.loads(coffey("plan", "job.yaml", "--json", cwd=tmp_path).stdout)
        assert {step["state"] for step in plan["steps"]} == {"to do"}
        assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"], "a plan leaves nothing behind"

    def test_the_schema_is_valid_and_accepts_what_the_loader_accepts(self, tmp_path: Path) -> None:
        schema = json.loads(coffey("schema", cwd=tmp_path).stdout)
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        assert EXAMPLES
        for path in EXAMPLES:
            load_spec(path)
            validator.validate(YAML(typ="safe").load(path))

    def test_the_schema_refuses_an_unknown_key(self, tmp_path: Path) -> None:
        schema = json.loads(coffey("schema", cwd=tmp_path).stdout)
        spec = YAML(typ="safe").load(EXAMPLES[0]) | {"trian": {}}
        with pytest.raises(jsonschema.ValidationError, match="trian"):
            jsonschema.Draft202012Validator(schema).validate(spec)

    def test_the_model_of_the_job_is_found_in_the_directory_of_the_command(self, tmp_path: Path) -> None:
        # A folder called like one of ours does not hide ours.
        (tmp_path / "students").mkdir()
        (tmp_path / "students" / "__init__.py").write_text("raise RuntimeError('the wrong students')\n")
        (tmp_path / "my_models.py").write_text("class Small: ...\n")
        write_starter(tmp_path)
        result = coffey("plan", "job.yaml", "--set", "student.model=my_models:Small", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        result = coffey("plan", "job.yaml", "--set", "student.model=no_models:Small", cwd=tmp_path)
        assert (result.returncode, "no_models" in result.stderr) == (2, True)
