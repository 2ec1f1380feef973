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
from dataclasses import dataclass, fields
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
from symspec.spectra.readers.fits.file import FITS_START, GZIP_START
from symspec.spectra.readers.layouts.recognise import open_fits
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.readers.tables.excel import is_excel, open_excel
from symspec.spectra.readers.tables.jcamp import JCAMP_STARTS, open_jcamp
from symspec.spectra.readers.tables.text import open_text


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
    recognise : callable, optional
        ``recognise(start)`` in place of `starts`, which says whether a file with these first bytes
        is of the format.
    options : tuple of str
        Options of `symspec.read_spectra` that apply to some formats alone, this among them.
    """

    name: str
    starts: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    open: Callable[[Path, ReadOptions], AbstractContextManager[NamedArrays]]
    offsets: tuple[int, ...] = (0,)
    recognise: Callable[[bytes], bool] | None = None
    options: tuple[str, ...] = ()

    def recognises(self, start: bytes) -> bool:
        """Whether a file with these first bytes is of this format."""
        if self.recognise is not None:
            return self.recognise(start)
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
    # before npz, which is a zip file, too
    Format(
        name="Excel",
        starts=(),
        recognise=is_excel,
        suffixes=(".xlsx", ".xls"),
        open=open_excel,
        options=("sheet", "decimal", "orientation"),
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
        options=("hdu", "arm"),
    ),
    Format(
        name="JCAMP-DX",
        starts=JCAMP_STARTS,
        suffixes=(".dx", ".jdx", ".jcamp"),
        open=open_jcamp,
    ),
    # any text that the others do not recognise
    Format(
        name="CSV",
        starts=(),
        suffixes=(".csv",),
        open=open_text,
        options=("separator", "encoding", "decimal", "orientation"),
    ),
)
_DEFAULTS = {one.name: one.default for one in fields(ReadOptions)}
FORMAT_NAMES = " or ".join([", ".join(one.name for one in FORMATS[:-1]), FORMATS[-1].name])
SUFFIXES = tuple(suffix for one in FORMATS for suffix in one.suffixes)
# of text files that may be spectra, or anything: they count in folders without any of the others
TEXT_SUFFIXES = (".txt", ".dpt", ".asc", ".tsv", ".dat", ".prn")


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
        An option is given that does not apply to this format.
    """
    found = find_format(path)
    for name in dict.fromkeys(name for one in FORMATS for name in one.options):
        value = getattr(options, name)
        if value != _DEFAULTS[name] and name not in found.options:
            right = " or ".join(one.name for one in FORMATS if name in one.options)
            raise OptionError(
                f"{name}={value!r} should go with {'an' if right[0] == 'E' else 'a'} {right} file,"
                f" got {found.name}: leave {name} out."
            )
    return found.open(path, options)
