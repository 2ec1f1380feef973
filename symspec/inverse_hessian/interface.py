"""What every structure of the inverse Hessian offers; one file beside this one for each structure."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives.tangents import Tangents
from symspec.networks.noise import LOG_2PI
from symspec.networks.regression import Regression


class InverseHessian(LinearOperator, ABC):
    r"""The inverse :math:`A^{-1}` of a positive definite curvature matrix, as a SciPy LinearOperator (param, param).

    `@` multiplies it with a vector (param,) or a matrix (param, k).

    Attributes
    ----------
    structure : str
    accuracy : {"exact", "interval", "upper bound", "approximate"}
        What the label covariances are: those of A^-1, bracketed, never too small, or neither.
    free : slice
        The parameters that vary; the rest are held fixed, with zero variance.
    """

    structure: str
    accuracy = "exact"

    def __init__(self, n_params: int, free: slice | None = None):
        super().__init__(np.dtype(np.float64), (n_params, n_params))
        self.free = slice(0, n_params) if free is None else free

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """Diagonal of A^-1 (param,): the variances of the weights."""

    @abstractmethod
    def logdet(self) -> float:
        """Log det A^-1, of the parameters that vary."""

    def logdet_standard_error(self) -> float:
        """Standard error of `logdet` where it is an estimate, 0 where it is not."""
        return 0.0

    @abstractmethod
    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws from Normal(0, A^-1): (draw, param)."""

    @abstractmethod
    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        """J A^-1 J^T of each star (star, label, label)."""

    def label_covariance_bounds(self, tangents: Tangents) -> tuple[np.ndarray, np.ndarray]:
        """Covariances (star, label, label) that J A^-1 J^T lies between, in the order of positive matrices.

        NaN where nothing is known: the approximations.
        """
        V = self.label_covariance(tangents)
        lower = {"exact": V, "upper bound": np.zeros_like(V)}.get(
            self.accuracy, np.full_like(V, np.nan)
        )
        return lower, np.full_like(V, np.nan) if self.accuracy == "approximate" else V

    def cheap(self) -> LinearOperator:
        """An operator like this one whose products cost little, for preconditioning."""
        return self

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays that make up the operator, for saving."""

    def to_dense(self) -> np.ndarray:
        """A^-1 as an array (param, param), for few parameters."""
        return self @ np.eye(self.shape[0])

    def _adjoint(self) -> InverseHessian:
        return self


def log_evidence(reg: Regression, theta: np.ndarray, U: float, inverse: InverseHessian) -> float:
    r""":math:`-U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi` over the P parameters that vary.

    Those that are held fixed have no prior: their part of it leaves U.
    """
    n_free = inverse.free.stop - inverse.free.start
    U -= reg.negative_log_prior_of_held(theta, inverse.free)
    return -U + 0.5 * inverse.logdet() + 0.5 * n_free * LOG_2PI
