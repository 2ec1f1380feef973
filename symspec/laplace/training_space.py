"""Distances of spectra from the training spectra, by leading components and their residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from symspec.safety.memory import chunks

MIN_STARS = 20  # of the training set: half for the components, half to see how far others lie
MAX_STARS = 2000
MAX_COMPONENTS = 32
ABOVE_NOISE = 2.0  # times the noise: the least variance of other spectra along a kept component
QUANTILE = 0.99  # of the training spectra within a distance of 1, for each of its two parts
FLOOR = 1e-6  # of the training variance; less is rounding
CACHE_BYTES = 2**20  # of spectra worked on at once: arrays that stay in a processor's cache


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingSpace:
    r"""Training spectra as leading components and residuals.

    With standardised flux :math:`z_i = (x_i - m_i) / s_i`, components V (orthonormal rows) of
    variances :math:`\lambda_j`, and residual variances :math:`\sigma_i^2` with mean :math:`\rho`, a
    star has the scores and the residual

    .. math::
        t = \big(V_g V_g^T + \rho \Lambda^{-1}\big)^{-1} V_g z_g, \qquad r = z - V^T t,

    over its good pixels g, and from them two distances,

    .. math::
        d_t^2 = \frac1k \sum_j \frac{t_j^2}{\lambda_j + \sum_{i \in g} V_{ji}^2 \nu_i}, \qquad
        d_r^2 = \frac{1}{|g|} \sum_{i \in g} \frac{r_i^2}{\sigma_i^2 + \nu_i}, \qquad
        \nu_i = \frac{1}{\mathrm{ivar}_i s_i^2}:

    the known noise of a star (0 without `ivar`) does not count as distance. Scores are those of
    probabilistic principal components (Tipping & Bishop 1999, doi:10.1111/1467-9868.00196). Each
    distance is divided by its 99 % quantile over training spectra that had no part in V, and the
    larger of the two counts.

    Attributes
    ----------
    mean, scale : numpy.ndarray, shape (pixel,)
        m and s, in units of the flux; s is infinite for a pixel that never varies, which leaves it
        out.
    components : numpy.ndarray, shape (component, pixel)
    variances : numpy.ndarray, shape (component,)
    residual_variance : numpy.ndarray, shape (pixel,)
    quantiles : numpy.ndarray, shape (2,)
        Of :math:`d_t` and :math:`d_r`.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    residual_variance: np.ndarray
    quantiles: np.ndarray

    def find_distances(self, X: np.ndarray, ivar: np.ndarray | None = None) -> np.ndarray:
        """Distances (star,) of spectra (star, pixel) from the training spectra.

        Of the training spectra, 1 to 2 % are beyond 1. NaN for a star without a good pixel. A
        distance below 1 does not exclude a gap between the training spectra.
        """
        return np.max(self.find_parts(X, ivar) / self.quantiles[:, None], axis=0)

    def find_parts(self, X: np.ndarray, ivar: np.ndarray | None = None) -> np.ndarray:
        """d_t and d_r (2, star)."""
        parts = []
        # flux near the largest number that there is overflows
        with np.errstate(over="ignore", invalid="ignore"):
            for rows in chunks(len(X), max(8, CACHE_BYTES // (8 * X.shape[1]))):
                known = None if ivar is None else ivar[rows]
                parts.append(self._find_few(X[rows], known))
        return np.concatenate(parts, axis=1)

    def _find_few(self, X: np.ndarray, ivar: np.ndarray | None) -> np.ndarray:
        good = np.broadcast_to(np.isfinite(self.scale), X.shape)
        if ivar is not None:
            good = good & (ivar > 0)
        per_scale = 1 / self.scale  # 0 for a pixel that never varies
        z = (np.where(good, X, self.mean) - self.mean) * per_scale
        t = self._find_scores(z, good)
        squares = (z - t @ self.components) ** 2
        spread = self.residual_variance
        score_variance = self.variances
        if ivar is not None:
            noise = np.divide(per_scale**2, ivar, out=np.zeros(X.shape), where=good)
            spread = spread + noise
            score_variance = score_variance + noise @ (self.components**2).T
        squares /= spread
        squares *= good
        n_good = good.sum(axis=1)
        d_r = np.divide(squares.sum(axis=1), n_good, out=np.full(len(X), np.nan), where=n_good > 0)
        return np.sqrt([np.mean(t**2 / score_variance, axis=1), d_r])

    def _find_scores(self, z: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Scores t (star, component); z (star, pixel) is 0 where it is not good."""
        V = self.components
        seen = np.isfinite(self.scale)
        diagonal = 1 + self.residual_variance[seen].mean() / self.variances
        projected = z @ V.T
        scores = projected / diagonal
        by_pixel = np.ascontiguousarray(V.T)
        lacks = good != seen
        for star in np.flatnonzero(lacks.any(axis=1)):
            bad = by_pixel[lacks[star]]  # V_g V_g^T is the unit matrix less that of the others
            scores[star] = np.linalg.solve(np.diag(diagonal) - bad.T @ bad, projected[star])
        return scores


def describe_training(X: np.ndarray, mean: np.ndarray) -> TrainingSpace | None:
    """Describe training spectra (star, pixel) of this mean (pixel,).

    At most `MAX_STARS` are used, a fixed random choice: one half gives components, variances and
    scales, the other half selects the components above the noise and gives the quantiles. The cost
    does not grow with the training set. None for fewer than `MIN_STARS`, or equal, spectra.
    """
    if len(X) < MIN_STARS:
        return None
    some = np.random.default_rng(0).permutation(len(X))[:MAX_STARS]
    first = np.subtract(X[np.sort(some[::2])], mean, dtype=np.float64)
    second = np.subtract(X[np.sort(some[1::2])], mean, dtype=np.float64)
    scale = np.sqrt(np.mean(first**2, axis=0))
    scale[scale <= 1e-7 * np.abs(mean)] = np.inf  # rounding of a constant in float32
    if not np.isfinite(scale).any():
        return None
    Z = first / scale
    others = second / scale
    V, variances = _find_components(Z)
    kept = _find_shared(V, Z, others)
    V = V[kept]
    variances = variances[kept]
    residual_variance = np.maximum(_residual_variance(Z, V), FLOOR)
    space = TrainingSpace(
        mean=mean,
        scale=scale,
        components=V,
        variances=variances,
        residual_variance=residual_variance,
        quantiles=np.ones(2),
    )
    parts = space.find_parts(second + mean)
    return replace(space, quantiles=np.maximum(np.quantile(parts, QUANTILE, axis=1), FLOOR))


def _find_components(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leading right singular vectors (component, pixel) of Z (star, pixel), and variances."""
    n = len(Z)
    variances, U = np.linalg.eigh(Z @ Z.T / n)
    variances = variances[::-1]
    U = U[:, ::-1]
    k = min(MAX_COMPONENTS, n // 2, np.count_nonzero(variances > FLOOR * variances.sum()))
    return (U[:, :k].T @ Z) / np.sqrt(n * variances[:k])[:, None], variances[:k]


def _find_shared(V: np.ndarray, Z: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mask (component,) of the components along which other spectra vary by more than their noise.

    The rest would only dilute the distance. The first is always kept. Noise is taken to be equal
    along all directions: its variance is that of the residuals.
    """
    n_varying = np.count_nonzero(Z.any(axis=0))
    noise = V**2 @ _residual_variance(Z, V) * n_varying / max(1, n_varying - len(V))
    shared = np.mean((others @ V.T) ** 2, axis=0) > ABOVE_NOISE * noise
    shared[0] = True
    return shared


def _residual_variance(Z: np.ndarray, V: np.ndarray) -> np.ndarray:
    return np.mean((Z - (Z @ V.T) @ V) ** 2, axis=0)
