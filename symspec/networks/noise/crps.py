r"""Continuous ranked probability scores of mixtures of normal distributions around one mean.

The score of a distribution F for a value y is :math:`\int (F(x) - 1[x \ge y])^2 dx` (Gneiting &
Raftery 2007, doi:10.1198/016214506000001437), in the units of y; 0 is best. With shares p and
standard deviations a of the normals, around 0,

.. math::
    \sum_i p_i \Big[y \Big(2 \Phi\Big(\frac{y}{a_i}\Big) - 1\Big)
    + 2 a_i \phi(0) \big(e^{-y^2 / 2 a_i^2} - 1\big)\Big] + H, \qquad
    H = \sum_{ij} p_i p_j \frac{a_i + a_j - \sqrt{a_i^2 + a_j^2}}{\sqrt{2 \pi}}

(Grimit et al. 2006, doi:10.1256/qj.05.235, arranged so that nothing cancels, and that it holds
without a variance or a mean).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from symspec.safety.memory import chunks

MAX_PAIRS = 2**21  # of nodes, at once, of all entries
ROOT_2PI = np.sqrt(2 * np.pi)


class Normals(NamedTuple):
    """Variances (entry, node) of normal distributions, and their shares (node,) of a mixture.

    `overlap` is H (entry,) of the mixture, where there is a shorter way to it than over all pairs.
    """

    variances: np.ndarray
    shares: np.ndarray
    overlap: np.ndarray | None = None

    def take(self, entries: np.ndarray) -> Normals:
        """Those of some entries."""
        overlap = None if self.overlap is None else self.overlap[entries]
        return Normals(self.variances[entries], self.shares, overlap)

    def find_overlap(self) -> np.ndarray:
        """H (entry,) of the mixture."""
        return find_overlap(self, self) if self.overlap is None else self.overlap


def find_crps(residuals: np.ndarray, normals: Normals) -> np.ndarray:
    """Score (entry,) of values that are off the middle by residuals (entry,), in their units."""
    sd = np.sqrt(normals.variances)
    y = np.abs(residuals)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(sd > 0, y / sd, np.inf)
    each = y * (2 * ndtr(z) - 1) + 2 * sd * np.expm1(-(z**2) / 2) / ROOT_2PI
    return each @ normals.shares + normals.find_overlap()


def find_distance(apart: np.ndarray, first: Normals, second: Normals) -> np.ndarray:
    r"""Distance :math:`\int (F - G)^2 dx` (entry,) of mixtures whose means are apart (entry,)."""
    shifted = np.empty(len(apart))
    for rows in _chunk(first, second):
        tau = np.sqrt(first.variances[rows, :, None] + second.variances[rows, None, :])
        delta = np.abs(apart[rows])[:, None, None]
        z = delta / tau
        pairs = delta * (2 * ndtr(z) - 1) + 2 * tau * np.expm1(-(z**2) / 2) / ROOT_2PI
        shifted[rows] = (pairs @ second.shares) @ first.shares
    own = first.find_overlap() + second.find_overlap()
    return shifted + own - 2 * find_overlap(first, second)


def find_overlap(first: Normals, second: Normals) -> np.ndarray:
    """H (entry,), of two mixtures."""
    H = np.empty(len(first.variances))
    for rows in _chunk(first, second):
        a = np.sqrt(first.variances[rows, :, None])
        b = np.sqrt(second.variances[rows, None, :])
        above = a + b + np.sqrt(a**2 + b**2)
        pairs = np.divide(2 * a * b, above, out=np.zeros_like(above), where=above != 0)
        H[rows] = (pairs @ second.shares) @ first.shares / ROOT_2PI
    return H


def _chunk(first: Normals, second: Normals) -> Iterator[slice]:
    pairs = first.shares.size * second.shares.size
    return chunks(len(first.variances), max(1, MAX_PAIRS // pairs))
