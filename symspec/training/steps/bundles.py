r"""Gradients that meet at a kink of U, and the combination of them that proves a minimum.

Where pieces of a piecewise smooth U meet, no gradient vanishes. Gradients are taken
within a ball of radius r, in the norm of A, around theta: where a convex combination of them
vanishes, no direction leads down (Goldstein 1977, doi:10.1007/BF01584320). With the bundle's
element of least norm

.. math::
    g_* = \arg\min \{ g^T A^{-1} g : g \in \mathrm{conv}(g_1, \ldots, g_m) \}

the step :math:`s = -r\, A^{-1} g_* / |g_*|` either lowers U by a share of :math:`r |g_*|`, and is
taken; or the gradient somewhere on the way does not agree, and is put to the bundle. So
:math:`|g_*|` falls until one of the two is settled, mostly after as many gradients as there are
kinks at theta (Mahdavi-Amiri & Yousefpour 2012, doi:10.1007/s10957-012-0024-7; sampling at random,
as Burke, Lewis & Overton 2005, doi:10.1137/030601296, takes some hundreds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Vector = np.ndarray
Objective = Callable[[Vector], tuple[float, Vector]]
RADIUS = 1e-3  # of the ball: it moves no label by more than this share of its model error
HALVINGS = 50  # of a step, before it is given up
SHARE = 0.1  # of what the least element promises
STORED_BYTES = 5e8  # of vectors held
MOST_GRADIENTS = 1000


class Inverse(Protocol):
    """An approximate inverse of the second derivatives of U, positive definite."""

    def dot(self, v: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Place:
    """A theta (param,) with U and one of its gradients (param,) there."""

    theta: Vector
    U: float
    gradient: Vector


class Bundle:
    """Gradients of the pieces that meet around a place, and their convex combination of least norm.

    Parameters
    ----------
    place : Place
    inverse : Inverse
        Of G.
    most : int
        Gradients that it may take.

    Attributes
    ----------
    least : numpy.ndarray, shape (param,)
        The convex combination of least norm.
    decrement : float
        Its own, in nats.
    """

    def __init__(self, place: Place, inverse: Inverse, most: int = MOST_GRADIENTS):
        self._place = place
        self._inverse = inverse
        self._gradients: list[Vector] = []
        self._steps: list[Vector] = []  # G^-1 of each
        self._K = np.zeros((0, 0))
        self._weights = np.zeros(0)
        self._limit = int(np.clip(STORED_BYTES / (24 * place.theta.size), 5, most))
        self._add(place)

    @property
    def n_pieces(self) -> int:
        """Gradients that the least element is combined from."""
        return int(np.count_nonzero(self._weights))

    @property
    def n_gradients(self) -> int:
        """Gradients that it has taken."""
        return len(self._gradients)

    def settle(
        self, objective: Objective, radius: float, tolerance: float, max_calls: float = np.inf
    ) -> Place | None:
        """A lower place in the ball, or None: the decrement is below the tolerance, or stays.

        It stays where the limits are reached of gradients, or of calls of the objective.
        """
        self._calls_left = max_calls
        while self.decrement > tolerance and len(self._weights) < self._limit:
            norm = np.sqrt(2 * self.decrement)
            new, is_lower = self._look_along(objective, -radius / norm * self._step, radius * norm)
            if is_lower or new is None:
                return new
            self._add(new)
        return None

    def _look_along(
        self, objective: Objective, step: Vector, promise: float
    ) -> tuple[Place | None, bool]:
        """The step's end if it is lower by a share of the promise, or where it falls less."""
        low = 0.0
        high = t = 1.0
        rise = np.nan
        for _ in range(int(min(HALVINGS, self._calls_left))):
            self._calls_left -= 1
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

    def _add(self, place: Place) -> None:
        """Take the gradient of a place."""
        step = self._inverse.dot(place.gradient)
        self._gradients.append(place.gradient)
        row = [float(step @ g) for g in self._gradients]
        n = len(self._weights)
        K = np.empty((n + 1, n + 1))
        K[:n, :n] = self._K
        K[n] = K[:, n] = row
        self._K = K
        self._steps.append(step)
        self._weights = np.append(self._weights, 0.0 if n else 1.0)
        self._combine_least()

    def _combine_least(self) -> None:
        self._weights = find_least(self._K, self._weights)
        self._step = self._combine(self._steps)
        self.least = self._combine(self._gradients)
        self.decrement = 0.5 * float(self.least @ self._step)

    def _combine(self, vectors: list[Vector]) -> Vector:
        return sum(
            (w * v for w, v in zip(self._weights, vectors, strict=True) if w > 0),
            np.zeros_like(self._place.theta),
        )


def find_least(K: np.ndarray, weights: Vector) -> Vector:
    """Weights of the point of least norm in the convex hull of vectors with the products K.

    By Wolfe's method (1976, doi:10.1007/BF01580381) from the weights given, which sum to one.
    """
    weights = _enter(K, weights, np.flatnonzero(weights))
    for _ in range(10 * len(K)):
        slopes = K @ weights
        lowest = int(np.argmin(slopes))
        if weights[lowest] > 0 or slopes[lowest] >= (1 - 1e-6) * (weights @ slopes):
            break
        weights = _enter(K, weights, np.append(np.flatnonzero(weights), lowest))
    return weights


def _enter(K: np.ndarray, weights: Vector, corral: np.ndarray) -> Vector:
    """The least point of the corral's hull; some may leave it."""
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
