"""Wavelength grids: their units, as astropy knows them, and the order of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.safety.checks import as_float_array, check_finite

DEFAULT_UNIT = "Angstrom"
_POWERS = {"std": 1, "var": 2, "ivar": -2}


def parse_unit(word: str) -> str:
    """Check a unit of length, and give it the spelling that astropy does.

    Parameters
    ----------
    word : str
        The unit, e.g. "Angstrom", "nm", "um".

    Returns
    -------
    str
        The unit as `astropy.units` writes it.

    Raises
    ------
    DataError
        When astropy does not know it, or it is no length.
    """
    if word == DEFAULT_UNIT:  # spares the import of astropy
        return word
    from astropy import units

    try:
        unit = _parse(word)
        unit.to(units.AA)
    # a foreign string may make the parser raise other things than ValueError
    except Exception:
        raise DataError(
            f"the unit of wavelength should be a length that astropy.units knows, got {word!r}:"
            ' write it as "Angstrom", "nm", "um", ..., or say what it is with wavelength_unit=.'
        ) from None
    return unit.to_string()


def _parse(word: str) -> Any:
    """An astropy unit, also of a name in capitals or in the plural, as headers have them: ANGSTROMS, Microns."""
    from astropy import units

    try:
        return units.Unit(word)
    except ValueError:
        if len(word) < 6:  # short ones are symbols, in which a capital is another unit
            raise
        return units.Unit(word.lower().removesuffix("s"))


def is_same_unit(one: str, other: str) -> bool:
    """Whether two units are one, however they are spelt: micron and um."""
    return one == other or _parse(parse_unit(one)) == _parse(parse_unit(other))


def is_unit(word: str) -> bool:
    """Whether `parse_unit` understands this word."""
    try:
        parse_unit(word)
    except DataError:
        return False
    return True


def find_unit_factor(unit: str | None, flux_unit: str | None, kind: str, name: str) -> float:
    """Find what an uncertainty has to be multiplied with to be in the units of the flux, or a power of them.

    Parameters
    ----------
    unit, flux_unit : str or None
        Units of uncertainty and flux as they are stated, if they are.
    kind : {"std", "var", "ivar"}
        What the uncertainty is: its units are those of the flux to the power 1, 2 or -2.
    name : str
        What the uncertainty is called, used in the error.

    Returns
    -------
    float
        1 where one of the units is not stated, or unknown to astropy.

    Raises
    ------
    DataError
        When the units cannot be those of this kind of uncertainty.
    """
    if not unit or not flux_unit or (unit == flux_unit and kind == "std"):
        return 1.0
    from astropy import units

    stated, of_flux = (units.Unit(word, parse_strict="silent") for word in (unit, flux_unit))
    if isinstance(stated, units.UnrecognizedUnit) or isinstance(of_flux, units.UnrecognizedUnit):
        return 1.0
    try:
        return float(stated.to(of_flux ** _POWERS[kind]))
    except units.UnitsError:
        raise DataError(
            f"{name} as {kind} should have the flux's unit, {of_flux}, to the power"
            f' {_POWERS[kind]}, got {stated}: say what it is, uncertainty="std" | "var" | "ivar",'
            " or correct its unit."
        ) from None


def convert_wavelength(wavelength: np.ndarray, unit: str, wanted: str) -> np.ndarray:
    """Wavelengths in another unit; the same array where the two are one. Vacuum and air are left as they are."""
    if is_same_unit(unit, wanted):
        return wavelength
    return wavelength * _parse(unit).to(_parse(wanted))


def find_pixel_order(wavelength: Any, name: str = "wavelength") -> slice:
    """Find the order of pixels in which wavelengths rise.

    Parameters
    ----------
    wavelength : array_like, shape (pixel,)
        Wavelengths that rise or fall.
    name : str
        What they are called, used in the error.

    Returns
    -------
    slice
        All pixels, or all of them backwards.

    Raises
    ------
    ShapeError
        When there is not one axis.
    DataError
        When a wavelength is not finite, occurs twice, or breaks the order.
    """
    wavelength = as_float_array(wavelength, name)
    if wavelength.ndim != 1:
        raise ShapeError(
            f"{name} should have shape (pixel,), got {wavelength.shape}: give one for each pixel."
        )
    check_finite(wavelength, name, ("pixel",), "drop these pixels from flux, ivar and wavelength")
    steps = np.diff(wavelength)
    if (steps > 0).all():
        return slice(None)
    if (steps < 0).all():
        return slice(None, None, -1)
    # a step against the direction that most take
    bad = steps <= 0 if np.count_nonzero(steps > 0) >= np.count_nonzero(steps < 0) else steps >= 0
    first = int(np.argmax(bad))
    what = "twice the same" if steps[first] == 0 else "unordered ones"
    raise DataError(
        f"{name} should rise or fall from pixel to pixel, got {what} at {np.count_nonzero(bad)}"
        f" places (first: pixel {first} is {wavelength[first]:.10g}, pixel {first + 1} is"
        f" {wavelength[first + 1]:.10g}): sort the pixels by wavelength, in flux and uncertainty"
        " alike, and keep one of those that are equal."
    )
