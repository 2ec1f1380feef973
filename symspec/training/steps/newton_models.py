r"""The quadratic model of U around one theta, whose minimum within a ball is a Newton step.

Small networks have the exact Hessian H as a matrix. In the coordinates :math:`u = L^T s` of the
Gauss-Newton matrix :math:`G = L L^T`, the pencil (H, G) is
:math:`\tilde H = L^{-1} H L^{-T}`, whose eigenvalues are 1 where the residuals do not matter and
negative where U curves down. Each step is the exact minimum within a ball (More & Sorensen 1983,
doi:10.1137/0904038), so that it leaves saddle points along their directions of descent. In the norm
of G alone the ball would be small far from a minimum, where residuals curve U more than G does; so
there is one of absolute curvature, too, as in saddle-free Newton (Dauphin et al. 2014,
arXiv:1406.2572).

Larger networks have products with H. The inverse of G preconditions conjugate gradients within a
ball :math:`s^T G s \le r^2` (Steihaug 1983, doi:10.1137/0720042); in the directions in which H is
known to be unlike G, both are by H. Where the gradient vanishes, the lowest eigenvalue of the
pencil tells a minimum from a saddle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.optimize import brentq

from symspec.derivatives.curvature import has_elementwise_layers
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.training.steps.hessian_solves import Directions, correct
from symspec.training.steps.stationary_points import (
    Eigenpair,
    Product,
    Vector,
    count_products,
    find_lowest,
)

DENSE_PARAMS = 500  # an eigendecomposition a step: with 900 it takes five times as long as products
FLAT = 1e-8  # relative eigenvalue below which minus it is followed, above rounding's 1e-12
DESCENDING = 1e-6  # the same of an eigenvalue found by products
MAX_AGE = 4  # steps after which the preconditioner is built again
STIFFENING = 4.0
MAX_PRODUCTS = 100  # that the search for a descent at a saddle may take: 40 missed some


class Model(Protocol):
    """The quadratic model of U around one theta."""

    @property
    def decrement(self) -> float:
        """Gauss-Newton decrement in nats."""
        ...

    @property
    def gain(self) -> float:
        """Nats that the model's minimum gains, as far as is known; infinite at a saddle.

        It is asked for where the decrement is small, as it may be dear.
        """
        ...

    @property
    def inverse(self) -> InverseHessian:
        """Inverse of G, perhaps of some steps before."""
        ...

    @property
    def has_cheap_steps(self) -> bool:
        """Whether a step costs less than a value of U."""
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

    @property
    def n_balls(self) -> int:
        """Number of shapes of a ball that steps may be kept in."""
        ...

    def step(self, radius: float, ball: int = 0) -> tuple[Vector, float, float]:
        """Step within a ball, the model's decrease, and the step's length in the ball's norm."""
        ...


FindModel = Callable[[InverseBuilder, Vector, Vector], Model]


def is_small(net: Network, most: int = DENSE_PARAMS) -> bool:
    """Whether its Hessian is worth having as a matrix: few parameters, and a closed form."""
    return net.n_params <= most and has_elementwise_layers(net)


class DenseModel:
    """The quadratic model of U around one theta, by the eigenpairs of H in units of G.

    Parameters
    ----------
    hessian : callable
        H (param, param) at theta.
    builder : InverseBuilder
        Of the regression and its stars.
    theta, gradient : numpy.ndarray, shape (param,)

    Attributes
    ----------
    values : numpy.ndarray, shape (param,)
        Eigenvalues, rising.
    decrement : float
        Gauss-Newton decrement in nats.
    """

    is_fresh = True
    has_cheap_steps = True
    n_balls = 2

    def __init__(
        self,
        hessian: Callable[[Vector], np.ndarray],
        builder: InverseBuilder,
        theta: Vector,
        gradient: Vector,
    ):
        self._hessian = hessian
        self._builder = builder
        self._theta = theta
        self._L = builder.cholesky(theta)
        half = solve_triangular(self._L, hessian(theta), lower=True)
        self.values, self._vectors = eigh(solve_triangular(self._L, half.T, lower=True))
        c = solve_triangular(self._L, gradient, lower=True)
        self.decrement = 0.5 * float(c @ c)
        self._slopes = self._vectors.T @ c

    @property
    def gain(self) -> float:
        """Nats that the model's minimum gains; infinite if it has none.

        Where H is flatter than G, it is more than the Gauss-Newton decrement.
        """
        if self.values[0] < -FLAT:
            return np.inf
        return 0.5 * float(np.sum(self._slopes**2 / np.maximum(self.values, FLAT)))

    @property
    def inverse(self) -> InverseHessian:
        return self._builder.build(self._theta)

    def refresh(self) -> DenseModel:
        return self

    def move(self, theta: Vector, gradient: Vector) -> DenseModel:
        return DenseModel(self._hessian, self._builder, theta, gradient)

    def step(self, radius: float, ball: int = 0) -> tuple[Vector, float, float]:
        """Minimum of the model within a ball: the step (param,), the model's decrease, its length.

        The first ball is one of absolute curvature, at least that of G: it lets whole steps go
        where G is stiff while negative curvature holds steps short elsewhere. The other is one of
        G, for directions whose curvature is large and changes at once.
        """
        floored = np.maximum(np.abs(self.values), 1.0)
        scales = np.sqrt(floored) if ball == 0 else np.ones_like(floored)
        ratios = self.values / scales**2
        order = np.argsort(ratios, kind="stable")
        u = np.empty_like(scales)
        u[order] = minimize_in_ball(ratios[order], (self._slopes / scales)[order], radius)
        norm = float(np.linalg.norm(u))
        u /= scales
        decrease = -float(self._slopes @ u + 0.5 * self.values @ u**2)
        step = solve_triangular(self._L, self._vectors @ u, lower=True, trans=1)
        return step, decrease, norm


def minimize_in_ball(values: Vector, slopes: Vector, radius: float) -> Vector:
    """Minimum u of slopes u + u values u / 2 within a ball, for rising values."""

    def solve(shift: float) -> Vector:
        return -slopes / (values + shift)

    radius *= 1 + 1e-9  # rounding: the first radius is the length of a whole step where H is G
    if values[0] > 0 and np.linalg.norm(solve(0.0)) <= radius:
        return solve(0.0)
    # the length falls as the shift rises, from its pole on
    pole = max(0.0, -values[0])
    low = pole + 1e-12 * max(1.0, pole, abs(values[-1]))
    if np.linalg.norm(solve(low)) <= radius:  # the hard case: along the lowest eigenvector
        u = solve(low)
        rest = radius**2 - u @ u + u[0] ** 2
        u[0] = np.copysign(np.sqrt(max(rest, 0.0)), u[0] if u[0] else 1.0)
        return u
    high = pole + np.linalg.norm(slopes) / radius
    shift = brentq(lambda s: 1 / radius - 1 / np.linalg.norm(solve(s)), low, high)
    return solve(shift)


class ProductModel:
    """Products with H, preconditioned by the inverse of G, which is built every few steps.

    Far from a minimum, where residuals curve U more than G does, a prior times its `stiffness`
    stands in G: the ball is narrower where the data say little, and as wide as before elsewhere.

    Parameters
    ----------
    product : callable
        H v at (theta, v).
    builder : InverseBuilder
    theta, gradient : numpy.ndarray, shape (param,)
    inverse : InverseHessian, optional
        Of G, `age` steps before.
    stiffness : float
    learned : Directions, optional
        In which H is unlike G, found at a minimum nearby.
    looks_for_saddles : bool, default True
        False: wherever the decrement is small, it takes the gain for that.

    Attributes
    ----------
    decrement : float
        Gauss-Newton decrement in nats; less than that where the stiffness is more than 1.
    """

    has_cheap_steps = False
    n_balls = 1

    def __init__(
        self,
        product: Callable[[Vector, Vector], Vector],
        builder: InverseBuilder,
        theta: Vector,
        gradient: Vector,
        inverse: InverseHessian | None = None,
        age: int = 0,
        stiffness: float = 1.0,
        *,
        learned: Directions | None = None,
        looks_for_saddles: bool = True,
    ):
        self._product = product
        self._builder = builder
        self._theta = theta
        self._gradient = gradient
        self._age = 0 if inverse is None else age
        self._stiffness = stiffness
        self._learned = learned
        self._looks_for_saddles = looks_for_saddles
        self.inverse = _build_stiff(builder, theta, stiffness) if inverse is None else inverse
        self.decrement = 0.5 * float(gradient @ (self.inverse.cheap() @ gradient))
        self._radius = np.inf
        self._saddle: Eigenpair | None = None  # known once `gain` was asked for

    @property
    def is_fresh(self) -> bool:
        return self._age == 0 and self._stiffness == 1.0

    @cached_property
    def gain(self) -> float:
        """The decrement, infinite at a saddle: some ten products, when first asked for."""
        if not self._looks_for_saddles:
            return self.decrement
        n_products = count_products(self._gradient.size, len(self._builder.X))
        cheap = self.inverse.cheap()
        lowest = find_lowest(self._multiply, cheap, min(n_products, MAX_PRODUCTS))
        if lowest.value > -DESCENDING:
            return self.decrement
        self._saddle = lowest
        return np.inf

    def refresh(self) -> ProductModel:
        return self._stand_at(self._theta, self._gradient)

    def move(self, theta: Vector, gradient: Vector) -> ProductModel:
        age = self._age + 1
        kept = self.inverse if age < MAX_AGE else None
        stiffness = self._stiffness if kept is not None else self._find_stiffness()
        return self._stand_at(theta, gradient, kept, age, stiffness)

    def _stand_at(self, theta: Vector, gradient: Vector, *kept: Any) -> ProductModel:
        return ProductModel(
            self._product, self._builder, theta, gradient, *kept,
            learned=self._learned, looks_for_saddles=self._looks_for_saddles,
        )  # fmt: skip

    def _find_stiffness(self) -> float:
        """More of it where only short steps succeed, less where long ones do."""
        length = np.sqrt(2 * self.decrement)
        if self._radius < 0.1 * length:
            return self._stiffness * STIFFENING
        if self._radius > 0.5 * length:
            return max(1.0, self._stiffness / STIFFENING)
        return self._stiffness

    def step(self, radius: float, ball: int = 0) -> tuple[Vector, float, float]:
        self._radius = radius
        if self._saddle is not None:
            return _step_along(self._saddle, self._gradient, radius)
        precondition = correct(self.inverse.cheap().dot, self._learned)
        return _steihaug(self._multiply, precondition, self._gradient, radius)

    @property
    def _multiply(self) -> Product:
        return partial(self._product, self._theta)


def _build_stiff(builder: InverseBuilder, theta: Vector, stiffness: float) -> InverseHessian:
    """Inverse of G at theta, under a prior so many times as strong."""
    if stiffness > 1:
        reg = builder.reg
        prior = {name: stiffness * precision for name, precision in reg.prior_precision.items()}
        builder = builder.with_regression(
            Regression(reg.net, noise=reg.noise, prior_precision=prior)
        )
    return builder.build(theta)


def _step_along(saddle: Eigenpair, gradient: Vector, radius: float) -> tuple[Vector, float, float]:
    """Along the eigenvector, downhill: the step, the model's decrease, its length."""
    slope = float(gradient @ saddle.vector)
    s = -np.copysign(radius, slope) * saddle.vector
    return s, abs(slope) * radius - 0.5 * saddle.value * radius**2, radius


def _steihaug(
    H: Product,
    precondition: Product,
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
