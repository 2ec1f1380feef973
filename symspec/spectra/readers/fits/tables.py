"""Tables of one spectrum a row, or of one pixel a row as BOSS's coadds are."""

from __future__ import annotations

from symspec.errors import FileFormatError
from symspec.safety.named_arrays import NamedArrays, name_arrays
from symspec.spectra.names import (
    FLUX,
    is_flux_name,
    is_grid_name,
    is_pixel_name,
    keep_pixel_columns,
)
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_column_units,
    store_columns,
)
from symspec.spectra.readers.fits.headers import find_grid, find_ids


def arrange_table(file: FitsFile, main: Hdu, options: FitsOptions) -> NamedArrays:
    """Take the columns of the table `main` by their names; wavelengths may be in the header."""
    columns = store_columns(file, main)
    names = main.columns.names
    if varying := [name for name in names if is_pixel_name(name) and name not in columns]:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have as many pixels in each row, got"
            f" {', '.join(varying)} of varying length: put the spectra on one grid, in columns of a"
            " fixed length such as 7214E."
        )
    arrays = keep_pixel_columns(columns)
    units = find_column_units(main)
    flux = next((array for name, array in arrays.items() if is_flux_name(name)), None)
    if flux is None:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have a column of one of the names"
            f" {', '.join(FLUX)}, got {', '.join(names[:20])}: rename it, or say another HDU, hdu=."
        )
    if not any(is_grid_name(name) for name in arrays):
        grid, grid_units = find_grid(
            file, main, flux.shape[-1], is_unit_known=options.wavelength_unit is not None
        )
        arrays = arrays | grid
        units = units | grid_units
    return name_arrays(arrays if len(flux.shape) > 1 else find_ids(file) | arrays, units=units)
