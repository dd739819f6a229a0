"""Jobs whose student teaches itself, end to end without teachers: what is refused, measured and exported."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score

from cluster.shards.records import read_record
from orchestrator.context import RunContext
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.publishing import publish_report
from orchestrator.resolution.resolve import Job
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.export import export_files
from students.task import TrainedRecord
from tests.fixtures.jobs import Narrow, finished_job, job_spec, linear, trained_weights

EXITS = "{term: own_teacher, exits: [first], features: first, beta: 0.01}"
AVERAGE = "{term: mean_teacher, weight: 10, decay: 0.9}"
VIRTUAL = "{term: teacher_free, weight: 0.1}"


@dataclass(frozen=True)
class Finished:
    """A job that is done, and its test rows."""

    job: Job
    context: RunContext
    images: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("self")
    job, context = finished_job(folder, "teachers=[]", f"objective=[{EXITS}, {AVERAGE}, {VIRTUAL}]", "train.epochs=8")
    with np.load(folder / "test.npz") as rows:
        return Finished(job, context, rows["image"], rows["label"])


def exit_logits(finished: Finished, seed: int) -> np.ndarray:
    """Return what the exit of one seed says of the test rows, float64 `[rows, classes]`."""
    store, task = finished.context.store, finished.job.students[seed]
    state = trained_weights(store, task)
    (found,) = read_record(store, task.record_key, TrainedRecord).exits
    head = safetensors.numpy.load(bytes(store.get(found.weights.key)))
    hidden = linear(finished.images, state["first.weight"], state["first.bias"])
    hint = hidden @ head["adapter.weight"].T + head["adapter.bias"]
    logits: np.ndarray = np.maximum(hint, 0) @ head["classifier.weight"].T + head["classifier.bias"]
    return logits


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (AVERAGE, "no term tells the student anything that its average does not know"),
        (
            f"{AVERAGE}, {VIRTUAL}, {{term: mean_teacher, decay: 0.5}}",
            "share one average, and their decay is 0.9 and 0.5",
        ),
        (
            f"{VIRTUAL}, {{term: mean_teacher}}, {{term: mean_teacher, export: average}}",
            "share one average, and their export is student and average",
        ),
        (
            f"{EXITS}, {{term: mean_teacher, export: average}}",
            "the exits of `own_teacher` are learned with the student",
        ),
        (f"{EXITS}, {EXITS}", "two terms `own_teacher` have an exit at first"),
        ("{term: own_teacher, exits: [first], of: given}", "is `of` a teacher and reads none"),
    ],
)
def test_terms_that_cannot_stand_beside_each_other_are_refused(tmp_path: Path, objective: str, message: str) -> None:
    with pytest.raises(SpecInvalidError) as refused:
        job_spec(tmp_path, "teachers=[]", f"objective=[{objective}]")

    assert message in str(refused.value)


def test_members_of_a_cohort_do_not_teach_themselves_too(tmp_path: Path) -> None:
    for term in (EXITS, f"{VIRTUAL}, {AVERAGE}"):
        with pytest.raises(SpecInvalidError, match="members of the cohort `dml` teach each other; expected one of the"):
            job_spec(tmp_path, "teachers=[]", f"objective=[{term}]", "cohort={method: dml, members: 2}")


@pytest.mark.parametrize("term", [EXITS, VIRTUAL, f"{AVERAGE}, {{term: cross_entropy}}"])
def test_a_student_may_be_its_only_teacher_and_teachers_that_nobody_hears_are_refused(
    tmp_path: Path, term: str
) -> None:
    job_spec(tmp_path, "teachers=[]", f"objective=[{term}]")

    with pytest.raises(SpecInvalidError, match="no term reads the teachers"):
        job_spec(tmp_path, f"objective=[{term}]")


def test_the_figures_of_an_exit_are_those_of_numpy_and_its_size_is_that_of_what_it_uses(finished: Finished) -> None:
    record = read_record(finished.context.store, finished.job.evaluation_key, EvaluationRecord)
    exits = [model for model in record.models if model.role == "exit"]

    assert [(model.name, model.seed) for model in exits] == [("student@first", 0), ("student@first", 1)]
    for seed, model in enumerate(exits):
        logits = exit_logits(finished, seed)
        log_q = log_softmax(logits, axis=1)
        assert model.accuracy == accuracy_score(finished.labels, logits.argmax(axis=1))
        assert model.nll == pytest.approx(-log_q[np.arange(len(log_q)), finished.labels].mean(), rel=1e-5)
        # 16 pixels to 2 units; the head goes through 2 features to 3 classes. The student's own classifier is not used.
        assert model.parameters == 16 * 2 + 2 + 2 * 2 + 2 + 2 * 3 + 3
        assert model.num_bytes == 4 * model.parameters
        assert model.latency_ms > 0


def test_the_report_has_the_exits_after_the_student(finished: Finished) -> None:
    report, _ = publish_report(finished.context, command="coffey run job.yaml", wall_s=1.0)

    page = bytes(finished.context.store.get(f"runs/{report.run}/report.html")).decode()
    assert page.index("student@first") > page.index(">student <")
    assert "the student, ending here" in page
    assert {curve.role for curve in report.curves} == {"baseline", "student"}


def test_each_exit_is_a_file_of_each_format_that_others_can_use_and_its_graph_ends_there(finished: Finished) -> None:
    store = finished.context.store
    store.delete(finished.job.export_key)  # the record of a run without files, which the fixture writes

    record = export_files(store, finished.job)

    names = [(file.exit, file.format, file.key.rpartition("/")[2]) for file in record.files]
    assert names == [
        (None, "safetensors", "student.safetensors"),
        (None, "onnx", "student.onnx"),
        ("first", "safetensors", "student-at-first.safetensors"),
        ("first", "onnx", "student-at-first.onnx"),
    ]
    assert all(store.get(file.key).nbytes == file.num_bytes for file in record.files)
    weights, graph = (bytes(store.get(file.key)) for file in record.files[2:])
    assert set(safetensors.numpy.load(weights)) == {
        *(f"student.{name}" for name in Narrow(2).state_dict()),
        *(f"head.{layer}.{part}" for layer in ("adapter", "classifier") for part in ("weight", "bias")),
    }
    floats = [it for it in onnx.load_from_string(graph).graph.initializer if it.data_type == onnx.TensorProto.FLOAT]
    assert sorted(it.name for it in floats) == sorted(
        it for it in safetensors.numpy.load(weights) if ".second" not in it
    )
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = finished.images.astype(np.float32) / 255
    found = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    assert found == pytest.approx(exit_logits(finished, 0), abs=1e-4)
