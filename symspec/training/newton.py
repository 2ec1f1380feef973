"""Trust-region Newton steps to a true minimum, by the exact Hessian.

Small networks have it as a matrix (`symspec.training.dense_newton`). The others have its products,
and the inverse of the Gauss-Newton matrix as preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled, matrices
from symspec.derivatives.functions import check_stars
from symspec.derivatives.span import reduce_to_span
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress, show_progress
from symspec.safety.theta import check_theta
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.training.dense_newton import DenseModel, is_small

Vector = np.ndarray
MAX_AGE = 4  # steps after which the preconditioner is built again
ARRIVED = "the decrement is below the tolerance"
STUCK = "no step lowers U, as at a kink"
TOO_LONG = "the iterations allowed are over"


@dataclass(frozen=True, kw_only=True)
class PolishResult:
    """Result of `polish`.

    Attributes
    ----------
    theta : numpy.ndarray, shape (param,)
    negative_log_posterior : float
        U in nats at `theta`.
    newton_decrement : float
        Nats that a Gauss-Newton step from `theta` would still gain.
    iterations : int
    converged : bool
        Whether the decrement fell below the tolerance, and no direction of descent was left.
    reason : str
        Why it stopped.
    """

    theta: np.ndarray
    negative_log_posterior: float
    newton_decrement: float
    iterations: int
    converged: bool
    reason: str


def polish(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 200,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    progress: bool | Progress = True,
    callback: Callable[[int, float, float], object] | None = None,
) -> PolishResult:
    r"""Go to the nearest minimum of the negative log posterior U.

    Each step minimises the exact quadratic model :math:`g^T s + s^T H s / 2` within a ball
    :math:`s^T G s \le r^2` by conjugate gradients preconditioned by :math:`G^{-1}` (Steihaug 1983,
    doi:10.1137/0720042). As G is nearly H, few products are needed, directions of negative
    curvature are followed out of saddle points, and convergence is quadratic at the end.

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
    X, Y : array_like, shapes (star, pixel), (star, label)
        `Spectra` with labels may stand for both.
    tolerance : float
        Stop when the Gauss-Newton decrement :math:`g^T G^{-1} g / 2` is below, in nats.
    max_iterations : int
    structure, backend, memory : str
        As for `fit_laplace`.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        ("Newton steps", iteration, None, U=..., decrement=...) before each step.
    callback : callable, optional
        Called with (iteration, U, decrement) before each step.
    """
    start = np.array(check_theta(theta, reg.net.n_params))
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y))
    span = reduce_to_span(reg, flux)
    objective = compiled.compile_objective(span.reg, backend=backend)
    builder = InverseBuilder(
        span.reg, span.X, labels, structure=structure, backend=backend, memory=memory
    )
    with show_progress(progress) as show:

        def follow(iteration: int, U: float, decrement: float) -> None:
            show("Newton steps", iteration, None, U=U, decrement=decrement)
            if callback is not None:
                callback(iteration, U, decrement)

        show("Newton steps", 0, None)
        result, _ = minimize_by_newton(
            lambda theta: objective(theta, span.X, labels),
            _compile_model(span.reg, span.X, labels, backend),
            builder,
            span.project(start),
            tolerance=tolerance,
            max_iterations=max_iterations,
            callback=follow,
        )
    U = result.negative_log_posterior + span.left_out
    return replace(result, theta=span.lift(result.theta), negative_log_posterior=U)


def minimize_by_newton(
    objective: Callable[[Vector], tuple[float, Vector]],
    find_model: FindModel,
    builder: InverseBuilder,
    theta: Vector,
    *,
    tolerance: float,
    max_iterations: int = 200,
    callback: Callable[[int, float, float], object] | None = None,
) -> tuple[PolishResult, InverseHessian]:
    """Minimise U, given as functions; return the result and the inverse Hessian there.

    Parameters
    ----------
    objective : callable
        U and its gradient (param,) at theta.
    find_model : callable
        The `Model` of U around (builder, theta, gradient).
    builder : InverseBuilder
        Builds the inverse of G.
    theta : numpy.ndarray, shape (param,)
    tolerance, max_iterations, callback
        As for `polish`.
    """
    U, g = objective(theta)
    model = find_model(builder, theta, g)
    radius = np.sqrt(2 * model.decrement)
    if np.isinf(model.gain):  # at a saddle there may be no gradient to measure by
        radius = max(radius, 1.0)
    # U sums one term a label and more; what it comes to depends on the labels' units
    rounding = 1e-12 * max(abs(U), float(np.count_nonzero(builder.observed)))
    for iteration in range(max_iterations + 1):
        is_last = iteration == max_iterations
        reason = _find_reason(model, tolerance, radius, is_last=is_last)
        if reason and not model.is_fresh:
            model = model.refresh()
            reason = _find_reason(model, tolerance, radius, is_last=is_last)
        if callback is not None:
            callback(iteration, U, model.decrement)
        if reason:
            break
        step, predicted, norm = model.step(radius)
        U_new, g_new = objective(theta + step)
        ratio = (U - U_new) / predicted if np.isfinite(U_new) else -1.0
        radius = _next_radius(radius, norm, ratio)
        if ratio > 1e-4 or (predicted <= rounding and U_new <= U + rounding):
            theta = theta + step
            U = U_new
            model = model.move(theta, g_new)
    result = PolishResult(
        theta=theta,
        negative_log_posterior=U,
        newton_decrement=model.decrement,
        iterations=iteration,
        converged=reason == ARRIVED,
        reason=reason,
    )
    return result, model.inverse


def _compile_model(reg: Regression, X: np.ndarray, Y: np.ndarray, backend: str) -> FindModel:
    """The model by H as a matrix for small networks, by its products for others."""
    if is_small(reg.net):
        hessian = matrices.compile_hessian(reg, backend=backend)
        return partial(DenseModel, lambda theta: hessian(theta, X, Y))
    product = compiled.compile_hessian_vector_product(reg, backend=backend)
    return partial(ProductModel, lambda theta, v: product(theta, X, Y, v))


def _find_reason(model: Model, tolerance: float, radius: float, *, is_last: bool) -> str:
    """Why to stop; empty: go on."""
    if max(model.decrement, model.gain) <= tolerance:
        return ARRIVED
    if radius <= 1e-10 * (1.0 if np.isinf(model.gain) else np.sqrt(2 * model.decrement)):
        return STUCK
    return TOO_LONG if is_last else ""


class Model(Protocol):
    """The quadratic model of U around one theta."""

    @property
    def decrement(self) -> float:
        """Gauss-Newton decrement in nats."""
        ...

    @property
    def gain(self) -> float:
        """Nats that the model's minimum gains, as far as is known; infinite if it has none."""
        ...

    @property
    def inverse(self) -> InverseHessian:
        """Inverse of G, perhaps of some steps before."""
        ...

    @property
    def is_fresh(self) -> bool:
        """Whether `inverse` is that at theta."""
        ...

    def refresh(self) -> Model:
        """The same with the inverse at theta."""
        ...

    def move(self, theta: Vector, gradient: Vector) -> Model:
        """The model around another theta."""
        ...

    def step(self, radius: float) -> tuple[Vector, float, float]:
        """Step within a ball, the model's decrease, and the step's length in the norm of G."""
        ...


FindModel = Callable[[InverseBuilder, Vector, Vector], Model]


class ProductModel:
    """Products with H, preconditioned by the inverse of G, which is built every few steps.

    Parameters
    ----------
    product : callable
        H v at (theta, v).
    builder : InverseBuilder
    theta, gradient : numpy.ndarray, shape (param,)
    inverse : InverseHessian, optional
        Of G, `age` steps before.
    """

    def __init__(
        self,
        product: Callable[[Vector, Vector], Vector],
        builder: InverseBuilder,
        theta: Vector,
        gradient: Vector,
        inverse: InverseHessian | None = None,
        age: int = 0,
    ):
        self._product = product
        self._builder = builder
        self._theta = theta
        self._gradient = gradient
        self._age = 0 if inverse is None else age
        self.inverse = builder.build(theta) if inverse is None else inverse
        self.decrement = 0.5 * float(gradient @ (self.inverse.cheap() @ gradient))
        self.gain = self.decrement

    @property
    def is_fresh(self) -> bool:
        return self._age == 0

    def refresh(self) -> ProductModel:
        return ProductModel(self._product, self._builder, self._theta, self._gradient)

    def move(self, theta: Vector, gradient: Vector) -> ProductModel:
        age = self._age + 1
        kept = self.inverse if age < MAX_AGE else None
        return ProductModel(self._product, self._builder, theta, gradient, kept, age)

    def step(self, radius: float) -> tuple[Vector, float, float]:
        precondition = self.inverse.cheap().dot
        return _steihaug(partial(self._product, self._theta), precondition, self._gradient, radius)


def _next_radius(radius: float, norm: float, ratio: float) -> float:
    if ratio < 0.25:
        return 0.25 * norm
    return max(radius, 2.5 * norm) if ratio > 0.75 else radius


def _steihaug(
    H: Callable[[Vector], Vector],
    precondition: Callable[[Vector], Vector],
    g: Vector,
    radius: float,
) -> tuple[Vector, float, float]:
    """Return the step, the model's decrease, and the step's length in the norm of G."""
    s = np.zeros_like(g)
    Hs = np.zeros_like(g)
    r = g.copy()
    y = precondition(r)
    p = -y
    ry = float(r @ y)
    ss = 0.0
    sp = 0.0
    pp = ry
    goal = min(0.25, ry**0.25) ** 2 * ry  # tighter as the minimum nears: superlinear
    for _ in range(min(g.size, 250)):
        Hp = H(p)
        curvature = float(p @ Hp)
        alpha = ry / curvature if curvature > 0 else 0.0
        if curvature <= 0 or ss + 2 * alpha * sp + alpha**2 * pp >= radius**2:
            alpha = (-sp + np.sqrt(sp**2 + pp * (radius**2 - ss))) / pp
            s = s + alpha * p
            Hs = Hs + alpha * Hp
            return s, -float(g @ s + 0.5 * s @ Hs), radius
        s = s + alpha * p
        Hs = Hs + alpha * Hp
        r = r + alpha * Hp
        ss += 2 * alpha * sp + alpha**2 * pp
        y = precondition(r)
        ry_new = float(r @ y)
        if ry_new <= goal:
            break
        beta = ry_new / ry
        ry = ry_new
        sp = beta * (sp + alpha * pp)
        pp = ry + beta**2 * pp
        p = beta * p - y
    return s, -float(g @ s + 0.5 * s @ Hs), np.sqrt(ss)
