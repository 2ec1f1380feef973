"""Quadratic functions within a box."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

RIDGE = 1e-12  # of the trace, for columns that depend on each other
ARMIJO = 1e-4
MOST_STEPS = 200
SHORTEST = 1e-10  # step tried


def maximize_in_box(
    Q: np.ndarray, q: np.ndarray, low: np.ndarray, high: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Maximum x of q x - x Q x / 2 between two vectors, for Q (entry, entry) positive semidefinite.

    By Newton's steps of the entries that no bound holds, projected to the box (Bertsekas 1982,
    doi:10.1137/0320018).
    """
    Q = add_ridge(Q)
    x = np.clip(start, low, high)
    value = q @ x - 0.5 * x @ Q @ x
    for _ in range(MOST_STEPS):
        slopes = q - Q @ x
        free = ~((x <= low) & (slopes < 0) | (x >= high) & (slopes > 0))
        if not free.any():
            return x
        step = np.zeros_like(x)
        step[free] = cho_solve(cho_factor(Q[np.ix_(free, free)]), slopes[free])
        if slopes @ step <= 1e-14 * max(1.0, abs(value)):
            return x
        x, gain = _search(Q, slopes, x, step, low, high)
        value += gain
        if gain <= 1e-16 * abs(value):
            return x
    return x


def _search(
    Q: np.ndarray,
    slopes: np.ndarray,
    x: np.ndarray,
    step: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, float]:
    """A place along the step, projected to the box, and what it gains: x itself if nothing."""
    t = 1.0
    while t > SHORTEST:
        moved = np.clip(x + t * step, low, high)
        shift = moved - x
        gain = float(slopes @ shift - 0.5 * shift @ Q @ shift)
        if gain > 0 and gain >= ARMIJO * (slopes @ shift):
            return moved, gain
        t *= 0.5
    return x, 0.0


def add_ridge(Q: np.ndarray) -> np.ndarray:
    """Q (entry, entry) made positive definite."""
    return Q + RIDGE * np.trace(Q) / max(1, len(Q)) * np.eye(len(Q))
