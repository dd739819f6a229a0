"""A cluster that does not come up is a failure of the machine or the cluster, with something to do about it."""

import os
import pickle
from types import SimpleNamespace

import pytest
import ray
from ray._private import ray_constants

from cluster.session import ClusterUnreachableError, ray_session


def in_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session sets for its processes ends with the test."""
    for name in ("PYTHONPATH", "RAY_AUTH_MODE", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)


@pytest.mark.parametrize("error", [Exception("timed out during startup"), TimeoutError("no node"), ValueError("bad")])
@pytest.mark.parametrize(
    ("address", "said"), [(None, "the same command again"), ("ray://nowhere:1", "Check cluster.address")]
)
def test_whatever_ray_raises_when_it_does_not_start_is_told_with_what_to_do(monkeypatch, error, address, said):
    in_an_environment_of_its_own(monkeypatch)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(error))

    with pytest.raises(ClusterUnreachableError) as raised, ray_session(address):
        pass

    assert raised.value.exit_code == 3
    assert raised.value.__cause__ is error
    assert str(error) in str(raised.value)
    assert said in str(pickle.loads(pickle.dumps(raised.value)))


def test_a_cluster_of_our_own_that_others_could_reach_is_ended_at_once(monkeypatch):
    in_an_environment_of_its_own(monkeypatch)
    ended = []
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(address_info={"node_ip_address": "192.0.2.7"}))
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))

    with pytest.raises(ClusterUnreachableError, match=r"listens on 192\.0\.2\.7, expected loopback"), ray_session(None):
        pass

    assert ended


def test_a_cluster_of_our_own_asks_for_a_token_whatever_the_environment_says(monkeypatch):
    in_an_environment_of_its_own(monkeypatch)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    modes = []

    def init(**_):
        modes.append(os.environ["RAY_AUTH_MODE"])
        raise ValueError("far enough")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterUnreachableError, match="far enough"), ray_session(None):
        pass

    assert modes == ["token"]
