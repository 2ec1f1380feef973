"""The covariance of predictions when the noise is not what the regression takes it to be."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.errors import OptionError
from symspec.laplace.budget import threads_for
from symspec.laplace.leave_one_out import find_block_size
from symspec.laplace.posterior import LaplacePosterior
from symspec.safety.stars import check_flux
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra


def sandwich_covariance(
    laplace: LaplacePosterior,
    X_train: ArrayLike | Spectra,
    Y_train: ArrayLike | None = None,
    X: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    X_new: ArrayLike | None = None,
) -> np.ndarray:
    r"""Covariance of predicted labels from the residuals, whatever noise was assumed.

    .. math::
        V = J A^{-1} B A^{-1} J^T, \qquad B = \sum_n J_n^T s_n s_n^T J_n,

    where s_n is the gradient of star n's log density by the network's outputs,
    :math:`S_n^{-1} (y_n - f(\theta, x_n))` for normal noise,

    for independent stars whatever their noise (White 1982, doi:10.2307/1912526; Huber 1967, Proc.
    Fifth Berkeley Symp. 1, 221): scatter that differs from star to star, or that `sigma_noise`
    misstates. Where the noise is what the regression says, B is near the likelihood's part of A,
    and V near :math:`J A^{-1} J^T` or below it: the prior's part is not counted, as V is the
    scatter of refits to other training sets around their own mean. It needs many training stars for
    each direction that the data determine, as residuals at the minimum are smaller than the noise.

    Neither A^-1 nor J_n is formed: with the cross covariances :math:`C_{*n} = J_* A^{-1} J_n^T`
    (label, output),

    .. math:: V_* = \sum_n (C_{*n} s_n) (C_{*n} s_n)^T.

    Parameters
    ----------
    laplace : LaplacePosterior
        With structure="primal" or "dual", at a minimum.
    X_train, Y_train : array_like, shapes (star, pixel), (star, label)
        The training set that it was fitted to, or `Spectra` alone; NaN labels are missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Those that it was fitted with.
    ivar : array_like, shape (star, pixel), optional
        0 at bad pixels of the training flux, which are filled. `Spectra` bring their own.
    X : array_like, shape (star, pixel) or (pixel,)
        The stars to predict; `X_new` is another name for it, to go with `Spectra`.

    Returns
    -------
    numpy.ndarray, shape (star, label, label) or (label, label)
        In products of the labels' units.

    Raises
    ------
    OptionError
        Another structure, a subset of the training stars, or not one of X and X_new.
    ShapeError, DataError
        Arrays are not what the network takes.
    """
    net = laplace.reg.net
    cross_covariance = laplace.inverse_hessian.cross_covariance()
    stars = X if X_new is None else X_new
    if stars is None or (X is not None and X_new is not None):
        raise OptionError(
            "X should be the stars to predict, under this name or as X_new:"
            " sandwich_covariance(laplace, X_train, Y_train, X), or (laplace, spectra, X_new=X)."
        )
    flux = check_flux(stars, net.n_pixels, dtype=None)
    X_train, Y_train = check_stars(net, *as_stars(net, X_train, Y_train, label_errors, ivar))
    scores = laplace.reg.noise.score(laplace.predict_outputs(X_train), Y_train)
    size = find_block_size(laplace)
    V = np.zeros((len(np.atleast_2d(flux)), net.n_labels, net.n_labels))
    with threads_for(laplace):
        for rows, tangents in laplace.tangents(flux, stars_at_once=size):
            for train, others in laplace.output_tangents(X_train, size):
                C = cross_covariance(tangents, others)
                shifts = np.einsum("ncmd,md->ncm", C, scores[train])
                V[rows] += np.matmul(shifts, shifts.transpose(0, 2, 1))
    return V if flux.ndim == 2 else V[0]
