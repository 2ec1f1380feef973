"""Spectra in FITS files: SDSS's layouts, images with a wavelength grid, and tables, each as named arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, ShapeError
from symspec.safety.named_arrays import ALL, NamedArrays, StoredArray, hold_array, name_arrays
from symspec.spectra.readers.fits_file import (
    FitsFile,
    find_column_units,
    find_hdu,
    find_image_shape,
    is_table,
    list_hdus,
    open_fits,
    reading_fits,
    store_columns,
    store_image,
)
from symspec.spectra.readers.fits_wavelengths import find_header_wavelength
from symspec.spectra.readers.names import (
    FLUX,
    LOG_WAVELENGTH,
    WAVELENGTH,
    is_pixel_name,
    keep_pixel_columns,
)

# : Bits of APOGEE_PIXMASK that mean a bad pixel: BADPIX, CRPIX, SATPIX, UNFIXABLE, BADDARK,
# BADFLAT, BADERR, NOSKY, and
#: NOT_ENOUGH_PSF. The others warn: of the Littrow ghost, persistence, and sky and telluric lines.
APOGEE_BAD_BITS = (0, 1, 2, 3, 4, 5, 6, 7, 14)
_APOGEE_GRID = (4.179, 6e-6)  # log10 of the first wavelength [Angstrom], and the step


@contextmanager
def open_fits_spectra(
    path: Path, *, is_compressed: bool, hdu: int | str | None, apstar: str, is_unit_known: bool
) -> Iterator[NamedArrays]:
    """Open a FITS file of spectra as named arrays.

    Parameters
    ----------
    path : path
        The file.
    is_compressed : bool
        Whether it is packed by gzip.
    hdu : int, str or None
        The HDU that holds the flux; None finds it.
    apstar : {"combined", "combined_global", "visits", "all"}
        Which rows of an apStar file.
    is_unit_known : bool
        Whether the caller says what the unit of wavelength is.

    Yields
    ------
    NamedArrays
        Flux, uncertainty, mask, wavelength, ids and labels, under names known.

    Raises
    ------
    FileFormatError
        When the file is damaged, or holds no spectra.
    DataError
        When its wavelengths cannot be told.
    """
    with open_fits(path, is_compressed=is_compressed) as file:
        with reading_fits(path):
            arrays = _arrange(file, hdu, apstar, is_unit_known)
        yield arrays


def _arrange(
    file: FitsFile, hdu: int | str | None, apstar: str, is_unit_known: bool
) -> NamedArrays:
    if hdu is None and _is_apvisit(file):
        return _hold_apvisit(file)
    if hdu is None and _is_apstar(file):
        return _arrange_apstar(file, apstar)
    main = _find_main(file) if hdu is None else find_hdu(file, hdu)
    if hdu is not None and not is_table(main):  # images of another shape belong to another HDU
        shape = find_image_shape(main)
        file = replace(
            file,
            hdus=[one for one in file.hdus if find_image_shape(one) in ((), shape, shape[-1:])],
        )
    arrange = _arrange_table if is_table(main) else _arrange_images
    return arrange(file, main, is_unit_known)


def _find_main(file: FitsFile) -> Any:
    """Find the HDU that holds flux: an image of that name, or named as nothing else, or a table with such a column."""
    images = [hdu for hdu in file.hdus if find_image_shape(hdu)]
    named = [hdu for hdu in images if hdu.name.lower() in FLUX]
    plain = [hdu for hdu in images if not is_pixel_name(hdu.name)]
    tables = [
        hdu
        for hdu in file.hdus
        if is_table(hdu) and any(name.lower() in FLUX for name in hdu.columns.names)
    ]
    if found := [*named, *plain, *tables]:
        return found[0]
    raise FileFormatError(
        f"{file.path} should hold the flux as an image, or as a column named {', '.join(FLUX)} of a"
        f" table, got HDUs {list_hdus(file)}: rename the column, unpack tiled images with funpack,"
        " or say which HDU it is, hdu=."
    )


# --- SDSS


def _is_apvisit(file: FitsFile) -> bool:
    """Whether HDUs 1 to 4 are flux, error, mask and wavelength (chip, pixel)."""
    images = file.hdus[1:5]
    shapes = {find_image_shape(hdu) for hdu in images}
    if (
        len(images) < 4
        or len(shapes) > 1
        or next(iter(shapes))[:-1] != (3,)
        or not _is_bitmask(images[2])
    ):
        return False
    # images (star, pixel) would have names, or a grid in the header
    has_words = str(images[3].header.get("BUNIT", "")).lower().startswith("wavelen")
    return has_words or not ("CRVAL1" in images[0].header or any(hdu.name for hdu in images))


def _is_apstar(file: FitsFile) -> bool:
    """Whether HDUs 1 and 2 are flux and error on APOGEE's grid of wavelengths."""
    primary, *images = file.hdus[:3]
    shapes = {find_image_shape(hdu) for hdu in images}
    if len(images) < 2 or len(shapes) > 1 or len(next(iter(shapes))) not in (1, 2):
        return False
    header = next((hdu.header for hdu in (images[0], primary) if "CRVAL1" in hdu.header), {})
    if not np.allclose(
        [header.get("CRVAL1", 0.0), header.get("CDELT1", 0.0)], _APOGEE_GRID, rtol=1e-4, atol=0
    ):
        return False
    # images (star, pixel) of other files on this grid have names
    return any(card in primary.header for card in ("NVISITS", "SFILE1")) or not any(
        hdu.name for hdu in images
    )


def _is_bitmask(hdu: Any) -> bool:
    return hdu.header["BITPIX"] > 0


def _hold_apvisit(file: FitsFile) -> NamedArrays:
    """Join the three chips in the order of wavelength; there is one star."""
    names = ("flux", "std", "bitmask", "wavelength")
    held = {
        name: store_image(file, hdu).load(ALL).reshape(-1)
        for name, hdu in zip(names, file.hdus[1:5], strict=True)
    }
    order = np.argsort(held["wavelength"], kind="stable")
    stored = {name: hold_array(array[order]) for name, array in held.items()}
    return name_arrays(
        stored | _find_ids(file), units={"wavelength": "Angstrom"}, mask_bits=APOGEE_BAD_BITS
    )


def _arrange_apstar(file: FitsFile, choice: str) -> NamedArrays:
    """Pick rows: spectra combined with weights of pixels and of visits, then visits; a single visit is one row."""
    primary, flux, error, *others = file.hdus
    shape = find_image_shape(flux)
    n_rows = shape[0] if len(shape) == 2 else 1
    ends = {
        "combined": (0, 1),
        "combined_global": (1, 2),
        "visits": (2, n_rows),
        "all": (0, n_rows),
    }
    first, last = ends[choice] if n_rows > 1 else (0, 1)
    if last > n_rows or first >= last:
        raise FileFormatError(
            f"{file.path} should have the rows of apstar={choice!r}, got an apStar file of {n_rows}"
            ' rows: two combined spectra, then visits; read what there is with apstar="all".'
        )
    images = {"flux": flux, "std": error}
    if (
        others and find_image_shape(others[0]) == shape and _is_bitmask(others[0])
    ):  # aspcapStar has a model there
        images["bitmask"] = others[0]
    picked = slice(first, last) if len(shape) == 2 else ALL
    stored = {name: store_image(file, hdu, picked) for name, hdu in images.items()}
    wavelength, _ = find_header_wavelength([flux.header, primary.header], shape[-1])
    stored["wavelength"] = hold_array(wavelength)
    for name, held in _find_ids(file).items():
        star = str(held.load(ALL))
        stored[name] = hold_array(
            [star if row < 2 else f"{star} visit {row - 1}" for row in range(first, last)]
        )
    return name_arrays(stored, units={"wavelength": "Angstrom"}, mask_bits=APOGEE_BAD_BITS)


def _find_ids(file: FitsFile) -> dict[str, StoredArray]:
    """Name of the one star of a file, as SDSS's headers or OBJECT have it."""
    header = file.hdus[0].header
    plate = [header.get(name) for name in ("PLATEID", "MJD", "FIBERID")]
    if all(isinstance(number, int) for number in plate):
        return {"ids": hold_array("{:04d}-{:05d}-{:04d}".format(*plate))}
    name = next((str(header[card]).strip() for card in ("OBJID", "OBJECT") if header.get(card)), "")
    return {"ids": hold_array(name)} if name else {}


# --- images and tables


def _arrange_images(file: FitsFile, main: Any, is_unit_known: bool) -> NamedArrays:
    """Images (pixel,) or (star, pixel): the flux, and others by their names; labels and ids from a table."""
    shape = find_image_shape(main)
    if len(shape) not in (1, 2):
        what = (
            f"an image of shape {shape}"
            if shape
            else "no image, and no table with a column of flux"
        )
        raise ShapeError(
            f"{file.path}: HDU {file.hdus.index(main)} should be an image (pixel,) or (star,"
            f" pixel), got {what}: save one plane on its own, or say which HDU holds the flux,"
            " hdu=."
        )
    n_stars = shape[0] if len(shape) == 2 else 1
    images = {
        hdu.name.lower(): hdu for hdu in file.hdus if hdu is not main and find_image_shape(hdu)
    }
    of_pixels = {
        name: store_image(file, hdu)
        for name, hdu in images.items()
        if is_pixel_name(name) and name not in FLUX
    }
    grid, units = _find_grid(file, main, shape[-1], is_unit_known)
    stored = grid | of_pixels | {"flux": store_image(file, main)}
    table = next(
        (hdu for hdu in file.hdus if is_table(hdu) and hdu.header["NAXIS2"] == n_stars), None
    )
    if table is not None:
        columns = store_columns(file, table)
        stored = {
            name: column for name, column in columns.items() if not is_pixel_name(name)
        } | stored
        units = find_column_units(table) | units
    return name_arrays(stored if n_stars > 1 else _find_ids(file) | stored, units=units)


def _arrange_table(file: FitsFile, main: Any, is_unit_known: bool) -> NamedArrays:
    """A table of one spectrum a row, or of one pixel a row."""
    columns = store_columns(file, main)
    if varying := [
        name for name in main.columns.names if is_pixel_name(name) and name not in columns
    ]:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have as many pixels in each row, got"
            f" {', '.join(varying)} of varying length: put the spectra on one grid, in columns of a"
            " fixed length such as 7214E."
        )
    stored = keep_pixel_columns(columns)
    units = find_column_units(main)
    flux = next((array for name, array in stored.items() if name.lower() in FLUX), None)
    if flux is None:
        raise FileFormatError(
            f"{file.path}: table {main.name!r} should have a column of one of the names"
            f" {', '.join(FLUX)}, got {', '.join(main.columns.names[:20])}: rename it, or say"
            " another HDU, hdu=."
        )
    if not any(_is_grid_name(name) for name in stored):
        grid, of_grid = _find_grid(file, main, flux.shape[-1], is_unit_known)
        stored = stored | grid
        units = units | of_grid
    return name_arrays(stored if len(flux.shape) > 1 else _find_ids(file) | stored, units=units)


def _is_grid_name(name: str) -> bool:
    return name.lower() in (*WAVELENGTH, *LOG_WAVELENGTH)


def _find_grid(
    file: FitsFile, main: Any, n_pixels: int, is_unit_known: bool
) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Wavelengths of an HDU of that name, else of the header; with their unit where it is stated."""
    for hdu in file.hdus:
        if _is_grid_name(hdu.name) and find_image_shape(hdu):
            name = hdu.name.lower()
            unit = hdu.header.get("BUNIT")
            return {name: store_image(file, hdu)}, {name: str(unit)} if unit else {}
    headers = (
        [main.header] if find_image_shape(file.hdus[0]) else [main.header, file.hdus[0].header]
    )
    wavelength, unit = find_header_wavelength(headers, n_pixels, is_unit_known=is_unit_known)
    if wavelength is None:
        return {}, {}
    return {"wavelength": hold_array(wavelength)}, {"wavelength": unit} if unit else {}
