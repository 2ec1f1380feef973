"""Wavelengths and the star's name in FITS headers."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.errors import DataError
from symspec.safety.named_arrays import LazyArray, hold_array
from symspec.spectra.names import is_grid_name
from symspec.spectra.readers.fits.file import (
    FitsFile,
    Hdu,
    Header,
    find_image_shape,
    find_image_unit,
    store_image,
)

_LINEAR = ("", "LINEAR", "WAVE", "AWAV", "WAVELENGTH", "LAMBDA")
_SHORTEST = 10.0  # Angstrom; below lie no wavelengths of a star, but perhaps their logarithms


def find_ids(file: FitsFile) -> dict[str, LazyArray]:
    """Name of the one star of a file, by SDSS's cards or OBJECT; empty without one."""
    header = file.hdus[0].header
    plate, mjd, fiber = (header.get(card) for card in ("PLATEID", "MJD", "FIBERID"))
    if isinstance(plate, int) and isinstance(mjd, int) and isinstance(fiber, int):
        return {"ids": hold_array(f"{plate:04d}-{mjd:05d}-{fiber:04d}")}
    name = header.get("OBJID") or header.get("OBJECT")
    return {"ids": hold_array(str(name).strip())} if name and str(name).strip() else {}


def find_grid(
    file: FitsFile, main: Hdu, n_pixels: int, *, is_unit_known: bool
) -> tuple[dict[str, LazyArray], dict[str, str]]:
    """Wavelengths of an image of that name, else of the header, and their unit if it is stated.

    Both are dicts by name, empty without wavelengths.
    """
    for hdu in file.hdus:
        if is_grid_name(hdu.name) and find_image_shape(hdu):
            name = hdu.name.lower()
            stated = find_image_unit(hdu)
            return {name: store_image(file, hdu)}, {name: stated} if stated else {}
    headers = [main.header]
    if not find_image_shape(file.hdus[0]):
        headers.append(file.hdus[0].header)
    wavelength, unit = find_header_wavelength(headers, n_pixels, is_unit_known=is_unit_known)
    if wavelength is None:
        return {}, {}
    return {"wavelength": hold_array(wavelength)}, {"wavelength": unit} if unit else {}


def find_header_wavelength(
    headers: list[Header], n_pixels: int, *, is_unit_known: bool = False
) -> tuple[np.ndarray | None, str | None]:
    r"""Compute the linear or logarithmic grid of wavelengths that a header describes.

    With p the pixel counted from 1, and d = CDELT1 or CD1_1:

    - CTYPE1 ending in ``-LOG``: CRVAL1 exp((p - CRPIX1) d / CRVAL1);
    - DC-FLAG = 1, or CTYPE1 with ``LOG`` in it: 10^(CRVAL1 + (p - CRPIX1) d);
    - DC-FLAG = 0 or none: CRVAL1 + (p - CRPIX1) d;
    - COEFF0 and COEFF1 (SDSS): 10^(COEFF0 + (p - 1) COEFF1).

    CRPIX1 is 1 by default. SDSS-V's tables write the names without the 1 (CRVAL, CDELT, ...).

    Parameters
    ----------
    headers : list of astropy header
        The first with any of these cards counts.
    n_pixels : int
    is_unit_known : bool
        Whether the caller states the unit.

    Returns
    -------
    wavelength : numpy.ndarray, shape (pixel,), or None
        None without such cards.
    unit : str or None
        CUNIT1, if it is there.

    Raises
    ------
    DataError
        Cards are missing or ambiguous.
    """
    for header in headers:
        if (start := _get(header, "CRVAL")) is not None:
            return _compute_grid(header, float(start), n_pixels, is_unit_known)
        if "COEFF0" in header and "COEFF1" in header:
            return _power(header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)), None
    return None, None


def _get(header: Header, name: str) -> Any:
    return header.get(f"{name}1", header.get(name))


def _compute_grid(
    header: Header, start: float, n_pixels: int, is_unit_known: bool
) -> tuple[np.ndarray | None, str | None]:
    kind = str(_get(header, "CTYPE") or "").strip().upper()
    unit = str(_get(header, "CUNIT") or "").strip() or None
    flag = header.get("DC-FLAG")
    if flag == -1:  # pixels without wavelengths, by IRAF's convention
        return None, None
    first = _get(header, "CRPIX")
    offset = (np.arange(n_pixels) + 1 - float(1 if first is None else first)) * _find_step(header)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if kind.endswith("-LOG"):
            return start * np.exp(offset / start), unit
        if flag == 1 or "LOG" in kind:
            return _power(start + offset), unit
    if kind not in _LINEAR:
        raise DataError(
            f"CTYPE1 should say that the grid is linear or logarithmic in wavelength, got {kind!r}:"
            " resample the spectra to such a grid, or store their wavelengths in an HDU named"
            " WAVELENGTH."
        )
    wavelength = start + offset
    is_unclear = unit is None and flag is None and not is_unit_known
    if is_unclear and (np.abs(wavelength) < _SHORTEST).all():
        raise DataError(
            "a header without CUNIT1 should be in Angstrom, got wavelengths from"
            f" {wavelength[0]:.6g} to {wavelength[-1]:.6g}: write DC-FLAG = 1 if these are"
            " logarithms, or say the unit, wavelength_unit=."
        )
    return wavelength, unit


def _find_step(header: Header) -> float:
    step = header.get("CD1_1", _get(header, "CDELT"))
    if step is None:
        raise DataError(
            "a header with CRVAL1 should say the step between pixels, got no CDELT1 nor CD1_1:"
            " write it."
        )
    return float(step)


def _power(logarithm: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 10.0**logarithm
