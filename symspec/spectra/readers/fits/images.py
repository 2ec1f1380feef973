"""Images of spectra with a grid of wavelengths, as spPlate and many pipelines write them."""

from __future__ import annotations

from symspec.errors import ShapeError
from symspec.safety.named_arrays import NamedArrays, name_arrays
from symspec.spectra.names import is_flux_name, is_pixel_name
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_column_units,
    find_image_shape,
    find_image_unit,
    is_table,
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
    arrays, units = find_grid(
        file, main, shape[-1], is_unit_known=options.wavelength_unit is not None
    )
    for hdu in file.hdus:
        is_other = hdu is not main and find_image_shape(hdu) and not is_flux_name(hdu.name)
        if is_other and is_pixel_name(hdu.name):
            arrays[hdu.name.lower()] = store_image(file, hdu)
            units |= _state_unit(hdu.name.lower(), hdu)
    arrays["flux"] = store_image(file, main)
    units |= _state_unit("flux", main)
    tables = (hdu for hdu in file.hdus if is_table(hdu) and hdu.header["NAXIS2"] == n_stars)
    if (table := next(tables, None)) is not None:
        columns = store_columns(file, table)
        of_stars = {name: array for name, array in columns.items() if not is_pixel_name(name)}
        arrays = of_stars | arrays
        units = find_column_units(table) | units
    return name_arrays(arrays if n_stars > 1 else find_ids(file) | arrays, units=units)


def _state_unit(name: str, hdu: Hdu) -> dict[str, str]:
    unit = find_image_unit(hdu)
    return {name: unit} if unit else {}
