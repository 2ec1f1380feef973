r"""Prior: independent zero-mean normals, :math:`\theta_i \sim \mathrm{Normal}(0, 1 / \delta_i)`.

A precision delta is one number a block of parameters, or one a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from scipy.linalg import get_blas_funcs

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.network import Network
from symspec.networks.noise import LOG_2PI
from symspec.networks.params import Block, ParamLayout, Symbol
from symspec.safety.arrays import as_float_array
from symspec.safety.memory import chunks

Precision = float | np.ndarray  # of a block: one number, or an array of its shape
_AT_ONCE = 2**16  # parameters, whose products stay in a core's second-level cache


class NormalPrior:
    """Normal prior of the parameters of one layout.

    Parameters
    ----------
    precision : float, array_like (param,), or dict of str to float or array
        As `prior_precision` of `Regression`.
    layout : ParamLayout

    Attributes
    ----------
    precision : dict of str to float or numpy.ndarray
        By block.
    layout : ParamLayout
    """

    def __init__(self, precision: ArrayLike | Mapping[str, Any], layout: ParamLayout):
        self.layout = layout
        self.precision = _check_prior(precision, layout)
        self._kept: tuple[Any, np.ndarray] | None = None

    def vector(self) -> np.ndarray:
        """Precision of each parameter (param,)."""
        return self.layout.expand(self.precision)

    @cached_property
    def log_det(self) -> float:
        """Sum of the logarithms of all precisions."""
        return float(
            sum(
                np.sum(np.log(self.precision[b.name]))
                * (b.size if np.ndim(self.precision[b.name]) == 0 else 1)
                for b in self.layout.blocks
            )
        )

    def _as_vector(self, dtype: np.dtype) -> np.ndarray:
        """Precision of each parameter; the last one is kept, as a search asks again and again."""
        precisions = list(self.precision.values())
        key = (dtype, *precisions)
        if not all(isinstance(precision, float) for precision in precisions):
            return self.vector().astype(dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self.vector().astype(dtype)
        return self._kept[1]

    def divide(self, most: int, dtype: str) -> Iterator[tuple[slice, float | np.ndarray]]:
        """Slices of theta of at most `most` parameters, and the precision in each of them.

        The precision is a number, or an array (n,) of a dtype.
        """
        pieces = [(block.slice, self.precision[block.name]) for block in self.layout.blocks]
        whole = slice(0, self.layout.n_params)
        numbers = [value for _, value in pieces if isinstance(value, float)]
        if len(numbers) == len(pieces) and len(set(numbers)) == 1:
            pieces = [(whole, numbers[0])]
        elif whole.stop <= most:
            pieces = [(whole, self.vector())]
        for place, value in pieces:
            for some in chunks(place.stop - place.start, most):
                part = slice(place.start + some.start, place.start + some.stop)
                yield part, value if isinstance(value, float) else value.ravel()[some].astype(dtype)

    def build_negative_log(self, params: Mapping[str, Symbol]) -> Symbol:
        """Minus the log density, a symbolic scalar, from named blocks."""
        total = 0
        dtype = None
        for block in self.layout.blocks:
            theta = params[block.name]
            dtype = theta.dtype
            precision = np.asarray(self.precision[block.name], dtype=dtype)
            total = total + pt.sum(precision * theta**2)
        constant = self.layout.n_params * LOG_2PI - self.log_det
        return np.asarray(0.5, dtype=dtype) * (total + np.asarray(constant, dtype=dtype))

    def add_gradient(self, gradient: np.ndarray, theta: np.ndarray, weight: float) -> float:
        """Add `weight` times the gradient of minus the log density at theta (param,), in place.

        Parameters
        ----------
        gradient : numpy.ndarray, shape (param,)
            What it is added to.
        theta : numpy.ndarray, shape (param,)
        weight : float

        Returns
        -------
        float
            `weight` times minus the log density.
        """
        square = 0.0
        if theta.size <= _AT_ONCE:
            step = self._as_vector(theta.dtype) * theta
            square = float(np.dot(step, theta))
            step *= weight
            gradient += step
            return weight * self.negative_log_of(square)
        for block in self.layout.blocks if weight else ():
            part = theta[block.slice]
            precision = self.precision[block.name]
            if isinstance(precision, float):
                square += precision * _add_multiple(gradient[block.slice], weight * precision, part)
            else:
                step = (precision.ravel() * part).astype(gradient.dtype)
                square += float(np.dot(step, part))
                gradient[block.slice] += weight * step
        return weight * self.negative_log_of(square)

    def negative_log_of(self, square: float) -> float:
        """Minus the log density where the squares of theta, times their precisions, sum to this."""
        return 0.5 * (square + self.layout.n_params * LOG_2PI - self.log_det)

    def negative_log_of_held(self, theta: np.ndarray, free: slice) -> float:
        """Minus the log density of the parameters of theta (param,) outside `free`."""
        is_held = np.ones(theta.size, bool)
        is_held[free] = False
        precision = self.vector()[is_held]
        return 0.5 * float(np.sum(precision * theta[is_held] ** 2 - np.log(precision) + LOG_2PI))


def _add_multiple(y: np.ndarray, a: float, x: np.ndarray) -> float:
    """Y += a x in place; returns x^T x."""
    total = get_blas_funcs("axpy", (x, y))(x, y, a=a)
    if total is not y:  # y was none that it writes to
        y[...] = total
    # piece by piece: single precision holds no sum of millions
    return sum(float(np.dot(part, part)) for part in (x[some] for some in chunks(x.size, _AT_ONCE)))


def scaled_prior(net: Network, precision: float) -> dict[str, float]:
    r"""Prior precisions by block for layers of any width: `precision` times the fan-in of kernels.

    With kernels drawn from :math:`W \sim \mathrm{Normal}(0, 1 / (\delta\, n_\mathrm{in}))` and
    biases from Normal(0, 1/delta) the activations keep their size from layer to layer (Neal 1996,
    doi:10.1007/978-1-4612-0745-0), so that one number delta fits them all.
    """
    fans = net.find_fans()
    return {block.name: precision * fans.get(block.name, (1, 1))[0] for block in net.layout.blocks}


def prior_precision_from_weight_decay(
    weight_decay: float, *, sigma_noise: float, n_stars: int, n_labels: int
) -> float:
    r"""Prior precision that a mean-squared-error loss with weight decay amounts to.

    The loss (1 / NC) sum (y - f)^2 + (wd / 2) |theta|^2, times NC / (2 sigma^2), is the negative
    log posterior with delta = NC wd / (2 sigma^2). PyTorch's optimisers write the penalty so; for
    Keras's l2(wd), which has no 1/2, pass twice its factor.

    Parameters
    ----------
    weight_decay : float
        Factor of half the squared norm in the loss.
    sigma_noise : float
        Standard deviation of the noise in the units in which the loss was taken.
    n_stars, n_labels : int
        The loss was a mean over n_stars * n_labels entries.
    """
    return n_stars * n_labels * weight_decay / (2 * sigma_noise**2)


def _check_prior(prior: ArrayLike | Mapping[str, Any], layout: ParamLayout) -> dict[str, Precision]:
    blocks = layout.blocks
    if isinstance(prior, Mapping):
        values = {b.name: prior.get(b.name, prior.get(b.name.rpartition("/")[0])) for b in blocks}
        known = {b.name for b in blocks} | {b.name.rpartition("/")[0] for b in blocks}
        missing = [name for name, value in values.items() if value is None]
        unknown = [name for name in prior if name not in known]
        if missing or unknown:
            raise OptionError(
                f"prior_precision should name the blocks {[b.name for b in blocks]} or their"
                f" layers, but {missing or 'none'} have no value and {unknown or 'none'} are"
                " unknown."
            )
    else:
        array = as_float_array(prior, "prior_precision")
        if array.shape not in ((), (layout.n_params,)):
            raise ShapeError(
                "prior_precision should be a number, a dict by block, or have shape"
                f" ({layout.n_params},), got {array.shape}."
            )
        values = layout.unpack(array) if array.ndim else {b.name: array for b in blocks}
    return {b.name: _check_precision(values[b.name], b) for b in blocks}


def _check_precision(value: ArrayLike, block: Block) -> Precision:
    array = as_float_array(value, f"prior_precision of {block.name}")
    if array.shape not in ((), block.shape):
        raise ShapeError(
            f"prior_precision of {block.name} should be a number or have shape {block.shape}, got"
            f" {array.shape}."
        )
    if not (np.isfinite(array) & (array > 0)).all():
        raise DataError(
            "prior_precision should be positive (it is 1 / variance of the prior), got"
            f" {np.min(array):g} for {block.name}: for an almost flat prior give a small number"
            " such as 1e-6."
        )
    return float(array) if array.ndim == 0 else array
