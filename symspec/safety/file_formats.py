"""What a file is, told by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from symspec.errors import FileFormatError
from symspec.safety.array_files import _EXPECTED, _FOREIGN, _HDF5_MAGIC, _KNOWN


def is_hdf5(start: bytes) -> bool:
    """Whether HDF5's signature is among a file's first bytes, perhaps behind a foreign block."""
    return any(start[offset:].startswith(_HDF5_MAGIC) for offset in (0, 512, 1024, 2048))


def find_format(path: str | os.PathLike[str]) -> str:
    """Tell a file's format by its first bytes; its name plays no part.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    str
        ``"hdf5"``, ``"npz"``, ``"fits"``, ``"gzip"`` or ``"csv"``; any text counts as CSV.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    FileFormatError
        When it is no regular file, is empty, or is of another format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} should be a file, got nothing there: check the path and its spelling."
        )
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no regular file"
        raise FileFormatError(
            f"{path} should be {_EXPECTED}, got {what}: give the path of one file."
        )
    with path.open("rb") as stream:
        start = stream.read(4096)
    if not start:
        raise FileFormatError(f"{path} should be {_EXPECTED}, got an empty file: copy it again.")
    if is_hdf5(start):
        return "hdf5"
    for magic, known in _KNOWN.items():
        if start.startswith(magic):
            return known
    foreign = next((words for magic, words in _FOREIGN.items() if start.startswith(magic)), None)
    if foreign is None and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return "csv"
    what = (
        foreign
        or f"a file that starts with {start[:8]!r}: it may be truncated, or of another format"
    )
    raise FileFormatError(f"{path} should be {_EXPECTED}, got {what}.")
