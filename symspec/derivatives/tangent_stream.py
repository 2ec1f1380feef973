"""Whitened tangents of the training stars by blocks, in constant memory or kept if they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.safety.checkpoint import find_fingerprint

BLOCK_STARS = 2048


class TangentStream:
    r"""J of the training stars in units of the noise, :math:`\hat J_n = T_n J_n`.

    T_n are the whiteners of the noise: :math:`T_n^T T_n = S_n^{-1}` if it is normal.
    A missing label's row is zero, so that :math:`A = \Lambda + \sum_n \hat J_n^T \hat J_n` whatever
    is missing.

    Parameters
    ----------
    compute : callable
        Tangents of some of the training stars, given by a slice or by their indices.
    whiteners : numpy.ndarray, shape (star, label, label)
        T_n.
    n_params : int
    keep_bytes : float
        All blocks together stay in memory if they take no more; otherwise each walk computes them
        again.
    stars : numpy.ndarray of int, optional
        Which of the training stars, all by default.
    """

    def __init__(
        self,
        compute: Callable[..., Tangents],
        whiteners: np.ndarray,
        n_params: int,
        keep_bytes: float,
        stars: np.ndarray | None = None,
    ):
        self._compute = compute
        self._whiteners = whiteners
        self._keep_bytes = keep_bytes
        self.stars = np.arange(len(whiteners)) if stars is None else stars
        self.n_stars = len(self.stars)
        self.n_labels = whiteners.shape[1]
        self.n_params = n_params
        self._kept: dict[int, Tangents] = {}
        self._keeps: bool | None = None

    @classmethod
    def of(cls, whitened: Tangents) -> TangentStream:
        """Stream of tangents that are there already, in units of the noise."""
        unit = np.broadcast_to(
            np.eye(whitened.n_labels), (whitened.n_stars, *[whitened.n_labels] * 2)
        )
        return cls(lambda stars: whitened[stars], unit, whitened.layout.n_params, 0)

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, Tangents]]:
        """Blocks of stars, as slices of this stream's rows, from the one that begins at `start`."""
        for first in range(start, self.n_stars, BLOCK_STARS):
            rows = slice(first, min(first + BLOCK_STARS, self.n_stars))
            tangents = self._kept.get(first)
            if tangents is None:
                stars = self.stars[rows]
                tangents = self._compute(stars).whiten(self._whiteners[stars])
                if self._fits(tangents):
                    self._kept[first] = tangents
            yield rows, tangents

    def identity(self) -> list[str]:
        """A digest of each block, for fingerprints."""
        return [find_fingerprint(t.inputs, t.cotangents) for _, t in self.blocks()]

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """J v (star, label) or (star, label, k) for v (param,) or (param, k)."""
        return np.concatenate([tangents.matvec(v) for _, tangents in self.blocks()])

    def rmatvec(self, u: np.ndarray) -> np.ndarray:
        """J^T u (param,) or (param, k) for u (star, label) or (star, label, k)."""
        out = np.zeros((self.n_params, *u.shape[2:]))
        for rows, tangents in self.blocks():
            out += tangents.rmatvec(u[rows])
        return out

    def _fits(self, tangents: Tangents) -> bool:
        if self._keeps is None:
            arrays = [*tangents.inputs.values(), *tangents.cotangents.values()]
            self._keeps = (
                sum(a.nbytes for a in arrays) * self.n_stars / tangents.n_stars <= self._keep_bytes
            )
        return self._keeps
