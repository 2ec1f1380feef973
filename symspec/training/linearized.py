r"""Evidence of noise and prior where the weights stay: that of the network linearised there.

With the Jacobian J at :math:`\theta_0` and the targets :math:`t = y - f + J \theta_0`, the labels
are linear in the weights, and the evidence has a closed form,

.. math::
    F = \log \mathrm{Normal}(t \mid 0, M), \qquad M = J \Lambda^{-1} J^T + S,

which is Laplace's at the linearised network's own minimum :math:`\theta^* = A^{-1} J^T W t`, where
A does not depend on the weights (Immer et al. 2021, arXiv:2008.08400; Antoran et al. 2022,
arXiv:2206.08900). With :math:`r = t - J \theta^*`, :math:`V_n = J_n A^{-1} J_n^T` and W the inverse
of S,

.. math::
    \frac{dF}{dS} = \sum_n \tfrac12 W_n (r_n r_n^T + V_n) W_n - \tfrac12 W_n, \qquad
    \frac{dF}{d\log\delta_b} = \tfrac12 (\gamma_b - \delta_b |\theta^*_b|^2).

What does not change with noise and prior is computed once: for the dual the kernel of each block,
for the primal structure (but for full noise) the sum of :math:`J^T J` of each label.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from symspec.derivatives import compiled
from symspec.derivatives.tangent_stream import TangentStream
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian, log_evidence
from symspec.networks.noise import LOG_2PI, GaussianNoise
from symspec.networks.regression import Regression
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.memory import chunks
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import Evidence, EvidenceFunction

BLOCK_BYTES = 64 * 2**20  # of the dense tangents of some stars
SOLUTION = 1e-12  # relative residual of the linearised minimum
MAX_PRODUCTS = 500


def linearize(
    builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
) -> LinearizedEvidence:
    """Evidence of the network linearised at `theta` (param,), by the builder's structure.

    Raises
    ------
    OptionError
        The structure holds weights fixed, or the noise is not normal.
    """
    if not isinstance(builder.reg.noise, GaussianNoise):
        raise OptionError(
            "the evidence of the linearised network (move=False) is known for normal noise, got"
            f" {builder.reg.noise!r}: leave move out, or build the Regression with GaussianNoise."
        )
    space = builder.inverse.linear_space
    if not space:
        raise OptionError(
            "the evidence of the linearised network (move=False) is that of all weights, got"
            f' structure="{builder.structure}", which holds some of them: leave structure out.'
        )
    return _KINDS[space](builder, hyperparameters, theta)


class LinearizedEvidence(EvidenceFunction):
    """F of a linearised network, by any structure.

    Parameters
    ----------
    builder : InverseBuilder
    hyperparameters : Hyperparameters
        As of `EvidenceFunction`.
    theta : numpy.ndarray, shape (param,)
        Where it is linearised.

    Attributes
    ----------
    targets : numpy.ndarray, shape (star, label)
        t of the stars that have labels, zero where one is missing.
    """

    def __init__(
        self, builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
    ):
        stars = builder.labelled
        super().__init__(builder, hyperparameters, builder.Y[stars])
        self.theta = theta
        mask = self.observed[:, :, None] * np.eye(self.observed.shape[1])
        self.stream = TangentStream(
            lambda some: builder.tangents(theta, builder.X[stars[some]]),
            mask,
            builder.reg.net.n_params,
            builder.memory / 3,
        )
        f = compiled.compile_predict(builder.reg.net, backend=builder.backend)(
            theta, builder.X[stars]
        )
        residuals = np.where(self.observed, find_labels_alone(self.labels) - f, 0.0)
        self.targets = residuals + self.stream.matvec(theta)

    def _stand_at(self, h: np.ndarray, reg: Regression) -> None:
        super()._stand_at(h, reg)
        self.noise = reg.noise.of_stars(self.labels)
        self.weights = self.noise.weights

    def _weigh(self, u: np.ndarray) -> np.ndarray:
        return np.einsum("ncd,nd->nc", self.weights, u)

    def evaluate(self, _: np.ndarray, *, is_near: bool = False) -> Evidence:
        """F and its gradient; there are no weights to start from."""
        inverse = self._build()
        theta, decrement = self._minimize(inverse)
        counts = inverse.count_effective(self.reg)
        shares, by_weights = self._sum_covariances(inverse)
        U = self._negative_log_posterior(theta)
        return self._evidence(
            log_evidence(self.reg, theta, U, inverse),
            self._find_gradient(theta, by_weights, counts),
            theta,
            shares,
            counts,
            error=0.5 * inverse.logdet_standard_error(),
            decrement=decrement,
        )

    def _build(self) -> InverseHessian:
        return self.builder.build(self.theta)

    def _find_gradient(
        self, theta: np.ndarray, by_weights: np.ndarray, counts: dict[str, float]
    ) -> np.ndarray:
        """Gradient (entry,) at the minimum `theta`, on which F does not depend to first order."""
        return self.differentiate_at_fixed_weights(theta)

    def find_log_evidence(self, theta: np.ndarray) -> float:
        U = self._negative_log_posterior(theta)
        return log_evidence(self.reg, theta, U, self._build())

    def _minimize(self, inverse: InverseHessian) -> tuple[np.ndarray, float]:
        """Minimum of the linearised U, and the decrement there, by conjugate gradients."""
        precision = self.reg.prior_precision_vector()
        b = self.stream.rmatvec(self._weigh(self.targets))

        def multiply(v: np.ndarray) -> np.ndarray:
            v = v.ravel()
            return self.stream.rmatvec(self._weigh(self.stream.matvec(v))) + precision * v

        A = LinearOperator(inverse.shape, matvec=multiply, dtype=np.float64)
        cheap = inverse.cheap()
        theta, _ = cg(A, b, x0=cheap @ b, rtol=SOLUTION, maxiter=MAX_PRODUCTS, M=cheap)
        left = b - multiply(theta)
        return theta, 0.5 * float(left @ (cheap @ left))

    def _negative_log_posterior(self, theta: np.ndarray) -> float:
        r = self.targets - self.stream.matvec(theta)
        constant = self.noise.log_det + np.count_nonzero(self.observed) * LOG_2PI
        U = 0.5 * (float(np.vdot(r, self._weigh(r))) + constant)
        return U + self.reg.add_prior(np.zeros_like(theta), theta, 1.0)

    def _sum_covariances(self, inverse: InverseHessian) -> tuple[np.ndarray, np.ndarray]:
        """Diagonal (label,) of the sum of W V, and the sum of W V W (label, label)."""
        shares = np.zeros(self.observed.shape[1])
        total = np.zeros((len(shares), len(shares)))
        for rows, tangents in self.stream.blocks():
            W = self.weights[rows]
            WV = np.matmul(W, inverse.label_covariance(tangents))
            shares += np.einsum("ncc->c", WV)
            total += np.sum(WV @ W, axis=0)
        return shares, total

    def _evidence(
        self,
        F: float,
        gradient: np.ndarray,
        theta: np.ndarray,
        n_effective: np.ndarray,
        counts: dict[str, float],
        *,
        error: float = 0.0,
        decrement: float = 0.0,
    ) -> Evidence:
        return Evidence(
            log_marginal_likelihood=F,
            standard_error=error,
            gradient=gradient,
            names=self.hyperparameters.names,
            theta=theta,
            newton_decrement=decrement,
            is_minimum=True,
            n_effective=n_effective,
            n_effective_by_block=counts,
        )

    def _differentiate(
        self, by_covariance: np.ndarray, counts: dict[str, float], theta: np.ndarray
    ) -> np.ndarray:
        """Gradient (entry,) from dF/dS and the effective parameters of the blocks."""
        pull = self._sum_by_block(self.reg.prior_precision_vector() * theta**2)
        by_block = {name: 0.5 * (count - pull[name]) for name, count in counts.items()}
        return self.hyperparameters.gradient(self.h, by_covariance, by_block)


class _ByKernel(LinearizedEvidence):
    """In the space of the data, from the kernel of each block at unit prior precision."""

    def __init__(
        self, builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
    ):
        super().__init__(builder, hyperparameters, theta)
        self._tangents = builder.tangents(theta, builder.X[builder.labelled])
        names = [block.name for block in builder.reg.net.layout.blocks]
        fits = 8 * self.observed.size**2 * len(names) <= builder.memory / 2
        self._kept = dict(self._find_kernels()) if fits else {}

    def _find_kernels(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name of each block, and its kernel over all (label, star) rows."""
        for layer in self._tangents.cotangents:
            part = self._tangents.of_layer(layer)
            names = [block.name for block in part.layout.blocks]
            for name in names:
                yield name, part.gram(part, dict.fromkeys(names, 0.0) | {name: 1.0})

    def _kernels(self) -> Iterator[tuple[str, np.ndarray]]:
        """The kernels that are kept, or computed again."""
        yield from self._kept.items() or self._find_kernels()

    def evaluate(self, _: np.ndarray, *, is_near: bool = False) -> Evidence:
        variance = {name: 1 / float(p) for name, p in self.reg.prior_precision.items()}
        K = np.zeros((self.observed.size, self.observed.size))
        for name, kernel in self._kernels():
            K += variance[name] * kernel
        structure: Any = self.builder.inverse
        inverse = structure.from_kernel(self._tangents, variance, self.noise, K)
        M_inverse = inverse.kernel_inverse()
        alpha = np.einsum("cndm,md->nc", M_inverse, self.targets)
        own = np.einsum("cndn->ncd", M_inverse)
        by_covariance = 0.5 * (alpha.T @ alpha - own.sum(axis=0))
        flat = M_inverse.reshape(K.shape)
        counts = {name: variance[name] * float(np.vdot(flat, k)) for name, k in self._kernels()}
        theta = self._tangents.layout.expand(variance) * self._tangents.rmatvec(alpha)
        log_det = 2 * float(np.log(np.diag(inverse.cholesky)).sum())
        F = -0.5 * (float(np.vdot(self.targets, alpha)) + log_det + inverse.n_rows * LOG_2PI)
        S = np.broadcast_to(self.noise.covariance, own.shape)
        shares = np.einsum("ncd,ndc->c", own, S)
        n_effective = self.observed.sum(axis=0) - shares
        gradient = self._differentiate(by_covariance, counts, theta)
        return self._evidence(F, gradient, theta, n_effective, counts)


class _ByNormalMatrix(LinearizedEvidence):
    """In the space of the parameters, from the sum of J^T J of each label."""

    def __init__(
        self, builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
    ):
        super().__init__(builder, hyperparameters, theta)
        is_full = builder.reg.has_full_noise or hyperparameters.is_full
        differs = self.noise.covariance.ndim == 3
        shape = builder.reg.net.n_labels, theta.size, theta.size
        fits = 8 * np.prod(shape, dtype=float) <= builder.memory / 2
        is_sum = fits and not (is_full or differs)
        self._squares = self._sum_squares(shape) if is_sum else None

    def _sum_squares(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Sum of J^T J of each label (label, param, param)."""
        squares = np.zeros(shape)
        step = max(1, BLOCK_BYTES // (8 * shape[0] * shape[1]))
        for _, tangents in self.stream.blocks():
            for some in chunks(tangents.n_stars, step):
                J = tangents[some].dense().transpose(1, 0, 2)
                squares += np.matmul(J.transpose(0, 2, 1), J)
        return squares

    def _find_gradient(
        self, theta: np.ndarray, by_weights: np.ndarray, counts: dict[str, float]
    ) -> np.ndarray:
        Wr = self._weigh(self.targets - self.stream.matvec(theta))
        by_covariance = 0.5 * (Wr.T @ Wr + by_weights - self.weights.sum(axis=0))
        return self._differentiate(by_covariance, counts, theta)

    def _build(self) -> InverseHessian:
        if self._squares is None:
            return self.builder.build(self.theta)
        A = np.einsum("c,cpq->pq", 1 / self.reg.sigma_noise**2, self._squares)
        A[np.diag_indices(len(A))] += self.reg.prior_precision_vector()
        structure: Any = self.builder.inverse
        inverse: InverseHessian = structure.factorize(A)
        return inverse

    def _sum_covariances(self, inverse: InverseHessian) -> tuple[np.ndarray, np.ndarray]:
        """Diagonal (label,) of the sum of W V, and the sum of W V W (label, label)."""
        if self._squares is None:
            return super()._sum_covariances(inverse)
        precision = 1 / self.reg.sigma_noise**2
        shares = precision * np.einsum("cpq,pq->c", self._squares, inverse.to_dense())
        return shares, np.diag(shares * precision)


_KINDS: dict[str, type[LinearizedEvidence]] = {
    "products": LinearizedEvidence,
    "data": _ByKernel,
    "parameters": _ByNormalMatrix,
}
