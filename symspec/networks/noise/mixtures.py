r"""Intervals and densities of new labels whose noise has a scale that is not known exactly.

What the weights leave open of the logarithm of the noise's standard deviation is normal. So a label
is, with a unit normal variate z, normal of variance :math:`v + \sigma^2 e^{2 s z}`: v of model and
flux, :math:`\sigma` the noise in the middle and s the spread of its logarithm. The mean over z is
by the trapezoidal rule, which converges exponentially.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import lambertw, logsumexp, ndtr, ndtri

from symspec.networks.noise.crps import Normals
from symspec.networks.noise.noise import LOG_2PI
from symspec.safety.memory import chunks

END = 8.5  # of z, beyond which there is a probability of 2e-17
STEP = 0.2  # between nodes, in widths of the narrowest integrand
PAIR_STEP = 0.3  # where pairs of nodes are summed: the rule is exact to rounding then, too
FARTHEST = 1000.0  # z of the peaks in the tails; densities beyond come out too small
WIDEST = 60.0  # twice the spread for which the nodes suffice
LEAST_SPREAD = 1e-12
MAX_NODES = 2**21  # at once, of all stars
MAX_STEPS = 200
ROUNDING = 1e-13


def find_half_widths(
    variance: np.ndarray, sigma: np.ndarray, spread: np.ndarray, level: float
) -> np.ndarray:
    r"""Half widths x (star, label) of the central intervals of labels.

    .. math::
        \int \Big[2 \Phi\Big(x \Big/ \sqrt{v + \sigma^2 e^{2 s z}}\Big) - 1\Big] \phi(z) \, dz
        = \mathrm{level}

    The left side is concave in x, so that Newton's steps from below stay there.

    Parameters
    ----------
    variance, sigma, spread : numpy.ndarray, shape (star, label)
        v, sigma and s; NaN gives NaN.
    level : float
        Between 0 and 1.
    """
    out = np.full(variance.shape, np.nan)
    known = np.isfinite(variance + sigma + spread)
    found = np.empty(int(known.sum()))
    z, p = _find_nodes(spread[known])
    for rows in chunks(len(found), max(1, MAX_NODES // z.size)):
        v = variance[known][rows, None]
        sd = np.sqrt(v + _mix(sigma[known][rows], spread[known][rows], z))
        x = ndtri(0.5 + level / 2) * np.sqrt(v[:, 0])
        for _ in range(MAX_STEPS):
            ratio = x[:, None] / sd
            missing = level - (2 * ndtr(ratio) - 1) @ p
            slope = (2 * np.exp(-(ratio**2) / 2) / sd) @ p / np.sqrt(2 * np.pi)
            step = missing / slope
            x = x + step
            if (np.abs(step) <= ROUNDING * x).all():
                break
        found[rows] = x
    out[known] = found
    return out


def find_log_densities(
    residuals: np.ndarray, variance: np.ndarray, sigma: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    r"""Log densities (star, label) of labels; NaN where residuals (star, label) are.

    The others as for `find_half_widths`. Far from the middle the nodes go on to where the density
    comes from, the largest of :math:`-r^2 e^{-2 s z} / (2 \sigma^2) - z^2 / 2`.
    """
    out = np.full(variance.shape, np.nan)
    known = np.isfinite(residuals + variance + sigma + spread)
    found = np.empty(int(known.sum()))
    s = np.maximum(spread[known], LEAST_SPREAD)
    peak = lambertw(2 * (s * residuals[known] / sigma[known]) ** 2).real / (2 * s)
    z, log_p = _find_log_nodes(spread[known], min(np.max(peak, initial=0.0), FARTHEST))
    for rows in chunks(len(found), max(1, MAX_NODES // z.size)):
        v = variance[known][rows, None] + _mix(sigma[known][rows], spread[known][rows], z)
        exponents = -0.5 * (residuals[known][rows, None] ** 2 / v + np.log(v) + LOG_2PI)
        found[rows] = logsumexp(exponents + log_p, axis=1)
    out[known] = found
    return out


def find_probabilities(
    residuals: np.ndarray, variance: np.ndarray, sigma: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """Probabilities (star, label) that a label has a smaller residual; NaN where that is.

    The others as for `find_half_widths`.
    """
    out = np.full(variance.shape, np.nan)
    known = np.isfinite(residuals + variance + sigma + spread)
    found = np.empty(int(known.sum()))
    z, p = _find_nodes(spread[known])
    for rows in chunks(len(found), max(1, MAX_NODES // z.size)):
        v = variance[known][rows, None] + _mix(sigma[known][rows], spread[known][rows], z)
        found[rows] = ndtr(residuals[known][rows, None] / np.sqrt(v)) @ p
    out[known] = found
    return out


def split_normals(
    variance: np.ndarray, sigma: np.ndarray, spread: np.ndarray
) -> Iterator[tuple[np.ndarray, Normals]]:
    """Labels as mixtures of normals, around their own middle: masks (star, label), and each's.

    Arguments as for `find_half_widths`.
    """
    known = np.isfinite(variance + sigma + spread)
    z, p = _find_nodes(spread[known], PAIR_STEP)
    yield known, Normals(variance[known][:, None] + _mix(sigma[known], spread[known], z), p)


def _find_nodes(spread: np.ndarray, step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z (node,) and their shares."""
    z, log_p = _find_log_nodes(spread, step=step)
    p = np.exp(log_p)
    return z, p / p.sum()


def _find_log_nodes(
    spread: np.ndarray, peak: float = 0.0, step: float = STEP
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes z (node,) beyond the last peak of an integrand, and the logarithms of their shares."""
    s = float(np.max(spread, initial=0.0))
    sharpest = max(np.clip(2 * s, 1.0, WIDEST), np.sqrt(1 + 2 * s * peak))  # 1 / width
    z = np.linspace(-END, peak + END, int(np.ceil((peak + 2 * END) / step * sharpest)) + 1)
    log_p = -0.5 * z**2
    return z, log_p - logsumexp(log_p)


def _mix(sigma: np.ndarray, spread: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Variances (star, node) of the noise."""
    return np.exp(2 * (np.log(sigma)[:, None] + spread[:, None] * z))
