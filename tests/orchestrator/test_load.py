"""Reading specs: what is right comes through unchanged, and what is wrong is found, placed and explained."""

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from cluster.errors import SpecError
from orchestrator.load import MAX_SPEC_BYTES, dump_spec, load_spec, parse_spec
from orchestrator.spec import JobSpec
from orchestrator.specfile.errors import Problem, SpecInvalidError, SpecUnreadableError
from orchestrator.specfile.overrides import written as written_override
from orchestrator.specfile.schema import nearest
from orchestrator.specfile.tree import MAX_ALIASES, MAX_DEPTH, MAX_NODES

OPTIMIZER = {
    "name": "sgd",
    "lr": 0.1,
    "weight_decay": 0.01,
    "momentum": 0.8,
    "schedule": "linear",
    "warmup": 0.1,
    "clip_norm": 1.0,
}
INPUTS = {"column": "image", "scale": 0.5, "mean": 0.1, "std": 0.3, "shape": [1, 8, 8]}

# Every key of every model appears here at least once, except that of the codec `sampled` and of other weightings.
FULL: dict[str, Any] = {
    "name": "full",
    "store": "./store",
    "data": {
        "read": {
            "source": "idx",
            "train": {"images": "train-images", "labels": "train-labels"},
            "test": {"images": "test-images", "labels": "test-labels"},
        },
        "classes": ["no", "yes"],
        "revision": "second",
        "max_bad_fraction": 0.01,
        "in_memory_bytes": 1024,
        "labelled": 100,
        "validation": 0.2,
        "shard_rows": 64,
        "compression": "lz4",
        "seed": 1,
        "views": {
            "count": 2,
            "plain_first": True,
            "augment": [
                {"kind": "crop", "padding": 2},
                {"kind": "flip", "share": 0.25},
                {"kind": "zoom", "least": 0.5},
                {"kind": "rotate", "degrees": 5.0},
                {"kind": "noise", "std": 4.0},
            ],
            "seed": 3,
            "column": "image",
            "channels": "last",
        },
    },
    "teachers": [
        {
            "name": "wide",
            "model": "models:Wide",
            "arguments": {"width": 3},
            "fit": {"epochs": 3, "batch_size": 16, "optimizer": OPTIMIZER, "label_smoothing": 0.1, "seed": 2},
            "inputs": INPUTS,
            "classes": ["no", "yes"],
            "taps": {"layer.2": {"pool": 2, "project": 8, "values": "int8"}},
            "batch_size": 32,
            "replicas": {"min": 1, "max": 2},
            "resources": {"cpu": 0.5, "gpu": 0.5},
            "stall_timeout_s": 10.0,
        },
        {
            "name": "deep",
            "model": "models:Deep",
            "weights": "deep.safetensors",
            "labels": {"codec": "topk", "k": 2, "values": "int8", "temperatures": [2.0], "tail_samples": 0},
        },
        {
            "name": "inner",
            "model": "models:Deep",
            "weights": "deep.safetensors",
            "labels": {"codec": "hidden", "head": "last", "width": 8},
        },
    ],
    "fusion": {
        "combine": "mean_logit",
        "weights": {"wide": 2.0},
        "weighting": {"method": "gradient", "cap": 0.5, "temperature": 1.0},
        "select": "all",
        "select_by": "accuracy",
        "calibrate": False,
        "when": "read",
    },
    "student": {"name": "small", "model": "models:Small", "arguments": {"width": 1}, "inputs": INPUTS},
    "objective": [
        {"term": "kl", "temperature": 1.0, "weight": 0.5, "of": "inner"},
        {
            "term": "cross_entropy",
            "weight": {"schedule": "cosine", "start": 4.0, "end": 1.0, "begin": 0.1, "finish": 0.9},
            "label_smoothing": 0.1,
        },
        {"term": "adaptive_kl", "weight": 0.1, "temperature": 1.0, "mu": 0.4},
        {"term": "dist", "weight": 0.1, "temperature": 1.0, "beta": 0.5, "gamma": 0.5},
        {"term": "dkd", "weight": 0.1, "temperature": 1.0, "alpha": 0.5, "beta": 0.5},
        {"term": "mse", "weight": 0.1, "centred": False},
        {"term": "restricted_kl", "weight": 0.1, "temperature": 1.0, "trust": "all", "of": "wide"},
        {"term": "skew_kl", "weight": 0.1, "temperature": 1.0, "alpha": 0.5, "reverse": True},
        {"term": "taid", "weight": 0.1, "temperature": 1.0, "start": 0.5, "alpha": 0.1, "beta": 0.5},
        {"term": "teacher_free", "weight": 0.1, "temperature": 2.0, "correct": 0.9},
        {"term": "attention", "weight": 0.1, "student": "a", "teacher": "wide:a", "variant": "code"},
        {
            "term": "fsp",
            "weight": 0.1,
            "student": "a",
            "student_end": "b",
            "teacher": "wide:a",
            "teacher_end": "wide:b",
        },
        {"term": "srrl", "weight": 0.1, "student": "pool", "teacher": "wide:pool", "head": "wide:fc"},
        {"term": "vid", "weight": 0.1, "student": "a", "teacher": "wide:a", "first_variance": 1.0},
        {"term": "cc", "weight": 0.1, "student": "a", "teacher": "wide:a", "gamma": 0.5, "order": 3},
        {
            "term": "crd",
            "weight": 0.1,
            "student": "a",
            "teacher": "wide:a",
            "width": 64,
            "negatives": 100,
            "temperature": 0.1,
            "momentum": 0.9,
        },
    ],
    "cohort": {
        "method": "kdcl",
        "variant": "linear",
        "temperature": 1.0,
        "members": [{"name": "peer"}],
        "export": "fused",
        "weight": 0.5,
    },
    "train": {
        "epochs": 2,
        "batch_size": 64,
        "workers": 2,
        "cpus_per_worker": 0.5,
        "gpus_per_worker": 0.5,
        "nodes": {"custom": {"licence": 1.0}, "labels": {"zone": "a"}, "accelerator": "A100"},
        "optimizer": OPTIMIZER,
        "seeds": [0, 1],
        "precision": "bfloat16",
        "accumulate": 1,
        "compile": True,
        "order": {"lanes": 4, "window_rows": 128},
        "checkpoint_every_s": 5.0,
        "max_failures": 1,
        "pipelined": "never",
    },
    "baseline": {"epochs": [1, 2], "batch_size": 16},
    "export": ["onnx"],
    "cluster": {
        "address": "auto",
        "cpus": 2.0,
        "labels_timeout_s": 5.0,
        "kubernetes": {
            "image": "registry.example/coffey:1",
            "namespace": "ml",
            "service_account": "store-reader",
            "secret": "store-keys",
            "token_secret": "ray-token",
            "gpu": "nvidia.com/gpu",
            "head_cpus": 3,
            "head": {"memory": "4Gi", "node_selector": {"disk": "ssd"}},
            "teachers": {
                "memory": "16Gi",
                "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
                ],
            },
            "students": {"memory": "2Gi"},
            "volume": {"claim": "shared", "mount_path": "/data"},
            "idle_s": 30,
            "keep_s": 60,
            "deadline_s": 3600,
            "retries": 1,
        },
        "launcher": {
            "provider": {"type": "aws", "region": "eu-north-1"},
            "auth": {"ssh_user": "ubuntu"},
            "head_node": {"InstanceType": "m5.large"},
            "teacher_node": {"InstanceType": "g5.xlarge"},
            "student_node": {"InstanceType": "g5.xlarge"},
            "image": "registry.example/coffey:1",
            "setup": ["pip install coffey"],
            "idle_minutes": 2.0,
        },
        "store_is_shared": True,
        "may_grow_to": [{"nodes": 2, "cpus": 4.0, "gpus": 1.0}],
        "start_timeout_s": 5.0,
    },
}
MINIMAL = """\
name: small
data: {read: {source: digits}}
teachers:
  - {name: wide, model: "models:Wide", fit: {epochs: 3}}
student: {model: "models:Small"}
"""


@dataclass
class Line:
    """One key of a spec, on a line of its own."""

    indent: int
    is_item: bool
    key: str
    value: str
    path: tuple[str | int, ...]

    def text(self) -> str:
        return f"{'  ' * self.indent}{'- ' if self.is_item else ''}{self.key}:{self.value}"


def lines_of(value: dict[str, Any], indent: int = 0, path: tuple[str | int, ...] = ()) -> Iterator[Line]:
    """Write a mapping as YAML in which every key has its own line: an emitter too simple to be wrong."""
    for key, item in value.items():
        here = (*path, key)
        if isinstance(item, dict):
            yield Line(indent, False, key, "", here)
            yield from lines_of(item, indent + 1, here)
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            yield Line(indent, False, key, "", here)
            for index, member in enumerate(item):
                first, *others = lines_of(member, indent + 1, (*here, index))
                yield Line(indent, True, first.key, first.value, first.path)
                yield from others
        else:
            yield Line(indent, False, key, f" {written(item)}", here)


def written(item: object) -> str:
    if isinstance(item, list):
        return f"[{', '.join(map(written, item))}]"
    return str(item).lower() if isinstance(item, bool) else f'"{item}"' if isinstance(item, str) else str(item)


def text_of(lines: Sequence[Line]) -> str:
    return "".join(f"{line.text()}\n" for line in lines)


FULL_LINES = list(lines_of(FULL))
FREE_KEYS = {"arguments", "weights", "taps", "custom", "node_selector", "provider", "auth"}
FREE_KEYS |= {"head_node", "teacher_node", "student_node"}  # whose own keys the user makes up
MODEL_KEYS = [
    index
    for index, line in enumerate(FULL_LINES)
    if len(line.path) == 1 or (line.path[-2] not in FREE_KEYS and line.path[-3:-1] != ("nodes", "labels"))
]


def slip(key: str, kind: int, rng: random.Random) -> str:
    """Return a mistyped key: letters swapped, lost, doubled or replaced, or another way of joining words."""
    place = rng.randrange(len(key))
    match kind:
        case 0 if len(key) > 1:
            place = min(place, len(key) - 2)
            return key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        case 1 if len(key) > 2:
            return key[:place] + key[place + 1 :]
        case 2:
            return key[:place] + key[place] + key[place:]
        case 3:
            return key[:place] + rng.choice("etaoin") + key[place + 1 :]
        case _ if "_" in key:
            return rng.choice([key.replace("_", "-"), key.replace("_", ""), key.title().replace("_", "")])
    return key.upper() if len(key) > 1 else key


def slips() -> Iterator[tuple[int, str]]:
    rng = random.Random(20261122)
    for index in MODEL_KEYS:
        key = FULL_LINES[index].key
        siblings = {line.key for line in FULL_LINES if line.path[:-1] == FULL_LINES[index].path[:-1]}
        for kind in rng.sample(range(5), 2):
            if (typo := slip(key, kind, rng)) not in siblings:
                yield index, typo


def problems_of(text: str, overrides: Sequence[str] = ()) -> tuple[Problem, ...]:
    with pytest.raises(SpecInvalidError) as error:
        parse_spec(text, "job.yaml", overrides)
    return error.value.problems


def only_problem(text: str, overrides: Sequence[str] = ()) -> Problem:
    problems = problems_of(text, overrides)
    assert len(problems) == 1, problems
    return problems[0]


class TestTypos:
    def test_the_full_spec_holds_every_key_of_every_model(self) -> None:
        schema = JobSpec.model_json_schema()
        known = {key for model in [schema, *schema["$defs"].values()] for key in model.get("properties", ())}
        # Drawn labels serve few other terms, as blended rows do; sparse terms read one teacher; one weighting; one
        # cohort, of one method, or generations; and members of a cohort do not teach themselves. Rows have one source.
        others = {"draws", "tail", "routes", "sees", "shared", "exchange_every", "unit", "burn_in", "mixup", "cutmix"}
        others |= {"generations", "target", "consistency", "decay", "exits", "features"}
        others |= {"label", "dataset", "dtype", "picture", "height"}
        assert {FULL_LINES[index].key for index in MODEL_KEYS} | others == known

    def test_the_full_spec_loads_as_it_is_written(self) -> None:
        assert parse_spec(text_of(FULL_LINES), "job.yaml") == JobSpec.model_validate(FULL)

    def test_a_mistyped_key_is_placed_and_the_right_one_suggested(self) -> None:
        corpus = list(slips())
        assert len(corpus) > 200
        wrong = []
        for index, typo in corpus:
            line = FULL_LINES[index]
            mistyped = [*FULL_LINES[:index], Line(**{**vars(line), "key": typo}), *FULL_LINES[index + 1 :]]
            first = problems_of(text_of(mistyped))[0]
            assert first.where == f"job.yaml:{index + 1}", (typo, first)
            assert first.key.split(".")[-1] == typo
            if first.suggestion != line.key:
                wrong.append((typo, line.key, first.suggestion))
        assert len(wrong) <= 0.05 * len(corpus), wrong

    def test_a_suggestion_is_right_even_if_every_key_of_the_model_could_be_meant(self) -> None:
        schema = JobSpec.model_json_schema()
        models = [list(model.get("properties", ())) for model in [schema, *schema["$defs"].values()]]
        rng = random.Random(7)
        corpus = [(slip(key, kind, rng), key, keys) for keys in models for key in keys for kind in range(5)]
        corpus = [(typo, key, keys) for typo, key, keys in corpus if typo not in keys]
        wrong = [(typo, key, nearest(typo, keys)) for typo, key, keys in corpus if nearest(typo, keys) != key]
        assert len(corpus) > 300
        assert len(wrong) <= 0.05 * len(corpus), wrong

    def test_one_slip_is_one_problem_although_the_key_it_meant_is_required(self) -> None:
        problem = only_problem(MINIMAL.replace("student:", "studnet:"))
        assert problem.suggestion == "student"

    def test_a_slip_in_a_key_that_chooses_a_variant_is_a_slip(self) -> None:
        assert only_problem(MINIMAL.replace("source:", "sorce:")).suggestion == "source"

    def test_a_slip_does_not_hide_what_is_wrong_below_it(self) -> None:
        problems = problems_of(MINIMAL.replace("fit: {epochs: 3}", "fitt: {epochs: 0, bach_size: 3}"))
        assert [problem.key for problem in problems] == [
            "teachers.wide.fitt",
            "teachers.wide.fit.bach_size",
            "teachers.wide.fit.epochs",
        ]

    def test_a_key_like_no_other_gets_the_list_of_valid_ones(self) -> None:
        problem = only_problem(MINIMAL.replace("source: digits", "source: digits, qqqqqqqq: 1"))
        assert problem.suggestion is None
        assert "expected one of source, test" in problem.message

    def test_a_mistyped_choice_is_corrected_too(self) -> None:
        problem = only_problem(MINIMAL.replace("digits", "digit"))
        assert (problem.key, problem.suggestion) == ("data.read.source", "digits")
        assert "'digit'" in problem.message


class TestProblems:
    def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(self) -> None:
        text = """\
name: BAD NAME
data:
  read: {source: digits}
  validation: 0
teachers:
  - name: wide
    model: nowhere
    fit:
      epochs: many
    replicas: {min: 3, max: 1}
student: {}
train: {workers: 2.5, seeds: 7, compile: maybe}
"""
        places = [(problem.where, problem.key) for problem in problems_of(text)]
        assert places == [
            ("job.yaml:1", "name"),
            ("job.yaml:4", "data.validation"),
            ("job.yaml:7", "teachers.wide.model"),
            ("job.yaml:9", "teachers.wide.fit.epochs"),
            ("job.yaml:10", "teachers.wide.replicas"),
            ("job.yaml:11", "student.model"),
            ("job.yaml:12", "train.workers"),
            ("job.yaml:12", "train.seeds"),
            ("job.yaml:12", "train.compile"),
        ]

    @pytest.mark.parametrize(
        ("value", "found", "expected"),
        [
            ("0", "found 0", "a whole number >= 1, or a mapping of min, max"),
            ("two", "found 'two'", "a whole number >= 1, or a mapping of min, max"),
            ("[1, 2]", "found [1, 2]", "a whole number >= 1, or a mapping of min, max"),
            ("", "found nothing", "a whole number >= 1, or a mapping of min, max"),
        ],
    )
    def test_a_value_of_no_variant_of_a_union_is_one_problem(self, value: str, found: str, expected: str) -> None:
        problem = only_problem(MINIMAL, [f"teachers.wide.replicas={value}"])
        assert found in problem.message
        assert expected in problem.message

    def test_a_mapping_is_judged_as_the_variant_that_is_a_mapping(self) -> None:
        problems = problems_of(MINIMAL, ["teachers.wide.replicas={min: 0, maks: 2}"])
        assert [(problem.key, problem.suggestion) for problem in problems] == [
            ("teachers.wide.replicas.maks", "max"),
            ("teachers.wide.replicas.min", None),
        ]

    def test_a_list_with_bad_items_is_not_called_too_short(self) -> None:
        assert only_problem(MINIMAL.replace('"models:Wide"', "nowhere")).key == "teachers.wide.model"

    def test_an_empty_list_is(self) -> None:
        problem = only_problem(MINIMAL, ["train.seeds=[]"])
        assert "found an empty list" in problem.message
        assert "at least 1" in problem.message

    def test_a_missing_key_is_placed_at_the_mapping_that_lacks_it(self) -> None:
        problem = only_problem(MINIMAL.replace('{model: "models:Small"}', "{name: tiny}"))
        assert (problem.where, problem.key) == ("job.yaml:5", "student.model")
        assert "missing; expected text" in problem.message

    def test_contradictions_between_keys_are_placed_too(self) -> None:
        problem = only_problem(MINIMAL + "fusion:\n  weights: {nobody: 1}\n")
        assert problem.where == "job.yaml:7"
        assert "nobody" in problem.message

    def test_infinity_is_no_number(self) -> None:
        assert "found inf" in only_problem(MINIMAL, ["train.optimizer.lr=.inf"]).message

    def test_a_hundred_mistakes_are_enough(self) -> None:
        text = MINIMAL + "".join(f"strange{number}: 1\n" for number in range(5000))
        assert len(problems_of(text)) == 100

    def test_errors_survive_another_process(self) -> None:
        with pytest.raises(SpecInvalidError) as error:
            parse_spec("nmae: x", "job.yaml")
        copy = pickle.loads(pickle.dumps(error.value))
        assert str(copy) == str(error.value)
        assert copy.problems == error.value.problems
        assert isinstance(copy, SpecError)


class TestOverrides:
    def test_an_override_beats_the_file_and_a_later_one_an_earlier(self) -> None:
        spec = parse_spec(MINIMAL, "job.yaml", ["train.epochs=5", "train.epochs=6", "store=s3://bucket/a/b"])
        assert (spec.train.epochs, spec.store) == (6, "s3://bucket/a/b")

    def test_items_of_a_list_are_meant_by_index_or_by_name(self) -> None:
        by_name = parse_spec(text_of(FULL_LINES), "job.yaml", ["teachers.deep.batch_size=7"])
        by_index = parse_spec(text_of(FULL_LINES), "job.yaml", ["teachers.1.batch_size=7"])
        assert by_name == by_index
        assert by_name.teachers[1].batch_size == 7

    def test_values_are_yaml(self) -> None:
        spec = parse_spec(MINIMAL, "job.yaml", ["baseline=null", "train.seeds=[3, 4]", "train.optimizer.lr=1e-4"])
        assert spec.baseline is None
        assert spec.train.seeds == (3, 4)
        assert spec.train.optimizer.lr == 1e-4

    def test_a_mapping_that_the_file_turns_off_comes_back(self) -> None:
        spec = parse_spec(MINIMAL + "baseline: null\n", "job.yaml", ["baseline.epochs=[1]"])
        assert spec.baseline is not None
        assert spec.baseline.epochs == (1,)

    @pytest.mark.parametrize(
        ("override", "key", "message"),
        [
            ("trian.epochs=1", "trian", "did you mean `train`?"),
            ("train.epoch=1", "train.epoch", "did you mean `epochs`?"),
            ("train.epochs=x", "train.epochs", "found 'x', expected a whole number >= 1"),
            ("teachers.nobody.batch_size=1", "teachers", "no item nobody; expected one of wide"),
            ("teachers.1.batch_size=1", "teachers", "no item 1; expected one of wide"),
            ("teachers.wide.fit.epochs.deep=1", "teachers.wide.fit.epochs", "is 3 and has no parts"),
            ("store=[", "store", "not valid YAML"),
            ("store=!!python/name:os.system", "store", "tag"),
            ("store", "", "expected key=value"),
            ("=1", "", "expected key=value"),
            ("train..epochs=1", "", "expected key=value"),
        ],
    )
    def test_a_bad_override_is_named_in_place_of_a_line(self, override: str, key: str, message: str) -> None:
        problem = only_problem(MINIMAL, [override])
        assert problem.where == f"--set {override}"
        assert problem.key == key
        assert message in problem.message

    def test_the_file_and_the_overrides_are_judged_together(self) -> None:
        problems = problems_of(MINIMAL.replace("epochs", "epoch"), ["nowhere", "train.workers=0"])
        assert [problem.where for problem in problems] == ["job.yaml:4", "--set train.workers=0", "--set nowhere"]


class TestAttacks:
    @pytest.mark.parametrize("place", ["teachers.wide", "student", "data"])
    def test_nothing_can_be_told_to_trust_code_from_elsewhere(self, place: str) -> None:
        problem = only_problem(MINIMAL, [f"{place}.trust_remote_code=true"])
        assert problem.key == f"{place}.trust_remote_code"
        assert "unknown key" in problem.message

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("a: !!python/object/apply:os.system ['true']", "tag"),
            ("a: !custom 1", "tag"),
            ("!!map {a: 1}", "tag"),
            ("%TAG ! tag:example.org,2000:\n---\na: !x 1", "tag"),
            ("name: a\nname: b", "twice, first at job.yaml:1"),
            ("a: &a [*a]", "nothing before this alias"),
            ("a: *nowhere", "nothing before this alias"),
            ("a: 1\n---\nb: 2", "second document"),
            ("%YAML 1.1\n---\na: yes", "another version"),
            ("[1, 2]", "found no mapping"),
            ("just text", "found no mapping"),
            ("", "found no mapping"),
            ("? [1, 2]\n: 3", "a key has to be text"),
            ("<<: 3", "<< merges mappings"),
            ("a: '", "not valid YAML"),
            ("a:\n\t- b", "not valid YAML"),
            ("a: \x00", "special characters"),
            ("[" * 5000, f"deeper than {MAX_DEPTH}"),
            ("{a: " * 5000, f"deeper than {MAX_DEPTH}"),
            ("a: [" + "1," * MAX_NODES + "1]", f"more than {MAX_NODES}"),
            ("a: &a 1\nb: [" + ", ".join(["*a"] * (MAX_ALIASES + 1)) + "]", f"more than {MAX_ALIASES} aliases"),
            ("a: " + "x" * MAX_SPEC_BYTES, "larger than"),
        ],
    )
    def test_what_is_no_plain_yaml_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(SpecUnreadableError) as error:
            parse_spec(text, "job.yaml")
        assert reason in str(error.value)
        assert str(error.value).startswith("job.yaml")

    def test_aliases_that_multiply_are_counted_before_they_are_expanded(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
        with pytest.raises(SpecUnreadableError, match=f"expand to more than {MAX_NODES}"):
            parse_spec("\n".join(lines), "job.yaml")

    def test_a_number_of_ten_thousand_digits_is_only_a_wrong_value(self) -> None:
        assert only_problem(MINIMAL, [f"train.epochs={'9' * 10_000}"]).key == "train.epochs"

    def test_anchors_and_merges_work_within_the_limits(self) -> None:
        text = MINIMAL.replace("fit: {epochs: 3}", "fit: &fit {epochs: 3, seed: 1}").replace(
            "student:", '  - {name: deep, model: "models:Deep", fit: {<<: *fit, seed: 2}}\nstudent:'
        )
        wide, deep = parse_spec(text, "job.yaml").teachers
        assert wide.fit is not None
        assert deep.fit is not None
        assert (wide.fit.seed, deep.fit.seed, deep.fit.epochs) == (1, 2, 3)


class TestFiles:
    def test_a_file_is_read_and_named(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text(MINIMAL)
        assert load_spec(path, ["name=other"]).name == "other"

    def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
        assert load_spec(path).name == "small"

    def test_a_missing_file_is_an_error_of_the_spec(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="no such file"):
            load_spec(tmp_path / "none.yaml")

    def test_a_directory_is_no_spec(self, tmp_path: Path) -> None:
        with pytest.raises(SpecUnreadableError, match="cannot be read"):
            load_spec(tmp_path)

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_bytes(b"name: \xff\xfe")
        with pytest.raises(SpecUnreadableError, match="not UTF-8"):
            load_spec(tmp_path / "job.yaml")

    def test_a_huge_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_bytes(b"# " + b"x" * MAX_SPEC_BYTES)
        with pytest.raises(SpecUnreadableError, match="larger than"):
            load_spec(tmp_path / "job.yaml")

    def test_loading_imports_nothing_heavy(self) -> None:
        heavy = {"torch", "ray", "pyarrow", "numpy", "boto3", "sklearn", "onnx", "onnxruntime"}
        code = (
            "import sys, orchestrator.load as load\n"
            f"load.parse_spec({MINIMAL!r}, 'job.yaml')\n"
            f"print(sorted({heavy!r} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == "[]"


TEXT = st.text(max_size=30)
FRACTION = st.floats(min_value=1e-9, max_value=0.999, allow_nan=False)
POSITIVE = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)
COUNT = st.integers(min_value=1, max_value=10**6)
NAME = st.from_regex(r"[a-z][a-z0-9_-]{0,39}", fullmatch=True)
ARGUMENT = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.lists(st.integers())
)
ARGUMENTS = st.dictionaries(TEXT, ARGUMENT, max_size=4)
CLASSES = st.lists(TEXT, min_size=2, max_size=4, unique=True)
READ = st.one_of(
    st.fixed_dictionaries({"source": st.just("digits"), "test": COUNT}),
    st.fixed_dictionaries({"source": st.just("npz"), "train": TEXT, "test": TEXT}),
)
FIT = st.fixed_dictionaries({"epochs": COUNT, "optimizer": st.fixed_dictionaries({"lr": POSITIVE, "warmup": FRACTION})})
ORIGIN = FIT.map(lambda fit: {"fit": fit}) | TEXT.map(lambda path: {"weights": f"{path}.safetensors"})


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    names = draw(
        st.lists(
            NAME.filter(lambda name: name not in {"ensemble", "baseline", "student"}),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    teachers = [{"name": name, "model": "a.b:C", "arguments": draw(ARGUMENTS), **draw(ORIGIN)} for name in names]
    return JobSpec.model_validate(
        {
            "name": draw(NAME),
            "store": draw(TEXT),
            "data": {"read": draw(READ), "classes": draw(CLASSES | st.none()), "validation": draw(COUNT | FRACTION)},
            "teachers": teachers,
            "student": {"model": "a:B", "arguments": draw(ARGUMENTS)},
            "fusion": {"weights": draw(st.dictionaries(st.sampled_from(names), POSITIVE))},
            "train": {"seeds": draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True))},
            "baseline": draw(st.none() | st.just({"epochs": [3]})),
        }
    )


PATH = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="\ufeff\ufffe\uffff"))


@settings(deadline=None)
@given(PATH | st.sampled_from(["true", "null", "1", "...", "-", "/a b", "a: b", "#x", "~"]))
def test_a_written_override_sets_exactly_the_text(text: str) -> None:
    assert parse_spec(MINIMAL, "job.yaml", [written_override("store", text)]).store == text


@settings(max_examples=150, deadline=None)
@given(specs())
def test_a_dumped_spec_loads_back_to_an_equal_one(spec: JobSpec) -> None:
    loaded = parse_spec(dump_spec(spec), "dump")
    assert loaded == spec
    assert types_in(loaded) == types_in(spec)  # True == 1 == 1.0, but they are not the same argument


def test_a_dump_of_the_full_spec_loads_back_to_an_equal_one() -> None:
    spec = JobSpec.model_validate(FULL)
    assert parse_spec(dump_spec(spec), "dump") == spec


def types_in(value: object) -> object:
    if isinstance(value, BaseModel):
        return {name: types_in(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: types_in(item) for key, item in value.items()}
    return [types_in(item) for item in value] if isinstance(value, (list, tuple)) else type(value)
