r"""Certificate of the optimum: how far weights are from a minimum of U, and whether it is one.

The distance is the Newton decrement. Whether a stationary point is a minimum is the sign of the
lowest eigenvalue of the exact Hessian H, which is that of the pencil :math:`H v = \rho A v` for any
positive definite A (Sylvester's law of inertia). In units of A most eigenvalues are near 1, so that
a few products with H tell the lowest from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh, eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

MAX_DECREMENT = 1e-2
DENSE_LIMIT = 400
PRODUCT_BUDGET = 1e11  # parameters x stars x products: some 10 s on two cores
MIN_PRODUCTS = 10
MAX_PRODUCTS = 200
RESIDUAL = 0.1  # of the lowest ratio: its error at which it is known well enough
MISSED = 0.01  # probability up to which a negative one may have been missed
ROUNDING = 1e-10  # ratios that are smaller have no sign

Product = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class LowestCurvature:
    r"""The direction in which the exact Hessian H is lowest in units of A.

    Attributes
    ----------
    smallest_ratio : float
        Lowest :math:`v^T H v / v^T A v` found: the true one is not larger.
    smallest_ratio_error : float
        An eigenvalue of the pencil (H, A) lies within this distance; 0 where it is exact.
    smallest_eigenvalue : float
        :math:`v^T H v / v^T v` of the same direction; that of H where it is exact.
    eigenvalue_error : float
        Norm of the residual :math:`H v - \lambda v` for v of length 1; 0 where it is exact.
    missed : float
        Bound of the probability, over the random start of the search, that the sign is another.
    """

    smallest_ratio: float
    smallest_ratio_error: float
    smallest_eigenvalue: float
    eigenvalue_error: float
    missed: float

    @property
    def sign(self) -> str:
        """Of the lowest eigenvalue of H: "positive", "negative" or "not decided"."""
        if np.isnan(self.smallest_ratio):  # a file of symspec 0.1, or never asked for
            names = {1.0: "positive", -1.0: "negative"}
            return names.get(np.sign(self.smallest_eigenvalue), "not decided")
        if self.smallest_ratio < -ROUNDING:  # a direction in which U curves down
            return "negative"
        is_known = self.smallest_ratio > max(self.smallest_ratio_error, ROUNDING)
        return "positive" if is_known and self.missed <= MISSED else "not decided"


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


def find_lowest_curvature(
    product: Product, inverse: LinearOperator, n_products: int
) -> LowestCurvature:
    """Lowest eigenpair of the pencil of the Hessian and the inverse of `inverse`.

    Dense for up to `DENSE_LIMIT` parameters. Otherwise by at most `n_products` products with H: one
    for each step of Lanczos in the inner product of A, beside one with A^-1, and one for the
    eigenvalue. The steps end when the lowest ratio is known to a tenth of itself and, if it is
    positive, a negative one has been missed with a probability of at most 1 % over the random start
    (Kuczynski & Wozniakowski 1992, doi:10.1137/0613066).
    """
    n = inverse.shape[0]
    if n <= DENSE_LIMIT:
        return _find_dense(np.stack([product(e) for e in np.eye(n)]), inverse @ np.eye(n))
    return _find_by_lanczos(product, inverse, min(n_products, n))


def count_products(n_params: int, n_stars: int) -> int:
    """Products with the Hessian that a search may take."""
    return int(np.clip(PRODUCT_BUDGET / (n_params * n_stars), MIN_PRODUCTS, MAX_PRODUCTS))


def _find_dense(H: np.ndarray, inverse: np.ndarray) -> LowestCurvature:
    H = (H + H.T) / 2
    variances, axes = eigh((inverse + inverse.T) / 2)
    root = axes * np.sqrt(np.maximum(variances, 0))
    return LowestCurvature(
        smallest_ratio=float(eigh(root.T @ H @ root, eigvals_only=True)[0]),
        smallest_ratio_error=0.0,
        smallest_eigenvalue=float(eigh(H, eigvals_only=True)[0]),
        eigenvalue_error=0.0,
        missed=0.0,
    )


def _find_by_lanczos(product: Product, inverse: LinearOperator, n_products: int) -> LowestCurvature:
    r"""Lanczos's recurrence for A^-1 H, with :math:`v_j = A^{-1} p_j` and :math:`v^T A v = 1`."""
    n = inverse.shape[0]
    diagonal: list[float] = []
    off: list[float] = []
    basis: list[np.ndarray] = []
    before = np.zeros(n)
    p = np.random.default_rng(0).normal(size=n)
    v = inverse @ p
    size = np.sqrt(p @ v)
    for _ in range(n_products - 1):
        p = p / size
        v = v / size
        basis.append(v)
        w = product(v) - (off[-1] if off else 0.0) * before
        diagonal.append(float(v @ w))
        w -= diagonal[-1] * p
        before = p
        p = w
        v = inverse @ p
        size = np.sqrt(max(p @ v, 0.0))
        off.append(float(size))
        values, vectors = eigh_tridiagonal(diagonal, off[:-1])
        error = off[-1] * abs(vectors[-1, 0])
        is_invariant = off[-1] <= 1e-12 * np.abs(values).max()
        missed = 0.0 if is_invariant else _bound_missed(values, error, n)
        if is_invariant or (error <= RESIDUAL * abs(values[0]) and missed <= MISSED):
            break
    direction = sum(s * v for s, v in zip(vectors[:, 0], basis, strict=True))
    direction = direction / np.linalg.norm(direction)
    image = product(direction)
    eigenvalue = float(direction @ image)
    return LowestCurvature(
        smallest_ratio=float(values[0]),
        smallest_ratio_error=float(error),
        smallest_eigenvalue=eigenvalue,
        eigenvalue_error=float(np.linalg.norm(image - eigenvalue * direction)),
        missed=missed,
    )


def _bound_missed(values: np.ndarray, error: float, n: int) -> float:
    r"""Bound of the probability that there is a negative eigenvalue though no Ritz value is.

    After k steps from a random start the lowest Ritz value is above the lowest eigenvalue by more
    than :math:`\epsilon` of the spectrum's width with a probability of at most
    :math:`1.648 \sqrt n\, e^{-\sqrt\epsilon (2k - 1)}`.
    """
    if values[0] <= 0:
        return 0.0
    width = values[-1] + error
    exponent = np.sqrt(values[0] / width) * (2 * len(values) - 1)
    return float(min(1.0, 1.648 * np.sqrt(n) * np.exp(-exponent)))
