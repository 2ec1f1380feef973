"""What the numbers along a spectrum are: their unit, logarithm and medium, and if they can be that.

Files spell units in many ways, store logarithms, and leave out what their authors took for granted.
What is written is understood here for all readers; what is not written is assumed only where the
numbers bear it out, and asked for otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from symspec.errors import DataError

if TYPE_CHECKING:
    from astropy.units import UnitBase

Scale = Literal["linear", "log10", "ln"]

ANGSTROM = "Angstrom"
_ASK = 'say what it is, wavelength_unit="Angstrom", "nm", "um", "cm-1", "dex(Angstrom)", ...'
_SCALES: dict[str, Scale] = {"dex": "log10", "log10": "log10", "log": "log10", "ln": "ln"}
_LOGARITHM = re.compile(r"\[?\s*(dex|log10|log|ln)\b\s*\(?\s*([^()\[\]]+?)\s*\)?\s*\]?", re.I)
_MEDIUM = re.compile(r"[\s,;]*[(\[]?\s*\b(air|vac|vacuum)\b\s*[)\]]?", re.I)
_SPELLINGS = {
    "a": "Angstrom",
    "ang": "Angstrom",
    "angs": "Angstrom",
    "nm": "nm",
    "um": "um",
    "mm": "mm",
    "cm": "cm",
    "m": "m",
    "nanometre": "nm",
    "cm-1": "cm-1",
    "1/cm": "cm-1",
    "hz": "Hz",
    "ghz": "GHz",
    "thz": "THz",
    "ev": "eV",
    "kev": "keV",
}
# in Angstrom: 1 Angstrom to 1 m for what is stated, and far less for what is not
_POSSIBLE = (1.0, 1e10)
_ASSUMED = (1000.0, 1e6)
_N_JUDGED = 8  # pixels, fewer tell nothing
_SMOOTH = 2e-4  # third difference, in steps: dispersions have 1e-8, flux 1e-2 and more
_SHARE = 0.9  # of the pixels; the others may lie at gaps between detectors


@dataclass(frozen=True, kw_only=True)
class SpectralUnit:
    """What the numbers along a spectrum are.

    Attributes
    ----------
    unit : str
        A unit of wavelength, wavenumber, frequency or energy, as astropy spells it.
    scale : {"linear", "log10", "ln"}
        Whether the numbers are logarithms of such quantities.
    medium : {"air", "vacuum"} or None
        None where it is not stated.
    """

    unit: str
    scale: Scale = "linear"
    medium: str | None = None


def parse_spectral_unit(text: str) -> SpectralUnit:
    """Understand a unit as headers, tables and callers spell it.

    Parameters
    ----------
    text : str
        A unit of length, wavenumber (``cm-1``), frequency or energy, in capitals or in the plural
        as in old headers, perhaps with its medium, ``Angstrom (Vacuum)``, or within a logarithm,
        ``dex(Angstrom)``, ``log(Angstrom)`` (base 10, as in the FITS standard), ``ln(Angstrom)``.

    Raises
    ------
    DataError
        It is no such unit.
    """
    inner = text.strip()
    medium = None
    if found := _MEDIUM.search(inner):
        medium = "air" if found[1].lower() == "air" else "vacuum"
        inner = (inner[: found.start()] + inner[found.end() :]).strip()
    scale: Scale = "linear"
    if found := _LOGARITHM.fullmatch(inner):
        scale = _SCALES[found[1].lower()]
        inner = found[2]
    unit = _find_unit(inner)
    if unit is None:
        raise DataError(
            "the unit of wavelength should be a length, a wavenumber, a frequency or an energy that"
            f' astropy.units knows, got {text!r}: write it as "Angstrom", "nm", "um", "cm-1", ...,'
            " or say what it is with wavelength_unit=."
        )
    return SpectralUnit(unit=unit, scale=scale, medium=medium)


def convert_to_wavelength(values: np.ndarray, unit: SpectralUnit) -> tuple[np.ndarray, str]:
    """Convert numbers along a spectrum to wavelengths in a unit of length, which is returned too.

    Lengths keep their unit, but for the metre, which becomes Angstrom, as wavenumbers, frequencies
    and energies do; these are of vacuum.
    """
    if unit.scale != "linear":
        with np.errstate(over="ignore"):
            values = 10.0**values if unit.scale == "log10" else np.exp(values)
    if is_length(unit.unit) and unit.unit != "m":
        return values, unit.unit
    from astropy import units

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quantity = units.Quantity(values, unit.unit)
        return quantity.to_value(units.AA, equivalencies=units.spectral()), ANGSTROM


def find_medium(unit: SpectralUnit) -> str | None:
    """Medium of wavelengths in this unit; wavenumbers, frequencies and energies are of vacuum."""
    return unit.medium or (None if is_length(unit.unit) else "vacuum")


def is_length(unit: str) -> bool:
    """Whether a unit, as astropy spells it, is one of length."""
    if unit == ANGSTROM:  # spares the import of astropy
        return True
    from astropy import units

    return bool(units.Unit(unit).is_equivalent(units.AA))


def is_spectral_unit(text: str) -> bool:
    """Whether `parse_spectral_unit` understands this."""
    try:
        parse_spectral_unit(text)
    except DataError:
        return False
    return True


def is_same_spectral_unit(one: str, other: str) -> bool:
    """Whether two spellings are one unit and one scale, whatever they say of the medium."""
    from astropy import units

    first = parse_spectral_unit(one)
    second = parse_spectral_unit(other)
    return first.scale == second.scale and units.Unit(first.unit) == units.Unit(second.unit)


def check_plausible(
    wavelength: np.ndarray, unit: str, name: str, *, assumed: str | None = None
) -> None:
    """Refuse wavelengths that no spectrum has, and ask where an assumed unit is not borne out.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (pixel,)
    unit : str
        Their unit, a length.
    name : str
        Name of the wavelengths, used in the error.
    assumed : str, optional
        Why stars in the optical or infrared are assumed, in words, such as "without a unit": from
        1000 Angstrom to 0.1 mm then, where numbers that are micrometres, logarithms, frequencies or
        most nanometres do not lie. By default from 1 Angstrom to 1 m.

    Raises
    ------
    DataError
        A wavelength lies outside.
    """
    from astropy import units

    shortest, longest = _POSSIBLE if assumed is None else _ASSUMED
    factor = 1.0 if unit == ANGSTROM else units.Unit(unit).to(units.AA)
    inside = (factor * wavelength >= shortest) & (factor * wavelength <= longest)
    if inside.all():
        return
    ends = f"numbers from {wavelength.min():.6g} to {wavelength.max():.6g}"
    if unit != ANGSTROM or assumed is None:
        ends += f" {unit}"
    if assumed is None:
        raise DataError(
            f"{name} should lie between 1 Angstrom and 1 m, got {ends}: correct the unit, or"
            f" {_ASK}."
        )
    raise DataError(
        f"{name} {assumed} should be in Angstrom, from 1,000 to 1,000,000, got {ends}: these"
        f" may be another unit, logarithms, or numbers of pixels; {_ASK}."
    )


def rises_like_wavelengths(values: np.ndarray) -> bool:
    """Whether numbers (pixel,) rise or fall from pixel to pixel as wavelengths do.

    They are positive, go one way, and their steps change so slowly from pixel to pixel as those of
    a dispersion, linear, logarithmic or a polynomial, within the rounding of float32; a tenth of
    the pixels may lie at gaps between detectors. Flux does not: its noise turns it round, and the
    steps of noiseless flux change more. Such an array may never be flux.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size < _N_JUDGED or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    goes_one_way = (steps >= 0).all() or (steps <= 0).all()
    if (values <= 0).any() or not goes_one_way or np.count_nonzero(steps) < _SHARE * steps.size:
        return False
    rounding = 8 * np.finfo(np.float32).eps * values[2:-1]
    change = np.abs(np.diff(values, n=3))
    is_smooth = change <= _SMOOTH * np.abs(steps[1:-1]) + rounding
    return bool(is_smooth.mean() >= _SHARE)


def _find_unit(name: str) -> str | None:
    """Unit of a spectral quantity as astropy spells it, or None."""
    if name == ANGSTROM:
        return name
    plain = name.lower().removesuffix("s")
    candidates = [name, _SPELLINGS.get(plain), _SPELLINGS.get(plain.replace("^", ""))]
    if len(name) >= 6:  # shorter ones are symbols, in which a capital means another unit
        candidates.append(plain)
    known = (unit for one in candidates if one and (unit := _parse(one)) is not None)
    unit = next(known, None)
    return None if unit is None else unit.to_string()


def _parse(name: str) -> UnitBase | None:
    from astropy import units

    try:
        unit = units.Unit(name)
        units.Quantity(1.0, unit).to(units.AA, equivalencies=units.spectral())
    # a foreign string may make the parser raise other errors than ValueError
    except Exception:
        return None
    return unit


def with_medium(unit: SpectralUnit, medium: str | None) -> SpectralUnit:
    """The unit with a medium stated elsewhere, if it states none itself."""
    return unit if unit.medium else replace(unit, medium=medium)
