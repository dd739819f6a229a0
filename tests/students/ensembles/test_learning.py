"""Learned combinations against scikit-learn, against EM written row by row, and against all selections there are."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.linear_model import LogisticRegression

from cluster.shards.schema import NO_LABEL
from students.ensembles.dawid_skene import fit_confusions
from students.ensembles.ensemble import Ensemble
from students.ensembles.greedy import select_greedily
from students.ensembles.learn import learn
from students.ensembles.stacking import fit_softmax_regression, fit_stacking
from students.fusion import combined
from students.spec import Combine, FusionConfig

CLASSES = 3
LEARNED = [
    FusionConfig(combine="dawid_skene"),
    FusionConfig(combine="stacking"),
    FusionConfig(select="greedy"),
    FusionConfig(combine="vote", select="greedy", select_by="accuracy"),
]


def teachers(
    rows: int, *, seed: int, noise: tuple[float, ...] = (1.0, 1.5, 3.0), classes: int = CLASSES
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return float32 logits of teachers that see the class through noise, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    seen = [2 * (np.eye(classes)[labels] + 0.5 * size * rng.standard_normal((rows, classes))) for size in noise]
    return [logits.astype(np.float32) for logits in seen], labels


def surprise(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood."""
    return -float(np.mean([np.log(p[label]) for p, label in zip(probabilities, labels, strict=True)]))


def votes_of(logits: list[np.ndarray]) -> np.ndarray:
    return np.array([np.eye(part.shape[1])[part.argmax(axis=1)] for part in logits])


class TestDawidSkene:
    @settings(deadline=None, max_examples=25)
    @given(seed=st.integers(0, 1000), rows=st.sampled_from([1, 7, 60]))
    def test_with_every_label_known_it_is_counting(self, seed: int, rows: int) -> None:
        logits, labels = teachers(rows, seed=seed)
        tables, prior = fit_confusions(votes_of(logits), labels)
        for c in range(CLASSES):
            of_class = [row for row in range(rows) if labels[row] == c]
            assert np.exp(prior[c]) == pytest.approx((len(of_class) + 1 / CLASSES) / (rows + 1), rel=1e-12)
            for k, v in product(range(3), range(CLASSES)):
                said = sum(int(logits[k][row].argmax()) == v for row in of_class)
                assert np.exp(tables[k, v, c]) == pytest.approx((said + 1 / CLASSES) / (len(of_class) + 1), rel=1e-12)
        assert np.exp(tables).sum(axis=1) == pytest.approx(np.ones((3, CLASSES)))
        assert np.exp(prior).sum() == pytest.approx(1)

    @pytest.mark.parametrize("known", [0, 40])
    @pytest.mark.parametrize("seed", range(3))
    def test_rows_without_a_label_are_inferred_as_an_em_of_loops_and_products_infers_them(
        self, seed: int, known: int
    ) -> None:
        logits, labels = teachers(120, seed=seed)
        labels[known:] = NO_LABEL
        tables, prior = fit_confusions(votes_of(logits), labels)
        expected_tables, expected_prior = em([part.argmax(axis=1).tolist() for part in logits], labels.tolist())
        assert np.exp(tables) == pytest.approx(expected_tables, abs=1e-6)
        assert np.exp(prior) == pytest.approx(expected_prior, abs=1e-6)

    def test_where_em_arrives_no_step_makes_the_penalised_likelihood_larger(self) -> None:
        logits, labels = teachers(200, seed=5)
        votes = votes_of(logits)
        tables, prior = fit_confusions(votes, np.full_like(labels, NO_LABEL))
        start = np.concatenate([tables.transpose(0, 2, 1).ravel(), prior])

        def cost(flat: np.ndarray) -> float:
            thetas = log_softmax(flat[:-CLASSES].reshape(3, CLASSES, CLASSES), axis=2)
            shares = log_softmax(flat[-CLASSES:])
            of_rows = logsumexp(np.einsum("knv,kcv->nc", votes, thetas) + shares, axis=1).sum()
            return -float(of_rows + (thetas.sum() + shares.sum()) / CLASSES)

        assert cost(start) - minimize(cost, start, method="BFGS", options={"gtol": 1e-5}).fun < 1e-5

    def test_a_teacher_that_mistakes_one_class_for_another_is_understood(self) -> None:
        labels = np.tile(np.arange(CLASSES), 50)
        swapped = (8 * np.eye(CLASSES)[np.array([1, 0, 2])[labels]]).astype(np.float32)
        record = learn(FusionConfig(combine="dawid_skene"), ["swapped"], [swapped], labels)
        assert record.accuracy == 1
        fused = Ensemble.learned("dawid_skene", record)([swapped]).numpy()
        assert np.array_equal(fused.argmax(axis=1), labels)


def em(votes: list[list[int]], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return P(vote | class) `[K, V, C]` and P(class), one number at a time, after far more rounds than are needed."""
    num_rows, classes = len(labels), range(CLASSES)
    beliefs = [
        [float(c == label) if label != NO_LABEL else sum(row == c for row in said) / len(votes) for c in classes]
        for label, said in zip(labels, zip(*votes, strict=True), strict=True)
    ]
    for _ in range(300):
        rows = [sum(belief[c] for belief in beliefs) for c in classes]
        prior = [(rows[c] + 1 / CLASSES) / (num_rows + 1) for c in classes]
        theta = [
            [
                [
                    (sum(belief[c] for belief, v in zip(beliefs, said, strict=True) if v == vote) + 1 / CLASSES)
                    / (rows[c] + 1)
                    for c in classes
                ]
                for vote in classes
            ]
            for said in votes
        ]
        for number, label in enumerate(labels):
            if label == NO_LABEL:
                joint = [
                    prior[c] * np.prod([theta[k][votes[k][number]][c] for k in range(len(votes))]) for c in classes
                ]
                beliefs[number] = [float(value / sum(joint)) for value in joint]
    return np.array(theta), np.array(prior)


class TestStacking:
    @pytest.mark.parametrize("sigma", [0.1, 1.0])
    def test_about_zero_it_is_the_logistic_regression_of_scikit_learn_with_the_same_penalty(self, sigma: float) -> None:
        logits, labels = teachers(200, seed=1, classes=4)
        features = np.concatenate([log_softmax(part.astype(np.float64), axis=1) for part in logits], axis=1)
        found = fit_softmax_regression(features, labels, centre_DC=np.zeros((12, 4)), sigma=sigma)
        reference = LogisticRegression(C=sigma**2, fit_intercept=False, tol=1e-10, max_iter=10_000)
        assert found == pytest.approx(reference.fit(features, labels).coef_.T, abs=1e-5)

    @pytest.mark.parametrize(("seed", "rows"), [(0, 1), (1, 10), (2, 80)])
    def test_no_other_optimiser_finds_more_probable_weights(self, seed: int, rows: int) -> None:
        logits, labels = teachers(rows, seed=seed, noise=(1.0, 2.0))
        log_probs = np.array([log_softmax(part.astype(np.float64), axis=1) for part in logits])
        weights, bias = fit_stacking(log_probs, labels)
        centre = np.concatenate([np.eye(3) / 2, np.eye(3) / 2, np.zeros((1, 3))])

        def cost(flat: np.ndarray) -> float:
            table = flat.reshape(7, 3)
            fused = softmax(log_probs[0] @ table[:3] + log_probs[1] @ table[3:6] + table[6], axis=1)
            return rows * surprise(fused, labels) + 50 * float(((table - centre) ** 2).sum())

        found = np.concatenate([*weights, bias[None]]).ravel()
        assert cost(found) <= minimize(cost, centre.ravel(), method="BFGS", options={"gtol": 1e-6}).fun + 1e-5

    def test_one_row_leaves_it_near_the_mean_of_the_logits(self) -> None:
        logits, labels = teachers(1, seed=3)
        record = learn(FusionConfig(combine="stacking"), ["a", "b", "c"], logits, labels)
        assert np.array(record.weights) == pytest.approx(np.array([np.eye(3) / 3] * 3), abs=0.05)

    def test_it_is_better_than_the_mean_where_a_teacher_is_wrong_in_a_way_that_can_be_learned(self) -> None:
        (first, second), labels = teachers(600, seed=4, noise=(2.0, 2.0))
        logits = [first, -second]
        record = learn(FusionConfig(combine="stacking"), ["right", "inverted"], logits, labels)
        mean = np.mean([softmax(part, axis=1) for part in logits], axis=0)
        assert record.accuracy > (mean.argmax(axis=1) == labels).mean() + 0.1


class TestSpecialists:
    """Three teachers of two classes each; a class that a teacher does not know has the logit minus infinity."""

    KNOWN = ((0, 1), (1, 2), (2, 0))

    def teachers(self, rows: int, *, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
        logits, labels = teachers(rows, seed=seed)
        for part, known in zip(logits, self.KNOWN, strict=True):
            part[:, [c for c in range(CLASSES) if c not in known]] = -np.inf
        return logits, labels

    @settings(deadline=None, max_examples=10)
    @given(seed=st.integers(0, 1000), rows=st.sampled_from([1, 7, 60]))
    def test_confusions_count_votes_for_known_classes_of_rows_of_every_class(self, seed: int, rows: int) -> None:
        logits, labels = self.teachers(rows, seed=seed)
        fused = self.fused("dawid_skene", logits, labels)
        counts = [sum(labels == c) for c in range(CLASSES)]
        for row in range(rows):
            joint = [(counts[c] + 1 / CLASSES) / (rows + 1) for c in range(CLASSES)]
            for part in logits:
                vote = int(part[row].argmax())
                for c in range(CLASSES):
                    said = sum(int(part[i].argmax()) == vote for i in range(rows) if labels[i] == c)
                    joint[c] *= (said + 1 / 2) / (counts[c] + 1)
            assert np.exp(fused[row]) == pytest.approx(np.array(joint) / sum(joint), abs=1e-5)

    @pytest.mark.parametrize("seed", range(3))
    def test_stacking_is_the_regression_on_what_teachers_say_of_their_classes(self, seed: int) -> None:
        logits, labels = self.teachers(80, seed=seed)
        features = np.concatenate(
            [
                log_softmax(part[:, known].astype(np.float64), axis=1)
                for part, known in zip(logits, self.KNOWN, strict=True)
            ]
            + [np.ones((80, 1))],
            axis=1,
        )
        centre = np.zeros((7, CLASSES))
        for place, c in enumerate(c for known in self.KNOWN for c in known):
            centre[place, c] = 1 / 2

        def cost(flat: np.ndarray) -> float:
            table = flat.reshape(centre.shape)
            return 80 * surprise(softmax(features @ table, axis=1), labels) + 50 * float(((table - centre) ** 2).sum())

        best = minimize(cost, centre.ravel(), method="BFGS", options={"gtol": 1e-6}).x.reshape(centre.shape)
        assert np.exp(self.fused("stacking", logits, labels)) == pytest.approx(
            softmax(features @ best, axis=1), abs=1e-3
        )

    def test_without_rows_a_class_is_the_mean_over_those_who_know_it_and_one_nobody_knows_an_even_share(self) -> None:
        known = np.array([[True, True, False, False], [True, False, True, False]])
        weights, bias = fit_stacking(np.zeros((2, 0, 4)), np.zeros(0, int), known)
        expected = np.zeros((2, 4, 4))
        expected[0, 0, 0] = expected[1, 0, 0] = 1 / 2
        expected[0, 1, 1] = expected[1, 2, 2] = 1
        assert weights == pytest.approx(expected)
        assert bias == pytest.approx([0, 0, 0, -np.log(4)])

    @pytest.mark.parametrize("combine", ["stacking", "dawid_skene"])
    def test_together_they_know_what_none_of_them_knows(self, combine: Combine) -> None:
        logits, labels = self.teachers(600, seed=9)
        alone = max((part.argmax(axis=1) == labels).mean() for part in logits)
        fused = self.fused(combine, logits, labels)
        assert (fused.argmax(axis=1) == labels).mean() > alone + 0.05

    @pytest.mark.parametrize("combine", ["mean_probability", "mean_logit"])
    def test_a_mean_that_asks_one_specialist_gives_no_mass_to_others_classes_and_stays_finite(
        self, combine: Combine
    ) -> None:
        logits, _ = self.teachers(20, seed=3)
        log_probs = torch.log_softmax(torch.from_numpy(np.stack(logits)), dim=-1)
        shares = torch.zeros(3, 20)
        shares[1] = 1.0
        fused = combined(log_probs, shares, combine=combine)
        assert fused.isfinite().all()
        assert fused[:, 0].exp().tolist() == [0.0] * 20
        assert fused[:, 1:].numpy() == pytest.approx(log_softmax(logits[1][:, 1:], axis=1), abs=1e-6)

    @staticmethod
    def fused(combine: Combine, logits: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
        record = learn(FusionConfig(combine=combine), ["a", "b", "c"], logits, labels)
        again = type(record).model_validate_json(record.model_dump_json())
        said: np.ndarray = Ensemble.learned(combine, again)(logits).numpy()
        return said


class TestGreedy:
    @settings(deadline=None, max_examples=4)
    @given(seed=st.integers(0, 1000), by=st.sampled_from(["nll", "accuracy"]))
    def test_each_pick_is_the_best_of_all_and_the_best_prefix_is_kept(self, seed: int, by: str) -> None:
        logits, labels = teachers(40, seed=seed)
        p = [softmax(part.astype(np.float64), axis=1) for part in logits]

        def merit(bag: list[int]) -> tuple[float, ...]:
            mean = np.mean([p[k] for k in bag], axis=0)
            likelihood = round(-surprise(mean, labels), 5)
            return (likelihood,) if by == "nll" else ((mean.argmax(axis=1) == labels).mean(), likelihood)

        bag: list[int] = []
        merits = []
        for _ in range(50):
            bag.append(max(range(3), key=lambda k: merit([*bag, k])))
            merits.append(merit(bag))
        shares = select_greedily(logits, labels, combine="mean_probability", by=by)  # type: ignore[arg-type]
        fused = np.average(p, axis=0, weights=shares)
        reached = -surprise(fused, labels)
        best = max(merits)
        assert reached == pytest.approx(best[-1], abs=1e-4)
        if by == "accuracy":
            assert (fused.argmax(axis=1) == labels).mean() >= best[0] - 1e-9

    @pytest.mark.parametrize("seed", range(3))
    def test_of_all_ways_to_share_among_two_it_is_within_a_hair_of_the_best(self, seed: int) -> None:
        logits, labels = teachers(150, seed=seed, noise=(1.5, 2.0))
        p = [softmax(part.astype(np.float64), axis=1) for part in logits]
        shares = select_greedily(logits, labels, combine="mean_probability", by="nll")
        best = min(surprise(w * p[0] + (1 - w) * p[1], labels) for w in np.linspace(0, 1, 501))
        assert surprise(shares[0] * p[0] + shares[1] * p[1], labels) == pytest.approx(best, abs=1e-4)

    def test_a_teacher_that_adds_nothing_is_left_out_and_not_read(self) -> None:
        logits, labels = teachers(300, seed=6, noise=(1.0, 1.2))
        useless = [logits[0], -8 * logits[1], logits[1]]
        record = learn(FusionConfig(select="greedy"), ["a", "useless", "b"], useless, labels)
        ensemble = Ensemble.learned("mean_probability", record)
        assert record.unused == ("useless",)
        assert ensemble.places == (0, 2)
        assert ensemble.used(["a", "useless", "b"]) == ["a", "b"]

    def test_equal_teachers_are_one(self) -> None:
        logits, labels = teachers(50, seed=7)
        shares = select_greedily([logits[0]] * 3, labels, combine="mean_logit", by="nll")
        assert shares == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("fusion", LEARNED)
def test_the_record_tells_how_the_combination_does_and_serves_it_again(fusion: FusionConfig) -> None:
    logits, labels = teachers(90, seed=8)
    record = learn(fusion, ["a", "b", "c"], logits, labels)
    again = type(record).model_validate_json(record.model_dump_json())
    ensemble = Ensemble.learned(fusion.combine, again)
    fused = ensemble(ensemble.used(logits)).numpy()
    assert (record.teachers, record.rows) == (("a", "b", "c"), 90)
    assert np.exp(fused.astype(np.float64)).sum(axis=1) == pytest.approx(np.ones(90), abs=1e-5)
    assert record.accuracy == pytest.approx((fused.argmax(axis=1) == labels).mean())
    assert record.nll == pytest.approx(surprise(np.exp(fused), labels), abs=1e-5)


@pytest.mark.parametrize("fusion", LEARNED)
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_teachers_does_not_matter(fusion: FusionConfig, seed: int) -> None:
    logits, labels = teachers(60, seed=seed)
    order = [2, 0, 1]
    figures = []
    for each in (logits, [logits[k] for k in order]):
        record = learn(fusion, ["x", "y", "z"], each, labels)
        figures.append((record.accuracy, record.nll))
    if fusion.select_by == "accuracy":  # ties between votes are broken by position
        assert figures[0][0] == pytest.approx(figures[1][0], abs=0.1)
    else:
        assert figures[0] == pytest.approx(figures[1], abs=1e-4)
