"""APOGEE's apStar and aspcapStar files: combined spectra and visits of one star on one grid."""

from __future__ import annotations

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.safety.named_arrays import ALL, NamedArrays, hold_array, name_arrays
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    find_image_shape,
    is_bitmask,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_header_grid, find_ids
from symspec.spectra.readers.layouts.known import describe_arrays, is_contradicted

APSTAR_ROWS = ("combined", "combined_global", "visits", "all")
#: Bits of APOGEE_PIXMASK that mean a bad pixel: BADPIX, CRPIX, SATPIX, UNFIXABLE, BADDARK, BADFLAT,
#: BADERR, NOSKY and NOT_ENOUGH_PSF. The others warn: of the Littrow ghost, persistence, and sky and
#: telluric lines.
APOGEE_BAD_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 14)
_APOGEE_GRID = (4.179, 6e-6)  # log10 of the first wavelength [Angstrom], and the step
_N_COMBINED = 2  # rows before those of the visits


def is_apstar(file: FitsFile) -> bool:
    """Whether HDUs 1 and 2 are flux and error on APOGEE's grid of wavelengths."""
    primary, *images = file.hdus[:3]
    shapes = {find_image_shape(hdu) for hdu in images}
    if len(images) < 2 or len(shapes) > 1 or len(next(iter(shapes))) not in (1, 2):
        return False
    if any(map(is_bitmask, images)):  # one is lost, and the others have moved up
        return False
    if any(map(is_contradicted, images, ("flux", "err"))):
        return False
    headers = [hdu.header for hdu in (images[0], primary) if "CRVAL1" in hdu.header]
    if not headers:
        return False
    grid = [headers[0]["CRVAL1"], headers[0].get("CDELT1", 0.0)]
    if not np.allclose(grid, _APOGEE_GRID, rtol=1e-4, atol=0):
        return False
    # other files on this grid name their images (star, pixel)
    is_apogee = any(card in primary.header for card in ("NVISITS", "SFILE1"))
    return is_apogee or not any(hdu.name for hdu in images)


def arrange_apstar(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Pick rows: combined with weights of pixels, with weights of visits, then the visits.

    A file of a single visit has one row.
    """
    primary, flux, error, *others = file.hdus
    shape = find_image_shape(flux)
    rows = _find_rows(file, shape[0] if len(shape) == 2 else 1, options.apstar)
    picked = slice(rows.start, rows.stop) if len(shape) == 2 else ALL
    arrays = {"flux": store_image(file, flux, picked), "std": store_image(file, error, picked)}
    # aspcapStar has a model there
    if others and find_image_shape(others[0]) == shape and is_bitmask(others[0]):
        arrays["bitmask"] = store_image(file, others[0], picked)
    wavelength = find_header_grid([flux.header, primary.header], shape[-1]).values
    if wavelength is None:
        raise DataError(
            f"{file.path} should have a grid of wavelengths, got DC-FLAG = -1, which stands for"
            " none: correct this card."
        )
    arrays["wavelength"] = hold_array(wavelength)
    for name, stored in find_ids(file).items():
        star = str(stored.load(ALL))
        arrays[name] = hold_array([_name_row(star, row) for row in rows])
    hdus = {"flux": flux, "std": error} | ({"bitmask": others[0]} if "bitmask" in arrays else {})
    return name_arrays(
        arrays,
        units={"wavelength": "Angstrom"},
        mask_bits=APOGEE_BAD_BITS,
        wavelength_medium="vacuum",
        contents=describe_arrays(file, hdus),
    )


def _find_rows(file: FitsFile, n_rows: int, choice: str) -> range:
    if n_rows == 1:
        return range(1)
    rows = {
        "combined": range(1),
        "combined_global": range(1, 2),
        "visits": range(_N_COMBINED, n_rows),
        "all": range(n_rows),
    }[choice]
    if not rows:
        raise FileFormatError(
            f"{file.path} should have the rows of apstar={choice!r}, got an apStar file of {n_rows}"
            ' rows: two combined spectra, then visits; read what there is with apstar="all".'
        )
    return rows


def _name_row(star: str, row: int) -> str:
    return star if row < _N_COMBINED else f"{star} visit {row - _N_COMBINED + 1}"
