"""`kill -9` of the driver at random moments: the next run finishes, no row is doubled, the student is the same.

Each kill costs the start of a driver; `make faults` does twenty.
"""

from pathlib import Path

import pytest

from tests.fixtures.ray_head import RayHead
from tests.simulation.drivers import kill_drivers

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.timeout(900)]


def test_a_driver_killed_again_and_again_loses_nothing(tmp_path: Path, ray_head: RayHead) -> None:
    result = kill_drivers(tmp_path, ray_head.address, labelling=2, training=2, seed=20)

    assert result.kills == 4
    assert (result.commits_lost, result.shards_wrong) == (0, 0)
    assert result.rows_wasted <= result.rows_wasted_at_most
    assert result.is_same_student
