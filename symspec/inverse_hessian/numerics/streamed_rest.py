r"""Training stars beside a subset, added by products with all weights.

With :math:`\Sigma_s` the subset's A^-1 and :math:`\hat J` the whitened tangents of the rest, what
the rest does not know yet is :math:`M - 1 = \hat J \Sigma_s \hat J^T`. A product with it walks the
stars twice.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents

COLUMN_BYTES = 2**28  # vectors of parameters held at once


class StreamedRest:
    """M - 1 in constant memory.

    Parameters
    ----------
    subset : LinearOperator
        Its A^-1.
    stars : TangentStream
        All other training stars.

    Attributes
    ----------
    dtype : numpy.dtype
        That vectors are worth keeping in.
    most_columns, usual_steps : int
        Right-hand sides that share a Krylov space, and blocks of it that they take.
    stars_a_piece : int
        Stars after which results are worth keeping.
    """

    dtype = np.dtype(np.float64)
    most_columns: ClassVar[int] = 96
    usual_steps: ClassVar[int] = 40
    stars_a_piece: ClassVar[int] = 16

    def __init__(self, subset: LinearOperator, stars: TangentStream):
        self.subset = subset
        self.stars = stars
        self.n_rows = stars.n_stars * stars.n_labels

    def down(self, V: np.ndarray) -> np.ndarray:
        """J V (row, k) for V (param, k)."""
        return self.stars.matvec(V).reshape(self.n_rows, -1)

    def up(self, u: np.ndarray) -> np.ndarray:
        """J^T u (param, k) for u (row, k)."""
        return self.stars.rmatvec(u.reshape(self.stars.n_stars, self.stars.n_labels, -1))

    def multiply(self, U: np.ndarray) -> np.ndarray:
        """(M - 1) U (row, k), few columns at a time."""
        return np.hstack(
            [self.down(self.subset @ self.up(U[:, c])) for c in self.slice_columns(U.shape[1])]
        )

    def find_columns(self, tangents: Tangents) -> np.ndarray:
        """The columns k = J Sigma_s J*^T (row, star, label) of other stars."""
        C = tangents.n_labels
        k = np.empty((self.n_rows, tangents.n_stars, C))
        for stars in self.slice_columns(tangents.n_stars, each=C):
            few = tangents[stars].as_factors()
            Jt = [few[i : i + 1].rmatvec(np.eye(C)[None]) for i in range(few.n_stars)]
            V = self.subset @ np.hstack(Jt)
            parts = [block.as_factors().matvec(V) for _, block in self.stars.blocks()]
            k[:, stars] = np.concatenate(parts).reshape(self.n_rows, -1, C)
        return k

    def find_rounding(self, tangents: Tangents, x: np.ndarray) -> np.ndarray:
        """Deviation of variances (star, label) by entries of M: none, as there are no entries."""
        return np.zeros((tangents.n_stars, tangents.n_labels))

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays to be saved: none."""
        return {}

    def slice_columns(self, n: int, *, each: int = 1) -> list[slice]:
        """Slices of n vectors of parameters, each of as many as are held at once."""
        step = max(1, COLUMN_BYTES // (8 * self.stars.n_params * each))
        return [slice(i, min(i + step, n)) for i in range(0, n, step)]
