"""Ten minutes without a store, by a clock that jumps: while labels are written, or followed, and when a run ends."""

from tests.simulation import longer_outages
from tests.simulation.longer_outages import end_through_an_outage, follow_through_an_outage, label_through_a_hang
from tests.simulation.outages import NUM_SHARDS, label_through_an_outage


def test_a_labelling_outlives_an_outage_of_ten_minutes_with_no_more_in_its_hands_than_before() -> None:
    result = label_through_an_outage(600.0)

    assert (result.rows_lost, result.rows_doubled) == (0, 0)
    assert result.lasted_s > 600.0
    assert result.refused > 600.0 / 15.0
    assert result.most_shards_held <= result.shards_held_at_most < NUM_SHARDS


def test_replicas_whose_endpoint_hangs_for_ten_minutes_are_left_alone_and_one_that_hangs_itself_is_replaced() -> None:
    result = label_through_a_hang(600.0)

    assert result.attempt_s > result.stall_timeout_s
    assert result.replaced == (result.hung_shard,)
    assert result.stall_timeout_s <= result.replaced_after_s < result.stall_timeout_s + 2.0
    assert (result.rows_lost, result.rows_doubled) == (0, 0)
    assert result.lasted_s > 600.0
    assert result.most_shards_held <= result.shards_held_at_most < longer_outages.NUM_SHARDS
    assert result.broken == 0


def test_a_training_that_follows_labels_outlives_an_outage_longer_than_they_may_be_late() -> None:
    result = follow_through_an_outage(660.0)

    assert result.outage_s > result.labels_timeout_s
    assert result.lasted_s > 660.0
    assert result.rows_lost == 0
    assert result.broken == 0


def test_a_run_that_ends_in_an_outage_of_ten_minutes_is_known_to_have_ended() -> None:
    result = end_through_an_outage(600.0)

    assert result.state == "done"
    assert result.lasted_s > 600.0
    assert result.events_said > 0
    assert result.events_lost == 0
    assert result.events_written <= result.events_held_at_most
    assert result.broken == 0
