"""Python and the packages: what Coffey's own metadata requires, and what older versions let strangers do."""

import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from cluster.findings import Finding, concern, failure, fine

_OURS = "coffey"
_TESTED = "Programming Language :: Python :: "


@dataclass(frozen=True)
class Floor:
    """The first version of a package that strangers cannot use against its users."""

    least: str
    holes: str


FLOORS = {
    "ray": Floor(
        "2.55", "without a token jobs can be deleted (CVE-2026-27482), and an Arrow file can run code (CVE-2026-41486)"
    ),
    "torch": Floor("2.10", "a file of weights can run code in spite of weights_only (CVE-2026-24747)"),
    "pyarrow": Floor("14.0.1", "an Arrow file can run code (CVE-2023-47248)"),
}
"""By the name of the package."""

_NAMED = {"ray": "Ray", "torch": "torch", "pyarrow": "Arrow"}
"""Packages that have a line of their own."""


@dataclass(frozen=True)
class Requirements:
    """What Coffey requires; all empty if it is not installed, but runs from its source."""

    python: str = ""
    tested: tuple[str, ...] = ()
    """Versions of Python that it is tested with, such as 3.12."""
    packages: tuple[str, ...] = ()

    def of(self, package: str) -> SpecifierSet:
        """Return the versions of a package that will do."""
        return next((it.specifier for it in self.needed() if it.name == package), SpecifierSet())

    def needed(self) -> list[Requirement]:
        """Return what is needed on this machine; extras are for those who ask for them."""
        every = map(Requirement, self.packages)
        return [it for it in every if it.marker is None or it.marker.evaluate({"extra": ""})]


def own_requirements() -> Requirements:
    """Read what Coffey requires from where it is installed."""
    try:
        about = metadata.metadata(_OURS)
    except metadata.PackageNotFoundError:
        return Requirements()
    classifiers = (it.removeprefix(_TESTED) for it in about.get_all("Classifier") or () if it.startswith(_TESTED))
    return Requirements(
        python=about["Requires-Python"] or "",
        tested=tuple(it for it in classifiers if "." in it),
        packages=tuple(about.get_all("Requires-Dist") or ()),
    )


def installed_version(package: str) -> str | None:
    """Return the version that is installed, without importing it; None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_versions(
    required: Requirements,
    *,
    python: str = platform.python_version(),
    version_of: Callable[[str], str | None] = installed_version,
) -> tuple[Finding, ...]:
    """Compare what is installed with what is required and with what is safe."""
    others = [it for it in required.needed() if it.name not in _NAMED]
    return (
        _check_python(python, required),
        *(_check_package(package, version_of(package), required.of(package)) for package in _NAMED),
        _check_others(others, version_of),
    )


def hole_of(package: str, version: str) -> str | None:
    """Return what strangers can do by this version of a package; None if nothing is known."""
    floor = FLOORS[package]
    return None if Version(version) >= Version(floor.least) else f"before {floor.least} {floor.holes}"


def _check_python(python: str, required: Requirements) -> Finding:
    if not SpecifierSet(required.python).contains(python, prereleases=True):
        return failure("Python", f"{python}, and Coffey requires {required.python}", "Make a new environment with it.")
    minor = ".".join(python.split(".")[:2])
    if required.tested and minor not in required.tested:
        tested = f"Coffey is tested with {', '.join(required.tested)}"
        return concern("Python", f"{python}, and {tested}", "Take one of these if something fails.")
    return fine("Python", python)


def _check_package(package: str, version: str | None, wanted: SpecifierSet) -> Finding:
    check, least = _NAMED[package], wanted or f">={FLOORS[package].least}"
    fix = f"pip install -U '{package}{least}'"
    if version is None:
        return failure(check, "is not installed", fix)
    if hole := hole_of(package, version):
        return failure(check, f"{version}: {hole}", fix)
    if not wanted.contains(version, prereleases=True):
        return failure(check, f"{version}, and Coffey requires {wanted}", fix)
    return fine(check, version)


def _check_others(others: Iterable[Requirement], version_of: Callable[[str], str | None]) -> Finding:
    found = [(it, version_of(it.name)) for it in others]
    unmet = [
        (it, version)
        for it, version in found
        if version is None or not it.specifier.contains(version, prereleases=True)
    ]
    if not found:
        unknown = "not known, because Coffey is not installed here"
        return concern("packages", unknown, "pip install -e . in Coffey's source.")
    if unmet:
        told = ", ".join(f"{it.name} {version or 'is missing'} ({it.specifier})" for it, version in unmet)
        return failure("packages", told, f"pip install -U {' '.join(repr(str(it)) for it, _ in unmet)}")
    return fine("packages", f"{len(found)} others are as Coffey requires")
