"""Wavelengths out of FITS headers: the linear and logarithmic grids that spectrographs write."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.errors import DataError

_LINEAR = ("", "LINEAR", "WAVE", "AWAV", "WAVELENGTH", "LAMBDA")
_SHORTEST = 10.0  # Angstrom; what is below is no wavelength of a star in that unit


def find_header_wavelength(
    headers: list[Any], n_pixels: int, *, is_unit_known: bool = False
) -> tuple[np.ndarray | None, str | None]:
    r"""Wavelengths of pixels, as a header says.

    With p the pixel counted from 1, and d = CDELT1 or CD1_1:

    - CTYPE1 ending in ``-LOG``: CRVAL1 exp((p - CRPIX1) d / CRVAL1);
    - DC-FLAG = 1, or CTYPE1 with ``LOG`` in it: 10^(CRVAL1 + (p - CRPIX1) d);
    - DC-FLAG = 0 or none: CRVAL1 + (p - CRPIX1) d;
    - COEFF0 and COEFF1 (SDSS): 10^(COEFF0 + (p - 1) COEFF1).

    CRPIX1 is 1 where it is not there. Names without the 1 (CRVAL, CDELT, ...) are those of SDSS-V's
    tables.

    Parameters
    ----------
    headers : list of astropy header
        The first that has any of these cards counts.
    n_pixels : int
        How many pixels there are.
    is_unit_known : bool
        Whether the caller says what the unit is.

    Returns
    -------
    wavelength : numpy.ndarray, shape (pixel,), or None
        None when no header says anything.
    unit : str or None
        CUNIT1; None where it is not there.

    Raises
    ------
    DataError
        When cards are missing, or do not say what they mean.
    """
    for header in headers:
        if (start := _get(header, "CRVAL")) is not None:
            cards = {name: _get(header, name) for name in ("CTYPE", "CUNIT", "CRPIX")}
            return _compute(header, float(start), cards, n_pixels, is_unit_known)
        if "COEFF0" in header and "COEFF1" in header:
            return _power(header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels)), None
    return None, None


def _get(header: Any, name: str) -> Any:
    return header.get(f"{name}1", header.get(name))


def _compute(
    header: Any, start: float, cards: dict[str, Any], n_pixels: int, is_unit_known: bool
) -> tuple[np.ndarray | None, str | None]:
    kind = str(cards["CTYPE"] or "").strip().upper()
    unit = str(cards["CUNIT"] or "").strip() or None
    if (flag := header.get("DC-FLAG")) == -1:  # IRAF's word for pixels without wavelengths
        return None, None
    offset = (
        np.arange(n_pixels) + 1 - float(1 if cards["CRPIX"] is None else cards["CRPIX"])
    ) * _find_step(header)
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
    if (
        unit is None
        and flag is None
        and not is_unit_known
        and (np.abs(wavelength) < _SHORTEST).all()
    ):
        raise DataError(
            "a header without CUNIT1 should be in Angstrom, got wavelengths from"
            f" {wavelength[0]:.6g} to {wavelength[-1]:.6g}: write DC-FLAG = 1 if these are"
            " logarithms, or say the unit, wavelength_unit=."
        )
    return wavelength, unit


def _find_step(header: Any) -> float:
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
