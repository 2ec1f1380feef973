"""What errors of the flux and missing pixels do to labels, linearly and by draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from symspec.derivatives.span import Response
from symspec.safety.memory import chunks
from symspec.spectra.covariances.interface import FluxCovariance, find_variance, square
from symspec.spectra.flux_prior import Completed
from symspec.spectra.resampling import Resampled

METHODS = ("linear", "sampled")
STAGES = (0, 2, 4, 8)  # pairs of draws after which linear errors may be clear
APART = 1.2  # ratio of standard deviations from which linear ones are wrong
CLEAR = 1.5  # Monte Carlo errors of the ratio from there
NEGLIGIBLE = 0.02  # of the variance that model and noise leave: less of the flux hardly matters
CACHE_BYTES = 2**22  # of a flux worked on at once: near the cores, yet enough for large products
DRAWN_BYTES = 2**24  # of drawn spectra that go through a wide first layer as one product
N_SAMPLED = 256  # pairs that make up a sampled covariance
SEED = 0  # of the draws, the same for every star: results do not depend on what else is predicted
DIGITS_LOST = 1e3  # roundings of a label: a difference below tells nothing
LEAST_KNOWN = 1e-12  # of the largest variance: a smaller one is rounding
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False, kw_only=True)
class FluxNoise:
    """Errors of the flux of some stars, independent or correlated.

    Attributes
    ----------
    sigma : numpy.ndarray, shape (star, pixel)
        Standard deviations, 0 at bad pixels.
    covariance : FluxCovariance, optional
        Where errors are correlated.
    """

    sigma: np.ndarray
    covariance: FluxCovariance | None = None

    @classmethod
    def of(cls, ivar: np.ndarray, covariance: FluxCovariance | None = None) -> FluxNoise:
        """That of inverse variances (star, pixel), which mark bad pixels."""
        return cls(sigma=np.sqrt(find_variance(ivar)), covariance=covariance)

    def propagate(self, J: np.ndarray) -> np.ndarray:
        r""":math:`J \Sigma_x J^T` (star, label, label) of derivatives that are 0 at bad pixels."""
        if self.covariance is not None:
            return self.covariance.propagate(J)
        return square(J * self.sigma[:, None])

    def pick(self, stars: slice | np.ndarray) -> FluxNoise:
        """That of some of the stars."""
        covariance = None if self.covariance is None else self.covariance.pick(stars)
        return FluxNoise(sigma=self.sigma[stars], covariance=covariance)

    @property
    def n_normals(self) -> int:
        """Number of independent normal numbers that a draw takes."""
        return self.sigma.shape[1] if self.covariance is None else self.covariance.n_normals

    def draw(self, normals: np.ndarray) -> np.ndarray:
        """Errors (star, pixel), 0 at bad pixels, from the same normal numbers for every star."""
        if self.covariance is None:
            return self.sigma * normals
        return np.where(self.sigma > 0, self.covariance.draw(normals), 0.0)


class ResampledCovariance(FluxCovariance):
    """Covariance of resampled flux, from the errors of old pixels, which are independent.

    Parameters
    ----------
    resampled : Resampled
    ivar : numpy.ndarray, shape (star, new pixel)
    source_ivar : numpy.ndarray, shape (star, old pixel)
    stars : numpy.ndarray of int, shape (star,)
        Places of the stars in `resampled`.
    """

    def __init__(
        self, resampled: Resampled, ivar: np.ndarray, source_ivar: np.ndarray, stars: np.ndarray
    ):
        self.resampled = resampled
        self.ivar = ivar
        self.source_ivar = source_ivar
        self.stars = stars

    @classmethod
    def of(cls, resampled: Resampled | None) -> ResampledCovariance | None:
        """That of all stars; None where errors are unknown, or nothing is resampled."""
        if resampled is None or resampled.source_ivar is None or resampled.spectra.ivar is None:
            return None
        stars = np.arange(resampled.spectra.n_stars)
        return cls(resampled, resampled.spectra.ivar, resampled.source_ivar, stars)

    @property
    def variance(self) -> np.ndarray:
        return find_variance(self.ivar)

    @property
    def n_normals(self) -> int:
        return self.source_ivar.shape[1]

    @cached_property
    def _sigma(self) -> np.ndarray:
        return np.sqrt(find_variance(self.source_ivar))

    def pick(self, stars: slice | np.ndarray) -> ResampledCovariance:
        places = self.stars[stars]
        return ResampledCovariance(
            self.resampled, self.ivar[stars], self.source_ivar[stars], places
        )

    def propagate(self, J: np.ndarray) -> np.ndarray:
        return self.resampled.propagate(J, self.stars)

    def draw(self, normals: np.ndarray) -> np.ndarray:
        return self.resampled.map_errors(self._sigma * normals, self.stars)

    def identity(self) -> dict[str, Any]:
        return {"resampled": self.resampled, "stars": self.stars}


def find_beyond(covariances: np.ndarray, known: np.ndarray) -> np.ndarray:
    r"""What covariances (star, label, label) have beyond a known one (label, label).

    In coordinates in which the known one is the unit matrix, :math:`\max(\lambda_i - 1, 0)` of
    their eigenvalues is left: nothing is negative, and the labels' units do not matter.
    """
    scale = np.sqrt(np.diag(known))
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(known / np.outer(scale, scale))
    # without flux errors along a combination of labels all that comes is beyond
    root = vectors * np.sqrt(np.maximum(values, LEAST_KNOWN))
    root *= scale[:, None]
    inverse = np.linalg.inv(root)
    values, vectors = np.linalg.eigh(inverse @ covariances @ inverse.T)
    left = root @ (vectors * np.sqrt(np.maximum(values - 1, 0))[:, None, :])
    return left @ left.transpose(0, 2, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class FluxErrors:
    """The flux's part of the errors of labels.

    Attributes
    ----------
    covariance, missing : numpy.ndarray, shape (star, label, label)
        Of all, and of what missing pixels leave open, which is linear.
    nonlinearity : numpy.ndarray, shape (star, label)
        Standard deviation of draws through the network over the linear one of the same draws; 1
        where both are too small to matter, see `find_flux_errors`.
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


def find_linear_errors(
    response: Response, completed: Completed, noise: FluxNoise
) -> tuple[np.ndarray, np.ndarray]:
    """Covariances (star, label, label) by derivatives, and what is of missing pixels of them."""
    noise_jacobian, missing = completed.propagate(response.J)
    return noise.propagate(noise_jacobian) + missing, missing


def find_flux_errors(
    respond: Callable[[np.ndarray], Response],
    at_center: np.ndarray,
    completed: Completed,
    noise: FluxNoise,
    *,
    rest: np.ndarray | None = None,
    method: str = "linear",
    eps: float = np.finfo(np.float64).eps,
) -> FluxErrors:
    r"""Propagate the errors of filled spectra to their labels.

    A draw is an error of the flux :math:`\delta` from the distribution of
    :math:`\hat x - x`, and what it does to the labels is
    :math:`f(\hat x) - f(\hat x - \delta)`, to first order :math:`J \delta`. Draws come in pairs,
    :math:`\pm\delta`, from the same random numbers for every star and call.

    Linear errors are held against few draws, more of them until it is clear whether the two agree
    within `APART`. Both count at least as :math:`\nu` = `NEGLIGIBLE` times the variance r that is
    in the label anyway: two variances below it agree, whatever they are, and take no more draws.
    Where :math:`l` is linear, v true, and
    :math:`\max(v, \nu r) / \max(l, \nu r) \le 1.2^2`, the total deviation of the label is too
    small by :math:`\sqrt{1 + 1.44 \nu} - 1`, 1.4 %, if :math:`l < \nu r`, and else as the flux's
    part is, by no more than a fifth.

    Parameters
    ----------
    respond : callable
        Spectra (star, pixel) to their `Response`, which holds f and its derivatives.
    at_center : numpy.ndarray, shape (star, label)
        f of the filled spectra.
    completed : Completed
    noise : FluxNoise
    rest : numpy.ndarray, shape (star, label), optional
        Variances r of the labels that are not of the flux.
    method : {"linear", "sampled"}
        "sampled": the covariance is the second moment of the draws about the labels.
    eps : float
        Relative rounding of f.
    """
    floor = np.maximum((DIGITS_LOST * eps * at_center) ** 2, TINY)
    if rest is not None:
        floor = np.fmax(floor, NEGLIGIBLE * rest)  # NaN: not known
    draws = _Draws(noise.n_normals, completed)
    parts = []
    n_stars, n_pixels = completed.flux.shape
    for rows in chunks(n_stars, max(8, CACHE_BYTES // (8 * n_pixels))):
        part = _Propagation(
            respond, at_center[rows], completed.pick(rows), noise.pick(rows), draws, floor[rows]
        )
        parts.append((part.sample() if method == "sampled" else part.check()).to_arrays())
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return FluxErrors(
        covariance=joined["flux"],
        missing=joined["missing"],
        nonlinearity=joined["nonlinearity"],
        sampling_error=joined["sampling"],
    )


class _Draws:
    """Random numbers of pairs of draws: those of the noise, and deviations of common spectra."""

    def __init__(self, n_normals: int, completed: Completed):
        self.n_normals = n_normals
        self.reference = completed.prior.reference
        self.ease = completed.ease
        self._made: dict[range, tuple[np.ndarray, np.ndarray]] = {}

    def find(self, pairs: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Normal numbers (n_normals,) and a deviation (pixel,) of each pair; made once."""
        if pairs not in self._made:
            rngs = [np.random.default_rng((SEED, pair)) for pair in pairs]
            weights = np.array([rng.normal(size=len(self.reference)) for rng in rngs]) * self.ease
            normals = np.array([rng.normal(size=self.n_normals) for rng in rngs])
            self._made[pairs] = (normals, weights @ self.reference)
        return zip(*self._made[pairs], strict=True)


class _Propagation:
    """The errors of few stars, whose arrays fit into a processor's cache."""

    def __init__(
        self,
        respond: Callable[[np.ndarray], Response],
        at_center: np.ndarray,
        completed: Completed,
        noise: FluxNoise,
        draws: _Draws,
        floor: np.ndarray,
    ):
        self.completed = completed
        self.noise = noise
        self.draws = draws
        self.floor = floor
        self.at_center = at_center
        self.response = respond(completed.flux)
        self.linear, self.missing = find_linear_errors(self.response, completed, noise)

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
        completed = self.completed
        noise = self.noise
        response = self.response
        if len(stars) < len(self.at_center):
            completed = completed.pick(stars)
            noise = noise.pick(stars)
            response = response.pick(stars)
        center = self.at_center[stars]
        drawn = list(self.draws.find(pairs))
        for some in chunks(len(drawn), max(1, DRAWN_BYTES // completed.flux.nbytes)):
            errors = np.empty((len(drawn[some]), *completed.flux.shape))
            for i, (normals, deviation) in enumerate(drawn[some]):
                deviations = completed.spread[:, None] * deviation
                errors[i] = completed.find_errors(noise.draw(normals), deviations)
            for linear, below, above in zip(*response.find_changes(errors), strict=True):
                moments.add(stars, [below - center, above - center], linear)

    def _find_ratio(self, variance: np.ndarray, linear: np.ndarray) -> np.ndarray:
        """Ratio of standard deviations; 1 where both are too small to matter."""
        return np.sqrt(np.maximum(variance, self.floor) / np.maximum(linear, self.floor))


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
