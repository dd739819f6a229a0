"""Variables of the environment by which Ray does something else than Coffey asks it to."""

from collections.abc import Iterator, Mapping

from cluster.dashboard import TokenRefusedError, cluster_token
from cluster.findings import Finding, concern, failure, fine

_MODE, _ADDRESS, _TRAIN = "RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_TRAIN_V2_ENABLED"
_PICKLES = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
_ON = {"1", "true"}  # as Ray reads it
_OWN = "starts a cluster of its own"


def check_authentication(environment: Mapping[str, str], *, address: str | None) -> Finding:
    """Judge whether a cluster that is started here keeps strangers out, and whether one at `address` lets us in."""
    check, mode = "authentication", environment.get(_MODE, "")
    if mode.lower() == "disabled":
        found = f"{_MODE}=disabled: whoever reaches a port of the job's cluster runs code there"
        return failure(check, found, f"unset {_MODE}")
    try:
        token = cluster_token("this machine", environment)
    except TokenRefusedError as error:
        return failure(check, error.reason, "Correct RAY_AUTH_TOKEN_PATH, or unset it.", exit_code=error.exit_code)
    if address is None:
        return fine(check, "a cluster that is started here asks for a token")
    if token is None:
        found = f"there is no token: {address} lets us in only if it lets in everybody"
        return concern(check, found, "Put the cluster's token into RAY_AUTH_TOKEN, or the file RAY_AUTH_TOKEN_PATH.")
    return fine(check, f"there is a token for {address}")


def check_environment(environment: Mapping[str, str], *, address: str | None) -> Finding:
    """Judge the other variables, for a job with this `cluster.address`."""
    bad = list(_misleading(environment))
    named = environment.get(_ADDRESS, "")
    if bad:
        return failure("environment", "; ".join(f"{it}: {why}" for it, why in bad), f"unset {' '.join(dict(bad))}")
    if named and address == "auto":
        return fine("environment", f"`auto` is {named}, by {_ADDRESS}")
    if named and address != named:
        found = f"{_ADDRESS}={named} is not heeded: the job " + (f"goes to {address}" if address else _OWN)
        return concern("environment", found, f"--set cluster.address=auto goes there; or unset {_ADDRESS}.")
    return fine("environment", "no variable of Ray's stands in the way")


def _misleading(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that must not be set as it is, and why."""
    if environment.get(_PICKLES) == "1":
        yield _PICKLES, "an Arrow file can run code"
    if environment.get(_TRAIN, "1").lower() not in _ON:
        yield _TRAIN, "Coffey trains by the second version of Ray Train"
