"""Named arrays out of HDF5 and npz files that may come from strangers.

Nothing is unpickled, no link to another file is followed, and sizes are checked before anything is allocated.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, SymspecError

_LARGEST_ARRAY = 64 * 2**30
_LARGEST_RATIO = 1000  # deflate packs at most about 1030 to 1
_SMALL_ARRAY = 16 * 2**20  # as small as this needs no further check
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_FOREIGN = {
    b"SIMPLE  =": "a FITS file: read it with astropy.io.fits and give the arrays to symspec.Spectra",
    b"\x93NUMPY": "a single array (.npy): write several by name, np.savez(path, flux=..., ivar=...)",
    b"\x1f\x8b": "a gzip file: unpack it with gunzip first",
    b"\x80": "perhaps a Python pickle, which is never opened: write the arrays with np.savez instead",
}


@dataclass(frozen=True)
class ArrayFile:
    """An open file of named arrays.

    Attributes
    ----------
    names : tuple of str
        What lies at the top of the file.
    load : callable
        ``load(name)`` reads one array, raising a `FileFormatError` when it cannot be read safely.
    """

    names: tuple[str, ...]
    load: Callable[[str], np.ndarray]


def find_format(path: str | os.PathLike[str]) -> str:
    """Tell a file's format by its first bytes; its name plays no part.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    str
        ``"hdf5"``, ``"npz"`` or ``"csv"``; any text counts as CSV.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    FileFormatError
        When it is no regular file, is empty, or is of another format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} should be a file, got nothing there: check the path and its spelling.")
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no regular file"
        raise FileFormatError(f"{path} should be an HDF5, npz or CSV file, got {what}: give the path of one file.")
    with path.open("rb") as stream:
        start = stream.read(4096)
    if not start:
        raise FileFormatError(f"{path} should be an HDF5, npz or CSV file, got an empty file: copy it again.")
    # HDF5 allows a foreign block of 512, 1024, ... bytes before its own signature
    if any(start[offset:].startswith(_HDF5_MAGIC) for offset in (0, 512, 1024, 2048)):
        return "hdf5"
    if start.startswith(b"PK\x03\x04"):
        return "npz"
    foreign = next((words for magic, words in _FOREIGN.items() if start.startswith(magic)), None)
    if foreign is None and not any(byte < 32 and byte not in b"\t\n\r\f" for byte in start):
        return "csv"
    what = foreign or f"a file that starts with {start[:8]!r}: it may be truncated, or of another format"
    raise FileFormatError(f"{path} should be an HDF5, npz or CSV file, got {what}.")


@contextmanager
def open_array_file(path: str | os.PathLike[str], file_format: str) -> Iterator[ArrayFile]:
    """Open an HDF5 or npz file for reading.

    Parameters
    ----------
    path : str or path
        The file.
    file_format : {"hdf5", "npz"}
        What `find_format` says of it.

    Yields
    ------
    ArrayFile
        Its names, and the function that reads an array.

    Raises
    ------
    FileFormatError
        When the file is truncated or damaged.
    """
    path = Path(path)
    opened = _open_hdf5(path) if file_format == "hdf5" else _open_npz(path)
    with opened as array_file:
        yield array_file


@contextmanager
def _open_hdf5(path: Path) -> Iterator[ArrayFile]:
    import h5py

    with _as_format_error(path, "an HDF5 file"):
        file = h5py.File(path, "r")
    with file:
        with _as_format_error(path, "an HDF5 file"):
            names = tuple(str(name) for name in file)
        yield ArrayFile(names, lambda name: _load_hdf5(file, name, path))


def _load_hdf5(file: Any, name: str, path: Path) -> np.ndarray:
    import h5py

    with _as_format_error(path, "an HDF5 file"):
        if not isinstance(link := file.get(name, getlink=True), h5py.HardLink):
            target = getattr(link, "filename", None) or getattr(link, "path", "elsewhere")
            raise FileFormatError(
                f"{path}: {name!r} should be a dataset of this file, got a link to {target}, which is "
                "not followed: copy the dataset itself into the file."
            )
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise FileFormatError(f"{path}: {name!r} should be a dataset, got {dataset!r}: store an array there.")
        if dataset.is_virtual or dataset.external:
            raise FileFormatError(
                f"{path}: {name!r} should lie in this file, got a dataset whose values lie in other "
                "files, which are not opened: copy the values into the file."
            )
        if dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None:
            raise FileFormatError(
                f"{path}: {name!r} should be a plain array, got {dataset.dtype} of rows of varying length or "
                "references: store an array of floats."
            )
        _refuse_absurd(path, name, dataset.shape, dataset.dtype.itemsize)
        return np.asarray(dataset[()])


@contextmanager
def _open_npz(path: Path) -> Iterator[ArrayFile]:
    with _as_format_error(path, "an npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        names = tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
        yield ArrayFile(names, lambda name: _load_npy(archive, name, path))


def _load_npy(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    member = name + ".npy"
    with _as_format_error(path, "an npz file"):
        with archive.open(member) as stream:
            shape, dtype = _read_npy_header(stream)
        if dtype.hasobject:
            raise FileFormatError(
                f"{path}: {name!r} should be a plain array, got an object array, which is a pickle and never "
                "opened: store an array of floats or of strings."
            )
        _refuse_absurd(path, name, shape, dtype.itemsize)
        held = archive.getinfo(member).file_size
        if math.prod(shape) * dtype.itemsize > held:
            raise FileFormatError(
                f"{path}: {name!r} should hold an array of shape {shape}, got only {held} bytes: copy the file again."
            )
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _refuse_absurd(path: Path, name: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse a declared shape which the file cannot hold, before anything of that size is allocated."""
    size = math.prod(shape) * itemsize
    limit = min(_LARGEST_ARRAY, max(_SMALL_ARRAY, _LARGEST_RATIO * path.stat().st_size))
    if size > limit:
        raise FileFormatError(
            f"{path}: {name!r} should fit {limit / 2**20:.0f} MiB, got a declared shape {shape} of "
            f"{size / 2**20:.0f} MiB in a file of {path.stat().st_size} bytes: it is damaged or too large; "
            "split it into several files."
        )


@contextmanager
def _as_format_error(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except SymspecError:
        raise
    # a damaged file may make the libraries below raise anything at all
    except Exception as error:
        raise FileFormatError(
            f"{path} should be {what} in good order, got a truncated or damaged one "
            f"({type(error).__name__}: {error}): copy or write it again."
        ) from error
