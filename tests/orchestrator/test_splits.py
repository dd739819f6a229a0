"""The division of rows: every row once, held-out rows in no training, and no label where nobody labelled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.shards.schema import LABEL, NO_LABEL, ROW
from orchestrator.resolution.splits import DatasetIds, dataset_ids, divide
from orchestrator.sources.arrays import Rows, SourceRows
from orchestrator.sources.errors import TooFewLabelsError
from orchestrator.sources.read import class_names, source_digests
from orchestrator.sources.spec import DataConfig
from tests.fixtures.jobs import write_sources

NUM_CLASSES = 7


def source(rows: int, test_rows: int = 5) -> SourceRows:
    """Return rows whose content is their number, so that a row can be told wherever it is."""

    def numbered(count: int, first: int) -> Rows:
        numbers = np.arange(first, first + count, dtype=np.int32)
        return Rows({"number": numbers, "pair": np.stack([numbers, -numbers], axis=1)}, numbers % NUM_CLASSES)

    return SourceRows(numbered(rows, 0), numbered(test_rows, 10**6), tuple("abcdefg"))


def config(**keys: Any) -> DataConfig:
    return DataConfig.model_validate({"read": {"source": "digits"}, **keys})


@dataclass(frozen=True)
class Case:
    """A number of rows, and a division of them that is possible."""

    rows: int
    labelled: int | None
    validation: int | float
    seed: int

    @property
    def num_labelled(self) -> int:
        return self.rows if self.labelled is None else self.labelled

    @property
    def config(self) -> DataConfig:
        return config(labelled=self.labelled, validation=self.validation, seed=self.seed)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = draw(st.integers(2, 60))
    labelled = draw(st.none() | st.integers(2, rows))
    most = (rows if labelled is None else labelled) - 1
    validation = draw(st.integers(1, most) | st.floats(0.01, 0.99))
    assume(isinstance(validation, int) or round(validation * (most + 1)) <= most)
    return Case(rows, labelled, validation, draw(st.integers(-(2**31), 2**31)))


@settings(deadline=None)
@given(cases())
def test_training_and_held_out_rows_are_disjoint_and_are_all_rows(case: Case) -> None:
    parts = divide(source(case.rows), case.config)
    train, labelled, held_out = (parts[name]["number"].tolist() for name in ("train", "labelled", "held_out"))
    assert sorted(train + held_out) == list(range(case.rows))
    assert set(labelled) <= set(train)
    assert not set(held_out) & (set(train) | set(labelled))


@settings(deadline=None)
@given(cases())
def test_labelled_counts_the_rows_whose_label_is_used_in_training_or_held_out(case: Case) -> None:
    parts = divide(source(case.rows), case.config)
    with_label = int((parts["train"][LABEL] != NO_LABEL).sum())
    held_out = len(parts["held_out"][LABEL])
    assert with_label + held_out == case.num_labelled
    assert len(parts["labelled"][LABEL]) == with_label >= 1
    expected = case.validation if isinstance(case.validation, int) else case.validation * case.num_labelled
    assert abs(held_out - max(1, expected)) <= 0.5


@settings(deadline=None)
@given(cases())
def test_every_column_of_a_row_stays_with_it_and_a_label_is_its_own_or_none(case: Case) -> None:
    for name, columns in divide(source(case.rows), case.config).items():
        numbers, labels = columns["number"], columns[LABEL]
        assert columns["pair"].tolist() == [[number, -number] for number in numbers]
        assert columns[ROW].tolist() == (numbers % 10**6).tolist()
        assert labels.dtype == columns[ROW].dtype == np.int32
        known = labels != NO_LABEL
        assert (labels[known] == numbers[known] % NUM_CLASSES).all()
        assert known.all() or name == "train"


@settings(deadline=None)
@given(cases(), st.randoms())
def test_the_labels_that_nobody_gave_change_nothing(case: Case, random: Any) -> None:
    given_source = source(case.rows)
    parts = divide(given_source, case.config)
    hidden = parts["train"][ROW][parts["train"][LABEL] == NO_LABEL]
    labels = given_source.train.labels_N.copy()
    labels[hidden] = [random.randrange(NUM_CLASSES) for _ in hidden]
    changed = SourceRows(Rows(given_source.train.columns, labels), given_source.test, given_source.classes)
    assert_same(divide(changed, case.config), parts)


def test_rows_are_shuffled_by_the_seed_alone() -> None:
    first, again, other = (divide(source(50), config(labelled=20, seed=seed)) for seed in (3, 3, 4))
    assert_same(first, again)
    for part in ("train", "labelled", "held_out"):
        assert first[part]["number"].tolist() != sorted(first[part]["number"].tolist())
        assert first[part]["number"].tolist() != other[part]["number"].tolist()


def test_labelled_rows_are_spread_over_the_training_rows() -> None:
    labels = divide(source(1000), config(labelled=500, validation=100))["train"][LABEL]
    shares = [float((part != NO_LABEL).mean()) for part in np.array_split(labels, 5)]
    assert all(abs(share - 400 / 900) < 0.15 for share in shares), shares


def test_test_rows_keep_their_order_and_their_labels() -> None:
    test = divide(source(10, test_rows=6), config(labelled=2))["test"]
    assert test["number"].tolist() == list(range(10**6, 10**6 + 6))
    assert test[LABEL].tolist() == [number % NUM_CLASSES for number in test["number"]]


def test_with_every_row_labelled_the_labelled_rows_are_the_training_rows() -> None:
    parts = divide(source(30), config())
    assert_same({"same": parts["labelled"]}, {"same": parts["train"]})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"labelled": 31}, r"data\.labelled asks for 31 rows, there are 30"),
        ({"validation": 30}, r"data\.validation asks for 30 rows, there are 29"),
        ({"labelled": 10, "validation": 10}, r"data\.validation asks for 10 rows, there are 9"),
        ({"labelled": 2, "validation": 0.9}, r"data\.validation asks for 2 rows, there are 1"),
    ],
)
def test_more_rows_than_there_are_is_refused_with_both_numbers(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TooFewLabelsError, match=message):
        divide(source(30), config(**keys))


def test_a_share_of_few_rows_still_holds_out_one() -> None:
    assert len(divide(source(30), config(labelled=3, validation=0.1))["held_out"][LABEL]) == 1


class TestIdentity:
    def test_the_parts_have_identities_of_their_own(self) -> None:
        ids = ids_of(config(labelled=100))
        assert len(set(ids.distinct())) == 4

    def test_without_unlabelled_rows_training_and_labelled_rows_are_one_data_set(self) -> None:
        ids = ids_of(config())
        assert ids.labelled == ids.train
        assert len(ids.distinct()) == 3

    @pytest.mark.parametrize(
        "keys",
        [
            {"labelled": 101},
            {"validation": 0.2},
            {"validation": 10},
            {"shard_rows": 64},
            {"compression": "lz4"},
            {"seed": 1},
            {"read": {"source": "digits", "test": 361}},
            {"classes": tuple("abcdefghij")},
        ],
    )
    def test_another_division_is_another_data_set_in_every_part(self, keys: dict[str, Any]) -> None:
        before, after = ids_of(config(labelled=100)), ids_of(config(**{"labelled": 100} | keys))
        assert not set(before.distinct()) & set(after.distinct())

    def test_another_path_is_the_same_data_set_and_another_byte_another(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("here", "there", "changed")]
        for folder in folders:
            folder.mkdir()
            write_sources(folder)
        here, there, _ = (ids_of(npz_config(folder)) for folder in folders)
        assert here == there

        for part in ("train", "test"):
            path = folders[2] / f"{part}.npz"
            whole = path.read_bytes()
            path.write_bytes(whole + b"\0")  # behind the archive's end, which no reader minds
            assert not set(ids_of(npz_config(folders[2])).distinct()) & set(here.distinct())
            path.write_bytes(whole)
        assert ids_of(npz_config(folders[2])) == here

    def test_names_that_the_spec_writes_out_are_the_same_as_those_that_follow(self) -> None:
        assert ids_of(config(classes=tuple("0123456789"))) == ids_of(config())


def npz_config(folder: Path) -> DataConfig:
    read = {"source": "npz", "train": str(folder / "train.npz"), "test": str(folder / "test.npz")}
    return DataConfig.model_validate({"read": read})


def ids_of(data: DataConfig) -> DatasetIds:
    return dataset_ids(data, classes=class_names(data), digests=source_digests(data))


def assert_same(first: dict[str, dict[str, np.ndarray]], second: dict[str, dict[str, np.ndarray]]) -> None:
    assert first.keys() == second.keys()
    for name, columns in first.items():
        assert columns.keys() == second[name].keys()
        assert all(np.array_equal(array, second[name][column]) for column, array in columns.items())
