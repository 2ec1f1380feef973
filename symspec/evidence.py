r"""Noise and prior from the evidence: Laplace's log marginal likelihood, maximised with its exact gradient.

.. math::
    \log p(Y | h) \approx F(h) = -U(\theta^*, h) - \tfrac12 \log\det A(\theta^*, h) + \tfrac{P}{2} \log 2\pi

for hyperparameters h = (log sigma_c, log s), s scaling all prior precisions. As theta* moves with h, so does A: the
fixed-point rules in use (MacKay 1992, doi:10.1162/neco.1992.4.3.448) leave that out, and on a real network walk
past the maximum into overfitting. Here the gradient is complete, by one adjoint solve with the exact Hessian H:

.. math::
    \frac{dF}{dh} = \frac{\partial F}{\partial h}
        + \Big(\frac{\partial}{\partial\theta} \tfrac12\log\det A\Big)^T
          H^{-1} \frac{\partial^2 U}{\partial\theta\,\partial h}.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize as scipy_minimize
from scipy.sparse.linalg import LinearOperator, cg

from symspec import compiled
from symspec.checks import check_theta
from symspec.errors import OptionError
from symspec.inverse_hessian import DualInverse, InverseBuilder, InverseHessian
from symspec.polish import PolishResult, minimize_by_newton
from symspec.regression import LOG_2PI, Regression
from symspec.span import find_span

POLISH_TOLERANCE = 1e-4
MAX_FACTOR = 1e4


@dataclass(frozen=True, eq=False)
class Evidence:
    """Log marginal likelihood at one setting of the hyperparameters.

    Attributes
    ----------
    log_marginal_likelihood : float
        In nats.
    gradient : numpy.ndarray, shape (label + 1,)
        With respect to (log sigma_noise, log of the prior's scale), complete.
    theta : numpy.ndarray, shape (param,)
        The minimum of U there.
    n_effective : numpy.ndarray, shape (label,)
        Number of parameters that each label's data determine.
    """

    log_marginal_likelihood: float
    gradient: np.ndarray
    theta: np.ndarray
    n_effective: np.ndarray


def tune(
    reg: Regression,
    theta: Any,
    X: Any,
    Y: Any,
    *,
    tolerance: float = 1e-2,
    max_evaluations: int = 40,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    callback: Callable[[Regression, Evidence], None] | None = None,
) -> tuple[Regression, np.ndarray]:
    """Set sigma_noise of each label and one scale of the prior to the maximum of the evidence.

    The weights are at a minimum of the new negative log posterior when it returns.

    Parameters
    ----------
    reg : Regression
        The start; ratios between its blocks' prior precisions are kept (see `scaled_prior`).
    theta : array_like, shape (param,)
        Trained weights; another start may lead to another minimum, whose evidence tells which is better.
    X, Y : array_like, shapes (star, pixel), (star, label)
    tolerance : float
        Stop when no derivative of the evidence with respect to a logarithm exceeds it times half the number of
        observed labels: roughly the relative accuracy of sigma_noise and of the prior's scale.
    max_evaluations : int
    structure, backend, memory : str
        As for `fit_laplace`.
    callback : callable, optional
        Called with the regression and its `Evidence` after each evaluation.

    Returns
    -------
    reg : Regression
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    OptionError
        The regression has a full noise covariance, or one prior precision a parameter.
    """
    if reg.has_full_noise or any(np.ndim(p) for p in reg.prior_precision.values()):
        raise OptionError(
            "tune sets one sigma_noise a label and one scale of the prior: build the Regression with sigma_noise and "
            "a number or one number a block as prior_precision."
        )
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = compiled.check_stars(reg.net, X, Y)
    span = find_span(reg, X)
    small, Z, start = (reg, X, theta) if span is None else (span.reg, span.X, span.project(theta))
    functions = EvidenceFunctions(InverseBuilder(small, Z, Y, structure=structure, backend=backend, memory=memory))
    h, start = _maximize(functions, start, tolerance, max_evaluations, callback)
    final = functions.at(h).minimize(start, tolerance=1e-8).theta
    return with_hyperparameters(reg, h), final if span is None else span.lift(final)


def with_hyperparameters(reg: Regression, h: np.ndarray) -> Regression:
    """Regression with sigma_noise and prior precisions times exp(h) (label + 1,)."""
    prior = {name: float(p * np.exp(h[-1])) for name, p in reg.prior_precision.items()}
    return Regression(reg.net, sigma_noise=reg.sigma_noise * np.exp(h[:-1]), prior_precision=prior)


class EvidenceFunctions:
    """Everything compiled that the evidence of one regression and its neighbours in hyperparameters needs.

    Parameters
    ----------
    builder : InverseBuilder
        Of the regression, its training set and structure.
    """

    def __init__(self, builder: InverseBuilder):
        self.builder, self.reg, self.backend = builder, builder.reg, builder.backend
        self.predict = compiled.compile_predict(self.reg.net, backend=self.backend)
        self.kernel_gradient = compiled.compile_kernel_trace_gradient(self.reg.net, backend=self.backend)
        self._compile_posterior()

    def _compile_posterior(self) -> None:
        self.objective = compiled.compile_objective(self.reg, backend=self.backend)
        self.product = compiled.compile_hessian_vector_product(self.reg, backend=self.backend)

    def at(self, h: np.ndarray) -> EvidenceFunctions:
        """The same at other hyperparameters: factors exp(h) on sigma_noise and the prior."""
        other = copy(self)
        other.reg = with_hyperparameters(self.reg, h)
        other.builder = self.builder.with_regression(other.reg)
        other._compile_posterior()
        return other

    def minimize(self, theta: np.ndarray, *, tolerance: float) -> PolishResult:
        """Minimum of U that `theta` leads to."""
        return minimize_by_newton(self.objective, self.product, self.builder, theta, tolerance=tolerance)

    def evaluate(self, theta: np.ndarray) -> Evidence:
        """Evidence and its complete gradient at the minimum that `theta` leads to."""
        result = self.minimize(theta, tolerance=POLISH_TOLERANCE)
        theta, observed, variance = result.theta, self.builder.observed, self.reg.sigma_noise**2
        inverse, tangents = self.builder.build(theta), self.builder.tangents(theta)
        prior = self.reg.prior_precision_vector() * theta
        residuals = np.nan_to_num(self.builder.Y - self.predict(theta, self.builder.X))
        V = np.diagonal(inverse.label_covariance(tangents), axis1=1, axis2=2)
        n_effective = (V * observed).sum(axis=0) / variance
        squares = (residuals**2).sum(axis=0) / variance
        partial = np.r_[squares - observed.sum(axis=0) + n_effective, 0.5 * (n_effective.sum() - theta @ prior)]
        q = self._solve_hessian(theta, inverse, self._log_det_gradient(theta, inverse))
        mixed = np.r_[2 * (tangents.matvec(q) * residuals).sum(axis=0) / variance, q @ prior]
        F = -result.negative_log_posterior + 0.5 * inverse.logdet() + 0.5 * theta.size * LOG_2PI
        return Evidence(F, partial + mixed, theta, n_effective)

    def _log_det_gradient(self, theta: np.ndarray, inverse: InverseHessian) -> np.ndarray:
        X, Y = self.builder.X, self.builder.Y
        if isinstance(inverse, DualInverse):
            return self.kernel_gradient(theta, X, inverse.variance, inverse.kernel_inverse())
        return compiled.compile_trace_gradient(self.reg, backend=self.backend)(theta, X, Y, inverse.to_dense())

    def _solve_hessian(self, theta: np.ndarray, inverse: InverseHessian, b: np.ndarray) -> np.ndarray:
        X, Y = self.builder.X, self.builder.Y
        H = LinearOperator(inverse.shape, matvec=lambda v: self.product(theta, X, Y, v.ravel()), dtype=np.float64)
        return cg(H, b, rtol=1e-4, maxiter=200, M=inverse)[0]


def _maximize(
    functions: EvidenceFunctions, theta: np.ndarray, tolerance: float, max_evaluations: int, callback: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Best hyperparameters and their minimum, by L-BFGS on F with warm starts."""
    n_labels = functions.reg.net.n_labels
    best: dict[str, Any] = {"F": -np.inf, "h": np.zeros(n_labels + 1), "theta": theta}
    scale = 0.5 * functions.builder.observed.sum()  # about the curvature of F: first steps of order one

    def negative(h: np.ndarray) -> tuple[float, np.ndarray]:
        here = functions.at(h)
        evidence = here.evaluate(best["theta"])
        if callback is not None:
            callback(here.reg, evidence)
        if evidence.log_marginal_likelihood > best["F"]:
            best.update(F=evidence.log_marginal_likelihood, h=h.copy(), theta=evidence.theta)
        return -evidence.log_marginal_likelihood / scale, -evidence.gradient / scale

    scipy_minimize(
        negative,
        best["h"],
        jac=True,
        method="L-BFGS-B",
        bounds=[(-np.log(MAX_FACTOR), np.log(MAX_FACTOR))] * (n_labels + 1),
        options={"maxfun": max_evaluations, "gtol": tolerance, "ftol": 1e-9},
    )
    return best["h"], best["theta"]
