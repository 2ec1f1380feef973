"""Which stars and rows each block of a kernel in tiles has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from symspec.errors import DataError, OptionError
from symspec.safety.checkpoint import Checkpoint
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


def open_layout(folder: Path, fingerprint: str, lay_out: Callable[[], Layout]) -> Layout:
    """The layout that a folder was begun with, or a new one, which is kept there.

    Raises
    ------
    OptionError
        It is no folder.
    DataError
        It is of another computation.
    """
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"scratch should be a folder, got {folder}, which is none.")
    kept = Checkpoint(folder, fingerprint)
    try:
        state = kept.load("layout")
    except DataError as error:
        raise DataError(
            f"{folder} should hold tiles of this kernel, got those of another one (another network,"
            " weights, stars, noise, prior, dtype, structure, tile size or version): give another"
            " folder, or delete this one."
        ) from error
    if state is None:
        layout = lay_out()
        size = np.array(layout.stars_a_block)
        state = {"stars": layout.stars, "observed": layout.observed, "stars_a_block": size}
        kept.save("layout", state)
    return Layout(state["stars"], state["observed"], int(state["stars_a_block"]))
