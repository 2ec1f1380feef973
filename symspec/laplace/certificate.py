"""Certificate of the optimum: how far weights are from a minimum of U, and whether it is one.

The distance is the Newton decrement; `symspec.training.steps.stationary_points` tells what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives import compiled
from symspec.derivatives.span import find_span
from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.training.steps.bundles import RADIUS, Bundle, Place
from symspec.training.steps.proofs import KinkProof, find_kink_proof
from symspec.training.steps.shared import find_shared_objective
from symspec.training.steps.stationary_points import (
    DENSE_LIMIT,
    LowestCurvature,
    count_products,
    find_lowest_curvature,
)

MAX_DECREMENT = 1e-2
NEARLY = 1.0  # nats that a bundle of gradients leaves, below which kinks may prove a minimum
SHIFT_STARS = 256  # training stars over which the effect of a Newton step is averaged


class Certificate:
    r"""Tests of whether weights are at a minimum of the negative log posterior U.

    What takes products with the exact Hessian is found when it is first asked for: `is_minimum`,
    `sign`, and the eigenvalues. Networks of up to 400 parameters have it at once.

    Parameters
    ----------
    gradient_norm, newton_decrement, newton_shift
        See below.
    lowest : LowestCurvature, optional
        What is known of the Hessian's sign.
    n_pieces : int, default 1
        See below.
    search : callable, optional
        Finds `lowest` when it is asked for; files and other processes do not have it.

    Attributes
    ----------
    gradient_norm : float
        Largest absolute entry of the gradient g of U, in nats per unit of the weight.
    newton_decrement : float
        :math:`g^T A^{-1} g / 2`, in nats: the gain of a Newton step. An approximation or an upper
        bound where A^-1 is one; with structure="krylov" an upper bound from its subset.
    newton_shift : numpy.ndarray, shape (label,)
        Root mean square, over some 256 training stars, of the change of the predictions by a
        Newton step, in the units of the labels.
    n_pieces : int
        Beyond 1 the weights are at a kink of a piecewise smooth U, as ReLU has them: so many of its
        gradients nearby have a convex combination that vanishes, whose norms the above are.
    """

    def __init__(
        self,
        *,
        gradient_norm: float,
        newton_decrement: float,
        newton_shift: np.ndarray,
        n_pieces: int = 1,
        lowest: LowestCurvature | None = None,
        search: Callable[[], LowestCurvature] | None = None,
    ):
        self.gradient_norm = gradient_norm
        self.newton_decrement = newton_decrement
        self.newton_shift = newton_shift
        self.n_pieces = n_pieces
        self._lowest = lowest
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        """All but the search, for which another process has no training set."""
        return vars(self) | {"_search": None}

    def __repr__(self) -> str:
        return (
            f"Certificate(gradient_norm={self.gradient_norm!r},"
            f" newton_decrement={self.newton_decrement!r}, newton_shift={self.newton_shift!r},"
            f" n_pieces={self.n_pieces!r}, lowest={self.known!r})"
        )

    @property
    def known(self) -> LowestCurvature | None:
        """What has been found of the Hessian's sign; None if nobody asked."""
        return self._lowest

    def decide(self) -> LowestCurvature:
        """Look for the lowest curvature, unless it is known; NaN where there is no search."""
        search = self._search
        if self._lowest is None and search is not None:
            self._lowest = search()
            self._search = None
        return self._lowest or UNKNOWN

    @property
    def smallest_ratio(self) -> float:
        """Lowest eigenvalue of the pencil (H, A), see `LowestCurvature`."""
        return self.decide().smallest_ratio

    @property
    def smallest_ratio_error(self) -> float:
        """An eigenvalue of the pencil lies within this distance of `smallest_ratio`."""
        return self.decide().smallest_ratio_error

    @property
    def smallest_eigenvalue(self) -> float:
        """Rayleigh quotient of H in that direction: its lowest eigenvalue is not larger."""
        return self.decide().smallest_eigenvalue

    @property
    def eigenvalue_error(self) -> float:
        """An eigenvalue of H lies within this distance of `smallest_eigenvalue`."""
        return self.decide().eigenvalue_error

    @property
    def sign(self) -> str:
        """Of the lowest eigenvalue of H: "positive", "negative" or "not decided"."""
        return self.decide().sign

    @property
    def is_stationary(self) -> bool:
        """Whether the decrement is at most 0.01 nats."""
        return bool(self.newton_decrement <= MAX_DECREMENT)

    @property
    def is_minimum(self) -> bool:
        """Whether the decrement is at most 0.01 nats, and the lowest eigenvalue positive."""
        return self.is_stationary and self.sign == "positive"

    @property
    def verdict(self) -> str:
        """What is known so far, in some words."""
        if not self.is_stationary:
            return "not at a minimum"
        if self.n_pieces > 1 and (self.known is None or self.sign != "positive"):
            # the Hessian of one of the pieces does not tell what the others do
            return f"at a kink, where {self.n_pieces} pieces of U meet"
        if self.known is None:
            return "at a stationary point"
        return {
            "positive": "at a minimum",
            "negative": "not at a minimum but at a saddle point",
            "not decided": "at a stationary point, not decided whether a minimum",
        }[self.sign]

    @property
    def message(self) -> str:
        """The verdict with the numbers that are known so far."""
        parts = [
            f"{self.verdict}: |gradient| {self.gradient_norm:.3g}",
            f"Newton decrement {self.newton_decrement:.3g} nats (at most {MAX_DECREMENT:g})",
        ]
        if self.known is not None:
            parts.append(f"lowest eigenvalue of the Hessian {self.smallest_eigenvalue:.4g}")
            if not np.isnan(self.smallest_ratio):  # which files of symspec 0.1 do not have
                parts.append(
                    f"{self.smallest_ratio:.3g} +- {self.smallest_ratio_error:.1g} in units of A"
                )
        elif self.is_stationary and self._search is not None:
            parts.append("certificate.is_minimum tells whether U curves down anywhere")
        message = ", ".join(parts)
        if self.is_stationary:
            return f"{message}."
        shift = ", ".join(f"{s:.3g}" for s in self.newton_shift)
        return f"{message}; a Newton step would change the labels by {shift} (rms)."


UNKNOWN = LowestCurvature(
    smallest_ratio=np.nan,
    smallest_ratio_error=np.nan,
    smallest_eigenvalue=np.nan,
    eigenvalue_error=np.nan,
    missed=1.0,
)


def certify(
    builder: InverseBuilder, inverse: InverseHessian, theta: np.ndarray
) -> tuple[float, np.ndarray, Certificate, np.ndarray | None]:
    """U, its gradient (param,), certificate, and exact step, over the parameters that vary.

    Parameters
    ----------
    builder : InverseBuilder
    inverse : InverseHessian
        What it built at `theta`.
    theta : numpy.ndarray, shape (param,)
    """
    stars = _FreeParameters(builder, inverse, theta)
    U, gradient = stars.differentiate()
    n_pieces = 1
    exact_step = inverse.find_step(theta, stars.score)
    step = inverse.cheap() @ gradient if exact_step is None else -exact_step
    search = partial(_find_lowest_curvature, builder, inverse, theta)
    if stars.may_kink and 0.5 * gradient @ step > MAX_DECREMENT:
        bundle = stars.settle(U, gradient)
        proof = stars.prove_kink(U, gradient) if bundle.decrement <= NEARLY else None
        if proof is not None:
            n_pieces = proof.n_pieces
            gradient = proof.slope
            step = inverse.cheap() @ gradient
            search = partial(proof.find_lowest_curvature, stars.n_products)
        elif bundle.decrement <= MAX_DECREMENT:
            n_pieces = bundle.n_pieces
            gradient = bundle.least
            step = inverse.cheap() @ gradient
    certificate = Certificate(
        gradient_norm=float(np.abs(gradient).max()),
        newton_decrement=0.5 * max(float(gradient @ step), 0.0),
        newton_shift=_rms_newton_shift(builder, theta, step),
        n_pieces=n_pieces,
        search=search,
    )
    if inverse.free.stop - inverse.free.start <= DENSE_LIMIT:
        certificate.decide()
    return U, gradient, certificate, exact_step if n_pieces == 1 else None


def _find_lowest_curvature(
    builder: InverseBuilder, inverse: InverseHessian, theta: np.ndarray
) -> LowestCurvature:
    """In the span of the training spectra where that is smaller, outside of which H is A."""
    if inverse.has_span and inverse.is_complete:
        span = find_span(builder.reg, builder.X)
        if span is not None:
            builder = InverseBuilder(
                span.reg, span.X, builder.Y,
                structure=inverse.structure, backend=builder.backend, dtype=builder.dtype,
            )  # fmt: skip
            theta = span.project(theta)
            inverse = inverse.in_span(builder, theta)
    return _FreeParameters(builder, inverse, theta).find_lowest_curvature()


class _FreeParameters:
    """U as a function of the parameters that vary; those held fixed are passed through once."""

    def __init__(self, builder: InverseBuilder, inverse: InverseHessian, theta: np.ndarray):
        self.inverse = inverse
        self.builder = builder
        self.reg = builder.reg
        self.theta = theta
        self.X = builder.X
        self.Y = builder.Y
        self.inside = inverse.free
        self.passes = {"backend": builder.backend, "dtype": builder.dtype}
        self.rest = 0.0
        head = inverse.head(builder.reg, theta)
        if head is not None:
            self.rest = builder.reg.negative_log_prior_of_held(theta, inverse.free)
            self.reg = head.reg
            self.theta = theta[inverse.free]
            self.X = head.find_features(builder.X, **self.passes)
            self.inside = slice(None)

    def differentiate(self) -> tuple[float, np.ndarray]:
        """U, and its gradient (param,), zero for what is held fixed."""
        tangents = self.inverse.training_tangents
        if tangents is not None:
            return self._differentiate_by(tangents)
        objective = compiled.compile_objective(self.reg, **self.passes)
        workers = self.builder.workers
        U, gradient = objective(self.theta, self.X, self.Y, scheduler=workers)
        free = np.asarray(gradient[self.inside], np.float64)
        return U + self.rest, _embed(free, self.inverse.shape[0], self.inverse.free)

    def _differentiate_by(self, tangents: Tangents) -> tuple[float, np.ndarray]:
        """The same from tangents that are there already, without a pass back."""
        targets = np.asarray(self.Y, np.float64)
        find_density = compiled.compile_log_likelihood(
            self.reg, width=targets.shape[1], backend=self.builder.backend
        )
        (density,) = find_density(self._outputs, targets)
        gradient = tangents.rmatvec(-self.score())
        return self.reg.add_prior(gradient, self.theta, 1.0) - float(density), gradient

    @cached_property
    def _outputs(self) -> np.ndarray:
        return self.builder.outputs(self.theta, self.X).astype(np.float64)

    def score(self) -> np.ndarray:
        """Gradient (star, output) of the stars' log density by the network's outputs."""
        return self.reg.noise.score(self._outputs, self.Y)

    @property
    def may_kink(self) -> bool:
        """Whether U is piecewise smooth, and computed with the digits that tell pieces apart."""
        return not self.reg.net.is_smooth and self.passes["dtype"] == "float64"

    @property
    def n_products(self) -> int:
        """Products with the Hessian that a search for its sign may take."""
        return count_products(self.theta.size, len(self.X))

    def prove_kink(self, U: float, gradient: np.ndarray) -> KinkProof | None:
        """The proof of a minimum where kinks meet, if all kinks of the network are known."""
        if self.reg is not self.builder.reg:  # some parameters are held
            return None
        shared = find_shared_objective(self.builder)
        if shared is None:
            return None
        place = Place(self.theta, U, gradient)
        return find_kink_proof(shared, place, self.inverse.cheap(), RADIUS, MAX_DECREMENT)

    def settle(self, U: float, gradient: np.ndarray) -> Bundle:
        """Gradients of pieces of U nearby, until some of them cancel or U is lower somewhere.

        It takes at most three gradients for each product that a search for the sign may take.
        """
        objective = compiled.compile_objective(self.reg, **self.passes)
        n_products = self.n_products
        bundle = Bundle(Place(self.theta, U, gradient), self.inverse.cheap(), n_products)
        bundle.settle(
            lambda theta: objective(theta, self.X, self.Y),
            RADIUS,
            MAX_DECREMENT,
            max_calls=3 * n_products,
        )
        return bundle

    def find_lowest_curvature(self) -> LowestCurvature:
        product = compiled.compile_hessian_vector_product(self.reg, **self.passes)
        free = self.inverse.free
        cheap = self.inverse.cheap()
        n = free.stop - free.start

        def multiply(v: np.ndarray) -> np.ndarray:
            v = _embed(v, self.theta.size, self.inside)
            return product(self.theta, self.X, self.Y, v)[self.inside].astype(np.float64)

        restricted = LinearOperator(
            (n, n),
            matvec=lambda v: (cheap @ _embed(v, cheap.shape[0], free))[free],
            dtype=np.float64,
        )
        return find_lowest_curvature(multiply, restricted, self.n_products)


def _embed(v: np.ndarray, size: int, where: slice) -> np.ndarray:
    out = np.zeros(size)
    out[where] = v.ravel()
    return out


def _rms_newton_shift(builder: InverseBuilder, theta: np.ndarray, step: np.ndarray) -> np.ndarray:
    X = builder.X[:: max(1, len(builder.X) // SHIFT_STARS)]
    squares = [tangents.matvec(step) ** 2 for _, tangents in builder.walk(theta, X)]
    return np.sqrt(np.concatenate(squares).mean(axis=0))
