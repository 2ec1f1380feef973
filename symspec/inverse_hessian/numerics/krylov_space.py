"""Krylov spaces of M = 1 + K for a positive K known by its products.

They give solutions, brackets and log determinants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh_tridiagonal, qr

from symspec.errors import DataError
from symspec.safety.checkpoint import Checkpoint

Product = Callable[[np.ndarray], np.ndarray]
Block = tuple[np.ndarray, np.ndarray]  # of the basis, and its products
DEPENDENT = 1e-10  # new directions shorter than this, in units of the longest, are rounding
N_PROBES = 16
MAX_STEPS = 100


@dataclass(frozen=True)
class KrylovLimits:
    """When to stop.

    Attributes
    ----------
    tolerance : float
        Relative width of the interval of each standard deviation.
    max_iterations : int
    max_seconds : float or None
        For one call of `label_covariance`. The bounds are then as wide as they are.
    max_bytes : float
        What a Krylov space may take, likewise.
    """

    tolerance: float = 0.01
    max_iterations: int = 200
    max_seconds: float | None = None
    max_bytes: float = 2.0**31


class KrylovSpace:
    """Orthonormal basis U (row, p), grown block by block, with its products K U.

    Blocks are kept in the checkpoint: a space that is grown again takes them from there.

    Parameters
    ----------
    product : callable
        K times vectors (row, k).
    n_rows : int
    checkpoint : Checkpoint
    stage : str
        Name of the space in the checkpoint.
    dtype : dtype, default float64
        What vectors are kept in; sums are in float64.
    """

    def __init__(
        self,
        product: Product,
        n_rows: int,
        checkpoint: Checkpoint,
        stage: str,
        dtype: Any = np.float64,
    ):
        self._product = product
        self._n_rows = n_rows
        self._checkpoint = checkpoint
        self._stage = stage
        self._dtype = dtype
        self._blocks: list[Block] = []
        self._projected = np.empty((0, 0))  # U^T K U
        self._noise = np.empty(0)  # variance of its rounding errors, column by column
        self._kept = checkpoint.load(stage) or {}

    @property
    def n_blocks(self) -> int:
        """Number of times that the space has grown."""
        return len(self._blocks)

    @property
    def n_columns(self) -> int:
        """Dimension of the space."""
        return len(self._projected)

    def expand(self, residuals: np.ndarray) -> bool:
        """Add the directions of `residuals` (row, k); False if they bring nothing new."""
        names = _name_block(self.n_blocks)
        if self._kept.keys() >= set(names):
            self._add(*(self._kept.pop(name) for name in names))
            return True
        new = self._orthogonalize(residuals).astype(self._dtype)
        if new.shape[1] == 0:
            return False
        self._add(new, self._product(new).astype(self._dtype))
        arrays: dict[str, np.ndarray] = {}
        for i, block in enumerate(self._blocks):
            arrays.update(zip(_name_block(i), block, strict=True))
        self._checkpoint.save(self._stage, arrays, now=False)
        return True

    def project(self, k: np.ndarray) -> np.ndarray:
        """U^T k (p, k) of vectors (row, k)."""
        return np.concatenate([np.empty((0, k.shape[1])), *(U.T @ k for U, _ in self._blocks)])

    def solve(self, projected: np.ndarray) -> np.ndarray:
        """Coefficients (p, k) in the basis of the Galerkin solution of M x = k, from U^T k.

        Raises
        ------
        DataError
            M, of which no eigenvalue is below 1, is not positive definite in float64.
        """
        M = np.eye(len(self._projected)) + self._projected
        try:
            return cho_solve(cho_factor(M, lower=True), projected)
        except (np.linalg.LinAlgError, ValueError) as error:  # ValueError: it is not finite
            raise DataError(
                "the products of conjugate gradients have lost all digits: flux, noise and prior"
                " differ by so many orders of magnitude that float64 does not hold; standardise"
                " the flux, or raise prior_precision."
            ) from error

    def combine(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X = U c and M x (row, k) for coefficients c (p, k)."""
        x = np.zeros((self._n_rows, coefficients.shape[1]))
        Kx = np.zeros_like(x)
        first = 0
        for U, KU in self._blocks:
            c = coefficients[first : first + U.shape[1]]
            first += len(c)
            x += U @ c
            Kx += KU @ c
        return x, x + Kx

    def estimate_noise(self, coefficients: np.ndarray) -> np.ndarray:
        """Standard deviations (k,) of c^T N c, with N the rounding errors of U^T K U."""
        squares = coefficients**2
        return np.sqrt(squares.sum(axis=0) * (self._noise @ squares))

    def _add(self, U: np.ndarray, KU: np.ndarray) -> None:
        p = self.n_columns
        self._blocks.append((U, KU))
        KU = KU.astype(np.float64)
        across = self.project(KU)
        variance = self._find_asymmetry(across)
        self._noise = np.concatenate([self._noise, np.full(U.shape[1], variance)])
        self._projected = np.block(
            [[self._projected, across[:p]], [across[:p].T, (across[p:] + across[p:].T) / 2]]
        )

    def _find_asymmetry(self, across: np.ndarray) -> float:
        """Mean square of errors of U^T K u of the last block u: it is symmetric but for these."""
        k = self._blocks[-1][0].shape[1]
        own = across[-k:]
        gaps = [(own - own.T)[np.triu_indices(k, 1)]]
        if self.n_blocks > 1:
            _, before = self._blocks[-2]
            of_last = before.astype(np.float64).T @ self._blocks[-1][0]
            gaps.append((across[-k - len(of_last) : -k] - of_last).ravel())
        squares = np.concatenate(gaps) ** 2
        return float(np.mean(squares)) / 2 if squares.size else 0.0

    def _orthogonalize(self, R: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(R, axis=0)
        R = R[:, lengths > 0] / lengths[lengths > 0]
        for _ in range(2):  # once leaves rounding of the size of what was taken away
            for U, _ in self._blocks:
                R = R - U @ (U.T @ R)
        if R.shape[1] == 0:
            return R
        Q, triangle, _ = qr(R, mode="economic", pivoting=True)
        sizes = np.abs(np.diag(triangle))
        return Q[:, : np.count_nonzero(sizes > DEPENDENT)]


def _name_block(i: int) -> tuple[str, str]:
    """Names of a block of the basis and of its products in the checkpoint."""
    return f"basis {i}", f"products {i}"


class Brackets:
    r"""Bounds of :math:`V = V_s - k^T M^{-1} k` for many stars, from the iterates so far.

    Parameters
    ----------
    start : numpy.ndarray, shape (star, label, label)
        V_s.
    k : numpy.ndarray, shape (row, star, label)

    Attributes
    ----------
    x, residuals : numpy.ndarray, shape (row, star, label)
        Solutions within the space, and k - M x.
    noise : numpy.ndarray, shape (star, label)
        Standard deviation of what rounding of products made of the variances.
    upper, lower : numpy.ndarray, shape (star, label, label)
    """

    def __init__(self, start: np.ndarray, k: np.ndarray):
        self.start = start
        self.k = k
        self.x = np.zeros_like(k)
        self.residuals = k.copy()
        self.noise = np.zeros(k.shape[1:])
        self.upper = start.copy()
        self.lower = np.zeros_like(start)
        self._history: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in start]
        self._raise_lower(np.arange(len(start)))

    def find_wide(self, tolerance: float) -> np.ndarray:
        """Mask (star,) of those with an interval of relative width beyond `tolerance`."""
        low, high = (np.diagonal(V, axis1=1, axis2=2) for V in (self.lower, self.upper))
        return (np.sqrt(np.maximum(low, 0)) < (1 - tolerance) * np.sqrt(high)).any(axis=1)

    def update(self, space: KrylovSpace, wide: np.ndarray) -> None:
        """Take the solution within a space that has grown by the residuals of the stars `wide`."""
        rows, _, C = self.k.shape
        k = self.k[:, wide].reshape(rows, -1)
        projected = space.project(k)
        coefficients = space.solve(projected)
        x, Mx = space.combine(coefficients)
        self.x[:, wide] = x.reshape(rows, -1, C)
        self.residuals[:, wide] = (k - Mx).reshape(rows, -1, C)
        self.noise[wide] = space.estimate_noise(coefficients).reshape(-1, C)
        by_star = (-1, int(wide.sum()), C)
        gain = np.einsum("pnc,pnd->ncd", projected.reshape(by_star), coefficients.reshape(by_star))
        self.upper[wide] = self.start[wide] - (gain + gain.transpose(0, 2, 1)) / 2
        self._raise_lower(np.flatnonzero(wide))

    def _raise_lower(self, stars: np.ndarray) -> None:
        for n in stars:
            rho = self.residuals[:, n]
            self._history[n].append((self.upper[n].copy(), rho.T @ rho))
            self.lower[n] = _lower_bound(self._history[n])


def _lower_bound(history: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """H^T F^-1 h for the upper bounds and squared residuals (label, label) of all iterates."""
    t = len(history)
    C = len(history[0][0])
    F = np.empty((t, C, t, C))
    for i, (V, R) in enumerate(history):
        F[i, :, i:] = V[:, None, :]
        F[i:, :, i] = V
        F[i, :, i] = V + R
    h = np.concatenate([V for V, _ in history])
    try:
        factor = cho_factor(F.reshape(t * C, t * C), lower=True)
    except np.linalg.LinAlgError:
        # rounding, once the residuals are small: the last iterate alone is as good
        V, R = history[-1]
        h = V
        try:
            factor = cho_factor(V + R, lower=True)
        except np.linalg.LinAlgError:
            return np.zeros_like(V)
    return h.T @ cho_solve(factor, h)


def estimate_log_det(product: Product, n_rows: int, dense_rows: int) -> tuple[float, float]:
    """Log det (1 + K) and its standard error by stochastic Lanczos quadrature; exact for few rows.

    Ubaru, Chen & Saad 2017, doi:10.1137/16M1104974, with full reorthogonalisation and the same
    probes every time.
    """
    if n_rows <= dense_rows:
        K = product(np.eye(n_rows))
        return float(np.linalg.slogdet(np.eye(n_rows) + (K + K.T) / 2)[1]), 0.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(n_rows, N_PROBES))
    estimates = _integrate_logarithm(product, signs / np.sqrt(n_rows)) * n_rows
    return float(estimates.mean()), float(estimates.std(ddof=1) / np.sqrt(N_PROBES))


def _integrate_logarithm(product: Product, Q: np.ndarray) -> np.ndarray:
    """q^T log(1 + K) q of each unit column q, by Lanczos.

    It ends where the mean moves by less than a tenth of its standard error.
    """
    basis = [Q]
    diagonals = []
    off = np.empty((0, Q.shape[1]))
    before = np.full(Q.shape[1], np.inf)
    while True:
        W = product(basis[-1])
        diagonals.append(np.sum(W * basis[-1], axis=0))
        for _ in range(2):
            for q in basis:
                W = W - q * np.sum(q * W, axis=0)
        values = np.array([_gauss(d, o) for d, o in zip(np.array(diagonals).T, off.T, strict=True)])
        norms = np.linalg.norm(W, axis=0)
        error = values.std(ddof=1) / np.sqrt(len(values))
        is_settled = abs(values.mean() - before.mean()) <= 0.1 * error
        is_full = len(basis) >= min(MAX_STEPS, len(Q))
        if is_settled or is_full or norms.max() < 1e-12 * np.max(diagonals):
            return values
        before = values
        off = np.vstack([off, norms])
        basis.append(W / np.maximum(norms, np.finfo(float).tiny))


def _gauss(diagonal: np.ndarray, off: np.ndarray) -> float:
    """Gauss quadrature of log(1 + x) for the Jacobi matrix of a measure of mass 1."""
    nodes, vectors = eigh_tridiagonal(diagonal, off)
    return float(vectors[0] ** 2 @ np.log1p(np.maximum(nodes, 0)))
