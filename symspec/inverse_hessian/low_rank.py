r"""The leading directions of the curvature, the prior in all others.

.. math::
    A \approx \Lambda^{1/2} (1 + U\, \mathrm{diag}(\lambda)\, U^T) \Lambda^{1/2},

with the k largest eigenvalues and eigenvectors U (param, k) of :math:`\Lambda^{-1/2} (\sum_n \hat
J_n^T \hat J_n) \Lambda^{-1/2}`. What is left out is positive, so that A^-1 is never too small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.interface import ArrayReader, InverseHessian, Problem
from symspec.inverse_hessian.numerics.digits import TRUSTED, Enclosure, rounding
from symspec.inverse_hessian.numerics.square_roots import Arrays, Factor
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint

DEFAULT_RANK = 100
DENSE_ROWS = 1024
NEGLIGIBLE = 1e-2  # curvature in units of the prior's, up to which a direction is left to the prior


class LowRankInverse(InverseHessian):
    """A^-1 from the curvature's leading eigenpairs: an upper bound of every variance.

    Parameters
    ----------
    precision : numpy.ndarray, shape (param,)
        Of the prior, the diagonal of Lambda.
    eigenvalues : numpy.ndarray, shape (k,)
    eigenvectors : numpy.ndarray, shape (param, k)
        Orthonormal, of the curvature in units of the prior.
    """

    structure = "low_rank"
    accuracy = "upper bound"
    options: ClassVar = {"rank": int}

    def __init__(self, precision: np.ndarray, eigenvalues: np.ndarray, eigenvectors: np.ndarray):
        super().__init__(len(precision))
        self.precision = precision
        self.eigenvalues = eigenvalues
        self.eigenvectors = eigenvectors
        self._sd = 1 / np.sqrt(precision)
        self._shrinkage = eigenvalues / (1 + eigenvalues)

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> LowRankInverse:
        """Leading eigenpairs by Lanczos, at most the option "rank", by default 100."""
        fitting = max(1, int(problem.memory / (16 * problem.reg.net.n_params)))
        rank = problem.options.get("rank", min(DEFAULT_RANK, fitting))
        precision = problem.reg.prior_precision_vector()
        return cls(
            precision, *_find_eigenpairs(problem.stream(theta), precision, rank, problem.checkpoint)
        )

    @classmethod
    def leading(
        cls, precision: np.ndarray, values: np.ndarray, vectors: np.ndarray, n: int | None
    ) -> LowRankInverse:
        """The first n of falling eigenvalues (k,) and vectors (param, k), see `directions`."""
        keep = np.flatnonzero(np.abs(values) > NEGLIGIBLE) if n is None else np.arange(n)
        if len(keep) and keep[-1] >= len(values):
            raise OptionError(
                f"the curvature should have {n} leading directions, got {len(values)}: ask for"
                " fewer."
            )
        return cls(precision, values[keep], np.ascontiguousarray(vectors[:, keep]))

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> LowRankInverse:
        values = reader.array(f"{place}/eigenvalues", (None,), finite=True)
        shape = (reg.net.n_params, len(values))
        vectors = reader.array(f"{place}/eigenvectors", shape, finite=True)
        return cls(reg.prior_precision_vector(), values, vectors)

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        V = self._sd[:, None] * V
        V -= self.eigenvectors @ (self._shrinkage[:, None] * (self.eigenvectors.T @ V))
        return self._sd[:, None] * V

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(v.reshape(-1, 1))[:, 0]

    def diagonal(self) -> np.ndarray:
        return (1 - self.eigenvectors**2 @ self._shrinkage) / self.precision

    def logdet(self) -> float:
        return -float(np.log(self.precision).sum() + np.log1p(self.eigenvalues).sum())

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        draws = rng.normal(size=(n_draws, self.shape[0]))
        shrunk = 1 - 1 / np.sqrt(1 + self.eigenvalues)
        draws -= (draws @ self.eigenvectors) * shrunk @ self.eigenvectors.T
        return draws * self._sd

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        return self.enclose(tangents).value

    def enclose(self, tangents: Tangents) -> Enclosure:
        variance = {
            b.name: 1 / self.precision[b.slice].reshape(b.shape) for b in tangents.layout.blocks
        }
        c = tangents.matvec(self._sd[:, None] * self.eigenvectors)
        prior = tangents.own_gram(variance)
        V = prior - np.matmul(c * self._shrinkage, c.transpose(0, 2, 1))
        variances, most = (np.diagonal(A, axis1=1, axis2=2) for A in (V, prior))
        for n in np.flatnonzero((rounding(self.shape[0]) * most > TRUSTED * variances).any(axis=1)):
            V[n] = self._sum_squares(tangents[n : n + 1].dense()[0], c[n])
        return Enclosure(value=V, lower=np.zeros_like(V), upper=V)

    def _sum_squares(self, J: np.ndarray, c: np.ndarray) -> np.ndarray:
        """V (label, label) of one star with tangents J (label, param), nothing subtracted."""
        j = (J * self._sd).T
        beyond = j - self.eigenvectors @ c.T
        beyond -= self.eigenvectors @ (self.eigenvectors.T @ beyond)  # rounding of the size of j
        return beyond.T @ beyond + (c / (1 + self.eigenvalues)) @ c.T

    def arrays(self) -> dict[str, np.ndarray]:
        return {"eigenvalues": self.eigenvalues, "eigenvectors": self.eigenvectors}

    def directions(self, reg: Regression, n: int | None = None) -> LowRankInverse:
        return self.leading(self.precision, self.eigenvalues, self.eigenvectors, n)

    def whitening(self, reg: Regression) -> Factor:
        return self.directions(reg).factor()

    def factor(self) -> Factor:
        r"""L = Lambda^-1/2 (1 + U diag(s) U^T), with s = (1 + lambda)^-1/2 - 1."""
        arrays = {
            "sd": self._sd,
            "directions": self.eigenvectors,
            "shrinkage": 1 / np.sqrt(1 + self.eigenvalues) - 1,
            "growth": np.sqrt(1 + self.eigenvalues) - 1,
        }

        def colour(z: Any, a: Arrays, _: Any) -> Any:
            return a["sd"] * (z + a["directions"] @ (a["shrinkage"] * (z @ a["directions"])))

        def uncolour(x: Any, a: Arrays, _: Any) -> Any:
            u = x / a["sd"]
            return u + a["directions"] @ (a["growth"] * (u @ a["directions"]))

        return Factor(log_det=0.5 * self.logdet(), arrays=arrays, colour=colour, uncolour=uncolour)


def _find_eigenpairs(
    stream: TangentStream, precision: np.ndarray, rank: int, checkpoint: Checkpoint
) -> tuple[np.ndarray, np.ndarray]:
    """At most `rank` leading eigenpairs, by ARPACK in the smaller of the two spaces."""
    sd = 1 / np.sqrt(precision)
    n_rows = stream.n_stars * stream.n_labels
    n_params = len(precision)
    rank = min(rank, n_rows, n_params)

    def product(u: np.ndarray) -> np.ndarray:
        shape = (stream.n_stars, stream.n_labels)
        if n_rows < n_params:
            return stream.matvec(stream.rmatvec(u.reshape(shape)) / precision).ravel()
        return sd * stream.rmatvec(stream.matvec(sd * u.ravel()))

    kept = checkpoint.load("low rank")
    if kept is None:
        values, vectors = _leading_eigenpairs(product, min(n_rows, n_params), rank)
        kept = {"values": values, "vectors": vectors}
        checkpoint.save("low rank", kept)
    values = kept["values"]
    vectors = kept["vectors"]
    if n_rows < n_params:
        columns = vectors.reshape(stream.n_stars, stream.n_labels, -1)
        vectors = sd[:, None] * stream.rmatvec(columns) / np.sqrt(values)
    return values, vectors


def _leading_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray], n: int, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest eigenvalues, falling, without those that are zero to rounding, and vectors (n, k)."""
    if n <= max(DENSE_ROWS, 2 * rank):
        dense = np.stack([product(e) for e in np.eye(n)])
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
    else:
        start = np.random.default_rng(0).normal(size=n)
        values, vectors = eigsh(
            LinearOperator((n, n), matvec=product, dtype=np.float64), rank, v0=start, tol=1e-8
        )
    order = np.argsort(values)[::-1][:rank]
    order = order[values[order] > 1e-12 * values.max()]
    return values[order], vectors[:, order]
