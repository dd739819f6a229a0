"""The store where workers meet: it is reached from where the workers are, and on loopback from nowhere else."""

import socket

import psutil
import pytest
from torch.distributed import TCPStore

from students.rendezvous import open_store


def listening_at(port: int) -> list[str]:
    found = (it for it in psutil.Process().net_connections("tcp") if it.status == psutil.CONN_LISTEN)
    return [it.laddr.ip for it in found if it.laddr.port == port]


def test_on_loopback_it_listens_there_alone() -> None:
    port = open_store("127.0.0.1")

    assert listening_at(port) == ["127.0.0.1"]
    TCPStore("127.0.0.1", port, is_master=False).set("key", "value")
    assert TCPStore("127.0.0.1", port, is_master=False).get("key") == b"value"


def test_at_any_other_address_it_is_reached_by_that() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; says by which address others would know us
        except OSError:
            pytest.skip("this machine has no network")
        host = probe.getsockname()[0]
    if host.startswith("127."):
        pytest.skip("this machine has no address but loopback's")
    port = open_store(host)

    TCPStore(host, port, is_master=False).set("key", "value")
    assert TCPStore(host, port, is_master=False).get("key") == b"value"
