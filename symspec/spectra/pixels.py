"""One rule for bad pixels, from whatever file or object, and for the flux put in their place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, MissingPixelsWarning, OptionError
from symspec.spectra.flux_prior import FluxPrior, fit_flux_prior
from symspec.spectra.spectra import Spectra

UNCERTAINTY_KINDS = ("std", "var", "ivar")
MISSING = -9999.0
NOISELESS = 1e150  # inverse variance of a flux whose errors nobody knows
BAD_ERROR = 999.0  # where flags begin unless the caller says it
_FLAG_RATIO = 100.0  # of a flag to an error; flags are 999 or 1e10 where errors are below 1
_EXPONENTS = {"std": -2.0, "var": -1.0, "ivar": 1.0}
_filled: WeakKeyDictionary[Spectra, np.ndarray] = WeakKeyDictionary()


def as_nan(values: np.ndarray) -> np.ndarray:
    """A copy with NaN where values are missing, -9999."""
    return np.where(values == MISSING, np.nan, values)


def find_bad_bits(mask: ArrayLike, name: str, bits: Sequence[int] | None) -> np.ndarray:
    """Find the pixels that a mask marks as bad.

    Parameters
    ----------
    mask : array_like, shape (star, pixel)
        Booleans or numbers, where True, anything but 0, and NaN mean bad; or a bitmask of integers.
    name : str
        Name of the mask, used in the error.
    bits : sequence of int, optional
        Bits that mean bad, 0 being the lowest; None: any; ``()`` ignores the mask.

    Returns
    -------
    numpy.ndarray of bool, shape (star, pixel)
        True at bad pixels.

    Raises
    ------
    DataError
        It is no mask, or bits are asked for and it has none.
    OptionError
        The mask's integers do not have such a bit.
    """
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biuf":
        raise DataError(
            f"{name} should hold booleans or integers, got {mask.dtype}: store True or 1 at bad"
            " pixels."
        )
    if bits is None:
        return mask != 0
    if not len(bits):
        return np.zeros(mask.shape, dtype=bool)
    if mask.dtype.kind not in "iu":
        raise DataError(
            f"mask_bits={tuple(bits)} asks for bits of a bitmask, got {name} of {mask.dtype}, which"
            " has none: leave mask_bits out."
        )
    n_bits = 8 * mask.dtype.itemsize
    if too_high := [bit for bit in bits if bit >= n_bits]:
        raise OptionError(
            f"mask_bits should be 0 to {n_bits - 1} for {name} of {mask.dtype}, got {too_high}."
        )
    wanted = np.array(sum(1 << bit for bit in set(bits)), dtype=f"u{mask.dtype.itemsize}")
    return (mask & wanted.astype(mask.dtype)) != 0


def check_mask_bits(bits: Sequence[int] | None) -> tuple[int, ...] | None:
    """Check the option `mask_bits`: None, or numbers of bits from 0."""
    if bits is None:
        return None
    expected = "mask_bits should be a sequence of bit numbers such as (0, 1, 14)"
    if isinstance(bits, int | str) or not all(
        isinstance(b, int | np.integer) and not isinstance(b, bool) for b in bits
    ):
        raise OptionError(
            f"{expected}, got {bits!r}: number the bits from 0; () lets no bit count."
        )
    if any(bit < 0 for bit in bits):
        raise OptionError(
            f"{expected}, got {tuple(bits)}: bits are numbered from 0, so 1024 = 2**10 is bit 10."
        )
    return tuple(int(bit) for bit in bits)


def find_ivar(
    flux: np.ndarray,
    error: np.ndarray | None = None,
    kind: str = "ivar",
    *,
    scale: float = 1.0,
    mask: np.ndarray | None = None,
    bad_error: float = BAD_ERROR,
) -> np.ndarray | None:
    """Inverse variances of the flux, 0 at bad pixels.

    A pixel is bad where flux is NaN, infinite or -9999, where its uncertainty is NaN, infinite,
    -9999, not above 0, or as a standard deviation `bad_error` or more, and where the mask is True.
    A negative inverse variance other than -9999 is kept, for `Spectra` to refuse: it is more likely
    another quantity than a flag.

    Parameters
    ----------
    flux : numpy.ndarray, shape (star, pixel)
    error : numpy.ndarray, shape (star, pixel), optional
        Uncertainty of the flux.
    kind : {"std", "var", "ivar"}
        Kind of `error`.
    scale : float, default 1.0
        Factor that takes `error` to the flux's units.
    mask : numpy.ndarray of bool, shape (star, pixel), optional
        True at bad pixels.
    bad_error : float, default 999.0
        Standard deviations from here on are flags, in the flux's units.

    Returns
    -------
    numpy.ndarray, shape (star, pixel), or None
        Inverse variance; None without an uncertainty.

    Raises
    ------
    DataError
        Pixels are masked, and the errors of the others are unknown.
    """
    if error is None:
        if mask is not None and mask.any():
            raise DataError(
                "masked pixels should come with the flux's uncertainty, got"
                f" {np.count_nonzero(mask)} of them without: store one, of which theirs becomes"
                " unlimited, or let the mask not count, mask_bits=()."
            )
        return None
    known = np.isfinite(error) & (error != MISSING) & np.isfinite(flux) & (flux != MISSING)
    if mask is not None:
        known &= ~mask
    ivar = _invert(error, kind, scale, known)
    ivar[_is_flag(ivar, bad_error)] = 0.0
    return ivar


def find_mask_row(flux: np.ndarray) -> int | None:
    """The first row (star, pixel) of different whole numbers among rows of others, else None.

    Flux of one star is not counted where that of others is calibrated; a mask beside it is.
    """
    known = np.isfinite(flux)
    is_whole = ((flux == np.round(flux)) | ~known).all(axis=1)
    lowest = np.where(known, flux, np.inf).min(axis=1)
    highest = np.where(known, flux, -np.inf).max(axis=1)
    is_mask = is_whole & (highest > lowest)
    return int(np.argmax(is_mask)) if is_mask.any() and not is_whole.all() else None


def has_usable_errors(error: np.ndarray, kind: str) -> bool:
    """Whether an array of uncertainties holds any; each inverse variance says something, also 0."""
    known = np.isfinite(error) & (error != MISSING)
    return bool((known if kind == "ivar" else known & (error > 0)).any())


def check_bad_error(
    error: np.ndarray, kind: str, name: str, *, scale: float, bad_error: float
) -> str:
    """Judge whether `bad_error` makes flags of numbers among the uncertainties `name`.

    Returns
    -------
    str
        A warning if the caller did not say it, and some errors at or beyond it are within a hundred
        times the median of the others; else "".

    Raises
    ------
    DataError
        More than half of them are.
    """
    ivar = _invert(error, kind, scale, np.isfinite(error) & (error != MISSING))
    is_flag = _is_flag(ivar, bad_error)
    flagged = np.count_nonzero(is_flag)
    n_known = np.count_nonzero(ivar > 0)
    if flagged > n_known / 2:
        raise DataError(
            f"{name} should mostly be a {kind} within bad_error={bad_error:g} (a standard"
            f" deviation), got {flagged} of {n_known} pixels at or beyond it: give"
            " bad_error=numpy.inf if these errors are real."
        )
    if not flagged or bad_error != BAD_ERROR:
        return ""
    median = np.median(ivar[(ivar > 0) & ~is_flag])
    doubtful = np.count_nonzero(is_flag & (ivar * _FLAG_RATIO**2 > median))
    if not doubtful:
        return ""
    return (
        f"{name} holds errors at or beyond bad_error={bad_error:g} in {doubtful} of {n_known}"
        f" pixels looked at, less than {_FLAG_RATIO:.0f} times the median error of the others,"
        f" {median**-0.5:.3g}: they count as flags and lose all weight; give bad_error=numpy.inf,"
        " or where flags begin."
    )


def _invert(error: np.ndarray, kind: str, scale: float, known: np.ndarray) -> np.ndarray:
    if kind != "ivar":
        known = known & (error > 0)
    ivar = np.zeros_like(error)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        np.power(error if scale == 1 else scale * error, _EXPONENTS[kind], out=ivar, where=known)
    ivar[np.isinf(ivar)] = 0.0
    return ivar


def _is_flag(ivar: np.ndarray, bad_error: float) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        smallest = np.float64(bad_error) ** -2.0
    # 1/999**2 depends in its last digits on the kind that it was computed from
    return (ivar > 0) & (ivar <= smallest * (1 + 1e-6))


def fill_flux(spectra: Spectra) -> np.ndarray:
    """Training flux (star, pixel) whose pixels of ivar = 0 are filled, see `fill_training`.

    The flux is kept as long as the spectra are.
    """
    if spectra.ivar is None:
        return spectra.flux
    if spectra not in _filled:
        _filled[spectra] = fill_training(spectra.flux, spectra.ivar)
    return _filled[spectra]


def fill_training(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Training flux with, at pixels of ivar = 0, their mean given the good ones.

    What one pixel tells of another is found from these spectra themselves, see `FluxPrior`. Of
    fewer than `MIN_STARS` spectra nothing is: pixels hold the mean of the other stars. A pixel that
    no star has is 0.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (star, pixel)

    Returns
    -------
    numpy.ndarray, shape (star, pixel)
        `flux` itself where no pixel is bad.
    """
    if ivar.all():
        return flux
    good = ivar > 0
    mean = _find_mean(flux, good)
    filled = np.where(good, flux, mean.astype(flux.dtype))
    prior = fit_flux_prior(filled, mean, ivar)
    if prior is None or not len(prior.loadings):
        return filled
    completed = prior.complete(flux, ivar)
    # stars that lack a pixel leave no trace in its mean now
    better = replace(prior, mean=completed.flux.mean(axis=0))
    return better.complete(flux, ivar).flux.astype(flux.dtype, copy=False)


def fill_by_mean(spectra: Spectra) -> np.ndarray:
    """Flux (star, pixel) with the mean of the other stars at pixels of ivar = 0."""
    if spectra.ivar is None:
        return spectra.flux
    mean = _find_mean(spectra.flux, spectra.ivar > 0)
    return fill_bad_pixels(spectra.flux, spectra.ivar, mean)


def fill_others(spectra: Spectra, training: np.ndarray) -> np.ndarray:
    """Flux (star, pixel) of other spectra, filled by what filled training flux tells of them."""
    if spectra.ivar is None or spectra.ivar.all():
        return spectra.flux
    mean = training.mean(axis=0, dtype=np.float64)
    prior = fit_flux_prior(training, mean) or FluxPrior.of_mean(mean)
    return prior.complete(spectra.flux, spectra.ivar).flux


def _find_mean(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Mean (pixel,) of the good pixels, and 0 where no star has one."""
    total = np.where(good, flux, 0.0).sum(axis=0, dtype=np.float64)
    return total / np.maximum(good.sum(axis=0), 1)


def fill_missing(flux: ArrayLike) -> ArrayLike:
    """Training flux whose pixels that are NaN are filled, see `fill_training`.

    Anything but an array (star, pixel) of floats is returned as it is, and so are pixels that are
    NaN in every star.

    Warns
    -----
    MissingPixelsWarning
        With the number of such pixels.
    """
    if not isinstance(flux, np.ndarray) or flux.ndim != 2 or flux.dtype.kind != "f":
        return flux
    if not np.isnan(np.sum(flux)):
        return flux
    good = ~np.isnan(flux)
    is_known = good.any(axis=0)
    n_missing = np.count_nonzero(~good[:, is_known])
    if not n_missing:
        return flux
    warnings.warn(
        f"flux holds {n_missing} values that are NaN: they are taken as missing pixels, and filled"
        " with their mean given the other pixels, as the other stars have it. Give ivar with 0"
        " there to say that this is meant.",
        MissingPixelsWarning,
        stacklevel=4,
    )
    return np.where(is_known, fill_training(flux, np.where(good, NOISELESS, 0.0)), np.nan)


def fill_bad_pixels(flux: np.ndarray, ivar: np.ndarray | None, flux_mean: np.ndarray) -> np.ndarray:
    """Flux (star, pixel) with the training mean (pixel,) at pixels of ivar = 0."""
    return flux if ivar is None else np.where(ivar > 0, flux, flux_mean)


def find_snr(flux: np.ndarray, ivar: np.ndarray | None) -> np.ndarray:
    """Signal-to-noise ratio (star,): median over good pixels of flux times the root of ivar.

    NaN without any good pixel.
    """
    if ivar is None:
        return np.full(len(flux), np.nan)
    known = (f[i > 0] * np.sqrt(i[i > 0]) for f, i in zip(flux, ivar, strict=True))
    return np.array([np.median(signal) if signal.size else np.nan for signal in known])
