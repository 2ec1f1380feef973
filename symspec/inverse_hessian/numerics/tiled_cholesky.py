r"""The Cholesky factor of a matrix in tiles on disk, row of tiles by row of tiles.

Row i of L solves a triangular system with the rows above it, as predictions do: with the kernel's
blocks K_ji of the rows j < i,

.. math::
    Z_j = L_{jj}^{-1} \Bigl(K_{ji} - \sum_{k<j} L_{jk} Z_k\Bigr), \qquad L_{ij} = Z_j^T,
    \qquad L_{ii} L_{ii}^T = M_{ii} - \sum_{j<i} Z_j^T Z_j.

One row is in memory, and tiles above it are read one by one. After each row the tiles are the whole
factor of the leading rows. Blocks of vectors are in Fortran order, and the tiles of L, which the
files have row by row, are passed to BLAS as their transposes: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg.blas import dgemm, dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf

from symspec.derivatives.threads import threads_of_scipy
from symspec.errors import DataError
from symspec.inverse_hessian.numerics.tile_folder import TileFolder


class TiledCholesky:
    """Lower Cholesky factor L of a positive definite matrix.

    Parameters
    ----------
    folder : TileFolder
    sizes : list of int
        Rows of each block.
    """

    def __init__(self, folder: TileFolder, sizes: list[int]):
        self.folder = folder
        self.sizes = sizes

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(self.sizes)

    def has_tile(self, i: int, j: int) -> bool:
        """Whether a tile is there."""
        return self.folder.has(_name_tile(i, j))

    def is_whole(self) -> bool:
        """Whether all tiles are there, and those of the diagonal have the sizes of the blocks."""
        n = len(self.sizes)
        if not all(self.has_tile(i, j) for i in range(n) for j in range(i + 1)):
            return False
        return all(
            self.folder.find_shape(_name_tile(i, i)) == (size, size)
            for i, size in enumerate(self.sizes)
        )

    def complete_row(
        self, i: int, block: Callable[[int], np.ndarray], tell: Callable[[int], object]
    ) -> None:
        """Compute the tiles of a row that are missing, when the rows above are there.

        Parameters
        ----------
        i : int
        block : callable
            Block (row of j, row of i) of the matrix for j <= i.
        tell : callable
            Called with j when the tile (i, j) is there.

        Raises
        ------
        DataError
            The matrix is not positive definite.
        """
        row: list[np.ndarray] = []
        place = self._make_place()
        for j in range(i):
            Z = np.empty((self.sizes[j], self.sizes[i]), order="F")
            row.append(Z)
            if self.has_tile(i, j):
                self.folder.read_matrix(_name_tile(i, j), Z.T)
                continue
            Z[...] = block(j)
            self._eliminate(j, row, place)
            self.folder.write_matrix(_name_tile(i, j), row[j].T)
            tell(j)
        if not self.has_tile(i, i):
            factor = self._factorize(np.asfortranarray(block(i)), row)
            self.folder.write_matrix(_name_tile(i, i), factor.T)
            tell(i)

    def solve_lower(self, blocks: list[np.ndarray]) -> None:
        """L^-1 b in the place of b, by blocks (row, k) in Fortran order."""
        place = self._make_place()
        for j in range(len(self.sizes)):
            self._eliminate(j, blocks, place)

    def solve_upper(self, blocks: list[np.ndarray]) -> None:
        """L^-T b in the place of b, by blocks (row, k) in Fortran order."""
        place = self._make_place()
        with threads_of_scipy(self.n_rows):
            for j in reversed(range(len(self.sizes))):
                U = self._read(j, j, place)
                blocks[j] = dtrsm(1.0, U, blocks[j], lower=0, overwrite_b=1)
                for k in range(j):
                    self.folder.announce(_name_tile(j, k + 1))
                    U = self._read(j, k, place)
                    blocks[k] = dgemm(-1.0, U, blocks[j], beta=1.0, c=blocks[k], overwrite_c=1)

    def diagonals(self) -> Iterator[np.ndarray]:
        """Diagonal of L, block by block."""
        place = self._make_place()
        return (np.diag(self._read(j, j, place)).copy() for j in range(len(self.sizes)))

    def _eliminate(self, j: int, blocks: list[np.ndarray], place: np.ndarray) -> None:
        """Block j of L^-1 b in the place of that of b, when those before it are there."""
        with threads_of_scipy(self.n_rows):
            for k in range(j):
                self.folder.announce(_name_tile(j, k + 1))
                U = self._read(j, k, place)
                blocks[j] = dgemm(
                    -1.0, U, blocks[k], beta=1.0, c=blocks[j], trans_a=1, overwrite_c=1
                )
            U = self._read(j, j, place)
            blocks[j] = dtrsm(1.0, U, blocks[j], lower=0, trans_a=1, overwrite_b=1)

    def _factorize(self, M: np.ndarray, row: list[np.ndarray]) -> np.ndarray:
        """Upper Cholesky factor of M - sum of Z^T Z, in the place of M."""
        with threads_of_scipy(self.n_rows):
            for Z in row:
                M = dsyrk(-1.0, Z, beta=1.0, c=M, trans=1, overwrite_c=1)
            factor, info = dpotrf(M, lower=0, clean=1, overwrite_a=1)
        check_factor(factor, info)
        return factor

    def _make_place(self) -> np.ndarray:
        """Memory for the tile that is read: fresh memory would take as long as the reading."""
        return np.empty(max(self.sizes) ** 2)

    def _read(self, j: int, k: int, place: np.ndarray) -> np.ndarray:
        """L_jk transposed, in Fortran order, until the next one is read there."""
        tile = place[: self.sizes[j] * self.sizes[k]].reshape(self.sizes[j], self.sizes[k])
        self.folder.read_matrix(_name_tile(j, k), tile)
        return tile.T


def check_factor(factor: np.ndarray, info: int = 0) -> None:
    """Refuse a Cholesky factor of what is not positive definite.

    Raises
    ------
    DataError
    """
    if info != 0 or not np.isfinite(np.diag(factor)).all():  # OpenBLAS lets NaN pass
        raise DataError(
            "the network's tangent kernel is not finite or not positive definite: theta has"
            " diverged, or flux and labels differ by so many orders of magnitude that float64 does"
            " not hold; standardise them."
        )


def _name_tile(i: int, j: int) -> str:
    return f"tile_{i:05d}_{j:05d}"
