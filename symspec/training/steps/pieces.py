"""Steps down U along its kinks, where these are known, by the models of `piece_models`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from symspec.training.steps.bundles import RADIUS, STORED_BYTES, Inverse, Objective, Place, Vector
from symspec.training.steps.piece_models import (
    FEW_KINKS,
    MOST_TRIALS,
    NOTHING_HELD,
    Held,
    Model,
    ModelStep,
    Ridge,
)
from symspec.training.steps.shared import SharedObjective

MOST_KINKS = 800  # of a model
KEPT = 0.25  # share of what the model promised, at which no more kinks are looked for
LED_BACK = 0.1  # the same of a step that was led back to the kinks
ACCEPTED = 1e-3  # at which a step is taken
DAMPING = 0.25  # of a step that is refused
MOST_DAMPINGS = 3  # before the model is built anew around the shares found
BEGIN_AGAIN = 4  # steps that do not lead down, before all is forgotten, and before the end
MOST_STUCK = 8
DAMPED_WELL = 1e-2  # the damping down to which Newton's steps are tried
NEWTON_SHARES = (1.0, 0.25, 0.06, 0.015, 0.004)  # of Newton's step beyond the model's
LEAST_RADIUS = 1e-9  # of Newton's steps


class PieceSteps:
    """Steps down U along its kinks, from a place on.

    Attributes
    ----------
    place : Place
    steps : int
    decrement : float
        Nats of the convex combination of gradients that the last model found.
    n_pieces : int
        How many kinks' gradients it combines, and one.
    """

    def __init__(
        self,
        objective: Objective,
        shared: SharedObjective,
        find_inverse: Callable[[Vector], Inverse],
        place: Place,
        callback: Callable[[int, float, float], object] | None = None,
    ):
        self._objective = objective
        self._shared = shared
        self._find_inverse = find_inverse
        self._callback = callback
        self._most_kinks = min(MOST_KINKS, int(STORED_BYTES / (32 * place.theta.size)))
        self._held = NOTHING_HELD
        self._damping = 1.0
        self._radius = 1.0
        self._turned = NOTHING_HELD
        self._gain = 0.0
        self.place = place
        self.steps = 0
        self.decrement = np.inf
        self.n_pieces = 1

    def run(self, tolerance: float, max_steps: int) -> bool:
        """Take steps; return whether the last place is proved a minimum.

        It is if the decrement is below the tolerance, by gradients of pieces within a ball of 1e-3
        or the root of twice the tolerance, and no step gains more.
        """
        radius = min(RADIUS, np.sqrt(2 * tolerance))
        n_stuck = 0
        while self.steps < max_steps:
            inverse = self._find_inverse(self.place.theta)
            left = max(10 * self._gain, tolerance)
            model = Model(self._shared, self.place, inverse, self._held, left)
            step, new = self._find_step(model)
            self.decrement = 0.5 * float(step.slope @ inverse.dot(step.slope))
            ridge = model.hold(step.x)
            self.n_pieces = 1 + len(ridge.held.kinks)
            new = self._go_along(ridge, step, new)
            self._gain = max(0.0, self.place.U - new.U)
            is_flat = self.decrement <= tolerance and model.is_proof(step.x, radius)
            if is_flat and self._gain <= tolerance:
                lower = self._descend(ridge, tolerance)
                if lower is None:
                    self.place = self._step_aside(ridge, tolerance)
                    return True
                new = lower
                self._gain = self.place.U - new.U
            n_stuck = 0 if self._gain > 0 else n_stuck + 1
            if n_stuck == MOST_STUCK:
                return False
            if n_stuck == BEGIN_AGAIN:
                self._held = NOTHING_HELD
                self._damping = 1.0
                self._radius = 1.0
            self._move(new)
        return False

    def _move(self, new: Place) -> None:
        if self._callback is not None:
            self._callback(self.steps, self.place.U, self.decrement)
        self.steps += 1
        self.place = new

    def _look(self, s: Vector) -> Place:
        """The place after a step; U is infinite where it cannot be computed."""
        theta = self.place.theta + s
        with np.errstate(over="ignore", invalid="ignore"):
            U, gradient = self._objective(theta)
        return Place(theta, U if np.isfinite(U) else np.inf, gradient)

    def _find_step(self, model: Model) -> tuple[ModelStep, Place]:
        """A step of the model and where it leads: lower by a share of the promise, if any is."""
        x = np.zeros(0)
        self._turned = NOTHING_HELD
        damping = self._damping
        for _ in range(MOST_TRIALS):
            step = model.minimize(self._damping, x)
            x = step.x
            new = self._look(step.s)
            if self._keeps(new, KEPT * step.promise):
                break
            if self._add_crossed(model, new):
                continue
            led_back = self._look(model.hold(x).lead_back(step.s))
            if self._keeps(led_back, LED_BACK * step.promise):
                new = led_back
                break
            if self._keeps(new, ACCEPTED * step.promise):
                break
            self._damping *= DAMPING
            if self._damping < DAMPING**MOST_DAMPINGS * damping:
                self._turned = self._find_turned(model, new)
                if len(self._turned.kinks):
                    self._damping = damping
                break
        return step, (new if new.U < self.place.U else self.place)

    def _find_turned(self, model: Model, new: Place) -> Held:
        """Kinks on the way to a place that bend U down as the shares are, but may not as they will.

        In a deep network the shares of one layer's kinks tell how those of another bend.
        """
        kinks = model.find_crossed(self._shared.arguments(new.theta), bends_up=False)
        return Held(kinks, np.full(len(kinks), 0.5))

    def _keeps(self, new: Place, gain: float) -> bool:
        return bool(gain <= self.place.U - new.U)

    def _add_crossed(self, model: Model, new: Place) -> bool:
        """Put kinks on the way to the model; shorter steps if there are very many."""
        if not np.isfinite(new.U) or len(model.kinks) >= self._most_kinks:
            return False
        crossed = model.find_crossed(self._shared.arguments(new.theta))
        n_known = len(model.kinks)
        if len(crossed) > 4 * FEW_KINKS + n_known:
            self._damping *= DAMPING
        model.add_nearest(crossed)
        return len(crossed) > 0

    def _go_along(self, ridge: Ridge, step: ModelStep, new: Place) -> Place:
        """On along the ridge by Newton's step, if that is lower, and hold to its kinks."""
        self._held = ridge.held.join(ridge.crossed).join(self._turned)
        is_damped = self._damping < DAMPED_WELL
        if self._keeps(new, 0.5 * step.promise):
            self._damping = min(1.0, 3 * self._damping)
        if is_damped or not new.U < self.place.U:
            return new
        s, held, is_at_edge = ridge.find_newton_step(step, self._radius)
        for t in NEWTON_SHARES:
            further = self._look(ridge.lead_back(step.s + t * (s - step.s)))
            if further.U < new.U:
                self._held = held.join(ridge.crossed)
                self._radius *= 4 if is_at_edge and t == 1 else t
                return further
        self._radius = max(0.01 * self._radius, LEAST_RADIUS)
        return new

    def _step_aside(self, ridge: Ridge, tolerance: float) -> Place:
        """A place beside the kinks held, on the side of each that has the larger share.

        On the kinks themselves rounding would choose the sides, and with them the Gauss-Newton
        matrix.
        """
        shares = ridge.held.shares
        if not len(shares):
            return self.place
        ends = np.where(shares > 0.5, 1.0, -1.0) * tolerance / len(shares)
        new = self._look(ridge.lead_back(np.zeros_like(self.place.theta), ends))
        return new if self.place.U + tolerance >= new.U else self.place

    def _descend(self, ridge: Ridge, tolerance: float) -> Place | None:
        """A place lower by more than the tolerance in a direction in which U curves down."""
        found = ridge.find_descent()
        if found is None:
            return None
        value, direction = found
        length = 1.0
        while -0.5 * value * length**2 > tolerance:
            for s in (length * direction, -length * direction):
                new = self._look(ridge.lead_back(s))
                if self._keeps(new, tolerance):
                    return new
            length *= 0.25
        return None
