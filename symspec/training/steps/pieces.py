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
2005, doi:10.1007/s10107-005-0630-3), as each step is led back to the kinks (Fletcher 1982,
doi:10.1007/BFb0120944).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives.bundles import RADIUS, STORED_BYTES, Inverse, Objective, Place, Vector
from symspec.derivatives.stationary_points import find_lowest
from symspec.derivatives.weighted_sums import SharedSum, compile_shared_sum
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.noise.noise import TunableNoise
from symspec.safety.label_errors import find_labels_alone
from symspec.training.steps.boxes import add_ridge, maximize_in_box

FEW_KINKS = 50  # that enter a model at once
MOST_KINKS = 800
LEAST_KINKS = 50  # that have to fit in memory
KEPT = 0.25  # share of what the model promised, at which no more kinks are looked for
ACCEPTED = 1e-3  # at which a step is taken
DAMPING = 0.25  # of a step that is refused
MOST_TRIALS = 50
DAMPED_WELL = 1e-2  # the damping down to which Newton's steps are tried
MOST_PRODUCTS = 100  # of a Newton step
CURVATURE_PRODUCTS = 40  # that the search for a direction of descent may take
DESCENDING = 1e-6  # relative eigenvalue below which minus it is followed
MARGIN = 1e-9  # of shares, to their bounds
NEWTON_SHARES = (1.0, 0.25, 0.06, 0.015, 0.004)  # of Newton's step beyond the model's
LEAST_RADIUS = 1e-9  # of Newton's steps


class SharedObjective:
    """U of a regression and its stars, with shares of pieces in place of choices."""

    def __init__(self, builder: InverseBuilder, shared: SharedSum):
        noise = cast(TunableNoise, builder.reg.noise)
        self._reg = builder.reg
        self._shared = shared
        self._stars = (
            np.asarray(builder.X, np.float64),
            np.nan_to_num(find_labels_alone(builder.Y)),
            noise.given(builder.Y),
        )
        self._peak = noise.negative_log_peak(builder.Y)

    def arguments(self, theta: Vector) -> np.ndarray:
        """The numbers c (star, kink) whose signs choose."""
        return self._shared.arguments(theta, self._stars[0])

    def differentiate(self, theta: Vector, shares: np.ndarray) -> tuple[float, Vector, np.ndarray]:
        """U, its gradient (param,), and its derivatives by the shares (star, kink)."""
        L, gradient, by_shares = self._shared.differentiate(theta, *self._stars, shares)
        return L + self._peak + self._reg.add_prior(gradient, theta, 1.0), gradient, by_shares

    def multiply(self, theta: Vector, shares: np.ndarray, v: Vector) -> Vector:
        """Hessian by the weights, at fixed shares, times v (param,)."""
        product = self._shared.multiply(theta, *self._stars, shares, v)
        return product + self._reg.prior_precision_vector() * v

    def rows(self, theta: Vector, shares: np.ndarray, kinks: np.ndarray) -> np.ndarray:
        """Gradients (pair, param) of the derivatives by the shares of pairs (star, kink)."""
        return self._shared.rows(theta, *self._stars, shares, kinks)


def find_shared_objective(builder: InverseBuilder) -> SharedObjective | None:
    """U with shares, if all kinks of the network are known and not too many for memory."""
    reg = builder.reg
    n_bytes = 8 * (4 * LEAST_KINKS * reg.net.n_params)
    if not isinstance(reg.noise, TunableNoise) or n_bytes > STORED_BYTES:
        return None
    shared = compile_shared_sum(reg.net, kind=reg.noise.kind, backend=builder.backend)
    return None if shared is None else SharedObjective(builder, shared)


@dataclass(frozen=True, eq=False)
class Held:
    """Kinks (kink, 2), each a star and a place, that theta was held to, and their shares."""

    kinks: np.ndarray
    shares: Vector


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
        self.add(kinks[self._bends_up[tuple(kinks.T)]])

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
        is_far |= ~self._bends_up[where]
        if is_far.any():
            far = tuple(held.kinks[is_far].T)
            shares[far] = choice[far]
            self._differentiate(shares)

    def _differentiate(self, shares: np.ndarray) -> None:
        self.shares = shares
        self._U, self._gradient, self._slopes = self.shared.differentiate(self.place.theta, shares)
        self._bends_up = self._slopes * self.arguments >= 0

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

    def find_crossed(self, arguments: np.ndarray) -> np.ndarray:
        """Kinks (kink, 2) not in the model between the place and one of these, nearest first."""
        is_new = self._bends_up & ((self.arguments > 0) != (arguments > 0))
        is_new[tuple(self.kinks.T)] = False
        ratios = np.abs(arguments[is_new]) / np.maximum(np.abs(self.arguments[is_new]), 1e-300)
        return np.argwhere(is_new)[np.argsort(-ratios)]

    def is_within(self, x: Vector, radius: float) -> bool:
        """Whether all kinks whose shares change lie within a ball in the norm of A."""
        lengths = np.sqrt(np.maximum(np.diag(self._Q), 1e-300))
        return bool((np.abs(self.e[x != 0]) <= radius * lengths[x != 0]).all())

    def hold(self, x: Vector) -> Ridge:
        """The place where the kinks meet whose shares are inside their box."""
        return Ridge(self, np.clip(self._m + x, 0.0, 1.0), self._Q)


class Ridge:
    """Where the kinks meet whose shares are neither 0 nor 1: U is smooth along it.

    Attributes
    ----------
    held : Held
        These kinks, and their shares.
    """

    def __init__(self, model: Model, shares: Vector, Q: np.ndarray):
        is_held = (shares > 0) & (shares < 1)
        self.held = Held(model.kinks[is_held], shares[is_held])
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

    def lead_back(self, s: Vector) -> Vector:
        """The step s (param,) and then to the ridge."""
        if not len(self.held.kinks):
            return s
        for _ in range(2):
            theta = self._model.place.theta + s
            slopes = self._model.shared.differentiate(theta, self._shares)[2]
            s = s - self._columns @ self.solve(slopes[tuple(self.held.kinks.T)])
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
            a = rz / curvature if curvature > 0 else np.inf
            is_at_edge = bool(ss + 2 * a * sp + a**2 * pp >= radius**2)
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
        while self.steps < max_steps:
            inverse = self._find_inverse(self.place.theta)
            left = max(10 * self._gain, 1e-13 * abs(self.place.U))
            model = Model(self._shared, self.place, inverse, self._held, left)
            step, new = self._find_step(model)
            self.decrement = 0.5 * float(step.slope @ inverse.dot(step.slope))
            ridge = model.hold(step.x)
            self.n_pieces = 1 + len(ridge.held.kinks)
            new = self._go_along(ridge, step, new)
            self._gain = max(0.0, self.place.U - new.U)
            is_flat = self.decrement <= tolerance and model.is_within(step.x, radius)
            if is_flat and self._gain <= tolerance:
                new = self._descend(ridge, tolerance)
                if new is None:
                    return True
            elif self._gain == 0.0 and not self._begin_again():
                return False
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
        for _ in range(MOST_TRIALS):
            step = model.minimize(self._damping, x)
            x = step.x
            new = self._look(step.s)
            if self._keeps(new, KEPT * step.promise):
                break
            if self._add_crossed(model, new):
                continue
            led_back = self._look(model.hold(x).lead_back(step.s))
            if self._keeps(led_back, 0.1 * step.promise):
                new = led_back
                break
            if self._keeps(new, ACCEPTED * step.promise):
                break
            self._damping *= DAMPING
        return step, new

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
        model.add(crossed[: max(FEW_KINKS, n_known // 4)])
        return len(crossed) > 0

    def _go_along(self, ridge: Ridge, step: ModelStep, new: Place) -> Place:
        """On along the ridge by Newton's step, if that is lower, and hold to its kinks."""
        self._held = ridge.held
        is_damped = self._damping < DAMPED_WELL
        if self._keeps(new, 0.5 * step.promise):
            self._damping = min(1.0, 3 * self._damping)
        if is_damped or not new.U < self.place.U:
            return new
        s, held, is_at_edge = ridge.find_newton_step(step, self._radius)
        for t in NEWTON_SHARES:
            further = self._look(ridge.lead_back(step.s + t * (s - step.s)))
            if further.U < new.U:
                self._held = held
                self._radius *= 4 if is_at_edge and t == 1 else t
                return further
        self._radius = max(0.01 * self._radius, LEAST_RADIUS)
        return new

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

    def _begin_again(self) -> bool:
        """Forget the kinks held and the lengths of steps; False if there is nothing to forget."""
        is_new = len(self._held.kinks) == 0 and self._damping == 1.0
        self._held = NOTHING_HELD
        self._damping = 1.0
        self._radius = 1.0
        return not is_new
