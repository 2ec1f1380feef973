"""The table among the lines of a file: its header, its rows, and how the spectra lie in it.

Lines before and after the table are left out, and named. A table with one spectrum a column is
turned, so that what follows sees one a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from symspec.errors import DataError, FileFormatError
from symspec.spectra.names import is_grid_name, is_pixel_name
from symspec.spectra.readers.tables.cells import Row, find_width
from symspec.spectra.readers.tables.headers import (
    counts,
    describe_perhaps,
    find_grid_unit,
    find_header_number,
    find_likely_pixels,
    is_monotonic,
    is_quantity,
)
from symspec.spectra.readers.tables.numerals import Decimal, find_decimal, is_missing, is_number
from symspec.spectra.readers.tables.orientation import (
    COLUMNS,
    BlockOptions,
    count_headers,
    find_grid_column,
    find_orientation,
)

# columns of a table of one spectrum a column, fewer may stand below lines about the instrument
_LEAST_WITH_LABELS = 4


@dataclass(frozen=True, kw_only=True)
class Block:
    """A table with one spectrum a row, or one pixel a row.

    Attributes
    ----------
    cells : list of str
        The header of each column; "" where there is none.
    rows : list of Row
    decimal : {".", ","}
    unit : str or None
        Unit of the wavelengths, if a cell beside them says it.
    quantity : str
        What the flux is, by the header of its only column.
    is_turned : bool
        Whether the spectra are columns of the file.
    is_by_pixel : bool
        Whether columns are flux, error, ... of one star, and rows its pixels.
    left_out : list of str
        Lines and columns that are no part of it.
    """

    cells: list[str]
    rows: list[Row]
    decimal: Decimal
    unit: str | None = None
    quantity: str = ""
    is_turned: bool = False
    is_by_pixel: bool = False
    left_out: list[str] = field(default_factory=list)


def find_block(rows: Sequence[Row], separator: str, options: BlockOptions, source: str) -> Block:
    """Find the table among rows of cells.

    Parameters
    ----------
    rows : sequence of Row
    separator : str
        The name of what separated them, or "" if nothing did.
    options : BlockOptions
    source : str
        Name of the file, used in errors.

    Raises
    ------
    FileFormatError
        There is none, or its rows differ in length.
    DataError
        It may be read in more than one way.
    """
    width = find_width(rows)
    full = [i for i, row in enumerate(rows) if len(row.cells) == width and _is_full(row)]
    if not full:
        raise no_header(source, rows[0].cells if rows else [])
    first = full[0]
    last = max(i for i, row in enumerate(rows) if len(row.cells) == width) + 1
    table = list(rows[first:last])
    if separator == "space":
        table = _add_names_of_rows(table, rows[:first], width)
    _refuse_odd_rows(rows[first:last], rows[last:], width, source)
    before = rows[: first - (len(table) > last - first)]
    left_out = _describe_lines(before, "before the table")
    left_out += _describe_lines(rows[last:], "after the table")
    table = _drop_empty_columns(table)
    numbers = [find_header_number(cell) or "" for cell in table[0].cells]
    cells = [cell for row in table for cell in row.cells]
    decimal = find_decimal([*numbers, *cells], options.decimal, source)
    block = Block(cells=[], rows=table, decimal=decimal, left_out=left_out)
    is_turned = find_orientation(table, options, decimal, source) == COLUMNS
    n_header = count_headers(table, options, source) if is_turned else 0
    if n_header == 0 and len(table) == last - first:
        _refuse_odd_header(table, before, separator, source)
    if not is_turned:
        return _take_header(block, source)
    if n_header == 0 and separator == "comma" and options.decimal is None:
        _refuse_glued(table, source)
    return _turn(block, n_header, options, source)


def no_header(source: str, cells: Sequence[str]) -> FileFormatError:
    """The error for a table without headers of pixels."""
    return FileFormatError(
        f"{source} should start with a row of headers separated by commas, semicolons, tabs or"
        " blanks, where those of pixel columns are wavelengths, got"
        f" {', '.join(cells[:5])[:80]!r}: write the wavelengths as headers"
        f"{describe_perhaps(cells)}."
    )


def _is_full(row: Row) -> bool:
    """Whether a row is more than a line about the table, which leaves most of its cells empty."""
    width = len(row.cells)
    return row.n_filled > (width / 2 if width > 2 else 1)


def _refuse_odd_rows(inside: Sequence[Row], after: Sequence[Row], width: int, source: str) -> None:
    odd = [row for row in inside if len(row.cells) != width]
    odd += [row for row in after if row.n_numbers]
    if odd:
        raise FileFormatError(
            f"{source}, line {odd[0].line}: should have {width} cells as the header has, got"
            f" {len(odd[0].cells)}: complete the row, or leave missing cells empty between their"
            ' separators; if some commas are those of decimals, say separator= and decimal=",".'
        )


def _refuse_odd_header(
    table: Sequence[Row], before: Sequence[Row], separator: str, source: str
) -> None:
    """Refuse a header of another length than the rows below it, which would take its place."""
    if not before:
        return
    header = before[-1]
    has_no_other = all(is_number(cell) or is_missing(cell) for cell in table[0].cells)
    is_header = header.n_filled > 2 and separator != "space" and has_no_other
    numbers = [float(cell.replace(",", ".")) for cell in header.cells if is_number(cell)]
    n_likely = max((len(kind.columns) for kind in find_likely_pixels(table[0].cells)), default=0)
    if is_header or (is_monotonic(numbers) and n_likely < 3 * len(numbers)):
        raise FileFormatError(
            f"{source}, line {table[0].line}: should have {len(header.cells)} cells as the header"
            f" in line {header.line} has, got {len(table[0].cells)}: give each column a header; if"
            ' some commas are those of decimals, say separator= and decimal=",".'
        )


def _add_names_of_rows(table: list[Row], before: Sequence[Row], width: int) -> list[Row]:
    """The table with the header of R's `write.table`, which has none for the names of rows."""
    header = before[-1] if before else None
    names = [row.cells[0] for row in table]
    are_names = counts(names) or not any(map(is_number, names))
    if (
        header is None
        or len(header.cells) != width - 1
        or header.n_filled < len(header.cells)
        or len(set(names)) < len(names)
        or not are_names
    ):
        return table
    return [replace(header, cells=["", *header.cells]), *table]


def _drop_empty_columns(table: list[Row]) -> list[Row]:
    """The table without empty columns at its end, of separators at the ends of rows."""
    width = max(i + 1 for row in table for i, cell in enumerate(row.cells) if cell)
    return [replace(row, cells=row.cells[:width]) for row in table]


def _refuse_glued(table: list[Row], source: str) -> None:
    """Refuse numbers without a decimal mark between commas, some of which may be one."""
    if len(table[0].cells) > 2 and not any("." in cell for row in table for cell in row.cells):
        raise DataError(
            f"{source} holds whole numbers between commas, some of which may be decimal commas: say"
            ' decimal="." if they are not, or write the table with another separator.'
        )


def _take_header(block: Block, source: str) -> Block:
    """Take the first row of a table with one spectrum a row as its headers."""
    header, *rows = block.rows
    named, unit = find_grid_unit(header.cells[0], source) if header.cells[0] else (False, None)
    cells = ["" if named else header.cells[0], *header.cells[1:]]
    return replace(block, cells=cells, rows=rows, unit=unit)


def _turn(block: Block, n_header: int, options: BlockOptions, source: str) -> Block:
    """Turn a table with one spectrum a column, or one of pixels of one star."""
    table = block.rows
    at = find_grid_column(table, options, source)
    headers = table[:n_header]
    left_out = list(block.left_out)
    is_asked = options.label_names is not None
    if len(table[0].cells) < _LEAST_WITH_LABELS and len(headers) > 1 and not is_asked:
        left_out += _describe_lines(headers[:-1], "before the table")
        headers = headers[-1:]
    units = [find_grid_unit(row.cells[at], source) for row in headers]
    unit = next((unit for is_grid, unit in units if is_grid and unit), None)
    block = replace(block, unit=unit, is_turned=True, left_out=left_out)
    last = headers[-1].cells if headers else [""] * len(table[0].cells)
    others = [cell for i, cell in enumerate(last) if i != at]
    if _is_by_pixel(others, options, source):
        cells = list(last)
        if not (options.named.wavelength or is_grid_name(cells[at])):
            cells[at] = "wavelength"
        if len(others) == 1 and options.named.flux is None and not is_pixel_name(others[0]):
            cells[1 - at] = "flux"
        quantity = others[0] if len(others) == 1 and is_quantity(others[0]) else ""
        return replace(
            block, cells=cells, rows=table[n_header:], is_by_pixel=True, quantity=quantity
        )
    labels = [_name_attribute(row.cells[at], source) for row in headers]
    names = labels + [row.cells[at] for row in table[n_header:]]
    kept = headers + table[n_header:]
    rows = [
        Row(i + 1, [row.cells[i] for row in kept]) for i in range(len(table[0].cells)) if i != at
    ]
    return replace(block, cells=names, rows=rows)


def _name_attribute(cell: str, source: str) -> str:
    """Header of a row above the pixels; beside the name of wavelengths stand those of spectra."""
    return "" if find_grid_unit(cell, source)[0] else cell


def _is_by_pixel(others: Sequence[str], options: BlockOptions, source: str) -> bool:
    """Whether the columns beside the wavelengths are quantities of one star, not several spectra.

    Raises
    ------
    DataError
        Some are, and nothing says which of them is the flux.
    """
    if options.named.flux is not None or len(others) == 1:
        return True
    if options.orientation == COLUMNS:
        return False
    if any(map(options.named.is_flux, others)) and all(map(is_pixel_name, others)):
        return True
    if quantities := [cell for cell in others if is_quantity(cell)]:
        raise DataError(
            f"{source} holds columns that look like quantities of one spectrum rather than samples,"
            f" {', '.join(quantities[:5])}: say which is the flux, flux={quantities[0]!r}, or"
            ' orientation="columns" if each column is a spectrum.'
        )
    return False


def _describe_lines(rows: Sequence[Row], place: str) -> list[str]:
    """Lines that are no part of the table, for a warning."""
    if not rows:
        return []
    words = re.sub(r"\s+", " ", " ".join(cell for cell in rows[0].cells if not is_missing(cell)))
    ends = f"line {rows[0].line}" if len(rows) == 1 else f"lines {rows[0].line} to {rows[-1].line}"
    return [f"{ends} {place} ({words[:30]!r}{' ...' if len(rows) > 1 or len(words) > 30 else ''})"]
