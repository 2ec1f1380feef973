r"""Steps along kinks, where a network's choices between pieces are known.

Where the sign of a number c_k chooses between two pieces (ReLU, clip, the largest of a window), a
share m_k in [0, 1] of the first takes its place (`symspec.derivatives.graphs.build_shared`). At a
kink where U bends upwards, U is the largest of the smooth U(theta, m) over the shares, and a
minimum of U is a saddle point, least over theta and largest over m: there the gradient by theta
vanishes, a convex combination of those of the pieces that meet, and so do the c_k whose shares are
neither 0 nor 1 (Griewank & Walther 2016, doi:10.1080/10556788.2016.1189549).

With the Gauss-Newton matrix A, damped by t, a step minimises the model

.. math::
    g^T s + \tfrac{1}{2t} s^T A s + \max_x \sum_k x_k (e_k + b_k^T s)

with e_k = dU/dm_k, b_k its gradient by theta, and changes x of the shares within their box. Its
dual is a quadratic function of x. Kinks enter as steps cross them, until U falls as the model says.
Shares inside the box hold theta to their kinks; along these, Newton's steps by conjugate gradients
with the exact Hessian at the shares found, the Lagrangian's, converge fast (Mifflin & Sagastizabal
2005, doi:10.1007/s10107-005-0630-3), as each step is led back to the kinks, whose curvature would
else raise U.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator

from symspec.training.steps.boxes import add_ridge, maximize_in_box
from symspec.training.steps.bundles import Inverse, Place, Vector
from symspec.training.steps.shared import SharedObjective
from symspec.training.steps.stationary_points import find_lowest

FEW_KINKS = 50  # that enter a model at once
MOST_TRIALS = 30  # of a model's step, as kinks enter
MOST_PRODUCTS = 100  # of a Newton step
CURVATURE_PRODUCTS = 40  # that the search for a direction of descent may take
DESCENDING = 1e-6  # relative eigenvalue below which minus it is followed
MARGIN = 1e-9  # of shares, to their bounds
ROUNDING = 1e-13  # of the largest number whose sign chooses: smaller ones have none


@dataclass(frozen=True, eq=False)
class Held:
    """Kinks (kink, 2), each a star and a place, whose shares are not those of their signs."""

    kinks: np.ndarray
    shares: Vector

    def join(self, other: Held) -> Held:
        """Those of both."""
        kinks = np.concatenate([self.kinks, other.kinks])
        return Held(kinks, np.concatenate([self.shares, other.shares]))


NOTHING_HELD = Held(np.zeros((0, 2), int), np.zeros(0))


@dataclass(frozen=True, eq=False)
class ModelStep:
    """Of a `Model`: the step s (param,), changes x of its kinks' shares, and what it promises.

    The `slope` is the gradient that the changes leave, a convex combination of those of pieces.
    """

    s: Vector
    x: Vector
    slope: Vector
    promise: float


class Model:
    """U around a place: quadratic, and bent at the kinks that were added.

    Parameters
    ----------
    shared : SharedObjective
    place : Place
    inverse : Inverse
        Of A.
    held : Held
        Kinks to begin with, whose shares may be inside the box.
    most_left : float
        Nats that U may be above U(theta, m) for these; those that are farther away have the share
        that their sign chooses.
    """

    def __init__(
        self,
        shared: SharedObjective,
        place: Place,
        inverse: Inverse,
        held: Held,
        most_left: float,
    ):
        self.shared = shared
        self.place = place
        self.inverse = inverse
        self.arguments = shared.arguments(place.theta)
        self._stand_at(held, most_left)
        self._Ag = inverse.dot(self._gradient)
        n_params = place.theta.size
        self.kinks = np.zeros((0, 2), int)
        self.e = np.zeros(0)
        self._m = np.zeros(0)
        self.rows = np.zeros((0, n_params))
        self.columns = np.zeros((n_params, 0))  # A^-1 of the rows
        self._Q = np.zeros((0, 0))
        kinks = held.kinks
        shares = self.shares[tuple(kinks.T)]
        self.add(kinks[self._bends_up[tuple(kinks.T)] | (shares > 0) & (shares < 1)])

    def _stand_at(self, held: Held, most_left: float) -> None:
        """Find the shares around which the model is built."""
        choice = (self.arguments > 0).astype(np.float64)
        where = tuple(held.kinks.T)
        shares = choice.copy()
        shares[where] = held.shares
        self._differentiate(shares)
        left = ((choice - shares) * self._slopes)[where]
        order = np.argsort(np.abs(left))
        is_far = np.empty(len(left), bool)
        is_far[order] = np.cumsum(np.abs(left)[order]) > most_left
        if is_far.any():
            far = tuple(held.kinks[is_far].T)
            shares[far] = choice[far]
            self._differentiate(shares)

    def _differentiate(self, shares: np.ndarray) -> None:
        self.shares = shares
        self._U, self._gradient, self._slopes = self.shared.differentiate(self.place.theta, shares)
        rounding = ROUNDING * np.abs(self.arguments).max()
        bends_up = self._slopes * self.arguments >= 0
        self._bends_up = bends_up | (np.abs(self.arguments) <= rounding)

    def add_nearest(self, crossed: np.ndarray) -> None:
        """Let the model bend at the first of these kinks: a quarter more, at least `FEW_KINKS`."""
        self.add(crossed[: max(FEW_KINKS, len(self.kinks) // 4)])

    def add(self, kinks: np.ndarray) -> None:
        """Let the model bend at further kinks (kink, 2)."""
        if not len(kinks):
            return
        rows = self.shared.rows(self.place.theta, self.shares, kinks)
        columns = self.inverse.dot(rows.T)
        cross = self.rows @ columns
        self._Q = np.block([[self._Q, cross], [cross.T, rows @ columns]])
        self.kinks = np.vstack([self.kinks, kinks])
        self.rows = np.vstack([self.rows, rows])
        self.columns = np.hstack([self.columns, columns])
        where = tuple(self.kinks.T)
        self.e = self._slopes[where]
        self._m = self.shares[where]

    def minimize(self, damping: float, start: Vector) -> ModelStep:
        """The step, from changes of the shares to start from (those of kinks added are zero)."""
        start = np.append(start, np.zeros(len(self.kinks) - len(start)))
        q = self.e - damping * (self.rows @ self._Ag)
        x = maximize_in_box(damping * self._Q, q, -self._m, 1 - self._m, start)
        slope = self._gradient + x @ self.rows
        s = -damping * (self._Ag + self.columns @ x)
        ends = self.e + self.rows @ s
        bends = np.maximum(-self._m * ends, (1 - self._m) * ends).sum()
        U = self._U + self._gradient @ s - 0.5 * slope @ s + bends
        return ModelStep(s, x, slope, float(self.place.U - U))

    def find_crossed(self, arguments: np.ndarray, *, bends_up: bool = True) -> np.ndarray:
        """Kinks (kink, 2) not in the model between the place and one of these, nearest first."""
        is_new = (self._bends_up == bends_up) & ((self.shares > 0.5) != (arguments > 0))
        is_new[tuple(self.kinks.T)] = False
        ratios = np.abs(arguments[is_new]) / np.maximum(np.abs(self.arguments[is_new]), 1e-300)
        return np.argwhere(is_new)[np.argsort(-ratios)]

    def is_proof(self, x: Vector, radius: float) -> bool:
        """Whether kinks whose shares change lie within a ball in the norm of A, and bend U up."""
        lengths = np.sqrt(np.maximum(np.diag(self._Q), 1e-300))
        is_near = np.abs(self.e) <= radius * lengths
        shares = self._m + x
        is_up = self._bends_up[tuple(self.kinks.T)] | (shares <= 0) | (shares >= 1)
        return bool((is_near[x != 0]).all() and is_up.all())

    def hold(self, x: Vector) -> Ridge:
        """The place where the kinks meet whose shares are inside their box."""
        return Ridge(self, np.clip(self._m + x, 0.0, 1.0), self._Q)


class Ridge:
    """Where the kinks meet whose shares are neither 0 nor 1: U is smooth along it.

    Attributes
    ----------
    held : Held
        These kinks, and their shares.
    crossed : Held
        Kinks with the share 0 or 1 of the side on which the place is not.
    """

    def __init__(self, model: Model, shares: Vector, Q: np.ndarray):
        is_held = (shares > 0) & (shares < 1)
        self.held = Held(model.kinks[is_held], shares[is_held])
        is_positive = model.arguments[tuple(model.kinks.T)] > 0
        is_crossed = ~is_held & (shares != is_positive)
        self.crossed = Held(model.kinks[is_crossed], shares[is_crossed])
        self._model = model
        self._rows = model.rows[is_held]
        self._columns = model.columns[:, is_held]
        self._shares = model.shares.copy()
        self._shares[tuple(model.kinks.T)] = shares
        if is_held.any():
            self._factor = cho_factor(add_ridge(Q[np.ix_(is_held, is_held)]))

    def solve(self, b: Vector) -> Vector:
        return cho_solve(self._factor, b) if len(b) else b

    def multiply(self, v: Vector) -> Vector:
        """Hessian at the shares times v (param,)."""
        return self._model.shared.multiply(self._model.place.theta, self._shares, v)

    def project(self, g: Vector) -> Vector:
        """A^-1 g, and then along the ridge."""
        v = self._model.inverse.dot(g)
        return v - self._columns @ self.solve(self._rows @ v)

    def lead_back(self, s: Vector, ends: Vector | float = 0.0) -> Vector:
        """The step s (param,) and then to the ridge, or to where kinks bend U by `ends` (kink,)."""
        if not len(self.held.kinks):
            return s
        for _ in range(2):
            theta = self._model.place.theta + s
            with np.errstate(over="ignore", invalid="ignore"):
                slopes = self._model.shared.differentiate(theta, self._shares)[2]
            left = slopes[tuple(self.held.kinks.T)]
            if not np.isfinite(left).all():
                return s
            s = s - self._columns @ self.solve(left - ends)
        return s

    def find_newton_step(self, step: ModelStep, radius: float) -> tuple[Vector, Held, bool]:
        """From the model's step on along the ridge, within a radius, by conjugate gradients.

        Returns
        -------
        s : numpy.ndarray, shape (param,)
        held : Held
            The ridge's kinks with the shares there.
        is_at_edge : bool
            Whether the radius held the step.
        """
        s = step.s
        r = step.slope + self.multiply(s)
        z = self.project(r)
        p = -z
        rz = pp = float(r @ z)
        ss = sp = 0.0
        goal = min(0.01, rz) * 0.01 * rz
        is_at_edge = False
        for _ in range(MOST_PRODUCTS):
            if rz <= goal or is_at_edge:
                break
            Hp = self.multiply(p)
            curvature = float(p @ Hp)
            a = rz / curvature if curvature > 0 else 0.0
            is_at_edge = curvature <= 0 or ss + 2 * a * sp + a**2 * pp >= radius**2
            if is_at_edge:
                a = (-sp + np.sqrt(sp**2 + pp * (radius**2 - ss))) / pp
            s = s + a * p
            r = r + a * Hp
            z = self.project(r)
            ss += 2 * a * sp + a**2 * pp
            beta = float(r @ z) / rz
            rz *= beta
            sp = beta * (sp + a * pp)
            pp = rz + beta**2 * pp
            p = beta * p - z
        return s, self._find_shares(r), is_at_edge

    def _find_shares(self, r: Vector) -> Held:
        """Shares that take the gradient r (param,) away, as far as they may."""
        change = self.solve(self._rows @ self._model.inverse.dot(r))
        shares = np.clip(self.held.shares - change, MARGIN, 1 - MARGIN)
        return Held(self.held.kinks, shares)

    def find_descent(self) -> tuple[float, Vector] | None:
        """A negative eigenvalue of H along the ridge in units of A, and its direction of length 1.

        None where there is none, as far as some products tell.
        """
        n = len(self._model.place.theta)
        if n <= len(self.held.kinks):
            return None
        along = LinearOperator((n, n), matvec=self.project, dtype=np.float64)
        lowest = find_lowest(self.multiply, along, min(CURVATURE_PRODUCTS, n))
        return (lowest.value, lowest.vector) if lowest.value < -DESCENDING else None
