"""Spectra in a CSV table: a header row, then one spectrum a row.

Columns whose header is a number are pixels, and the number is the wavelength, rising or falling;
0, 1, 2, ... only count the pixels. A column `id` names the stars. Every other column is a label.
Empty lines and lines that start with ``#`` are skipped. There are no uncertainties.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.safety.named_arrays import NamedArrays, hold_array, name_arrays
from symspec.spectra.names import STARNET_UNITS, name_label_errors
from symspec.spectra.readers.options import ReadOptions

Row = tuple[int, list[str]]  # number of the line, and its cells


@dataclass(frozen=True, kw_only=True)
class _Header:
    """Cells of the header row, and the columns of pixels, labels, their errors, and names."""

    path: Path
    cells: list[str]
    pixels: list[int]
    labels: list[int]
    errors: list[int]
    ids: list[int]


@contextmanager
def open_csv(path: Path, options: ReadOptions) -> Iterator[NamedArrays]:
    """Read a CSV table of spectra in UTF-8; it is held whole.

    Yields
    ------
    NamedArrays
        `flux` (star, pixel), NaN where a cell is empty; if the header has them, `wavelength`
        (pixel,), `ids` (star,), `labels` (star, label), `label_names` and `label_units`, and the
        errors of labels under their own names.

    Raises
    ------
    FileFormatError
        There is no header, no pixel column, no star, a row of another length, a cell that is no
        number, or no label column of a name asked for.
    DataError
        An uncertainty is asked for.
    """
    if options.uncertainty is not None:
        raise DataError(
            f"uncertainty={options.uncertainty!r} asks for the flux's uncertainty, got a CSV file,"
            " which holds none: leave uncertainty out."
        )
    with _as_format_error(path), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = _read_rows(stream)
        _, cells = next(rows, (0, []))
        header = _parse_header(path, cells, options.label_names)
        arrays = _parse_rows(header, rows)
    yield name_arrays({name: hold_array(array) for name, array in arrays.items()})


def _read_rows(lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.reader(lines, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row) and not row[0].startswith("#"):
            yield reader.line_num, row


def _parse_header(path: Path, cells: list[str], wanted: Sequence[str] | None) -> _Header:
    cells = [cell.strip() for cell in cells]
    if "" in cells:
        raise FileFormatError(
            f"{path}: every column should have a header, got none in column {cells.index('')}:"
            " name it, e.g. id, or leave it out (pandas: to_csv(path, index=False))."
        )
    if slips := [cell for cell in cells if re.fullmatch(r"[-+]?\d[\d_.]*", cell) and "_" in cell]:
        raise FileFormatError(
            f"{path}: headers of pixels should be plain numbers, got {slips[0]!r}: leave out the"
            " underscores."
        )
    pixels = [i for i, cell in enumerate(cells) if _is_number(cell)]
    if not pixels:
        raise FileFormatError(
            f"{path} should start with a row of headers separated by commas, where those of pixel"
            f" columns are wavelengths, got {', '.join(cells[:5])[:80]!r}: write the wavelengths"
            " as headers."
        )
    ids = [i for i, cell in enumerate(cells) if cell.lower() in ("id", "ids")]
    taken = {*pixels, *ids}
    errors = _find_errors({cell: i for i, cell in enumerate(cells) if i not in taken})
    labels = _find_labels(path, cells, taken, errors, wanted)
    errors = [i for i in errors if i not in labels]
    return _Header(path=path, cells=cells, pixels=pixels, labels=labels, errors=errors, ids=ids[:1])


def _find_errors(free: dict[str, int]) -> list[int]:
    """Columns that are the error of another one by their names."""
    names = {error for cell in free for error in name_label_errors(cell)}
    return [i for cell, i in free.items() if cell.lower() in names]


def _find_labels(
    path: Path,
    cells: list[str],
    taken: set[int],
    errors: list[int],
    wanted: Sequence[str] | None,
) -> list[int]:
    free = {cell: i for i, cell in enumerate(cells) if i not in taken}
    if len(free) < len(cells) - len(taken):
        raise FileFormatError(
            f"{path}: label columns should differ in their headers, got {cells}: rename some."
        )
    if wanted is None:
        return [i for i in free.values() if i not in errors]
    if missing := [name for name in wanted if name not in free]:
        raise FileFormatError(
            f"{path} should have a column for each label, got none for {', '.join(missing)}: it has"
            f" {', '.join(free) or 'no label at all'}; give label_names= out of these."
        )
    return [free[name] for name in wanted]


def _parse_rows(header: _Header, rows: Iterator[Row]) -> dict[str, np.ndarray]:
    flux: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    ids: list[str] = []
    for number, row in rows:
        if len(row) != len(header.cells):
            raise FileFormatError(
                f"{header.path}, line {number}: should have {len(header.cells)} cells as the header"
                f" has, got {len(row)}: complete the row, or leave missing cells empty between"
                " their commas."
            )
        flux.append(_parse_cells(header, number, row, header.pixels))
        labels.append(_parse_cells(header, number, row, header.labels))
        errors.append(_parse_cells(header, number, row, header.errors))
        ids.extend(row[i].strip() for i in header.ids)
    if not flux:
        raise FileFormatError(
            f"{header.path} should hold at least one star below its header row, got none: add rows."
        )
    arrays = {"flux": np.array(flux)}
    wavelength = _find_wavelength(header)
    if wavelength is not None:
        arrays["wavelength"] = wavelength
    if header.ids:
        arrays["ids"] = np.array(ids)
    if header.labels:
        names = [header.cells[i] for i in header.labels]
        arrays["labels"] = np.array(labels)
        arrays["label_names"] = np.array(names)
        arrays["label_units"] = np.array([STARNET_UNITS.get(name.upper(), "") for name in names])
        arrays |= {
            header.cells[i]: column
            for i, column in zip(header.errors, np.array(errors).T, strict=True)
        }
    return arrays


def _find_wavelength(header: _Header) -> np.ndarray | None:
    wavelength = [float(header.cells[i]) for i in header.pixels]
    if wavelength == list(range(len(wavelength))):
        return None
    steps = np.diff(wavelength)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise FileFormatError(
            f"{header.path}: the first row should hold headers, wavelengths that rise or fall, got"
            f" {wavelength[:4]} ...: is the header row missing, so that this is a spectrum?"
        )
    return np.array(wavelength)


def _parse_cells(header: _Header, line: int, row: list[str], columns: list[int]) -> np.ndarray:
    numbers = np.empty(len(columns))
    for k, i in enumerate(columns):
        try:
            numbers[k] = _parse_number(row[i]) if row[i].strip() else math.nan
        except ValueError:
            raise FileFormatError(
                f"{header.path}, line {line}, column {header.cells[i]}: should be a number, got"
                f" {row[i][:40]!r}: write a number, leave the cell empty, or pick the label columns"
                " with label_names=."
            ) from None
    return numbers


def _parse_number(cell: str) -> float:
    """The number in a cell; Python's own way to write it, 4_000, may be a slip of the pen."""
    if "_" in cell or not cell.isascii():
        raise ValueError(cell)
    return float(cell)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(_parse_number(cell))
    except ValueError:
        return False


@contextmanager
def _as_format_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"{path} should be a CSV table in UTF-8, got text that is none ({error}): write it"
            " again as UTF-8."
        ) from error
