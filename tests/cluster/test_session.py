"""A cluster that does not come up is a failure of the machine or the cluster, with something to do about it."""

import pickle

import pytest
import ray

from cluster.session import ClusterUnreachableError, ray_session


@pytest.mark.parametrize("error", [Exception("timed out during startup"), TimeoutError("no node"), ValueError("bad")])
@pytest.mark.parametrize(
    ("address", "said"), [(None, "the same command again"), ("ray://nowhere:1", "Check cluster.address")]
)
def test_whatever_ray_raises_when_it_does_not_start_is_told_with_what_to_do(monkeypatch, error, address, said):
    monkeypatch.setenv("PYTHONPATH", "")  # a session sets it for its workers
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(error))

    with pytest.raises(ClusterUnreachableError) as raised, ray_session(address):
        pass

    assert raised.value.exit_code == 3
    assert raised.value.__cause__ is error
    assert str(error) in str(raised.value)
    assert said in str(pickle.loads(pickle.dumps(raised.value)))
