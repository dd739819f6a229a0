"""A labelling process that is killed at a random moment loses at most the shard in its hands."""

from pathlib import Path

import pytest

from tests.simulation.kills import kill_labelling


@pytest.mark.kill
def test_killed_processes_lose_no_row_double_none_and_waste_at_most_a_shard_each(tmp_path: Path) -> None:
    result = kill_labelling(tmp_path, kills=15, seed=1)

    assert result.kills == 15
    assert (result.rows_lost, result.rows_doubled) == (0, 0)
    assert result.rows_computed >= result.rows_needed
    assert result.shards_wasted_per_kill <= 1
