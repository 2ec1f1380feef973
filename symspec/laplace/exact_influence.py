r"""What training stars move by the exact Hessian H of U, as training again does.

Each label of a new star takes a solution of :math:`H x = J_x^T`, by some sixty products with H; the
first layer is reduced to the span of the training spectra, see `symspec.derivatives.span`, outside
of which no training star moves anything.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from symspec.derivatives import compiled
from symspec.derivatives.span import reduce_to_span
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.noise.gaussian import GaussianNoise
from symspec.safety.label_errors import Labels
from symspec.safety.memory import STARS_AT_ONCE, chunks
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress
from symspec.training.steps.hessian_solves import HessianSolver

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

CURVATURES = ("auto", "ggn", "hessian")
BLOCK_BYTES = 2**27  # of solutions


def takes_hessian(laplace: LaplacePosterior, curvature: str) -> bool:
    """Whether influence is by the exact Hessian, which "auto" takes at minima under normal noise.

    Student's t has curvatures in H that stars far out make negative, and others in the pulls: on
    MILES real refits followed the Gauss-Newton matrix as well or better.

    Raises
    ------
    OptionError
        It is asked for elsewhere.
    """
    check_choice(curvature, "curvature", CURVATURES)
    if curvature == "ggn":
        return False
    if curvature == "auto" and not isinstance(laplace.reg.noise, GaussianNoise):
        return False
    certificate = laplace.certificate
    is_minimum = certificate.n_pieces == 1 and certificate.is_minimum
    if curvature == "hessian" and not is_minimum:
        raise OptionError(
            'curvature="hessian" should be asked for at a minimum where U is smooth, got weights'
            f' {certificate.message} Run symspec.polish first, or use curvature="ggn".'
        )
    return is_minimum


def find_exact_influence(
    laplace: LaplacePosterior,
    flux: np.ndarray,
    labels: Labels,
    pulls: np.ndarray,
    X: np.ndarray,
    show: Progress,
) -> np.ndarray:
    r"""By how much each training star moves each label of new stars X (star, pixel).

    Parameters
    ----------
    laplace : LaplacePosterior
        At a minimum.
    flux : numpy.ndarray, shape (training star, pixel)
    labels : numpy.ndarray, shape (training star, label), or LabelsWithErrors
    pulls : numpy.ndarray, shape (training star, output)
        z, of which :math:`J_g^T z` is the force of a star on the weights.
    X : numpy.ndarray
    show : Progress

    Returns
    -------
    numpy.ndarray, shape (star, label, training star)

    Raises
    ------
    NotPositiveDefiniteError
        H curves down along a direction.
    """
    span = reduce_to_span(laplace.reg, flux)
    theta = span.project(laplace.theta)
    builder = InverseBuilder(span.reg, span.X, labels, backend=laplace.backend)
    inverse = laplace.inverse_hessian
    if span.basis is not None:
        inverse = inverse.in_span(builder, theta) if inverse.has_span else builder.build(theta)
    product = compiled.compile_hessian_vector_product(span.reg, backend=laplace.backend)
    solver = HessianSolver(partial(product, theta, span.X, labels), inverse.cheap())
    n_labels = laplace.reg.net.n_labels
    moved = np.empty((len(X), n_labels, len(flux)))
    size = max(1, BLOCK_BYTES // (8 * n_labels * laplace.theta.size))
    for rows, tangents in laplace.tangents(X, stars_at_once=size):
        J = tangents.dense().reshape(-1, laplace.theta.size)
        solutions = np.empty((theta.size, len(J)))
        for i, b in enumerate(J):
            done = rows.start * n_labels + i
            show("solving with the exact Hessian", done, len(X) * n_labels)
            solutions[:, i] = solver.solve(span.project(b))
        for train in chunks(len(flux), STARS_AT_ONCE):
            C = builder.tangents(theta, span.X[train]).matvec(solutions)
            changes = np.einsum("mdk,md->km", C, pulls[train])
            moved[rows, :, train] = changes.reshape(-1, n_labels, changes.shape[1])
    return moved
