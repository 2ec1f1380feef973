"""The covariance of predictions when the noise is not what the regression takes it to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from symspec.derivatives.functions import check_stars
from symspec.derivatives.tangents import compute_tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.laplace.posterior import LaplacePosterior
from symspec.safety.checks import check_flux

BLOCK_BYTES = 2**27  # of the products with a block's tangents
MAX_BLOCK_STARS = 512


def sandwich_covariance(
    laplace: LaplacePosterior, X_train: Any, Y_train: Any, X: Any
) -> np.ndarray:
    r"""Covariance of predicted labels by the sandwich formula, from the residuals rather than the noise assumed.

    .. math::
        V = J A^{-1} B A^{-1} J^T, \qquad B = \sum_n s_n s_n^T, \qquad s_n = J_n^T S_n^{-1} (y_n - f(\theta, x_n)),

    for independent stars whatever their noise (White 1982, doi:10.2307/1912526; Huber 1967, Proc.
    Fifth Berkeley Symp. 1, 221): scatter that differs from star to star, or that `sigma_noise`
    misstates. Where the noise is what the regression says, B is near the likelihood's part of A,
    and V near :math:`J A^{-1} J^T` or below it: the prior's part is not counted, as V is the
    scatter of refits to other training sets around their own mean. It needs many training stars for
    each direction that the data determine, as residuals at the minimum are smaller than the noise.

    Neither A^-1 nor a score is formed: with the cross covariances :math:`C_{*n} = J_* A^{-1} J_n^T`
    (label, label),

    .. math:: V_* = \sum_n (C_{*n} S_n^{-1} r_n) (C_{*n} S_n^{-1} r_n)^T.

    Parameters
    ----------
    laplace : LaplacePosterior
        With structure="primal" or "dual", at a minimum.
    X_train, Y_train : array_like, shapes (star, pixel), (star, label)
        The training set that it was fitted to; NaN labels are missing.
    X : array_like, shape (star, pixel) or (pixel,)

    Returns
    -------
    numpy.ndarray, shape (star, label, label) or (label, label)
        In products of the labels' units.

    Raises
    ------
    OptionError
        Another structure, or a subset of the training stars.
    ShapeError, DataError
        Arrays are not what the network takes.
    """
    inverse = laplace.inverse_hessian
    net = laplace.reg.net
    if not isinstance(inverse, PrimalInverse | DualInverse) or inverse.accuracy != "exact":
        raise OptionError(
            'the sandwich covariance should be given a Laplace posterior of structure="primal" or'
            f' "dual" from all training stars, got "{laplace.structure}" ({inverse.accuracy}): use'
            ' fit_laplace(..., structure="dual").'
        )
    X = check_flux(X, net.n_pixels, dtype=None)
    stars = np.atleast_2d(X)
    X_train, Y_train = check_stars(net, X_train, Y_train)
    factors = laplace._factors
    weighted = _weighted_residuals(laplace, X_train, Y_train)
    size = int(
        np.clip(BLOCK_BYTES // (8 * net.n_labels * len(inverse.cholesky)), 1, MAX_BLOCK_STARS)
    )
    V = np.zeros((len(stars), net.n_labels, net.n_labels))
    for rows in _blocks(len(stars), size):
        tangents = compute_tangents(net, factors, laplace.theta, stars[rows])
        for train in _blocks(len(X_train), size):
            others = compute_tangents(net, factors, laplace.theta, X_train[train])
            shifts = np.einsum(
                "ncmd,md->ncm", inverse.label_cross_covariance(tangents, others), weighted[train]
            )
            V[rows] += np.matmul(shifts, shifts.transpose(0, 2, 1))
    return V if X.ndim == 2 else V[0]


def _weighted_residuals(laplace: LaplacePosterior, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """S_n^-1 r_n (star, label) over the observed labels, zero elsewhere."""
    observed = ~np.isnan(Y)
    residuals = np.where(observed, Y - laplace._predict(laplace.theta, X), 0.0)
    T = laplace.reg.noise.of_stars(Y).whiteners
    return np.einsum("nec,ned,nd->nc", T, T, residuals)


def _blocks(n_stars: int, size: int) -> Iterator[slice]:
    for start in range(0, n_stars, size):
        yield slice(start, min(start + size, n_stars))
