"""Real S3 servers behind a network that loses answers: a writer that has won is never told that it has lost."""

import pytest

from tests.fixtures.s3_servers import S3Server
from tests.simulation.commits import LOST_SHARE, commit_through_losses

COMMITS = 100


@pytest.mark.parametrize("server", ["moto", "ceph"])
def test_lost_answers_cause_no_false_conflict(server: str, request: pytest.FixtureRequest) -> None:
    endpoint: S3Server = request.getfixturevalue(f"{server}_endpoint")

    result = commit_through_losses(endpoint, commits=COMMITS, seed=1)

    assert (result.commits, result.missing) == (COMMITS, 0)
    assert (result.false_conflicts, result.wrong_acknowledgements) == (0, 0)
    assert result.answers_lost > COMMITS * LOST_SHARE
