"""Arms of a spectrograph, or orders of one, as one spectrum: chosen, or joined, never dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import DataError, OptionError
from symspec.safety.arrays import as_float_array
from symspec.safety.named_arrays import ALL, LazyArray, hold_array
from symspec.spectra.pixels import find_bad_bits, find_ivar
from symspec.spectra.readers.fits.file import FitsOptions
from symspec.spectra.wavelengths import find_pixel_order

_N_LISTED = 8  # names in an error
_SAME = 0.01  # of a pixel, within which two arms have the same pixel
_APART = 0.75  # of a pixel, by which others are at least


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Part of a spectrum.

    Attributes
    ----------
    name : str
    wavelength : numpy.ndarray, shape (pixel,)
        In a unit that all arms share.
    flux : LazyArray, shape (star, pixel)
    error, mask : LazyArray, shape (star, pixel), or None
    """

    name: str
    wavelength: np.ndarray
    flux: LazyArray
    error: LazyArray | None = None
    mask: LazyArray | None = None


def choose_arms(arms: Sequence[Arm], wanted: str | int | None, path: Path) -> list[Arm]:
    """Arms of the names that the caller gives, "B" or "B,R"; by default all of them.

    Raises
    ------
    OptionError
        There is none of a name.
    DataError
        Several have the same.
    """
    if wanted is None:
        return list(arms)
    known = {arm.name.upper(): arm for arm in arms}
    if len(known) < len(arms):
        raise DataError(
            f"{path}: arms or orders should have names of their own, got {_list_names(arms)}: they"
            " cannot be told apart by arm=."
        )
    names = [name.strip().upper() for name in str(wanted).split(",")]
    if missing := [name for name in names if name not in known]:
        raise OptionError(
            f"arm={wanted!r} should name some of the arms or orders of {path},"
            f" {_list_names(arms)}, got {missing[0]!r}: correct arm=."
        )
    return [known[name] for name in dict.fromkeys(names)]


def join_arms(
    arms: Sequence[Arm], kind: str, options: FitsOptions, path: Path
) -> dict[str, LazyArray]:
    """Flux, uncertainty, mask and wavelengths of arms as of one spectrum.

    Where arms overlap they have to share pixels. Their mean is taken there, weighted by the inverse
    variances of good pixels, whose sum is its inverse variance.

    Parameters
    ----------
    arms : sequence of Arm
    kind : {"std", "var", "ivar"}
        What the errors of the arms are.
    options : FitsOptions
    path : Path
        For errors.

    Raises
    ------
    DataError
        Arms overlap on different pixels, or without errors, or only some have errors or masks.
    """
    wavelength, places = _join_grids(arms, path)
    arrays = {"wavelength": hold_array(wavelength)}
    has_errors = _have_all(arms, "error", path)
    is_shared = np.bincount(np.concatenate(places), minlength=wavelength.size) > 1
    if is_shared.any() and not has_errors:
        raise DataError(
            f"{path}: arms that overlap should come with errors, by which their mean is weighted,"
            f" got none for {_list_names(arms)}: choose one, arm=."
        )
    shape = (arms[0].flux.shape[0], wavelength.size)
    joined = _Joined(arms, places, is_shared, kind, options)
    arrays["flux"] = LazyArray(shape, joined.load_flux)
    if has_errors:
        arrays["ivar" if is_shared.any() else kind] = LazyArray(shape, joined.load_errors)
    if _have_all(arms, "mask", path):
        arrays["bitmask"] = LazyArray(shape, joined.load_masks)
    return arrays


@dataclass(frozen=True)
class _Joined:
    """Arms, and the places of their pixels in the joined spectrum."""

    arms: Sequence[Arm]
    places: Sequence[np.ndarray]
    is_shared: np.ndarray
    kind: str
    options: FitsOptions

    def load_flux(self, rows: slice) -> np.ndarray:
        flux = self._place(lambda arm: arm.flux, rows)
        if not self.is_shared.any():
            return flux
        weighted = np.zeros(flux.shape)
        weights = np.zeros(flux.shape)
        for arm, place in zip(self.arms, self.places, strict=True):
            ivar = self._find_ivar(arm, rows)
            values = as_float_array(arm.flux.load(rows), "flux")
            weighted[:, place] += ivar * np.where(ivar > 0, values, 0.0)
            weights[:, place] += ivar
        is_mean = self.is_shared & (weights > 0)
        flux = as_float_array(flux, "flux")
        flux[is_mean] = weighted[is_mean] / weights[is_mean]
        return flux

    def load_errors(self, rows: slice) -> np.ndarray:
        if not self.is_shared.any():
            return self._place(lambda arm: arm.error, rows)
        stored = as_float_array(self._place(lambda arm: arm.error, rows), self.kind)
        total = np.zeros(stored.shape)
        for arm, place in zip(self.arms, self.places, strict=True):
            total[:, place] += self._find_ivar(arm, rows)
        is_unknown = (total == 0) & ~np.isfinite(stored)  # not the same as no information
        return np.where(is_unknown, np.nan, total)

    def load_masks(self, rows: slice) -> np.ndarray:
        """Bits of pixels; of shared ones those that all arms have."""
        masks = self._place(lambda arm: arm.mask, rows)
        for arm, place in zip(self.arms, self.places, strict=True):
            if arm.mask is not None:
                masks[:, place] &= arm.mask.load(rows)
        return masks

    def _place(self, pick: Callable[[Arm], LazyArray | None], rows: slice) -> np.ndarray:
        """An array of every arm side by side; at shared pixels that of the first arm."""
        picked = (pick(arm) for arm in self.arms)
        loaded = [array.load(rows) for array in picked if array is not None]
        dtype = np.result_type(*loaded)
        joined = np.empty((len(loaded[0]), self.is_shared.size), dtype=dtype)
        for values, place in reversed(list(zip(loaded, self.places, strict=True))):
            joined[:, place] = values
        return joined

    def _find_ivar(self, arm: Arm, rows: slice) -> np.ndarray:
        """Inverse variances of an arm, 0 at its bad pixels."""
        flux = as_float_array(arm.flux.load(rows), "flux")
        if arm.error is None:
            return np.zeros(flux.shape)
        bad = None
        if arm.mask is not None:
            bad = find_bad_bits(arm.mask.load(rows), "mask", self.options.mask_bits)
        error = as_float_array(arm.error.load(rows), self.kind)
        ivar = find_ivar(flux, error, self.kind, mask=bad, bad_error=self.options.bad_error)
        if ivar is None:
            return np.zeros(flux.shape)
        if (ivar < 0).any():
            raise DataError(
                f"errors of {arm.name} as {self.kind} should not be negative, got"
                f" {np.count_nonzero(ivar < 0)} that are: choose another arm, arm=."
            )
        return ivar


def _have_all(arms: Sequence[Arm], name: str, path: Path) -> bool:
    """Whether all arms have errors, or masks; they should if any has."""
    lacking = [arm.name for arm in arms if getattr(arm, name) is None]
    if 0 < len(lacking) < len(arms):
        raise DataError(
            f"{path}: either all arms or none should have {name}s, got none of"
            f" {', '.join(lacking)}: choose others, arm=."
        )
    return not lacking


def _list_names(arms: Sequence[Arm]) -> str:
    listed = ", ".join(arm.name for arm in arms[:_N_LISTED])
    return listed if len(arms) <= _N_LISTED else f"{listed}, ..., {arms[-1].name}"


def as_one_star(array: LazyArray) -> LazyArray:
    """An array (pixel,) as (1, pixel)."""
    return LazyArray((1, *array.shape), lambda rows: array.load(ALL)[None][rows])


def _join_grids(arms: Sequence[Arm], path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rising wavelengths of all arms, and the places (pixel,) of each arm's pixels there."""
    for arm in arms:
        find_pixel_order(arm.wavelength, f"wavelengths of {arm.name}")
    stored = np.concatenate([arm.wavelength for arm in arms])
    widths = np.concatenate([np.abs(np.gradient(arm.wavelength)) for arm in arms])
    owners = np.repeat(np.arange(len(arms)), [arm.wavelength.size for arm in arms])
    order = np.argsort(stored, kind="stable")
    steps = np.diff(stored[order]) / widths[order][1:]
    is_between = np.diff(owners[order]) != 0
    is_off = is_between & (steps > _SAME) & (steps < _APART)
    if is_off.any():
        raise DataError(
            f"{path}: arms or orders that overlap should share their pixels, got"
            f" {_list_names(arms)} on different ones near"
            f" {stored[order][np.argmax(is_off)]:.7g}: choose one, arm={arms[0].name!r}, and"
            " resample it (symspec.resample), or join them beforehand."
        )
    is_new = np.insert(~is_between | (steps > _SAME), 0, True)
    places = np.empty(stored.size, dtype=np.intp)
    places[order] = np.cumsum(is_new) - 1
    ends = np.cumsum([arm.wavelength.size for arm in arms])[:-1]
    return stored[order][is_new], np.split(places, ends)
