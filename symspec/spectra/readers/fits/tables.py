"""Tables of one spectrum a row, or of one pixel a row as BOSS's coadds are."""

from __future__ import annotations

from symspec.errors import FileFormatError
from symspec.safety.named_arrays import Contents, NamedArrays, name_arrays
from symspec.spectra.names import (
    FLUX,
    NamedByCaller,
    is_grid_name,
    is_pixel_name,
    is_same_name,
    keep_pixel_columns,
)
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_column_units,
    list_others,
    store_columns,
)
from symspec.spectra.readers.fits.headers import FoundGrid, find_card_medium, find_grid, find_ids


def arrange_table(
    file: FitsFile, main: Hdu, options: FitsOptions, *, layout: str = "table"
) -> NamedArrays:
    """Take the columns of the table `main` by their names; wavelengths may be in the header."""
    columns = store_columns(file, main)
    names = main.columns.names
    named = options.named
    if varying := [
        name for name in names if name not in columns and (is_pixel_name(name) or named.holds(name))
    ]:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have as many pixels in each row, got"
            f" {', '.join(varying)} of varying length: put the spectra on one grid, in columns of a"
            " fixed length such as 7214E."
        )
    arrays = keep_pixel_columns(columns, named)
    flux = next((array for name, array in arrays.items() if named.is_flux(name)), None)
    if flux is None:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have a column of one of the names"
            f" {', '.join([named.flux] if named.flux else FLUX)}, got {', '.join(names[:20])}: say"
            " which it is, flux=, or another HDU, hdu=."
        )
    grid = FoundGrid(medium=find_card_medium(main.header))
    if not any(_is_grid(name, named) for name in arrays):
        grid = find_grid(file, main, flux.shape[-1], named)
    place = describe_hdu(file, main)
    used = [main] if grid.hdu is None else [main, grid.hdu]
    contents = Contents(
        layout=layout,
        sources=grid.sources | {name: f"{place}, column {name}" for name in arrays},
        left_out=(
            *(f"{place}, column {name}" for name in names if name not in arrays),
            *list_others(file, used),
        ),
    )
    arrays = arrays | grid.arrays
    return name_arrays(
        arrays if len(flux.shape) > 1 else find_ids(file) | arrays,
        units=find_column_units(main) | grid.units,
        wavelength_medium=grid.medium,
        contents=contents,
    )


def _is_grid(name: str, named: NamedByCaller) -> bool:
    return is_grid_name(name) if named.wavelength is None else is_same_name(name, named.wavelength)
