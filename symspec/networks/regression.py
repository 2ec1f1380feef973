r"""Regression: a network with noise and prior, and its negative log posterior as one symbolic scalar.

.. math::
    U(\theta) = \sum_n \left[\tfrac12 |T_n (y_n - f(\theta, x_n))|^2 + \tfrac12 \log\det S_n
                + \tfrac{C_n}{2} \log 2\pi\right]
                + \sum_i \left[\tfrac12 \delta_i \theta_i^2 - \tfrac12 \log\delta_i + \tfrac12 \log 2\pi\right]

S_n is the noise covariance of the C_n labels that star n has (NaN = missing), T_n^T T_n its
inverse, and delta_i the prior precision of parameter i. Sums, never means, and all constants: U is
minus PyMC's logp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor.tensor as pt
from scipy.linalg import get_blas_funcs

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.network import Network, as_theta
from symspec.networks.params import Symbol
from symspec.safety.arrays import as_float_array

LOG_2PI = float(np.log(2 * np.pi))


class Regression:
    """Gaussian likelihood and prior around a network.

    Parameters
    ----------
    net : Network
    sigma_noise : float or array_like, shape (label,), optional
        Standard deviation of the noise of each label, in the label's units.
    noise_covariance : array_like, shape (label, label), optional
        Full covariance of the noise, in place of `sigma_noise`.
    prior_precision : float, array_like (param,), or dict of str to float or array
        Precision (1 / variance) of the zero-mean normal prior: one number, one a parameter, or one
        a block. A dict's keys are names of blocks ("dense_0/kernel") or of layers ("dense_0"), and
        cover all of them.

    Attributes
    ----------
    noise_covariance : numpy.ndarray, shape (label, label)
    sigma_noise : numpy.ndarray, shape (label,)
        Square root of its diagonal.
    prior_precision : dict of str to float or numpy.ndarray
        By block.

    Raises
    ------
    OptionError
        Both or neither of the noises are given, or the prior names blocks that the network does not
        have.
    ShapeError, DataError
        Wrong number of sigmas, a value that is not positive, a covariance that is not one.
    """

    def __init__(
        self,
        net: Network,
        *,
        sigma_noise: Any = None,
        noise_covariance: Any = None,
        prior_precision: Any,
    ):
        if (sigma_noise is None) == (noise_covariance is None):
            raise OptionError(
                "give either sigma_noise (a standard deviation, one a label) or noise_covariance"
                " (label, label)."
            )
        self.net = net
        self.has_full_noise = noise_covariance is not None
        self.noise_covariance = (
            _check_covariance(noise_covariance, net.n_labels)
            if self.has_full_noise
            else np.diag(_check_sigma(sigma_noise, net.n_labels) ** 2)
        )
        self.sigma_noise = np.sqrt(np.diag(self.noise_covariance))
        self.prior_precision = _check_prior(prior_precision, net)

    def __repr__(self) -> str:
        return (
            f"Regression({self.net!r},"
            f" sigma_noise={np.array2string(self.sigma_noise, precision=4)})"
        )

    def negative_log_posterior(self, theta: Any, flux: Any, labels: Any) -> Symbol:
        """Symbolic U(theta), a scalar summed over stars with all its constants.

        Parameters
        ----------
        theta : symbolic vector (param,)
        flux : symbolic (star, pixel) or (pixel,)
        labels : symbolic (star, label) or (label,); NaN = missing, only that entry leaves the likelihood
        """
        params = self.net.layout.unpack(as_theta(theta, self.net.n_params))
        return self.negative_log_likelihood(params, flux, labels) + self.negative_log_prior(params)

    def negative_log_likelihood(
        self, params: Mapping[str, Symbol], flux: Any, labels: Any
    ) -> Symbol:
        """The likelihood's part of U, from named blocks."""
        f = self.net.build(params, flux)
        labels = pt.as_tensor_variable(labels).astype(
            f.dtype
        )  # logarithms of the noise take the labels' dtype
        if labels.ndim != f.ndim:
            raise ShapeError(
                f"labels should have {f.ndim} axes like the network's output for this flux, got"
                f" {labels.ndim}."
            )
        return -pt.sum(self.log_likelihood(f, labels))

    def log_likelihood(self, f: Symbol, labels: Symbol) -> Symbol:
        """Log density of each star's observed labels (star,), or a scalar for one star, when the network says `f`."""
        observed = ~pt.isnan(labels)
        z = self.whiten(pt.switch(observed, labels - f, pt.zeros_like(f)), labels)
        constant = self._log_det_noise(labels) + pt.sum(
            observed.astype(f.dtype), axis=-1
        ) * _scalar(LOG_2PI, f)
        return _scalar(-0.5, f) * (pt.sum(z**2, axis=-1) + constant)

    def negative_log_prior(self, params: Mapping[str, Symbol]) -> Symbol:
        """The prior's part of U, from named blocks."""
        total = 0
        dtype = None
        for block in self.net.layout.blocks:
            theta = params[block.name]
            precision = self.prior_precision[block.name]
            dtype = theta.dtype
            total = total + pt.sum(np.asarray(precision, dtype=dtype) * theta**2)
        constant = self.net.n_params * LOG_2PI - self.log_det_prior_precision()
        return np.asarray(0.5, dtype=dtype) * (total + np.asarray(constant, dtype=dtype))

    def add_prior(self, gradient: np.ndarray, theta: np.ndarray, weight: float) -> float:
        """Add `weight` times the prior's gradient to `gradient` (param,), in place, and return as much of its U."""
        total = self.net.n_params * LOG_2PI - self.log_det_prior_precision()
        for block in self.net.layout.blocks if weight else ():
            part = theta[block.slice]
            precision = self.prior_precision[block.name]
            if np.ndim(precision) == 0:
                total += precision * float(np.dot(part, part))
                get_blas_funcs("axpy", (part, gradient))(
                    part, gradient[block.slice], a=weight * precision
                )
            else:
                step = (precision.ravel() * part).astype(gradient.dtype)
                total += float(np.dot(step, part))
                gradient[block.slice] += weight * step
        return 0.5 * weight * total

    def negative_log_prior_of_held(self, theta: np.ndarray, free: slice) -> float:
        """The prior's part of U (param,) that belongs to the parameters outside `free`."""
        held = np.ones(theta.size, bool)
        held[free] = False
        precision = self.prior_precision_vector()[held]
        return 0.5 * float(np.sum(precision * theta[held] ** 2 - np.log(precision) + LOG_2PI))

    def prior_precision_vector(self) -> np.ndarray:
        """Prior precision of each parameter (param,)."""
        return self.net.layout.expand(self.prior_precision)

    def log_det_prior_precision(self) -> float:
        """Sum of the logarithms of all prior precisions."""
        return float(
            sum(
                np.sum(np.log(self.prior_precision[b.name]))
                * (b.size if np.ndim(self.prior_precision[b.name]) == 0 else 1)
                for b in self.net.layout.blocks
            )
        )

    def whiten(self, u: Symbol, labels: Symbol) -> Symbol:
        r"""T_n u_n for each star, with :math:`T_n^T T_n = S_n^{-1}` on its observed labels and zero elsewhere.

        `u` has shape (star, label), (star, label, anything), or (label,) for one star.
        """
        if not self.has_full_noise:
            weights = pt.switch(pt.isnan(labels), 0.0, 1.0).astype(
                u.dtype
            ) / self.sigma_noise.astype(u.dtype)
            return u * pt.shape_padright(weights, u.ndim - weights.ndim)
        T = self._noise_elimination(labels)[0].astype(u.dtype)
        one_star = labels.ndim == 1
        u = u[None] if one_star else u
        z = pt.sum(T * u[:, None, :], axis=-1) if u.ndim == 2 else pt.matmul(T, u)
        return z[0] if one_star else z

    def weigh(self, u: Symbol, labels: Symbol) -> Symbol:
        r""":math:`S_n^{-1} u_n` for each star on its observed labels, zero elsewhere; `u` (star, label) or (label,)."""
        if not self.has_full_noise:
            return self.whiten(self.whiten(u, labels), labels)
        T = self._noise_elimination(labels)[0].astype(u.dtype)
        z = pt.atleast_2d(self.whiten(u, labels))
        w = pt.sum(T * z[:, :, None], axis=1)
        return w[0] if labels.ndim == 1 else w

    def whiteners(self, observed: np.ndarray) -> np.ndarray:
        r"""T_n of `whiten` as numbers (star, label, label), from which labels are observed (star, label)."""
        patterns, which = np.unique(observed, axis=0, return_inverse=True)
        T = np.zeros((len(patterns), self.net.n_labels, self.net.n_labels))
        for t, seen in zip(T, patterns, strict=True):
            root = np.linalg.cholesky(self.noise_covariance[np.ix_(seen, seen)])
            t[np.ix_(seen, seen)] = np.linalg.inv(root)
        return T[which.ravel()]

    def _log_det_noise(self, labels: Symbol) -> Symbol:
        """Log det S_n of each star (star,), or a scalar for one star."""
        if self.has_full_noise:
            log_det = self._noise_elimination(labels)[1]
            return log_det[0] if labels.ndim == 1 else log_det
        observed = pt.switch(pt.isnan(labels), 0.0, 1.0).astype(labels.dtype)
        return pt.sum(observed * (2 * np.log(self.sigma_noise)).astype(labels.dtype), axis=-1)

    def _noise_elimination(self, labels: Symbol) -> tuple[Symbol, Symbol]:
        """Whitener T (star, label, label) and log det S_n (star,): Cholesky by elimination, missing labels skipped.

        Written out label by label and vectorised over stars, so that every backend runs it, and a
        missing label costs nothing but a mask.
        """
        labels = pt.atleast_2d(labels)
        C = self.net.n_labels
        dtype = labels.dtype
        observed = pt.switch(pt.isnan(labels), 0.0, 1.0).astype(dtype)
        n_stars = labels.shape[0]
        S = pt.alloc(self.noise_covariance.astype(dtype), n_stars, C, C)
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


def scaled_prior(net: Network, precision: float) -> dict[str, float]:
    r"""Prior precisions by block that suit layers of any width: `precision` times the fan-in for kernels.

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


def _scalar(value: float, like: Symbol) -> Symbol:
    return pt.constant(np.asarray(value, dtype=like.dtype))


def _check_sigma(sigma_noise: Any, n_labels: int) -> np.ndarray:
    sigma = as_float_array(sigma_noise, "sigma_noise")
    if sigma.shape not in ((), (n_labels,)):
        raise ShapeError(
            f"sigma_noise should be a number or have shape ({n_labels},), one a label, got"
            f" {sigma.shape}: a full covariance goes into noise_covariance."
        )
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise DataError(
            f"sigma_noise is a standard deviation and should be positive, got {sigma_noise}."
        )
    return np.broadcast_to(sigma, (n_labels,))


def _check_covariance(covariance: Any, n_labels: int) -> np.ndarray:
    S = as_float_array(covariance, "noise_covariance")
    if S.shape != (n_labels, n_labels):
        raise ShapeError(
            f"noise_covariance should have shape ({n_labels}, {n_labels}), got {S.shape}."
        )
    if not np.isfinite(S).all() or not np.allclose(S, S.T, rtol=1e-10, atol=0):
        raise DataError("noise_covariance should be finite and symmetric: give (S + S.T) / 2.")
    smallest = float(np.linalg.eigvalsh(S)[0])
    if smallest <= 0:
        raise DataError(
            "noise_covariance should be positive definite, got a smallest eigenvalue of"
            f" {smallest:.3g}."
        )
    return (S + S.T) / 2


def _check_prior(prior: Any, net: Network) -> dict[str, Any]:
    blocks = net.layout.blocks
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
        if array.shape not in ((), (net.n_params,)):
            raise ShapeError(
                "prior_precision should be a number, a dict by block, or have shape"
                f" ({net.n_params},), got {array.shape}."
            )
        values = net.layout.unpack(array) if array.ndim else {b.name: array for b in blocks}
    return {b.name: _check_precision(values[b.name], b) for b in blocks}


def _check_precision(value: Any, block: Any) -> Any:
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
