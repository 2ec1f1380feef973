r"""Minima at kinks, where pieces of a piecewise smooth U meet and no gradient vanishes.

BFGS finds them, if its line search asks for the weak Wolfe conditions only (Lewis & Overton 2013,
doi:10.1007/s10107-012-0514-2). What proves one is a bundle of gradients taken within a ball of
radius r, in the norm of G, around theta: where a convex combination of them vanishes, no direction
leads down (Goldstein 1977, doi:10.1007/BF01584320). With the bundle's element of least norm

.. math::
    g_* = \arg\min \{ g^T G^{-1} g : g \in \mathrm{conv}(g_1, \ldots, g_m) \}

the step :math:`s = -r\, G^{-1} g_* / |g_*|` either lowers U by a share of :math:`r |g_*|`, and
is taken; or the gradient somewhere on the way does not agree, and is put to the bundle. So
:math:`|g_*|` falls until one of the two is settled, mostly after as many gradients as there are
kinks at theta (Mahdavi-Amiri & Yousefpour 2012, doi:10.1007/s10957-012-0024-7; sampling at random,
as Burke, Lewis & Overton 2005, doi:10.1137/030601296, takes some hundreds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg.blas import dsymv, dsyr2

Vector = np.ndarray
Objective = Callable[[Vector], tuple[float, Vector]]

RADIUS = 1e-3  # of the ball: it moves no label by more than this share of its model error
ARMIJO = 1e-4  # share of the slope's promise that a step has to keep
WOLFE = 0.9  # share of the slope that may be left after it
HALVINGS = 50  # of a step, before it is given up
SHARE = 0.1  # of what the least element promises
PATIENCE = 50  # BFGS steps between two looks at what they gain
GAIN = 1e3  # tolerances that they have to gain, or a bundle looks on
DENSE_PARAMS = 2000  # up to which BFGS holds its matrix
STORED_BYTES = 5e8  # of vectors held otherwise


class Inverse(Protocol):
    """An approximate inverse of the second derivatives of U, positive definite."""

    def dot(self, v: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Place:
    """A theta (param,) with U and one of its gradients (param,) there."""

    theta: Vector
    U: float
    gradient: Vector


@dataclass(frozen=True, eq=False, kw_only=True)
class KinkResult:
    """Where `minimize_at_kinks` ended.

    Attributes
    ----------
    place : Place
    decrement : float
        Nats of the bundle's least element, :math:`g_*^T G^{-1} g_* / 2`.
    n_pieces : int
        Gradients that it is combined from: 1 where there is no kink.
    steps : int
    is_stationary : bool
        Whether the decrement fell below the tolerance.
    """

    place: Place
    decrement: float
    n_pieces: int
    steps: int
    is_stationary: bool


def minimize_at_kinks(
    objective: Objective,
    find_inverse: Callable[[Vector], Inverse],
    theta: Vector,
    *,
    tolerance: float,
    max_steps: int,
    callback: Callable[[int, float, float], object] | None = None,
) -> KinkResult:
    """Minimise a piecewise smooth U by BFGS, until a bundle of gradients proves the minimum.

    Parameters
    ----------
    objective : callable
        U and its gradient (param,) at theta.
    find_inverse : callable
        The inverse of G at theta.
    theta : numpy.ndarray, shape (param,)
    tolerance : float
        Decrement of the least element at which to stop. The ball's radius is 1e-3, or the root of
        twice the tolerance where that is less.
    max_steps : int
        Of BFGS.
    callback : callable, optional
        Called with (step, U, decrement) before each step; the decrement is the last one known.
    """
    radius = min(RADIUS, np.sqrt(2 * tolerance))
    inverse = find_inverse(theta)
    search = Search(objective, Place(theta, *objective(theta)), inverse, callback)
    while True:
        before = search.place.U
        taken = search.run(min(PATIENCE, max_steps - search.steps))
        is_last = search.steps >= max_steps
        if taken == PATIENCE and before - search.place.U > GAIN * tolerance and not is_last:
            continue
        inverse = find_inverse(search.place.theta)
        bundle = Bundle(search.place, inverse)
        lower = bundle.settle(objective, radius, tolerance)
        search.decrement = bundle.decrement
        if lower is None or is_last:
            return KinkResult(
                place=search.place,
                decrement=bundle.decrement,
                n_pieces=bundle.n_pieces,
                steps=search.steps,
                is_stationary=bundle.decrement <= tolerance,
            )
        search.go_on_from(lower, None if taken == PATIENCE else inverse)


class Search:
    """BFGS with weak Wolfe steps, from a place with the inverse of G there as first metric.

    Attributes
    ----------
    place : Place
        Where it has come to.
    steps : int
        Taken so far.
    decrement : float
        What the callback is told.
    """

    def __init__(
        self,
        objective: Objective,
        place: Place,
        inverse: Inverse,
        callback: Callable[[int, float, float], object] | None,
    ):
        self._objective = objective
        self._callback = callback
        self._metric = build_metric(inverse, place.theta.size)
        self.place = place
        self.steps = 0
        self.decrement = 0.5 * float(place.gradient @ inverse.dot(place.gradient))

    def run(self, n_steps: int) -> int:
        """Take some steps, fewer where none leads down any more; return their number."""
        for i in range(n_steps):
            self._tell()
            direction = -self._metric.dot(self.place.gradient)
            new = find_weak_wolfe(self._objective, self.place, direction)
            if new is None:
                return i
            step = new.theta - self.place.theta
            self._metric.update(step, new.gradient - self.place.gradient)
            self.place = new
            self.steps += 1
        return n_steps

    def _tell(self) -> None:
        if self._callback is not None:
            self._callback(self.steps, self.place.U, self.decrement)

    def go_on_from(self, place: Place, inverse: Inverse | None) -> None:
        """Stand at another place; forget the metric if there is an inverse in its stead."""
        self._tell()
        self.place = place
        self.steps += 1
        if inverse is not None:
            self._metric = build_metric(inverse, place.theta.size)


def find_weak_wolfe(objective: Objective, place: Place, direction: Vector) -> Place | None:
    """A place along the direction where U is low and falls more slowly; None if none is lower."""
    slope = float(place.gradient @ direction)
    if not slope < 0:
        return None
    lower = None
    low = 0.0
    high = np.inf
    t = 1.0
    for _ in range(HALVINGS):
        new = Place(place.theta + t * direction, *objective(place.theta + t * direction))
        if not place.U + ARMIJO * t * slope >= new.U:
            high = t
        elif new.gradient @ direction < WOLFE * slope:
            low = t
            lower = new
        else:
            return new
        t = 2 * low if np.isinf(high) else 0.5 * (low + high)
    return lower


class DenseMetric:
    """The inverse BFGS matrix."""

    def __init__(self, inverse: Inverse, n_params: int):
        self._W = np.asfortranarray(inverse.dot(np.eye(n_params)))  # its upper triangle counts

    def dot(self, g: Vector) -> Vector:
        return dsymv(1.0, self._W, g)

    def update(self, s: Vector, y: Vector) -> None:
        """Learn that the gradient changes by y over the step s."""
        sy = float(s @ y)
        if sy > 0:
            Wy = self.dot(y)
            u = (0.5 * (1 + y @ Wy / sy) * s - Wy) / sy
            self._W = dsyr2(1.0, s, u, a=self._W, overwrite_a=True)


class LimitedMetric:
    """The same from the last steps (Nocedal 1980, doi:10.1090/S0025-5718-1980-0572855-7)."""

    def __init__(self, inverse: Inverse, n_params: int):
        n_pairs = int(np.clip(STORED_BYTES / (16 * n_params), 5, 200))
        self._inverse = inverse
        self._pairs: deque[tuple[Vector, Vector, float]] = deque(maxlen=n_pairs)

    def dot(self, g: Vector) -> Vector:
        q = g.copy()
        shares = []
        for s, y, sy in reversed(self._pairs):
            shares.append(float(s @ q) / sy)
            q -= shares[-1] * y
        q = self._inverse.dot(q)
        for (s, y, sy), share in zip(self._pairs, reversed(shares), strict=True):
            q += (share - float(y @ q) / sy) * s
        return q

    def update(self, s: Vector, y: Vector) -> None:
        """Learn that the gradient changes by y over the step s."""
        sy = float(s @ y)
        if sy > 0:
            self._pairs.append((s, y, sy))


def build_metric(inverse: Inverse, n_params: int) -> DenseMetric | LimitedMetric:
    """The metric that knows the inverse of G and no step yet."""
    kind = DenseMetric if n_params <= DENSE_PARAMS else LimitedMetric
    return kind(inverse, n_params)


class Bundle:
    """Gradients of the pieces that meet around a place, and their convex combination of least norm.

    Parameters
    ----------
    place : Place
    inverse : Inverse
        Of G.

    Attributes
    ----------
    decrement : float
        Of the least element, in nats.
    """

    def __init__(self, place: Place, inverse: Inverse):
        self._place = place
        self._inverse = inverse
        self._gradients: list[Vector] = []
        self._steps: list[Vector] = []  # G^-1 of each
        self._K = np.zeros((0, 0))
        self._weights = np.zeros(0)
        self._limit = int(np.clip(STORED_BYTES / (16 * place.theta.size), 5, 1000))
        self._add(place.gradient)

    @property
    def n_pieces(self) -> int:
        """Gradients that the least element is combined from."""
        return int(np.count_nonzero(self._weights))

    def settle(self, objective: Objective, radius: float, tolerance: float) -> Place | None:
        """A lower place in the ball, or None: the decrement is below the tolerance, or stays."""
        while self.decrement > tolerance and len(self._weights) < self._limit:
            norm = np.sqrt(2 * self.decrement)
            new, is_lower = self._look_along(objective, -radius / norm * self._step, radius * norm)
            if is_lower and new is not None:
                return self._go_on(objective, new)
            if new is None:
                return None
            self._add(new.gradient)
        return None

    def _go_on(self, objective: Objective, lower: Place) -> Place:
        """The lowest place in the same direction, at twice, four times, ... the distance."""
        step = lower.theta - self._place.theta
        while True:
            step = 2 * step
            theta = self._place.theta + step
            further = Place(theta, *objective(theta))
            if not further.U < lower.U:
                return lower
            lower = further

    def _look_along(
        self, objective: Objective, step: Vector, promise: float
    ) -> tuple[Place | None, bool]:
        """The step's end if it is lower by a share of the promise, or where it falls less."""
        low = 0.0
        high = t = 1.0
        rise = np.nan
        for _ in range(HALVINGS):
            theta = self._place.theta + t * step
            new = Place(theta, *objective(theta))
            excess = new.U - self._place.U + SHARE * t * promise
            if t == 1.0 and excess < 0:
                return new, True
            if new.gradient @ step > -0.5 * promise:
                return new, False
            if t == 1.0 or excess >= rise:
                high = t
                rise = excess
            else:
                low = t
            t = 0.5 * (low + high)
        return None, False

    def _add(self, gradient: Vector) -> None:
        step = self._inverse.dot(gradient)
        row = [float(step @ g) for g in [*self._gradients, gradient]]
        n = len(self._gradients)
        K = np.empty((n + 1, n + 1))
        K[:n, :n] = self._K
        K[n] = K[:, n] = row
        self._K = K
        self._gradients.append(gradient)
        self._steps.append(step)
        self._weights = find_least(K, np.append(self._weights, 0.0 if n else 1.0))
        self._step = self._combine(self._steps)
        self.decrement = 0.5 * float(self._combine(self._gradients) @ self._step)

    def _combine(self, vectors: list[Vector]) -> Vector:
        return sum(
            (w * v for w, v in zip(self._weights, vectors, strict=True) if w > 0),
            np.zeros_like(self._place.theta),
        )


def find_least(K: np.ndarray, weights: Vector) -> Vector:
    """Weights of the point of least norm in the convex hull of vectors with the products K.

    By Wolfe's method (1976, doi:10.1007/BF01580381) from the weights given, which sum to one.
    """
    for _ in range(10 * len(K)):
        slopes = K @ weights
        lowest = int(np.argmin(slopes))
        if weights[lowest] > 0 or slopes[lowest] >= (1 - 1e-6) * (weights @ slopes):
            break
        weights = _enter(K, weights, np.append(np.flatnonzero(weights), lowest))
    return weights


def _enter(K: np.ndarray, weights: Vector, corral: np.ndarray) -> Vector:
    """The least point of the corral's hull, with the last of it new; some may leave it."""
    now = weights[corral]
    while True:
        goal = _find_affine(K[np.ix_(corral, corral)])
        leaving = goal <= 0
        if not leaving.any():
            break
        shares = now[leaving] / np.maximum(now[leaving] - goal[leaving], np.finfo(float).tiny)
        now = now + shares.min() * (goal - now)
        now[np.flatnonzero(leaving)[np.argmin(shares)]] = 0.0
        corral = corral[now > 0]
        now = now[now > 0]
    found = np.zeros_like(weights)
    found[corral] = goal / goal.sum()
    return found


def _find_affine(K: np.ndarray) -> Vector:
    """Weights of any sign, of sum one, of the least norm."""
    n = len(K)
    bordered = np.ones((n + 1, n + 1))
    bordered[:n, :n] = K
    bordered[np.diag_indices(n)] += 1e-15 * np.trace(K)  # for vectors that depend on each other
    bordered[n, n] = 0.0
    return np.linalg.solve(bordered, np.append(np.zeros(n), 1.0))[:n]
