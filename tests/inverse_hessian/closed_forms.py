"""Closed forms in 150 digits, which share nothing with the package but the design matrix."""

from decimal import Decimal, localcontext

import numpy as np

DIGITS = 150


def find_exact_sd(X, X_new, sigma, prior):
    """Standard deviations (star,) of one label of a linear network with bias."""
    with localcontext() as context:
        context.prec = DIGITS
        rows, new = (to_decimals(np.c_[A, np.ones(len(A))]) for A in (X, X_new))
        noise, precision = Decimal(float(sigma)) ** 2, Decimal(float(prior))
        if len(rows) < rows.shape[1]:
            M = rows.dot(rows.T) / precision
            M[np.diag_indices(len(M))] += noise
            Z = solve_lower(factorize(M), rows.dot(new.T) / precision)
            variances = [x.dot(x) / precision - z.dot(z) for x, z in zip(new, Z.T, strict=True)]
        else:
            A = rows.T.dot(rows) / noise
            A[np.diag_indices(len(A))] += precision
            Z = solve_lower(factorize(A), new.T)
            variances = [z.dot(z) for z in Z.T]
        return np.array([float(v.sqrt()) for v in variances])


def to_decimals(A):
    return np.array([[Decimal(float(x)) for x in row] for row in A], dtype=object)


def factorize(A):
    """Lower Cholesky factor of a positive definite matrix of decimals."""
    A = A.copy()
    n = len(A)
    for k in range(n):
        A[k, k] = A[k, k].sqrt()
        A[k + 1 :, k] /= A[k, k]
        for j in range(k + 1, n):
            A[j:, j] -= A[j, k] * A[j:, k]
        A[k, k + 1 :] = Decimal(0)
    return A


def solve_lower(L, B):
    Z = B.copy()
    for k in range(len(L)):
        Z[k] = (Z[k] - L[k, :k].dot(Z[:k])) / L[k, k] if k else Z[k] / L[k, k]
    return Z
