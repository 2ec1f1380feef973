"""The numbers of a table as named arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from symspec.errors import AssumedUnitWarning, DataError, FileFormatError
from symspec.safety.named_arrays import Contents, NamedArrays, hold_array, name_arrays
from symspec.spectra.names import STARNET_UNITS
from symspec.spectra.readers.tables.blocks import Block
from symspec.spectra.readers.tables.columns import TableColumns, TableOptions, find_columns
from symspec.spectra.readers.tables.headers import find_grid_unit, is_monotonic
from symspec.spectra.readers.tables.numerals import is_missing, is_number, parse_number

# numbers without a unit that may as well be nm, or cm-1 where they fall
_PERHAPS_NM = (1000.0, 3000.0)
_PERHAPS_WAVENUMBERS = (300.0, 25000.0)


def arrange_block(block: Block, options: TableOptions, source: str) -> NamedArrays:
    """Numbers of a table as named arrays.

    Parameters
    ----------
    block : Block
    options : TableOptions
    source : str
        Name of the file, used in errors.

    Returns
    -------
    NamedArrays
        `flux` (star, pixel), NaN where a cell is empty; if the table has them, `wavelength`
        (pixel,), `ids` and `group` (star,), `labels` (star, label), `label_names` and
        `label_units`, and the errors of labels under their own names. Of one star with a pixel a
        row, each column (pixel,) under its own name.

    Raises
    ------
    FileFormatError
        A cell is no number, a header is missing, or there is no star.
    DataError
        The unit of the wavelengths may be one of several, or an uncertainty is asked for that a
        table does not hold.

    Warns
    -----
    AssumedUnitWarning
        The wavelengths are taken for Angstrom.
    """
    if block.is_by_pixel:
        return _arrange_pixels(block, options, source)
    if options.uncertainty is not None:
        raise DataError(
            f"uncertainty={options.uncertainty!r} asks for the flux's uncertainty, got a CSV file,"
            " which holds none, unless each row is a pixel: leave uncertainty out."
        )
    columns = find_columns(block, options, source)
    if not block.rows:
        raise FileFormatError(
            f"{source} should hold at least one star below its header row, got none: add rows."
        )
    arrays, units = _parse_stars(block, columns, options, source)
    place = "the first column" if block.is_turned else "the headers"
    sources = {"flux": f"{len(columns.pixels.columns)} columns of pixels", "wavelength": place}
    for name, column in (("ids", columns.ids), ("group", columns.group)):
        sources[name] = place if column is None or not block.cells[column] else block.cells[column]
    if block.is_turned:
        sources["flux"] = f"{len(block.rows)} columns of one spectrum each"
        sources["ids"] = "the headers"
    return _name(block, arrays, units, sources, columns.left_out)


def _parse_stars(
    block: Block, columns: TableColumns, options: TableOptions, source: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays = {(options.named.flux or "flux"): parse_columns(block, columns.pixels.columns, source)}
    units: dict[str, str] = {}
    grid = _find_wavelength(block, columns, options, source)
    if grid is not None:
        arrays["wavelength"], unit = grid
        units = {"wavelength": unit} if unit else {}
    for name, column in (("ids", columns.ids), ("group", columns.group)):
        if column is not None:
            arrays[name] = np.array([row.cells[column] for row in block.rows])
    if columns.labels:
        names = [block.cells[i] for i in columns.labels]
        arrays["labels"] = parse_columns(block, columns.labels, source)
        arrays["label_names"] = np.array(names)
        arrays["label_units"] = np.array([STARNET_UNITS.get(name.upper(), "") for name in names])
        errors = parse_columns(block, columns.errors, source)
        arrays |= {block.cells[i]: errors[:, k] for k, i in enumerate(columns.errors)}
    return arrays, units


def _arrange_pixels(block: Block, options: TableOptions, source: str) -> NamedArrays:
    """One star, each of whose rows is a pixel: columns as they are named."""
    cells = block.cells
    if len(set(map(str.lower, cells))) < len(cells):
        raise FileFormatError(
            f"{source}: columns of one spectrum should differ in their headers, got {cells}: rename"
            " some."
        )
    arrays: dict[str, np.ndarray] = {}
    left_out = []
    for i, cell in enumerate(cells):
        if cell and any(is_number(row.cells[i]) for row in block.rows):
            arrays[cell] = parse_columns(block, [i], source)[:, 0]
        elif cell:
            left_out.append(cell)
    grid = options.named.wavelength or next(
        cell for cell in cells if cell == "wavelength" or find_grid_unit(cell, source)[0]
    )
    unit = block.unit
    if "log" not in grid.lower():
        _ask_for_unit(arrays[grid], unit, options, source)
    units = {grid: unit} if unit else {}
    if block.quantity:
        units[options.named.flux or "flux"] = block.quantity
    return _name(block, arrays, units, {}, left_out)


def _name(
    block: Block,
    arrays: dict[str, np.ndarray],
    units: dict[str, str],
    sources: dict[str, str],
    left_out: Sequence[str],
) -> NamedArrays:
    layout = "table of one spectrum a column" if block.is_turned else "table of one spectrum a row"
    if block.is_by_pixel:
        layout = "table of one pixel a row"
    return name_arrays(
        {name: hold_array(array) for name, array in arrays.items()},
        units=units,
        contents=Contents(
            layout=layout,
            sources={name: place for name, place in sources.items() if name in arrays},
            left_out=(*left_out, *block.left_out),
        ),
    )


def _find_wavelength(
    block: Block, columns: TableColumns, options: TableOptions, source: str
) -> tuple[np.ndarray, str | None] | None:
    """Wavelengths of the pixels and their unit; None if their headers only count them."""
    pixels = columns.pixels
    unit = pixels.unit or block.unit
    if pixels.only_count and unit is None and options.wavelength_unit is None:
        return None
    try:
        values = [parse_number(number, block.decimal) for number in pixels.numbers]
    except ValueError as error:
        raise FileFormatError(
            f"{source}: headers of pixels should be numbers with a decimal {block.decimal!r} as the"
            f' rest of the table, got {error}: write all alike, or say decimal="." or decimal=",".'
        ) from None
    if not is_monotonic(values) and len(values) > 1 and block.is_turned:
        raise DataError(
            f"{source}: the first column should hold wavelengths that rise or fall from pixel to"
            f" pixel, got {values[:4]} ...: sort its rows, and keep one of those that are equal."
        )
    if not is_monotonic(values) and len(values) > 1:
        raise FileFormatError(
            f"{source}: the first row should hold headers, wavelengths that rise or fall, got"
            f" {values[:4]} ...: is the header row missing, so that this is a spectrum?"
        )
    wavelength = np.array(values)
    is_of_stars = any(cell.upper() in STARNET_UNITS for cell in block.cells)
    _ask_for_unit(wavelength, unit, options, source, is_of_stars=is_of_stars)
    return wavelength, unit


def _ask_for_unit(
    wavelength: np.ndarray,
    unit: str | None,
    options: TableOptions,
    source: str,
    *,
    is_of_stars: bool = False,
) -> None:
    """Refuse wavelengths without a unit that may be of several; warn where one is assumed.

    Not of stars, whose wavelengths between 1,000 and 1,000,000 are in Angstrom by convention.
    """
    if unit is not None or options.wavelength_unit is not None:
        return
    low = np.nanmin(wavelength)
    high = np.nanmax(wavelength)
    falls = wavelength[0] > wavelength[-1] and not is_of_stars
    is_nm = _PERHAPS_NM[0] <= low and high <= _PERHAPS_NM[1]
    is_wavenumber = falls and _PERHAPS_WAVENUMBERS[0] <= low and high <= _PERHAPS_WAVENUMBERS[1]
    if is_nm or is_wavenumber:
        raise DataError(
            f"{source} should say the unit of its wavelengths, got numbers from"
            f" {wavelength[0]:.6g} to {wavelength[-1]:.6g} without one: say"
            ' wavelength_unit="nm", "cm-1", "Angstrom", ...'
        )
    if low >= _PERHAPS_NM[0] and not is_of_stars:
        warnings.warn(
            f"wavelengths from {low:.6g} to {high:.6g} have no unit and were taken for Angstrom:"
            ' say wavelength_unit="Angstrom", or "nm", "cm-1", ... if that is what they are.',
            AssumedUnitWarning,
            stacklevel=2,
        )


def parse_columns(block: Block, columns: Sequence[int], source: str) -> np.ndarray:
    """Numbers (row, column) of some columns."""
    numbers = np.empty((len(block.rows), len(columns)))
    for n, row in enumerate(block.rows):
        for k, i in enumerate(columns):
            try:
                numbers[n, k] = parse_number(row.cells[i], block.decimal)
            except ValueError:
                raise _refuse_cell(block, n, i, source) from None
    return numbers


def _refuse_cell(block: Block, n: int, column: int, source: str) -> FileFormatError:
    place = f"{'column' if block.is_turned and not block.is_by_pixel else 'line'} "
    place += str(block.rows[n].line)
    header = block.cells[column] or str(column)
    cell = block.rows[n].cells[column]
    advice = "write a number, leave the cell empty or write NA, or pick the label columns with"
    if is_number(cell) and not is_missing(cell):
        advice = f"the decimal mark is {block.decimal!r} elsewhere, so write all alike, or pick"
        advice += " the label columns with"
    return FileFormatError(
        f"{source}, {place}, {'row' if place.startswith('column') else 'column'} {header}: should"
        f" be a number, got {cell[:40]!r}: {advice} label_names=."
    )
