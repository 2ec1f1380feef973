r"""What tells minima of U from saddles: the lowest curvature.

The sign of the lowest eigenvalue of the exact Hessian H is that of the pencil
:math:`H v = \rho A v` for any positive definite A (Sylvester's law of inertia). In units of A most
eigenvalues are near 1, so that a few products with H tell the lowest from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

Vector = np.ndarray
Product = Callable[[Vector], Vector]
DENSE_LIMIT = 400
PRODUCT_BUDGET = 1e11  # parameters x stars x products: some 10 s on two cores
MIN_PRODUCTS = 10
MAX_PRODUCTS = 500
BASIS_BYTES = 2**31  # of the vectors that as many products leave
RESIDUAL = 0.1  # of the lowest ratio: its error at which it is known well enough
MISSED = 0.01  # probability up to which a negative one may have been missed
ROUNDING = 1e-10  # ratios that are smaller have no sign


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


def find_lowest_curvature(
    product: Product, inverse: LinearOperator, n_products: int, n_held: int = 0
) -> LowestCurvature:
    """Lowest eigenpair of the pencil of the Hessian and the inverse of `inverse`.

    `inverse` may be zero in `n_held` directions: the pencil is that of the others.

    Dense for up to `DENSE_LIMIT` parameters. Otherwise by at most `n_products` products with H: one
    for each step of Lanczos in the inner product of A, beside one with A^-1, and one for the
    eigenvalue. The steps end when the lowest ratio is known to a tenth of itself and, if it is
    positive, a negative one has been missed with a probability of at most 1 % over the random start
    (Kuczynski & Wozniakowski 1992, doi:10.1137/0613066).
    """
    n = inverse.shape[0]
    if n <= DENSE_LIMIT:
        H = np.stack([product(e) for e in np.eye(n)])
        return _find_dense(H, inverse @ np.eye(n), n_held)
    lowest = find_lowest(product, inverse, min(n_products, n) - 1)
    direction = lowest.vector / np.linalg.norm(lowest.vector)
    image = product(direction)
    eigenvalue = float(direction @ image)
    return LowestCurvature(
        smallest_ratio=lowest.value,
        smallest_ratio_error=lowest.error,
        smallest_eigenvalue=eigenvalue,
        eigenvalue_error=float(np.linalg.norm(image - eigenvalue * direction)),
        missed=lowest.missed,
    )


def count_products(n_params: int, n_stars: int) -> int:
    """Products with the Hessian that a search may take."""
    most = min(MAX_PRODUCTS, BASIS_BYTES / (8 * n_params), PRODUCT_BUDGET / (n_params * n_stars))
    return max(MIN_PRODUCTS, int(most))


def _find_dense(H: np.ndarray, inverse: np.ndarray, n_held: int) -> LowestCurvature:
    variances, axes = eigh((inverse + inverse.T) / 2)
    variances = variances[n_held:]
    axes = axes[:, n_held:]
    H = axes.T @ ((H + H.T) / 2) @ axes
    root = np.sqrt(np.maximum(variances, 0))
    return LowestCurvature(
        smallest_ratio=float(eigh(root[:, None] * H * root, eigvals_only=True)[0]),
        smallest_ratio_error=0.0,
        smallest_eigenvalue=float(eigh(H, eigvals_only=True)[0]),
        eigenvalue_error=0.0,
        missed=0.0,
    )


@dataclass(frozen=True, eq=False)
class Eigenpair:
    """An eigenvalue of (H, A) and its vector x (param,), of length 1 in the norm of A.

    Attributes
    ----------
    value : float
        The true lowest one is not larger.
    vector : numpy.ndarray, shape (param,)
    error : float
        An eigenvalue lies within this distance.
    missed : float
        Bound of the probability, over the random start, that there is a negative one though this
        one is positive.
    """

    value: float
    vector: Vector
    error: float
    missed: float


def find_lowest(product: Product, inverse: LinearOperator, n_products: int) -> Eigenpair:
    """Lowest eigenpair of (H, A), as far as its sign matters, in at most so many steps."""
    n = inverse.shape[0]
    lanczos = Lanczos(product, inverse, np.random.default_rng(0).normal(size=n))
    for _ in range(n_products):
        lanczos.grow()
        missed = 0.0 if lanczos.is_whole else _bound_missed(lanczos, n)
        is_known = lanczos.error <= RESIDUAL * abs(lanczos.lowest)
        if lanczos.is_whole or (is_known and missed <= MISSED):
            break
    return Eigenpair(lanczos.lowest, lanczos.find_vector(), lanczos.error, missed)


class Lanczos:
    r"""Lanczos's recurrence for A^-1 H in the inner product of A, from A^-1 p on.

    The vectors :math:`v_j = A^{-1} p_j`, of which each takes a product with H and one with A^-1,
    have :math:`v_j^T A v_k = \delta_{jk}`; in their span H is tridiagonal.

    Parameters
    ----------
    product : callable
        H v.
    inverse : LinearOperator
        Products with A^-1.
    p : numpy.ndarray, shape (param,)

    Attributes
    ----------
    lowest, highest : float
        Eigenvalues of H in the span.
    """

    def __init__(self, product: Product, inverse: LinearOperator, p: Vector):
        self._product = product
        self._inverse = inverse
        self._basis: list[Vector] = []
        self._diagonal: list[float] = []
        self._off: list[float] = []
        self._before = np.zeros_like(p)
        self._p = p
        self._v = inverse @ p
        self._norm = float(np.sqrt(max(p @ self._v, 0.0)))  # of p, in the norm of A^-1

    def __len__(self) -> int:
        return len(self._basis)

    @property
    def is_whole(self) -> bool:
        """Whether the span is invariant: there is nothing to add."""
        return self._off[-1] <= 1e-12 * max(abs(self.lowest), abs(self.highest))

    def grow(self) -> None:
        """Take a step."""
        size = self._off[-1] if self._off else self._norm
        p = self._p / size
        v = self._v / size
        self._basis.append(v)
        w = self._product(v) - (self._off[-1] if self._off else 0.0) * self._before
        self._diagonal.append(float(v @ w))
        w -= self._diagonal[-1] * p
        self._before = p
        self._p = w
        self._v = self._inverse @ w
        self._off.append(float(np.sqrt(max(w @ self._v, 0.0))))
        last = len(self) - 1
        low, vectors = self._find_eigenvalue(0)
        high, _ = self._find_eigenvalue(last)
        self.lowest, self.highest = float(low[0]), float(high[0])
        self._coefficients = vectors[:, 0]

    def _find_eigenvalue(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The one alone: all would cost more than the step where there are hundreds."""
        return eigh_tridiagonal(self._diagonal, self._off[:-1], select="i", select_range=(i, i))

    @property
    def error(self) -> float:
        """An eigenvalue of (H, A) lies within this distance of the lowest."""
        return float(self._off[-1] * abs(self._coefficients[-1]))

    def find_vector(self) -> Vector:
        """That of the lowest (param,), of length 1 in the norm of A."""
        pairs = zip(self._coefficients, self._basis, strict=True)
        return sum((c * v for c, v in pairs), np.zeros_like(self._p))


def _bound_missed(lanczos: Lanczos, n: int) -> float:
    r"""Bound of the probability that there is a negative eigenvalue though no Ritz value is.

    After k steps from a random start the lowest Ritz value is above the lowest eigenvalue by more
    than :math:`\epsilon` of the spectrum's width with a probability of at most
    :math:`1.648 \sqrt n\, e^{-\sqrt\epsilon (2k - 1)}`.
    """
    if lanczos.lowest <= 0:
        return 0.0
    width = lanczos.highest + lanczos.error
    exponent = np.sqrt(lanczos.lowest / width) * (2 * len(lanczos) - 1)
    return float(min(1.0, 1.648 * np.sqrt(n) * np.exp(-exponent)))
