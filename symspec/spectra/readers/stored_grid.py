"""Wavelengths among named arrays: their unit, their medium, and the order in which they rise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array
from symspec.safety.named_arrays import NamedArrays
from symspec.safety.stars import check_medium
from symspec.spectra.names import LOG_WAVELENGTH, find_grid_array
from symspec.spectra.readers.labels import read_strings
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.spectral_axis import (
    ANGSTROM,
    SpectralUnit,
    check_plausible,
    convert_to_wavelength,
    find_medium,
    is_same_spectral_unit,
    is_spectral_unit,
    parse_spectral_unit,
    with_medium,
)
from symspec.spectra.wavelengths import find_pixel_order


@dataclass(frozen=True, kw_only=True)
class StoredGrid:
    """Wavelengths of an open file, those of the first star.

    Attributes
    ----------
    name : str or None
        Of the array that holds them; None without one, and `wavelength` is None too.
    wavelength : numpy.ndarray, shape (pixel,), or None
        Rising, in `unit`.
    unit : str
    medium : {"air", "vacuum"} or None
    order : slice
        Takes stored pixels to the order of `wavelength`.
    stored : SpectralUnit
        What the stored numbers are.
    """

    name: str | None
    wavelength: np.ndarray | None
    unit: str
    medium: str | None
    order: slice
    stored: SpectralUnit


def find_stored_grid(
    arrays: NamedArrays, options: ReadOptions, n_stars: int, n_pixels: int, source: str
) -> StoredGrid:
    """Find the wavelengths of a file, in words of the caller or of its own.

    Raises
    ------
    ShapeError
        There is not one for each pixel.
    DataError
        They neither rise nor fall, are not plausible in the unit that is stated or assumed, or the
        caller contradicts the file.
    """
    name = find_grid_array(arrays, source, options.named)
    text = _find_unit_text(arrays, options, name)
    unit = parse_spectral_unit(text or ANGSTROM)
    if name is not None and name.lower() in LOG_WAVELENGTH and unit.scale == "linear":
        unit = replace(unit, scale="log10")
    medium = _find_medium(arrays, options, unit)
    if name is None:
        return StoredGrid(
            name=None,
            wavelength=None,
            unit=convert_to_wavelength(np.ones(1), replace(unit, scale="linear"))[1],
            medium=medium,
            order=slice(None),
            stored=unit,
        )
    shape = arrays.find_shape(name)
    if shape[-1:] != (n_pixels,) or shape[:-1] not in ((), (1,), (n_stars,)):
        advice = "give one wavelength for each pixel of flux"
        if len(shape) == 2:
            advice = "all stars share one grid, so resample their spectra to one and give that"
        raise ShapeError(f"{name} should have shape ({n_pixels},), got {shape}: {advice}.")
    first, length = _load(arrays, name, unit, slice(0, 1))
    order = find_pixel_order(first[0], name)
    assumed = "without a unit" if text is None else None
    if arrays.contents.is_known:
        assumed = f"of the layout {arrays.contents.layout}"
    check_plausible(first[0], length, name, assumed=assumed)
    return StoredGrid(
        name=name,
        wavelength=first[0][order],
        unit=length,
        medium=medium,
        order=order,
        stored=unit,
    )


def check_stored_grids(
    arrays: NamedArrays, grid: StoredGrid, rows: slice, n_stars: int, n_pixels: int
) -> None:
    """Refuse stars whose wavelengths are not those of the first.

    Raises
    ------
    ShapeError
        With the first such star.
    """
    if grid.name is None or arrays.find_shape(grid.name) != (n_stars, n_pixels):
        return  # none, or one grid for all stars
    grids = _load(arrays, grid.name, grid.stored, rows)[0][:, grid.order]
    if (other := (grids != grid.wavelength).any(axis=1)).any():
        raise ShapeError(
            f"{grid.name} should be the same for all stars, got another grid for star"
            f" {rows.start + rows.step * int(np.argmax(other))} than for star 0: read the stars"
            " of each grid on their own, resample them to one (symspec.resample), and join"
            " them; orders of one star are chosen by arm=."
        )


def _load(
    arrays: NamedArrays, name: str, unit: SpectralUnit, rows: slice
) -> tuple[np.ndarray, str]:
    """Wavelengths (star, pixel) or (1, pixel) of some stars as stored pixels lie, and the unit."""
    is_one = len(arrays.find_shape(name)) == 1
    stored = as_float_array(arrays.load(name) if is_one else arrays.load(name, rows), name)
    return convert_to_wavelength(np.atleast_2d(stored), unit)


def _find_unit_text(arrays: NamedArrays, options: ReadOptions, name: str | None) -> str | None:
    """The unit as file or caller spell it, None where neither says it."""
    strings = read_strings(arrays, "wavelength_unit")
    stated = strings[0] if strings else arrays.units.get(name or "")
    if stated and name is not None and name.lower() in LOG_WAVELENGTH:
        stated = stated if is_spectral_unit(stated) else None  # a logarithm may have none
    said = options.wavelength_unit
    if not stated or (said is not None and not is_spectral_unit(stated)):
        return said
    if said is not None and not is_same_spectral_unit(said, stated):
        raise DataError(
            f"wavelength_unit={said!r} should agree with the file, got {stated!r} there: leave"
            " wavelength_unit out."
        )
    return stated


def _find_medium(arrays: NamedArrays, options: ReadOptions, unit: SpectralUnit) -> str | None:
    """The medium that the file says, or else the caller."""
    strings = read_strings(arrays, "wavelength_medium")
    stated = strings[0].strip().lower() if strings else arrays.wavelength_medium
    known = find_medium(with_medium(unit, check_medium(stated or None)))
    said = options.wavelength_medium
    if said is not None and known not in (None, said):
        raise DataError(
            f"wavelength_medium={said!r} should agree with the file, got {known!r} there: leave"
            " wavelength_medium out."
        )
    return known or said
