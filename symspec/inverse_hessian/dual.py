"""Few (star, label) rows, any number of parameters: Cholesky in the space of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri

from symspec.derivatives.tangents import Tangents
from symspec.errors import DataError
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.noise import StarNoise


class DualInverse(InverseHessian):
    r"""A^-1 of the Gauss-Newton matrix by the Woodbury identity, with the tangent kernel K = J Lambda^-1 J^T.

    .. math::
        A^{-1} = \Lambda^{-1} - \Lambda^{-1} J^T M^{-1} J \Lambda^{-1}, \qquad M = K + S = L L^T,

        \log\det A^{-1} = -\log\det \Lambda - \log\det M + \log\det S.

    Parameters
    ----------
    tangents : Tangents
        Of the training stars.
    variance : dict of str to float or numpy.ndarray
        Prior variance of each block, the diagonal of Lambda^-1.
    noise : StarNoise
        Of the training stars; its covariances make the diagonal blocks of S.
    cholesky : numpy.ndarray, optional
        L, if it is known already.
    is_subset : bool, default False
        Whether there are further training stars: as data can only shrink A^-1, variances are then
        upper bounds.
    """

    structure = "dual"

    def __init__(
        self,
        tangents: Tangents,
        variance: dict[str, Any],
        noise: StarNoise,
        cholesky: np.ndarray | None = None,
        *,
        is_subset: bool = False,
    ):
        super().__init__(tangents.layout.n_params)
        self.accuracy = "upper bound" if is_subset else "exact"
        self.tangents = tangents
        self.variance = variance
        self.noise = noise
        self.observed = noise.observed
        self._variance_vector = tangents.layout.expand(variance)
        self.rows = np.flatnonzero(self.observed.T)  # label-major, as `Tangents.gram` orders them
        if cholesky is None:
            cholesky = factorize_kernel(tangents.gram(tangents, variance), noise)
        self.cholesky = cholesky

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        V = V * self._variance_vector[:, None]
        gain = self._tangent_transposed(self._solve_M(self._tangent(V)))
        gain *= self._variance_vector[:, None]
        return np.subtract(V, gain, out=gain)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(v.reshape(-1, 1))[:, 0]

    def diagonal(self) -> np.ndarray:
        """Diagonal of A^-1; costs (rows)^2 operations a parameter over the labels squared."""
        inverse = self.kernel_inverse()
        out = np.empty(self.shape[0])
        for name, layer in self.tangents.layout.layers.items():
            a, g = self.tangents._layer(name)
            part = out[layer.slice].reshape(layer.n_rows, -1)
            for o in range(g.shape[2]):
                B = np.einsum("cn,cndm,dm->nm", g[:, :, o], inverse, g[:, :, o], optimize=True)
                part[: layer.n_in, o] = np.einsum("ni,ni->i", a, B @ a)
                part[layer.n_in :, o] = B.sum()
        return self._variance_vector - self._variance_vector**2 * out

    def logdet(self) -> float:
        log_det_prior = -float(np.log(self._variance_vector).sum())
        return (
            -log_det_prior - 2.0 * float(np.log(np.diag(self.cholesky)).sum()) + self.noise.log_det
        )

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        r"""Draws by Matheron's rule: a prior draw, conditioned on data that it would have produced."""
        out = np.empty((n_draws, self.shape[0]))
        for k in range(n_draws):
            theta = np.sqrt(self._variance_vector) * rng.normal(size=self.shape[0])
            noise = self.noise.draw(rng).T.ravel()[self.rows]
            gain = self._tangent_transposed(self._solve_M(self._tangent(theta) + noise))
            out[k] = theta - self._variance_vector * gain
        return out

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        n = tangents.n_stars
        C = tangents.n_labels
        Z = self._solve(self.tangents.gram(tangents, self.variance)[self.rows]).reshape(-1, C, n)
        return tangents.own_gram(self.variance) - np.einsum("icn,idn->ncd", Z, Z, optimize=True)

    def label_cross_covariance(self, tangents: Tangents, other: Tangents) -> np.ndarray:
        """J A^-1 J'^T (star, label, other star, label): between the labels of different stars."""
        Z, W = (
            self._solve(self.tangents.gram(t, self.variance)[self.rows]) for t in (tangents, other)
        )
        C = tangents.gram(other, self.variance) - Z.T @ W
        return C.reshape(-1, tangents.n_stars, other.n_labels, other.n_stars).transpose(1, 0, 3, 2)

    def arrays(self) -> dict[str, np.ndarray]:
        factors = {f"inputs/{k}": a for k, a in self.tangents.inputs.items()}
        factors |= {f"cotangents/{k}": g for k, g in self.tangents.cotangents.items()}
        is_subset = np.array(self.accuracy != "exact")
        return factors | {
            "observed": self.observed,
            "cholesky": self.cholesky,
            "is_subset": is_subset,
        }

    def kernel_inverse(self) -> np.ndarray:
        """M^-1 (label, star, label, star), zero in the rows and columns of missing labels."""
        N, C = self.observed.shape
        out = np.zeros((C * N, C * N))
        inverse, _ = dpotri(self.cholesky, lower=1)
        out[np.ix_(self.rows, self.rows)] = np.tril(inverse) + np.tril(inverse, -1).T
        return out.reshape(C, N, C, N)

    def _tangent(self, V: np.ndarray) -> np.ndarray:
        """J V over the observed rows (row, ...) for V (param, ...)."""
        return (
            self.tangents.matvec(V)
            .swapaxes(0, 1)
            .reshape(self.observed.size, *V.shape[1:])[self.rows]
        )

    def _tangent_transposed(self, u: np.ndarray) -> np.ndarray:
        """J^T u (param, ...) for u (row, ...) over the observed rows."""
        full = np.zeros((self.observed.size, *u.shape[1:]))
        full[self.rows] = u
        return self.tangents.rmatvec(
            full.reshape(*self.observed.T.shape, *u.shape[1:]).swapaxes(0, 1)
        )

    def _solve(self, b: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        return solve_triangular(
            self.cholesky, b, lower=True, trans=int(transposed), check_finite=False
        )

    def _solve_M(self, b: np.ndarray) -> np.ndarray:
        return self._solve(self._solve(b), transposed=True)


def factorize_kernel(K: np.ndarray, noise: StarNoise) -> np.ndarray:
    """Lower Cholesky factor of K + S over the observed (label, star) rows; K is overwritten.

    Raises
    ------
    DataError
        The kernel is not finite.
    """
    N, C = noise.observed.shape
    M = K.reshape(C, N, C, N)
    stars = np.arange(N)
    for c in range(C):
        for d in range(C):
            M[c, stars, d, stars] += noise.covariance[..., c, d]
    if not noise.observed.all():
        rows = np.flatnonzero(noise.observed.T)
        K = K[np.ix_(rows, rows)]
    # the transpose is Fortran-ordered, so that LAPACK works in place; K is symmetric
    factor, info = dpotrf(K.T, lower=1, clean=1, overwrite_a=1)
    if info != 0 or not np.isfinite(np.diag(factor)).all():  # OpenBLAS lets NaN pass
        raise DataError(
            "the network's tangent kernel is not finite or not positive definite: theta has"
            " diverged, or flux and labels differ by so many orders of magnitude that float64 does"
            " not hold; standardise them."
        )
    return factor
