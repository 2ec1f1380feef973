r"""Intervals and densities of new labels: normal errors of model and flux, and noise with tails.

Student's t is a normal variate whose precision g is Gamma distributed, so that its sum with another
normal variate is a mixture of normals, over which the quadrature is the trapezoidal rule in log g,
which converges exponentially.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.polynomial import Chebyshev
from scipy.special import gammaln, logsumexp, ndtr, ndtri, stdtrit
from scipy.stats import gamma

from symspec.networks.noise.crps import Normals, find_overlap
from symspec.networks.noise.noise import LOG_2PI
from symspec.safety.memory import chunks

LOST = 1e-16  # probability beyond either end of the quadrature
STEP = 0.2  # between its nodes, in standard deviations of log g
PAIR_STEP = 0.3  # where pairs of nodes are summed: the rule is exact to rounding then, too
MAX_LOG = 700.0  # of a float
LEAST_VARIANCE = 1e-18  # of a normal variate that Student's t of unit scale feels
MAX_NODES = 2**21  # at once, of all stars
MAX_STEPS = 100
ROUNDING = 1e-13


def find_half_widths(
    variance: np.ndarray, scale: np.ndarray, dof: np.ndarray, level: float
) -> np.ndarray:
    """Half widths (star, label) of the central intervals of labels.

    Parameters
    ----------
    variance : numpy.ndarray, shape (star, label)
        Of model and flux; NaN gives NaN.
    scale, dof : numpy.ndarray, shape (star, label)
        Of Student's t noise.
    level : float
        Between 0 and 1.
    """
    out = np.full(variance.shape, np.nan)
    for nu in np.unique(dof):
        own = (dof == nu) & np.isfinite(variance)
        out[own] = scale[own] * find_half_width(variance[own] / scale[own] ** 2, nu, level)
    return out


def find_log_densities(
    residuals: np.ndarray, variance: np.ndarray, scale: np.ndarray, dof: np.ndarray
) -> np.ndarray:
    """Log densities (star, label) of labels; NaN where residuals (star, label) are.

    The others as for `find_half_widths`.
    """
    out = np.full(variance.shape, np.nan)
    for nu in np.unique(dof):
        own = (dof == nu) & np.isfinite(variance) & np.isfinite(residuals)
        s = scale[own]
        out[own] = find_log_density(residuals[own] / s, variance[own] / s**2, nu) - np.log(s)
    return out


def find_probabilities(
    residuals: np.ndarray, variance: np.ndarray, scale: np.ndarray, dof: np.ndarray
) -> np.ndarray:
    """Probabilities (star, label) that a label has a smaller residual; NaN where that is.

    The others as for `find_half_widths`.
    """
    out = np.full(variance.shape, np.nan)
    for nu in np.unique(dof):
        own = (dof == nu) & np.isfinite(variance) & np.isfinite(residuals)
        s = scale[own]
        out[own] = find_probability(residuals[own] / s, variance[own] / s**2, nu)
    return out


def split_normals(
    variance: np.ndarray, scale: np.ndarray, dof: np.ndarray
) -> Iterator[tuple[np.ndarray, Normals]]:
    """Labels as mixtures of normals, around their own middle: masks (star, label), and each's.

    Arguments as for `find_half_widths`.
    """
    for nu in np.unique(dof):
        own = (dof == nu) & np.isfinite(variance)
        mixed, p = _mix_normals(nu, PAIR_STEP)
        v, s = variance[own], scale[own]
        overlap = s * _find_overlaps(v / s**2, nu)
        yield own, Normals(v[:, None] + s[:, None] ** 2 * mixed, p, overlap)


def find_sigma(dof: np.ndarray) -> np.ndarray:
    """Half width of the 68.27 % in the middle of Student's t of unit scale, as `dof` (label,)."""
    return stdtrit(dof, ndtr(1.0))


def find_half_width(variance: np.ndarray, dof: float, level: float) -> np.ndarray:
    r"""Half width x of the central interval of a normal variate plus Student's t of unit scale.

    With t as a normal variate whose precision g is Gamma distributed,

    .. math:: P(x) = \int \Big[2 \Phi\Big(x \Big/ \sqrt{v + 1/g}\Big) - 1\Big] p(g) \, dg,

    P is concave, so that Newton's steps from the left stay there.

    Parameters
    ----------
    variance : numpy.ndarray, shape (star,)
        v, of the normal variate.
    dof : float
    level : float
        Between 0 and 1.
    """
    mixed, p = _mix_normals(dof)
    end = 0.5 + level / 2
    alone = ndtri(end), stdtrit(dof, end)  # of either, which the sum's is beyond
    out = np.empty(len(variance))
    for rows in chunks(len(variance), max(1, MAX_NODES // p.size)):
        sd = np.sqrt(variance[rows, None] + mixed)
        x = np.maximum(alone[0] * np.sqrt(variance[rows]), alone[1])
        for _ in range(MAX_STEPS):
            z = x[:, None] / sd
            missing = level - (2 * ndtr(z) - 1) @ p
            slope = (2 * np.exp(-(z**2) / 2) / sd) @ p / np.sqrt(2 * np.pi)
            step = missing / slope
            x += step
            if (np.abs(step) <= ROUNDING * x).all():
                break
        out[rows] = x
    return out


def find_log_density(residuals: np.ndarray, variance: np.ndarray, dof: float) -> np.ndarray:
    """Log density (star,) of a normal variate plus Student's t of unit scale.

    By the quadrature of `find_half_width`.

    Parameters
    ----------
    residuals : numpy.ndarray, shape (star,)
        Where.
    variance : numpy.ndarray, shape (star,)
        Of the normal variate.
    dof : float
    """
    farthest = float(np.max(np.abs(residuals), initial=0.0))
    mixed, log_p = _mix_log_normals(dof, farthest)
    out = np.empty(len(variance))
    for rows in chunks(len(variance), max(1, MAX_NODES // log_p.size)):
        v = variance[rows, None] + mixed
        exponents = -0.5 * (residuals[rows, None] ** 2 / v + np.log(v) + LOG_2PI)
        out[rows] = logsumexp(exponents + log_p, axis=1)
    return out


def find_probability(residuals: np.ndarray, variance: np.ndarray, dof: float) -> np.ndarray:
    """Probability (star,) that a normal variate plus Student's t of unit scale is smaller.

    By the quadrature of `find_half_width`; arguments as of `find_log_density`.
    """
    mixed, p = _mix_normals(dof)
    out = np.empty(len(variance))
    for rows in chunks(len(variance), max(1, MAX_NODES // p.size)):
        out[rows] = ndtr(residuals[rows, None] / np.sqrt(variance[rows, None] + mixed)) @ p
    return out


def _find_overlaps(variance: np.ndarray, dof: float) -> np.ndarray:
    """H (star,) of `crps` for normal variates plus Student's t of unit scale.

    Of many stars by Chebyshev interpolation of log H in the log of the variance, in which it has no
    singularity within pi of the real axis.
    """
    mixed, p = _mix_normals(dof, PAIR_STEP)

    def find(v: np.ndarray) -> np.ndarray:
        normals = Normals(v[:, None] + mixed, p)
        return find_overlap(normals, normals)

    u = np.log(np.maximum(variance, LEAST_VARIANCE))
    ends = np.min(u, initial=np.inf) - 0.5, np.max(u, initial=-np.inf) + 0.5
    degree = int(np.ceil(-np.log(LOST) / np.arcsinh(2 * np.pi / max(ends[1] - ends[0], 1.0))))
    if len(u) <= 2 * degree:
        return find(variance)
    curve = Chebyshev.interpolate(lambda at: np.log(find(np.exp(at))), degree, domain=ends)
    return np.exp(curve(u))


@lru_cache(maxsize=256)
def _mix_normals(dof: float, step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Variances (node,) of normal variates whose mixture is Student's t, and their shares."""
    mixed, log_p = _mix_log_normals(dof, step=step)
    p = np.exp(log_p)
    p /= p.sum()
    mixed.flags.writeable = p.flags.writeable = False  # calls share them
    return mixed, p


def _mix_log_normals(
    dof: float, farthest: float = 0.0, step: float = STEP
) -> tuple[np.ndarray, np.ndarray]:
    """As of `_mix_normals`, with the logarithms of the shares.

    The quadrature holds for densities up to `farthest` from the middle.
    """
    shape = dof / 2
    low = (np.log(LOST) + gammaln(shape + 1)) / shape  # that of few degrees of freedom
    if low > -MAX_LOG:
        low = np.log(gamma.ppf(LOST, shape))
    low -= np.log1p(farthest**2 / dof)
    high = np.log(gamma.isf(LOST, shape))
    n_nodes = int(np.ceil((high - low) / (step * min(1.0, np.sqrt(1 / shape)))))
    log_g = np.linspace(max(low, -MAX_LOG), high, n_nodes) - np.log(shape)
    log_p = shape * (log_g - np.expm1(log_g))  # of log g
    return np.exp(-log_g), log_p - logsumexp(log_p)
