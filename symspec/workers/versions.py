"""Versions of symspec and of what its numbers come from."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

from symspec.version import __version__


def find_versions() -> dict[str, str]:
    """Versions of symspec and of what its numbers come from."""
    return {"symspec": __version__, "numpy": version("numpy"), "pytensor": version("pytensor")}


def find_own_versions() -> dict[str, str]:
    """Those of `find_versions`, and what else processes that work together should have in common.

    Functions are not sent to another Python, and a copy of symspec may have been changed without
    another version.
    """
    python = platform.python_version().rpartition(".")[0]
    return {**find_versions(), "python": python, "code of symspec": hash_code()}


@cache
def hash_code() -> str:
    """Digest of all modules of the package."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def describe_difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """In words, what has another version there; empty if nothing has."""
    return ", ".join(
        f"{name} {there.get(name, 'missing')} where {number} is expected"
        for name, number in here.items()
        if there.get(name) != number
    )
