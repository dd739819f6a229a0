"""What stored labels cannot serve is refused with its field before work begins, and what they can is not."""

import pytest

from orchestrator.load import parse_spec
from orchestrator.spec import JobSpec
from orchestrator.specfile.errors import SpecInvalidError
from tests.fixtures.jobs import SPEC

TOP_K = "teachers.given.labels={codec: topk, k: 2, temperatures: [2.0], tail_samples: 0}"
SAMPLED = "teachers.given.labels={codec: sampled}"
HIDDEN = "teachers.given.labels={codec: hidden, head: layer, width: 16}"
PLAIN = "fusion.calibrate=false"
AT_2 = "objective=[{term: kl, temperature: 2}]"
LOGITS = "fusion.combine=mean_logit"
DRAWS = "teachers.given.labels={codec: topk, k: 2, temperatures: [2.0], tail_samples: 2}"
ALONE = "teachers=[{name: given, model: 'models:Deep', weights: deep.safetensors}]"
SPARSE = "objective=[{term: sparse_kl, temperature: 2}]"
SAMPLED_TAIL = "objective=[{term: sparse_kl, tail: sampled}]"


def spec_of(*overrides: str) -> JobSpec:
    return parse_spec(SPEC.format(folder="."), "job.yaml", overrides)


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ((TOP_K,), "fusion.calibrate is temperature, and the `topk` labels of teacher given are exact at 1 and 2 only"),
        ((SAMPLED,), "fusion.calibrate is temperature, and the `sampled` labels of teacher given are exact at 1 only"),
        (
            (TOP_K, PLAIN, "objective=[{term: kl, temperature: 3}]"),
            "objective: a term has temperature 3, and the `topk` labels of teacher given are exact at 1 and 2",
        ),
        (
            (TOP_K, PLAIN, "objective=[{term: jsd, temperature: {schedule: linear, start: 2, end: 1}}]"),
            "objective: the temperature of term `jsd` follows a schedule, and the `topk` labels of teacher given",
        ),
        (
            (SAMPLED, PLAIN, "objective=[{term: reverse_kl}]"),
            "objective: the term `reverse_kl` needs a probability of every class, and the `sampled` labels of teacher",
        ),
        ((SAMPLED, PLAIN, LOGITS), "fusion.combine is mean_logit, which keeps only classes that every teacher finds"),
        ((TOP_K, "fusion.calibrate=vector"), "fusion.calibrate is vector, and the `topk` labels of teacher given"),
        (
            (TOP_K, PLAIN, "fusion.combine=stacking"),
            "fusion.combine is stacking, which reads the probability of every class, and the `topk` labels of teacher",
        ),
        ((SAMPLED, PLAIN, "fusion.combine=stacking"), "and the `sampled` labels of teacher given do not hold them"),
        ((SAMPLED, PLAIN, "fusion.combine=vote"), "fusion.combine is vote, which reads each teacher's likeliest class"),
        ((SAMPLED, PLAIN, "fusion.combine=dawid_skene"), "and the `sampled` labels of teacher given hold draws"),
        ((SAMPLED, PLAIN, AT_2), "objective: a term has temperature 2, and the `sampled` labels"),
        (
            (TOP_K, PLAIN, LOGITS, "objective=[{term: kl}, {term: kl, temperature: 2}]"),
            "objective: terms have temperatures 1 and 2; with the `topk` labels of teacher given expected one",
        ),
        ((TOP_K, PLAIN, LOGITS, AT_2, "fusion.when=write"), "fusion.when is write, which fuses at temperature 1"),
        ((TOP_K, PLAIN, "fusion.weighting={method: entropy}"), "fusion.weighting is `entropy`, which needs the prob"),
        ((SAMPLED, PLAIN, "fusion.weighting={method: confidence}"), "fusion.weighting is `confidence`, which needs"),
        (
            (TOP_K, PLAIN, "fusion.weighting={method: gradient, temperature: 2}"),
            "fusion.weighting.temperature is 2, and the `topk` labels of teacher given are exact at 1 and 2 only",
        ),
        ((TOP_K, PLAIN, AT_2), "fusion.combine is mean_probability, whose tempered form needs every class"),
        (
            (TOP_K, PLAIN, SPARSE),
            "the term `sparse_kl` reads labels as one teacher wrote them, and there are 3",
        ),
        ((ALONE, TOP_K, PLAIN, LOGITS, SPARSE), "fusion.combine says how teachers are fused, and no term reads them"),
        ((ALONE, TOP_K, PLAIN, "fusion.weights={given: 2}", SPARSE), "fusion.weights says how teachers are fused"),
        ((ALONE, SPARSE), "and the labels of teacher given are of codec `dense`; expected `topk`, or the term `kl`"),
        ((ALONE, SAMPLED, PLAIN, SPARSE), "and the labels of teacher given are of codec `sampled`; expected `topk`"),
        (
            (ALONE, TOP_K, PLAIN, "objective=[{term: kl}, {term: sparse_kl}]", "fusion.when=write"),
            "fusion.when is write, and the term `sparse_kl` reads",
        ),
        ((ALONE, TOP_K, PLAIN, SPARSE, "fusion.when=write"), "fusion.when says how teachers are fused, and no term"),
        (
            (ALONE, TOP_K, PLAIN, SAMPLED_TAIL),
            "objective: a term has tail: sampled, and the labels of teacher given hold no draws; expected labels.tail",
        ),
        (
            (ALONE, TOP_K, PLAIN, "objective=[{term: sparse_kl, temperature: 3}]"),
            "objective: a term has temperature 3, and the `topk` labels of teacher given are exact at 1 and 2",
        ),
    ],
)
def test_what_labels_cannot_serve_is_refused_with_the_field(overrides: tuple[str, ...], found: str) -> None:
    with pytest.raises(SpecInvalidError) as refusal:
        spec_of(*overrides)

    assert found in str(refusal.value)


@pytest.mark.parametrize(
    "overrides",
    [
        (TOP_K, PLAIN),
        (TOP_K, PLAIN, "fusion.when=write"),
        (TOP_K, PLAIN, "fusion.combine=vote"),
        (TOP_K, PLAIN, "fusion.combine=vote", AT_2, "fusion.when=write"),
        (TOP_K, PLAIN, "fusion.combine=dawid_skene", AT_2),
        (TOP_K, PLAIN, "fusion.select=greedy"),
        (SAMPLED, PLAIN, "fusion.select=greedy"),
        (HIDDEN, "fusion.combine=stacking", "fusion.calibrate=vector"),
        (TOP_K, PLAIN, LOGITS, AT_2),
        (TOP_K, PLAIN, "fusion.weighting={method: gradient}"),
        (TOP_K, PLAIN, LOGITS, AT_2, "fusion.weighting={method: gradient, temperature: 2}"),
        (TOP_K, PLAIN, "objective=[{term: kl, temperature: 2, of: given}]"),
        (HIDDEN, "fusion.weighting={method: entropy}"),
        (SAMPLED, PLAIN),
        (ALONE, TOP_K, PLAIN, SPARSE),
        (ALONE, DRAWS, PLAIN, SAMPLED_TAIL),
        (HIDDEN,),
        (HIDDEN, AT_2, "fusion.when=write"),
        (HIDDEN, "objective=[{term: kl}, {term: kl, temperature: 3}]"),
    ],
)
def test_what_they_can_is_not(overrides: tuple[str, ...]) -> None:
    assert spec_of(*overrides).teachers[-1 if ALONE in overrides else 1].labels.codec in {"topk", "sampled", "hidden"}
