"""Tables of spectra in Excel files, .xlsx and .xls, read by calamine."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from symspec.errors import DataError, FileFormatError, MissingDependencyError
from symspec.safety.file_formats import NPZ_START, as_format_error
from symspec.safety.named_arrays import LARGEST_RATIO, SMALL_ARRAY, NamedArrays
from symspec.spectra.readers.tables.arrays import arrange_block
from symspec.spectra.readers.tables.blocks import find_block
from symspec.spectra.readers.tables.cells import Row
from symspec.spectra.readers.tables.columns import TableOptions

XLS_START = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# the first member of a zip file that is a workbook, which stands behind a header of 30 bytes
_MEMBERS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/")


class ExcelOptions(TableOptions, Protocol):
    """Options of `symspec.read_spectra` that matter to Excel files."""

    @property
    def sheet(self) -> str | None: ...


def is_excel(start: bytes) -> bool:
    """Whether a file with these first bytes is a workbook of Excel."""
    return start.startswith(XLS_START) or (
        start.startswith(NPZ_START) and start[30:].startswith(_MEMBERS)
    )


@contextmanager
def open_excel(path: Path, options: ExcelOptions) -> Iterator[NamedArrays]:
    """Read the table of spectra of a sheet; it is held whole.

    Yields
    ------
    NamedArrays
        As `symspec.spectra.readers.tables.arrays.arrange_block`.

    Raises
    ------
    MissingDependencyError
        The package that reads such files is not installed.
    FileFormatError, DataError
        The file is damaged, holds no such table, or several sheets of which none is said.
    """
    try:
        from python_calamine import CalamineWorkbook
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is an Excel file, which takes the package python-calamine: install it with"
            ' pip install "symspec[chemistry]", or save the sheet as CSV.'
        ) from error
    _refuse_bombs(path)
    with as_format_error(path, "an Excel file"):
        book = CalamineWorkbook.from_path(str(path))
        sheets = {
            name: _list_rows(book.get_sheet_by_name(name).to_python(skip_empty_area=False))
            for name in book.sheet_names
        }
    name = _choose({name: rows for name, rows in sheets.items() if rows}, options.sheet, path)
    block = find_block(sheets[name], "", options, f"{path}, sheet {name!r}")
    others = [f"sheet {other!r}" for other, rows in sheets.items() if rows and other != name]
    if options.sheet is None:
        block = replace(block, left_out=[*block.left_out, *others])
    yield arrange_block(block, options, str(path))


def _choose(sheets: dict[str, list[Row]], wanted: str | None, path: Path) -> str:
    """The sheet asked for, or the only one that holds anything."""
    listed = ", ".join(map(repr, sheets))
    if wanted is not None:
        if wanted not in sheets:
            raise FileFormatError(
                f"{path} should have a sheet {wanted!r} with a table, got {listed or 'none'}:"
                " correct sheet=."
            )
        return wanted
    if not sheets:
        raise FileFormatError(f"{path} should hold a table, got empty sheets alone: fill one.")
    if len(sheets) > 1:
        raise DataError(
            f"{path} holds several sheets, {listed}: say which holds the spectra, sheet=..."
        )
    return next(iter(sheets))


def _list_rows(cells: list[list[Any]]) -> list[Row]:
    rows = [Row(i, [_spell(cell) for cell in row]) for i, row in enumerate(cells, start=1)]
    width = max((row_end for row in rows if (row_end := _find_end(row))), default=0)
    return [replace(row, cells=row.cells[:width]) for row in rows if _find_end(row)]


def _find_end(row: Row) -> int:
    """Cells of a row up to the last that holds something."""
    return max((i + 1 for i, cell in enumerate(row.cells) if cell), default=0)


def _spell(cell: Any) -> str:
    """A cell as text, numbers with all of their digits."""
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return repr(cell) if isinstance(cell, float) else str(cell).strip()


def _refuse_bombs(path: Path) -> None:
    """Refuse a workbook that unpacks to far more than it holds."""
    if not zipfile.is_zipfile(path):
        return
    with as_format_error(path, "an Excel file"), zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    limit = SMALL_ARRAY + LARGEST_RATIO * path.stat().st_size
    if size > limit:
        raise FileFormatError(
            f"{path} should unpack to at most {limit / 2**20:.0f} MiB, got {size / 2**20:.0f} MiB:"
            " it is damaged or unsafe; save the sheet as CSV if it is neither."
        )
