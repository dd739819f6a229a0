"""Ten minutes without a store, by a clock that jumps, in the middle of labelling."""

from tests.simulation.outages import NUM_SHARDS, label_through_an_outage


def test_a_labelling_outlives_an_outage_of_ten_minutes_with_no_more_in_its_hands_than_before() -> None:
    result = label_through_an_outage(600.0)

    assert (result.rows_lost, result.rows_doubled) == (0, 0)
    assert result.lasted_s > 600.0
    assert result.refused > 600.0 / 15.0
    assert result.most_shards_held <= result.shards_held_at_most < NUM_SHARDS
