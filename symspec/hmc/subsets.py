"""A part of the parameters that varies: the last layer, or leading directions of the curvature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import OptionError
from symspec.inverse_hessian.last_layer import LastLayer, find_last_layer, split_last_layer
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.params import ParamLayout
from symspec.networks.regression import Regression
from symspec.safety.options import is_count
from symspec.safety.stars import check_flux

Subset = str | int
ALL = "all"
LAST_LAYER = "last_layer"


def check_subset(subset: Any, n_params: int) -> Subset:
    """Check that a subset is "all", "last_layer" or a number of directions.

    Raises
    ------
    OptionError
    """
    if isinstance(subset, str) and subset in (ALL, LAST_LAYER):
        return subset
    if is_count(subset, 1, n_params):
        return int(subset)
    raise OptionError(
        f'subset should be "all", "last_layer", or a number of directions from 1 to {n_params:,},'
        f" got {subset!r}."
    )


def describe_subset(subset: Subset) -> str:
    """A subset in words, for every output that rests on one."""
    if subset == ALL:
        return "all weights"
    if subset == LAST_LAYER:
        return "the last layer's weights, the others held fixed"
    return f"the {subset} leading directions of the curvature, the others held fixed"


def find_free(layout: ParamLayout, subset: Subset) -> slice:
    """The parameters that a subset is made of, in theta."""
    return find_last_layer(layout)[1] if subset == LAST_LAYER else slice(0, layout.n_params)


def find_head(reg: Regression, theta: np.ndarray, subset: Subset) -> LastLayer | None:
    """The regression of the last layer alone, where that is the subset."""
    return split_last_layer(reg, theta) if subset == LAST_LAYER else None


def find_basis(laplace: LaplacePosterior, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Leading directions B (param, n) of the curvature, and the prior on theta = theta* + B z.

    With the leading eigenpairs (lambda_i, u_i) in units of the prior, :math:`b_i = \Lambda^{-1/2}
    u_i / \sqrt{1 + \lambda_i}`, so that Laplace's posterior of z is a unit normal; the prior of
    theta, given that it lies in the subspace, makes the z_i independent.

    Returns
    -------
    basis : numpy.ndarray, shape (param, n)
    prior_mean, prior_sd : numpy.ndarray, shape (n,)
        Of z.
    """
    leading = laplace.inverse_hessian.directions(laplace.reg, n)
    shrinkage = 1 / np.sqrt(1 + leading.eigenvalues)
    basis = leading.eigenvectors / np.sqrt(leading.precision)[:, None] * shrinkage
    mean = -(leading.eigenvectors.T @ (np.sqrt(leading.precision) * laplace.theta)) / shrinkage
    return basis, mean, 1 / shrinkage


def restricted_covariance(laplace: LaplacePosterior, X: ArrayLike, subset: Subset) -> np.ndarray:
    """Laplace's label covariance (star, label, label) when only a subset of the parameters varies.

    Raises
    ------
    OptionError
        The structure does not know the subset's curvature.
    """
    X = np.atleast_2d(check_flux(X, laplace.reg.net.n_pixels, dtype=None))
    if subset == ALL:
        return laplace.label_covariance(X)
    if subset == LAST_LAYER:
        inverse = laplace.inverse_hessian.of_last_layer(laplace.reg)
        layer = find_last_layer(laplace.reg.net.layout)[0]
        parts = [inverse.label_covariance(t.of_layer(layer)) for _, t in laplace.tangents(X)]
        return np.concatenate(parts)
    basis = find_basis(laplace, int(subset))[0]
    columns = np.concatenate([tangents.matvec(basis) for _, tangents in laplace.tangents(X)])
    return np.matmul(columns, columns.transpose(0, 2, 1))
