"""What errors of the flux and missing pixels do to labels, linearly and by draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from symspec.spectra.flux_prior import Completed
from symspec.spectra.resampling import Resampled

METHODS = ("linear", "sampled")
N_CHECKED = 4  # pairs of draws through the network that check the linear error of every star
N_DOUBTED = 32  # pairs where these leave a doubt
DOUBT = 0.08  # relative difference that does
N_SAMPLED = 256  # pairs that make up a sampled covariance
SEED = 0  # of the draws, the same for every star: results do not depend on what else is predicted
DIGITS_LOST = 1e3  # roundings of a label: a difference below tells nothing
TINY = np.finfo(np.float64).tiny

Labels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class FluxNoise:
    """Errors of the flux of some stars, independent or correlated by resampling.

    Attributes
    ----------
    ivar : numpy.ndarray, shape (star, pixel)
    resampled : Resampled, optional
        With the errors of old pixels, which are independent.
    rows : numpy.ndarray of int, shape (star,), optional
        The stars' places in `resampled`.
    """

    ivar: np.ndarray
    resampled: Resampled | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, ivar: np.ndarray, resampled: Resampled | None, rows: slice) -> FluxNoise:
        """Noise of stars `rows`, whose inverse variance is `ivar`."""
        if resampled is None or resampled.source_ivar is None:
            return cls(ivar=ivar)
        places = np.arange(len(resampled.source_ivar))[rows]
        return cls(ivar=ivar, resampled=resampled, rows=places)

    def propagate(self, J: np.ndarray) -> np.ndarray:
        r""":math:`J \Sigma_x J^T` (star, label, label), without pixels of ivar = 0."""
        if self.resampled is not None and self.rows is not None:
            return self.resampled.propagate(J, self.rows)
        return np.matmul(J * _invert(self.ivar)[:, None, :], J.transpose(0, 2, 1))

    def pick(self, stars: np.ndarray) -> FluxNoise:
        """That of some of the stars."""
        rows = None if self.rows is None else self.rows[stars]
        return replace(self, ivar=self.ivar[stars], rows=rows)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Errors (star, pixel), from the same standard normal numbers for every star."""
        if self.resampled is not None and self.rows is not None:
            return np.where(self.ivar > 0, self.resampled.draw_errors(rng, self.rows), 0.0)
        return np.sqrt(_invert(self.ivar)) * rng.normal(size=self.ivar.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class FluxErrors:
    """The flux's part of the errors of labels.

    Attributes
    ----------
    covariance, missing : numpy.ndarray, shape (star, label, label)
        Of all, and of what missing pixels leave open, which is linear.
    nonlinearity : numpy.ndarray, shape (star, label)
        Standard deviation of draws through the network over the linear one of the same draws.
    sampling_error : numpy.ndarray, shape (star, label)
        Monte Carlo error of the standard deviation; 0 for linear covariances.
    """

    covariance: np.ndarray
    missing: np.ndarray
    nonlinearity: np.ndarray
    sampling_error: np.ndarray

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All of them, by the names under which a prediction in the making holds them."""
        return {
            "flux": self.covariance,
            "missing": self.missing,
            "nonlinearity": self.nonlinearity,
            "sampling": self.sampling_error,
        }


def find_flux_errors(
    labels: Labels,
    J: np.ndarray,
    completed: Completed,
    noise: FluxNoise,
    *,
    method: str = "linear",
    eps: float = np.finfo(np.float64).eps,
) -> FluxErrors:
    r"""Propagate the errors of filled spectra to their labels.

    A draw is an error of the flux :math:`\delta` from the distribution of
    :math:`\hat x - x`, and what it does to the labels is
    :math:`f(\hat x) - f(\hat x - \delta)`, to first order :math:`J \delta`. Draws come in pairs,
    :math:`\pm\delta`, from the same random numbers for every star and call.

    Parameters
    ----------
    labels : callable
        f: spectra (star, pixel) to labels (star, label).
    J : numpy.ndarray, shape (star, label, pixel)
        Its derivatives at the filled spectra.
    completed : Completed
    noise : FluxNoise
    method : {"linear", "sampled"}
        "sampled": the covariance is the second moment of the draws about the labels.
    eps : float
        Relative rounding of f.
    """
    noise_jacobian, missing = completed.propagate(J)
    if method == "sampled":
        draws = _draw(labels, J, completed, noise, N_SAMPLED)
        return FluxErrors(
            covariance=draws.covariance,
            missing=missing,
            nonlinearity=draws.find_ratio(eps),
            sampling_error=draws.sampling_error,
        )
    ratio = _draw(labels, J, completed, noise, N_CHECKED).find_ratio(eps)
    doubted = np.flatnonzero((np.abs(ratio - 1) > DOUBT).any(axis=1))
    if doubted.size:
        again = _draw(labels, J[doubted], completed.pick(doubted), noise.pick(doubted), N_DOUBTED)
        ratio[doubted] = again.find_ratio(eps)
    return FluxErrors(
        covariance=noise.propagate(noise_jacobian) + missing,
        missing=missing,
        nonlinearity=ratio,
        sampling_error=np.zeros(ratio.shape),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Draws:
    """Moments of changes of labels: those of the network, (star, label, ...), and the linear ones.

    `fourth` is the mean square of the variances of single pairs.
    """

    labels: np.ndarray
    covariance: np.ndarray
    fourth: np.ndarray
    linear: np.ndarray
    n_pairs: int

    @property
    def variance(self) -> np.ndarray:
        return np.einsum("ncc->nc", self.covariance)

    @property
    def sampling_error(self) -> np.ndarray:
        """Monte Carlo error (star, label) of the standard deviation."""
        variance = self.variance
        spread = np.sqrt(np.maximum(self.fourth - variance**2, 0) / (self.n_pairs - 1))
        deviation = np.sqrt(variance)
        return np.divide(spread, 2 * deviation, out=np.zeros(spread.shape), where=deviation > 0)

    def find_ratio(self, eps: float) -> np.ndarray:
        """Standard deviation of f over the linear one (star, label); 1 where both are rounding."""
        rounding = (DIGITS_LOST * eps * np.abs(self.labels)) ** 2
        found = np.maximum(self.variance, rounding)
        return np.sqrt(found / np.maximum(np.maximum(self.linear, rounding), TINY))


def _draw(
    labels: Labels, J: np.ndarray, completed: Completed, noise: FluxNoise, n_pairs: int
) -> _Draws:
    at_center = labels(completed.flux)
    n_stars, n_labels = at_center.shape
    covariance = np.zeros((n_stars, n_labels, n_labels))
    fourth = np.zeros(at_center.shape)
    linear = np.zeros(at_center.shape)
    reference = completed.prior.reference
    for pair in range(n_pairs):
        rng = np.random.default_rng((SEED, pair))
        deviation = rng.normal(size=len(reference)) @ reference
        errors = completed.find_errors(noise.draw(rng), deviation)
        changes = [labels(completed.flux - sign * errors) - at_center for sign in (1, -1)]
        found = sum(change[:, :, None] * change[:, None, :] for change in changes) / 2
        covariance += found / n_pairs
        fourth += np.einsum("ncc->nc", found) ** 2 / n_pairs
        linear += np.einsum("ncp,np->nc", J, errors) ** 2 / n_pairs
    return _Draws(
        labels=at_center, covariance=covariance, fourth=fourth, linear=linear, n_pairs=n_pairs
    )


def _invert(ivar: np.ndarray) -> np.ndarray:
    return np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
