r"""Student's t noise: wider tails than normal noise, so that outliers among the labels pull less.

With residual r, squared scale tau and nu degrees of freedom, each label has

.. math::
    -\log p = \log\frac{\Gamma(\nu/2)}{\Gamma((\nu+1)/2)} + \tfrac12 \log(\pi\nu\tau)
    + \frac{\nu+1}{2} \log\Big(1 + \frac{r^2}{\nu\tau}\Big)

(Lange, Little & Taylor 1989, doi:10.1080/01621459.1989.10478852). Its Gauss-Newton weight is the
expected information :math:`(\nu+1) / ((\nu+3) \tau)`, the same for every star: the weights of the
majorising normal, :math:`(\nu+1) / (\nu\tau + r^2)`, average to :math:`1/\tau`, more than the data
tell.

Of two degrees of freedom or fewer, which labels with outliers often want, there is no variance,
and of a few more it is that of the outliers. What stands for the standard deviation is the half
width of the central interval that holds as much as a normal's of one standard deviation, 68.27 %:
it is there for any number, and a normal's for many.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.tensor import TensorVariable as Symbol
from scipy.special import digamma, gammaln

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
from symspec.networks.noise.tails import find_sigma
from symspec.safety.arrays import as_float_array
from symspec.safety.label_errors import (
    Labels,
    LabelsWithErrors,
    find_labels_alone,
    find_observed,
)


class StudentTNoise(TunableNoise):
    r"""Student's t noise of each label: :math:`y_n \sim f_n + s\, t_\nu`.

    Parameters
    ----------
    scale : float or array_like, shape (label,)
        Scale s of each label, in the label's units.
    dof : float or array_like, shape (label,), default 4
        Degrees of freedom nu: fewer for wider tails, normal noise for many.

    Attributes
    ----------
    scale, dof : numpy.ndarray, shape (label,)
        A number becomes one a label in a regression.
    sigma : numpy.ndarray, shape (label,)
        Half width of the interval of 68.27 %, a normal's standard deviation.
    covariance : numpy.ndarray, shape (label, label)
        Diagonal, of the squares of `sigma`.

    Raises
    ------
    ShapeError, DataError
        Wrong shapes, or a scale or degrees of freedom that are not positive.

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
        self.scale = _check(scale, "scale")
        self.dof = _check(dof, "dof")

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
        return np.diag(np.atleast_1d((self.scale * find_sigma(self.dof)) ** 2))

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

    def predict(
        self, outputs: np.ndarray, variances: np.ndarray, labels: Labels | None = None
    ) -> np.ndarray:
        tau = self.scale**2 if labels is None else self.squared_scales(labels)
        squares = np.broadcast_to(tau * find_sigma(self.dof) ** 2, outputs.shape)
        return squares[..., None] * np.eye(self.n_labels)

    def score(self, outputs: np.ndarray, labels: Labels) -> np.ndarray:
        r = np.nan_to_num(find_labels_alone(labels) - outputs)
        return (self.dof + 1) * r / (self.dof * self.squared_scales(labels) + r**2)

    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return f + self.scale * rng.standard_t(np.broadcast_to(self.dof, np.shape(f)))

    def describe(self) -> str:
        dof = list_numbers(self.dof if np.ptp(self.dof) else self.dof.flat[0])
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


_REFUSED = (
    "Student's t noise takes errors of labels that are standard deviations (star, label), got"
    " covariances: give label_errors, or GaussianNoise."
)


def _check(value: ArrayLike, name: str) -> np.ndarray:
    number = as_float_array(value, name)
    if number.ndim > 1:
        raise ShapeError(
            f"{name} should be a number or have shape (label,), one a label, got {number.shape}."
        )
    if not (np.isfinite(number) & (number > 0)).all():
        raise DataError(f"{name} should be finite and positive, got {number}.")
    return number
