r"""What training stars move by the exact Hessian H of U, as training again does.

With :math:`V = J H^{-1} J^T`, s a star's score and W its curvature as observed, second derivatives
of minus the log density, leaving group g out moves labels by

.. math:: J_x H^{-1} J_g^T z_g, \qquad z_g = (1 - W_g V_{gg})^{-1} s_g

Where :math:`1 - W V` has an eigenvalue that is not positive, the weights are at no minimum without
those stars, and no step tells where the next one is: z is NaN.

The first layer is reduced to the span of the training spectra, see `symspec.derivatives.span`,
outside of which no training star moves anything. Where H is too large for a matrix, or float64 does
not hold its inverse, each label of a new star takes a solution of :math:`H x = J_x^T`, by some
sixty products with H, and z is that of the Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy.linalg import block_diag

from symspec.derivatives import compiled
from symspec.derivatives.curvature import has_elementwise_layers
from symspec.derivatives.span import count_in_span, reduce_to_span
from symspec.derivatives.tangents import Tangents
from symspec.derivatives.weighted_sums import compile_likelihood
from symspec.errors import NotPositiveDefiniteError, OptionError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.noise.noise import TunableNoise
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.memory import STARS_AT_ONCE, chunks
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress
from symspec.training.steps.hessian_solves import HessianSolver

if TYPE_CHECKING:
    from symspec.laplace.leave_one_out import TrainingStars
    from symspec.laplace.posterior import LaplacePosterior

Solve = Callable[[np.ndarray], np.ndarray]
CURVATURES = ("auto", "ggn", "hessian")
BLOCK_BYTES = 2**27  # of solutions
DENSE_PARAMS = 8000  # up to which H is a matrix: 0.5 GB, and some ten seconds
DIGITS = 1e-3  # relative width of what is known of a variance: more is for products
LEAST_LEFT = 1e-9  # of the curvature, where a star is left out: less is rounding


def takes_hessian(laplace: LaplacePosterior, curvature: str, n_stars: int) -> bool:
    """Whether influence is by H, which "auto" takes at minima where H is small enough a matrix.

    Raises
    ------
    OptionError
        It is asked for elsewhere.
    """
    check_choice(curvature, "curvature", CURVATURES)
    if curvature == "ggn" or (curvature == "auto" and not _is_dense(laplace, n_stars)):
        return False
    certificate = laplace.certificate
    is_minimum = certificate.n_pieces == 1 and certificate.is_minimum
    if curvature == "hessian" and not is_minimum:
        raise OptionError(
            'curvature="hessian" should be asked for at a minimum where U is smooth, got weights'
            f' {certificate.message} Run symspec.polish first, or use curvature="ggn".'
        )
    return is_minimum


def _is_dense(laplace: LaplacePosterior, n_stars: int) -> bool:
    reg = laplace.reg
    return count_in_span(reg, n_stars) <= DENSE_PARAMS and has_elementwise_layers(reg.net)


class ExactInfluence:
    """By how much each training star moves labels, at a minimum.

    Parameters
    ----------
    laplace : LaplacePosterior
        At a minimum.
    stars : TrainingStars
    members : list of numpy.ndarray, or None
        Stars of each group that is left out together; None where each stands alone.
    pulls : numpy.ndarray, shape (training star, output)
        z by the Gauss-Newton matrix, of which :math:`J_g^T z` is the force of a star on the
        weights.

    Raises
    ------
    NotPositiveDefiniteError
        H curves down along a direction.
    """

    def __init__(
        self,
        laplace: LaplacePosterior,
        stars: TrainingStars,
        members: list[np.ndarray] | None,
        pulls: np.ndarray,
    ):
        self._laplace = laplace
        self._labels = stars.labels
        self._span = span = reduce_to_span(laplace.reg, stars.flux)
        self._theta = span.project(laplace.theta)
        self._builder = InverseBuilder(span.reg, span.X, stars.labels, backend=laplace.backend)
        dense = self._invert() if _is_dense(laplace, len(stars.flux)) else None
        if dense is None:
            self._solve = self._solve_by_products()
            self._pulls = pulls
        else:
            inverse, V = dense
            self._solve = inverse.dot
            self._pulls = self._find_pulls(inverse, V, members)

    def find(self, X: np.ndarray, show: Progress) -> np.ndarray:
        """Labels of new stars X (star, pixel), less those without each training star.

        Returns
        -------
        numpy.ndarray, shape (star, label, training star)
        """
        laplace, span = self._laplace, self._span
        n_labels = laplace.reg.net.n_labels
        moved = np.empty((len(X), n_labels, len(span.X)))
        size = max(1, BLOCK_BYTES // (8 * n_labels * laplace.theta.size))
        for rows, tangents in laplace.tangents(X, stars_at_once=size):
            show("solving with the exact Hessian", rows.start, len(X))
            J = tangents.dense().reshape(-1, laplace.theta.size)
            solutions = self._solve(np.stack([span.project(row) for row in J], axis=1))
            for train, others in self._walk_training():
                changes = np.einsum("mdk,md->km", others.matvec(solutions), self._pulls[train])
                moved[rows, :, train] = changes.reshape(-1, n_labels, changes.shape[1])
        return moved

    def _walk_training(self) -> Iterator[tuple[slice, Tangents]]:
        for rows in chunks(len(self._span.X), STARS_AT_ONCE):
            yield rows, self._builder.tangents(self._theta, self._span.X[rows])

    def _invert(self) -> tuple[InverseHessian, np.ndarray] | None:
        """H^-1 by H as a matrix, and V of each star; None where float64 does not hold them."""
        span, theta = self._span, self._theta
        of_matrix = InverseBuilder(
            span.reg, span.X, self._labels, curvature="hessian", backend=self._laplace.backend
        )
        try:
            inverse = of_matrix.build(theta)
        except NotPositiveDefiniteError:  # by rounding: the weights are at a minimum
            return None
        found = [inverse.enclose(tangents) for _, tangents in self._walk_training()]
        V, lower, upper = (
            np.concatenate(parts)
            for parts in zip(*((one.value, one.lower, one.upper) for one in found), strict=True)
        )
        unknown, known = (np.einsum("ncc->nc", x) for x in (upper - lower, V))
        return (inverse, V) if (unknown <= DIGITS * known).all() else None

    def _find_pulls(
        self, inverse: InverseHessian, V: np.ndarray, members: list[np.ndarray] | None
    ) -> np.ndarray:
        """Find z of each star (star, output), NaN where no minimum is left without its group."""
        scores, W = self._differentiate_noise()
        if members is None:
            return _release(V, W, scores)
        cross_covariance = inverse.cross_covariance()
        pulls = np.empty_like(scores)
        for group in members:
            tangents = self._builder.tangents(self._theta, self._span.X[group])
            s = scores[group].reshape(1, -1)
            V = cross_covariance(tangents, tangents).reshape(1, s.size, s.size)
            z = _release(V, block_diag(*W[group])[None], s)
            pulls[group] = z.reshape(-1, scores.shape[1])
        return pulls

    def _differentiate_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores (star, output), and curvatures (star, output, output) of the noise as observed."""
        net, noise = self._span.reg.net, cast(TunableNoise, self._span.reg.noise)
        given = noise.given(self._labels)
        differentiate = compile_likelihood(
            net, kind=noise.kind, n_given=given.shape[2], backend=self._laplace.backend
        )
        outputs = self._builder.outputs(self._theta, self._span.X)
        values = np.nan_to_num(find_labels_alone(self._labels))
        _, gradient, W = differentiate(outputs, values, given)
        return -np.asarray(gradient), np.asarray(W)

    def _solve_by_products(self) -> Solve:
        """Solutions (param, k) with H, one right-hand side after the other."""
        inverse = self._laplace.inverse_hessian
        theta, span = self._theta, self._span
        if span.basis is not None:
            has_span = inverse.has_span
            builder = self._builder
            inverse = inverse.in_span(builder, theta) if has_span else builder.build(theta)
        product = compiled.compile_hessian_vector_product(span.reg, backend=self._laplace.backend)
        solver = HessianSolver(partial(product, theta, span.X, self._labels), inverse.cheap())
        return lambda B: np.stack([solver.solve(b) for b in B.T], axis=1)


def _release(V: np.ndarray, W: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(1 - W V)^-1 s of groups: V and W (group, row, row), scores (group, row)."""
    leverages = np.linalg.eigvals(W @ V).real.max(axis=1)  # of a product with V: they are real
    left = np.eye(V.shape[1]) - W @ V
    holds = 1 - leverages > LEAST_LEFT
    left[~holds] = np.eye(V.shape[1])
    z = np.linalg.solve(left, scores[:, :, None])[:, :, 0]
    return np.where(holds[:, None], z, np.nan)
