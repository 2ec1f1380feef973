"""Where numbers come from: versions, and one digest of many pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version

from symspec.version import __version__


def find_versions() -> dict[str, str]:
    """Versions of symspec and of what its numbers come from."""
    return {"symspec": __version__, "numpy": version("numpy"), "pytensor": version("pytensor")}


def join_hashes(hashes: Iterable[str]) -> str:
    """One digest of those of the pieces, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
