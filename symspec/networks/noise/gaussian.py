"""Normal noise: a standard deviation a label, or a full covariance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.tensor import TensorVariable as Symbol

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.noise.elimination import eliminate
from symspec.networks.noise.noise import (
    LOG_2PI,
    FindOutputs,
    TunableNoise,
    find_no_outputs,
    find_residual,
    list_numbers,
    mark_observed,
    split_targets,
)
from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.arrays import as_float_array
from symspec.safety.label_errors import Labels, find_labels_alone

# the whiteners of all 2**n sets of observed labels are looked up: one node in place of dozens,
# which take Numba and C a quarter of a minute to compile
MAX_LABELS_OF_TABLE = 8


class GaussianNoise(TunableNoise):
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

    def log_likelihood(self, f: Symbol, targets: Symbol) -> Symbol:
        labels, _ = split_targets(targets, self.n_labels)
        z = self.whiten(find_residual(f, labels), f, targets)
        observed = mark_observed(labels, f.dtype)
        sigma = self._find_sigma(targets)
        if sigma is not None:
            constants = (2 * np.log(sigma) + LOG_2PI).astype(f.dtype)
            total = pt.sum(z**2 + observed * constants, axis=-1)
        else:
            constant = pt.sum(observed, axis=-1) * np.asarray(LOG_2PI, f.dtype)
            total = pt.sum(z**2, axis=-1) + constant + self._log_det(targets)
        return np.asarray(-0.5, f.dtype) * total

    def gradient(self, f: Symbol, targets: Symbol) -> Symbol:
        labels, _ = split_targets(targets, self.n_labels)
        return -self.weigh(find_residual(f, labels), f, targets)

    def hessian(self, f: Symbol, targets: Symbol) -> Symbol:
        return self.weights(f, targets)

    def whiten(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        sigma = self._find_sigma(targets)
        if sigma is not None:
            labels, _ = split_targets(targets, self.n_labels)
            weights = mark_observed(labels, u.dtype) / sigma.astype(u.dtype)
            return u * pt.shape_padright(weights, u.ndim - weights.ndim)
        T = self._find_whiteners(targets)[0].astype(u.dtype)
        is_one_star = targets.ndim == 1
        u = u[None] if is_one_star else u
        z = pt.sum(T * u[:, None, :], axis=-1) if u.ndim == 2 else pt.matmul(T, u)
        return z[0] if is_one_star else z

    def weigh(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        if self._find_sigma(targets) is not None:
            return self.whiten(self.whiten(u, f, targets), f, targets)
        T = self._find_whiteners(targets)[0].astype(u.dtype)
        z = pt.atleast_2d(self.whiten(u, f, targets))
        w = pt.sum(T * z[:, :, None], axis=1)
        return w[0] if targets.ndim == 1 else w

    def _log_det(self, targets: Symbol) -> Symbol:
        """Log det S_n of each star (star,), or a scalar for one star, where labels share noise."""
        log_det = self._find_whiteners(targets)[1]
        return log_det[0] if targets.ndim == 1 else log_det

    def _find_sigma(self, targets: Symbol) -> np.ndarray | Symbol | None:
        """Standard deviations, (label,) or of each star, where labels do not share their noise."""
        _, errors = split_targets(targets, self.n_labels)
        if self.is_full or (errors is not None and errors.ndim > targets.ndim):
            return None
        return self.sigma if errors is None else pt.sqrt(self.sigma**2 + errors)

    def _find_whiteners(self, targets: Symbol) -> tuple[Symbol, Symbol]:
        """T_n (star, label, label) and log det S_n (star,) of the labels that are observed."""
        labels, errors = split_targets(pt.atleast_2d(targets), self.n_labels)
        if errors is not None or self.n_labels > MAX_LABELS_OF_TABLE:
            return self._eliminate(labels, errors)
        whiteners, log_dets = (table.astype(labels.dtype) for table in self._table)
        place_values = 2 ** np.arange(self.n_labels)
        which = pt.sum((~pt.isnan(labels)) * place_values, axis=1)
        return pt.constant(whiteners)[which], pt.constant(log_dets)[which]

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Whitener and log determinant of each set of observed labels, a binary number."""
        C = self.n_labels
        observed = np.arange(2**C)[:, None] >> np.arange(C) & 1 == 1
        stars = StarNoise(observed, self.covariance)
        return stars.whiteners, stars.log_dets

    def _eliminate(self, labels: Symbol, errors: Symbol | None) -> tuple[Symbol, Symbol]:
        """T_n and log det S_n (star,) of stars whose whiteners are not looked up."""
        C = self.n_labels
        S = pt.alloc(self.covariance.astype(labels.dtype), labels.shape[0], C, C)
        if errors is not None:
            S = S + (errors if errors.ndim == 3 else errors[:, :, None] * np.eye(C, dtype=S.dtype))
        return eliminate(S, mark_observed(labels, S.dtype), C)

    def of_stars(self, labels: Labels, find_outputs: FindOutputs = find_no_outputs) -> StarNoise:
        return StarNoise.of_labels(labels, self.covariance)

    def given(self, labels: Labels) -> np.ndarray:
        return self.of_stars(labels).weights

    def negative_log_peak(self, labels: Labels) -> float:
        return self.constant(labels)

    def differentiate_evidence(
        self, residuals: np.ndarray, V: np.ndarray, moves: np.ndarray, given: np.ndarray
    ) -> np.ndarray:
        """Symmetric dF/dS (label, label)."""
        W = given
        Wr = np.einsum("ncd,nd->nc", W, residuals)
        cross = np.einsum("ncd,nd->nc", W, moves).T @ Wr
        return 0.5 * (Wr.T @ Wr + np.sum(W @ V @ W - W, axis=0) + cross + cross.T)

    def predict(
        self, outputs: np.ndarray, variances: np.ndarray, labels: Labels | None = None
    ) -> np.ndarray:
        own = self.covariance if labels is None else self.of_stars(labels).covariance
        return np.broadcast_to(own, (*outputs.shape, self.n_labels)).copy()

    def score(self, outputs: np.ndarray, labels: Labels) -> np.ndarray:
        residuals = np.nan_to_num(find_labels_alone(labels) - outputs)
        return self.of_stars(labels).weigh(residuals)

    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return f + rng.normal(size=np.shape(f)) @ np.linalg.cholesky(self.covariance).T

    def describe(self) -> str:
        words = f"normal, sigma {list_numbers(self.sigma)}"
        return f"{words}, correlated" if self.is_full else words

    def identity(self) -> np.ndarray:
        return self.covariance

    def to_arrays(self) -> dict[str, np.ndarray]:
        if self.is_full:
            return {"noise_covariance": self.covariance}
        return {"sigma_noise": self.sigma}

    @classmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, tuple[int, ...]]:
        if "noise_covariance" in names:
            return {"noise_covariance": (n_labels, n_labels)}
        return {"sigma_noise": (n_labels,)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls.from_keywords(arrays.get("sigma_noise"), arrays.get("noise_covariance"))


def _check_sigma(value: ArrayLike | None, names: tuple[str, str]) -> np.ndarray:
    sigma = as_float_array(value, names[0])
    if sigma.ndim > 1:
        raise _wrong_sigma(names, "(label,)", sigma.shape)
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise DataError(f"{names[0]} is a standard deviation and should be positive, got {sigma}.")
    return sigma


def _wrong_sigma(names: tuple[str, str], expected: str, shape: tuple[int, ...]) -> ShapeError:
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
