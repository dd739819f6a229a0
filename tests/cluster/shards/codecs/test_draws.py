"""Random numbers of a row: the same for ever, and other ones for every other row, shard and label set."""

import numpy as np
from scipy.stats import kstest

from cluster.shards.codecs.draws import draws_of

LABELS = "00000000deadbeef"


def test_the_numbers_of_a_shard_never_change() -> None:
    assert draws_of(LABELS, 3, (1, 4)).tolist() == [
        [0.7280053833194504, 0.330366197406213, 0.3468342431432565, 0.6384320552465372]
    ]


def test_label_sets_and_shards_have_numbers_of_their_own() -> None:
    drawn = [draws_of(labels, number, (50, 2)) for labels in (LABELS, "f" * 16) for number in (0, 1)]

    assert len(np.unique(np.concatenate(drawn))) == 4 * 100
    assert all(array.shape == (50, 2) and (array >= 0).all() and (array < 1).all() for array in drawn)


def test_the_numbers_are_uniform() -> None:
    assert kstest(draws_of(LABELS, 0, (20_000,)), "uniform").pvalue > 0.01


def test_a_codec_without_draws_gets_none() -> None:
    assert draws_of(LABELS, 0, (7, 0)).shape == (7, 0)
