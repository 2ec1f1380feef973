"""The proof that a place where kinks meet is a minimum, from the kinks within a small ball."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.training.steps.bundles import STORED_BYTES, Inverse, Place, Vector
from symspec.training.steps.piece_models import MOST_TRIALS, NOTHING_HELD, Model, ModelStep, Ridge
from symspec.training.steps.shared import SharedObjective
from symspec.training.steps.stationary_points import LowestCurvature, find_lowest_curvature

MOST_ROUNDS = 20  # as shares of one layer's kinks tell how those of another bend
ROUND_GAIN = 0.5  # of the decrement, from round to round


@dataclass(frozen=True, eq=False)
class KinkProof:
    """Gradients of the pieces that meet around a place combine to almost nothing.

    Attributes
    ----------
    slope : numpy.ndarray, shape (param,)
        Their convex combination of least norm.
    ridge : Ridge
        Where these kinks meet.
    """

    slope: Vector
    ridge: Ridge

    @property
    def n_pieces(self) -> int:
        """How many kinks' gradients it combines, and one."""
        return 1 + len(self.ridge.held.kinks)

    def find_lowest_curvature(self, n_products: int) -> LowestCurvature:
        """Of U along the ridge, where it is smooth."""
        n = len(self.slope)
        along = LinearOperator((n, n), matvec=self.ridge.project, dtype=np.float64)
        n_held = len(self.ridge.held.kinks)
        return find_lowest_curvature(self.ridge.multiply, along, n_products, n_held)


def find_kink_proof(
    shared: SharedObjective, place: Place, inverse: Inverse, radius: float, tolerance: float
) -> KinkProof | None:
    """The proof, if the decrement is at most `tolerance` and the kinks lie within a ball.

    Each round builds the model around the shares that the one before has found.

    Parameters
    ----------
    shared : SharedObjective
    place : Place
    inverse : Inverse
        Of A.
    radius : float
        Of the ball, in the norm of A.
    tolerance : float
        In nats.
    """
    held = NOTHING_HELD
    least = np.inf
    for _ in range(MOST_ROUNDS):
        model = Model(shared, place, inverse, held, tolerance)
        step = _find_shares(model, radius)
        decrement = 0.5 * float(step.slope @ inverse.dot(step.slope))
        if decrement > ROUND_GAIN * least:
            break
        least = decrement
        ridge = model.hold(step.x)
        proof = KinkProof(step.slope, ridge) if model.is_proof(step.x, radius) else None
        held = ridge.held.join(ridge.crossed)
    return proof if least <= tolerance else None


def _find_shares(model: Model, radius: float) -> ModelStep:
    """The model's step once all kinks that it meets within the ball have entered."""
    place = model.place
    most_kinks = int(STORED_BYTES / (32 * place.theta.size))
    x = np.zeros(0)
    for _ in range(MOST_TRIALS):
        step = model.minimize(1.0, x)
        x = step.x
        length = np.sqrt(max(step.slope @ model.inverse.dot(step.slope), 1e-300))
        s = min(1.0, radius / length) * step.s
        crossed = model.find_crossed(model.shared.arguments(place.theta + s))
        if not len(crossed) or len(model.kinks) >= most_kinks:
            break
        model.add_nearest(crossed)
    return step
