"""Trust-region Newton steps to a minimum, by the exact Hessian, and on along kinks.

Small networks have it as a matrix, the others its products, see `newton_models`. Networks of ReLU,
clipped or max-pooled units often are at their best on kinks, where Newton steps end: `kinks` goes
on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.training.steps.bundles import Objective, Place
from symspec.training.steps.kinks import KinkResult, minimize_at_kinks
from symspec.training.steps.newton_models import FindModel
from symspec.training.steps.shared import find_shared_objective
from symspec.training.steps.stationary_points import Vector

Callback = Callable[[int, float, float], object]
ARRIVED = "the decrement is below the tolerance"
STUCK = "no step lowers U"
TOO_LONG = "the iterations allowed are over"
AT_KINK = "at a kink: gradients of the pieces that meet there combine to one below the tolerance"
STUCK_AT_KINK = "no step lowers U, at a kink that is not proved a minimum"
ACCEPTED = 1e-4  # share of what the model promised that a step has to keep
STUCK_RADIUS = 1e-10  # radius, in lengths of a whole Newton step, at which smooth networks end
KINKED_RADIUS = 0.3  # that at which the others leave for BFGS, which takes kinks in its stride
NEWTON_TURN = 100  # of Newton's iterations, among kinks
STEPS_AT_KINKS = 10  # of BFGS, of one gradient each, that stand for an iteration of Newton's


@dataclass(frozen=True, kw_only=True)
class PolishResult:
    """Result of `polish`.

    Attributes
    ----------
    theta : numpy.ndarray, shape (param,)
    negative_log_posterior : float
        U in nats at `theta`.
    newton_decrement : float
        Nats that a Gauss-Newton step from `theta` would still gain. At a kink, where no gradient
        vanishes, it is the least :math:`g^T G^{-1} g / 2` among convex combinations of the
        gradients within a ball that moves no label by more than 1e-3 of its model error.
    iterations : int
        Steps, of L-BFGS, of Newton's, of BFGS, and along kinks.
    converged : bool
        Whether the decrement fell below the tolerance, and no direction of descent was left.
    reason : str
        Why it stopped.
    at_kink : bool
        Whether pieces of U meet at `theta`, and the decrement is that of a combination.
    """

    theta: np.ndarray
    negative_log_posterior: float
    newton_decrement: float
    iterations: int
    converged: bool
    reason: str
    at_kink: bool = False


def minimize_by_newton(
    objective: Objective,
    find_model: FindModel,
    builder: InverseBuilder,
    theta: Vector,
    *,
    tolerance: float,
    max_iterations: int,
    callback: Callback | None = None,
    callback_at_kinks: Callback | None = None,
) -> tuple[PolishResult, InverseHessian]:
    """Minimise U, given as functions; return the result and the inverse Hessian there.

    Parameters
    ----------
    objective : callable
        U and its gradient (param,) at theta.
    find_model : callable
        The `Model` of U around (builder, theta, gradient).
    builder : InverseBuilder
        Builds the inverse of G.
    theta : numpy.ndarray, shape (param,)
    tolerance, max_iterations, callback
        As for `polish`.
    callback_at_kinks : callable, optional
        Called in place of `callback` where the steps are those of BFGS.
    """
    if builder.reg.net.is_smooth:
        steps = _NewtonSteps(objective, find_model, builder, theta)
        reason = steps.run(tolerance, max_iterations, callback)
        return steps.result(reason), steps.model.inverse
    return _minimize_by_turns(
        objective,
        find_model,
        builder,
        theta,
        tolerance=tolerance,
        max_iterations=max_iterations,
        callback=callback,
        callback_at_kinks=callback_at_kinks or callback,
    )


def _minimize_by_turns(
    objective: Objective,
    find_model: FindModel,
    builder: InverseBuilder,
    theta: Vector,
    *,
    tolerance: float,
    max_iterations: int,
    callback: Callback | None,
    callback_at_kinks: Callback | None,
) -> tuple[PolishResult, InverseHessian]:
    """Newton's steps while they are long, then BFGS; Newton's again where it found no kink."""
    done = 0
    budget = max_iterations
    shared = find_shared_objective(builder)
    while True:
        newton = _NewtonSteps(objective, find_model, builder, theta, done)
        reason = newton.run(tolerance, min(-(-budget // 4), NEWTON_TURN), callback, KINKED_RADIUS)
        budget -= newton.iteration - done
        done = newton.iteration
        if reason == ARRIVED or budget <= 0:
            return newton.result(reason), newton.model.inverse
        found = minimize_at_kinks(
            objective,
            lambda theta: builder.build(theta).cheap(),
            newton.place.theta,
            tolerance=tolerance,
            max_steps=STEPS_AT_KINKS * budget,
            shared=shared,
            callback=count_from(done, callback_at_kinks, is_told=True),
        )
        done += found.steps
        budget -= -(-found.steps // STEPS_AT_KINKS)
        theta = found.place.theta
        if found.n_pieces > 1 or not found.is_stationary:
            if callback_at_kinks is not None:
                callback_at_kinks(done, found.place.U, found.decrement)
            return _describe(found, done, is_over=budget <= 0), builder.build(theta)


def count_from(done: int, callback: Callback | None, *, is_told: bool = False) -> Callback | None:
    """Called with further steps; the first may have been told already."""
    if callback is None:
        return None
    first = 1 if is_told else 0
    return lambda step, U, decrement: callback(done + step, U, decrement) if step >= first else None


def _describe(found: KinkResult, iterations: int, *, is_over: bool) -> PolishResult:
    stuck = TOO_LONG if is_over else STUCK_AT_KINK
    return PolishResult(
        theta=found.place.theta,
        negative_log_posterior=found.place.U,
        newton_decrement=found.decrement,
        iterations=iterations,
        converged=found.is_stationary,
        reason=AT_KINK if found.is_stationary else stuck,
        at_kink=found.n_pieces > 1,
    )


class _NewtonSteps:
    """Trust-region Newton, from one theta on.

    Attributes
    ----------
    place, model
        Where it stands, and the model of U around.
    iteration : int
        Steps tried, from `done` on.
    """

    def __init__(
        self,
        objective: Objective,
        find_model: FindModel,
        builder: InverseBuilder,
        theta: Vector,
        done: int = 0,
    ):
        self._objective = objective
        self.place = Place(theta, *objective(theta))
        self.model = find_model(builder, theta, self.place.gradient)
        self.iteration = done
        # a saddle may have no gradient at all
        radius = max(1.0, np.sqrt(2 * self.model.decrement))
        self._radii = [radius] * self.model.n_balls
        self._n_terms = float(np.count_nonzero(builder.observed))

    def run(
        self,
        tolerance: float,
        n_iterations: int,
        callback: Callback | None,
        least_radius: float = STUCK_RADIUS,
    ) -> str:
        """Take steps until there is a reason to stop, which is returned."""
        last = self.iteration + n_iterations
        while True:
            may_end = self._is_stuck(tolerance, least_radius) or self.iteration == last
            if (may_end or self.model.decrement <= tolerance) and not self.model.is_fresh:
                self.model = self.model.refresh()
            if callback is not None:
                callback(self.iteration, self.place.U, self.model.decrement)
            if self.model.decrement <= tolerance and self.model.gain <= tolerance:
                return ARRIVED
            if self._is_stuck(tolerance, least_radius):
                return STUCK
            if self.iteration == last:
                return TOO_LONG
            self._try_step()
            self.iteration += 1

    def _is_stuck(self, tolerance: float, least_radius: float) -> bool:
        is_at_saddle = self.model.decrement <= tolerance
        length = 1.0 if is_at_saddle else np.sqrt(2 * self.model.decrement)
        return bool(max(self._radii) <= least_radius * length)

    def _try_step(self) -> None:
        """Move by the best of a step in each of the model's balls, if it lowers U."""
        trials = [self._try_ball(ball) for ball in range(self.model.n_balls)]
        best = min(trials, key=lambda trial: trial.place.U if trial.ratio > ACCEPTED else np.inf)
        # U sums one term a label and more; what it comes to depends on the labels' units
        rounding = 1e-12 * max(abs(self.place.U), self._n_terms)
        rise = best.place.U - self.place.U
        is_lost_in_rounding = best.predicted <= rounding and rise <= rounding
        if best.ratio > ACCEPTED or is_lost_in_rounding:
            self.place = best.place
            self.model = self.model.move(self.place.theta, self.place.gradient)

    def _try_ball(self, ball: int) -> _Trial:
        """Its step; where steps are cheap, longer ones while they lower U more."""
        best = self._try(ball)
        while self.model.has_cheap_steps and best.is_at_edge and self._radii[ball] > best.norm:
            longer = self._try(ball)
            if longer.ratio <= ACCEPTED or longer.place.U >= best.place.U:
                self._radii[ball] = best.norm
                break
            best = longer
        return best

    def _try(self, ball: int) -> _Trial:
        radius = self._radii[ball]
        step, predicted, norm = self.model.step(radius, ball)
        theta = self.place.theta + step
        place = Place(theta, *self._objective(theta))
        gained = self.place.U - place.U
        ratio = gained / predicted if np.isfinite(place.U) else -1.0
        trial = _Trial(place, predicted, norm, ratio, norm > 0.99 * radius)
        self._radii[ball] = _next_radius(radius, trial)
        return trial

    def result(self, reason: str) -> PolishResult:
        return PolishResult(
            theta=self.place.theta,
            negative_log_posterior=self.place.U,
            newton_decrement=self.model.decrement,
            iterations=self.iteration,
            converged=reason == ARRIVED,
            reason=reason,
        )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A step's end, what the model said of it, its length, and the share of it that came true."""

    place: Place
    predicted: float
    norm: float
    ratio: float
    is_at_edge: bool


def _next_radius(radius: float, trial: _Trial) -> float:
    if trial.ratio < 0.25:
        return 0.25 * trial.norm
    return max(radius, 2.5 * trial.norm) if trial.ratio > 0.75 else radius
