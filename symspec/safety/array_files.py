"""Named arrays out of HDF5 and npz files that may come from strangers, whole or some rows at a time.

Nothing is unpickled, no link to another file is followed, and sizes are checked before anything is
allocated.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, OptionError
from symspec.safety.damaged_files import as_format_error
from symspec.safety.named_arrays import ALL, NamedArrays

_LARGEST_ARRAY = 64 * 2**30
_LARGEST_RATIO = 20  # spectra are packed 2 to 10 to 1, bombs 1000 to 1
_SMALL_ARRAY = 64 * 2**20  # as little as this may come out of any file
_CHECKED_AT_A_TIME = 2**20  # bytes of a member whose checksum is wanted
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_KNOWN = {b"PK\x03\x04": "npz", b"SIMPLE  =": "fits", b"\x1f\x8b": "gzip"}
_FOREIGN = {
    b"\x93NUMPY": (
        "a single array (.npy): write several by name, np.savez(path, flux=..., ivar=...)"
    ),
    b"\x80": (
        "perhaps a Python pickle, which is never opened: write the arrays with np.savez instead"
    ),
}
_EXPECTED = "an HDF5, npz, FITS or CSV file"


@contextmanager
def open_array_file(path: str | os.PathLike[str], file_format: str) -> Iterator[NamedArrays]:
    """Open an HDF5 or npz file for reading.

    Some rows of an array cost the memory of those rows, in HDF5 as in npz where the member is
    stored without compression (`numpy.savez`). A compressed member (`numpy.savez_compressed`) is
    held whole once it was asked for, as is an array of strings.

    Parameters
    ----------
    path : str or path
        The file.
    file_format : {"hdf5", "npz"}
        What `find_format` says of it.

    Yields
    ------
    NamedArrays
        Its names, and the functions that read an array.

    Raises
    ------
    FileFormatError
        When the file is truncated or damaged.
    """
    path = Path(path)
    opened = _open_hdf5(path) if file_format == "hdf5" else _open_npz(path)
    with opened as arrays:
        yield arrays


@contextmanager
def _open_hdf5(path: Path) -> Iterator[NamedArrays]:
    import h5py

    with as_format_error(path, "an HDF5 file"):
        file = h5py.File(path, "r")
    with file:
        with as_format_error(path, "an HDF5 file"):
            names = tuple(str(name) for name in file)

        def find_shape(name: str) -> tuple[int, ...]:
            with as_format_error(path, "an HDF5 file"):
                return _find_dataset(file, name, path).shape

        def load(name: str, rows: slice = ALL) -> np.ndarray:
            with as_format_error(path, "an HDF5 file"):
                dataset = _find_dataset(file, name, path)
                _refuse_large(
                    path, name, _shape_of_rows(dataset.shape, rows), dataset.dtype.itemsize
                )
                return np.asarray(dataset[rows] if dataset.shape else dataset[()])

        yield NamedArrays(names, find_shape, load)


def _find_dataset(file: Any, name: str, path: Path) -> Any:
    """Find a dataset whose values lie in this file, are plain, and are no more than it can hold."""
    import h5py

    check_open(path, file)
    if not isinstance(link := file.get(name, getlink=True), h5py.HardLink):
        target = getattr(link, "filename", None) or getattr(link, "path", "elsewhere")
        raise FileFormatError(
            f"{path}: {name!r} should be a dataset of this file, got a link to {target}, which is "
            "not followed: copy the dataset itself into the file."
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise FileFormatError(
            f"{path}: {name!r} should be a dataset, got {dataset!r}: store an array there."
        )
    if dataset.is_virtual or dataset.external:
        raise FileFormatError(
            f"{path}: {name!r} should lie in this file, got a dataset whose values lie in other "
            "files, which are not opened: copy the values into the file."
        )
    if dataset.dtype.hasobject and h5py.check_string_dtype(dataset.dtype) is None:
        raise FileFormatError(
            f"{path}: {name!r} should be a plain array, got {dataset.dtype} of rows of varying"
            " length or references: store an array of floats."
        )
    _refuse_absurd(path, name, dataset.shape, dataset.dtype.itemsize)
    return dataset


@contextmanager
def _open_npz(path: Path) -> Iterator[NamedArrays]:
    with as_format_error(path, "an npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        names = tuple(
            name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")
        )

        @cache
        def find_member(name: str) -> _Member:
            with as_format_error(path, "an npz file"):
                return _find_member(archive, name, path)

        @cache
        def hold_rows(name: str) -> np.ndarray:
            with as_format_error(path, "an npz file"):
                member = find_member(name)
                return (
                    _map_member(archive, name, path, member)
                    if member.is_stored
                    else _read_member(archive, name)
                )

        def load(name: str, rows: slice = ALL) -> np.ndarray:
            check_open(path, archive.fp)
            member = find_member(name)
            shape = _shape_of_rows(member.shape, rows)
            _refuse_large(path, name, shape, member.dtype.itemsize)
            with as_format_error(path, "an npz file"):
                if shape == member.shape and (member.is_stored or not shape):
                    return _read_member(archive, name)
                return np.array(hold_rows(name)[rows])

        yield NamedArrays(names, lambda name: find_member(name).shape, load)


@dataclass(frozen=True)
class _Member:
    """What the header of an array in an npz file says, and where its values begin, counted from its own start."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    offset: int
    is_stored: bool


def _find_member(archive: zipfile.ZipFile, name: str, path: Path) -> _Member:
    """Read the header of an array, which has to be plain and no more than its member holds."""
    with archive.open(name + ".npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise FileFormatError(
            f"{path}: {name!r} should be a plain array, got an object array, which is a pickle and"
            " never opened: store an array of floats or of strings."
        )
    _refuse_absurd(path, name, shape, dtype.itemsize)
    info = archive.getinfo(name + ".npy")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise FileFormatError(
            f"{path}: {name!r} should hold an array of shape {shape}, got only {info.file_size}"
            " bytes: copy the file again."
        )
    return _Member(
        shape, dtype, "F" if is_fortran else "C", offset, info.compress_type == zipfile.ZIP_STORED
    )


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name + ".npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _map_member(archive: zipfile.ZipFile, name: str, path: Path, member: _Member) -> np.ndarray:
    """Map the values of a stored array into memory, once its checksum was found right."""
    with archive.open(name + ".npy") as stream:
        while stream.read(_CHECKED_AT_A_TIME):  # raises at the end where the checksum is wrong
            pass
    start = archive.getinfo(name + ".npy").header_offset
    with path.open("rb") as file:
        file.seek(
            start + 26
        )  # of the 30 bytes of a local header the last four tell the lengths of what follows
        start += 30 + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(path, member.dtype, "r", start + member.offset, member.shape, member.order)


def check_open(path: Path, opened: Any) -> None:
    """Refuse to read from a file that is closed; `opened` is false then."""
    if not opened:
        raise OptionError(
            f"{path} should be open, got a closed file: read inside the with block that opened it."
        )


def _shape_of_rows(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    return (len(range(*rows.indices(shape[0]))), *shape[1:]) if shape else ()


def _refuse_absurd(path: Path, name: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse a declared shape which the file cannot hold, before anything of that size is allocated."""
    size = math.prod(shape) * itemsize
    held = path.stat().st_size
    if size > (limit := _SMALL_ARRAY + _LARGEST_RATIO * held):
        raise FileFormatError(
            f"{path}: {name!r} should fit {limit / 2**20:.0f} MiB, got a declared shape {shape} of"
            f" {size / 2**20:.0f} MiB in a file of {held} bytes: it is damaged, so copy or write it"
            " again, without compression if that is right."
        )


def _refuse_large(path: Path, name: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse rows that no memory would hold."""
    if (size := math.prod(shape) * itemsize) > _LARGEST_ARRAY:
        raise FileFormatError(
            f"{path}: what is read of {name!r} at a time should fit {_LARGEST_ARRAY / 2**30:.0f}"
            f" GiB, got rows of shape {shape}, {size / 2**30:.0f} GiB: read fewer stars at a time,"
            " with symspec.open_spectra."
        )
