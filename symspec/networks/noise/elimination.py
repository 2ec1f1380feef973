"""Cholesky factors of many small covariances as a graph that every backend runs."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor import TensorVariable as Symbol


def eliminate(S: Symbol, observed: Symbol, n_labels: int) -> tuple[Symbol, Symbol]:
    r"""Whiteners :math:`T_n^T T_n = S_n^{-1}` and log det S_n (star,) of the observed labels.

    It is a Cholesky factorisation written out label by label and vectorised over stars, so that
    every backend runs it, and a missing label costs nothing but a mask.

    Parameters
    ----------
    S : symbol, shape (star, label, label)
        Covariances.
    observed : symbol, shape (star, label)
        1 where a label is observed, 0 where it is missing.
    n_labels : int

    Returns
    -------
    whiteners : symbol, shape (star, label, label)
        Lower triangular, zero in rows and columns of missing labels.
    log_dets : symbol, shape (star,)
    """
    R = pt.alloc(np.eye(n_labels, dtype=S.dtype), S.shape[0], n_labels, n_labels)
    rows = []
    pivots = []
    for k in range(n_labels):
        seen = observed[:, k]
        pivot = S[:, k, k]
        rows.append(R[:, k] * (seen / pt.sqrt(pivot))[:, None])
        pivots.append(pivot)
        is_below = (np.arange(n_labels) > k).astype(S.dtype)
        factor = (S[:, :, k] * (seen / pivot)[:, None] * is_below)[:, :, None]
        S = S - factor * S[:, None, k]
        R = R - factor * R[:, None, k]
    return pt.stack(rows, axis=1), pt.sum(observed * pt.log(pt.stack(pivots, axis=1)), axis=1)
