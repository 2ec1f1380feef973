"""The formats of files of spectra.

A format is one function, ``open(path, options)``, which gives a context manager of `NamedArrays`:
flux, wavelengths, uncertainty, mask, ids and labels under the names of `symspec.spectra.names`.
A new format is a module with such a function, and a row of `FORMATS`. Errors, the folders of
spectra and the help of the command line take names and suffixes from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from symspec.errors import FileFormatError, OptionError
from symspec.safety.file_formats import (
    HDF5_OFFSETS,
    HDF5_START,
    NPZ_START,
    describe_start,
    is_text,
    read_start,
)
from symspec.safety.hdf5_files import open_hdf5
from symspec.safety.named_arrays import NamedArrays, open_npz
from symspec.spectra.readers.csv import open_csv
from symspec.spectra.readers.fits.file import FITS_START, GZIP_START
from symspec.spectra.readers.layouts.recognise import open_fits
from symspec.spectra.readers.options import ReadOptions


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format of files of spectra.

    Attributes
    ----------
    name : str
        For errors and help.
    starts : tuple of bytes
        First bytes of such files; empty for plain text, which has no signature.
    suffixes : tuple of str
        Suffixes of such files, for folders; a single file is known by its first bytes alone.
    open : callable
        ``open(path, options)`` gives a context manager of `NamedArrays`.
    offsets : tuple of int
        Positions at which `starts` may stand.
    has_hdus : bool
        Whether the options `hdu` and `arm` apply.
    """

    name: str
    starts: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    open: Callable[[Path, ReadOptions], AbstractContextManager[NamedArrays]]
    offsets: tuple[int, ...] = (0,)
    has_hdus: bool = False

    def recognises(self, start: bytes) -> bool:
        """Whether a file with these first bytes is of this format."""
        if not self.starts:
            return is_text(start)
        return any(start[offset:].startswith(self.starts) for offset in self.offsets)


FORMATS = (
    Format(
        name="HDF5",
        starts=(HDF5_START,),
        offsets=HDF5_OFFSETS,
        suffixes=(".h5", ".hdf5"),
        open=lambda path, options: open_hdf5(path),
    ),
    Format(
        name="npz",
        starts=(NPZ_START,),
        suffixes=(".npz",),
        open=lambda path, options: open_npz(path),
    ),
    Format(
        name="FITS",
        starts=(FITS_START, GZIP_START),
        suffixes=(".fits", ".fits.gz", ".fit", ".fit.gz"),
        open=open_fits,
        has_hdus=True,
    ),
    # any text that the others do not recognise
    Format(name="CSV", starts=(), suffixes=(".csv",), open=open_csv),
)
FORMAT_NAMES = " or ".join([", ".join(one.name for one in FORMATS[:-1]), FORMATS[-1].name])
SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)


def find_format(path: str | os.PathLike[str]) -> Format:
    """Recognise the format of a file of spectra by its first bytes.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        It is no regular file, is empty, or of another format.
    """
    expected = f"an {FORMAT_NAMES} file"
    start = read_start(path, expected)
    for one in FORMATS:
        if one.recognises(start):
            return one
    raise FileFormatError(
        f"{path} should be {expected}, got {describe_start(start)}: it may be truncated, or of"
        " another format; write the arrays with np.savez(path, flux=..., ivar=...)."
    )


def open_arrays(path: Path, options: ReadOptions) -> AbstractContextManager[NamedArrays]:
    """Open a file of spectra of any format as named arrays.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `find_format`, or the file is damaged.
    OptionError
        `hdu` or `arm` is given for a file without HDUs.
    """
    found = find_format(path)
    for name in ("hdu", "arm"):
        value = getattr(options, name)
        if value is not None and not found.has_hdus:
            raise OptionError(
                f"{name}={value!r} should go with a FITS file, got {found.name}: leave {name} out."
            )
    return found.open(path, options)
