"""Units of wavelengths, uncertainties and labels, air and vacuum, and the order of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.safety.arrays import as_float_array
from symspec.safety.stars import check_wavelength
from symspec.spectra.spectral_axis import (
    ANGSTROM,
    is_length,
    parse_spectral_unit,
)

SPEED_OF_LIGHT = 299792.458  # km/s
_POWERS = {"std": 1, "var": 2, "ivar": -2}
_SHORTEST_IN_AIR = 0.2  # um
_N_ITERATIONS = 5  # each gains four digits


def parse_unit(name: str) -> str:
    """Check a unit of length, and spell it as astropy does.

    Parameters
    ----------
    name : str
        The unit, e.g. "Angstrom", "nm", "um", also in capitals or in the plural as in headers.

    Raises
    ------
    DataError
        Astropy does not know it, or it is no length.
    """
    if name == ANGSTROM:  # spares the import of astropy
        return name
    try:
        spectral = parse_spectral_unit(name)
    except DataError:
        spectral = None
    if spectral is None or spectral.scale != "linear" or not is_length(spectral.unit):
        raise DataError(
            f"the unit of wavelength should be a length that astropy.units knows, got {name!r}:"
            ' write it as "Angstrom", "nm", "um", ..., or say what it is with wavelength_unit=.'
        )
    return spectral.unit


def is_same_unit(one: str, other: str) -> bool:
    """Whether two spellings are one unit, as micron and um are."""
    return one == other or find_length_factor(one, other) == 1.0


def find_length_factor(unit: str, wanted: str) -> float:
    """Factor that takes lengths from one unit to another."""
    from astropy import units

    return float(units.Unit(parse_unit(unit)).to(parse_unit(wanted)))


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
    """Convert wavelengths to another unit; the same array is returned for the same unit."""
    if is_same_unit(unit, wanted):
        return wavelength
    return wavelength * find_length_factor(unit, wanted)


def convert_medium(
    wavelength: np.ndarray, unit: str, medium: str | None, wanted: str | None
) -> np.ndarray:
    r"""Convert wavelengths between vacuum and air; the same array where it is not known from what.

    The refractive index of dry air at 15 C and 1 atm with 0.045 % of CO2 is

    .. math::
        n = 1 + 8.34254 \times 10^{-5} + \frac{0.02406147}{130 - \sigma^2}
            + \frac{0.00015998}{38.9 - \sigma^2}

    with :math:`\sigma = 1 / \lambda_{vac}` in 1/um, and
    :math:`\lambda_{air} = \lambda_{vac} / n` (Morton 2000, ApJS 130, 403, eq. 8,
    `doi:10.1086/317349`; the default of specutils, and VALD's). From air to vacuum it is solved by
    iteration. Below 2000 Angstrom, where air is opaque, both are the same.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (pixel,)
    unit : str
    medium, wanted : {"air", "vacuum"} or None
        That of `wavelength`, and that of the result.

    Returns
    -------
    numpy.ndarray, shape (pixel,)
    """
    if None in (medium, wanted) or medium == wanted:
        return wavelength
    factor = find_length_factor(unit, "um")
    if wanted == "air":
        return wavelength / _find_refractive_index(factor * wavelength)
    vacuum = wavelength
    for _ in range(_N_ITERATIONS):
        vacuum = wavelength * _find_refractive_index(factor * vacuum)
    return vacuum


def shift_to_rest_frame(wavelength: np.ndarray, radial_velocity: float) -> np.ndarray:
    r"""Wavelengths that a receding source emitted: observed ones without the Doppler shift.

    .. math:: \lambda_{rest} = \lambda \sqrt{(1 - \beta) / (1 + \beta)}, \quad \beta = v / c

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (pixel,)
        In vacuum.
    radial_velocity : float
        v in km/s, positive for a source that recedes.

    Raises
    ------
    OptionError
        It is not slower than light.
    """
    beta = radial_velocity / SPEED_OF_LIGHT
    if not abs(beta) < 1:
        raise OptionError(
            "radial_velocity should be in km/s and slower than light,"
            f" {SPEED_OF_LIGHT} km/s, got {radial_velocity!r}: correct it."
        )
    return wavelength * np.sqrt((1 - beta) / (1 + beta))


def _find_refractive_index(micrometers: np.ndarray) -> np.ndarray:
    """Refractive index of air at wavelengths of vacuum; 1 below 0.2 um."""
    squared = np.maximum(micrometers, _SHORTEST_IN_AIR) ** -2
    index = 1 + 8.34254e-5 + 2.406147e-2 / (130 - squared) + 1.5998e-4 / (38.9 - squared)
    return np.where(micrometers < _SHORTEST_IN_AIR, 1.0, index)


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
