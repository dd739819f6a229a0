"""Nodes end without a word in the middle of labelling and of training, and others join: no row is lost, none differs.

In a cluster of several simulated nodes, which a process of its own starts and ends; `make chaos` loses twenty.
"""

from pathlib import Path

import pytest

from tests.simulation.nodes import kill_nodes

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.timeout(600)]


def test_a_job_outlives_the_nodes_on_which_it_labels_and_trains(tmp_path: Path) -> None:
    result = kill_nodes(tmp_path, labelling=1, training=1, seed=1)

    labelling, training = result.labelling, result.training
    assert labelling is not None
    assert training is not None
    assert (labelling.kills, training.kills) == (1, 1)
    assert (labelling.rows_lost, labelling.rows_doubled, labelling.shards_set_aside) == (0, 0, 0)
    assert training.is_same_student
    assert result.broken == 0
