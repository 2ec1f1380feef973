"""Distances of stars from a training set, in units of its own scatter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from symspec.errors import DataError

BLOCK_BYTES = 2**26
REFERENCE_STARS = 1000  # measured at once; also the training stars that give the ranks


def find_distances(X: np.ndarray, X_sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Distance of each star to its nearest training star, and the rank of that distance.

    .. math:: d(x) = \min_n \Big[\frac1D \sum_i \Big(\frac{x_i - x_{ni}}{s_i}\Big)^2\Big]^{1/2},

    with s_i the standard deviation of pixel i over the training set; pixels that never vary there
    are left out.

    Parameters
    ----------
    X : numpy.ndarray, shape (star, pixel)
        Training flux. The ranks come from the distances of at most `REFERENCE_STARS` of them, a
        fixed random choice, to all others.
    X_sample : numpy.ndarray, shape (star, pixel)

    Returns
    -------
    distance : numpy.ndarray, shape (star,)
        0 for a training star.
    quantile : numpy.ndarray, shape (star,)
        Fraction of the training stars that are nearer to their own nearest neighbour. At 1 a star
        is farther out than any training star is from the others.

    Raises
    ------
    DataError
        The training stars are all the same, or there is only one.
    """
    mean, scale = _standardization(X)
    some = np.arange(len(X))
    if len(X) > REFERENCE_STARS:
        some = np.sort(np.random.default_rng(0).permutation(len(X))[:REFERENCE_STARS])
    own = np.sort(_nearest(X, X[some], mean, scale, themselves=some))
    starts = range(0, len(X_sample), REFERENCE_STARS)
    distance = np.concatenate(
        [_nearest(X, X_sample[i : i + REFERENCE_STARS], mean, scale) for i in starts]
    )
    return distance, np.searchsorted(own, distance, side="left") / len(own)


def _standardization(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (pixel,); the latter infinite where a pixel never varies."""
    mean = X.mean(axis=0, dtype=np.float64)
    variance = sum(np.sum((X[rows] - mean) ** 2, axis=0) for rows in _blocks(X)) / len(X)
    scale = np.sqrt(variance)
    scale[scale <= 1e-7 * np.abs(mean)] = np.inf  # rounding of a constant in float32
    if not np.isfinite(scale).any():
        raise DataError(
            f"X should hold training stars that differ, got {len(X)} without a pixel that varies."
        )
    return mean, scale


def _nearest(
    X: np.ndarray,
    stars: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
    *,
    themselves: np.ndarray | None = None,
) -> np.ndarray:
    """Distances (star,) to the nearest row of X; `themselves` (star,) are rows not to count."""
    stars = (stars - mean) / scale
    squares = np.sum(stars**2, axis=1)
    best = np.full(len(stars), np.inf)
    where = np.zeros(len(stars), int)
    for rows in _blocks(X):
        block = (X[rows] - mean) / scale
        d = squares[:, None] + np.sum(block**2, axis=1) - 2 * stars @ block.T
        if themselves is not None:
            inside = np.flatnonzero((themselves >= rows.start) & (themselves < rows.stop))
            d[inside, themselves[inside] - rows.start] = np.inf
        nearest = d.argmin(axis=1)
        smallest = d[np.arange(len(d)), nearest]
        closer = smallest < best
        best[closer], where[closer] = smallest[closer], nearest[closer] + rows.start
    # the difference of squares loses small distances: compute that to the neighbour again
    difference = stars - (X[where] - mean) / scale
    return np.sqrt(np.sum(difference**2, axis=1) / np.isfinite(scale).sum())


def _blocks(X: np.ndarray) -> Iterator[slice]:
    """Rows whose spectra and distances to `REFERENCE_STARS` stars take some `BLOCK_BYTES`."""
    step = max(1, BLOCK_BYTES // (8 * max(X.shape[1], REFERENCE_STARS)))
    for start in range(0, len(X), step):
        yield slice(start, min(start + step, len(X)))
