"""Which stars and rows each block of a kernel in tiles has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from symspec.safety.memory import chunks


@dataclass(frozen=True, eq=False)
class Layout:
    """Training stars in blocks, and the rows of each: one a star and observed label.

    Attributes
    ----------
    stars : numpy.ndarray of int, shape (star,)
        Training stars in the order of the kernel.
    observed : numpy.ndarray of bool, shape (star, label)
        Which labels they have, in this order.
    stars_a_block : int
    """

    stars: np.ndarray
    observed: np.ndarray
    stars_a_block: int

    @cached_property
    def blocks(self) -> list[slice]:
        """Places of each block's stars in the order of the kernel."""
        return list(chunks(len(self.stars), self.stars_a_block))

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Observed among the (label, star) rows of each block, label-major."""
        return [np.flatnonzero(self.observed[block].T) for block in self.blocks]

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each block."""
        return [len(rows) for rows in self.rows]

    @property
    def n_rows(self) -> int:
        """Number of rows of the kernel."""
        return int(self.observed.sum())

    def leading(self, n_stars: int) -> Layout:
        """The first blocks, as many as hold `n_stars`."""
        n = min(len(self.stars), -(-n_stars // self.stars_a_block) * self.stars_a_block)
        return Layout(self.stars[:n], self.observed[:n], self.stars_a_block)

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Values (star, label, ...) of all stars from those of each block's rows (row, ...).

        Labels that are missing get zeros.
        """
        out = np.zeros((*self.observed.shape, *parts[0].shape[1:]))
        for block, part in zip(self.blocks, parts, strict=True):
            out[block] = self.spread(block, part)
        return out

    def spread(self, block: slice, part: np.ndarray) -> np.ndarray:
        """Values (star, label, ...) of one block's stars from those of its rows (row, ...)."""
        seen = self.observed[block].T
        out = np.zeros((*seen.shape, *part.shape[1:]))
        out[seen] = part
        return out.swapaxes(0, 1)

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Values (row, ...) of each block from those of all stars (star, label, ...)."""
        return [values[b].swapaxes(0, 1)[self.observed[b].T] for b in self.blocks]
