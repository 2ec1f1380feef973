"""Spectra in memory as named arrays: astropy tables, and objects like those of specutils.

Specutils itself is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.safety.named_arrays import NamedArrays, hold_array, name_arrays
from symspec.spectra.names import is_id_name, keep_pixel_columns
from symspec.spectra.pixels import UNCERTAINTY_KINDS

_UNKNOWN_KIND = "uncertainty"  # an ambiguous name, so that the caller has to say
_EXPECTED = "a path, an astropy Table, or objects with flux and spectral_axis (specutils)"


def arrange_object(source: Any) -> NamedArrays:
    """Arrange a table, a spectrum or a list of spectra as named arrays.

    Parameters
    ----------
    source : astropy Table, spectrum, or sequence of spectra
        A spectrum has `flux` (..., pixel) and `spectral_axis` (pixel,), and may have `uncertainty`,
        of `uncertainty_type` "std", "var" or "ivar", and `mask`.

    Returns
    -------
    NamedArrays
        With the units of the source.

    Raises
    ------
    DataError
        It is something else, or the spectra of a list hold different arrays.
    ShapeError
        They are on different grids.
    """
    if hasattr(source, "colnames") and hasattr(source, "columns"):
        return _arrange_table(source)
    if _is_spectrum(source):
        return _join([source])
    if isinstance(source, Sequence) and not isinstance(source, str | bytes) and len(source):
        if all(_is_spectrum(one) for one in source):
            return _join(source)
        raise DataError(
            f"spectra should be {_EXPECTED}, got a list with other things in it: read each on its"
            " own."
        )
    raise DataError(
        f"spectra should be {_EXPECTED}, got {type(source).__name__}: use symspec.Spectra for plain"
        " arrays."
    )


def _is_spectrum(source: Any) -> bool:
    return hasattr(source, "flux") and hasattr(source, "spectral_axis")


def _arrange_table(table: Any) -> NamedArrays:
    stored = {name: hold_array(_fill(table[name], name)) for name in table.colnames}
    units = {
        name: str(unit)
        for name in table.colnames
        if (unit := getattr(table[name], "unit", None)) is not None
    }
    return name_arrays(keep_pixel_columns(stored), units=units)


def _fill(column: Any, name: str) -> np.ndarray:
    """Fill masked values of a column with NaN, or with empty strings, as those of names are."""
    mask = getattr(column, "mask", None)
    values = np.asarray(getattr(column, "value", getattr(column, "data", column)))
    plain = np.asarray(getattr(values, "unmasked", values))
    if mask is None or not np.any(mask):
        return plain
    if plain.dtype.kind in "biuf" and not is_id_name(name):
        return np.where(mask, np.nan, plain.astype(np.float64))
    return np.where(mask, "", plain.astype(str))


def _join(spectra: Sequence[Any]) -> NamedArrays:
    """Stack spectra on one grid that hold the same arrays in the same units."""
    held = [_hold(spectrum) for spectrum in spectra]
    arrays, units = held[0]
    for i, (other, other_units) in enumerate(held):
        if other.keys() != arrays.keys() or other_units != units:
            raise DataError(
                "spectra of a list should hold the same in the same units, got"
                f" {_describe(arrays, units)} in spectrum 0, {_describe(other, other_units)} in"
                f" spectrum {i}: convert them, or read them apart."
            )
        grid = arrays["wavelength"]
        other_grid = other["wavelength"]
        if grid.shape != other_grid.shape or not np.array_equal(grid, other_grid):
            raise ShapeError(
                f"spectra of a list should be on one grid, got another for spectrum {i} than for"
                " spectrum 0: resample each (symspec.resample), or read them apart."
            )
    stacked = {
        name: np.concatenate([np.atleast_2d(other[name]) for other, _ in held]) for name in arrays
    }
    stacked["wavelength"] = arrays["wavelength"]
    if len(held) == 1 and arrays["flux"].ndim == 1:
        stacked = arrays
    return name_arrays({name: hold_array(array) for name, array in stacked.items()}, units=units)


def _describe(arrays: dict[str, np.ndarray], units: dict[str, str]) -> str:
    return ", ".join(f"{name} [{units[name]}]" if units.get(name) else name for name in arrays)


def _hold(spectrum: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of a spectrum by name, and their units by name."""
    flux, unit = _split(spectrum.flux)
    arrays = {"flux": flux}
    units = {"flux": unit}
    if (uncertainty := getattr(spectrum, "uncertainty", None)) is not None:
        kind = getattr(uncertainty, "uncertainty_type", None)
        name = kind if kind in UNCERTAINTY_KINDS else _UNKNOWN_KIND
        arrays[name] = _fill(uncertainty.array, name)
        units[name] = _name_unit(getattr(uncertainty, "unit", None))
    mask = getattr(spectrum, "mask", None)
    arrays["mask"] = np.zeros(flux.shape, dtype=bool) if mask is None else np.asarray(mask)
    arrays["wavelength"], units["wavelength"] = _find_wavelength(spectrum.spectral_axis)
    return arrays, {name: unit for name, unit in units.items() if unit}


def _find_wavelength(axis: Any) -> tuple[np.ndarray, str]:
    """Wavelengths of an axis of wavelengths, frequencies, energies or wavenumbers (in vacuum)."""
    from astropy import units

    try:
        axis = units.Quantity(axis)
        unit = axis.unit if axis.unit.is_equivalent(units.AA) else units.AA
        wavelength = axis.to_value(unit, equivalencies=units.spectral())
        return _fill(wavelength, "wavelength"), unit.to_string()
    except (TypeError, ValueError) as error:  # units that do not convert are both
        raise DataError(
            "spectral_axis should be wavelengths, or frequencies or energies that give them, got"
            f" {axis!r:.80}: give it such a unit (astropy.units)."
        ) from error


def _split(flux: Any) -> tuple[np.ndarray, str]:
    return _fill(flux, "flux"), _name_unit(getattr(flux, "unit", None))


def _name_unit(unit: Any) -> str:
    return "" if unit is None else str(unit)
