"""Whether the spectra are rows or columns of a table, as far as the table itself tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.spectra.names import NamedByCaller, is_same_name
from symspec.spectra.readers.tables.cells import Row
from symspec.spectra.readers.tables.headers import (
    counts,
    find_grid_unit,
    find_likely_pixels,
    is_monotonic,
)
from symspec.spectra.readers.tables.numerals import Decimal, is_number, parse_number
from symspec.spectra.spectral_axis import rises_like_wavelengths

ROWS = "rows"
COLUMNS = "columns"
ORIENTATIONS = (ROWS, COLUMNS)


class BlockOptions(Protocol):
    """Options of `symspec.read_spectra` that say how a table lies in its file."""

    @property
    def decimal(self) -> Decimal | None: ...
    @property
    def orientation(self) -> str | None: ...
    @property
    def label_names(self) -> Sequence[str] | None: ...
    @property
    def named(self) -> NamedByCaller: ...


def find_orientation(
    table: Sequence[Row], options: BlockOptions, decimal: Decimal, source: str
) -> str:
    """Whether the spectra are "rows" or "columns" of a table.

    Raises
    ------
    DataError
        They may be either.
    """
    if options.orientation is not None:
        return options.orientation
    if options.named.wavelength is not None:
        return COLUMNS
    n_header = count_headers(table, options, source)
    below = table[n_header:]
    column = _parse_column(below, 0, decimal)
    if n_header == 0:
        return _judge_numbers(table, column, decimal, source)
    are_grids = [find_grid_unit(row.cells[0], source)[0] for row in table[:n_header]]
    if below and any(are_grids[1:]):  # below rows of labels
        return COLUMNS
    return _judge_headers(table, below, column, are_grids[0], source)


def _judge_headers(
    table: Sequence[Row], below: Sequence[Row], column: np.ndarray, is_grid: bool, source: str
) -> str:
    """How a table with headers lies: by those of pixels, and by what stands below the first one."""
    pixels = find_likely_pixels(table[0].cells)
    if is_grid:  # one number beside it is the name of a spectrum
        pixels = [kind for kind in pixels if len(kind.columns) > 1]
    if not pixels:
        return COLUMNS if below and (is_grid or rises_like_wavelengths(column)) else ROWS
    if not is_monotonic(column):
        return ROWS
    header_counts = any(kind.only_count for kind in pixels)
    if is_grid:
        column_counts = counts([row.cells[0] for row in below])
        if header_counts == column_counts:
            raise _either_way(source)
        return COLUMNS if header_counts else ROWS
    if header_counts and rises_like_wavelengths(column):
        raise _either_way(source)
    return ROWS


def count_headers(table: Sequence[Row], options: BlockOptions, source: str) -> int:
    """Rows above the first pixel, if each row is one: from there on all wavelengths are numbers."""
    column = find_grid_column(table, options, source)
    texts = [i for i, row in enumerate(table) if not is_number(row.cells[column])]
    return texts[-1] + 1 if texts else 0


def find_grid_column(table: Sequence[Row], options: BlockOptions, source: str) -> int:
    """The column that holds the wavelengths, if each row is a pixel: the first, or that asked for.

    Raises
    ------
    FileFormatError
        There is no column of the name that the caller gives.
    """
    wanted = options.named.wavelength
    if wanted is None:
        return 0
    for row in table:
        for i, cell in enumerate(row.cells):
            if is_same_name(cell, wanted):
                return i
    raise FileFormatError(
        f"{source} should have a column {wanted!r}, got {', '.join(table[0].cells[:20])}: correct"
        " wavelength=."
    )


def _judge_numbers(table: Sequence[Row], column: np.ndarray, decimal: Decimal, source: str) -> str:
    """How a table without texts lies: by where wavelengths are, or the numbers of pixels."""
    cells = table[0].cells
    if not all(map(is_number, cells)):
        return ROWS
    row = np.array([parse_number(cell, decimal) for cell in cells])
    if np.array_equal(row, np.arange(row.size)):
        return ROWS
    is_row = rises_like_wavelengths(row)
    is_column = rises_like_wavelengths(column)
    if is_row != is_column:
        return ROWS if is_row else COLUMNS
    if is_row:
        raise _either_way(source)
    if not (is_monotonic(row) and is_monotonic(column)) or column.size < 3 <= row.size:
        return ROWS
    if row.size < 3 <= column.size:
        return COLUMNS
    raise _either_way(source)


def _either_way(source: str) -> DataError:
    return DataError(
        f"{source} may hold one spectrum a row, with wavelengths in the first row, or one a column,"
        ' with wavelengths in the first column: say orientation="rows" or orientation="columns".'
    )


def _parse_column(rows: Sequence[Row], column: int, decimal: Decimal) -> np.ndarray:
    """Numbers of a column, NaN where there is none."""
    numbers = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        try:
            numbers[i] = parse_number(row.cells[column], decimal)
        except ValueError:
            continue
    return numbers
