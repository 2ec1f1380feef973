"""What every structure of the inverse Hessian offers; one file beside this one for each structure."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.tangents import Tangents


class InverseHessian(LinearOperator, ABC):
    r"""The inverse :math:`A^{-1}` of a positive definite curvature matrix, as a SciPy LinearOperator (param, param).

    `@` multiplies it with a vector (param,) or a matrix (param, k).
    """

    structure: str

    def __init__(self, n_params: int):
        super().__init__(np.dtype(np.float64), (n_params, n_params))

    @abstractmethod
    def diagonal(self) -> np.ndarray:
        """Diagonal of A^-1 (param,): the variances of the weights."""

    @abstractmethod
    def logdet(self) -> float:
        """Log det A^-1."""

    @abstractmethod
    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws from Normal(0, A^-1): (draw, param)."""

    @abstractmethod
    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        """J A^-1 J^T of each star (star, label, label)."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays that make up the operator, for saving."""

    def to_dense(self) -> np.ndarray:
        """A^-1 as an array (param, param), for few parameters."""
        return self @ np.eye(self.shape[0])

    def _adjoint(self) -> InverseHessian:
        return self
