r"""Evidence of noise and prior where the weights stay: that of the network linearised there.

With the Jacobian J at :math:`\theta_0` and the targets :math:`t = y - f + J \theta_0`, the labels
are linear in the weights, and A does not depend on these. Laplace's evidence of the linear model,

.. math::
    F = -U(\theta^*) - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi,

is exact for normal noise, :math:`F = \log \mathrm{Normal}(t \mid 0, J \Lambda^{-1} J^T + S)`
(Immer et al. 2021, arXiv:2008.08400; Antoran et al. 2022, arXiv:2206.08900). Student's t has
weights W that are its expected information, and :math:`\theta^*` is the mode that Newton's steps
reach from what the network says. The gradient is that of `symspec.training.marginal_likelihood`
without the terms of the minimum that moves, which does not change A:

.. math::
    \frac{dF}{dS} = \sum_n \tfrac12 W_n (r_n r_n^T + V_n) W_n - \tfrac12 W_n, \qquad
    \frac{dF}{d\log\delta_b} = \tfrac12 (\gamma_b - \delta_b |\theta^*_b|^2),

for normal noise, with :math:`r = t - J \theta^*` and :math:`V_n = J_n A^{-1} J_n^T`.

What does not change with noise and prior is computed once: for the dual the kernel of each block,
for the primal structure (but for full noise) the sum of :math:`J^T J` of each label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from symspec.derivatives import compiled, weighted_sums
from symspec.derivatives.tangent_stream import TangentStream
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian, log_evidence
from symspec.networks.noise import GaussianNoise, StudentTNoise
from symspec.networks.noise.noise import TunableNoise
from symspec.networks.regression import Regression
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.memory import chunks
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MAX_DECREMENT, Evidence, EvidenceFunction

BLOCK_BYTES = 64 * 2**20  # of the dense tangents of some stars
ARRIVED = 1e-16  # nats of decrement: weights within 1e-8 of their deviations
MAX_STEPS = 50
SOLUTION = 1e-20  # squared residual of a step, relative
MAX_PRODUCTS = 500
ROUNDING = 1e-12  # of U


def linearize(
    builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
) -> LinearizedEvidence:
    """Evidence of the network linearised at `theta` (param,), by the builder's structure.

    Raises
    ------
    OptionError
        The structure holds weights fixed, or the noise depends on more than the residuals.
    """
    if not isinstance(builder.reg.noise, GaussianNoise | StudentTNoise):
        raise OptionError(
            "the evidence of the linearised network (move=False) is known for GaussianNoise and"
            f" StudentTNoise, got {builder.reg.noise!r}: leave move out, or build the Regression"
            " with one of these."
        )
    space = builder.inverse.linear_space
    if not space:
        raise OptionError(
            "the evidence of the linearised network (move=False) is that of all weights, got"
            f' structure="{builder.structure}", which holds some of them: leave structure out.'
        )
    return _KINDS[space](builder, hyperparameters, theta)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Coordinates:
    """Weights of the linear model by coordinates x, and what Newton's steps take of them."""

    outputs: Callable[[np.ndarray], np.ndarray]  # J theta (star, label) of x
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]  # Lambda theta + J^T u of x and u
    dot: Callable[[np.ndarray, np.ndarray], float]  # of a slope and a step
    precondition: Callable[[np.ndarray], np.ndarray]  # A^-1 times a slope, a step


class LinearizedEvidence(EvidenceFunction):
    """F of a network linearised at `theta` (param,), by any structure.

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
        net = builder.reg.net
        self.theta = theta
        mask = self.observed[:, :, None] * np.eye(self.observed.shape[1])
        self.stream = TangentStream(
            lambda some: builder.tangents(theta, builder.X[stars[some]]),
            mask,
            net.n_params,
            builder.memory / 3,
        )
        self._compiled_likelihood = weighted_sums.compile_likelihood(
            net, kind=builder.reg.noise.kind, backend=builder.backend
        )
        f = compiled.compile_predict(net, backend=builder.backend)(theta, builder.X[stars])
        residuals = np.where(self.observed, find_labels_alone(self.labels) - f, 0.0)
        self._start = self.stream.matvec(theta)
        self.targets = residuals + self._start

    def _stand_at(self, h: np.ndarray, reg: Regression) -> None:
        super()._stand_at(h, reg)
        self._own = cast(TunableNoise, reg.noise)  # Hyperparameters know no other
        self._given = self._own.given(self.labels)
        self.noise = reg.noise.of_stars(self.labels)

    def evaluate(self, _: np.ndarray, *, is_near: bool = False) -> Evidence:
        """F and its gradient; there are no weights to start from."""
        inverse = self._build()
        space = self._find_coordinates(inverse)
        start = space.slope(np.zeros_like(self.theta), self.noise.weigh(self._start))
        theta, decrement = self._minimize(space, start)
        counts = inverse.count_effective(self.reg)
        V = self._find_covariances(inverse)
        return self._evidence(
            log_evidence(self.reg, theta, self._negative_log_posterior(theta), inverse),
            self._find_gradient(theta, V, counts),
            theta,
            V,
            counts,
            decrement,
            error=0.5 * inverse.logdet_standard_error(),
        )

    def _build(self) -> InverseHessian:
        return self.builder.build(self.theta)

    def _find_gradient(
        self, theta: np.ndarray, V: np.ndarray, counts: dict[str, float]
    ) -> np.ndarray:
        """Gradient (entry,) at the minimum `theta`, on which F does not depend to first order."""
        return self.differentiate_at_fixed_weights(theta)

    def find_log_evidence(self, theta: np.ndarray) -> float:
        U = self._negative_log_posterior(theta)
        return log_evidence(self.reg, theta, U, self._build())

    def _negative_log_posterior(self, theta: np.ndarray) -> float:
        L = float(self._likelihood(self.stream.matvec(theta))[0])
        peak = self._own.negative_log_peak(self.labels)
        return L + peak + self.reg.add_prior(np.zeros_like(theta), theta, 1.0)

    def _likelihood(self, f: np.ndarray) -> list[np.ndarray]:
        """L of outputs f (star, label), its gradient, and second derivatives of each star."""
        return self._compiled_likelihood(f, self.targets, self._given)

    def _find_coordinates(self, inverse: InverseHessian) -> _Coordinates:
        """The weights themselves."""
        precision = self.reg.prior_precision_vector()
        cheap = inverse.cheap()
        return _Coordinates(
            outputs=self.stream.matvec,
            slope=lambda theta, u: precision * theta + self.stream.rmatvec(u),
            dot=np.dot,
            precondition=lambda slope: cheap @ slope,
        )

    def _minimize(self, space: _Coordinates, start: np.ndarray) -> tuple[np.ndarray, float]:
        """Minimum of the linear model's U, and the decrement there, from A^-1 times `start`.

        By Newton's steps, or where U is not convex those of reweighted least squares, which lower
        it from anywhere.
        """
        x, _ = _solve(space, self.noise.weights, start)
        decrement = np.inf
        for _ in range(MAX_STEPS):
            f = space.outputs(x)
            _, gradient, hessian = self._likelihood(f)
            slope = space.slope(x, gradient)
            decrement = 0.5 * space.dot(slope, space.precondition(slope))
            if decrement <= ARRIVED:
                break
            step, is_convex = _solve(space, hessian, -slope)
            if not is_convex or self._rises(space, x, step):
                step, _ = _solve(space, _majorise(f - self.targets, gradient, hessian), -slope)
            x = x + step
        return x, decrement

    def _rises(self, space: _Coordinates, x: np.ndarray, step: np.ndarray) -> bool:
        """Whether a step raises U."""

        def find_U(x: np.ndarray) -> float:
            L = float(self._likelihood(space.outputs(x))[0])
            return L + 0.5 * space.dot(space.slope(x, np.zeros_like(self.targets)), x)

        here = find_U(x)
        return find_U(x + step) > here + ROUNDING * abs(here)

    def _find_covariances(self, inverse: InverseHessian) -> np.ndarray:
        V = np.empty((*self.observed.shape, self.observed.shape[1]))
        for rows, tangents in self.stream.blocks():
            V[rows] = inverse.label_covariance(tangents)
        return V

    def _evidence(
        self,
        F: float,
        gradient: np.ndarray,
        theta: np.ndarray,
        V: np.ndarray,
        counts: dict[str, float],
        decrement: float,
        error: float = 0.0,
    ) -> Evidence:
        return Evidence(
            log_marginal_likelihood=F,
            standard_error=error,
            gradient=gradient,
            names=self.hyperparameters.names,
            theta=theta,
            newton_decrement=decrement,
            is_minimum=decrement <= MAX_DECREMENT,
            n_effective=np.einsum("ncd,ndc->c", self.noise.weights, V),
            n_effective_by_block=counts,
        )

    def _differentiate(
        self, residuals: np.ndarray, V: np.ndarray, counts: dict[str, float], theta: np.ndarray
    ) -> np.ndarray:
        """Gradient (entry,) from residuals, V, and the effective parameters of the blocks."""
        by_noise = self._own.differentiate_evidence(residuals, V, 0 * residuals, self._given)
        pull = self._sum_by_block(self.reg.prior_precision_vector() * theta**2)
        by_block = {name: 0.5 * (count - pull[name]) for name, count in counts.items()}
        return self.hyperparameters.gradient(self.h, by_noise, by_block)


class _ByKernel(LinearizedEvidence):
    r"""In the space of the data, from the kernel of each block at unit prior precision.

    Coordinates are x (star, label) of :math:`\theta = \Lambda^{-1} J^T x`, in which
    :math:`J \theta = K x`, and u of slopes :math:`J^T u`.
    """

    def __init__(
        self, builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
    ):
        super().__init__(builder, hyperparameters, theta)
        self._tangents = builder.tangents(theta, builder.X[builder.labelled])
        self._kept: dict[str, dict[str, np.ndarray]] = {}  # kernels of some layers
        room = builder.memory / 2
        for name, layer in self._tangents.layout.layers.items():
            room -= 8 * self.observed.size**2 * len(layer.blocks)
            if room >= 0:
                self._kept[name] = dict(self._tangents.grams_by_block(name))

    def _kernels(self) -> Iterator[tuple[str, np.ndarray]]:
        """The kernels that are kept, or computed again."""
        for layer in self._tangents.cotangents:
            kept = self._kept.get(layer, {}).items()
            yield from kept or self._tangents.grams_by_block(layer)

    def evaluate(self, _: np.ndarray, *, is_near: bool = False) -> Evidence:
        variance = {name: 1 / float(p) for name, p in self.reg.prior_precision.items()}
        K = np.zeros((self.observed.size, self.observed.size))
        for name, kernel in self._kernels():
            K += variance[name] * kernel
        structure: Any = self.builder.inverse
        inverse = structure.from_kernel(self._tangents, variance, self.noise, K)
        M_inverse = inverse.kernel_inverse()
        S = np.broadcast_to(self.noise.covariance, (*self.observed.shape, self.observed.shape[1]))
        space = _find_data_coordinates(inverse, M_inverse, S)
        x, decrement = self._minimize(space, self.noise.weigh(self._start))
        f = space.outputs(x)
        log_det = 2 * float(np.log(np.diag(inverse.cholesky)).sum()) - self.noise.log_det
        U = float(self._likelihood(f)[0]) + 0.5 * space.dot(x, x)
        F = -U - self._own.negative_log_peak(self.labels) - 0.5 * log_det
        V = S - S @ np.einsum("cndn->ncd", M_inverse) @ S
        theta = self._tangents.layout.expand(variance) * self._tangents.rmatvec(x)
        flat = M_inverse.reshape(K.shape)
        counts = {name: variance[name] * float(np.vdot(flat, k)) for name, k in self._kernels()}
        gradient = self._differentiate(self.targets - f, V, counts, theta)
        return self._evidence(F, gradient, theta, V, counts, decrement)


def _find_data_coordinates(inverse: Any, M_inverse: np.ndarray, S: np.ndarray) -> _Coordinates:
    """Those of `_ByKernel`, with K = M - S from the factor of M in the space of the data."""
    L = inverse.cholesky
    rows = inverse.rows
    observed = inverse.observed

    def outputs(x: np.ndarray) -> np.ndarray:
        out = np.zeros(x.size)
        out[rows] = L @ (L.T @ x.T.ravel()[rows])
        Kx = out.reshape(x.T.shape).T - np.einsum("ncd,nd->nc", S, x)
        return np.where(observed, Kx, 0.0)

    return _Coordinates(
        outputs=outputs,
        slope=lambda x, u: x + u,
        dot=lambda slope, step: float(np.vdot(slope, outputs(step))),
        precondition=lambda u: np.einsum("cndm,mde,me->nc", M_inverse, S, u, optimize=True),
    )


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
        squares = np.zeros(shape)
        step = max(1, BLOCK_BYTES // (8 * shape[0] * shape[1]))
        for _, tangents in self.stream.blocks():
            for some in chunks(tangents.n_stars, step):
                J = tangents[some].dense().transpose(1, 0, 2)
                squares += np.matmul(J.transpose(0, 2, 1), J)
        return squares

    def _find_gradient(
        self, theta: np.ndarray, V: np.ndarray, counts: dict[str, float]
    ) -> np.ndarray:
        return self._differentiate(self.targets - self.stream.matvec(theta), V, counts, theta)

    def _build(self) -> InverseHessian:
        if self._squares is None:
            return self.builder.build(self.theta)
        A = np.einsum("c,cpq->pq", 1 / np.diag(self.noise.covariance), self._squares)
        A[np.diag_indices(len(A))] += self.reg.prior_precision_vector()
        structure: Any = self.builder.inverse
        inverse: InverseHessian = structure.factorize(A)
        return inverse

    def _find_covariances(self, inverse: InverseHessian) -> np.ndarray:
        """V (star, label, label); its mean over stars, where all of these count alike."""
        if self._squares is None:
            return super()._find_covariances(inverse)
        total = np.einsum("cpq,pq->c", self._squares, inverse.to_dense())
        mean = total / np.maximum(self.observed.sum(axis=0), 1)
        return (self.observed * mean)[:, :, None] * np.eye(len(mean))


def _majorise(r: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Weights (star, label, label) of the parabolas above L that touch it at residuals r."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(r == 0, np.einsum("ncc->nc", hessian), gradient / r)
    return weights[:, :, None] * np.eye(r.shape[1])


def _solve(space: _Coordinates, weights: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
    """Solution of (J^T W J + Lambda) theta = b by conjugate gradients; False if it curves down."""
    z = space.precondition(b)
    direction = z
    step = np.zeros_like(z)
    size = first = space.dot(b, z)
    for _ in range(MAX_PRODUCTS):
        u = np.einsum("ncd,nd->nc", weights, space.outputs(direction))
        product = space.slope(direction, u)
        curvature = space.dot(product, direction)
        if curvature <= 0:
            return step, False
        step = step + size / curvature * direction
        b = b - size / curvature * product
        z = space.precondition(b)
        size, previous = space.dot(b, z), size
        if size <= SOLUTION * first:
            break
        direction = z + size / previous * direction
    return step, True


_KINDS: dict[str, type[LinearizedEvidence]] = {
    "products": LinearizedEvidence,
    "data": _ByKernel,
    "parameters": _ByNormalMatrix,
}
