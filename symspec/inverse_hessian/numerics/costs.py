"""What a kernel in tiles takes, before anything is done: memory, disk and hours."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.linalg.blas import dgemm

from symspec.derivatives.threads import threads_of_scipy
from symspec.errors import TooLargeError
from symspec.inverse_hessian.numerics.layout import Layout
from symspec.networks.params import ParamLayout

MOST_ROWS = 3072  # of a tile: larger ones are not faster
LEAST_ROWS = 256  # smaller ones take longer to read than to multiply with
SHARE = 0.75  # of the rate of a matrix product that the whole work attains
TEST_ORDER = 1536  # of the product that is timed
UNMEASURED = 1e12  # operations that take less than a minute anywhere
SPARE = 2**28  # bytes of the disk that are left alone
MAX_HOURS = 24.0  # that tiles may take, unless the user says so
STAGE = "tiles [Gflop]"  # what progress calls them
FLOPS_TOLD = 1e9  # operations that progress counts as one


@dataclass(frozen=True)
class StarCosts:
    """What stars cost by a network.

    Attributes
    ----------
    n_outputs : int
    flops_a_pair : float
        Operations of the kernel's entries of two stars.
    tangent_bytes : int
        Of a star, in float64.
    """

    n_outputs: int
    flops_a_pair: float
    tangent_bytes: int

    @classmethod
    def of(cls, params: ParamLayout, n_outputs: int) -> StarCosts:
        """Of the network with these parameters."""
        n_in = sum(layer.n_in for layer in params.layers.values())
        n_out = sum(layer.n_out for layer in params.layers.values())
        flops = 2 * n_in + 2 * n_outputs**2 * n_out
        return cls(n_outputs, flops, 8 * (n_in + n_outputs * n_out))

    def find_bytes(self, n_stars: int, n_rows: int) -> int:
        """Memory that a row of tiles of so many stars takes, of a kernel of `n_rows` rows."""
        rows = n_stars * self.n_outputs
        # the row, the tile that is read, one of the kernel and what it is summed from; tangents of
        # two blocks, of one as they are and in float64, and of a layer of the other
        return 8 * rows * n_rows + 6 * 8 * rows**2 + 4 * self.tangent_bytes * n_stars

    def choose_block(self, n_stars: int, n_rows: int, memory: float) -> int:
        """Stars of a block: as many as fit in memory, from `LEAST_ROWS` rows to `MOST_ROWS`."""
        most = min(n_stars, max(1, MOST_ROWS // self.n_outputs))
        least = min(n_stars, -(-LEAST_ROWS // self.n_outputs))
        while most > least and self.find_bytes(most, n_rows) > memory:
            most = max(least, most * 3 // 4)
        return most

    def check_block(self, n_stars: int, n_rows: int, memory: float) -> None:
        """Refuse blocks that do not fit in memory.

        Raises
        ------
        TooLargeError
        """
        if (needed := self.find_bytes(n_stars, n_rows)) > memory:
            raise TooLargeError(
                f"a kernel of {n_rows:,} rows in tiles of {n_stars} stars takes"
                f" {needed / 2**30:.2g} GiB of memory, a row of tiles at a time, and memory was"
                f" {memory / 2**30:.2g} GiB: give more, or a new folder and fewer stars a tile."
            )


@dataclass(frozen=True, eq=False)
class TileCosts:
    """Operations and bytes of each tile (block, block), zero above the diagonal.

    Attributes
    ----------
    flops, n_bytes : numpy.ndarray, shape (block, block)
    tangent_bytes : numpy.ndarray, shape (block,)
        Of the stars of each block, in float64.
    """

    flops: np.ndarray
    n_bytes: np.ndarray
    tangent_bytes: np.ndarray

    @classmethod
    def of(cls, layout: Layout, stars: StarCosts) -> TileCosts:
        """Of all tiles of a layout, the kernel's entries and the factorisation."""
        m = np.array(layout.sizes, float)
        n = np.array([block.stop - block.start for block in layout.blocks], float)
        before = np.cumsum(m) - m
        kernel = stars.flops_a_pair * np.outer(n, n)
        factor = np.outer(m, 2 * m * before + m**2)
        diagonal = m**2 * before + m**3 / 3
        flops = np.tril(kernel + factor, -1) + np.diag(np.diag(kernel) / 2 + diagonal)
        return cls(flops, np.tril(8 * np.outer(m, m)), stars.tangent_bytes * n)


def check_costs(
    flops: float, n_bytes: float, folder: Path, max_hours: float, otherwise: str
) -> float:
    """Hours that are left; refuse what would not fit on the disk, or would take too long.

    Parameters
    ----------
    flops, n_bytes : float
        Operations in float64, and bytes of files, that are still to come.
    folder : Path
    max_hours : float
    otherwise : str
        What else the user might do.

    Raises
    ------
    TooLargeError
        With the estimate.
    """
    hours = 0.0 if flops < UNMEASURED else flops / (SHARE * measure_rate()) / 3600
    estimate = (
        f"the kernel in tiles takes {n_bytes / 2**30:.2f} GiB of disk and about {hours:.2g} hours"
        " more on this machine"
    )
    free = shutil.disk_usage(folder).free
    if n_bytes + SPARE > free:
        raise TooLargeError(
            f"{estimate}, and {free / 2**30:.2f} GiB are free in {folder}: free more, name a folder"
            f" on another disk, or {otherwise}."
        )
    if hours > max_hours:
        raise TooLargeError(
            f"{estimate}, and max_hours={max_hours:g} was given:"
            f' options={{"max_hours": {np.ceil(hours):.0f}}} allows it, or {otherwise}.'
        )
    return hours


def measure_rate() -> float:
    """Operations a second of a matrix product in float64 on this machine, now."""
    A = np.ones((TEST_ORDER, TEST_ORDER), order="F")
    C = np.ones_like(A)
    seconds = []
    with threads_of_scipy(8 * TEST_ORDER):
        for _ in range(3):
            begin = time.perf_counter()
            dgemm(1.0, A, A, beta=1.0, c=C, overwrite_c=1)
            seconds.append(time.perf_counter() - begin)
    return 2 * TEST_ORDER**3 / min(seconds)
