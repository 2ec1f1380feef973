r"""Noise: the likelihood of labels, given what the network says of them.

A noise gives the log density of each star's labels, as a graph, and the matrix W_n (label, label)
that stands for its curvature in the Gauss-Newton matrix, by a whitener :math:`T_n^T T_n = W_n`.
Labels that are NaN are missing: their rows and columns of T_n and W_n are zero.

A further noise is a subclass of `Noise`, and a line of `NOISES` by which archives find it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.gradient import grad, pushforward

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.params import Shape, Symbol
from symspec.networks.star_noise import StarNoise
from symspec.safety.arrays import as_float_array

LOG_2PI = float(np.log(2 * np.pi))
# the whiteners of all 2**n sets of observed labels are looked up: one node in place of dozens,
# which take Numba and C a quarter of a minute to compile
MAX_LABELS_OF_TABLE = 8


class Noise(ABC):
    """Contract of every noise. In graphs f and labels are (star, label), or (label,) for one star.

    Attributes
    ----------
    kind : str
        Its name in archives, a key of `NOISES`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def for_labels(self, n_labels: int) -> Self:
        """Noise of `n_labels` labels.

        Raises
        ------
        ShapeError
            It is one of another number of labels.
        """

    @property
    @abstractmethod
    def covariance(self) -> np.ndarray:
        """Covariance (label, label) of the noise."""

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviation (label,) of the noise."""
        return np.sqrt(np.diag(self.covariance))

    @abstractmethod
    def log_likelihood(self, f: Symbol, labels: Symbol) -> Symbol:
        """Log density of each star's observed labels (star,), or a scalar for one star."""

    @abstractmethod
    def whiten(self, u: Symbol, f: Symbol, labels: Symbol) -> Symbol:
        """T_n u_n of each star; `u` is (star, label), (star, label, anything), or (label,)."""

    @abstractmethod
    def weigh(self, u: Symbol, f: Symbol, labels: Symbol) -> Symbol:
        """W_n u_n of each star; `u` has shape (star, label) or (label,)."""

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        """W_n (star, label, label)."""
        one = pt.eye(len(self.covariance), dtype=f.dtype)[None]
        T = self.whiten(one * pt.ones_like(f)[:, :, None], f, labels)
        return pt.matmul(T.transpose((0, 2, 1)), T)

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        """Gradient (star, label) of minus the log density with respect to f."""
        return grad(-pt.sum(self.log_likelihood(f, labels)), f)

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        """Second derivatives (star, label, label) of minus the log density with respect to f."""
        gradient = self.gradient(f, labels)
        units = np.eye(len(self.covariance), dtype=f.dtype)
        columns = [pushforward(gradient, f, pt.ones_like(f) * unit) for unit in units]
        return pt.stack(columns, axis=2)

    @abstractmethod
    def of_stars(self, labels: np.ndarray) -> StarNoise:
        """Noise of the stars that have these labels (star, label); S_n is the inverse of W_n."""

    @abstractmethod
    def predict(self, f: np.ndarray) -> np.ndarray:
        """Covariance (star, label, label) of the noise around predictions f (star, label)."""

    @abstractmethod
    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Labels (..., label) drawn around f (..., label)."""

    @abstractmethod
    def identity(self) -> Any:
        """Numbers that tell this noise from others, for fingerprints."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for an archive."""

    @classmethod
    @abstractmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, Shape]:
        """Names and shapes of the arrays to read, of an archive that has arrays of these names."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Noise of the arrays that `to_arrays` gave."""


class GaussianNoise(Noise):
    r"""Normal noise, the same for all stars: :math:`y_n \sim \mathrm{Normal}(f_n, S)`.

    Parameters
    ----------
    sigma : float or array_like, shape (label,), optional
        Standard deviation of the noise of each label, in the label's units.
    covariance : array_like, shape (label, label), optional
        Full covariance of the noise, in place of `sigma`.

    Attributes
    ----------
    sigma : numpy.ndarray, shape (label,)
        A number becomes one a label in a regression.
    covariance : numpy.ndarray, shape (label, label)
    is_full : bool
        Whether it was given as a covariance.

    Raises
    ------
    OptionError
        Both or neither are given.
    ShapeError, DataError
        Wrong shapes, a sigma that is not positive, or a covariance that is not one.

    Examples
    --------
    >>> from symspec import GaussianNoise, Regression, mlp
    >>> noise = GaussianNoise(sigma=[0.1, 0.2])
    >>> Regression(mlp([100, 8, 2]), noise=noise, prior_precision=1.0).sigma_noise
    array([0.1, 0.2])
    """

    kind = "gaussian"

    def __init__(self, sigma: ArrayLike | None = None, *, covariance: ArrayLike | None = None):
        self._set(sigma, covariance, ("sigma", "covariance"))

    @classmethod
    def from_keywords(
        cls, sigma_noise: ArrayLike | None, noise_covariance: ArrayLike | None
    ) -> Self:
        """Noise of the keywords of `Regression`, which errors name."""
        noise = cls.__new__(cls)
        noise._set(sigma_noise, noise_covariance, ("sigma_noise", "noise_covariance"))
        return noise

    def _set(
        self, sigma: ArrayLike | None, covariance: ArrayLike | None, names: tuple[str, str]
    ) -> None:
        if (sigma is None) == (covariance is None):
            raise OptionError(
                f"give either {names[0]} (a standard deviation, one a label) or {names[1]}"
                " (label, label)."
            )
        self._names = names
        self.is_full = covariance is not None
        if covariance is not None:
            self._covariance = _check_covariance(covariance, names[1])
            self._is_number = False
        else:
            checked = _check_sigma(sigma, names)
            self._covariance = np.diag(np.atleast_1d(checked) ** 2)
            self._is_number = checked.ndim == 0

    def __repr__(self) -> str:
        if self.is_full:
            return f"GaussianNoise(covariance={np.array2string(self.covariance, precision=4)})"
        return f"GaussianNoise(sigma={np.array2string(self.sigma, precision=4)})"

    @property
    def covariance(self) -> np.ndarray:
        return self._covariance

    def for_labels(self, n_labels: int) -> GaussianNoise:
        n = len(self._covariance)
        if self._is_number:
            return GaussianNoise(np.full(n_labels, self.sigma[0]))
        if n == n_labels:
            return self
        if not self.is_full:
            raise _wrong_sigma(self._names, f"({n_labels},)", (n,))
        expected = n_labels, n_labels
        raise ShapeError(f"{self._names[1]} should have shape {expected}, got ({n}, {n}).")

    def log_likelihood(self, f: Symbol, labels: Symbol) -> Symbol:
        observed = ~pt.isnan(labels)
        z = self.whiten(_find_residual(f, labels), f, labels)
        n_observed = pt.sum(observed.astype(f.dtype), axis=-1)
        constant = self._log_det(labels) + n_observed * np.asarray(LOG_2PI, f.dtype)
        return np.asarray(-0.5, f.dtype) * (pt.sum(z**2, axis=-1) + constant)

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return -self.weigh(_find_residual(f, labels), f, labels)

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.weights(f, labels)

    def whiten(self, u: Symbol, f: Symbol, labels: Symbol) -> Symbol:
        if not self.is_full:
            weights = _mark_observed(labels, u.dtype) / self.sigma.astype(u.dtype)
            return u * pt.shape_padright(weights, u.ndim - weights.ndim)
        T = self._find_whiteners(labels)[0].astype(u.dtype)
        is_one_star = labels.ndim == 1
        u = u[None] if is_one_star else u
        z = pt.sum(T * u[:, None, :], axis=-1) if u.ndim == 2 else pt.matmul(T, u)
        return z[0] if is_one_star else z

    def weigh(self, u: Symbol, f: Symbol, labels: Symbol) -> Symbol:
        if not self.is_full:
            return self.whiten(self.whiten(u, f, labels), f, labels)
        T = self._find_whiteners(labels)[0].astype(u.dtype)
        z = pt.atleast_2d(self.whiten(u, f, labels))
        w = pt.sum(T * z[:, :, None], axis=1)
        return w[0] if labels.ndim == 1 else w

    def _log_det(self, labels: Symbol) -> Symbol:
        """Log det S_n of each star (star,), or a scalar for one star."""
        if self.is_full:
            log_det = self._find_whiteners(labels)[1]
            return log_det[0] if labels.ndim == 1 else log_det
        log_variances = (2 * np.log(self.sigma)).astype(labels.dtype)
        return pt.sum(_mark_observed(labels, labels.dtype) * log_variances, axis=-1)

    def _find_whiteners(self, labels: Symbol) -> tuple[Symbol, Symbol]:
        """T_n (star, label, label) and log det S_n (star,) of the labels that are observed."""
        labels = pt.atleast_2d(labels)
        if len(self.covariance) > MAX_LABELS_OF_TABLE:
            return self._eliminate(labels)
        whiteners, log_dets = (table.astype(labels.dtype) for table in self._table)
        place_values = 2 ** np.arange(len(self.covariance))
        which = pt.sum((~pt.isnan(labels)) * place_values, axis=1)
        return pt.constant(whiteners)[which], pt.constant(log_dets)[which]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Whitener and log determinant of each set of observed labels, a binary number."""
        C = len(self.covariance)
        observed = np.arange(2**C)[:, None] >> np.arange(C) & 1 == 1
        stars = StarNoise(observed, self.covariance)
        return stars.whiteners, stars.log_dets

    def _eliminate(self, labels: Symbol) -> tuple[Symbol, Symbol]:
        """T_n and log det S_n (star,), by elimination without missing labels.

        It is a Cholesky factorisation written out label by label and vectorised over stars, so that
        every backend runs it, and a missing label costs nothing but a mask.
        """
        C = len(self.covariance)
        dtype = labels.dtype
        observed = _mark_observed(labels, dtype)
        n_stars = labels.shape[0]
        S = pt.alloc(self.covariance.astype(dtype), n_stars, C, C)
        R = pt.alloc(np.eye(C, dtype=dtype), n_stars, C, C)
        rows = []
        pivots = []
        for k in range(C):
            seen = observed[:, k]
            pivot = S[:, k, k]
            rows.append(R[:, k] * (seen / pt.sqrt(pivot))[:, None])
            pivots.append(pivot)
            is_below = (np.arange(C) > k).astype(dtype)
            factor = (S[:, :, k] * (seen / pivot)[:, None] * is_below)[:, :, None]
            S = S - factor * S[:, None, k]
            R = R - factor * R[:, None, k]
        return pt.stack(rows, axis=1), pt.sum(observed * pt.log(pt.stack(pivots, axis=1)), axis=1)

    def of_stars(self, labels: np.ndarray) -> StarNoise:
        return StarNoise(~np.isnan(labels), self.covariance)

    def predict(self, f: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.covariance, (*f.shape, f.shape[-1])).copy()

    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return f + rng.normal(size=np.shape(f)) @ np.linalg.cholesky(self.covariance).T

    def identity(self) -> np.ndarray:
        return self.covariance

    def to_arrays(self) -> dict[str, np.ndarray]:
        if self.is_full:
            return {"noise_covariance": self.covariance}
        return {"sigma_noise": self.sigma}

    @classmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, Shape]:
        if "noise_covariance" in names:
            return {"noise_covariance": (n_labels, n_labels)}
        return {"sigma_noise": (n_labels,)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls.from_keywords(arrays.get("sigma_noise"), arrays.get("noise_covariance"))


NOISES: dict[str, type[Noise]] = {noise.kind: noise for noise in (GaussianNoise,)}


def _find_residual(f: Symbol, labels: Symbol) -> Symbol:
    """Labels minus f, zero where a label is missing."""
    labels = labels.astype(f.dtype)
    return pt.switch(pt.isnan(labels), pt.zeros_like(f), labels - f)


def _mark_observed(labels: Symbol, dtype: str) -> Symbol:
    """1 where a label is observed, 0 where it is missing."""
    return pt.switch(pt.isnan(labels), 0.0, 1.0).astype(dtype)


def _check_sigma(value: ArrayLike | None, names: tuple[str, str]) -> np.ndarray:
    sigma = as_float_array(value, names[0])
    if sigma.ndim > 1:
        raise _wrong_sigma(names, "(label,)", sigma.shape)
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise DataError(f"{names[0]} is a standard deviation and should be positive, got {sigma}.")
    return sigma


def _wrong_sigma(names: tuple[str, str], expected: str, shape: Shape) -> ShapeError:
    return ShapeError(
        f"{names[0]} should be a number or have shape {expected}, one a label, got {shape}: a full"
        f" covariance goes into {names[1]}."
    )


def _check_covariance(value: ArrayLike, name: str) -> np.ndarray:
    S = as_float_array(value, name)
    if S.ndim != 2 or S.shape[0] != S.shape[1]:
        raise ShapeError(f"{name} should have shape (label, label), got {S.shape}.")
    if not np.isfinite(S).all() or not np.allclose(S, S.T, rtol=1e-10, atol=0):
        raise DataError(f"{name} should be finite and symmetric: give (S + S.T) / 2.")
    smallest = float(np.linalg.eigvalsh(S)[0])
    if smallest <= 0:
        raise DataError(
            f"{name} should be positive definite, got a smallest eigenvalue of {smallest:.3g}."
        )
    return (S + S.T) / 2
