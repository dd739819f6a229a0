"""Teachers that know some of the classes: what they are fitted on, how they become one student, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from cluster.shards.calibration import Calibration
from cluster.shards.codecs.codec import CodecMisfitError
from cluster.shards.dataset import Dataset
from cluster.shards.labelset import LabelSet, LabelSetRecord
from cluster.shards.logits import LogitsReader
from cluster.shards.records import read_record
from cluster.shards.schema import ROW
from cluster.storage.open import open_store
from cluster.storage.protocol import ObjectStore
from orchestrator.catalogue import describe
from orchestrator.figures.contributions import Voice, contributions
from orchestrator.figures.evaluation import EvaluationRecord
from orchestrator.figures.scoring import score_job
from orchestrator.report.record import ModelResult
from orchestrator.resolution.resolve import Job, resolve
from orchestrator.resolution.specialists import UnlikeSpecialistsError
from orchestrator.sources.errors import NoOwnRowsError
from orchestrator.specfile.errors import SpecInvalidError
from orchestrator.steps.fuse import write_fused
from orchestrator.steps.ingest import ingest
from orchestrator.upkeep import Teachers, rerun
from students.ensembles.ensemble import Ensemble
from students.spec import FusionConfig
from students.weightings.routing import RoutingWeighting
from teachers.weights import ClassMapError, ForeignWeightsError
from tests.fixtures import small_jobs
from tests.fixtures.jobs import (
    TEACHERS,
    carry_out,
    finished_job,
    job_spec,
    new_context,
    taught,
    trained_weights,
    write_sources,
)

GROUPS = {"low": "0123", "middle": "3456", "high": "6789"}
"""Digits that each specialist has seen: next to each other, they have one in common."""


def write_specialist(path: Path, digits: str) -> Path:
    """Fit a logistic regression on all training rows of some digits, and write it as the weights of `Linear`."""
    data = load_digits()
    rows = np.flatnonzero(np.isin(data.target[: small_jobs.TRAIN_ROWS], [int(digit) for digit in digits]))
    pixels = data.images.reshape(-1, 64) * 15 / 255
    model = LogisticRegression(max_iter=500).fit(pixels[rows], data.target[rows])
    weight, bias = np.ascontiguousarray(model.coef_, np.float32), model.intercept_.astype(np.float32)
    safetensors.numpy.save_file({"layer.weight": weight, "layer.bias": bias}, path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, ObjectStore]:
    """A finished job: three specialists that others have trained, and 160 labelled rows, 100 of them held out."""
    folder = tmp_path_factory.mktemp("digits")
    teachers = [
        small_jobs.teacher(
            name,
            write_specialist(folder / f"{name}.safetensors", group),
            arguments={"classes": len(group)},
            classes=list(group),
        )
        for name, group in GROUPS.items()
    ]
    spec = small_jobs.job(
        folder,
        store=str(folder / "store"),
        teachers=teachers,
        data={
            "read": {"source": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz")},
            "labelled": 160,
            "validation": 100,
        },
        fusion={"combine": "stacking"},
        objective=[{"term": "kl", "weight": 0.7}, {"term": "cross_entropy", "weight": 0.3}],
        train={"epochs": 30, "batch_size": 64, "optimizer": {"lr": 0.01}},
        baseline={"epochs": [100], "batch_size": 16},
    )
    job = resolve(spec)
    context = new_context(job, open_store(spec.store))
    carry_out(context)
    context.log.close("done")
    return job, context.store


def figures(job: Job, store: ObjectStore) -> dict[str, ModelResult]:
    return {model.name: model for model in read_record(store, job.evaluation_key, EvaluationRecord).models}


def test_three_teachers_that_know_some_digits_become_one_student_that_knows_all(
    digits: tuple[Job, ObjectStore],
) -> None:
    found = figures(*digits)

    for name in GROUPS:
        assert found[name].accuracy < 0.45
    assert found["student"].accuracy > 0.85
    assert found["student"].accuracy > found["baseline"].accuracy + 0.05
    assert found["ensemble"].accuracy > 0.85


def test_a_specialist_is_wrong_on_rows_of_other_classes_and_judged_besides_on_those_of_its_own(
    digits: tuple[Job, ObjectStore],
) -> None:
    job, store = digits
    data = load_digits()
    rows = slice(small_jobs.TRAIN_ROWS, small_jobs.TRAIN_ROWS + small_jobs.TEST_ROWS)
    pixels, truth = (data.images[rows] * 15).astype(np.uint8).reshape(-1, 64) / 255, data.target[rows]
    for teacher in job.teachers:
        group = [int(name) for name in teacher.train.classes]
        state = safetensors.numpy.load_file(str(teacher.config.weights))
        logits = pixels @ state["layer.weight"].T + state["layer.bias"]
        said, own = np.array(group)[logits.argmax(axis=1)], np.isin(truth, group)
        places = [group.index(digit) for digit in truth[own].tolist()]

        result = figures(job, store)[teacher.config.name]

        assert result.accuracy == pytest.approx(accuracy_score(truth, said))
        assert result.own is not None
        assert (result.own.classes, result.own.rows) == (4, own.sum())
        assert result.own.accuracy == pytest.approx(accuracy_score(truth[own], said[own]))
        of_truth = log_softmax(logits[own], axis=1)[np.arange(len(places)), places]
        assert result.nll == pytest.approx(-of_truth.mean(), abs=2e-3)
    assert figures(job, store)["student"].own is None


def test_every_other_figure_of_a_job_with_specialists_is_finite(digits: tuple[Job, ObjectStore]) -> None:
    job, store = digits
    record = read_record(store, job.evaluation_key, EvaluationRecord)

    for found in (*record.calibrations, *record.contributions, *record.agreements, record.summary):
        values = [value for value in found.model_dump().values() if isinstance(value, float)]
        assert np.isfinite(values).all(), found
    for sample in record.samples:
        assert sample.probabilities["low"][4:] == (0.0,) * 6
        assert all(sum(shares) == pytest.approx(1, abs=1e-3) for shares in sample.probabilities.values())


def test_its_labels_are_over_its_classes_and_its_teacher_says_the_same_again(digits: tuple[Job, ObjectStore]) -> None:
    job, store = digits
    record = job.teachers[1].train
    assert (record.num_classes, record.classes) == (4, tuple("3456"))
    assert [column.shape for column in record.columns] == [(4,)]

    summary, _ = describe(store, "middle-" + record.identity)
    assert summary.classes == tuple("3456")
    teacher = Teachers(job, store).rerun_of(record.prefix)
    assert teacher is not None
    (compared,) = rerun(store, record, teacher, num_shards=1, seed=0)
    assert compared.difference < 1e-2
    assert compared.agreement == 1


# The small job of shapes: `fitted` is fitted on cross and bar, `given` has weights for bar and ring.
OWN = (
    "teachers.fitted.arguments.classes=2",
    "teachers.fitted.classes=[cross, bar]",
    "fusion.combine=stacking",
)
INPUTS = (*(f"teachers.{name}.inputs.column=image" for name in TEACHERS), "student.inputs.column=image")


def test_a_specialist_is_fitted_on_rows_of_its_classes_and_watched_on_held_out_rows_of_them(tmp_path: Path) -> None:
    job, context = finished_job(tmp_path, *OWN)
    store, (teacher, *_) = context.store, job.teachers
    assert teacher.fit is not None
    for part, whole in ((teacher.fit.dataset, job.datasets.labelled), (teacher.fit.held_out, job.datasets.held_out)):
        own, everything = rows_of(store, part), rows_of(store, whole)
        is_own = np.isin(everything["label"], [0, 2])
        assert 0 < is_own.sum() < len(is_own)
        assert own[ROW].tolist() == everything[ROW][is_own].tolist()
        assert (own["label"] * 2).tolist() == everything["label"][is_own].tolist()
        assert np.array_equal(own["image"], everything["image"][is_own])
    assert Dataset.open(store, teacher.fit.dataset).record.classes == ("cross", "bar")
    assert trained_weights(store, teacher.fit)["layer.weight"].shape == (2, 16)
    said = stored(store, teacher.test)
    assert np.isneginf(said[:, 1]).all()
    assert np.isfinite(said[:, [0, 2]]).all()


def test_terms_of_specialists_teach_with_what_each_says_among_its_own(tmp_path: Path) -> None:
    terms = "{term: restricted_kl, of: fitted}, {term: kl, of: given}, {term: cross_entropy}"
    job, context = finished_job(tmp_path, *OWN, f"objective=[{terms}]", "train.epochs=12")
    found = figures(job, context.store)
    assert found["student"].accuracy > found["fitted"].accuracy + 0.1


def test_identities_are_of_the_classes_and_other_teachers_keep_theirs(files: Path) -> None:
    whole, some = resolve(job_spec(files, OWN[2])), resolve(job_spec(files, *OWN))
    other = resolve(job_spec(files, OWN[0], "teachers.fitted.classes=[bar, cross]", OWN[2]))
    fitted = [job.teachers[0] for job in (whole, some, other)]
    assert len({teacher.identity for teacher in fitted}) == 3
    assert len({teacher.train.prefix for teacher in fitted}) == 3
    assert whole.teachers[1:] == some.teachers[1:]
    assert whole.datasets.distinct() == some.datasets.distinct()[:4]
    assert whole.baselines == some.baselines


def test_written_targets_are_those_that_training_reads(tmp_path: Path) -> None:
    write_sources(tmp_path)
    job = resolve(job_spec(tmp_path, *OWN, "fusion.when=write", "baseline=null"))
    context = taught(job)
    assert job.fused is not None
    assert job.fused.num_classes == 3

    write_fused(context.store, job.fused, job.fusion)

    fused = softmax(stored(context.store, job.fused), axis=1)
    assert np.isfinite(fused).all()
    assert (fused[:, 1] > 0).all()
    context.log.close("done")


def test_rows_are_routed_to_the_specialists_of_their_classes(domains: Path, tmp_path: Path) -> None:
    job = resolve(
        job_spec(
            domains,
            *OWN[:2],
            *INPUTS,
            "fusion.weighting={method: routing, column: domain, routes: {fitted: [0], given: [1], graph: [1]}}",
            f"store={tmp_path}",
        )
    )
    context = new_context(job, open_store(job.spec.store))
    carry_out(context)

    found, rows = figures(job, context.store), rows_of(context.store, job.datasets.test)
    assert found["ensemble"].accuracy > found["fitted"].accuracy
    record = score_job(context.store, job)
    for sample, domain in zip(record.samples, rows["domain"], strict=False):
        if domain == 0:
            assert sample.probabilities["ensemble"] == pytest.approx(sample.probabilities["fitted"], abs=0.25)
            assert sample.probabilities["ensemble"][1] == 0
    # `fitted` is asked about rings of the wrong domain, and knows none.
    knows_N = (rows["label"] != 1) | (rows["domain"] == 1)
    own = found["ensemble"].own
    assert own is not None
    assert (own.classes, own.rows) == (3, np.count_nonzero(knows_N))
    assert own.rows < len(knows_N)
    assert own.accuracy * own.rows == pytest.approx(found["ensemble"].accuracy * len(knows_N))
    assert all(model.nll < -np.log(1e-9) for model in found.values())
    context.log.close("done")


def test_classes_that_a_file_of_weights_carries_make_a_specialist_too(own_files: Path) -> None:
    def write(names: list[str]) -> None:
        state = {"layer.weight": np.ones((2, 16), np.float32), "layer.bias": np.zeros(2, np.float32)}
        metadata = {"coffey.classes": json.dumps(names)}
        safetensors.numpy.save_file(state, own_files / "given.safetensors", metadata=metadata)

    write(["bar", "ring"])
    assert resolve(job_spec(own_files, OWN[2])).teachers[1].train.classes == ("bar", "ring")
    with pytest.raises(ForeignWeightsError, match="a model of the classes bar, ring; `classes` says ring, bar"):
        resolve(job_spec(own_files, OWN[2], "teachers.given.classes=[ring, bar]"))
    tapped = "objective=[{term: kl}, {term: fitnet, student: second, teacher: 'given:layer'}]"
    assert (
        resolve(job_spec(own_files, OWN[2], tapped, "teachers.given.arguments.classes=2"))
        .students[0]
        .live_teachers[0]
        .name
        == "given"
    )
    write(["bar", "wring"])
    with pytest.raises(ClassMapError, match="the data has no class 'wring', the nearest is 'ring'"):
        resolve(job_spec(own_files, OWN[2]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*OWN[:2],), "fusion.combine is mean_probability, and teacher fitted knows 2 classes"),
        ((*OWN[:2], "fusion.combine=vote"), "Expected `stacking` or `dawid_skene`"),
        ((*OWN[:2], "fusion.combine=mean_logit"), "or mean_probability with `weighting"),
        ((*OWN[:2], "fusion.select=greedy"), "what it says of rows of others is noise"),
        ((*OWN[:2], "fusion.weighting={method: entropy}"), "what it says of rows of others is noise"),
        ((*OWN, "objective=[{term: kl, of: fitted}]"), "the term `kl` is of fitted, which knows 2 classes"),
    ],
)
def test_what_has_no_meaning_with_specialists_is_refused(files: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UnlikeSpecialistsError, match=re.escape(message)):
        resolve(job_spec(files, *overrides))


def test_a_specialist_without_whom_nobody_knows_a_row_leaves_no_nll() -> None:
    fusion = FusionConfig(weighting=RoutingWeighting(column="domain", routes={"low": (0,), "high": (1,)}))
    rows = {"label": np.array([0, 1, 2, 3]), "domain": np.array([0, 0, 1, 1])}
    low, high = np.full((2, 4, 4), -np.inf, np.float32)
    low[:, :2], high[:, 2:] = 0, 0
    voices = [Voice(name, 1.0, Calibration(), said, said) for name, said in (("low", low), ("high", high))]
    ensemble = Ensemble.weighted("mean_probability", [1.0, 1.0], [Calibration()] * 2)

    found = contributions(fusion, voices, ensemble, held_out=rows, test=rows)

    assert [(without.teacher, without.nll) for without in found] == [("low", None), ("high", None)]


@pytest.mark.parametrize(
    ("routes", "more", "message"),
    [
        (
            "{fitted: [0], given: [1]}",
            ("fusion.combine=mean_logit",),
            "teacher fitted gives classes that it does not know no probability",
        ),
        (
            "{fitted: [0], given: [7], graph: [7]}",
            (),
            "no route names the entry 1 of the column domain, and no teacher is without a route",
        ),
        ("{given: [0]}", (), "teacher fitted knows 2 classes and has no route"),
        ("{fitted: [0, 1], given: [1]}", (), "rows of 1 go to fitted and to given, which know other classes"),
        (
            "{fitted: [0], given: [1]}",
            ("objective=[{term: reverse_kl}]",),
            "the term `reverse_kl` needs a probability of every class",
        ),
    ],
)
def test_routes_on_which_specialists_would_be_mixed_with_others_are_refused(
    domains: Path, routes: str, more: tuple[str, ...], message: str
) -> None:
    routing = f"fusion.weighting={{method: routing, column: domain, routes: {routes}}}"
    with pytest.raises(UnlikeSpecialistsError, match=re.escape(message)):
        resolve(job_spec(domains, *OWN[:2], *INPUTS, routing, *more))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("objective=[{term: restricted_kl}, {term: cross_entropy}]", "expected `of` and the name of a teacher"),
        ("generations.objective=[{term: restricted_kl}]", "reads a teacher of some classes, and generations know them"),
    ],
)
def test_a_term_of_known_classes_is_not_given_what_teachers_say_together(files: Path, terms: str, message: str) -> None:
    with pytest.raises(SpecInvalidError, match=f"the term `restricted_kl` .*{message}"):
        job_spec(files, *OWN, terms)


def test_a_class_that_no_teacher_knows_has_to_be_taught_by_labels(files: Path) -> None:
    spec = job_spec(files, *OWN)
    alone = spec.model_copy(update={"teachers": spec.teachers[:1]})
    resolve(alone)
    without_labels = alone.model_copy(update={"objective": spec.objective[:1]})
    with pytest.raises(UnlikeSpecialistsError, match="none knows the class 'ring', and no term reads labels"):
        resolve(without_labels)


ALONE = (
    "{name: fitted, model: 'tests.fixtures.jobs:Linear', arguments: {classes: 2}, classes: [cross, bar], fit: {}, "
    "labels: {codec: topk, k: %d, tail_samples: 0}}"
)


def test_labels_of_a_specialist_hold_no_more_than_its_classes_and_no_term_reads_them_as_they_are(files: Path) -> None:
    fusion = "fusion={combine: dawid_skene, calibrate: none}"
    resolve(job_spec(files, f"teachers=[{ALONE % 2}]", fusion))
    with pytest.raises(CodecMisfitError, match=r"teachers\.fitted\.labels\.k is 3 and there are 2 classes"):
        resolve(job_spec(files, f"teachers=[{ALONE % 3}]", fusion))
    sparse = "objective=[{term: sparse_kl}, {term: cross_entropy}]"
    with pytest.raises(UnlikeSpecialistsError, match="`sparse_kl` reads labels over all classes as they are stored"):
        resolve(job_spec(files, f"teachers=[{ALONE % 1}]", fusion, sparse))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[cross]", "one class says nothing of a row; expected at least two"),
        ("[]", "`classes` names 0"),
        ("[cross, bar, cross]", "`classes` names 'cross' twice"),
    ],
)
def test_one_class_or_a_class_twice_is_refused_before_anything_is_read(
    tmp_path: Path, names: str, message: str
) -> None:
    with pytest.raises(SpecInvalidError, match=re.escape(message)):
        job_spec(tmp_path, f"teachers.fitted.classes={names}")


def test_a_mistyped_class_is_refused_with_the_nearest(files: Path) -> None:
    with pytest.raises(ClassMapError, match="the data has no class 'crows', the nearest is 'cross'"):
        resolve(job_spec(files, OWN[2], "teachers.fitted.classes=[crows, bar]"))


def test_a_specialist_of_whose_classes_no_row_is_labelled_cannot_be_fitted(tmp_path: Path) -> None:
    write_sources(tmp_path)
    names = "data.classes=[cross, ring, bar, star, moon]"
    job = resolve(job_spec(tmp_path, names, "teachers.fitted.classes=[star, moon]", "fusion.combine=stacking"))
    context = new_context(job, open_store(job.spec.store))
    with pytest.raises(NoOwnRowsError, match=r"data\.labelled: none of \d+ rows is of the classes star, moon"):
        ingest(context)
    context.log.close("failed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_sources(folder)
    return folder


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows, each with a domain: 1 for a ring, 0 for others; every tenth test row has the wrong one."""
    folder = tmp_path_factory.mktemp("domains")
    write_sources(folder)
    for part in ("train", "test"):
        with np.load(folder / f"{part}.npz") as arrays:
            is_wrong = (np.arange(len(arrays["label"])) % 10 == 0) & (part == "test")
            np.savez(folder / f"{part}.npz", **arrays, domain=((arrays["label"] == 1) ^ is_wrong).astype(np.uint8))
    return folder


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    write_sources(tmp_path)
    return tmp_path


def rows_of(store: ObjectStore, identity: str) -> dict[str, np.ndarray]:
    shards = list(Dataset.open(store, identity))
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def stored(store: ObjectStore, record: LabelSetRecord) -> np.ndarray:
    labels = LabelSet(store, record)
    reader = LogitsReader(labels)
    return np.concatenate([reader.read(commit.number) for commit in labels.load_manifest().commits])
