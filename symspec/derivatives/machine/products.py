"""Matrix products with few columns, in pieces that BLAS computes without packing.

OpenBLAS copies both matrices of a product into an order of its own first, which takes longer than a
product with few columns. On processors with instructions of 512 bits it has kernels that do without
for up to a million multiplications: some rows at a time take down to a third of the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

UNPACKED = 1e6  # multiplications of the largest product that is not packed
WIDEST = 64  # columns from which on a tenth is gained, or less
LEAST_ROWS, LEAST_TERMS = 16, 32  # of a piece: fewer lose by the calls, and by adding up
MOST_PRODUCTS, FEW_COLUMNS = 6e6, 8  # above, `derivatives.threads` gain more by more columns
WITH_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}  # as OpenBLAS calls processors


def find_multiply(node: Any) -> Any:
    """`multiply` for a product that may be narrow by the graph's shapes, else NumPy's own."""
    n_columns = node.outputs[0].type.shape[1]
    return multiply if n_columns is not None and n_columns <= WIDEST else np.dot


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A b, some rows of a at a time; of a transposed, some columns at a time, which add up."""
    n_columns = b.shape[1]
    is_plain = b.flags.c_contiguous and a.dtype == b.dtype
    if not (_is_worth(a.size * n_columns, n_columns) and is_plain):
        return np.dot(a, b, out=out)
    if a.flags.c_contiguous and (step := _find_step(b.size)) >= LEAST_ROWS:
        out = np.empty((len(a), n_columns), a.dtype) if out is None else out
        for i in range(0, len(a), step):
            np.dot(a[i : i + step], b, out=out[i : i + step])
        return out
    if a.flags.f_contiguous and (step := _find_step(len(a) * n_columns)) >= LEAST_TERMS:
        out = np.dot(a[:, :step], b[:step], out=out)
        for i in range(step, len(b), step):
            out += np.dot(a[:, i : i + step], b[i : i + step])
        return out
    return np.dot(a, b, out=out)


def _is_worth(n_products: int, n_columns: int) -> bool:
    most = np.inf if n_columns <= FEW_COLUMNS else MOST_PRODUCTS if n_columns <= WIDEST else 0.0
    return UNPACKED < n_products < most and _has_kernels()


def _find_step(size: int) -> int:
    """Pieces of so many multiplications each in one product: a multiple of the kernels' sixteen."""
    return int(UNPACKED / size) // 16 * 16


@cache
def _has_kernels() -> bool:
    """Whether NumPy's BLAS is OpenBLAS on such a processor."""
    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return any(library.architecture in WITH_KERNELS for library in found)
