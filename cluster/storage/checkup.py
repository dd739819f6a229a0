"""A checkup: every promise of a store that Coffey builds on is tried, and what is broken comes with its remedy."""

import time
from collections.abc import Callable
from contextlib import suppress

from cluster.errors import CoffeyError
from cluster.findings import Finding, concern, failure, fine
from cluster.storage.checks import CHECKS, BrokenPromiseError, Check, Patient
from cluster.storage.protocol import ObjectStore, StoreDeniedError


def check_up(store: ObjectStore, *, now_s: Callable[[], float] = time.time) -> tuple[Finding, ...]:
    """Try everything, and remove what that left in the store. Raises nothing that a store does: that is a finding."""
    patient = Patient(store, now_s)
    findings, causes = list[Finding](), dict[str, str]()  # why a check tells nothing, or failed: by the check's name
    try:
        for check in CHECKS:
            cause = next((causes[need] for need in check.needs if need in causes), None)
            finding = _tried(check, patient) if cause is None else _not_tried(check, cause)
            if cause or finding.verdict == "FAIL":
                causes[check.name] = cause or check.name
            findings.append(finding)
    finally:
        with suppress(CoffeyError):  # if it refuses that, a check has said so
            patient.clean_up()
    return tuple(findings)


def _tried(check: Check, patient: Patient) -> Finding:
    try:
        result = check.look(patient)
    except BrokenPromiseError as error:
        found, code = error.found, error.exit_code
    except StoreDeniedError as error:
        found, code = f"refused: {error.reason}", error.exit_code
    except CoffeyError as error:
        found, code = str(error), error.exit_code
    else:
        if isinstance(result, str):
            return fine(check.name, result)
        return concern(check.name, result.found, check.fix)
    return failure(check.name, found, check.fix, exit_code=code)


def _not_tried(check: Check, cause: str) -> Finding:
    return concern(check.name, f"not tried, because `{cause}` fails", f"Mend `{cause}`.")
