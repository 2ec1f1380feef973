"""Flux, inverse variances and labels of stars, checked against what a network takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array, check_finite, describe_bad, is_surely_finite
from symspec.safety.options import check_choice

MEDIA = ("air", "vacuum")
_IVAR_REMINDER = "ivar is an INVERSE VARIANCE (1/sigma**2, 0 = no information), not a flag"


def check_flux(
    flux: ArrayLike,
    n_pixels: int,
    *,
    name: str = "flux",
    allow_nan: bool = False,
    dtype: DTypeLike | None = np.float64,
) -> np.ndarray:
    """Check spectra against the number of pixels that a network takes.

    Parameters
    ----------
    flux : array_like, shape (star, pixel) or (pixel,)
        Spectra, one a row, or one spectrum.
    n_pixels : int
        The number of pixels expected.
    name : str, default "flux"
        The caller's name for it, used in the error.
    allow_nan : bool, default False
        Allow NaN and infinite values; right only where an `ivar` marks them with 0.
    dtype : numpy dtype or None, default float64
        The floating-point type wanted; None keeps float32 and float64 as they are.

    Returns
    -------
    numpy.ndarray, shape (star, pixel) or (pixel,)
        Flux in `dtype`; the caller's own array when it is of that type already.

    Raises
    ------
    ShapeError
        When the shape is another one.
    DataError
        When there is no star, or a value is not finite.
    """
    flux = as_float_array(flux, name, dtype=dtype)
    if flux.ndim not in (1, 2) or flux.shape[-1] != n_pixels:
        raise ShapeError(
            f"{name} should have shape (star, {n_pixels}) or ({n_pixels},), got {flux.shape}: "
            f"{_advise_pixels(flux.shape, n_pixels, name)}."
        )
    if flux.size == 0:
        raise DataError(
            f"{name} should hold at least one star, got shape {flux.shape}: check what selects"
            " stars."
        )
    if not allow_nan:
        check_finite(
            flux, name, ("star", "pixel"), "give ivar with 0 at these pixels, or fill them"
        )
    return flux


def check_labels(
    labels: ArrayLike, n_stars: int, n_labels: int, *, name: str = "labels"
) -> np.ndarray:
    """Check labels to train on, where NaN means missing.

    Parameters
    ----------
    labels : array_like, shape (star, label)
        One row a star, in the labels' own units; NaN where a label is missing.
    n_stars, n_labels : int
        The numbers expected.
    name : str, default "labels"
        The caller's name for it, used in the error.

    Returns
    -------
    numpy.ndarray, shape (star, label)
        Labels as float64; the caller's own array when it is float64 already.

    Raises
    ------
    ShapeError
        When the shape is another one.
    DataError
        When a value is infinite, or every star's value of a label is missing.
    """
    labels = as_float_array(labels, name)
    if labels.shape != (n_stars, n_labels):
        raise ShapeError(
            f"{name} should have shape ({n_stars}, {n_labels}), one row a star, got {labels.shape}:"
            f" {_advise_labels(labels.shape, n_stars, n_labels, name)}."
        )
    if is_surely_finite(labels):
        return labels
    check_not_infinite(labels, name)
    missing = np.isnan(labels).all(axis=0)
    if missing.all():
        raise DataError(
            f"{name} should hold numbers, got only missing ones (NaN): there is nothing to learn"
            " from."
        )
    if missing.any() and n_stars > 1:  # one star may lack a label
        columns = ", ".join(str(i) for i in np.flatnonzero(missing))
        raise DataError(
            f"{name} should hold at least one number for each label, got only NaN in column"
            f" {columns}: leave that label out of {name} and of the network."
        )
    return labels


def check_not_infinite(labels: np.ndarray, name: str = "labels") -> None:
    """Refuse labels that are infinite; NaN, which is a missing label, passes.

    Parameters
    ----------
    labels : numpy.ndarray, shape (star, label)
        Labels as floats.
    name : str, default "labels"
        The caller's name for it, used in the error.

    Raises
    ------
    DataError
        When a value is infinite.
    """
    if (bad := np.isinf(labels)).any():
        described = describe_bad(bad, labels, ("star", "label"))
        raise DataError(
            f"{name} should not be infinite, got {described}: write NaN for a missing label."
        )


def check_ivar(ivar: ArrayLike, flux_shape: tuple[int, ...]) -> np.ndarray:
    """Check inverse variances of flux.

    Parameters
    ----------
    ivar : array_like, shape `flux_shape`
        Inverse variance, 1/sigma**2, in inverse squares of the flux's units; 0 means no
        information.
    flux_shape : tuple of int
        Shape of the flux that it belongs to.

    Returns
    -------
    numpy.ndarray, shape `flux_shape`
        Inverse variance as float64; the caller's own array when it is float64 already.

    Raises
    ------
    ShapeError
        When the shape is not that of the flux.
    DataError
        When a value is negative, NaN or infinite, or when the values are booleans.
    """
    if getattr(ivar, "dtype", None) == np.bool_:
        raise DataError(
            f"ivar should be numbers, got booleans: {_IVAR_REMINDER}; give ivar=good / sigma**2."
        )
    ivar = as_float_array(ivar, "ivar")
    flux_shape = tuple(flux_shape)
    if ivar.shape != flux_shape:
        raise ShapeError(
            f"ivar should have the shape of the flux, {flux_shape}, got {ivar.shape}: "
            f"{_advise_ivar(ivar.shape, flux_shape)}."
        )
    _refuse_ivar(np.isnan(ivar), ivar, "not be NaN", "write 0 where nothing is known")
    _refuse_ivar(ivar < 0, ivar, "not be negative", _IVAR_REMINDER)
    _refuse_ivar(
        np.isinf(ivar),
        ivar,
        "be finite",
        "1/sigma**2 is infinite where sigma is 0: write 0 if nothing is known",
    )
    return ivar


def check_wavelength(wavelength: np.ndarray, name: str = "wavelength") -> None:
    """Refuse wavelengths (pixel,) that are negative, NaN or infinite.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (pixel,)
        Floats, in any unit.
    name : str, default "wavelength"
        The caller's name for it, used in the error.

    Raises
    ------
    DataError
        With the count of such values and the place of the first.
    """
    check_finite(wavelength, name, ("pixel",), "drop these pixels from flux, ivar and wavelength")
    if (bad := wavelength < 0).any():
        raise DataError(
            f"{name} should not be negative, got {describe_bad(bad, wavelength, ('pixel',))}: give"
            " wavelengths, not velocities or offsets."
        )


def check_medium(medium: str | None, name: str = "wavelength_medium") -> str | None:
    """Refuse a medium of wavelengths other than "air", "vacuum" and None, which is unknown."""
    return medium if medium is None else check_choice(medium, name, MEDIA)


def _refuse_ivar(bad: np.ndarray, ivar: np.ndarray, rule: str, advice: str) -> None:
    if bad.any():
        raise DataError(
            f"ivar should {rule}, got {describe_bad(bad, ivar, ('star', 'pixel'))}: {advice}."
        )


def _advise_pixels(shape: tuple[int, ...], n_pixels: int, name: str) -> str:
    """Say what to do with spectra of `shape` for a network of `n_pixels`."""
    if len(shape) == 0:
        return "give an array with one spectrum a row"
    if len(shape) > 2:
        if int(np.prod(shape)) == shape[0] * n_pixels:
            return f"give one spectrum a row: {name}.reshape({shape[0]}, {n_pixels})"
        if shape[-1] == n_pixels:
            return f"give one spectrum a row: {name}.reshape(-1, {n_pixels})"
        return "give one spectrum a row, as an array of two axes"
    if len(shape) == 2 and shape[0] == n_pixels:
        return f"transpose it: {name}.T"
    got = shape[-1]
    if got == n_pixels + 1:
        return f"trim the last pixel or rebuild the network with n_pixels={got}"
    if got == n_pixels - 1:
        return f"one pixel was cut: give it as well or rebuild the network with n_pixels={got}"
    return (
        f"resample the spectra to the network's {n_pixels} pixels or rebuild the network with"
        f" n_pixels={got}"
    )


def _advise_labels(shape: tuple[int, ...], n_stars: int, n_labels: int, name: str) -> str:
    """Say what to do with labels of `shape` where (`n_stars`, `n_labels`) is expected."""
    if shape == (n_stars,) and n_labels == 1:
        return f"give {name}[:, None]"
    if shape == (n_labels,) and n_stars == 1:
        return f"give {name}[None, :]"
    if shape == (n_stars,):
        return f"this is one label where {n_labels} are expected: np.stack them along axis 1"
    if len(shape) != 2:
        return "give an array of two axes"
    if shape == (n_labels, n_stars):
        return f"transpose it: {name}.T"
    if shape[1] == n_labels:
        return (
            f"there are spectra of {n_stars} stars and labels of {shape[0]}: select the same stars"
            " in both"
        )
    return (
        f"the network gives {n_labels} labels: pick their columns, or rebuild it with {shape[1]}"
        " outputs"
    )


def _advise_ivar(shape: tuple[int, ...], flux_shape: tuple[int, ...]) -> str:
    """Say what to do with inverse variances of `shape` for flux of `flux_shape`."""
    if len(shape) == 2 and shape[::-1] == flux_shape:
        return "transpose it: ivar.T"
    if len(shape) < 2 and len(flux_shape) == 2 and shape in ((), flux_shape[1:]):
        return "one for every star: np.broadcast_to(ivar, flux.shape)"
    return "give one inverse variance for each pixel of each star"
