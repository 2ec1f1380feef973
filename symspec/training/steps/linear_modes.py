"""Mode of a model that is linear in its weights, whose labels have any noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ARRIVED = 1e-16  # nats of decrement: weights within 1e-8 of their deviations
FALLS = 0.1  # factor by which a step lowers the decrement, until that is rounding
ROUNDED = 1e-6  # nats of decrement that may be rounding
MAX_DECREMENT = 1e-3  # nats by which U is off: a tenth of what the climb to the evidence looks for
MAX_STEPS = 50
SOLUTION = 1e-12  # squared residual of a step, relative: the next step brings the other digits
MAX_PRODUCTS = 500
ALIKE = 1e-6  # relative, of curvatures of the likelihood and those that A was built with
ROUNDING = 1e-12  # of U

Likelihood = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Coordinates:
    """Weights of the linear model by coordinates x, and what Newton's steps take of them.

    Where `precondition` is exact, it inverts A to rounding.
    """

    outputs: Callable[[np.ndarray], np.ndarray]  # J theta (star, label) of x
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]  # Lambda theta + J^T u of x and u
    dot: Callable[[np.ndarray, np.ndarray], float]  # of a slope and a step
    precondition: Callable[[np.ndarray], np.ndarray]  # A^-1 times a slope, a step
    is_exact: bool


@dataclass(frozen=True, eq=False)
class Mode:
    """The minimum of U.

    Attributes
    ----------
    x : numpy.ndarray
        Its coordinates.
    decrement : float
        What is left of it, in nats.
    is_whole : bool
        Whether U is a parabola that A^-1 solves: what is left is rounding, which is much where
        noise is next to nothing beside what the prior lets labels vary.
    """

    x: np.ndarray
    decrement: float
    is_whole: bool

    @property
    def is_minimum(self) -> bool:
        """Whether steps arrived."""
        return self.is_whole or self.decrement <= MAX_DECREMENT


def find_mode(
    space: Coordinates,
    likelihood: Likelihood,
    targets: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
) -> Mode:
    """Minimum of U, from A^-1 times `start`.

    By Newton's steps, or where U is not convex those of reweighted least squares, which lower it
    from anywhere.

    Parameters
    ----------
    space : Coordinates
    likelihood : callable
        L of outputs f (star, label), its gradient, and second derivatives of each star.
    targets : numpy.ndarray, shape (star, label)
    weights : numpy.ndarray, shape (star, label, label)
        Of the noise, in A.
    start : numpy.ndarray
        A slope.
    """
    x = space.precondition(start)
    decrement = np.inf
    is_whole = False
    for _ in range(MAX_STEPS):
        f = space.outputs(x)
        _, gradient, hessian = likelihood(f)
        slope = space.slope(x, gradient)
        last = decrement
        newton = space.precondition(slope)
        decrement = 0.5 * space.dot(slope, newton)
        is_whole = space.is_exact and np.allclose(hessian, weights, rtol=ALIKE, atol=0.0)
        if decrement <= ARRIVED or FALLS * last < decrement <= (np.inf if is_whole else ROUNDED):
            break
        if is_whole:
            x = x - newton
            continue
        step, is_convex = _solve(space, hessian, -slope)
        if not is_convex or _rises(space, likelihood, x, step):
            step, _ = _solve(space, _majorise(f - targets, gradient, hessian), -slope)
        x = x + step
    return Mode(x, decrement, is_whole)


def _rises(space: Coordinates, likelihood: Likelihood, x: np.ndarray, step: np.ndarray) -> bool:
    """Whether a step raises U."""

    def find_U(x: np.ndarray) -> float:
        f = space.outputs(x)
        L = float(likelihood(f)[0])
        return L + 0.5 * space.dot(space.slope(x, np.zeros_like(f)), x)

    here = find_U(x)
    return find_U(x + step) > here + ROUNDING * abs(here)


def _majorise(r: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Weights (star, label, label) of the parabolas above L that touch it at residuals r."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(r == 0, np.einsum("ncc->nc", hessian), gradient / r)
    return weights[:, :, None] * np.eye(r.shape[1])


def _solve(space: Coordinates, weights: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, bool]:
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
