"""One-dimensional spectra of X-shooter's pipeline: images FLUX, ERRS and QUAL on a grid in nm.

Errors are standard deviations, pixels whose quality is not 0 are bad, and wavelengths are of air
(X-shooter pipeline manual, products SCI_SLIT_MERGE1D and SCI_SLIT_FLUX_MERGE1D).
"""

from __future__ import annotations

from symspec.errors import DataError
from symspec.safety.named_arrays import NamedArrays, name_arrays
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_image_shape,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_header_grid, find_ids, hold_grid
from symspec.spectra.readers.layouts.known import describe_arrays, is_marked

_NAMES = {"ERRS": "std", "QUAL": "mask"}


def is_xshooter(file: FitsFile) -> bool:
    """Whether the header names X-shooter, and an image is named ERRS."""
    return is_marked(file, "XSHOO") and any(hdu.name == "ERRS" for hdu in file.hdus)


def arrange_xshooter(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the first image as flux, and the others by their names."""
    main = next(hdu for hdu in file.hdus if find_image_shape(hdu))
    shape = find_image_shape(main)
    if len(shape) != 1:
        raise DataError(
            f"{file.path} should hold one spectrum (pixel,), got an image of shape {shape}, whose"
            " rows are places along the slit: extract it, or take the product MERGE1D."
        )
    hdus: dict[str, Hdu] = {"flux": main}
    for hdu in file.hdus:
        if hdu.name in _NAMES and hdu is not main:
            hdus[_NAMES[hdu.name]] = hdu
    grid = hold_grid(find_header_grid([main.header, file.hdus[0].header], shape[0]))
    contents = describe_arrays(file, hdus)
    arrays = {name: store_image(file, hdu) for name, hdu in hdus.items()}
    return name_arrays(
        find_ids(file) | arrays | grid.arrays,
        units={"wavelength": "nm"} | grid.units,
        wavelength_medium=grid.medium or "air",
        contents=contents,
    )
