"""What a checkup found: a verdict for everything that was looked at, and what to do about it."""

from typing import Literal

from cluster.config import Config
from cluster.errors import EnvironmentFailure

Verdict = Literal["OK", "WARN", "FAIL"]


class Finding(Config):
    """What one check found."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    """What to do; empty if all is well."""
    exit_code: int = 0
    """Of a command that finds nothing worse."""


class Checkup(Config):
    """All that was found of one thing."""

    of: str
    """What was looked at: this machine, or an address."""
    findings: tuple[Finding, ...]


def fine(check: str, found: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(check=check, verdict="OK", found=found)


def concern(check: str, found: str, fix: str) -> Finding:
    """Return the finding of something that works, and not well."""
    return Finding(check=check, verdict="WARN", found=found, fix=fix)


def failure(check: str, found: str, fix: str, *, exit_code: int = EnvironmentFailure.exit_code) -> Finding:
    """Return the finding of something without which jobs fail, or strangers get in."""
    return Finding(check=check, verdict="FAIL", found=found, fix=fix, exit_code=exit_code)
