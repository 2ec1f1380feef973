"""Solutions of H x = b, H being the exact Hessian of U, by products with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator

from symspec.errors import NotPositiveDefiniteError
from symspec.training.steps.bundles import STORED_BYTES
from symspec.training.steps.stationary_points import Product, Vector

SOLUTION = 1e-16  # squared residual in the norm of A^-1, relative
MAX_PRODUCTS = 500
LONG = 15  # products from which on a solution teaches others
MOST_DIRECTIONS = 80  # that are kept: products with them cost as much as one with A^-1
ODD = 1.5  # factor by which H differs from A along a direction that is kept
ALIKE = 1e-6  # relative length of what a direction adds to others, which rounding may be


class HessianSolver:
    r"""Solves with H by conjugate gradients in the coordinates of A, and learns from each solution.

    Near a minimum most eigenvalues of A^-1 H are near 1, and some sixty products with H do; where
    H is A, as for a network without hidden layers and normal noise, it is one. The directions in
    which they are not, which the first solution has met, are taken out of the next ones.

    Parameters
    ----------
    product : callable
        H v of a vector v (param,).
    inverse : LinearOperator
        Products with A^-1, positive definite.
    tolerance : float
        Squared residual in the norm of A^-1, relative, at which a solution is done.
    learned : Directions, optional
        With this product, found by another solver at weights, noise and prior nearby.

    Attributes
    ----------
    learned : Directions or None
        What was learned so far.
    """

    def __init__(
        self,
        product: Product,
        inverse: LinearOperator,
        *,
        tolerance: float = SOLUTION,
        learned: Directions | None = None,
    ):
        self._product = product
        self._inverse = inverse
        self._tolerance = tolerance
        self.learned = learned

    def solve(self, b: Vector) -> Vector:
        """Find x = H^-1 b (param,).

        Raises
        ------
        NotPositiveDefiniteError
            H curves down along a direction, or is so flat that the products allowed did not
            suffice.
        """
        precondition = correct(self._inverse.dot, self.learned)
        run = _Run(b.size)
        x = np.zeros_like(b)
        z = precondition(b)
        direction, force = z, b  # force: the direction by what `precondition` inverts
        size = first = float(b @ z)
        for _ in range(MAX_PRODUCTS):
            if size <= self._tolerance * first:
                self.learned = run.find_directions(self.learned)
                return x
            image = self._product(direction)
            curvature = float(direction @ image)
            if curvature <= 0:
                raise _refuse(f"along one direction its curvature is {curvature:.3g}", curvature)
            run.add(direction, force, image)
            x = x + size / curvature * direction
            b = b - size / curvature * image
            z = precondition(b)
            size, before = float(b @ z), size
            direction = z + size / before * direction
            force = b + size / before * force
        raise _refuse(f"{MAX_PRODUCTS} products with it did not suffice to solve with it", 0.0)


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions s (k, param) in which H is unlike A, and their images H s (k, param).

    They are conjugate: s H s^T is 1 for each, and 0 for two.
    """

    s: np.ndarray
    images: np.ndarray

    def at(self, product: Product) -> Directions | None:
        """The same directions by the products with another H."""
        return _conjugate(self.s, np.array([product(v) for v in self.s]))


@dataclass(eq=False)
class Lessons:
    """What one solver after another has learned, each at weights, noise and prior of its own."""

    learned: Directions | None = None

    def at(self, product: Product) -> Directions | None:
        """The same by the products with H at some place."""
        return None if self.learned is None else self.learned.at(product)


def correct(inverse: Product, learned: Directions | None) -> Product:
    r"""Products with an inverse that is that of H in the directions learned.

    .. math:: (1 - S^T T) A^{-1} (1 - T^T S) + S^T S, \qquad T = S H

    It is positive definite, and leaves no eigenvalue farther from 1 than A^-1 does (Gratton,
    Sartenaer & Tshimanga 2011, SIAM J. Optim. 21, 912).
    """
    if learned is None:
        return inverse
    s, images = learned.s, learned.images

    def precondition(b: Vector) -> Vector:
        solved = s @ b
        z = inverse(b - solved @ images)
        return z + (solved - images @ z) @ s

    return precondition


class _Run:
    """Directions p of one solution, M p and H p, as many as may be kept."""

    def __init__(self, n_params: int):
        most = int(min(MAX_PRODUCTS, STORED_BYTES / (24 * n_params)))
        self._most = most if most >= LONG else 0
        self._triples: list[tuple[Vector, Vector, Vector]] = []

    def add(self, direction: Vector, force: Vector, image: Vector) -> None:
        if len(self._triples) < self._most:
            size = np.sqrt(direction @ force)
            self._triples.append((direction / size, force / size, image / size))

    def find_directions(self, known: Directions | None) -> Directions | None:
        """The known directions, and those in which H is unlike M (Rayleigh & Ritz)."""
        if len(self._triples) < LONG:
            return known
        p, forces, images = map(np.array, zip(*self._triples, strict=True))
        axes = _normalize(p @ forces.T)
        ratios, vectors = eigh(axes.T @ (p @ images.T) @ axes)
        oddness = np.abs(np.log(np.maximum(ratios, ALIKE)))
        chosen = np.argsort(-oddness, kind="stable")[:MOST_DIRECTIONS]
        combine = (axes @ vectors[:, chosen[oddness[chosen] > np.log(ODD)]]).T
        s, images = combine @ p, combine @ images
        if known is not None:
            s = np.concatenate([s, known.s])[:MOST_DIRECTIONS]
            images = np.concatenate([images, known.images])[:MOST_DIRECTIONS]
        return _conjugate(s, images)


def _conjugate(s: np.ndarray, images: np.ndarray) -> Directions | None:
    """Conjugate directions in the span of some, without those along which H does not rise."""
    curvatures = np.einsum("kp,kp->k", s, images)
    rises = curvatures > 0
    if not rises.any():
        return None
    scale = np.sqrt(curvatures[rises])[:, None]
    s, images = s[rises] / scale, images[rises] / scale
    axes = _normalize(s @ images.T).T
    return Directions(axes @ s, axes @ images)


def _normalize(products: np.ndarray) -> np.ndarray:
    """Combinations (k, l) of vectors, by the products (k, k) of these, that are orthonormal."""
    squares, axes = eigh((products + products.T) / 2)
    kept = squares > ALIKE * squares[-1]
    return axes[:, kept] / np.sqrt(squares[kept])


def _refuse(found: str, curvature: float) -> NotPositiveDefiniteError:
    return NotPositiveDefiniteError(
        f"the exact Hessian should be positive definite, but {found}: the weights are no minimum of"
        " the negative log posterior, or a flat one. Train on (symspec.polish), or use"
        ' curvature="ggn".',
        curvature,
    )
