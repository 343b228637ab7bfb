"""Python and its packages against requirements.lock."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from taehv.doctor.check import Check, listed
from taehv.doctor.context import RunContext

LOCK_FILE = Path("requirements.lock")
NEEDED = ("torch", "numpy", "accelerate", "safetensors", "pyyaml", "mlflow", "dvc", "pandas", "pyarrow", "filelock")
"""Without these a training stage does not run."""
TESTED_PYTHON = ((3, 11), (3, 13))


def check_packages(context: RunContext) -> list[Check]:
    """One line about Python, one about the packages."""
    return [_check_python(), _check_versions()]


def _check_python() -> Check:
    first, last = TESTED_PYTHON
    if first <= sys.version_info[:2] <= last:
        return Check("Python", "pass", platform.python_version())
    advice = f"use Python {first[0]}.{first[1]} to {last[0]}.{last[1]}: make setup PYTHON=python{last[0]}.{last[1]}"
    return Check("Python", "warn", f"{platform.python_version()} is not tested", advice)


def _check_versions() -> Check:
    if not LOCK_FILE.is_file():
        return Check("packages", "warn", f"{LOCK_FILE} is not here: nothing to compare with", "work in a clone")
    locked, installed = dict(read_lock(LOCK_FILE)), installed_versions()
    absent = [name for name in NEEDED if name not in installed]
    if absent:
        return Check("packages", "fail", f"not installed: {', '.join(absent)}", "run: make setup")
    different = [
        f"{name} {installed[name]}, not {version}"
        for name, version in locked.items()
        if name in installed and not is_same(installed[name], version)
    ]
    if different:
        advice = "run: make setup; with other versions the same run may give other bits, or fail"
        return Check("packages", "warn", listed(different), advice)
    return Check("packages", "pass", f"{len(locked.keys() & installed.keys())} as in {LOCK_FILE}")


def read_lock(path: Path) -> Iterator[tuple[str, str]]:
    """Name and version of each package that the lock file pins for this machine."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            requirement = Requirement(line.split("#")[0].strip())
        except InvalidRequirement:
            continue  # a comment, or an option of pip
        if requirement.marker is None or requirement.marker.evaluate():
            for specifier in requirement.specifier:
                yield canonicalize_name(requirement.name), specifier.version


def installed_versions() -> dict[str, str]:
    """Every installed package; the first on the path is the one that is imported."""
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        versions.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution.version)
    return versions


def is_same(installed: str, locked: str) -> bool:
    """A build of the same version (2.14.1+cpu) counts as the same."""
    return Version(installed).public == Version(locked).public
