"""Certificate of the optimum: the distance of weights from a minimum of the log posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal
from scipy.sparse.linalg import LinearOperator, lobpcg

MAX_DECREMENT = 1e-2
DENSE_LIMIT = 400
PRODUCT_BUDGET = 1e11  # parameters x stars x products: some 10 s on two cores


@dataclass(frozen=True, kw_only=True)
class Certificate:
    r"""Tests of whether weights are at a minimum of the negative log posterior U.

    Attributes
    ----------
    gradient_norm : float
        Largest absolute entry of the gradient g of U, in nats per unit of the weight.
    newton_decrement : float
        :math:`g^T A^{-1} g / 2`, in nats: the gain of a Newton step. An approximation or an upper
        bound where A^-1 is one; with structure="krylov" an upper bound from its subset.
    smallest_eigenvalue : float
        Of the exact Hessian of U, from Rayleigh quotients: the true one is not larger.
    eigenvalue_error : float
        Norm of its eigenvector's residual: an eigenvalue lies within this distance.
    largest_eigenvalue : float
        Of the exact Hessian, from a Rayleigh quotient: the true one is not smaller.
    newton_shift : numpy.ndarray, shape (label,)
        Root mean square, over the training stars, of the change of the predictions by a Newton
        step, in the units of the labels.
    is_minimum : bool
        Whether the decrement is at most 0.01 nats and no negative eigenvalue was found.
    message : str
        The verdict with its numbers.
    """

    gradient_norm: float
    newton_decrement: float
    smallest_eigenvalue: float
    eigenvalue_error: float
    largest_eigenvalue: float
    newton_shift: np.ndarray
    is_minimum: bool
    message: str


def certify(
    gradient: np.ndarray,
    inverse: LinearOperator,
    hessian_product: Callable[[np.ndarray], np.ndarray],
    newton_shift: np.ndarray,
    n_stars: int,
) -> Certificate:
    """Certificate from the gradient (param,), inverse curvature and exact Hessian products."""
    decrement = 0.5 * float(gradient @ (inverse @ gradient))
    norm = float(np.abs(gradient).max())
    smallest, error, largest = find_extreme_eigenvalues(hessian_product, inverse, n_stars)
    is_minimum = bool(decrement <= MAX_DECREMENT and smallest > 0)
    numbers = (
        f"|gradient| {norm:.3g}, Newton decrement {decrement:.3g} nats (at most {MAX_DECREMENT:g}),"
        f" smallest eigenvalue of the Hessian {smallest:.4g} +- {error:.1g}, largest {largest:.4g}"
    )
    shift = ", ".join(f"{s:.3g}" for s in newton_shift)
    verdict = (
        f"at a minimum: {numbers}."
        if is_minimum
        else f"not at a minimum: {numbers}; a Newton step would change the labels by {shift} (rms)."
    )
    return Certificate(
        gradient_norm=norm,
        newton_decrement=decrement,
        smallest_eigenvalue=smallest,
        eigenvalue_error=error,
        largest_eigenvalue=largest,
        newton_shift=newton_shift,
        is_minimum=is_minimum,
        message=verdict,
    )


def find_extreme_eigenvalues(
    product: Callable[[np.ndarray], np.ndarray], inverse: LinearOperator, n_stars: int
) -> tuple[float, float, float]:
    """Smallest eigenvalue of the Hessian, norm of its residual, and largest eigenvalue.

    Dense for few parameters. Otherwise within a budget of products: the smallest by locally optimal
    conjugate gradients (Knyazev 2001, doi:10.1137/S1064827500366124) preconditioned by the inverse
    of the curvature, the largest by Lanczos.
    """
    n = inverse.shape[0]
    if n <= DENSE_LIMIT:
        H = np.stack([product(e) for e in np.eye(n)])
        values = np.linalg.eigvalsh((H + H.T) / 2)
        return float(values[0]), 0.0, float(values[-1])
    n_products = int(np.clip(PRODUCT_BUDGET / (n * n_stars), 2, 60))
    smallest, error = _find_smallest(product, inverse, n_products)
    return smallest, error, _find_largest(product, n, min(n_products, 20))


def _find_smallest(
    product: Callable[[np.ndarray], np.ndarray], inverse: LinearOperator, n_products: int
) -> tuple[float, float]:
    n = inverse.shape[0]
    operator = LinearOperator((n, n), matvec=lambda v: product(v.ravel()), dtype=np.float64)
    start = inverse @ np.random.default_rng(0).normal(size=n)
    with warnings.catch_warnings():
        # of no convergence; the residual below says how good the eigenvector is
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = lobpcg(
            operator, start[:, None], M=inverse, largest=False, maxiter=n_products, tol=1e-6
        )
    v = vectors[:, 0] / np.linalg.norm(vectors[:, 0])
    Hv = product(v)
    value = float(v @ Hv)
    return value, float(np.linalg.norm(Hv - value * v))


def _find_largest(product: Callable[[np.ndarray], np.ndarray], n: int, n_products: int) -> float:
    """Largest Ritz value of Lanczos's recurrence, which loss of orthogonality does not affect."""
    q = np.random.default_rng(1).normal(size=n)
    before = np.zeros(n)
    q /= np.linalg.norm(q)
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(n_products):
        w = product(q) - (off[-1] if off else 0.0) * before
        diagonal.append(float(w @ q))
        w -= diagonal[-1] * q
        off.append(float(np.linalg.norm(w)))
        if off[-1] <= 1e-12 * abs(diagonal[0]):
            break
        before = q
        q = w / off[-1]
    return float(eigvalsh_tridiagonal(diagonal, off[: len(diagonal) - 1])[-1])
