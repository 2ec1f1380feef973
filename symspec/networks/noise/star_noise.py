"""Normal noise of some stars as numbers: whiteners, weights, determinants, draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from symspec.safety.label_errors import Labels, LabelsWithErrors, find_observed


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

    @classmethod
    def of_labels(cls, labels: Labels, covariance: np.ndarray) -> StarNoise:
        """Noise of `covariance` (label, label) together with the errors that the labels have."""
        if isinstance(labels, LabelsWithErrors):
            covariance = covariance + labels.covariance
        return cls(find_observed(labels), covariance)

    @cached_property
    def whiteners(self) -> np.ndarray:
        r"""T_n (star, label, label), lower triangular, with :math:`T_n^T T_n = S_n^{-1}`.

        Zero in rows and columns of missing labels.
        """
        C = self.observed.shape[1]
        T = np.zeros((*self.observed.shape, C))
        for seen, stars in self._patterns:
            if seen.any():
                root = np.linalg.cholesky(self._block(seen, stars))
                T[np.ix_(stars, seen, seen)] = np.linalg.inv(root)
        return T

    @cached_property
    def weights(self) -> np.ndarray:
        """W_n (star, label, label): the inverse of S_n, zero where a label is missing."""
        return np.matmul(self.whiteners.transpose(0, 2, 1), self.whiteners)

    def weigh(self, u: np.ndarray) -> np.ndarray:
        """W_n u_n of each star, for u (star, label)."""
        return np.einsum("ncd,nd->nc", self.weights, u)

    @cached_property
    def log_dets(self) -> np.ndarray:
        """Log det S_n (star,) of the observed labels."""
        out = np.zeros(len(self.observed))
        for seen, stars in self._patterns:
            out[stars] = np.linalg.slogdet(self._block(seen, stars))[1]
        return out

    @property
    def log_det(self) -> float:
        """Sum over stars of log det S_n of the observed labels."""
        return float(np.sum(self.log_dets))

    @property
    def _patterns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each set of observed labels (label,) that occurs, and the indices of its stars."""
        which = np.zeros(len(self.observed), int)
        for column in self.observed.T:  # whole numbers: NumPy compares no rows of booleans
            which = np.unique(2 * which + column, return_inverse=True)[1]
        for k in range(which.max(initial=-1) + 1):
            stars = np.flatnonzero(which == k)
            yield self.observed[stars[0]], stars

    def _block(self, seen: np.ndarray, stars: np.ndarray) -> np.ndarray:
        """S of the labels `seen`: (label, label), or (star, label, label) where stars differ."""
        if self.covariance.ndim == 2:
            return self.covariance[np.ix_(seen, seen)]
        return self.covariance[np.ix_(stars, seen, seen)]

    def add_to(self, K: np.ndarray) -> np.ndarray:
        """K + S over all rows (label, star), flattened label-major, in place."""
        N, C = self.observed.shape
        M = K.reshape(C, N, C, N)
        stars = np.arange(N)
        for c in range(C):
            for d in range(C):
                M[c, stars, d, stars] += self.covariance[..., c, d]
        return K

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of the noise of every label (star, label), missing ones too."""
        root = np.linalg.cholesky(self.covariance)
        z = rng.normal(size=self.observed.shape)
        return z @ root.T if root.ndim == 2 else np.matmul(root, z[:, :, None])[:, :, 0]
