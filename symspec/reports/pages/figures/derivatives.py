"""Derivatives of labels by pixels, of the mean spectrum and of single stars, in three units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from symspec.errors import OptionError
from symspec.laplace.budget import complete
from symspec.laplace.posterior import LaplacePosterior
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_flux, pick_evenly
from symspec.spectra.spectra import Spectra

MEAN = "mean spectrum"
MOST_FOR_MEDIAN = 500  # stars whose errors the mean spectrum's are the medians of


@dataclass(frozen=True, eq=False, kw_only=True)
class Derivatives:
    """Derivatives at one spectrum.

    Attributes
    ----------
    name : str
        Of the star, or `MEAN`.
    flux : numpy.ndarray, shape (pixel,)
        The spectrum, missing pixels filled.
    jacobian : numpy.ndarray, shape (label, pixel)
        In units of the label per unit of flux.
    share : numpy.ndarray, shape (label, pixel), or None
        Each pixel's share of the variance of the label due to errors of the flux; None where these
        are unknown, or correlated between pixels. What missing pixels leave open belongs to none.
    missing_share : numpy.ndarray, shape (label,), or None
        That of missing pixels, which with `share` adds up to 1.
    """

    name: str
    flux: np.ndarray
    jacobian: np.ndarray
    share: np.ndarray | None = None
    missing_share: np.ndarray | None = None


def find_derivatives(
    laplace: LaplacePosterior,
    center: str,
    fill: str,
    stars: Spectra | Resampled | None,
    chosen: Mapping[str, int],
) -> list[Derivatives]:
    """Those of the mean training spectrum, and of chosen stars.

    At the mean spectrum the errors of the flux are the medians over `stars`.

    Parameters
    ----------
    laplace : LaplacePosterior
    center, fill : str
        As for `LaplacePosterior.predict`.
    stars : Spectra or Resampled, optional
    chosen : mapping of str to int
        Names of the chosen stars, and their places in `stars`.
    """
    mean = laplace.flux_mean[None]
    if stars is None:
        return [_differentiate(laplace, center, MEAN, mean, None)]
    flux, ivar, covariance = as_flux(laplace.reg.net, stars)
    is_correlated = covariance is not None or isinstance(stars, Resampled)
    variance = None if ivar is None or is_correlated else _find_median_variance(ivar)
    found = [_differentiate(laplace, center, MEAN, mean, variance)]
    for name, star in chosen.items():
        row = slice(star, star + 1)
        known = None if ivar is None else ivar[row]
        found.append(
            _differentiate_star(laplace, center, fill, name, flux[row], known, is_correlated)
        )
    return found


def find_training_scatter(laplace: LaplacePosterior) -> np.ndarray | None:
    """Standard deviation (pixel,) of the training spectra; None where a file does not tell."""
    space = laplace.training_space
    if space is None:
        return None
    return np.where(np.isfinite(space.scale), space.scale, 0.0)


def choose_stars(
    labels: np.ndarray, names: Sequence[str], wanted: Sequence[str], *, n: int = 3
) -> dict[str, int]:
    """Places of the stars wanted, by their names; of none wanted, n along the first label.

    Raises
    ------
    OptionError
        No star has one of the names.
    """
    if wanted:
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise OptionError(
                f"chosen should be names such as {names[0]!r}, got {unknown[0]!r}, which none of"
                f" {len(names):,} has: correct it."
            )
        return {name: names.index(name) for name in wanted}
    known = np.flatnonzero(np.isfinite(labels[:, 0]))
    order = known[np.argsort(labels[known, 0], kind="stable")]
    if not order.size:
        return {}
    # 5 %, 50 % and 95 %: the ends of a range are often odd
    places = np.unique(np.round(np.linspace(0.05, 0.95, n) * (order.size - 1)).astype(int))
    return {names[star]: int(star) for star in order[places]}


def _find_median_variance(ivar: np.ndarray) -> np.ndarray:
    """Median variance (pixel,) of the good pixels; 0 where no star has one."""
    some = ivar[pick_evenly(len(ivar), MOST_FOR_MEDIAN)]
    good = (some > 0).any(axis=0)
    variance = np.zeros(ivar.shape[1])
    variance[good] = 1 / np.nanmedian(np.where(some > 0, some, np.nan)[:, good], axis=0)
    return variance


def _differentiate_star(
    laplace: LaplacePosterior,
    center: str,
    fill: str,
    name: str,
    flux: np.ndarray,
    ivar: np.ndarray | None,
    is_correlated: bool,
) -> Derivatives:
    """Derivatives at one star's spectrum (1, pixel), as its prediction has them."""
    if ivar is None:
        return _differentiate(laplace, center, name, flux, None)
    completed = complete(laplace, flux, ivar, "mean" if fill == "uncounted" else fill)
    J = laplace.respond(completed.flux, center=center).J
    if is_correlated:
        return Derivatives(name=name, flux=completed.flux[0], jacobian=J[0])
    effective, missing = completed.propagate(J)
    variance = np.zeros_like(ivar[0])
    np.divide(1, ivar[0], out=variance, where=ivar[0] > 0)
    lost = np.diagonal(missing[0])
    return _share_out(name, completed.flux[0], J[0], effective[0] ** 2 * variance, lost)


def _differentiate(
    laplace: LaplacePosterior,
    center: str,
    name: str,
    flux: np.ndarray,
    variance: np.ndarray | None,
) -> Derivatives:
    """Derivatives at one spectrum (1, pixel) without missing pixels."""
    J = laplace.respond(flux, center=center).J[0]
    if variance is None:
        return Derivatives(name=name, flux=flux[0], jacobian=J)
    return _share_out(name, flux[0], J, J**2 * variance, np.zeros(len(J)))


def _share_out(
    name: str, flux: np.ndarray, J: np.ndarray, variances: np.ndarray, missing: np.ndarray
) -> Derivatives:
    """Variances (label, pixel) and what is missing (label,) as shares of their sum."""
    total = variances.sum(axis=1) + missing
    with np.errstate(invalid="ignore", divide="ignore"):
        return Derivatives(
            name=name,
            flux=flux,
            jacobian=J,
            share=variances / total[:, None],
            missing_share=missing / total,
        )
