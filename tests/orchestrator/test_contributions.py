"""Jobs that learn how to combine: the plan, the record, and the same combination in training, `fuse` and the report."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from cluster.shards.calibration import CalibrationRecord
from cluster.shards.codecs.dense import LOGITS
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.records import read_record
from cluster.shards.schema import LABEL
from cluster.storage.directory import DirectoryStore
from cluster.storage.protocol import ObjectMissingError
from orchestrator.figures.contributions import Voice, held_out_belief
from orchestrator.figures.scoring import score_job
from orchestrator.planning.plan import Inspection, make_plan
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.steps.calibrate import calibrate_teachers
from orchestrator.steps.fuse import write_fused
from students.batches import TrainingData
from students.ensembles.ensemble import Ensemble
from students.ensembles.learn import learn
from students.ensembles.record import EnsembleRecord, TooManyWeightsError, check_num_weights, ensemble_key
from students.spec import FusionConfig
from students.task import Execution
from tests.fixtures.jobs import TEACHERS, TEST_ROWS, finished_job, job_spec, new_context, write_sources

SHORT = ("baseline=null", "train.seeds=[0]", "train.epochs=1")
WAYS = {
    "dawid_skene": ("fusion.combine=dawid_skene",),
    "stacking": ("fusion.combine=stacking", "fusion.calibrate=vector"),
    "greedy": ("fusion.select=greedy", "fusion.select_by=accuracy"),
    "vote": ("fusion.combine=vote", "fusion.calibrate=none", "fusion.weights={given: 2}"),
}


@pytest.fixture(scope="module", params=WAYS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, DirectoryStore]:
    folder = tmp_path_factory.mktemp(request.param)
    job, context = finished_job(folder, *WAYS[request.param], *SHORT)
    context.log.close("done")
    return job, DirectoryStore(folder / "store")


def stored(store: DirectoryStore, record: LabelSetRecord) -> np.ndarray:
    shards = range(len(Dataset.open(store, record.dataset).record.shards))
    return np.concatenate([LabelSet(store, record).read(number)[LOGITS] for number in shards]).astype(np.float64)


def column(store: DirectoryStore, dataset: str, name: str) -> np.ndarray:
    return np.concatenate([shard[name] for shard in Dataset.open(store, dataset)])


def calibrated(store: DirectoryStore, key: str | None, logits: np.ndarray) -> np.ndarray:
    if key is None:
        return logits
    record = read_record(store, key, CalibrationRecord)
    cooled = logits / record.temperature
    if not record.scales:
        return cooled
    centred = cooled - cooled.mean(axis=1)[:, None]
    return np.array([[a * z + b for a, z, b in zip(record.scales, row, record.biases, strict=True)] for row in centred])


def expected(job: Job, store: DirectoryStore, part: str) -> np.ndarray:
    """Return the probabilities that the definitions in students/fusion.py give, `[N, C]`."""
    targets = job.fusion
    shares = None if targets.ensemble is None else read_record(store, targets.ensemble, EnsembleRecord).shares
    logits = [
        calibrated(store, target.calibration, stored(store, getattr(teacher, part)))
        for place, (target, teacher) in enumerate(zip(targets.parts, job.teachers, strict=True))
        if not shares or shares[place] > 0  # nobody labels for one who is left out
    ]
    if targets.combine == "vote":
        votes = np.array([np.eye(3)[z.argmax(axis=1)] for z in logits])
        return (3 * np.average(votes, axis=0, weights=[1, 2, 1]) + 1 / 3) / 4
    assert targets.ensemble is not None
    record = read_record(store, targets.ensemble, EnsembleRecord)
    if targets.combine == "mean_probability":
        return np.average([softmax(z, axis=1) for z in logits], axis=0, weights=[it for it in record.shares if it > 0])
    table = np.array(record.weights)
    if targets.combine == "stacking":
        read = [np.maximum(log_softmax(z, axis=1), -20) for z in logits]
        return softmax(sum(z @ w for z, w in zip(read, table, strict=True)) + np.array(record.bias), axis=1)
    said = [[table[k][z.argmax()] for k, z in enumerate(row)] for row in zip(*logits, strict=True)]
    return softmax(np.array(said).sum(axis=1) + np.array(record.bias), axis=1)


def test_the_ensemble_in_the_report_is_the_combination_of_the_definition(
    finished: tuple[Job, DirectoryStore],
) -> None:
    job, store = finished
    record, labels = score_job(store, job), column(store, job.datasets.test, LABEL)
    (model,) = [model for model in record.models if model.role == "ensemble"]
    probabilities = expected(job, store, "test")
    assert model.accuracy == pytest.approx((probabilities.argmax(axis=1) == labels).mean())
    assert model.nll == pytest.approx(-np.log(probabilities[np.arange(TEST_ROWS), labels]).mean(), abs=1e-5)


def test_training_is_given_the_same_combination(finished: tuple[Job, DirectoryStore]) -> None:
    job, store = finished
    data = TrainingData(store, job.students[0], Execution(), rank=0, world_size=1)
    found = {}
    for batch in data.batches(first_step=0, device=torch.device("cpu")):
        assert batch.target_logits_NC is not None
        for image, logits in zip(batch.inputs, batch.target_logits_NC, strict=True):
            found[(255 * image).round().byte().numpy().tobytes()] = softmax(logits.double().numpy())
    images = column(store, job.datasets.train, "image")
    probabilities = expected(job, store, "train")
    matched = [found[image.tobytes()] for image in images]
    assert np.array(matched) == pytest.approx(probabilities, abs=1e-4)


def test_labels_that_are_fused_once_hold_the_same_combination(
    finished: tuple[Job, DirectoryStore], tmp_path: Path
) -> None:
    job, store = finished
    copied = DirectoryStore(shutil.copytree(store.uri, tmp_path / "store"))
    fusion = job.spec.fusion.model_copy(update={"when": "write"})
    writing = resolve(job.spec.model_copy(update={"fusion": fusion}))
    assert writing.fused is not None
    assert writing.fusion == job.fusion
    rows = write_fused(copied, writing.fused, writing.fusion)
    log_probs = stored(copied, writing.fused)
    assert rows == len(log_probs)
    assert softmax(log_probs, axis=1) == pytest.approx(expected(job, store, "train"), abs=2e-3)
    assert write_fused(copied, writing.fused, writing.fusion) == 0


def test_without_a_teacher_the_others_are_combined_anew(finished: tuple[Job, DirectoryStore]) -> None:
    job, store = finished
    fusion, labels = job.spec.fusion, column(store, job.datasets.test, LABEL)
    contributions = score_job(store, job).contributions
    assert [found.teacher for found in contributions] == list(TEACHERS)
    for place, found in enumerate(contributions):
        others = [k for k in range(3) if k != place]
        held_out, test = (
            [
                calibrated(store, job.fusion.parts[k].calibration, stored(store, getattr(job.teachers[k], part)))
                for k in others
            ]
            for part in ("held_out", "test")
        )
        if fusion.is_learned:
            record = learn(fusion, ["a", "b"], held_out, column(store, job.datasets.held_out, LABEL))
            ensemble = Ensemble.learned(fusion.combine, record)
            fused = ensemble(ensemble.used(test)).numpy()
        else:
            weights = [2.0 if TEACHERS[k] == "given" else 1.0 for k in others]
            votes = np.array([np.eye(3)[z.argmax(axis=1)] for z in test])
            fused = np.log((2 * np.average(votes, axis=0, weights=weights) + 1 / 3) / 3)
        assert found.accuracy == pytest.approx((fused.argmax(axis=1) == labels).mean(), abs=0.012)
        assert found.nll == pytest.approx(-fused[np.arange(TEST_ROWS), labels].mean(), abs=2e-3)


def test_shares_are_those_of_weights_and_there_are_none_where_a_table_decides(
    finished: tuple[Job, DirectoryStore],
) -> None:
    job, store = finished
    shares = [found.share for found in score_job(store, job).contributions]
    if job.spec.fusion.has_tables:
        assert shares == [None] * 3
    elif job.fusion.ensemble is None:
        assert shares == [0.25, 0.5, 0.25]
    else:
        assert shares == pytest.approx(read_record(store, job.fusion.ensemble, EnsembleRecord).shares)


def test_the_plan_knows_the_step_and_a_second_run_finds_it_done(finished: tuple[Job, DirectoryStore]) -> None:
    job, store = finished
    steps = {step.name: step for step in Inspection(job, store).steps()}
    if (key := job.fusion.ensemble) is None:
        assert "combine" not in steps
        return
    assert (steps["combine"].kind, steps["combine"].state) == ("combine", "done")
    assert steps["combine"].identity in key
    names = list(steps)
    assert names.index("combine") < names.index("train:student")
    before = store.get(key)
    context = new_context(job, store)
    calibrate_teachers(context)
    context.log.close("done")
    assert store.get(key) == before
    assert {result.outcome for result in context.results} == {"reused"}
    if job.spec.fusion.select == "greedy":
        for name, share in zip(TEACHERS, read_record(store, key, EnsembleRecord).shares, strict=True):
            assert f"{name} unused" in steps["combine"].note or f"{name} {100 * share:.0f} %" in steps["combine"].note


def test_what_was_lost_with_a_killed_driver_is_learned_again_to_the_bit(
    finished: tuple[Job, DirectoryStore],
) -> None:
    job, store = finished
    if (key := job.fusion.ensemble) is None:
        return
    before = bytes(store.get(key))
    store.delete(key)
    with pytest.raises(ObjectMissingError):
        Ensemble.open(store, job.fusion)
    context = new_context(job, store)
    calibrate_teachers(context)
    context.log.close("done")
    assert bytes(store.get(key)) == before
    assert [result.name for result in context.results if result.outcome == "computed"] == ["combine"]


class TestHeldOutRows:
    def test_a_learned_combination_is_judged_by_rows_that_did_not_teach_it(self) -> None:
        """Labels are drawn by lot: whoever knows more than chance on the held-out rows has seen them."""
        rng = np.random.default_rng(0)
        labels, fusion = rng.integers(0, 10, 300), FusionConfig(combine="stacking", calibrate="none")
        logits = [3 * rng.standard_normal((300, 10)).astype(np.float32) for _ in range(4)]
        record = learn(fusion, list("abcd"), logits, labels)
        ensemble = Ensemble.learned("stacking", record)
        voices = [Voice(n, 1.0, c, z, z) for n, c, z in zip("abcd", ensemble.calibrations, logits, strict=True)]
        belief = held_out_belief(fusion, voices, ensemble, {LABEL: labels})
        assert record.accuracy > 0.3
        assert (belief.argmax(axis=1) == labels).mean() < 0.2
        few = held_out_belief(fusion, voices, ensemble, {LABEL: labels[:4]})
        assert np.array_equal(few, ensemble(logits).numpy())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identity")
    write_sources(folder)
    return folder


class TestIdentity:
    def test_every_way_to_combine_has_a_record_and_a_student_of_its_own(self, folder: Path) -> None:
        overrides = [
            ("fusion.combine=stacking",),
            ("fusion.combine=dawid_skene",),
            ("fusion.combine=stacking", "fusion.calibrate=vector"),
            ("fusion.combine=stacking", "fusion.calibrate=none"),
            ("fusion.select=greedy",),
            ("fusion.select=greedy", "fusion.select_by=accuracy"),
            ("fusion.select=greedy", "fusion.combine=vote"),
            ("fusion.combine=stacking", "data.seed=1"),
        ]
        jobs = [resolve(job_spec(folder, *more)) for more in overrides]
        assert len({job.fusion.ensemble for job in jobs} - {None}) == len(jobs)
        assert len({job.students[0].identity for job in jobs}) == len(jobs)

    @pytest.mark.parametrize(("said", "means"), [("true", "temperature"), ("false", "none")])
    def test_truth_values_of_calibrate_stay_what_they_were(self, folder: Path, said: str, means: str) -> None:
        by_truth, by_name = (resolve(job_spec(folder, f"fusion.calibrate={value}")) for value in (said, means))
        assert by_truth.students == by_name.students
        assert by_truth.evaluation_key == by_name.evaluation_key

    def test_what_is_not_learned_is_no_part_of_an_identity(self, folder: Path) -> None:
        targets = resolve(job_spec(folder)).fusion
        assert "ensemble" not in targets.model_dump()
        assert type(targets).model_validate(targets.model_dump()) == targets
        learned = resolve(job_spec(folder, "fusion.combine=stacking")).fusion
        assert type(learned).model_validate_json(learned.model_dump_json()) == learned

    def test_how_it_selects_changes_nothing_where_nothing_is_selected(self, folder: Path) -> None:
        jobs = [resolve(job_spec(folder, *more)) for more in ((), ("fusion.select_by=accuracy",))]
        assert jobs[0].students == jobs[1].students
        teachers = [teacher.held_out for teacher in jobs[0].teachers]
        assert ensemble_key(FusionConfig(), teachers, [None] * 3) is None

    def test_a_plan_says_what_will_be_learned(self, folder: Path) -> None:
        plan = make_plan(job_spec(folder, "fusion.select=greedy"), DirectoryStore(folder / "nothing"))
        (step,) = [step for step in plan.steps if step.kind == "combine"]
        assert step.state == "to do"
        assert step.note == "mean_probability of selected teachers, on the held-out rows"


def test_too_many_classes_for_a_table_are_refused_with_a_way_out() -> None:
    for combine in ("stacking", "dawid_skene"):
        with pytest.raises(TooManyWeightsError, match=r"2,000,000 in all; expected at most 1,000,000.*select: greedy"):
            check_num_weights(FusionConfig(combine=combine), teachers=2, classes=1000)
    check_num_weights(FusionConfig(combine="stacking"), teachers=4, classes=500)
    check_num_weights(FusionConfig(select="greedy"), teachers=4, classes=50_000)
