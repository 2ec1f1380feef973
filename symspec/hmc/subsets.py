"""Part of a network's parameters, the others held fixed: the last layer, or leading directions of the curvature."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.derivatives import compiled
from symspec.derivatives.tangents import Tangents, compute_tangents
from symspec.errors import OptionError
from symspec.hmc.whitening import find_directions
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.last_layer import LastLayerInverse, find_last_layer
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.laplace.posterior import LaplacePosterior
from symspec.safety.checks import check_flux

Subset = str | int
STARS_AT_ONCE = 256


def check_subset(subset: Any, n_params: int) -> Subset:
    """Check that a subset is "all", "last_layer" or a number of directions.

    Raises
    ------
    OptionError
    """
    if isinstance(subset, str) and subset in ("all", "last_layer"):
        return subset
    is_count = isinstance(subset, int | np.integer) and not isinstance(subset, bool)
    if is_count and 1 <= subset <= n_params:
        return int(subset)
    raise OptionError(
        f'subset should be "all", "last_layer", or a number of directions from 1 to {n_params:,},'
        f" got {subset!r}."
    )


def describe_subset(subset: Subset) -> str:
    """Words for a subset, in every output that rests on one."""
    if subset == "all":
        return "all weights"
    if subset == "last_layer":
        return "the last layer's weights, the others held fixed"
    return f"the {subset} leading directions of the curvature, the others held fixed"


def find_last_layer_inverse(laplace: LaplacePosterior) -> PrimalInverse:
    """A^-1 of the last layer's parameters given all others, from an exact inverse over all of them.

    Raises
    ------
    OptionError
        The structure does not hold the last layer's curvature.
    """
    inverse = laplace.inverse_hessian
    layer, free = find_last_layer(laplace.reg.net.layout)
    if isinstance(inverse, LastLayerInverse):
        return inverse.primal
    if isinstance(inverse, PrimalInverse):
        rows = inverse.cholesky[free]
        return PrimalInverse.factorize(rows @ rows.T)
    if isinstance(inverse, DualInverse) and inverse.accuracy == "exact":
        whitened = inverse.tangents.whiten(inverse.noise.whiteners)
        J = whitened.of_layer(layer).dense().reshape(inverse.observed.size, -1)
        return PrimalInverse.factorize(
            J.T @ J + np.diag(laplace.reg.prior_precision_vector()[free])
        )
    raise OptionError(
        'the last layer\'s inverse Hessian should come from structure="last_layer", "primal" or'
        f' "dual", got "{laplace.structure}": fit_laplace(..., structure="last_layer").'
    )


def find_basis(laplace: LaplacePosterior, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Directions B (param, n) in which the curvature says most, and the prior on theta = theta* + B z.

    With the leading eigenpairs (lambda_i, u_i) in units of the prior, :math:`b_i = \Lambda^{-1/2}
    u_i / \sqrt{1 + \lambda_i}`, so that Laplace's posterior of z is a unit normal; the prior of
    theta, given that it lies in the subspace, makes the z_i independent.

    Returns
    -------
    basis : numpy.ndarray, shape (param, n)
    prior_mean, prior_sd : numpy.ndarray, shape (n,)
        Of z.
    """
    leading = find_directions(laplace, n)
    shrinkage = 1 / np.sqrt(1 + leading.eigenvalues)
    basis = leading.eigenvectors / np.sqrt(leading.precision)[:, None] * shrinkage
    mean = -(leading.eigenvectors.T @ (np.sqrt(leading.precision) * laplace.theta)) / shrinkage
    return basis, mean, 1 / shrinkage


def restricted_covariance(laplace: LaplacePosterior, X: Any, subset: Subset) -> np.ndarray:
    """Laplace's label covariance (star, label, label) when only a subset of the parameters varies.

    Raises
    ------
    OptionError
        The structure does not hold what the subset needs.
    """
    X = np.atleast_2d(check_flux(X, laplace.reg.net.n_pixels, dtype=None))
    if subset == "all":
        return laplace.label_covariance(X)
    if subset == "last_layer":
        inverse = LastLayerInverse(laplace.reg.net.layout, find_last_layer_inverse(laplace))
        return _walk(laplace, X, inverse)
    return _walk(laplace, X, find_basis(laplace, int(subset))[0])


def _walk(
    laplace: LaplacePosterior, X: np.ndarray, inverse: InverseHessian | np.ndarray
) -> np.ndarray:
    """J A^-1 J^T of each star, with A^-1 an operator or B B^T."""

    def covariance(tangents: Tangents) -> np.ndarray:
        if isinstance(inverse, InverseHessian):
            return inverse.label_covariance(tangents)
        Z = tangents.matvec(inverse)
        return np.matmul(Z, Z.transpose(0, 2, 1))

    options = {"backend": laplace.backend, "dtype": laplace.dtype}
    factors = compiled.compile_tangent_factors(laplace.reg.net, **options)
    parts = range(0, len(X), STARS_AT_ONCE)
    net = laplace.reg.net
    theta = laplace.theta
    return np.concatenate(
        [covariance(compute_tangents(net, factors, theta, X[i : i + STARS_AT_ONCE])) for i in parts]
    )
