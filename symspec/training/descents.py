"""Downhill in turns of L-BFGS in the metric of G, to where Newton's steps are faster.

In the curved valleys of a network that fits its labels closely, fifty of these steps cost less than
a few of Newton's, and are not shorter. G is built again at each turn. Newton's steps go on from
saddle points, and prove the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.linalg.blas import dtrsv
from scipy.optimize import OptimizeResult
from scipy.optimize import minimize as scipy_minimize

from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.network import Network
from symspec.training.steps.bundles import STORED_BYTES, Objective, Place, Vector
from symspec.training.steps.kinks import LimitedMetric, Search
from symspec.training.steps.newton_models import FindModel
from symspec.training.steps.newton_steps import (
    STEPS_AT_KINKS,
    TOO_LONG,
    Callback,
    PolishResult,
    count_from,
    minimize_by_newton,
)

STEPS = 50  # of L-BFGS a turn
ITERATIONS = STEPS // STEPS_AT_KINKS  # of Newton's that a turn stands for
NEWTON_STEPS = 6  # between turns
COORDINATES = 0.1  # relative error of variances: U need not be round to more digits


class DenseTurn:
    """By the Cholesky factor of G, in whose coordinates U is nearly round.

    Parameters
    ----------
    objective : callable
        U and its gradient (param,) at theta.
    builder : InverseBuilder
    theta : numpy.ndarray, shape (param,)
    callback : callable, optional
        Called with (step, U, decrement) before each step; the decrement is that at theta.

    Attributes
    ----------
    U, decrement : float
        In nats, at theta.
    """

    near: ClassVar = 1e-9  # nats of decrement, from which on Newton is faster

    def __init__(
        self,
        objective: Objective,
        builder: InverseBuilder,
        theta: Vector,
        callback: Callback | None,
    ):
        self._objective = objective
        self._theta = theta
        self._callback = callback
        self._L = builder.cholesky(theta, trusted=COORDINATES)
        self.U, gradient = objective(theta)
        slope = dtrsv(self._L, gradient, lower=1)
        self.decrement = 0.5 * float(slope @ slope)

    def run(self) -> tuple[Vector, int]:
        """Where fifty steps lead to, and how many were taken."""
        step, U = 0, self.U

        def follow(intermediate_result: OptimizeResult) -> None:
            nonlocal step, U
            if self._callback is not None:
                self._callback(step, U, self.decrement)
            step, U = step + 1, intermediate_result.fun

        found = scipy_minimize(
            self._objective_around,
            np.zeros_like(self._theta),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": STEPS, "maxcor": STEPS, "ftol": 0.0, "gtol": 0.0},
            callback=follow,
        )
        return self._theta + self._find_step(found.x), int(found.nit)

    def _find_step(self, u: Vector) -> Vector:
        """The step s of coordinates u = L^T s."""
        return dtrsv(self._L, u, lower=1, trans=1)

    def _objective_around(self, u: Vector) -> tuple[float, Vector]:
        """U and its gradient in these coordinates."""
        U, gradient = self._objective(self._theta + self._find_step(u))
        return U, dtrsv(self._L, gradient, lower=1)


class ProductTurn:
    """By products with the inverse of G, which begins each step's metric.

    Parameters and attributes are those of `DenseTurn`.
    """

    near: ClassVar = 1e-3

    def __init__(
        self,
        objective: Objective,
        builder: InverseBuilder,
        theta: Vector,
        callback: Callback | None,
    ):
        place = Place(theta, *objective(theta))
        inverse = builder.build(theta).cheap()
        self._search = Search(objective, place, inverse, callback, LimitedMetric)
        self.U = place.U
        self.decrement = self._search.decrement

    def run(self) -> tuple[Vector, int]:
        """As of `DenseTurn`."""
        n_steps = self._search.run(STEPS)
        return self._search.place.theta, n_steps


FindTurn = type[DenseTurn] | type[ProductTurn]


def choose_turns(net: Network, *, is_dense: bool) -> FindTurn | None:
    """How to descend; None where Newton's steps do better.

    One is enough where there is one layer of weights. They know kinks, and are no slower where the
    steps of a turn cannot be kept.
    """
    if len(net.layout.layers) == 1:
        return None
    if is_dense:
        return DenseTurn
    return ProductTurn if net.is_smooth and 16 * STEPS * net.n_params <= STORED_BYTES else None


def minimize_by_descents(
    find_turn: FindTurn | None,
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
    """As `minimize_by_newton`, which takes the last steps; before them descend.

    Parameters
    ----------
    find_turn : type, optional
        None: no turns are taken.
    max_iterations : int
        Of Newton's; a turn stands for five.
    others
        As of `minimize_by_newton`.
    """
    done = 0
    while True:
        most = max_iterations
        if find_turn is not None:
            descent = descend(
                find_turn,
                objective,
                builder,
                theta,
                max_iterations // ITERATIONS,
                max(find_turn.near, tolerance),
                count_from(done, callback),
            )
            theta = descent.theta
            max_iterations -= ITERATIONS * descent.n_turns
            # where Newton's steps lead no further than near, turns do not either
            may_return = descent.is_near and (descent.n_turns > 0 or done == 0)
            most = NEWTON_STEPS if may_return else max_iterations
            done += descent.n_steps
        result, inverse = minimize_by_newton(
            objective,
            find_model,
            builder,
            theta,
            tolerance=tolerance,
            max_iterations=min(most, max_iterations),
            callback=count_from(done, callback),
            callback_at_kinks=count_from(done, callback_at_kinks),
        )
        done += result.iterations
        max_iterations -= result.iterations
        if find_turn is None or result.reason != TOO_LONG or max_iterations <= 0:
            return replace(result, iterations=done), inverse
        theta = result.theta  # beyond a saddle point, say


@dataclass(frozen=True, eq=False, kw_only=True)
class Descent:
    """Result of `descend`.

    Attributes
    ----------
    theta : numpy.ndarray, shape (param,)
    n_turns, n_steps : int
    is_near : bool
        Whether the decrement is below the tolerance there, as far as is known.
    """

    theta: Vector
    n_turns: int
    n_steps: int
    is_near: bool


def descend(
    find_turn: FindTurn,
    objective: Objective,
    builder: InverseBuilder,
    theta: Vector,
    max_turns: int,
    tolerance: float,
    callback: Callback | None = None,
) -> Descent:
    """Take turns until the decrement is below the tolerance, or one gained less than that."""
    done = 0
    U = np.inf
    for n_turns in range(max_turns):
        turn = find_turn(objective, builder, theta, count_from(done, callback))
        is_near = turn.decrement <= tolerance
        if is_near or tolerance >= U - turn.U:  # as where rounding hides what is left to gain
            return Descent(theta=theta, n_turns=n_turns, n_steps=done, is_near=is_near)
        U = turn.U
        theta, n_steps = turn.run()
        done += n_steps
    return Descent(theta=theta, n_turns=max_turns, n_steps=done, is_near=False)
