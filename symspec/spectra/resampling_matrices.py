"""Linear maps from flux on one grid of wavelengths to flux on another."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from symspec.errors import ShapeError

_NEGLIGIBLE = 1e-6  # share of a pixel below which an overlap is rounding
_UNCOVERED = 1e-5  # share of a new pixel that may lie out of the old grid, for the same reason
_GAP = 3.0  # a step this many times those beside it is a gap between detectors, not a wide pixel


def build_resampling_matrix(
    old: np.ndarray, new: np.ndarray, kind: str = "flux_conserving"
) -> sparse.csr_array:
    """Linear map R from flux on one grid to flux on another.

    Parameters
    ----------
    old : numpy.ndarray, shape (old pixel,)
        Rising wavelengths.
    new : numpy.ndarray, shape (new pixel,)
        Rising wavelengths in the same unit.
    kind : {"flux_conserving", "linear"}
        As in `resample`.

    Returns
    -------
    scipy.sparse.csr_array, shape (new pixel, old pixel)
        Rows sum to 1; those of new pixels that reach out of the old grid or into a gap are empty.
    """
    build = {"flux_conserving": _build_conserving, "linear": _build_linear}[kind]
    rows, columns, weights = build(old, new)
    covered = np.bincount(rows, weights, minlength=new.size)[rows]
    keep = covered > 1 - _UNCOVERED
    return sparse.csr_array(
        ((weights / covered)[keep], (rows[keep], columns[keep])), shape=(new.size, old.size)
    )


def _find_gaps(grid: np.ndarray) -> np.ndarray:
    """Whether steps of a grid are gaps (step,)."""
    steps = np.diff(grid)
    if steps.size < 2:
        return np.zeros(steps.size, dtype=bool)
    beside = np.pad(steps, 1, mode="reflect")  # at the ends there is one step only
    return steps > _GAP * np.maximum(beside[:-2], beside[2:])


def _find_edges(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges of each pixel: half way to its neighbours; at ends and gaps as on the other side."""
    if grid.size == 1:
        raise ShapeError(
            "wavelength should have two pixels or more, got one, which has no width: interpolate,"
            " linear."
        )
    half = np.where(_find_gaps(grid), np.nan, np.diff(grid) / 2)
    left = np.insert(half, 0, np.nan)
    right = np.append(half, np.nan)
    has_left = ~np.isnan(left)
    has_right = ~np.isnan(right)
    lower = np.where(has_left, left, right)
    upper = np.where(has_right, right, left)
    alone = ~(has_left | has_right)  # between two gaps
    lower[alone] = np.nanmedian(half)
    upper[alone] = lower[alone]
    return grid - lower, grid + upper


def _build_conserving(
    old: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overlaps of new pixels with old ones as shares of the new: rows, columns, weights."""
    low, high = _find_edges(old)
    start, stop = _find_edges(new)
    first = np.searchsorted(high, start, side="right")
    last = np.maximum(np.searchsorted(low, stop, side="left"), first)
    counts = last - first
    rows = np.repeat(np.arange(new.size), counts)
    columns = (
        np.arange(counts.sum())
        - np.repeat(np.cumsum(counts) - counts, counts)
        + np.repeat(first, counts)
    )
    overlap = np.minimum(stop[rows], high[columns]) - np.maximum(start[rows], low[columns])
    width = (stop - start)[rows]
    keep = overlap > _NEGLIGIBLE * np.minimum(width, (high - low)[columns])
    return rows[keep], columns[keep], (overlap / width)[keep]


def _build_linear(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the two old pixels beside each new centre: rows, columns, weights."""
    if old.size == 1:
        raise ShapeError(
            "spectra should have two pixels or more to interpolate between, got one: give more."
        )
    left = np.clip(np.searchsorted(old, new, side="right") - 1, 0, old.size - 2)
    share = (new - old[left]) / np.diff(old)[left]
    # rounding may put the ends just outside
    inside = (share > -_NEGLIGIBLE) & (share < 1 + _NEGLIGIBLE)
    inside &= ~_find_gaps(old)[left] | (np.minimum(abs(share), abs(1 - share)) < _NEGLIGIBLE)
    rows = np.flatnonzero(inside)
    share = np.clip(share[inside], 0.0, 1.0)
    left = left[inside]
    rows = np.tile(rows, 2)
    columns = np.append(left, left + 1)
    weights = np.append(1 - share, share)
    keep = weights > _NEGLIGIBLE
    return rows[keep], columns[keep], weights[keep]
