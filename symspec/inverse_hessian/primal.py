"""Few parameters: dense Cholesky factor of the curvature matrix itself."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtri

from symspec.errors import DataError, NotPositiveDefiniteError
from symspec.inverse_hessian.interface import InverseHessian
from symspec.tangents import Tangents


class PrimalInverse(InverseHessian):
    r"""A^-1 from the lower Cholesky factor L of A (param, param).

    .. math:: J A^{-1} J^T = (L^{-1} J^T)^T (L^{-1} J^T), \qquad \log\det A^{-1} = -2 \sum_i \log L_{ii}

    Parameters
    ----------
    cholesky : numpy.ndarray, shape (param, param)
        Lower factor; the upper triangle is zero.
    """

    structure = "primal"

    def __init__(self, cholesky: np.ndarray):
        super().__init__(len(cholesky))
        self.cholesky = cholesky

    @classmethod
    def factorize(cls, A: np.ndarray) -> PrimalInverse:
        """Factorise a symmetric A (param, param), which is overwritten.

        Raises
        ------
        NotPositiveDefiniteError
            With the smallest eigenvalue of A.
        DataError
            A is not finite.
        """
        if not np.isfinite(A).all():
            raise DataError("the curvature matrix is not finite: theta has diverged; train it again.")
        factor, info = dpotrf(A, lower=1, clean=1, overwrite_a=0)
        if info != 0:
            smallest = float(eigh(A, eigvals_only=True, subset_by_index=[0, 0])[0])
            raise NotPositiveDefiniteError(
                f"the curvature matrix should be positive definite, but its smallest eigenvalue is {smallest:.6g}: "
                "the weights are no minimum of the negative log posterior. Train on (symspec.polish), raise "
                'prior_precision, or use curvature="ggn", which is always positive definite.',
                smallest,
            )
        return cls(factor)

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        return self._solve(self._solve(V), transposed=True)

    _matvec = _matmat

    def diagonal(self) -> np.ndarray:
        return np.einsum("ij,ij->j", root := dtrtri(self.cholesky, lower=1)[0], root)

    def logdet(self) -> float:
        return -2.0 * float(np.log(np.diag(self.cholesky)).sum())

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        return self._solve(rng.normal(size=(self.shape[0], n_draws)), transposed=True).T

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        n, C = tangents.n_stars, tangents.n_labels
        Z = self._solve(tangents.dense().reshape(n * C, -1).T).reshape(-1, n, C)
        return np.einsum("inc,ind->ncd", Z, Z, optimize=True)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"cholesky": self.cholesky}

    def _solve(self, V: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        return solve_triangular(self.cholesky, V, lower=True, trans=int(transposed), check_finite=False)
