"""The largest evidence F: by its gradient, at weights that move with it, in turn, or stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize as scipy_minimize

from symspec.derivatives.span import Span
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.safety.options import check_rng
from symspec.training.climb import SHORTER, Evaluate, Point, climb, moves_alone
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.linearized import linearize
from symspec.training.marginal_likelihood import (
    DENSE_PARAMS,
    Evidence,
    EvidenceFunction,
    MarginalLikelihood,
)
from symspec.training.steps.newton_models import is_small

STEPS_AT_FIXED_WEIGHTS = 30
STRONGER = np.log(10)  # rise of the prior's log precisions where no minimum was reached
START_SEED = 0  # of the weights of further starts, where no `rng` is given
DOWNHILL_STEPS = 500  # of L-BFGS from weights that were drawn
FAR = np.log(10)  # between first priors, and from one to where it ended, in logs
NEARER = (1 / 2, 3 / 4)  # of the way from the one to the other, where climbs begin, too
FEW_ROWS = 1000  # labels of stars, of which F costs a fraction of a second

Follow = Callable[[np.ndarray, Evidence], None]  # called with h (entry,) and what holds there
Summit = tuple[Point, bool]  # of `climb`


def find_starts(
    start: MarginalLikelihood,
    span: Span,
    weights: np.ndarray,
    n_starts: int,
    rng: np.random.Generator | None,
) -> Iterator[tuple[MarginalLikelihood, np.ndarray]]:
    """The given weights, and others drawn and taken downhill, in the coordinates of the span.

    Of small networks every other one begins with a tenth of the prior.
    """
    yield start, span.project(weights)
    rng = np.random.default_rng(START_SEED) if rng is None else check_rng(rng)
    for k in range(n_starts - 1):
        begin = _change_prior(start, -FAR) if _is_small(start) and k % 2 == 0 else start
        drawn = span.project(span.full.net.init_params(rng))
        downhill = {"maxiter": DOWNHILL_STEPS}
        yield (
            begin,
            scipy_minimize(begin.objective, drawn, jac=True, method="L-BFGS-B", options=downhill).x,
        )


def list_nearer(start: MarginalLikelihood, summit: Summit) -> list[MarginalLikelihood]:
    """The same with other first priors, if climbs take seconds and this one led far.

    What is far from right on the way decides which of several maxima is found.
    """
    change = summit[0].h - start.h
    far = np.abs(change[~start.hyperparameters.is_noise]).max(initial=0.0)
    if far <= FAR or not _is_small(start):
        return []
    return [_change_prior(start, share * change) for share in NEARER]


def _change_prior(start: MarginalLikelihood, change: float | np.ndarray) -> MarginalLikelihood:
    """The same with another first prior, by its change in logs."""
    return start.at(start.h + np.where(start.hyperparameters.is_noise, 0.0, change))


def _is_small(start: MarginalLikelihood) -> bool:
    return is_small(start.builder.reg.net, DENSE_PARAMS)


def search(
    start: MarginalLikelihood,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    follow: Follow,
) -> Summit:
    """Climb to the largest F from the weights `theta`, as the structure is able to."""
    search_by = maximize if start.builder.inverse.has_evidence_gradient else alternate
    return search_by(start, theta, tolerance, max_evaluations, follow)


def maximize_linearized(
    builder: InverseBuilder,
    hyperparameters: Hyperparameters,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    follow: Follow,
) -> Summit:
    """Climb to the largest F of the network linearised at `theta` (param,).

    Of many stars a random share, for which F costs next to nothing, gives the start for twice as
    many, and so on to all.
    """
    start = linearize(builder, hyperparameters, theta)
    n_rows = int(builder.observed.sum())
    n_halvings = max(0, int(np.log2(max(n_rows, 1) / FEW_ROWS)))
    if builder.inverse.linear_space == "data":
        for share in 0.5 ** np.arange(n_halvings, 0, -1):
            some = builder.with_stars(builder.pick_stars(int(share * len(builder.labelled))))
            few = linearize(some, hyperparameters, theta).at(start.h)
            near, _ = maximize(few, theta, tolerance, max_evaluations, _follow_nothing)
            start = start.at(near.h)
    return maximize(start, theta, tolerance, max_evaluations, follow)


def _follow_nothing(h: np.ndarray, evidence: Evidence) -> None:
    """Nobody follows evaluations of some stars."""


def maximize(
    start: EvidenceFunction,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    follow: Follow,
) -> Summit:
    """Climb to the largest F by its gradient, from the weights `theta`.

    The noise goes first, which the labels determine best: far from it, no prior is right, and no
    minimum of U need be found to the last digit. Where the weights stay, no minimum could be lost,
    and all entries go together.
    """
    evaluate = _Evaluation(start, follow, is_rough=start.can_be_rough)
    limits = start.hyperparameters.limits
    if start.moves_weights:
        here = _reach_minimum(evaluate, start, theta)
        leading = start.hyperparameters.is_noise
    else:
        here = evaluate(start.h, theta)
        leading = None
    summit, is_end = climb(evaluate, here, limits, tolerance, max_evaluations - 1, leading)
    if summit.is_rough:
        evaluate.is_rough = False
        summit = evaluate(summit.h, summit.theta)
    return summit, is_end


def _reach_minimum(evaluate: _Evaluation, start: EvidenceFunction, theta: np.ndarray) -> Point:
    """F at the start, or, if there is no minimum within reach, at the least prior that has one.

    Where a weak prior lets the network put nearly no noise to labels that it hits, U falls along
    curved valleys for thousands of steps.
    """
    here = there = evaluate(start.h, theta)
    hyperparameters = start.hyperparameters
    limits = hyperparameters.limits
    rise = np.where(hyperparameters.is_noise, 0.0, STRONGER)
    while not there.is_certain:
        h = np.minimum(there.h + rise, limits)
        if np.array_equal(h, there.h):
            return here
        there = evaluate(h, theta)
    return there


def alternate(
    start: MarginalLikelihood,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    follow: Follow,
) -> Summit:
    """Maximise F at fixed weights and minimise U, in turn until neither changes.

    Where F at the minimum falls, the step in h is shortened.
    """
    evaluate = _Evaluation(start, follow)
    limits = start.hyperparameters.limits
    here = evaluate(start.h, theta)
    share = 1.0
    for _ in range(max_evaluations - 1):
        if share == 1.0:
            at_fixed_weights = _evaluation_at_fixed_weights(start, here)
            target, _ = climb(at_fixed_weights, here, limits, tolerance, STEPS_AT_FIXED_WEIGHTS)
        step = share * (target.h - here.h)
        if 0.5 * step @ here.curvature @ step <= tolerance:
            break
        there = evaluate(here.h + step, here.theta)
        if there.is_above(here):
            here = there
            share = 1.0
        else:
            share *= SHORTER
    return here, False  # the gradient at fixed weights does not tell where F ends


class _Evaluation:
    """F at h and the minimum near given weights, told to `follow`.

    Parameters
    ----------
    start : EvidenceFunction
    follow : callable
    is_rough : bool, default False
        Whether to look roughly as long as the noise is far from right.
    """

    def __init__(self, start: EvidenceFunction, follow: Follow, *, is_rough: bool = False):
        self._start = start
        self._follow = follow
        self.is_rough = is_rough

    def __call__(self, h: np.ndarray, theta: np.ndarray, is_near: bool = False) -> Point:
        there = self._start.at(h)
        if self.is_rough:
            point = self._tell(h, there.evaluate_roughly(theta))
            hyperparameters = self._start.hyperparameters
            if moves_alone(point, hyperparameters.is_noise, hyperparameters.limits):
                return point
            self.is_rough = False
            theta = point.theta
        return self._tell(h, there.evaluate(theta, is_near=is_near))

    def _tell(self, h: np.ndarray, evidence: Evidence) -> Point:
        self._follow(h, evidence)
        return Point(
            h=h,
            F=evidence.log_marginal_likelihood,
            gradient=evidence.gradient,
            curvature=evidence.curvature,
            is_certain=evidence.is_minimum or self.is_rough,
            theta=evidence.theta,
            n_effective=evidence.n_effective_by_factor,
            is_rough=self.is_rough,
        )


def _evaluation_at_fixed_weights(start: MarginalLikelihood, here: Point) -> Evaluate:
    def evaluate(h: np.ndarray, theta: np.ndarray, is_near: bool = False) -> Point:
        there = start.at(h)
        F = there.find_log_evidence(theta)
        gradient = there.differentiate_at_fixed_weights(theta)
        return replace(here, h=h, F=F, gradient=gradient)

    return evaluate
