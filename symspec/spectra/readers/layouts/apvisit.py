"""APOGEE's apVisit files: one star on three chips."""

from __future__ import annotations

import numpy as np

from symspec.safety.named_arrays import ALL, NamedArrays, hold_array, name_arrays
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    find_image_shape,
    is_bitmask,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_ids
from symspec.spectra.readers.layouts.apstar import APOGEE_BAD_BITS
from symspec.spectra.readers.layouts.known import describe_arrays, is_contradicted

_N_CHIPS = 3
_IMAGES = ("flux", "std", "bitmask", "wavelength")  # of HDUs 1 to 4


def is_apvisit(file: FitsFile) -> bool:
    """Whether HDUs 1 to 4 are flux, error, mask and wavelength (chip, pixel)."""
    images = file.hdus[1:5]
    shapes = {find_image_shape(hdu) for hdu in images}
    if len(images) < len(_IMAGES) or len(shapes) > 1 or next(iter(shapes))[:-1] != (_N_CHIPS,):
        return False
    if not is_bitmask(images[2]):
        return False
    if any(map(is_contradicted, images, ("flux", "err", "mask", "wavelen"))):
        return False
    # images (star, pixel) of other files have names, or a grid in the header
    has_unit = str(images[3].header.get("BUNIT", "")).lower().startswith("wavelen")
    return has_unit or not ("CRVAL1" in images[0].header or any(hdu.name for hdu in images))


def arrange_apvisit(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Join the chips in the order of wavelength; they are held whole."""
    chips = {
        name: store_image(file, hdu).load(ALL).reshape(-1)
        for name, hdu in zip(_IMAGES, file.hdus[1:5], strict=True)
    }
    order = np.argsort(chips["wavelength"], kind="stable")
    arrays = {name: hold_array(values[order]) for name, values in chips.items()}
    return name_arrays(
        arrays | find_ids(file),
        units={"wavelength": "Angstrom"},
        mask_bits=APOGEE_BAD_BITS,
        wavelength_medium="vacuum",
        contents=describe_arrays(file, dict(zip(_IMAGES, file.hdus[1:5], strict=True))),
    )
