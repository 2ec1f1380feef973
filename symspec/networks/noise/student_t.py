r"""Student's t noise: wider tails than normal noise, so that outliers among the labels pull less.

With residual r, squared scale tau and nu degrees of freedom, each label has

.. math::
    -\log p = \log\frac{\Gamma(\nu/2)}{\Gamma((\nu+1)/2)} + \tfrac12 \log(\pi\nu\tau)
    + \frac{\nu+1}{2} \log\Big(1 + \frac{r^2}{\nu\tau}\Big)

(Lange, Little & Taylor 1989, doi:10.1080/01621459.1989.10478852). Its Gauss-Newton weight is the
expected information :math:`(\nu+1) / ((\nu+3) \tau)`, the same for every star: the weights of the
majorising normal, :math:`(\nu+1) / (\nu\tau + r^2)`, average to :math:`1/\tau`, more than the data
tell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.tensor import TensorVariable as Symbol
from scipy.special import digamma, gammaln, ndtr
from scipy.stats import gamma

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.noise.noise import (
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
from symspec.safety.label_errors import (
    Labels,
    LabelsWithErrors,
    find_observed,
)
from symspec.safety.memory import chunks

LOST = 1e-16  # probability beyond either end of the quadrature
STEP = 0.1  # between its nodes, in standard deviations of log g
MAX_NODES = 2**21  # at once, of all stars
MAX_STEPS = 100
ROUNDING = 1e-13


class StudentTNoise(TunableNoise):
    r"""Student's t noise of each label: :math:`y_n \sim f_n + s\, t_\nu`.

    Parameters
    ----------
    scale : float or array_like, shape (label,)
        Scale s of each label, in the label's units; the standard deviation is
        :math:`s \sqrt{\nu / (\nu - 2)}`.
    dof : float or array_like, shape (label,), default 4
        Degrees of freedom nu, more than 2, so that there is a standard deviation; normal noise for
        many.

    Attributes
    ----------
    scale, dof : numpy.ndarray, shape (label,)
        A number becomes one a label in a regression.

    Raises
    ------
    ShapeError, DataError
        Wrong shapes, a scale that is not positive, or 2 degrees of freedom or fewer.

    Notes
    -----
    Errors that labels came with, standard deviations, are added to the squared scale.

    Examples
    --------
    >>> from symspec import Regression, StudentTNoise, mlp
    >>> noise = StudentTNoise(scale=[0.1, 0.2], dof=4)
    >>> Regression(mlp([100, 8, 2]), noise=noise, prior_precision=1.0).noise
    StudentTNoise(scale=[0.1 0.2], dof=[4. 4.])
    """

    kind = "student_t"

    def __init__(self, scale: ArrayLike, dof: ArrayLike = 4.0):
        self.scale = _check(scale, "scale", "positive", 0.0)
        self.dof = _check(dof, "dof", "above 2, for the noise to have a standard deviation", 2.0)

    def __repr__(self) -> str:
        scale, dof = (np.array2string(a, precision=4) for a in (self.scale, self.dof))
        return f"StudentTNoise(scale={scale}, dof={dof})"

    def for_labels(self, n_labels: int) -> StudentTNoise:
        for name, value in (("scale", self.scale), ("dof", self.dof)):
            if value.shape not in ((), (n_labels,)):
                raise ShapeError(
                    f"{name} should be a number or have shape ({n_labels},), one a label, got"
                    f" {value.shape}."
                )
        return StudentTNoise(
            np.broadcast_to(self.scale, n_labels), np.broadcast_to(self.dof, n_labels)
        )

    @property
    def tail_dof(self) -> np.ndarray:
        return self.dof

    @property
    def covariance(self) -> np.ndarray:
        return np.diag(np.atleast_1d(self.scale**2 * self.dof / (self.dof - 2)))

    def log_likelihood(self, f: Symbol, targets: Symbol) -> Symbol:
        labels, tau = self._find_squared_scales(targets, f.dtype)
        dof = self.dof.astype(f.dtype)
        z = find_residual(f, labels) ** 2 / tau
        constant = (gammaln((self.dof + 1) / 2) - gammaln(self.dof / 2)).astype(f.dtype)
        density = (
            constant - 0.5 * pt.log(np.pi * dof * tau) - (dof + 1) / 2 * pt.log1p(z / dof)
        ).astype(f.dtype)
        return pt.sum(mark_observed(labels, f.dtype) * density, axis=-1)

    def whiten(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        labels, tau = self._find_squared_scales(targets, u.dtype)
        root = np.sqrt((self.dof + 1) / (self.dof + 3)).astype(u.dtype)
        weights = mark_observed(labels, u.dtype) * root / pt.sqrt(tau)
        return u * pt.shape_padright(weights, u.ndim - weights.ndim)

    def weigh(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        return self.whiten(self.whiten(u, f, targets), f, targets)

    def gradient(self, f: Symbol, targets: Symbol) -> Symbol:
        labels, tau = self._find_squared_scales(targets, f.dtype)
        dof = self.dof.astype(f.dtype)
        r = find_residual(f, labels)
        return -(dof + 1) * r / (dof * tau + r**2)

    def hessian(self, f: Symbol, targets: Symbol) -> Symbol:
        labels, tau = self._find_squared_scales(targets, f.dtype)
        dof = self.dof.astype(f.dtype)
        squares = find_residual(f, labels) ** 2
        second = (dof + 1) * (dof * tau - squares) / (dof * tau + squares) ** 2
        seen = mark_observed(labels, f.dtype) * second
        return seen[:, :, None] * np.eye(self.n_labels, dtype=f.dtype)

    def _find_squared_scales(self, targets: Symbol, dtype: str) -> tuple[Symbol, Symbol]:
        """Labels, and the squared scale of each with the variance that it came with."""
        labels, errors = split_targets(targets, self.n_labels)
        own = pt.constant((self.scale**2).astype(dtype))
        if errors is None:
            return labels, own
        if errors.ndim > labels.ndim:
            raise OptionError(_REFUSED)
        return labels, own + errors.astype(dtype)

    def of_stars(self, labels: Labels, find_outputs: FindOutputs = find_no_outputs) -> StarNoise:
        tau = self.squared_scales(labels)
        variances = tau * (self.dof + 3) / (self.dof + 1)
        if not isinstance(labels, LabelsWithErrors):
            return StarNoise(find_observed(labels), np.diag(variances))
        return StarNoise(find_observed(labels), variances[:, :, None] * np.eye(self.n_labels))

    def squared_scales(self, labels: Labels) -> np.ndarray:
        """Squared scale (label,), or with the variance that each label came with (star, label).

        Raises
        ------
        OptionError
            Errors of labels are covariances.
        """
        if not isinstance(labels, LabelsWithErrors):
            return self.scale**2
        if labels.errors.ndim == 3:
            raise OptionError(_REFUSED)
        return self.scale**2 + labels.errors

    def given(self, labels: Labels) -> np.ndarray:
        """Inverse squared scale, zero where a label is missing, and degrees of freedom."""
        tau = np.broadcast_to(self.squared_scales(labels), find_observed(labels).shape)
        precision = np.where(find_observed(labels), 1 / tau, 0.0)
        return np.stack([precision, np.broadcast_to(self.dof, tau.shape)], axis=2)

    def negative_log_peak(self, labels: Labels) -> float:
        constant = gammaln(self.dof / 2) - gammaln((self.dof + 1) / 2)
        each = constant + 0.5 * np.log(np.pi * self.dof * self.squared_scales(labels))
        return float(np.sum(np.where(find_observed(labels), each, 0.0)))

    def differentiate_evidence(
        self, residuals: np.ndarray, V: np.ndarray, moves: np.ndarray, given: np.ndarray
    ) -> np.ndarray:
        """Gradient by the squared scale and the degrees of freedom of each label (2, label)."""
        p = given[:, :, 0]
        dof = self.dof
        z2 = p * residuals**2
        variance = np.einsum("ncc->nc", V)
        by_tau = (
            -0.5 * p
            + 0.5 * (dof + 1) * p * z2 / (dof + z2)
            + 0.5 * (dof + 1) / (dof + 3) * p**2 * variance
            + moves * (dof + 1) * dof * residuals * (p / (dof + z2)) ** 2
        )
        peak = 0.5 * (digamma((dof + 1) / 2) - digamma(dof / 2) - 1 / dof)
        by_dof = (
            (p > 0) * (peak - 0.5 * np.log1p(z2 / dof))
            + 0.5 * (dof + 1) * z2 / (dof * (dof + z2))
            - variance * p / (dof + 3) ** 2
            - moves * residuals * p * (z2 - 1) / (dof + z2) ** 2
        )
        return np.stack([by_tau.sum(axis=0), by_dof.sum(axis=0)])

    def trust(self, residuals: np.ndarray, labels: Labels) -> np.ndarray:
        z2 = residuals**2 / self.squared_scales(labels)
        return np.where(find_observed(labels), self.dof / (self.dof + z2), np.nan)

    def predict(self, outputs: np.ndarray, variances: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.covariance, (*outputs.shape, self.n_labels)).copy()

    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return f + self.scale * rng.standard_t(np.broadcast_to(self.dof, np.shape(f)))

    def describe(self) -> str:
        dof = list_numbers(np.unique(self.dof))
        return f"Student's t with {dof} degrees of freedom, scale {list_numbers(self.scale)}"

    def identity(self) -> Any:
        return self.kind, self.scale, self.dof

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"scale": self.scale, "dof": self.dof}

    @classmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, tuple[int, ...]]:
        return {"scale": (n_labels,), "dof": (n_labels,)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(arrays["scale"], arrays["dof"])


def find_half_width(variance: np.ndarray, dof: float, level: float) -> np.ndarray:
    r"""Half width x of the central interval of a normal variate plus Student's t of unit scale.

    With t as a normal variate whose precision g is Gamma distributed,

    .. math:: P(x) = \int \Big[2 \Phi\Big(x \Big/ \sqrt{v + 1/g}\Big) - 1\Big] p(g) \, dg,

    by the trapezoidal rule in log g, which converges exponentially. P is concave, so that Newton's
    steps from 0 stay on its left.

    Parameters
    ----------
    variance : numpy.ndarray, shape (star,)
        v, of the normal variate.
    dof : float
    level : float
        Between 0 and 1.
    """
    ends = np.log(gamma.ppf(LOST, dof / 2)), np.log(gamma.isf(LOST, dof / 2))
    n_nodes = int(np.ceil((ends[1] - ends[0]) / (STEP * min(1.0, np.sqrt(2 / dof)))))
    g = np.exp(np.linspace(*ends, n_nodes))
    p = g * gamma.pdf(g, dof / 2)  # of log g
    p /= p.sum()
    out = np.empty(len(variance))
    for rows in chunks(len(variance), max(1, MAX_NODES // n_nodes)):
        sd = np.sqrt(variance[rows, None] + dof / (2 * g))
        x = np.zeros(len(sd))
        for _ in range(MAX_STEPS):
            z = x[:, None] / sd
            missing = level - (2 * ndtr(z) - 1) @ p
            slope = (2 * np.exp(-(z**2) / 2) / sd) @ p / np.sqrt(2 * np.pi)
            step = missing / slope
            x += step
            if (np.abs(step) <= ROUNDING * x).all():
                break
        out[rows] = x
    return out


_REFUSED = (
    "Student's t noise takes errors of labels that are standard deviations (star, label), got"
    " covariances: give label_errors, or GaussianNoise."
)


def _check(value: ArrayLike, name: str, rule: str, least: float) -> np.ndarray:
    number = as_float_array(value, name)
    if number.ndim > 1:
        raise ShapeError(
            f"{name} should be a number or have shape (label,), one a label, got {number.shape}."
        )
    if not (np.isfinite(number) & (number > least)).all():
        raise DataError(f"{name} should be finite and {rule}, got {number}.")
    return number
