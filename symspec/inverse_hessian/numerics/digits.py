r"""Digits of a covariance that float64 holds, and the form of it that holds most.

:math:`V = J_* A^{-1} J_*^T` from a Cholesky factor inherits the rounding of what was factorised,
which an ill-conditioned problem multiplies: the less the prior and the more the data say, the more.
Each structure tells by how much, as an `Enclosure`. Where that is too much and the tangents fit in
memory, `SumsOfSquares` takes its place. In units of the prior and the noise, with :math:`B = \hat J
\Lambda^{-1/2}` and :math:`j = \Lambda^{-1/2} J_*^T`, any b and x that obey :math:`b + B^T x = j`
also obey

.. math::
    b^T b + x^T x - r^T r \;\preceq\; V \;\preceq\; b^T b + x^T x, \qquad r = x - B b,

in which nothing cancels. If they obey it but for a vector d, standard deviations move by less than
the deviation of :math:`d^T \theta`, which is at most :math:`\lVert d \rVert`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, svd

from symspec.derivatives.tangents import Tangents

UNIT = np.finfo(np.float64).eps / 2
TRUSTED = 1e-6  # relative error of a variance up to which nothing better is sought
PROMISED = 1e-5  # relative width of the interval of a deviation that is called exact
NOTICED = 1e-3  # from which on a star is flagged: the third digit of an error bar
HOPELESS = 0.3  # from which on its first order says nothing
DENSE_ENTRIES = 2**23  # of a matrix of tangents that is decomposed as a whole
BLOCK_ENTRIES = 2**22  # of the vectors that are solved together
N_REFINEMENTS = 2
DEVIATIONS = 10  # of rounding errors, that bounds allow for


@dataclass(frozen=True, eq=False, kw_only=True)
class Enclosure:
    """Label covariances (star, label, label), and bounds of the exact ones in Loewner order."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def of_relative(
        cls, V: np.ndarray, relative: np.ndarray, most: np.ndarray | float = np.inf
    ) -> Enclosure:
        """Around V, of which variances are known to a relative error (star, label).

        `most` (star, label, label) is an upper bound that always holds.
        """
        C = V.shape[-1]
        hopeless = ~(relative < HOPELESS).all(axis=1)[:, None, None]
        variances = np.diagonal(V, axis1=1, axis2=2)
        known = np.where(hopeless[:, 0], 0.0, relative)
        extra = C * (known * variances)[:, :, None] * np.eye(C)
        return cls(
            value=V,
            lower=np.where(hopeless, 0.0, V - extra),
            upper=np.where(hopeless, most, V + extra),
        )

    def replace(self, stars: np.ndarray, other: Enclosure) -> None:
        """Take the covariances and bounds of some stars (star,) from another enclosure."""
        self.value[stars] = other.value
        self.lower[stars] = other.lower
        self.upper[stars] = other.upper


def rounding(n_terms: int) -> float:
    """Relative error of a sum of so many rounded terms: ten of its standard deviations.

    Rounding errors of a long sum are as good as independent, so that it is their root that counts
    (Higham & Mary 2019, doi:10.1137/18M1226312).
    """
    return DEVIATIONS * UNIT * float(np.sqrt(n_terms))


def round_difference(
    V: np.ndarray,
    prior: np.ndarray,
    condition: float,
    n_terms: int,
    pulled: np.ndarray | None = None,
) -> np.ndarray:
    r"""Relative error (star, label) of variances :math:`V = K_{**} - k^T M^{-1} k`.

    Entries of the kernels K are known to :math:`\epsilon \sqrt{K_{ii} K_{jj}}`. Those of M enter
    with the squares of :math:`\alpha = M^{-1} k`, which obey :math:`\alpha^T S \alpha \le V`. Where
    S is next to nothing, they may be far below that.

    Parameters
    ----------
    V, prior : numpy.ndarray, shape (star, label, label)
        What is left, and K**.
    condition : float
        Largest ratio :math:`M_{ii} / S_{ii}`.
    n_terms : int
        Terms of the sums.
    pulled : numpy.ndarray, shape (star, label), optional
        :math:`\sum_i \alpha_i^2 M_{ii}`, if it is known.
    """
    variances, most = (np.diagonal(A, axis1=1, axis2=2) for A in (V, prior))
    pulled = condition * variances if pulled is None else pulled
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = (np.sqrt(most) + np.sqrt(pulled)) ** 2 / variances
    lost[most == 0] = 0.0  # nothing varies
    return rounding(n_terms) * np.where((variances > 0) | (most == 0), lost, np.inf)


def loses_digits(condition: float, n_terms: int, trusted: float = TRUSTED) -> bool:
    """Whether `round_difference` leaves no variance that is trusted, or the condition is NaN."""
    return not rounding(n_terms) * condition < trusted


def describe_condition(condition: float, form: str) -> str:
    """One sentence on flux, noise and prior that are far apart, and the form that came of it."""
    if not form:
        return ""
    return f"Flux, noise and prior are {condition:.0e} apart: {form}."


def fits_densely(n_rows: int, n_params: int) -> bool:
    """Whether tangents of so many rows may be decomposed as one matrix."""
    return n_rows * max(n_rows, n_params) <= DENSE_ENTRIES


def factorize_stacked(*blocks: np.ndarray) -> np.ndarray:
    """Lower L with L L^T the sum of F^T F over the blocks F (row, n).

    Its relative error goes with the condition of the stack, not with the square of it, which that
    of a sum of products does.
    """
    R = qr(np.vstack(blocks), mode="r", check_finite=False)[0][: blocks[0].shape[1]]
    signs = np.where(np.diag(R) < 0, -1.0, 1.0)
    return np.asfortranarray((signs[:, None] * R).T)  # as LAPACK takes it


class SumsOfSquares:
    """J A^-1 J^T as sums of squares, from the singular values of the whitened tangents.

    Parameters
    ----------
    whitened : iterable of Tangents
        Of all training stars, in units of the noise.
    variance : numpy.ndarray, shape (param,)
        Of the prior.
    """

    def __init__(self, whitened: Iterable[Tangents], variance: np.ndarray):
        self._sd = np.sqrt(variance)
        B = np.vstack([part.dense().reshape(-1, len(variance)) for part in whitened]) * self._sd
        self._B = B[B.any(axis=1)]  # missing labels have rows of zeros
        self._sizes = np.abs(self._B)
        self._U, self._s, self._W = svd(self._B, full_matrices=False, check_finite=False)
        self._rounding = rounding(sum(self._B.shape))
        spread = np.einsum("ij,ij->j", self._W, self._W)
        curved = np.einsum("ij,i,ij->j", self._W, 1 / (1 + self._s**2), self._W)
        self._weight_sd = np.sqrt(np.clip(1 - spread, UNIT, 1) + curved)

    def enclose(self, tangents: Tangents) -> Enclosure:
        """Covariances of some stars, with bounds."""
        n = tangents.n_stars
        C = tangents.n_labels
        step = max(1, BLOCK_ENTRIES // (C * sum(self._B.shape)))
        parts = [self._enclose_block(tangents[i : i + step]) for i in range(0, n, step)]
        value, lower, upper = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Enclosure(value=value, lower=lower, upper=upper)

    def _enclose_block(self, tangents: Tangents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = (tangents.n_stars, tangents.n_labels)
        j = (tangents.dense().reshape(-1, len(self._sd)) * self._sd).T
        b, x = self._solve(j)
        for _ in range(N_REFINEMENTS):
            d, r = self._residuals(j, b, x)
            more_b, more_x = self._solve(d + self._B.T @ r)
            b = b + more_b
            x = x + more_x - r
        d, r = (np.abs(residual) for residual in self._residuals(j, b, x))
        d += self._rounding * (np.abs(j) + np.abs(b) + self._sizes.T @ np.abs(x))
        r += self._rounding * (np.abs(x) + self._sizes @ np.abs(b))
        V = _square(b, shape) + _square(x, shape)
        # d^T theta deviates by no more than either
        shift = np.minimum(np.linalg.norm(d, axis=0), self._weight_sd @ d).reshape(shape)
        return V, *_widen(V, shift, np.linalg.norm(r, axis=0).reshape(shape))

    def _solve(self, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Solution b (param, k), x (row, k) of b + B^T x = j, x = B b."""
        c = self._W @ j
        beyond = j - self._W.T @ c
        beyond -= self._W.T @ (self._W @ beyond)  # once leaves rounding of the size of j
        c /= (1 + self._s**2)[:, None]
        return beyond + self._W.T @ c, self._U @ (self._s[:, None] * c)

    def _residuals(
        self, j: np.ndarray, b: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return j - b - self._B.T @ x, x - self._B @ b


def _square(b: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """b^T b (star, label, label) of the columns of each star."""
    columns = b.T.reshape(*shape, -1)
    return np.matmul(columns, columns.transpose(0, 2, 1))


def _widen(V: np.ndarray, shift: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of covariances V - R, where R is unknown and standard deviations move.

    They move by at most `shift` (star, label), and the variances of R are at most the square of
    `gap` (star, label).
    """
    C = V.shape[-1]
    unit = C * np.eye(C)
    lower = V - (gap**2)[:, :, None] * unit
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.sqrt(C) * shift / np.sqrt(np.diagonal(V, axis1=1, axis2=2))
    t = np.clip(np.nanmax(steps, axis=1, initial=0.0), UNIT, 1 / UNIT)[:, None, None]
    around = (shift**2)[:, :, None] * unit
    upper = (1 + t) * V + (1 + 1 / t) * around
    return np.where(t < 1, (1 - t) * lower - (1 / t - 1) * around, 0.0), upper
