"""Tables in text files: CSV and its kin, as spectrometers, spreadsheets and R write them.

One spectrum a row, with wavelengths in the headers, or one a column, with wavelengths in the first
column. Cells are separated by commas, semicolons, tabs or blanks, and numbers have decimal points
or commas. Lines before and after the table, and columns of dates and texts, are left out and named
in a warning; empty lines and lines that start with ``#`` are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from symspec.errors import FileFormatError
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.readers.tables.arrays import arrange_block
from symspec.spectra.readers.tables.blocks import find_block
from symspec.spectra.readers.tables.cells import split_text
from symspec.spectra.readers.tables.columns import TableOptions


class TextOptions(TableOptions, Protocol):
    """Options of `symspec.read_spectra` that matter to tables in text files."""

    @property
    def separator(self) -> str | None: ...
    @property
    def encoding(self) -> str: ...


@contextmanager
def open_text(path: Path, options: TextOptions) -> Iterator[NamedArrays]:
    """Read a table of spectra in a text file; it is held whole.

    Yields
    ------
    NamedArrays
        As `arrange_block`.

    Raises
    ------
    FileFormatError, DataError
        It is no such table, or may be read in several ways.
    """
    source = str(path)
    rows, separator = split_text(read_text(path, options.encoding), options.separator, source)
    block = find_block(rows, separator, options, source)
    yield arrange_block(block, options, source)


def read_text(path: Path, encoding: str) -> str:
    """Read a file of text.

    Raises
    ------
    FileFormatError
        It is none in this encoding.
    """
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    try:
        return path.read_text(encoding="utf-8-sig" if is_utf8 else encoding)
    except UnicodeError as error:
        raise FileFormatError(
            f"{path} should be a CSV table in UTF-8, got text that is none ({error}): write it"
            ' again as UTF-8, or say encoding="cp1252" if a program for Windows wrote it.'
        ) from error
