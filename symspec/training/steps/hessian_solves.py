"""Solutions of H x = b, H being the exact Hessian of U, by products with it."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.errors import NotPositiveDefiniteError
from symspec.training.steps.stationary_points import Product, Vector

SOLUTION = 1e-16  # squared residual in the norm of A^-1, relative
MAX_PRODUCTS = 500


def solve_hessian(product: Product, inverse: LinearOperator, b: Vector) -> Vector:
    r"""Find x = H^-1 b (param,) by conjugate gradients in the coordinates of A.

    Near a minimum most eigenvalues of A^-1 H are near 1, and some sixty products with H do; where
    H is A, as for a network without hidden layers and normal noise, it is one.

    Parameters
    ----------
    product : callable
        H v of a vector v (param,).
    inverse : LinearOperator
        Products with A^-1, positive definite.
    b : numpy.ndarray, shape (param,)

    Raises
    ------
    NotPositiveDefiniteError
        H curves down along a direction, or is so flat that the products allowed did not suffice.
    """
    x = np.zeros_like(b)
    z = inverse @ b
    direction = z
    size = first = float(b @ z)
    for _ in range(MAX_PRODUCTS):
        if size <= SOLUTION * first:
            return x
        image = product(direction)
        curvature = float(direction @ image)
        if curvature <= 0:
            raise _refuse(f"along one direction its curvature is {curvature:.3g}", curvature)
        x = x + size / curvature * direction
        b = b - size / curvature * image
        z = inverse @ b
        size, before = float(b @ z), size
        direction = z + size / before * direction
    raise _refuse(f"{MAX_PRODUCTS} products with it did not suffice to solve with it", 0.0)


def _refuse(found: str, curvature: float) -> NotPositiveDefiniteError:
    return NotPositiveDefiniteError(
        f"the exact Hessian should be positive definite, but {found}: the weights are no minimum of"
        " the negative log posterior, or a flat one. Train on (symspec.polish), or use"
        ' curvature="ggn".',
        curvature,
    )
