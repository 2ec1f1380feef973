"""Tables of one order a row, each on a grid of its own, with a column that numbers them."""

from __future__ import annotations

import numpy as np

from symspec.errors import DataError
from symspec.safety.arrays import as_float_array
from symspec.safety.named_arrays import ALL, Contents, LazyArray, NamedArrays, name_arrays
from symspec.spectra.names import MASKS, find_grid_array, find_uncertainty, is_flux_name
from symspec.spectra.readers.fits.arms import Arm, choose_arms, join_arms
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_column_units,
    is_table,
    list_others,
    store_columns,
)
from symspec.spectra.readers.fits.headers import find_ids

_NUMBERS = ("order", "orders", "sporder", "echelle_order", "arm", "segment", "chip")


def is_orders(file: FitsFile) -> bool:
    """Whether a table has a column of orders beside arrays of flux."""
    return any(map(_is_orders, file.hdus))


def arrange_orders(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Join the orders, or take those of `arm`."""
    hdu = next(filter(_is_orders, file.hdus))
    stored = store_columns(file, hdu)
    names = {name.lower(): name for name in stored}
    flux = next(name for name in stored if is_flux_name(name))
    grid = find_grid_array(name_arrays(stored), str(file.path), options.named)
    if grid is None:
        raise DataError(
            f"{file.path}: orders in rows of {describe_hdu(file, hdu)} should have wavelengths, got"
            f" columns {', '.join(stored)}: say which they are, wavelength=."
        )
    numbers = stored[next(names[name] for name in _NUMBERS if name in names)].load(ALL)
    found = find_uncertainty(name_arrays(stored), options.named, str(file.path))
    mask = next((names[name] for name in MASKS if name in names), None)
    error, kind = found or (None, "ivar")
    wavelengths = as_float_array(stored[grid].load(ALL), grid)
    is_log = grid.lower().startswith("log")
    arms = [
        Arm(
            name=_name(number),
            wavelength=10.0 ** wavelengths[row] if is_log else wavelengths[row],
            flux=_pick_row(stored[flux], row),
            error=None if error is None else _pick_row(stored[error], row),
            mask=None if mask is None else _pick_row(stored[mask], row),
        )
        for row, number in enumerate(numbers)
    ]
    chosen = choose_arms(arms, options.arm, file.path)
    place = describe_hdu(file, hdu)
    used = {name for name in (flux, grid, error, mask) if name is not None}
    unit = None if is_log else find_column_units(hdu).get(grid)
    arrays = join_arms(chosen, kind, options, file.path)
    others = [name for name in hdu.columns.names if name not in used]
    return name_arrays(
        find_ids(file) | arrays,
        units={"wavelength": unit} if unit else {},
        contents=Contents(
            sources=dict.fromkeys(arrays, f"{place}, orders {', '.join(a.name for a in chosen)}"),
            left_out=(*(f"{place}, column {one}" for one in others), *list_others(file, [hdu])),
        ),
    )


def _is_orders(hdu: Hdu) -> bool:
    if not is_table(hdu) or hdu.header["NAXIS2"] < 2:
        return False
    wide = [c.name for c in hdu.columns if c.format.repeat > 1 and c.format.format not in "APQ"]
    has_numbers = any(column.name.lower() in _NUMBERS for column in hdu.columns)
    return has_numbers and any(map(is_flux_name, wide))


def _name(number: object) -> str:
    if isinstance(number, bytes):
        return number.decode().strip()
    return str(number.item() if isinstance(number, np.generic) else number).strip()


def _pick_row(array: LazyArray, row: int) -> LazyArray:
    """One row of an array (order, pixel), as one star."""
    return LazyArray((1, *array.shape[1:]), lambda rows: array.load(slice(row, row + 1))[rows])
