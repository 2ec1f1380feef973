"""Versions of symspec and of what its numbers come from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from symspec.version import __version__


def find_versions() -> dict[str, str]:
    """Versions of symspec and of what its numbers come from."""
    return {"symspec": __version__, "numpy": version("numpy"), "pytensor": version("pytensor")}


def find_own_versions() -> dict[str, str]:
    """Those of `find_versions`, and Python's, whose functions other versions cannot be sent."""
    return {**find_versions(), "python": platform.python_version().rpartition(".")[0]}


def describe_difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """In words, what has another version there; empty if nothing has."""
    return ", ".join(
        f"{name} {there.get(name, 'missing')} where {number} is expected"
        for name, number in here.items()
        if there.get(name) != number
    )
