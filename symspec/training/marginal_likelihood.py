r"""Laplace's log marginal likelihood F of noise and prior, with its complete gradient.

With A the Gauss-Newton matrix at the minimum theta* of U, H the exact Hessian there, r_n the
residuals, W_n the weights of the noise on the observed labels of star n and zero elsewhere, for
normal noise the inverse of its covariance,
:math:`V_n = J_n A^{-1} J_n^T`, and one adjoint solve :math:`q = H^{-1} \nabla_\theta \tfrac12
\log\det A`,

.. math::
    F &= -U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi \\
    \frac{dF}{dS} &= \sum_n \tfrac12 W_n (r_n r_n^T + V_n) W_n - \tfrac12 W_n
    + \mathrm{sym}\, W_n (J_n q) r_n^T W_n \\
    \frac{dF}{d\log\delta_b} &= \tfrac12 (\gamma_b - \delta_b |\theta_b|^2)
    + \delta_b\, q_b \cdot \theta_b,
    \qquad \gamma_b = P_b - \delta_b \mathrm{tr} (A^{-1})_{bb}

The terms with q say how A changes as theta* moves with the noise and the prior, by J_n and, where
the noise's weights depend on the outputs, by W_n. dF/dS is that of normal noise; each noise knows
its own.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, cast

import numpy as np
from scipy.linalg import LinAlgWarning, solve

from symspec.derivatives import compiled, weighted_sums
from symspec.derivatives.matrices import WeightedHessian
from symspec.errors import NotPositiveDefiniteError
from symspec.inverse_hessian.builder import InverseBuilder, log_evidence
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.noise.noise import TunableNoise
from symspec.networks.regression import Regression
from symspec.safety.label_errors import Labels, find_labels_alone, find_observed
from symspec.training.descents import ITERATIONS, choose_turns, descend, minimize_by_descents
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.steps.hessian_solves import HessianSolver, Lessons
from symspec.training.steps.newton_models import DenseModel, FindModel, ProductModel, is_small
from symspec.training.steps.newton_steps import PolishResult

POLISH_TOLERANCE = 1e-12  # nats; its root matters to the gradient
MAX_DECREMENT = 1e-6  # nats; weights that are farther from a minimum are at none
BY_PRODUCTS = 1e-5  # where Newton's last steps cost as much as all others, and F feels none
DENSE_PARAMS = 1000  # few dense Hessians are needed after the descents, and they tell saddles
ROUGH = 0.1  # nats of decrement that are left where the noise is far from right
ROUGH_TURNS = 1  # of large networks: the next step of the noise is as long whatever they find
FAR_TURNS = 25  # of L-BFGS
NEAR_TURNS = 5
MOST_STEPS = 200  # of Newton's, where there are no turns
DIFFERENCE = 1e-3  # in h: its square times third derivatives of F is far below any tolerance
ADJOINT = 1e-10  # squared residual, relative: with fewer digits rounding shows in the end


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """Log marginal likelihood at one setting of the hyperparameters.

    Attributes
    ----------
    log_marginal_likelihood : float
        In nats.
    standard_error : float
        Standard error of the log marginal likelihood; 0 where that is exact.
    gradient : numpy.ndarray, shape (entry,)
        With respect to the hyperparameters that vary. Complete for the structures primal and dual;
        at fixed weights for the others.
    names : list of str
        Names of the gradient's entries.
    theta : numpy.ndarray, shape (param,)
        The minimum of U there; of that of the linearised network with move=False.
    newton_decrement : float
        Nats that a Newton step from `theta` would still gain.
    is_minimum : bool
        Whether the search for the minimum arrived; if not, the value is no evidence.
    n_effective : numpy.ndarray, shape (label,)
        Number of parameters that each label's data determine.
    n_effective_by_factor : dict of str to float
        Number of parameters that the data determine, rather than the prior, for each factor of the
        prior that varies: of all blocks, a layer, or a block.
    curvature : numpy.ndarray, shape (entry, entry)
        Approximately minus the second derivatives of the log marginal likelihood.
    """

    log_marginal_likelihood: float
    standard_error: float
    gradient: np.ndarray
    names: list[str]
    theta: np.ndarray
    newton_decrement: float
    is_minimum: bool
    n_effective: np.ndarray
    n_effective_by_factor: dict[str, float]
    curvature: np.ndarray


class EvidenceFunction(ABC):
    """F of one regression, training set and structure at any hyperparameters.

    Parameters
    ----------
    builder : InverseBuilder
        The regression at h = 0, its training set and structure.
    hyperparameters : Hyperparameters
        Those of the same regression.
    labels : numpy.ndarray, shape (star, label), or LabelsWithErrors
        Of the stars that F sums over; NaN labels are missing.

    Attributes
    ----------
    h : numpy.ndarray, shape (entry,)
        The hyperparameters.
    can_be_rough : bool
        Whether `evaluate_roughly` takes less time.
    moves_weights : bool
        Whether F is that at a minimum of U, which moves with h.
    """

    can_be_rough = False
    moves_weights = True

    def __init__(self, builder: InverseBuilder, hyperparameters: Hyperparameters, labels: Labels):
        self.builder = builder
        self.hyperparameters = hyperparameters
        self.labels = labels
        self.observed = find_observed(labels)
        self._stand_at(np.zeros(len(hyperparameters)), builder.reg)

    def _stand_at(self, h: np.ndarray, reg: Regression) -> None:
        self.h = h
        self.reg = reg

    def at(self, h: np.ndarray) -> Self:
        """The same at other hyperparameters h (entry,)."""
        other = copy(self)
        reg = self.hyperparameters.regression(h)
        other.builder = self.builder.with_regression(reg)
        other._stand_at(h, reg)
        return other

    @abstractmethod
    def evaluate(self, theta: np.ndarray, *, is_near: bool = False) -> Evidence:
        """F and its gradient, at the minimum near `theta`."""

    def evaluate_roughly(self, theta: np.ndarray) -> Evidence:
        """F and its gradient, near enough to the minimum for a large step."""
        return self.evaluate(theta)

    @abstractmethod
    def find_log_evidence(self, theta: np.ndarray) -> float:
        """F as if its minimum were at theta (param,)."""

    def differentiate_at_fixed_weights(self, theta: np.ndarray) -> np.ndarray:
        """Gradient (entry,) of F by central differences, by any structure."""
        rises = [
            self.at(self.h + e).find_log_evidence(theta)
            - self.at(self.h - e).find_log_evidence(theta)
            for e in DIFFERENCE * np.eye(len(self.h))
        ]
        return np.array(rises) / (2 * DIFFERENCE)

    def _sum_by_block(self, values: np.ndarray) -> dict[str, float]:
        return {
            name: float(part.sum()) for name, part in self.reg.net.layout.unpack(values).items()
        }


class MarginalLikelihood(EvidenceFunction):
    """F where the weights go to the minimum of U.

    Parameters
    ----------
    builder : InverseBuilder
    hyperparameters : Hyperparameters
        As of `EvidenceFunction`.
    """

    def __init__(self, builder: InverseBuilder, hyperparameters: Hyperparameters):
        super().__init__(builder, hyperparameters, builder.Y)
        self.X = builder.X
        self.Y = np.nan_to_num(find_labels_alone(builder.Y))
        net = builder.reg.net
        backend = builder.backend
        self.find_outputs = compiled.compile_outputs(net, backend=backend)
        n_given = self._given.shape[2]
        how = {"kind": builder.reg.noise.kind, "n_given": n_given, "backend": backend}
        self._loss = weighted_sums.compile_weighted_squares(net, **how)
        self._lessons = Lessons()  # one for all copies
        self._hessian = WeightedHessian(net, **how) if is_small(net, DENSE_PARAMS) else None
        if self._hessian is None:
            self._product = weighted_sums.compile_weighted_hessian_vector_product(net, **how)
        self._find_turn = choose_turns(net, is_dense=self._hessian is not None)
        if builder.inverse.has_evidence_gradient:
            compile_gradient = builder.inverse.compile_log_det_gradient
            self._log_det_gradient = compile_gradient(net, backend=backend)
            self.can_be_rough = self._find_turn is not None

    def _stand_at(self, h: np.ndarray, reg: Regression) -> None:
        super()._stand_at(h, reg)
        self._last_hessian: tuple[np.ndarray, np.ndarray] | None = None  # at which theta
        self._own = cast(TunableNoise, reg.noise)  # Hyperparameters know no other
        self._given = self._own.given(self.labels)
        self._peak = self._own.negative_log_peak(self.labels)

    def objective(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """U and its gradient (param,)."""
        loss, gradient = self._loss(theta, self.X, self.Y, self._given)
        return float(loss) + self._peak + self.reg.add_prior(gradient, theta, 1.0), gradient

    def hessian_product(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """H v (param,) with the exact Hessian H of U."""
        return (
            self._product(theta, self.X, self.Y, self._given, v)
            + self.reg.prior_precision_vector() * v
        )

    def _find_hessian(self, hessian: WeightedHessian, theta: np.ndarray) -> np.ndarray:
        """The exact Hessian (param, param) of U, from that of L; the last one is kept."""
        if self._last_hessian is None or not np.array_equal(self._last_hessian[0], theta):
            H = hessian(theta, self.X, self.Y, self._given)
            H[np.diag_indices(len(H))] += self.reg.prior_precision_vector()
            self._last_hessian = theta.copy(), H
        return self._last_hessian[1]

    def minimize(
        self,
        theta: np.ndarray,
        *,
        tolerance: float,
        is_near: bool = False,
        looks_for_saddles: bool = True,
    ) -> tuple[PolishResult, InverseHessian]:
        """Minimum of U near `theta`, and the inverse Hessian there.

        If it should be near, the search is given up where it would take long. A saddle point is one
        of the ends, by products with H, where nobody looks for them.
        """
        find_model: FindModel = partial(self._find_product_model, looks_for_saddles)
        if self._hessian is not None:
            find_model = partial(DenseModel, partial(self._find_hessian, self._hessian))
        max_iterations = ITERATIONS * (NEAR_TURNS if is_near else FAR_TURNS)
        return minimize_by_descents(
            self._find_turn,
            self.objective,
            find_model,
            self.builder,
            theta,
            tolerance=tolerance,
            max_iterations=max_iterations if self._find_turn else MOST_STEPS,
        )

    def _find_product_model(
        self,
        looks_for_saddles: bool,
        builder: InverseBuilder,
        theta: np.ndarray,
        gradient: np.ndarray,
    ) -> ProductModel:
        return ProductModel(
            self.hessian_product,
            builder,
            theta,
            gradient,
            learned=self._lessons.at(partial(self.hessian_product, theta)),
            looks_for_saddles=looks_for_saddles,
        )

    def evaluate(self, theta: np.ndarray, *, is_near: bool = False) -> Evidence:
        """F at the minimum near `theta`, with its gradient: the complete one by primal or dual.

        `is_near` is that of `minimize`. To solve with H tells saddle points, too.
        """
        tolerance = BY_PRODUCTS if self._hessian is None else POLISH_TOLERANCE
        minimize = partial(self.minimize, tolerance=tolerance, is_near=is_near)
        if not self.builder.inverse.has_evidence_gradient:
            return self._differentiate_by_differences(*minimize(theta))
        result, inverse = minimize(theta, looks_for_saddles=False)
        evidence = self._differentiate(result, inverse)
        if result.converged and not evidence.is_minimum:
            evidence = self._differentiate(*minimize(result.theta))
        return evidence

    def evaluate_roughly(self, theta: np.ndarray) -> Evidence:
        if self._find_turn is None:
            return super().evaluate_roughly(theta)
        turns = ROUGH_TURNS if self._hessian is None else FAR_TURNS
        theta = descend(self._find_turn, self.objective, self.builder, theta, turns, ROUGH).theta
        inverse = self.builder.build(theta)
        U, slope = self.objective(theta)
        result = PolishResult(
            theta=theta,
            negative_log_posterior=U,
            newton_decrement=0.5 * float(slope @ (inverse @ slope)),
            iterations=0,
            converged=False,
            reason="it was to come near a minimum alone",
        )
        return self._differentiate(result, inverse, is_rough=True)

    def _differentiate_by_differences(
        self, result: PolishResult, inverse: InverseHessian
    ) -> Evidence:
        """F and its gradient at fixed weights, by any structure."""
        F = log_evidence(self.reg, result.theta, result.negative_log_posterior, inverse)
        gradient = self.differentiate_at_fixed_weights(result.theta)
        V = inverse.label_covariance(self.builder.tangents(result.theta))
        WV = np.matmul(self.builder.noise(result.theta).weights, V)
        counts = self.hyperparameters.sum_by_factor(inverse.count_effective(self.reg))
        return self._evidence(F, inverse, gradient, result, WV, counts)

    def _differentiate(
        self, result: PolishResult, inverse: InverseHessian, *, is_rough: bool = False
    ) -> Evidence:
        """F and its complete gradient at a minimum; roughly, by G in place of H."""
        theta = result.theta
        precision = self.reg.prior_precision_vector()
        weights = self.builder.noise(theta).weights
        tangents = self.builder.tangents(theta)
        by_theta, counts, V = inverse.differentiate_log_det(
            self._log_det_gradient, self.reg, theta, self.X, self.Y, weights, tangents
        )
        outputs = self.find_outputs(theta, self.X)
        by_theta += tangents.rmatvec(self._own.differentiate_weights(outputs, self.labels, V))
        q = inverse @ by_theta if is_rough else self._solve_hessian(theta, inverse, by_theta)
        if q is None:
            q = 0 * theta
            # at a kink the Hessian of one piece says little
            result = replace(result, converged=result.converged and result.at_kink)
        residuals = self.Y - outputs[:, : self.Y.shape[1]]
        by_noise = self._own.differentiate_evidence(residuals, V, tangents.matvec(q), self._given)
        pull = self._sum_by_block(precision * theta * (q - 0.5 * theta))
        counts = self.hyperparameters.sum_by_factor(counts)
        pull = self.hyperparameters.sum_by_factor(pull)
        by_factor = {name: 0.5 * count + pull[name] for name, count in counts.items()}
        gradient = self.hyperparameters.gradient(self.h, by_noise, by_factor)
        F = log_evidence(self.reg, theta, result.negative_log_posterior, inverse)
        slope = self.objective(theta)[1]
        if 0.5 * slope @ (inverse @ slope) <= BY_PRODUCTS:
            F += q @ slope  # log det A at the minimum itself, a small step away
        WV = np.matmul(weights, V)
        return self._evidence(F, inverse, gradient, result, WV, counts)

    def find_log_evidence(self, theta: np.ndarray) -> float:
        return log_evidence(self.reg, theta, self.objective(theta)[0], self.builder.build(theta))

    def _evidence(
        self,
        F: float,
        inverse: InverseHessian,
        gradient: np.ndarray,
        result: PolishResult,
        WV: np.ndarray,
        counts: dict[str, float],
    ) -> Evidence:
        by_output = np.einsum("ncc->c", WV)
        return Evidence(
            log_marginal_likelihood=F,
            standard_error=0.5 * inverse.logdet_standard_error(),
            gradient=gradient,
            names=self.hyperparameters.names,
            theta=result.theta,
            newton_decrement=result.newton_decrement,
            is_minimum=result.converged,
            n_effective=by_output.reshape(-1, self.reg.net.n_labels).sum(axis=0),
            n_effective_by_factor=counts,
            curvature=self.hyperparameters.curvature(self.observed.sum(axis=0), counts),
        )

    def _solve_hessian(
        self, theta: np.ndarray, inverse: InverseHessian, b: np.ndarray
    ) -> np.ndarray | None:
        """H^-1 b (param,); None where products with H show that it is not positive definite."""
        if self._hessian is not None:
            with warnings.catch_warnings():  # H may be singular at what is no minimum
                warnings.simplefilter("ignore", LinAlgWarning)
                return solve(self._find_hessian(self._hessian, theta), b, assume_a="sym")
        product = partial(self.hessian_product, theta)
        known = self._lessons.at(product)
        solver = HessianSolver(product, inverse.cheap(), tolerance=ADJOINT, learned=known)
        try:
            q = solver.solve(b)
        except NotPositiveDefiniteError:
            return None
        self._lessons.learned = solver.learned
        return q
