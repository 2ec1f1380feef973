"""Minima at kinks, where pieces of a piecewise smooth U meet and no gradient vanishes.

BFGS finds them, if its line search asks for the weak Wolfe conditions only (Lewis & Overton 2013,
doi:10.1007/s10107-012-0514-2). What proves one is a bundle of gradients around it, see
`symspec.training.steps.bundles`. BFGS forgets what it learned far away, at turns twice as long each
time. Where it learns little from step to step, steps along the kinks lead on and prove the end, if
these are known (`symspec.training.steps.pieces`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg.blas import dsymv, dsyr2

from symspec.training.steps.bundles import (
    HALVINGS,
    RADIUS,
    STORED_BYTES,
    Bundle,
    Inverse,
    Objective,
    Place,
    Vector,
)
from symspec.training.steps.pieces import PieceSteps
from symspec.training.steps.shared import SharedObjective

ARMIJO = 1e-4  # share of the slope's promise that a step has to keep
WOLFE = 0.9  # share of the slope that may be left after it
PATIENCE = 50  # BFGS steps between two looks at what they gain, or as many as one took gradients
GAIN = 1e3  # tolerances that they have to gain, or a bundle looks on
SLOW = 0.1  # nats that they have to gain, or steps along kinks lead on
TURN = 50  # BFGS steps before it starts again from the inverse of G; the next turn is twice as long
MOST_ALONE = 4000  # BFGS steps before these
PIECE_STEPS = 1000  # along kinks before BFGS tries again
DENSE_PARAMS = 2000  # up to which BFGS holds its matrix


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
    shared: SharedObjective | None = None,
    callback: Callable[[int, float, float], object] | None = None,
) -> KinkResult:
    """Minimise a piecewise smooth U by BFGS, until a bundle of gradients proves the minimum.

    Where the kinks are known, steps along them take the place of the bundle.

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
        Of BFGS and along kinks.
    shared : SharedObjective, optional
        U where the kinks are known.
    callback : callable, optional
        Called with (step, U, decrement) before each step; the decrement is the last one known.
    """
    radius = min(RADIUS, np.sqrt(2 * tolerance))
    search = Search(objective, Place(theta, *objective(theta)), find_inverse(theta), callback)
    turn = TURN
    end_of_turn = TURN
    patience = PATIENCE
    while True:
        before = search.place.U
        taken = search.run(min(patience, max_steps - search.steps))
        gain = before - search.place.U
        is_stuck = taken < patience
        is_last = search.steps >= max_steps
        least = GAIN * tolerance if shared is None else max(SLOW, GAIN * tolerance)
        is_long = shared is not None and search.steps >= MOST_ALONE
        learns_little = is_stuck or is_long or gain <= least
        if shared is not None and learns_little and not is_last:
            found = _go_along_kinks(search, shared, find_inverse, tolerance, max_steps)
            if found.is_stationary:
                return found
            is_stuck = True
            if before - search.place.U <= tolerance:  # nothing leads on there: a bundle may
                shared = None
        elif is_last or learns_little:
            bundle = Bundle(search.place, find_inverse(search.place.theta))
            lower = bundle.settle(objective, radius, tolerance)
            search.decrement = bundle.decrement
            # where BFGS still gains, the ball reaches over kinks that lie beside the place
            if is_last or (lower is None and (is_stuck or gain <= tolerance)):
                return _describe(search, bundle, tolerance)
            patience = max(PATIENCE, bundle.n_gradients)
            if lower is not None:
                search.go_to(go_on(objective, search.place, lower))
        if is_stuck or search.steps >= end_of_turn:
            search.renew(find_inverse(search.place.theta))
            turn *= 2
            end_of_turn = search.steps + turn


def _go_along_kinks(
    search: Search,
    shared: SharedObjective,
    find_inverse: Callable[[Vector], Inverse],
    tolerance: float,
    max_steps: int,
) -> KinkResult:
    """Move the search along kinks, to the end if it can be proved one."""
    along = PieceSteps(
        search.objective, shared, find_inverse, search.place, callback=search.tell_after
    )
    is_proved = along.run(tolerance, min(PIECE_STEPS, max_steps - search.steps))
    search.place = along.place
    search.steps += along.steps
    search.decrement = along.decrement
    return KinkResult(
        place=along.place,
        decrement=along.decrement,
        n_pieces=along.n_pieces,
        steps=search.steps,
        is_stationary=is_proved,
    )


def _describe(search: Search, bundle: Bundle, tolerance: float) -> KinkResult:
    return KinkResult(
        place=search.place,
        decrement=bundle.decrement,
        n_pieces=bundle.n_pieces,
        steps=search.steps,
        is_stationary=bundle.decrement <= tolerance,
    )


def go_on(objective: Objective, place: Place, lower: Place) -> Place:
    """The lowest place from `place` through a lower one, at twice, four times, ... its distance."""
    step = lower.theta - place.theta
    while True:
        step = 2 * step
        theta = place.theta + step
        further = Place(theta, *objective(theta))
        if not further.U < lower.U:
            return lower
        lower = further


class Search:
    """BFGS with weak Wolfe steps, from a place with the inverse of G there as first metric.

    `find_metric` makes the metric; by default it is a matrix where one fits, which thousands of
    steps are worth.

    Attributes
    ----------
    objective : callable
        U and its gradient (param,) at theta.
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
        find_metric: FindMetric | None = None,
    ):
        self.objective = objective
        self._callback = callback
        self._find_metric = find_metric or choose_metric(place.theta.size)
        self._metric = self._find_metric(inverse, place.theta.size)
        self.place = place
        self.steps = 0
        self.decrement = 0.5 * float(place.gradient @ inverse.dot(place.gradient))

    def run(self, n_steps: int) -> int:
        """Take some steps, fewer where none leads down any more; return their number."""
        for i in range(n_steps):
            self._tell()
            direction = -self._metric.dot(self.place.gradient)
            new = find_weak_wolfe(self.objective, self.place, direction)
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

    def tell_after(self, step: int, U: float, decrement: float) -> None:
        """Tell of steps that others take from here."""
        if self._callback is not None:
            self._callback(self.steps + step, U, decrement)

    def go_to(self, place: Place) -> None:
        """Stand at another place."""
        self._tell()
        self.place = place
        self.steps += 1

    def renew(self, inverse: Inverse) -> None:
        """Forget what the steps have told, for the inverse of G."""
        self._metric = self._find_metric(inverse, self.place.theta.size)


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


FindMetric = type[DenseMetric] | type[LimitedMetric]


def choose_metric(n_params: int) -> FindMetric:
    """How the metric of thousands of steps is kept."""
    return DenseMetric if n_params <= DENSE_PARAMS else LimitedMetric
