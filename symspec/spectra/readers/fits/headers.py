"""Wavelengths and the star's name in FITS headers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symspec.errors import DataError
from symspec.safety.named_arrays import LazyArray, hold_array
from symspec.spectra.names import NamedByCaller, is_grid_name, is_same_name
from symspec.spectra.readers.fits.file import (
    FitsFile,
    Hdu,
    Header,
    describe_hdu,
    find_image_shape,
    find_image_unit,
    store_image,
)
from symspec.spectra.spectral_axis import is_spectral_unit, parse_spectral_unit

_LINEAR = ("", "LINEAR", "WAVE", "AWAV", "WAVELENGTH", "LAMBDA")
# other quantities of the FITS standard, and the units that it gives them
_OTHERS = {"FREQ": "Hz", "WAVN": "m-1", "ENER": "J"}
_IN_AIR = "AWAV"  # WAVE, vacuum by the standard, is written of any wavelengths
_TURNED = ("PC1_2", "PC2_1", "CD1_2", "CD2_1")
_WAT = re.compile(r"""(\w+)\s*=\s*("[^"]*"|[^\s"]+)""")


@dataclass(frozen=True, kw_only=True)
class HeaderGrid:
    """Numbers along a spectrum that a header describes.

    Attributes
    ----------
    values : numpy.ndarray, shape (pixel,), or None
        None: the header says that pixels have none, or nothing.
    unit : str or None
        As the header spells it.
    medium : {"air", "vacuum"} or None
    """

    values: np.ndarray | None = None
    unit: str | None = None
    medium: str | None = None


@dataclass(frozen=True, kw_only=True)
class FoundGrid:
    """Wavelengths of a file: as named arrays, empty without any.

    Attributes
    ----------
    arrays : mapping of str to LazyArray
    units, sources : mapping of str to str
        By the same names.
    medium : {"air", "vacuum"} or None
    hdu : astropy HDU or None
        The one that holds them as an image.
    """

    arrays: dict[str, LazyArray] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    medium: str | None = None
    hdu: Hdu | None = None


def find_ids(file: FitsFile) -> dict[str, LazyArray]:
    """Name of the one star of a file, by SDSS's cards or OBJECT; empty without one."""
    header = file.hdus[0].header
    plate, mjd, fiber = (header.get(card) for card in ("PLATEID", "MJD", "FIBERID"))
    if isinstance(plate, int) and isinstance(mjd, int) and isinstance(fiber, int):
        return {"ids": hold_array(f"{plate:04d}-{mjd:05d}-{fiber:04d}")}
    name = header.get("OBJID") or header.get("OBJECT")
    return {"ids": hold_array(str(name).strip())} if name and str(name).strip() else {}


def find_grid(file: FitsFile, main: Hdu, n_pixels: int, named: NamedByCaller) -> FoundGrid:
    """Wavelengths of an image of that name, else of the header of the flux or the first header."""
    for hdu in file.hdus:
        is_grid = is_same_name(hdu.name, named.wavelength) or (
            named.wavelength is None and is_grid_name(hdu.name)
        )
        if is_grid and hdu is not main and find_image_shape(hdu):
            name = hdu.name.lower()
            stated = find_image_unit(hdu)
            return FoundGrid(
                arrays={name: store_image(file, hdu)},
                units={name: stated} if stated else {},
                sources={name: describe_hdu(file, hdu)},
                medium=find_card_medium(hdu.header),
                hdu=hdu,
            )
    headers = [main.header]
    if not find_image_shape(file.hdus[0]):
        headers.append(file.hdus[0].header)
    return hold_grid(find_header_grid(headers, n_pixels))


def hold_grid(grid: HeaderGrid) -> FoundGrid:
    """The grid of a header as named arrays."""
    if grid.values is None:
        return FoundGrid()
    return FoundGrid(
        arrays={"wavelength": hold_array(grid.values)},
        units={"wavelength": grid.unit} if grid.unit else {},
        sources={"wavelength": "the header"},
        medium=grid.medium,
    )


def find_header_grid(headers: list[Header], n_pixels: int) -> HeaderGrid:
    r"""Compute the linear or logarithmic grid of wavelengths that a header describes.

    With p the pixel counted from 1, and d = CD1_1, or CDELT1 PC1_1:

    - CTYPE1 ending in ``-LOG``: CRVAL1 exp((p - CRPIX1) d / CRVAL1);
    - DC-FLAG = 1, or CTYPE1 with ``LOG`` in it: 10^(CRVAL1 + (p - CRPIX1) d);
    - DC-FLAG = 0 or none: CRVAL1 + (p - CRPIX1) d;
    - COEFF0 and COEFF1 (SDSS): 10^(COEFF0 + (p - 1) COEFF1).

    CRPIX1 and PC1_1 are 1 by default. SDSS-V's tables write the names without the 1 (CRVAL, CDELT,
    ...). The unit is that of CUNIT1, or else of IRAF's WAT1_001; the medium that of the unit,
    ``Angstrom (Vacuum)``, of AIRORVAC or VACUUM, or that of CTYPE1 = AWAV.

    Parameters
    ----------
    headers : list of astropy header
        The first with any of these cards counts.
    n_pixels : int

    Raises
    ------
    DataError
        Cards are missing or ambiguous.
    """
    for header in headers:
        if (start := _get(header, "CRVAL")) is not None:
            return _compute_grid(header, float(start), n_pixels)
        if "COEFF0" in header and "COEFF1" in header:
            values = _power(header["COEFF0"] + header["COEFF1"] * np.arange(n_pixels))
            return HeaderGrid(values=values, medium=find_card_medium(header))
    return HeaderGrid()


def find_card_medium(header: Header) -> str | None:
    """Medium of wavelengths by the cards AIRORVAC = 'air' | 'vac', or VACUUM = T | F."""
    word = str(header.get("AIRORVAC", "")).strip().lower()
    if word:
        return {"a": "air", "v": "vacuum"}.get(word[0])
    flag = header.get("VACUUM")
    return {True: "vacuum", False: "air"}[flag] if isinstance(flag, bool) else None


def parse_wat(header: Header, axis: int) -> dict[str, str]:
    """Attributes of an axis in IRAF's cards WATn_001, WATn_002, ..., which continue each other."""
    text = ""
    number = 1
    while (card := header.get(f"WAT{axis}_{number:03d}")) is not None:
        text += str(card).ljust(68)  # blanks at the end of a card are not stored
        number += 1
    return {name.lower(): value.strip('"') for name, value in _WAT.findall(text)}


def _get(header: Header, name: str) -> Any:
    return header.get(f"{name}1", header.get(name))


def _compute_grid(header: Header, start: float, n_pixels: int) -> HeaderGrid:
    kind = str(_get(header, "CTYPE") or "").strip().upper()
    unit = str(_get(header, "CUNIT") or parse_wat(header, 1).get("units") or "").strip()
    medium = find_card_medium(header) or ("air" if kind.startswith(_IN_AIR) else None)
    flag = header.get("DC-FLAG")
    if flag == -1:  # pixels without wavelengths, by IRAF's convention
        return HeaderGrid()
    first = _get(header, "CRPIX")
    offset = (np.arange(n_pixels) + 1 - float(1 if first is None else first)) * _find_step(header)
    is_logarithm = flag == 1 or ("LOG" in kind and not kind.endswith("-LOG"))
    values = start + offset
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if kind.endswith("-LOG"):
            values = start * np.exp(offset / start)
        elif is_logarithm and not _is_logarithmic(unit):
            values = _power(values)
        elif kind not in (*_LINEAR, *_OTHERS) and not is_logarithm:
            raise DataError(
                "CTYPE1 should say that the grid is linear or logarithmic in wavelength, got"
                f" {kind!r}: resample the spectra to such a grid, or store their wavelengths in an"
                " HDU named WAVELENGTH."
            )
    return HeaderGrid(values=values, unit=unit or _OTHERS.get(kind) or None, medium=medium)


def _is_logarithmic(unit: str) -> bool:
    return is_spectral_unit(unit) and parse_spectral_unit(unit).scale != "linear"


def _find_step(header: Header) -> float:
    if turned := [card for card in _TURNED if header.get(card)]:
        raise DataError(
            f"wavelengths should run along the first axis alone, got {turned[0]} ="
            f" {header[turned[0]]!r}, which mixes it with another: resample the image, or store its"
            " wavelengths in an HDU named WAVELENGTH."
        )
    step = header.get("CD1_1")
    if step is None and (step := _get(header, "CDELT")) is not None:
        step = step * header.get("PC1_1", 1.0)
    if step is None:
        raise DataError(
            "a header with CRVAL1 should say the step between pixels, got no CDELT1 nor CD1_1:"
            " write it."
        )
    return float(step)


def _power(logarithm: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 10.0**logarithm
