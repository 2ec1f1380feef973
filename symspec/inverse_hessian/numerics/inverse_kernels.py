"""Inverse of a kernel and the noise of its stars, for the evidence of a linear model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg.lapack import dlauum, dpotrf, dtrtri

from symspec.derivatives.threads import multiply_own, threads_of_scipy
from symspec.inverse_hessian.numerics.tiled_cholesky import check_factor
from symspec.networks.noise.star_noise import StarNoise


@dataclass(frozen=True, eq=False, kw_only=True)
class InverseKernel:
    """M^-1 = L^-T L^-1 of M = K + S over the rows (label, star) that are observed.

    Of what the evidence takes of M^-1, all but `find_inverse` comes from L^-1 by products with
    vectors, and L^-1 takes half the work that M^-1 takes.

    Attributes
    ----------
    root : numpy.ndarray, shape (row, row)
        L^-1, lower triangular.
    log_det : float
        Of M.
    observed : numpy.ndarray of bool, shape (star, label)
    """

    root: np.ndarray
    log_det: float
    observed: np.ndarray

    @classmethod
    def of(cls, K: np.ndarray, noise: StarNoise) -> InverseKernel:
        """From K over all rows, label-major, which is overwritten."""
        L = factorize_kernel(K, noise)
        log_det = 2 * float(np.log(np.diag(L)).sum())
        with threads_of_scipy(len(L)):
            root, _ = dtrtri(L, lower=1, overwrite_c=1)
        return cls(root=root, log_det=log_det, observed=noise.observed)

    @property
    def rows(self) -> np.ndarray:
        """The observed ones of all rows (label, star)."""
        return np.flatnonzero(self.observed.T)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M^-1 b over all rows (row, ...), zero where a label is missing."""
        out = np.zeros_like(b)
        out[self.rows] = self.root.T @ (self.root @ b[self.rows])
        return out

    def find_blocks(self) -> np.ndarray:
        """M^-1 of each star with itself (star, label, label), zero where a label is missing."""
        N, C = self.observed.shape
        places = np.full(self.observed.T.shape, -1)
        places.flat[self.rows] = np.arange(len(self.root))
        blocks = np.zeros((N, C, C))
        by_row = self.root.T  # a row of it in one piece, as LAPACK has columns
        for c in range(C):
            for d in range(c + 1):
                both = self.observed[:, c] & self.observed[:, d]
                ends = [by_row[_as_slice(places[label][both])] for label in (c, d)]
                blocks[both, c, d] = blocks[both, d, c] = np.einsum("nr,nr->n", *ends)
        return blocks

    def find_block(self, stars: np.ndarray) -> np.ndarray:
        """M^-1 of some stars with each other, rows (star, label), where no label is missing."""
        N, C = self.observed.shape
        columns = self.root[:, (stars[:, None] + N * np.arange(C)).ravel()]
        return multiply_own(columns.T)

    def find_inverse(self) -> np.ndarray:
        """Lower triangle of M^-1 over the observed rows, zero above."""
        with threads_of_scipy(len(self.root)):
            lower, _ = dlauum(self.root, lower=1)
        return lower


def factorize_kernel(K: np.ndarray, noise: StarNoise) -> np.ndarray:
    """Lower Cholesky factor of K + S over the observed (label, star) rows; K is overwritten.

    Raises
    ------
    DataError
        The kernel is not finite.
    """
    M = noise.add_to(K)
    if not noise.observed.all():
        rows = np.flatnonzero(noise.observed.T)
        M = M[np.ix_(rows, rows)]
    # the transpose is Fortran-ordered, so that LAPACK works in place; M is symmetric
    with threads_of_scipy(len(M)):
        factor, info = dpotrf(M.T, lower=1, clean=1, overwrite_a=1)
    check_factor(factor, info)
    return factor


def find_trace(lower: np.ndarray, kernel: np.ndarray) -> float:
    """Trace of the product of two symmetric matrices, the first by its lower triangle."""
    return 2 * float(np.vdot(lower.T, kernel)) - float(np.diag(lower) @ np.diag(kernel))


def _as_slice(places: np.ndarray) -> slice | np.ndarray:
    """Neighbours as a slice, of which NumPy makes no copy."""
    if len(places) and places[-1] - places[0] == len(places) - 1:
        return slice(places[0], places[-1] + 1)
    return places
