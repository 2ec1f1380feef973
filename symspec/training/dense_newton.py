r"""Newton steps of small networks, with the exact Hessian as a matrix.

In the coordinates :math:`u = L^T s` of the Gauss-Newton matrix :math:`G = L L^T`, the pencil (H, G)
is :math:`\tilde H = L^{-1} H L^{-T}`, whose eigenvalues are 1 where the residuals do not matter and
negative where U curves down. Each step is the exact minimum of the quadratic model within a ball
(More & Sorensen 1983, doi:10.1137/0904038), so that it leaves saddle points along their directions
of descent. In the norm of G alone the ball would be small far from a minimum, where residuals curve
U more than G does; so there is one of absolute curvature, too, as in saddle-free Newton (Dauphin
et al. 2014, arXiv:1406.2572).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.optimize import brentq

from symspec.derivatives.curvature import has_elementwise_layers
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.network import Network

Vector = np.ndarray
DENSE_PARAMS = 500  # an eigendecomposition a step: with 900 it takes five times as long as products
DESCENDING = 1e-8  # relative eigenvalue below which minus it is followed, above rounding's 1e-12


def is_small(net: Network) -> bool:
    """Whether its Hessian is worth having as a matrix: few parameters, and a closed form."""
    return net.n_params <= DENSE_PARAMS and has_elementwise_layers(net)


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
        if self.values[0] < -DESCENDING:
            return np.inf
        return 0.5 * float(np.sum(self._slopes**2 / np.maximum(self.values, DESCENDING)))

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
