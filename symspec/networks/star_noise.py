"""Normal noise of some stars as numbers: whiteners, weights, determinants, draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class StarNoise:
    """Normal noise of some stars, as numbers; other noise has one in its place, to second order.

    Attributes
    ----------
    observed : numpy.ndarray of bool, shape (star, label)
        Which labels the stars have.
    covariance : numpy.ndarray, shape (label, label) or (star, label, label)
        S_n, of all stars or of each. The entries between observed labels count.
    """

    observed: np.ndarray
    covariance: np.ndarray

    @cached_property
    def whiteners(self) -> np.ndarray:
        r"""T_n (star, label, label), lower triangular, with :math:`T_n^T T_n = S_n^{-1}`.

        Zero in rows and columns of missing labels.
        """
        pairs, which = self._distinct
        return np.array([_find_whitener(S, seen) for S, seen in pairs])[which]

    @cached_property
    def weights(self) -> np.ndarray:
        """W_n (star, label, label): the inverse of S_n, zero where a label is missing."""
        return np.matmul(self.whiteners.transpose(0, 2, 1), self.whiteners)

    @cached_property
    def log_dets(self) -> np.ndarray:
        """Log det S_n (star,) of the observed labels."""
        pairs, which = self._distinct
        return np.array([np.linalg.slogdet(S[np.ix_(seen, seen)])[1] for S, seen in pairs])[which]

    @property
    def log_det(self) -> float:
        """Sum over stars of log det S_n of the observed labels."""
        return float(np.sum(self.log_dets))

    @property
    def _distinct(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """Different pairs of covariance and observed labels, and which of them each star has."""
        if self.covariance.ndim == 3:
            pairs = list(zip(self.covariance, self.observed, strict=True))
            return pairs, np.arange(len(pairs))
        patterns, which = np.unique(self.observed, axis=0, return_inverse=True)
        return [(self.covariance, seen) for seen in patterns], which.ravel()

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of the noise of every label (star, label), missing ones too."""
        root = np.linalg.cholesky(self.covariance)
        z = rng.normal(size=self.observed.shape)
        return z @ root.T if root.ndim == 2 else np.matmul(root, z[:, :, None])[:, :, 0]


def _find_whitener(S: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """T (label, label) of one star."""
    T = np.zeros_like(S)
    seen = np.ix_(observed, observed)
    T[seen] = np.linalg.inv(np.linalg.cholesky(S[seen]))
    return T
