"""Arrays by name, in memory or in an open file, whose rows are read when they are asked for.

npz files may come from strangers: nothing is unpickled, and sizes are checked before anything is
allocated, here and in HDF5 files.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import FileFormatError, OptionError
from symspec.safety.file_formats import as_format_error

ALL = slice(None)
_LARGEST_ARRAY = 64 * 2**30
LARGEST_RATIO = 20  # spectra are packed 2 to 10 to 1, bombs 1000 to 1
SMALL_ARRAY = 64 * 2**20  # bytes that any file may unpack to
_CHECKED_AT_A_TIME = 2**20  # bytes, while a checksum is computed


class LoadRows(Protocol):
    """Read the rows (a slice) of the array of this name."""

    def __call__(self, name: str, rows: slice = ALL) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a reader made of a file, for warnings and for whoever asks.

    Attributes
    ----------
    layout : str
        The layout that it recognised.
    sources : mapping of str to str
        Where each array lies in the file, by its name.
    left_out : tuple of str
        What else the file holds: HDUs, columns.
    is_known : bool
        Whether it is a survey's layout, of which it is known that nothing of `left_out` is missed.
    """

    layout: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    is_known: bool = False


@dataclass(frozen=True)
class NamedArrays:
    """Arrays by name, with the star as their first axis.

    Attributes
    ----------
    names : tuple of str
    find_shape : callable
        ``find_shape(name)`` is the shape of an array, found without reading it.
    load : callable
        ``load(name, rows)`` reads the rows (a slice) of an array, ``load(name)`` all of it. Both
        functions raise a `FileFormatError` if that is not safe.
    units : mapping of str to str
        Units of arrays by name, where they are stated.
    mask_bits : tuple of int, optional
        Bits of a bitmask that mark bad pixels by the convention of the format; None: any bit.
    wavelength_medium : {"air", "vacuum"} or None
        Medium of the wavelengths, where it is stated.
    contents : Contents
    """

    names: tuple[str, ...]
    find_shape: Callable[[str], tuple[int, ...]]
    load: LoadRows
    units: Mapping[str, str] = field(default_factory=dict)
    mask_bits: tuple[int, ...] | None = None
    wavelength_medium: str | None = None
    contents: Contents = Contents()


@dataclass(frozen=True)
class LazyArray:
    """One array: its shape, and ``load(rows)``, which reads the rows (a slice) of it."""

    shape: tuple[int, ...]
    load: Callable[[slice], np.ndarray]


def hold_array(values: ArrayLike) -> LazyArray:
    """Wrap an array in memory; one without axes is loaded whole."""
    array = np.asarray(values)
    return LazyArray(array.shape, lambda rows: array[rows] if array.ndim else array)


def name_arrays(
    arrays: Mapping[str, LazyArray],
    *,
    units: Mapping[str, str] | None = None,
    mask_bits: tuple[int, ...] | None = None,
    wavelength_medium: str | None = None,
    contents: Contents | None = None,
) -> NamedArrays:
    """Join arrays from anywhere; the rest as in `NamedArrays`."""

    def find_shape(name: str) -> tuple[int, ...]:
        return arrays[name].shape

    def load(name: str, rows: slice = ALL) -> np.ndarray:
        return arrays[name].load(rows)

    return NamedArrays(
        tuple(arrays),
        find_shape,
        load,
        units or {},
        mask_bits,
        wavelength_medium,
        contents or Contents(),
    )


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[NamedArrays]:
    """Open an npz file.

    Rows of an array that `numpy.savez` stored cost the memory of those rows. One that
    `numpy.savez_compressed` packed is held whole once it was asked for, as are strings.

    Raises
    ------
    FileFormatError
        The file is truncated or damaged, now or where an array is asked for.
    """
    path = Path(path)
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
            shape = shape_of_rows(member.shape, rows)
            refuse_large(path, name, shape, member.dtype.itemsize)
            with as_format_error(path, "an npz file"):
                if shape == member.shape and (member.is_stored or not shape):
                    return _read_member(archive, name)
                return np.array(hold_rows(name)[rows])

        def find_shape(name: str) -> tuple[int, ...]:
            return find_member(name).shape

        yield NamedArrays(names, find_shape, load)


@dataclass(frozen=True)
class _Member:
    """Header of an array in an npz file, and where its values begin in its own bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]
    offset: int
    is_stored: bool


def _find_member(archive: zipfile.ZipFile, name: str, path: Path) -> _Member:
    """Read the header of a plain array that is no larger than its member."""
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
    refuse_absurd(path, name, shape, dtype.itemsize)
    info = archive.getinfo(name + ".npy")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise FileFormatError(
            f"{path}: {name!r} should hold an array of shape {shape}, got only {info.file_size}"
            " bytes: copy the file again."
        )
    return _Member(
        shape=shape,
        dtype=dtype,
        order="F" if is_fortran else "C",
        offset=offset,
        is_stored=info.compress_type == zipfile.ZIP_STORED,
    )


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name + ".npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _map_member(archive: zipfile.ZipFile, name: str, path: Path, member: _Member) -> np.ndarray:
    """Map the values of a stored array into memory, once its checksum is verified."""
    with archive.open(name + ".npy") as stream:
        while stream.read(_CHECKED_AT_A_TIME):  # raises at the end if the checksum is wrong
            pass
    start = archive.getinfo(name + ".npy").header_offset
    with path.open("rb") as file:
        # a local header has 30 bytes, then two fields whose lengths are its last four bytes
        file.seek(start + 26)
        start += 30 + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(
        path,
        dtype=member.dtype,
        mode="r",
        offset=start + member.offset,
        shape=member.shape,
        order=member.order,
    )


def check_open(path: Path, opened: Any) -> None:
    """Refuse to read from a closed file, for which `opened` is false."""
    if not opened:
        raise OptionError(
            f"{path} should be open, got a closed file: read inside the with block that opened it."
        )


def shape_of_rows(shape: tuple[int, ...], rows: slice) -> tuple[int, ...]:
    """Shape of some rows of an array of this shape."""
    return (len(range(*rows.indices(shape[0]))), *shape[1:]) if shape else ()


def refuse_absurd(
    path: Path, name: str, shape: tuple[int, ...], itemsize: int, *, held: int | None = None
) -> None:
    """Refuse a declared shape that the file cannot hold, before anything is allocated.

    Parameters
    ----------
    path : Path
    name : str
        Of the array.
    shape : tuple of int
    itemsize : int
    held : int, optional
        Bytes of the file, by default of that at `path`.
    """
    size = math.prod(shape) * itemsize
    held = path.stat().st_size if held is None else held
    if size > (limit := SMALL_ARRAY + LARGEST_RATIO * held):
        raise FileFormatError(
            f"{path}: {name!r} should fit {limit / 2**20:.0f} MiB, got a declared shape {shape} of"
            f" {size / 2**20:.0f} MiB in a file of {held} bytes: it is damaged, so copy or write it"
            " again, without compression if that is right."
        )


def refuse_large(path: Path, name: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse rows of this shape that no memory holds."""
    if (size := math.prod(shape) * itemsize) > _LARGEST_ARRAY:
        raise FileFormatError(
            f"{path}: rows of {name!r} read at a time should fit {_LARGEST_ARRAY / 2**30:.0f} GiB,"
            f" got rows of shape {shape}, {size / 2**30:.0f} GiB: read fewer stars at a time,"
            " with symspec.open_spectra."
        )
