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

What does not change with noise and prior is computed once: for the dual the kernel of the blocks
that share a factor of the prior, for the primal structure (but for full noise) the sum of
:math:`J^T J` of each label.

In the space of the data, with :math:`M = J \Lambda^{-1} J^T + S` and :math:`x = M^{-1} t`, the mean
of the observed and the expected information costs products alone (Gilmour, Thompson & Cullis 1995,
doi:10.2307/2533274),

.. math::
    -\frac{d^2F}{dh_i\, dh_j} \approx \tfrac12\, x^T \frac{dM}{dh_i} M^{-1} \frac{dM}{dh_j} x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from symspec.derivatives import compiled, weighted_sums
from symspec.derivatives.tangent_stream import TangentStream
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import InverseBuilder, log_evidence
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.numerics.inverse_kernels import InverseKernel, find_trace
from symspec.networks.noise import GaussianNoise, StudentTNoise
from symspec.networks.noise.noise import TunableNoise
from symspec.networks.regression import Regression
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.memory import chunks
from symspec.training.hyperparameters import MIN_COUNT, Hyperparameters
from symspec.training.marginal_likelihood import DIFFERENCE, Evidence, EvidenceFunction
from symspec.training.steps.linear_modes import Coordinates, Mode, find_mode

BLOCK_BYTES = 64 * 2**20  # of the dense tangents of some stars


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


class LinearizedEvidence(EvidenceFunction):
    """F of a network linearised at `theta` (param,), by any structure.

    Attributes
    ----------
    targets : numpy.ndarray, shape (star, label)
        t of the stars that have labels, zero where one is missing.
    """

    moves_weights = False

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
        mode = self._find_mode(space, start)
        theta = mode.x
        counts = self.hyperparameters.sum_by_factor(inverse.count_effective(self.reg))
        V = self._find_covariances(inverse)
        return self._evidence(
            log_evidence(self.reg, theta, self._negative_log_posterior(theta), inverse),
            self._find_gradient(theta, V, counts),
            theta,
            V,
            counts,
            mode,
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

    def _find_coordinates(self, inverse: InverseHessian) -> Coordinates:
        """The weights themselves."""
        precision = self.reg.prior_precision_vector()
        cheap = inverse.cheap()
        return Coordinates(
            outputs=self.stream.matvec,
            slope=lambda theta, u: precision * theta + self.stream.rmatvec(u),
            dot=np.dot,
            precondition=lambda slope: cheap @ slope,
            is_exact=cheap is inverse and inverse.accuracy == "exact",
        )

    def _find_mode(self, space: Coordinates, start: np.ndarray) -> Mode:
        """Mode from A^-1 times `start`."""
        return find_mode(space, self._likelihood, self.targets, self.noise.weights, start)

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
        mode: Mode,
        error: float = 0.0,
        curvature: np.ndarray | None = None,
    ) -> Evidence:
        if curvature is None:
            curvature = self.hyperparameters.curvature(self.observed.sum(axis=0), counts)
        return Evidence(
            log_marginal_likelihood=F,
            standard_error=error,
            gradient=gradient,
            names=self.hyperparameters.names,
            theta=theta,
            newton_decrement=mode.decrement,
            is_minimum=mode.is_minimum,
            n_effective=np.einsum("ncd,ndc->c", self.noise.weights, V),
            n_effective_by_factor=counts,
            curvature=curvature,
        )

    def _differentiate(
        self, residuals: np.ndarray, V: np.ndarray, counts: dict[str, float], theta: np.ndarray
    ) -> np.ndarray:
        """Gradient (entry,) from residuals, V, and effective parameters by factor."""
        by_noise = self._own.differentiate_evidence(residuals, V, 0 * residuals, self._given)
        pull = self._sum_by_block(self.reg.prior_precision_vector() * theta**2)
        pull = self.hyperparameters.sum_by_factor(pull)
        by_factor = {name: 0.5 * (count - pull[name]) for name, count in counts.items()}
        return self.hyperparameters.gradient(self.h, by_noise, by_factor)


class _ByKernel(LinearizedEvidence):
    r"""In the space of the data, from the kernel of the blocks of each factor of the prior.

    Coordinates are x (star, label) of :math:`\theta = \Lambda^{-1} J^T x`, in which
    :math:`J \theta = K x`, and u of slopes :math:`J^T u`.
    """

    def __init__(
        self, builder: InverseBuilder, hyperparameters: Hyperparameters, theta: np.ndarray
    ):
        super().__init__(builder, hyperparameters, theta)
        self._tangents = builder.tangents(theta, builder.X[builder.labelled])
        self._first = {name: 1 / float(p) for name, p in builder.reg.prior_precision.items()}
        every = {"all blocks": list(self._first)}
        self._factors: Mapping[str, list[str]] = hyperparameters.factors or every
        n_kept = int(builder.memory / 2 // (8 * self.observed.size**2))
        self._kept = {name: self._find_kernel(name) for name in list(self._factors)[:n_kept]}

    def _find_kernel(self, factor: str) -> np.ndarray:
        """Kernel (label and star, label and star) of the blocks of a factor, at h = 0."""
        blocks = self._factors[factor]
        variance = {name: v if name in blocks else 0.0 for name, v in self._first.items()}
        return self._tangents.gram(self._tangents, variance)

    def _kernels(self) -> Iterator[tuple[str, float, np.ndarray]]:
        """Kernels at h = 0, those kept or computed again, and what they are multiplied by at h."""
        for factor, (block, *_) in self._factors.items():
            scale = 1 / float(self.reg.prior_precision[block]) / self._first[block]
            kept = self._kept.get(factor)
            yield factor, scale, self._find_kernel(factor) if kept is None else kept

    def _sum_kernels(self) -> np.ndarray:
        kernels = self._kernels()
        _, scale, kernel = next(kernels)
        K = scale * kernel
        for _, scale, kernel in kernels:
            K += scale * kernel
        return K

    def evaluate(self, theta: np.ndarray, *, is_near: bool = False) -> Evidence:
        inverse = InverseKernel.of(self._sum_kernels(), self.noise)
        S = np.broadcast_to(self.noise.covariance, (*self.observed.shape, self.observed.shape[1]))
        space = self._find_data_coordinates(inverse, S)
        mode = self._find_mode(space, self.noise.weigh(self._start))
        x = mode.x
        if mode.is_whole:  # no difference of labels, whose digits are lost where S is small
            residuals = np.einsum("ncd,nd->nc", S, x)
            U = 0.5 * float(np.vdot(x, self.targets))
        else:
            f = space.outputs(x)
            residuals = self.targets - f
            U = float(self._likelihood(f)[0]) + 0.5 * space.dot(x, x)
        log_det = inverse.log_det - self.noise.log_det
        F = -U - self._own.negative_log_peak(self.labels) - 0.5 * log_det
        V = S - S @ inverse.find_blocks() @ S
        theta = self._find_weights(x)
        counts = self._count(inverse, V)
        return self._evidence(
            F,
            self._differentiate(residuals, V, counts, theta),
            theta,
            V,
            counts,
            mode,
            curvature=self._find_information(inverse, x, theta),
        )

    def _find_data_coordinates(self, inverse: InverseKernel, S: np.ndarray) -> Coordinates:
        shape = self.observed.T.shape

        def outputs(x: np.ndarray) -> np.ndarray:
            if len(self._kept) < len(self._factors):
                return np.where(self.observed, self._tangents.matvec(self._find_weights(x)), 0.0)
            flat = x.T.ravel()
            Kx = sum(scale * (kernel @ flat) for _, scale, kernel in self._kernels())
            return np.where(self.observed, np.reshape(Kx, shape).T, 0.0)

        def precondition(u: np.ndarray) -> np.ndarray:
            Su = np.einsum("ncd,nd->cn", S, u)
            return inverse.solve(Su.ravel()).reshape(shape).T

        return Coordinates(
            outputs=outputs,
            slope=lambda x, u: x + u,
            dot=lambda slope, step: float(np.vdot(slope, outputs(step))),
            precondition=precondition,
            is_exact=True,
        )

    def _count(self, inverse: InverseKernel, V: np.ndarray) -> dict[str, float]:
        """Effective parameters by factor, tr(M^-1 K) of its kernel; of all, tr(W V)."""
        factors = list(self.hyperparameters.factors)
        if len(factors) <= 1:
            return dict.fromkeys(factors, float(np.einsum("ncd,ncd->", self.noise.weights, V)))
        lower = inverse.find_inverse()
        rows = np.ix_(inverse.rows, inverse.rows)
        return {
            factor: scale * find_trace(lower, kernel if self.observed.all() else kernel[rows])
            for factor, scale, kernel in self._kernels()
        }

    def _find_weights(self, x: np.ndarray) -> np.ndarray:
        """Weights theta (param,) of x."""
        return self._tangents.rmatvec(x) / self.reg.prior_precision_vector()

    def _find_information(
        self, inverse: InverseKernel, x: np.ndarray, theta: np.ndarray
    ) -> np.ndarray:
        """Average information (entry, entry)."""
        pushes = [np.einsum("ncd,nd->nc", dS, x) for dS in self._differentiate_noise()]
        for blocks in self.hyperparameters.factors.values():
            alone = dict.fromkeys(self._first, 0.0) | dict.fromkeys(blocks, 1.0)
            pushes.append(-self._tangents.matvec(self._tangents.layout.expand(alone) * theta))
        D = np.reshape(pushes, (len(self.h), *x.shape)).transpose(2, 1, 0).reshape(x.size, -1)
        return 0.5 * D.T @ inverse.solve(D) + 0.5 * MIN_COUNT * np.eye(len(self.h))

    def _differentiate_noise(self) -> Iterator[np.ndarray]:
        """dS/dh (star, label, label) of each entry of h that is the noise's, by differences."""
        for e in DIFFERENCE * np.eye(len(self.h))[self.hyperparameters.is_noise]:
            ends = [self.hyperparameters.regression(h).noise for h in (self.h + e, self.h - e)]
            above, below = (np.asarray(end.of_stars(self.labels).covariance) for end in ends)
            rise = (above - below) / (2 * DIFFERENCE)
            yield np.broadcast_to(rise, (*self.observed.shape, self.observed.shape[1]))


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


_KINDS: dict[str, type[LinearizedEvidence]] = {
    "products": LinearizedEvidence,
    "data": _ByKernel,
    "parameters": _ByNormalMatrix,
}
