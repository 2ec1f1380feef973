"""The climb to the hyperparameters where the evidence F is largest, past folds where it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEAST_SHARE = 1e-4  # of the gain promised that a step must bring
FULFILLED = 0.5  # from which share on the promise holds
SHORTER = 0.25  # a step that does not lead higher
HALF = 0.5  # the same where the curvature on the way is known
FIRST_RADIUS = 0.5
LARGEST_RADIUS = 0.6
JOINING_RADIUS = 0.25  # where entries join in, of which no step has told anything
MUCH = 10.0  # nats
FAR_ABOVE = 1.0  # nats: the climb would end beyond, after many evaluations on this side
BREAK = 3.0  # gains promised that F falls by only where another minimum was found
SMALL = 0.05  # share of a Newton step's gain: less leads no further up to such a place


@dataclass(frozen=True, eq=False, kw_only=True)
class Point:
    """What is known of F at one h.

    Attributes
    ----------
    h : numpy.ndarray, shape (entry,)
    F : float
        In nats.
    gradient : numpy.ndarray, shape (entry,)
        Of F.
    curvature : numpy.ndarray, shape (entry, entry)
        Approximately minus the second derivatives of F; positive definite.
    is_certain : bool
        Whether F is the evidence, perhaps roughly: its weights are at a minimum of U.
    is_rough : bool
        Whether it is roughly: large steps of the noise need no more.
    theta : numpy.ndarray, shape (param,)
        The weights.
    n_effective : mapping of str to float
        Effective number of parameters by factor of the prior.
    """

    h: np.ndarray
    F: float
    gradient: np.ndarray
    curvature: np.ndarray
    is_certain: bool
    theta: np.ndarray
    n_effective: Mapping[str, float]
    is_rough: bool = False

    def gain(self, free: np.ndarray) -> float:
        """Nats that a Newton step in some of the entries would gain."""
        slope = self.gradient[free]
        return 0.5 * float(slope @ np.linalg.solve(self.curvature[np.ix_(free, free)], slope))

    def is_above(self, other: Point, least: float = 0.0) -> bool:
        """Whether F is larger by more than `least`; an evidence is above whatever is none."""
        if self.is_certain != other.is_certain:
            return self.is_certain
        return bool(other.F + least < self.F)


class Evaluate(Protocol):
    """Searches the minimum of U at h (entry,), from weights theta (param,)."""

    def __call__(self, h: np.ndarray, theta: np.ndarray, is_near: bool = False) -> Point:
        """F there; where the minimum should be near, no long search is made, as for another."""
        ...


def climb(
    evaluate: Evaluate,
    start: Point,
    limits: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    leading: np.ndarray | None = None,
) -> tuple[Point, bool]:
    """Climb by quasi-Newton steps within |h| <= limits until a Newton step gains little.

    A step that does not lead higher, or to no minimum of U, is shortened: F may end at a fold,
    where the minimum that was followed disappears. There one step is tried to whatever minimum is
    beyond, which counts if it is higher.

    Parameters
    ----------
    evaluate : callable
        The `Point` at h (entry,), searched from the weights of another point.
    start : Point
    limits : numpy.ndarray, shape (entry,)
    tolerance : float
        Of the gain, in nats.
    max_evaluations : int
    leading : numpy.ndarray of bool, shape (entry,), optional
        Entries that move alone as long as they gain much and lead higher.

    Returns
    -------
    point : Point
        The highest.
    is_end : bool
        Whether F rises there but no step leads higher.
    """
    here = start
    B, radius = _begin(here)
    last_rise = np.inf
    distance = 0.0  # to where F breaks off, if a step went beyond
    alone = leaps = False
    for _ in range(max_evaluations):
        free = find_free(here, limits)
        gain = here.gain(free)
        if gain <= tolerance:
            return here, False
        joins = alone
        alone = leading is not None and moves_alone(here, leading, limits)
        if joins and not alone:
            radius = min(radius, JOINING_RADIUS)
        step, promised = _find_step(here, B, free & leading if alone else free, limits, radius)
        if promised <= tolerance or (distance > 0 and last_rise <= SMALL * gain):
            if not (alone or distance > 0):
                return here, False
            leaps = not alone
            leading = None
            distance = 0.0
            B, radius = _begin(here)
            continue
        here, there = _search(evaluate, here, step, promised, is_near=not (alone or leaps))
        size = float(np.abs(step).max())
        if there.is_above(here, LEAST_SHARE * promised):
            B = _update(B, step, here.gradient - there.gradient)
            distance -= size
            last_rise = there.F - here.F
            radius = size if distance > 0 else _lengthen(radius, size, last_rise / promised)
            here = there
            leaps = False
        elif leaps:
            return here, True
        elif alone:
            leading = None
        else:
            breaks = not there.is_certain or BREAK * promised < here.F - there.F
            distance = size if breaks or distance > 0 else 0.0
            B, radius = _learn(B, step, size, here, there)
            last_rise = np.inf
    return here, False


def moves_alone(here: Point, leading: np.ndarray, limits: np.ndarray) -> bool:
    """Whether the leading entries are to move before the others: they would gain much."""
    return here.gain(find_free(here, limits) & leading) > MUCH


def find_free(here: Point, limits: np.ndarray) -> np.ndarray:
    """Entries (entry,) that are not held at their limit by the gradient."""
    return (np.abs(here.h) < limits - 1e-9) | (here.h * here.gradient < 0)


def _begin(here: Point) -> tuple[np.ndarray, float]:
    """Matrix (entry, entry) and radius of the first quasi-Newton step: no entry goes beyond 1."""
    diagonal = np.diag(here.curvature)
    B = here.curvature + np.diag(np.maximum(np.abs(here.gradient) - diagonal, 0.0))
    return B, FIRST_RADIUS


def _find_step(
    here: Point, B: np.ndarray, free: np.ndarray, limits: np.ndarray, radius: float
) -> tuple[np.ndarray, float]:
    """Newton step (entry,) of the free entries, and its gain as promised.

    None is longer than `radius`. Entries that would go beyond their limit go to it, and the others
    follow from there; where that gains nothing, they stay.
    """
    step = np.zeros_like(here.h)
    moves = free.copy()
    while moves.any():
        slope = here.gradient[moves] - B[np.ix_(moves, ~moves)] @ step[~moves]
        newton = np.linalg.solve(B[np.ix_(moves, moves)], slope)
        step[moves] = newton * (radius / max(radius, np.abs(newton).max()))
        beyond = moves & (np.abs(here.h + step) > limits)
        if not beyond.any():
            break
        step[beyond] = (np.clip(here.h + step, -limits, limits) - here.h)[beyond]
        moves &= ~beyond
    promised = float(here.gradient @ step - 0.5 * step @ B @ step)
    stay = free & ~moves
    if promised <= 0 and stay.any():
        return _find_step(here, B, free & ~stay, limits, radius)
    return step, promised


def _search(
    evaluate: Evaluate, here: Point, step: np.ndarray, promised: float, *, is_near: bool
) -> tuple[Point, Point]:
    """F here and after the step; the search goes on where it was given up far above.

    Before a step is refused, F here is found exactly: roughly it may be too large, or the way down
    to a minimum be long.
    """
    there = evaluate(here.h + step, here.theta, is_near)
    if not (there.is_certain or there.F < here.F + FAR_ABOVE):
        there = evaluate(there.h, there.theta)
    if here.is_rough and not (there.is_rough or there.is_above(here, LEAST_SHARE * promised)):
        here = evaluate(here.h, here.theta)
    return here, there


def _lengthen(radius: float, size: float, share: float) -> float:
    """Radius after a step that led higher: the largest where it gained about what was promised."""
    if share > FULFILLED:
        return LARGEST_RADIUS
    return min(max(radius, 2 * size), LARGEST_RADIUS)


def _learn(
    B: np.ndarray, step: np.ndarray, size: float, here: Point, there: Point
) -> tuple[np.ndarray, float]:
    """Matrix and radius after a step that did not lead higher; an evidence tells its curvature."""
    if not there.is_certain:
        return B, SHORTER * size
    return _update(B, step, here.gradient - there.gradient), HALF * size


def _update(B: np.ndarray, step: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """Damped BFGS update of B, for the `fall` of the gradient over a step: positive definite.

    Nocedal & Wright 2006, Procedure 18.2.
    """
    Bs = B @ step
    curvature = float(step @ Bs)
    if step @ fall < 0.2 * curvature:
        share = 0.8 * curvature / (curvature - float(step @ fall))
        fall = share * fall + (1 - share) * Bs
    return B + np.outer(fall, fall) / float(step @ fall) - np.outer(Bs, Bs) / curvature
