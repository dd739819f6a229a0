"""The driver is killed, or told to end, at random moments: the next ones finish, no row is doubled, nothing differs.

Each kill costs the start of a driver; `make chaos` does fifty.
"""

from pathlib import Path

import pytest

from tests.fixtures.ray_head import RayHead
from tests.simulation.drivers import kill_drivers

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.timeout(900)]


def test_drivers_that_are_killed_or_told_to_end_lose_nothing_nor_do_two_that_go_on_at_once(
    tmp_path: Path, ray_head: RayHead
) -> None:
    result = kill_drivers(tmp_path, ray_head.address, labelling=1, training=1, notices=1, seed=20)

    assert (result.kills, result.notices, result.notices_kept) == (2, 2, 2)
    assert (result.commits_lost, result.shards_wrong) == (0, 0)
    assert result.rows_wasted <= result.rows_wasted_at_most
    assert result.is_same_student
