"""The loopback of this machine, over which all processes of a cluster that is started here talk."""

import socket

from cluster.findings import Finding, failure, fine

_HOST = "127.0.0.1"
_PATIENCE_S = 5.0
_GREETING = b"coffey"


def loopback_fault(host: str = _HOST) -> str:
    """Listen on a free port, connect to it and say something; return why that cannot be done, or nothing."""
    try:
        with socket.create_server((host, 0)) as server:
            server.settimeout(_PATIENCE_S)
            with socket.create_connection(server.getsockname(), timeout=_PATIENCE_S) as there:
                there.sendall(_GREETING)
                here, _ = server.accept()
                with here:
                    here.settimeout(_PATIENCE_S)
                    heard = here.recv(len(_GREETING), socket.MSG_WAITALL)
    except OSError as error:
        return f"{error}"
    return "" if heard == _GREETING else f"{heard!r} arrived in place of {_GREETING!r}"


def check_loopback(fault: str) -> Finding:
    """Judge whether processes of this machine reach each other."""
    if fault:
        fix = "Let processes listen on 127.0.0.1 and connect to it: `ip link set lo up`, the firewall, the sandbox."
        return failure("ports", f"a port of {_HOST} cannot be used: {fault}", fix)
    return fine("ports", f"a free port of {_HOST} was listened on and reached")
