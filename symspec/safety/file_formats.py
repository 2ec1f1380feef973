"""Formats of files are recognised by their first bytes, never by their names.

Whatever a library raises on a damaged file becomes one error, with the file's path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symspec.errors import FileFormatError, SymspecError

HDF5_START = b"\x89HDF\r\n\x1a\n"
HDF5_OFFSETS = (0, 512, 1024, 2048)  # HDF5 allows a foreign block before its signature
NPZ_START = b"PK\x03\x04"
_FOREIGN = {
    NPZ_START: "a zip file, as .npz, .keras and .pt are",
    b"\x93NUMPY": "a single array (.npy)",
    b"\x80": "perhaps a Python pickle, which is never opened",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
    b"\n\n\xfe\xfe": "a binary file of Bruker's OPUS: export it as text (.dpt) or JCAMP-DX",
    b"ASD": "a binary file of an ASD spectrometer: export it as text (ViewSpec Pro)",
    b"as7": "a binary file of an ASD spectrometer: export it as text (ViewSpec Pro)",
}
_SPC_VERSIONS = (b"\x4b", b"\x4c", b"\x4d")  # second byte of GRAMS's files
_N_READ = 4096


def read_start(path: str | os.PathLike[str], expected: str) -> bytes:
    """Read the first bytes of a file.

    Parameters
    ----------
    path : str or path
    expected : str
        What the file should be, with its article; used in errors.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        It is no regular file, or an empty one.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} should be a file, got nothing there: check the path and its spelling."
        )
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no regular file"
        raise FileFormatError(
            f"{path} should be {expected}, got {found}: give the path of one file."
        )
    with path.open("rb") as stream:
        start = stream.read(_N_READ)
    if not start:
        raise FileFormatError(f"{path} should be {expected}, got an empty file: copy it again.")
    return start


def is_hdf5(start: bytes) -> bool:
    """Whether HDF5's signature is among a file's first bytes, perhaps behind a foreign block."""
    return any(start[offset:].startswith(HDF5_START) for offset in HDF5_OFFSETS)


def is_text(start: bytes) -> bool:
    """Whether a file's first bytes hold no control characters but those of lines and tabs."""
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in start)


def describe_start(start: bytes) -> str:
    """Describe a file of an unexpected format by its first bytes, for an error."""
    for signature, kind in _FOREIGN.items():
        if start.startswith(signature):
            return kind
    if start[1:2] in _SPC_VERSIONS and not is_text(start):
        return "perhaps a GRAMS file (.spc): export it as JCAMP-DX or as text of two columns"
    return f"a file that starts with {start[:8]!r}"


@contextmanager
def as_format_error(
    path: str | os.PathLike[str],
    what: str,
    *,
    passing: tuple[type[Exception], ...] = (SymspecError,),
) -> Iterator[None]:
    """Turn whatever is raised while a file is read into a `FileFormatError`.

    Parameters
    ----------
    path : str or path
    what : str
        What the file should be, with its article.
    passing : tuple of type, default all errors of symspec's own
        Errors that pass as they are.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:  # a damaged file may make a library raise anything at all
        got = str(error) if isinstance(error, SymspecError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{path} should be {what} in good order, got a truncated or damaged one ({got}): copy"
            " or write it again."
        ) from error
