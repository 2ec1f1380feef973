"""Spectra out of a CSV table, one spectrum a row."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.safety.named_arrays import NamedArrays, hold_array, name_arrays
from symspec.spectra.readers.names import NO_UNCERTAINTY, STARNET_UNITS
from symspec.spectra.readers.spectra_file import ReadOptions


@dataclass(frozen=True)
class CsvSpectra:
    """What a CSV table of spectra holds.

    Attributes
    ----------
    flux : numpy.ndarray, shape (star, pixel)
        Flux; NaN where a cell is empty.
    wavelength : numpy.ndarray, shape (pixel,), or None
        The headers of the pixel columns; None when these just count pixels.
    labels : numpy.ndarray, shape (star, label), or None
        Labels; NaN where a cell is empty.
    label_names : tuple of str
        The headers of the label columns.
    ids : numpy.ndarray of str, shape (star,), or None
        The column `id`.
    """

    flux: np.ndarray
    wavelength: np.ndarray | None
    labels: np.ndarray | None
    label_names: tuple[str, ...]
    ids: np.ndarray | None


def read_csv_spectra(path: Path, label_names: Sequence[str] | None = None) -> CsvSpectra:
    """Read a comma-separated table with a header row and one spectrum a row.

    Columns whose header is a number are pixels, and the number is the wavelength, rising or
    falling; 0, 1, 2, ... just counts the pixels. A column `id` names the stars. Every other column
    is a label. Empty lines and lines that start with ``#`` are skipped.

    Parameters
    ----------
    path : path
        The file, in UTF-8.
    label_names : sequence of str, optional
        The label columns to read, in this order; all unless given.

    Returns
    -------
    CsvSpectra
        Its columns, sorted into flux, wavelength, labels and ids.

    Raises
    ------
    FileFormatError
        When there is no header, no pixel column, no star, a row of another length, a cell that is
        no number, or no label column of a name asked for.
    """
    with _as_format_error(path), path.open(encoding="utf-8-sig", newline="") as stream:
        lines = _number_lines(csv.reader(stream, skipinitialspace=True))
        _, header = next(lines, (0, []))
        header = [cell.strip() for cell in header]
        pixels = _find_pixels(path, header)
        id_columns = [i for i, cell in enumerate(header) if cell.lower() in ("id", "ids")]
        columns = _find_labels(path, header, {*pixels, *id_columns}, label_names)
        flux: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        ids: list[str] = []
        for number, row in lines:
            if len(row) != len(header):
                raise FileFormatError(
                    f"{path}, line {number}: should have {len(header)} cells as the header has, got"
                    f" {len(row)}: complete the row, or leave missing cells empty between their"
                    " commas."
                )
            flux.append(_parse_cells(path, number, header, row, pixels))
            labels.append(_parse_cells(path, number, header, row, columns))
            ids.extend(row[i].strip() for i in id_columns[:1])
    if not flux:
        raise FileFormatError(
            f"{path} should hold at least one star below its header row, got none: add rows."
        )
    return CsvSpectra(
        flux=np.array(flux),
        wavelength=_find_wavelength(path, [float(header[i]) for i in pixels]),
        labels=np.array(labels) if columns else None,
        label_names=tuple(header[i] for i in columns),
        ids=np.array(ids) if ids else None,
    )


def _number_lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for row in reader:
        if any(cell.strip() for cell in row) and not row[0].startswith("#"):
            yield reader.line_num, row  # type: ignore[attr-defined]


def _find_pixels(path: Path, header: list[str]) -> list[int]:
    if "" in header:
        raise FileFormatError(
            f"{path}: every column should have a header, got none in column {header.index('')}:"
            " name it, e.g. id, or leave it out (pandas: to_csv(path, index=False))."
        )
    pixels = [i for i, cell in enumerate(header) if _is_number(cell)]
    if not pixels:
        raise FileFormatError(
            f"{path} should start with a row of headers separated by commas, where those of pixel "
            "columns are "
            f"wavelengths, got {', '.join(header[:5])[:80]!r}: write the wavelengths as headers."
        )
    return pixels


def _find_labels(
    path: Path, header: list[str], taken: set[int], wanted: Sequence[str] | None
) -> list[int]:
    free = {cell: i for i, cell in enumerate(header) if i not in taken}
    if len(free) < len(header) - len(taken):
        raise FileFormatError(
            f"{path}: label columns should differ in their headers, got {header}: rename some."
        )
    if wanted is None:
        return list(free.values())
    if missing := [name for name in wanted if name not in free]:
        raise FileFormatError(
            f"{path} should have a column for each label, got none for {', '.join(missing)}: it has"
            f" {', '.join(free) or 'no label at all'}; give label_names= out of these."
        )
    return [free[name] for name in wanted]


def _find_wavelength(path: Path, wavelength: list[float]) -> np.ndarray | None:
    if wavelength == list(range(len(wavelength))):
        return None
    steps = np.diff(wavelength)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise FileFormatError(
            f"{path}: the first row should hold headers, wavelengths that rise or fall, got "
            f"{wavelength[:4]} ...: "
            "is the header row missing, so that this is a spectrum?"
        )
    return np.array(wavelength)


def _parse_cells(
    path: Path, line: int, header: list[str], row: list[str], columns: list[int]
) -> np.ndarray:
    numbers = np.empty(len(columns))
    for k, i in enumerate(columns):
        try:
            numbers[k] = float(row[i]) if row[i].strip() else math.nan
        except ValueError:
            raise FileFormatError(
                f"{path}, line {line}, column {header[i]}: should be a number, got {row[i][:40]!r}:"
                " write a number, leave the cell empty, or pick the label columns with"
                " label_names=."
            ) from None
    return numbers


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
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


def _hold_csv(path: Path, options: ReadOptions) -> NamedArrays:
    if options.uncertainty is not None:
        raise DataError(NO_UNCERTAINTY.format(options.uncertainty, "a CSV file, which holds none"))
    table = read_csv_spectra(path, options.label_names)
    held = {"flux": table.flux, "wavelength": table.wavelength, "ids": table.ids}
    if table.labels is not None:
        units = [STARNET_UNITS.get(name.upper(), "") for name in table.label_names]
        held |= {"labels": table.labels, "label_names": table.label_names, "label_units": units}
    return name_arrays(
        {name: hold_array(array) for name, array in held.items() if array is not None}
    )
