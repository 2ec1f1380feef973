"""Units of wavelengths, uncertainties and labels, by astropy, and the order of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array
from symspec.safety.stars import check_wavelength

if TYPE_CHECKING:
    from astropy.units import UnitBase

DEFAULT_UNIT = "Angstrom"
_POWERS = {"std": 1, "var": 2, "ivar": -2}


def parse_unit(name: str) -> str:
    """Check a unit of length, and spell it as astropy does.

    Parameters
    ----------
    name : str
        The unit, e.g. "Angstrom", "nm", "um".

    Raises
    ------
    DataError
        Astropy does not know it, or it is no length.
    """
    if name == DEFAULT_UNIT:  # spares the import of astropy
        return name
    from astropy import units

    try:
        unit = _parse(name)
        unit.to(units.AA)
    # a foreign string may make the parser raise other errors than ValueError
    except Exception:
        raise DataError(
            f"the unit of wavelength should be a length that astropy.units knows, got {name!r}:"
            ' write it as "Angstrom", "nm", "um", ..., or say what it is with wavelength_unit=.'
        ) from None
    return unit.to_string()


def _parse(name: str) -> UnitBase:
    """Parse a unit, also in capitals or in the plural as in headers: ANGSTROMS, Microns."""
    from astropy import units

    try:
        return units.Unit(name)
    except ValueError:
        if len(name) < 6:  # a symbol, in which a capital means another unit
            raise
        return units.Unit(name.lower().removesuffix("s"))


def is_same_unit(one: str, other: str) -> bool:
    """Whether two spellings are one unit, as micron and um are."""
    return one == other or _parse(parse_unit(one)) == _parse(parse_unit(other))


def is_unit(name: str) -> bool:
    """Whether `parse_unit` understands this name."""
    try:
        parse_unit(name)
    except DataError:
        return False
    return True


def find_unit_factor(unit: str | None, flux_unit: str | None, kind: str, name: str) -> float:
    """Find the factor that takes an uncertainty to the units of the flux, or a power of them.

    Parameters
    ----------
    unit, flux_unit : str or None
        Units of uncertainty and flux, None where none is stated.
    kind : {"std", "var", "ivar"}
        Kind of uncertainty, whose unit is that of the flux to the power 1, 2 or -2.
    name : str
        Name of the uncertainty, used in the error.

    Returns
    -------
    float
        1 if one of the units is not stated, or unknown to astropy.

    Raises
    ------
    DataError
        The unit is not one of this kind of uncertainty.
    """
    if unit == flux_unit and kind == "std":
        return 1.0
    if (known := _recognize(unit, flux_unit)) is None:
        return 1.0
    from astropy import units

    stated, of_flux = known
    try:
        return float(stated.to(of_flux ** _POWERS[kind]))
    except units.UnitsError:
        raise DataError(
            f"{name} as {kind} should have the flux's unit, {of_flux}, to the power"
            f' {_POWERS[kind]}, got {stated}: say what it is, uncertainty="std" | "var" | "ivar",'
            " or correct its unit."
        ) from None


def find_label_factor(unit: str, wanted: str, name: str) -> float:
    """Find the factor that takes a label from one unit to another.

    Parameters
    ----------
    unit, wanted : str
        "" where none is stated. A bare dex or mag stands for that of any quantity.
    name : str
        Name of the label, used in the error.

    Returns
    -------
    float
        1 if one of the units is not stated, or unknown to astropy.

    Raises
    ------
    DataError
        The one does not convert to the other.
    """
    if unit == wanted or (both := _recognize(unit, wanted)) is None:
        return 1.0
    from astropy import units

    scales = [getattr(one, "function_unit", None) for one in both]
    if scales.count(None) == 1:
        both = [one if scale is None else scale for one, scale in zip(both, scales, strict=True)]
    try:
        return float(both[0].to(both[1]))
    except units.UnitsError:
        raise DataError(
            f"the label {name} should be in {wanted}, or a unit that converts to it, got {unit}:"
            " convert it, or correct its unit."
        ) from None


def _recognize(*names: str | None) -> list[Any] | None:
    """Units of these names; None if one is not stated, or unknown to astropy."""
    if not all(names):
        return None
    from astropy import units

    known = [units.Unit(name, parse_strict="silent") for name in names]
    return None if any(isinstance(one, units.UnrecognizedUnit) for one in known) else known


def convert_wavelength(wavelength: np.ndarray, unit: str, wanted: str) -> np.ndarray:
    """Convert wavelengths, vacuum or air alike; the same array is returned for the same unit."""
    if is_same_unit(unit, wanted):
        return wavelength
    return wavelength * _parse(unit).to(_parse(wanted))


def find_pixel_order(wavelength: ArrayLike, name: str = "wavelength") -> slice:
    """Find the order of pixels in which wavelengths rise.

    Parameters
    ----------
    wavelength : array_like, shape (pixel,)
        Wavelengths that rise or fall.
    name : str
        Name of the wavelengths, used in the error.

    Returns
    -------
    slice
        All pixels, or all of them backwards.

    Raises
    ------
    ShapeError
        There is not one axis.
    DataError
        A wavelength is negative, not finite, occurs twice, or breaks the order.
    """
    wavelength = as_float_array(wavelength, name)
    if wavelength.ndim != 1:
        raise ShapeError(
            f"{name} should have shape (pixel,), got {wavelength.shape}: give one for each pixel."
        )
    check_wavelength(wavelength, name)
    steps = np.diff(wavelength)
    if (steps > 0).all():
        return slice(None)
    if (steps < 0).all():
        return slice(None, None, -1)
    # steps against the direction of most
    rises = np.count_nonzero(steps > 0) >= np.count_nonzero(steps < 0)
    bad = steps <= 0 if rises else steps >= 0
    first = int(np.argmax(bad))
    found = "twice the same" if steps[first] == 0 else "unordered ones"
    raise DataError(
        f"{name} should rise or fall from pixel to pixel, got {found} at {np.count_nonzero(bad)}"
        f" places (first: pixel {first} is {wavelength[first]:.10g}, pixel {first + 1} is"
        f" {wavelength[first + 1]:.10g}): sort the pixels by wavelength, in flux and uncertainty"
        " alike, and keep one of those that are equal."
    )
