r"""Newton steps of larger networks, by products with the exact Hessian.

The inverse of the Gauss-Newton matrix G preconditions conjugate gradients within a ball
:math:`s^T G s \le r^2` (Steihaug 1983, doi:10.1137/0720042). Where the gradient vanishes, the
lowest eigenvalue of the pencil (H, G) tells a minimum from a saddle: its sign is that of H's own
(Sylvester). It is sought by locally optimal steps (Knyazev 2001, doi:10.1137/S1064827500366124),
each of one product with H and one with the inverse, as G times each vector is known along with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from scipy.linalg import eigh

from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.regression import Regression

Vector = np.ndarray
Product = Callable[[Vector], Vector]
MAX_AGE = 4  # steps after which the preconditioner is built again
STIFFENING = 4.0
MAX_PRODUCTS = 40  # that the search for a direction of descent at a saddle may take
MIN_PRODUCTS = 10  # before that it may not have met the lowest of many eigenvalues at all
DESCENDING = 1e-6  # relative eigenvalue below which minus it is followed


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
    ):
        self._product = product
        self._builder = builder
        self._theta = theta
        self._gradient = gradient
        self._age = 0 if inverse is None else age
        self._stiffness = stiffness
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
        lowest = find_lowest(self._multiply, self.inverse.cheap().dot, self._gradient.size)
        if lowest.value > -DESCENDING:
            return self.decrement
        self._saddle = lowest
        return np.inf

    def refresh(self) -> ProductModel:
        return ProductModel(self._product, self._builder, self._theta, self._gradient)

    def move(self, theta: Vector, gradient: Vector) -> ProductModel:
        age = self._age + 1
        kept = self.inverse if age < MAX_AGE else None
        stiffness = self._stiffness if kept is not None else self._find_stiffness()
        return ProductModel(self._product, self._builder, theta, gradient, kept, age, stiffness)

    def _find_stiffness(self) -> float:
        """More of it where only short steps succeed, less where long ones do."""
        length = np.sqrt(2 * self.decrement)
        if self._radius < 0.1 * length:
            return self._stiffness * STIFFENING
        return (
            max(1.0, self._stiffness / STIFFENING)
            if self._radius > 0.5 * length
            else self._stiffness
        )

    def step(self, radius: float, ball: int = 0) -> tuple[Vector, float, float]:
        self._radius = radius
        if self._saddle is not None:
            return self._saddle.step(self._gradient, radius)
        return _steihaug(self._multiply, self.inverse.cheap().dot, self._gradient, radius)

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


@dataclass(frozen=True, eq=False)
class Eigenpair:
    """An eigenvalue of (H, G) and its vector x (param,), of length 1 in the norm of G."""

    value: float
    vector: Vector

    def step(self, gradient: Vector, radius: float) -> tuple[Vector, float, float]:
        """Along the vector, downhill: the step, the model's decrease, its length."""
        slope = float(gradient @ self.vector)
        s = -np.copysign(radius, slope) * self.vector
        return s, abs(slope) * radius - 0.5 * self.value * radius**2, radius


def find_lowest(H: Product, precondition: Product, n_params: int) -> Eigenpair:
    """Lowest eigenpair of (H, G), as far as its sign matters, given products with G^-1.

    It ends when the residual is too small for the eigenvalue found to have the other sign, or after
    `MAX_PRODUCTS`.
    """
    # columns x, the residual's direction, the step before; for each X, G X and H X
    Gx = np.random.default_rng(0).normal(size=n_params)
    x = precondition(Gx)
    scale = np.sqrt(x @ Gx)
    X = (x / scale)[:, None]
    GX = (Gx / scale)[:, None]
    HX = H(X[:, 0])[:, None]
    value = float(X[:, 0] @ HX[:, 0])
    for k in range(1, MAX_PRODUCTS):
        r = HX[:, 0] - value * GX[:, 0]
        w = precondition(r)
        residual = np.sqrt(max(float(r @ w), 0.0))
        is_known = residual <= -0.5 * value if value < 0 else residual <= 0.1 * value
        if residual <= DESCENDING or (is_known and (value < 0 or k >= MIN_PRODUCTS)):
            break
        X = np.c_[X, w / residual]
        GX = np.c_[GX, r / residual]
        HX = np.c_[HX, H(X[:, -1])]
        value, C = _find_lowest_within(X.T @ GX, X.T @ HX)
        X = X @ C
        GX = GX @ C
        HX = HX @ C
    return Eigenpair(value, X[:, 0])


def _find_lowest_within(S: np.ndarray, T: np.ndarray) -> tuple[float, np.ndarray]:
    """Lowest eigenvalue of (T, S); the columns that make its vector, and that without the first."""
    lengths, Q = eigh(S)
    is_there = lengths > 1e-10 * lengths[-1]
    Q = Q[:, is_there] / np.sqrt(lengths[is_there])
    values, C = eigh(Q.T @ T @ Q)
    x = Q @ C[:, 0]
    along = x.copy()
    along[0] = 0.0
    along /= np.sqrt(max(along @ S @ along, np.finfo(float).tiny))
    return float(values[0]), np.column_stack([x, along])


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
