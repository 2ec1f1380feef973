"""What errors of the flux and missing pixels do to labels, linearly and by draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from symspec.safety.memory import chunks
from symspec.spectra.flux_prior import Completed
from symspec.spectra.resampling import Resampled

METHODS = ("linear", "sampled")
STAGES = (0, 2, 4, 8)  # pairs of draws after which linear errors may be clear
APART = 1.2  # ratio of standard deviations from which linear ones are wrong
CLEAR = 1.5  # Monte Carlo errors of the ratio from there
CACHE_BYTES = 2**20  # of a flux worked on at once: arrays that stay in a processor's cache
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

    def pick(self, stars: slice | np.ndarray) -> FluxNoise:
        """That of some of the stars."""
        rows = None if self.rows is None else self.rows[stars]
        return replace(self, ivar=self.ivar[stars], rows=rows)

    @cached_property
    def _sigma(self) -> np.ndarray:
        if self.resampled is None or self.resampled.source_ivar is None:
            return np.sqrt(_invert(self.ivar))
        return np.sqrt(_invert(self.resampled.source_ivar[self.rows]))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Errors (star, pixel), from the same standard normal numbers for every star."""
        errors = self._sigma * rng.normal(size=self._sigma.shape[1])
        if self.resampled is None or self.rows is None:
            return errors
        return np.where(self.ivar > 0, self.resampled.map_errors(errors, self.rows), 0.0)


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
    jacobian: Labels,
    at_center: np.ndarray,
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
    labels, jacobian : callable
        f, and its derivatives: spectra (star, pixel) to (star, label) and (star, label, pixel).
    at_center : numpy.ndarray, shape (star, label)
        f of the filled spectra.
    completed : Completed
    noise : FluxNoise
    method : {"linear", "sampled"}
        "sampled": the covariance is the second moment of the draws about the labels.
    eps : float
        Relative rounding of f.
    """
    parts = []
    n_stars, n_pixels = completed.flux.shape
    for rows in chunks(n_stars, max(8, CACHE_BYTES // (8 * n_pixels))):
        part = _Propagation(
            labels, jacobian, at_center[rows], completed.pick(rows), noise.pick(rows), eps
        )
        parts.append((part.sample() if method == "sampled" else part.check()).to_arrays())
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return FluxErrors(
        covariance=joined["flux"],
        missing=joined["missing"],
        nonlinearity=joined["nonlinearity"],
        sampling_error=joined["sampling"],
    )


class _Propagation:
    """The errors of few stars, whose arrays fit into a processor's cache."""

    def __init__(
        self,
        labels: Labels,
        jacobian: Labels,
        at_center: np.ndarray,
        completed: Completed,
        noise: FluxNoise,
        eps: float,
    ):
        self.labels = labels
        self.completed = completed
        self.noise = noise
        self.at_center = at_center
        self.J = jacobian(completed.flux)
        noise_jacobian, self.missing = completed.propagate(self.J)
        self.linear = noise.propagate(noise_jacobian) + self.missing
        self.rounding = np.maximum((DIGITS_LOST * eps * self.at_center) ** 2, TINY)

    def sample(self) -> FluxErrors:
        """Covariances of draws."""
        moments = _Moments.none(*self.at_center.shape)
        self._add(moments, np.arange(len(self.at_center)), range(N_SAMPLED))
        return FluxErrors(
            covariance=moments.covariance / N_SAMPLED,
            missing=self.missing,
            nonlinearity=self._find_ratio(moments.variance, moments.linear / N_SAMPLED),
            sampling_error=moments.sampling_error,
        )

    def check(self) -> FluxErrors:
        """Linear covariances, with draws until it is clear whether they are right."""
        variance = np.einsum("ncc->nc", self.linear)
        moments = _Moments.none(*variance.shape)
        stars = np.arange(len(variance))
        for first, last in pairwise(STAGES):
            self._add(moments, stars, range(first, last))
            middle = variance + moments.excess / moments.n
            error = np.sqrt(moments.square_excess) / moments.n
            low = self._find_ratio(middle - CLEAR * error, variance)
            high = self._find_ratio(middle + CLEAR * error, variance)
            is_clear = (low > APART) | (high < 1 / APART) | ((low > 1 / APART) & (high < APART))
            stars = np.flatnonzero(~is_clear.all(axis=1))
            if not stars.size:
                break
        return FluxErrors(
            covariance=self.linear,
            missing=self.missing,
            nonlinearity=self._find_ratio(variance + moments.excess / moments.n, variance),
            sampling_error=np.zeros(variance.shape),
        )

    def _add(self, moments: _Moments, stars: np.ndarray, pairs: range) -> None:
        """Draw some pairs for some of the stars."""
        if len(stars) == len(self.at_center):
            completed, noise, J = self.completed, self.noise, self.J
        else:
            completed = self.completed.pick(stars)
            noise = self.noise.pick(stars)
            J = self.J[stars]
        reference = completed.prior.reference
        for pair in pairs:
            rng = np.random.default_rng((SEED, pair))
            deviation = rng.normal(size=len(reference)) @ reference
            errors = completed.find_errors(noise.draw(rng), deviation)
            linear = np.matmul(J, errors[:, :, None])[:, :, 0]
            center = self.at_center[stars]
            changes = [
                self.labels(completed.flux - errors) - center,
                self.labels(completed.flux + errors) - center,
            ]
            moments.add(stars, changes, linear)

    def _find_ratio(self, variance: np.ndarray, linear: np.ndarray) -> np.ndarray:
        """Ratio of standard deviations; 1 where both are rounding of the labels."""
        found = np.maximum(variance, self.rounding)
        return np.sqrt(found / np.maximum(linear, self.rounding))


@dataclass(eq=False, kw_only=True)
class _Moments:
    """Sums over pairs of draws, (star, label), of squares of labels' changes.

    `excess` is of their difference from the squares of linear changes, `square_excess` of its
    square.
    """

    n: np.ndarray
    covariance: np.ndarray
    fourth: np.ndarray
    linear: np.ndarray
    excess: np.ndarray
    square_excess: np.ndarray

    @classmethod
    def none(cls, n_stars: int, n_labels: int) -> _Moments:
        """Before any draw."""
        fourth, linear, excess, square_excess = np.zeros((4, n_stars, n_labels))
        return cls(
            n=np.zeros((n_stars, 1)),
            covariance=np.zeros((n_stars, n_labels, n_labels)),
            fourth=fourth,
            linear=linear,
            excess=excess,
            square_excess=square_excess,
        )

    def add(self, stars: np.ndarray, changes: list[np.ndarray], linear: np.ndarray) -> None:
        """Count a pair of draws of some stars."""
        square = sum(change[:, :, None] * change[:, None, :] for change in changes) / 2
        variance = np.einsum("ncc->nc", square)
        excess = variance - linear**2
        self.n[stars] += 1
        self.covariance[stars] += square
        self.fourth[stars] += variance**2
        self.linear[stars] += linear**2
        self.excess[stars] += excess
        self.square_excess[stars] += excess**2

    @property
    def variance(self) -> np.ndarray:
        """Mean square of the changes."""
        return np.einsum("ncc->nc", self.covariance) / self.n

    @property
    def sampling_error(self) -> np.ndarray:
        """Monte Carlo error of its root."""
        variance = self.variance
        spread = np.sqrt(np.maximum(self.fourth / self.n - variance**2, 0) / (self.n - 1))
        deviation = np.sqrt(variance)
        return np.divide(spread, 2 * deviation, out=np.zeros(spread.shape), where=deviation > 0)


def _invert(ivar: np.ndarray) -> np.ndarray:
    return np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
