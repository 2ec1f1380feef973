"""Images of spectra with a grid of wavelengths, as spPlate and many pipelines write them."""

from __future__ import annotations

from symspec.errors import ShapeError
from symspec.safety.named_arrays import Contents, LazyArray, NamedArrays, name_arrays
from symspec.spectra.names import is_grid_name, is_pixel_name
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_column_units,
    find_image_shape,
    find_image_unit,
    is_table,
    list_others,
    store_columns,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_grid, find_ids


def arrange_images(file: FitsFile, main: Hdu, options: FitsOptions) -> NamedArrays:
    """Take the image `main` (pixel,) or (star, pixel) as flux, and others by their names.

    Labels and ids come from the first table of one row a star.
    """
    shape = find_image_shape(main)
    if len(shape) not in (1, 2):
        got = f"an image of shape {shape}"
        if not shape:
            got = "no image, and no table with a column of flux"
        raise ShapeError(
            f"{file.path}: HDU {file.hdus.index(main)} should be an image (pixel,) or (star,"
            f" pixel), got {got}: save one plane on its own, or say which HDU holds the flux,"
            " hdu=."
        )
    n_stars = shape[0] if len(shape) == 2 else 1
    named = options.named
    grid = find_grid(file, main, shape[-1], named)
    images = {"flux" if named.flux is None else main.name.lower(): main}
    for hdu in file.hdus:
        is_named = named.holds(hdu.name) or (
            is_pixel_name(hdu.name) and not named.is_flux(hdu.name)
        )
        is_other = hdu is not main and hdu is not grid.hdu and not is_grid_name(hdu.name)
        if is_named and is_other and find_image_shape(hdu):
            images.setdefault(hdu.name.lower(), hdu)
    arrays = grid.arrays | {name: store_image(file, hdu) for name, hdu in images.items()}
    units = {name: unit for name, hdu in images.items() if (unit := find_image_unit(hdu))}
    sources = {name: describe_hdu(file, hdu) for name, hdu in images.items()}
    tables = (hdu for hdu in file.hdus if is_table(hdu) and hdu.header["NAXIS2"] == n_stars)
    table = next(tables, None)
    of_stars, table_units = take_labels(file, table)
    used = [*images.values(), grid.hdu, table]
    contents = Contents(
        layout="images",
        sources=grid.sources | sources,
        left_out=list_others(file, [hdu for hdu in used if hdu is not None]),
    )
    arrays = of_stars | arrays
    return name_arrays(
        arrays if n_stars > 1 else find_ids(file) | arrays,
        units=table_units | grid.units | units,
        wavelength_medium=grid.medium,
        contents=contents,
    )


def take_labels(file: FitsFile, table: Hdu | None) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Columns of a table of one row a star, and their units, by name."""
    if table is None:
        return {}, {}
    columns = store_columns(file, table)
    of_stars = {name: array for name, array in columns.items() if not is_pixel_name(name)}
    return of_stars, find_column_units(table)
