r"""Training stars beside a subset, with their kernel in tiles on disk.

In units of the noise, with K of the rest, :math:`K_s` of the subset and the rest, and M_s the
subset's own, factorised in memory,

.. math::
    M - 1 = K - K_s^T M_s^{-1} K_s,

so that a product reads the disk once and costs (rows)^2 operations a column, whatever the number
of weights. Tiles have the dtype of the network's passes: float32 is half the disk and the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.numerics.costs import (
    FLOPS_TOLD,
    MOST_ROWS,
    STAGE,
    StarCosts,
    check_costs,
)
from symspec.inverse_hessian.numerics.layout import Layout, open_layout
from symspec.inverse_hessian.numerics.star_blocks import StarBlocks, select
from symspec.inverse_hessian.numerics.tile_folder import TileFolder
from symspec.networks.params import ParamLayout
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.progress import Progress
from symspec.safety.whole_files import remove_abandoned

OTHERWISE = "leave scratch out, which takes longer for every star"
SAMPLE = 16  # stars of a tile that are computed in float64 to see how it was rounded
SUBSET = -1  # stands for a block of stars: the tiles of the subset and each block

Tile = tuple[int, int]


class Subset(Protocol):
    """What is asked of the subset, whose kernel M_s is factorised in memory."""

    layout: ParamLayout
    variance: dict[str, Any]

    @property
    def n_rows(self) -> int: ...

    @property
    def sizes(self) -> np.ndarray:
        """Diagonal (row,) of M_s."""
        ...

    def kernel(self, tangents: Tangents, dtype: Any = np.float64) -> np.ndarray:
        """K (row, label and star) of its rows and those of other stars."""
        ...

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M_s^-1 b (row, ...)."""
        ...


class TiledRest:
    """M - 1 from tiles.

    Parameters
    ----------
    subset : Subset
    stars : StarBlocks
        All other training stars, whitened.
    dtype : dtype
        Of the tiles.

    Attributes
    ----------
    most_columns, usual_steps : int
        Right-hand sides that share a Krylov space, and blocks of it that they take: what is read
        serves all, so that many do.
    stars_a_piece : int
        Stars after which results are worth keeping.
    """

    most_columns: ClassVar[int] = 192
    usual_steps: ClassVar[int] = 16
    stars_a_piece: ClassVar[int] = 64

    def __init__(self, subset: Subset, stars: StarBlocks, dtype: Any):
        self.subset = subset
        self.stars = stars
        self.dtype = np.dtype(dtype)
        self.folder = stars.folder
        self.n_rows = stars.layout.observed.size
        self._sizes = stars.layout.sizes
        self._tiles = [(i, j) for i in range(len(self._sizes)) for j in range(SUBSET, i + 1)]

    @classmethod
    def open(
        cls,
        folder: Path,
        key: str,
        subset: Subset,
        stars: np.ndarray,
        observed: np.ndarray,
        *,
        dtype: str,
        memory: float,
    ) -> TiledRest:
        """The tiles in a folder, whether they are there or not.

        Parameters
        ----------
        folder : Path
        key : str
            Digest of all that the kernel depends on.
        subset : Subset
        stars : numpy.ndarray of int
            All other training stars.
        observed : numpy.ndarray of bool, shape (star, label)
            Which labels these have.
        dtype : {"float64", "float32"}
        memory : float
            Bytes that tiles in memory may take.

        Raises
        ------
        OptionError, DataError
            It is no folder, or that of another kernel.
        """

        def lay_out() -> Layout:
            costs = StarCosts.of(subset.layout, observed.shape[1])
            return Layout(stars, observed, costs.choose_block(len(stars), MOST_ROWS, memory))

        layout = open_layout(folder, key, lay_out)
        remove_abandoned(folder)
        tiles = TileFolder(folder, find_fingerprint(key, layout))
        return cls(subset, StarBlocks(tiles, layout, subset.layout, subset.variance), dtype)

    @classmethod
    def from_arrays(cls, reader: Any, place: str, subset: Subset) -> TiledRest:
        """The one of which `arrays` stand under `place`."""
        observed = reader.array(f"{place}/observed", (None, None), kind=bool)
        size = max(1, int(reader.array(f"{place}/stars_a_block", (), finite=True)))
        layout = Layout(np.arange(len(observed)), observed, size)
        folder = TileFolder.from_arrays(reader, place)
        stars = StarBlocks(folder, layout, subset.layout, subset.variance)
        is_single = bool(reader.array(f"{place}/is_single", (), kind=bool))
        return cls(subset, stars, np.float32 if is_single else np.float64)

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays to be saved: what the tiles are of, and where."""
        return {
            "observed": self.stars.layout.observed,
            "stars_a_block": np.array(float(self.stars.layout.stars_a_block)),
            "is_single": np.array(self.dtype == np.float32),
        } | self.folder.arrays()

    def is_whole(self) -> bool:
        """Whether all tiles are there."""
        return self.stars.are_whole() and not self._find_missing()

    def fill(
        self, tangents: Callable[[np.ndarray], Tangents], max_hours: float, follow: Progress
    ) -> None:
        """Compute what is not there.

        Parameters
        ----------
        tangents : callable
            Whitened tangents of some of the training stars.
        max_hours : float
        follow : Progress

        Raises
        ------
        TooLargeError
            It would not fit on the disk, or take too long.
        """
        missing = self._find_missing()
        left = sum(map(self._count_flops, missing))
        n_bytes = self._count_bytes(missing)
        hours = check_costs(left, n_bytes, self.folder.path, max_hours, OTHERWISE)
        total = math.ceil(sum(map(self._count_flops, self._tiles)) / FLOPS_TOLD)
        follow(STAGE, total - math.ceil(left / FLOPS_TOLD), total, estimated_hours=hours)
        for i in range(len(self._sizes)):
            self.stars.compute(i, tangents)
            lacking = [tile for tile in missing if tile[0] == i]
            if not lacking:
                continue
            own = self.stars[i].as_factors(self.dtype)
            for tile in lacking:
                self.folder.write_matrix(_name(tile), self._find_tile(tile, own))
                left -= self._count_flops(tile)
                follow(STAGE, total - math.ceil(left / FLOPS_TOLD), total)

    def multiply(self, U: np.ndarray) -> np.ndarray:
        """(M - 1) U (row, k)."""
        parts = [part.astype(self.dtype) for part in self._split(U)]
        out = [np.zeros(part.shape) for part in parts]
        across = np.zeros((self.subset.n_rows, U.shape[1]))
        for (i, j), K in self._walk(self._tiles):
            if j == SUBSET:
                across += K @ parts[i]
                continue
            out[i] += K @ parts[j]
            if j < i:
                out[j] += K.T @ parts[i]
        self._condition(out, self.subset.solve(across).astype(self.dtype))
        return self._join(out)

    def find_columns(self, tangents: Tangents) -> np.ndarray:
        """The columns k = J Sigma_s J*^T (row, star, label) of other stars."""
        other = tangents.as_factors()
        parts = list(self.stars.kernel(other))
        self._condition(parts, self.subset.solve(self.subset.kernel(other)))
        return self._join(parts).reshape(self.n_rows, tangents.n_labels, -1).swapaxes(1, 2)

    def find_rounding(self, tangents: Tangents, x: np.ndarray) -> np.ndarray:
        r"""Standard deviations of what rounding of the tiles made of variances (star, label).

        Entries are known to :math:`\epsilon \sqrt{K_{ii} K_{jj}}`, and enter with :math:`\alpha_i
        \alpha_j`, where alpha = x on the rest, and on the subset what follows from it.

        Parameters
        ----------
        tangents : Tangents
        x : numpy.ndarray, shape (row, star, label)
            Solutions of M x = k.
        """
        if self.dtype == np.float64:
            return np.zeros(x.shape[1:])
        by_label = self._split(x.swapaxes(1, 2).reshape(self.n_rows, -1))
        pulled = sum(size @ part**2 for size, part in zip(self._own, by_label, strict=True))
        across = self.subset.kernel(tangents)
        for (i, _), K in self._walk(self._border):
            across -= K @ by_label[i]
        pulled += self.subset.sizes @ self.subset.solve(across) ** 2
        return self._epsilon * pulled.reshape(tangents.n_labels, -1).T

    @cached_property
    def _own(self) -> list[np.ndarray]:
        """Diagonal of K of each block."""
        own = np.diagonal(self.stars.own_gram(), axis1=1, axis2=2)
        return self.stars.layout.split(own)

    @cached_property
    def _epsilon(self) -> float:
        """Standard deviation of the entries' relative errors, as some stars of tiles say."""
        other = self.stars[0].as_factors()
        squares = []
        for i in {0, len(self._sizes) - 1}:
            rows = self.stars.layout.rows[i]
            n_stars = self.stars.layout.blocks[i].stop - self.stars.layout.blocks[i].start
            few = self.stars[i][:SAMPLE]
            exact = few.gram(other, self.stars.variance)[:, self.stars.layout.rows[0]]
            label, star = np.divmod(rows, n_stars)
            chosen = star < SAMPLE
            ((_, K),) = self._walk([(i, 0)])
            errors = K[chosen] - exact[label[chosen] * few.n_stars + star[chosen]]
            scale = np.sqrt(np.outer(self._own[i][chosen], self._own[0]))
            squares.append(np.mean((errors / np.where(scale > 0, scale, 1)) ** 2))
        return float(np.sqrt(max(squares)))

    @property
    def _border(self) -> list[Tile]:
        """The tiles of the subset and each block."""
        return [tile for tile in self._tiles if tile[1] == SUBSET]

    def _condition(self, parts: list[np.ndarray], inner: np.ndarray) -> None:
        """Take what the subset tells, M_s^-1 times its covariances with the vectors, from parts."""
        for (i, _), K in self._walk(self._border):
            parts[i] -= K.T @ inner

    def _find_tile(self, tile: Tile, own: Tangents) -> np.ndarray:
        """Block (row of i, row of j) of K, or (row of the subset, row of i), of stars i `own`."""
        i, j = tile
        layout = self.stars.layout
        if j == SUBSET:
            return select(self.subset.kernel(own, self.dtype), layout.rows[i])
        other = own if j == i else self.stars[j]
        K = own.gram(other, self.stars.variance, self.dtype)
        is_whole = K.shape == (len(layout.rows[i]), len(layout.rows[j]))
        return K if is_whole else K[np.ix_(layout.rows[i], layout.rows[j])]

    def _split(self, U: np.ndarray) -> list[np.ndarray]:
        """Vectors (row, k) by blocks, without missing labels."""
        return self.stars.layout.split(U.reshape(*self.stars.layout.observed.shape, -1))

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Vectors (row, k) from blocks, with zeros for missing labels."""
        return self.stars.layout.join(parts).reshape(self.n_rows, -1)

    # --- files

    def _walk(self, tiles: list[Tile]) -> Iterator[tuple[Tile, np.ndarray]]:
        """Tiles one after the other, each in memory until the next one is asked for."""
        place = np.empty(max(math.prod(self._find_shape(tile)) for tile in tiles), self.dtype)
        for tile, following in zip(tiles, [*tiles[1:], tiles[-1]], strict=True):
            self.folder.announce(_name(following))
            shape = self._find_shape(tile)
            K = place[: math.prod(shape)].reshape(shape)
            self.folder.read_matrix(_name(tile), K)
            yield tile, K

    def _find_shape(self, tile: Tile) -> tuple[int, int]:
        i, j = tile
        if j == SUBSET:
            return self.subset.n_rows, self._sizes[i]
        return self._sizes[i], self._sizes[j]

    def _find_missing(self) -> list[Tile]:
        return [tile for tile in self._tiles if not self.folder.has(_name(tile))]

    def _count_bytes(self, tiles: list[Tile]) -> float:
        """Bytes of tiles, and of stars that are not there."""
        entries = sum(math.prod(self._find_shape(tile)) for tile in tiles)
        blocks = self.stars.layout.blocks
        n_stars = sum(b.stop - b.start for i, b in enumerate(blocks) if not self.stars.has(i))
        return self.dtype.itemsize * entries + self._costs.tangent_bytes * n_stars

    def _count_flops(self, tile: Tile) -> float:
        """Operations of a tile, as many in float64 as take its time."""
        n_pairs = math.prod(self._find_shape(tile)) / self._costs.n_outputs**2
        return n_pairs * self._costs.flops_a_pair * self.dtype.itemsize / 8

    @cached_property
    def _costs(self) -> StarCosts:
        return StarCosts.of(self.stars.params, self.stars.layout.observed.shape[1])


def _name(tile: Tile) -> str:
    i, j = tile
    return f"tile_subset_{i:05d}" if j == SUBSET else f"tile_{i:05d}_{j:05d}"
