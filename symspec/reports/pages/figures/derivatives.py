"""Derivatives of labels by pixels, of the mean spectrum and of single stars, in three units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from symspec.errors import OptionError
from symspec.laplace.budget import complete
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.posterior import AnyPosterior, find_weights, list_posteriors
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
    laplace: AnyPosterior,
    center: str,
    fill: str,
    stars: Spectra | Resampled | None,
    chosen: Mapping[str, int],
) -> list[Derivatives]:
    """Those of the mean training spectrum, and of chosen stars.

    At the mean spectrum the errors of the flux are the medians over `stars`.

    Parameters
    ----------
    laplace : LaplacePosterior or CombinedPosterior
        Of several networks, derivatives of their mean labels.
    center, fill : str
        As for `LaplacePosterior.predict`.
    stars : Spectra or Resampled, optional
    chosen : mapping of str to int
        Names of the chosen stars, and their places in `stars`.
    """
    each = list_posteriors(laplace)
    weights = find_weights(laplace)
    if stars is None:
        return [_share_out(MEAN, weights, [_at_mean(one, center, None) for one in each])]
    flux, ivar, covariance = as_flux(laplace.net, stars)
    is_correlated = covariance is not None or isinstance(stars, Resampled)
    variance = None if ivar is None or is_correlated else _find_median_variance(ivar)
    found = [_share_out(MEAN, weights, [_at_mean(one, center, variance) for one in each])]
    for name, star in chosen.items():
        row = slice(star, star + 1)
        known = None if ivar is None else ivar[row]
        parts = [_at_star(one, center, fill, flux[row], known, is_correlated) for one in each]
        found.append(_share_out(name, weights, parts))
    return found


def find_training_scatter(laplace: AnyPosterior) -> np.ndarray | None:
    """Standard deviation (pixel,) of the training spectra, those of the first of several networks.

    None where a file does not tell.
    """
    space = list_posteriors(laplace)[0].training_space
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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Response:
    """What one network makes of one spectrum: derivatives, and variances due to its errors."""

    flux: np.ndarray
    jacobian: np.ndarray
    variances: np.ndarray | None = None
    missing: np.ndarray | None = None


def _at_star(
    laplace: LaplacePosterior,
    center: str,
    fill: str,
    flux: np.ndarray,
    ivar: np.ndarray | None,
    is_correlated: bool,
) -> _Response:
    """At one star's spectrum (1, pixel), as its prediction has it."""
    if ivar is None:
        return _Response(flux=flux[0], jacobian=laplace.respond(flux, center=center).J[0])
    completed = complete(laplace, flux, ivar, "mean" if fill == "uncounted" else fill)
    J = laplace.respond(completed.flux, center=center).J
    if is_correlated:
        return _Response(flux=completed.flux[0], jacobian=J[0])
    effective, missing = completed.propagate(J)
    variance = np.zeros_like(ivar[0])
    np.divide(1, ivar[0], out=variance, where=ivar[0] > 0)
    return _Response(
        flux=completed.flux[0],
        jacobian=J[0],
        variances=effective[0] ** 2 * variance,
        missing=np.diagonal(missing[0]),
    )


def _at_mean(laplace: LaplacePosterior, center: str, variance: np.ndarray | None) -> _Response:
    """At the mean training spectrum, without missing pixels."""
    flux = laplace.flux_mean
    J = laplace.respond(flux[None], center=center).J[0]
    if variance is None:
        return _Response(flux=flux, jacobian=J)
    return _Response(flux=flux, jacobian=J, variances=J**2 * variance, missing=np.zeros(len(J)))


def _share_out(name: str, weights: np.ndarray, parts: Sequence[_Response]) -> Derivatives:
    """Derivatives of the mean label, and each pixel's share of what errors of the flux leave."""

    def average(values: Sequence[np.ndarray]) -> np.ndarray:
        return values[0] if len(values) == 1 else np.tensordot(weights, values, axes=1)

    flux = average([part.flux for part in parts])
    jacobian = average([part.jacobian for part in parts])
    variances = [part.variances for part in parts if part.variances is not None]
    lost = [part.missing for part in parts if part.missing is not None]
    if not variances:
        return Derivatives(name=name, flux=flux, jacobian=jacobian)
    of_pixels = average(variances)
    missing = average(lost)
    total = of_pixels.sum(axis=1) + missing
    with np.errstate(invalid="ignore", divide="ignore"):
        return Derivatives(
            name=name,
            flux=flux,
            jacobian=jacobian,
            share=of_pixels / total[:, None],
            missing_share=missing / total,
        )
