"""Leading components of spectra: as many as predict pixels that are hidden."""

from __future__ import annotations

import numpy as np

RANKS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LENGTHS = (1, 4, 16)  # pixels over which residuals may be alike
NEARLY_BEST = 1.1  # times the least squared error of hidden pixels: the fewest components within
HIDDEN = 0.2  # share of the pixels that are hidden at random to choose the rank
N_BLOCKS = 5  # of pixels, every other one of which is hidden in turn
FLOOR = 1e-6  # of a pixel's variance; less is rounding


def fit_factors(
    Z: np.ndarray, reference: np.ndarray, ranks: tuple[int, ...] = RANKS
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Describe standardised spectra by components of some, and by how these predict others.

    Parameters
    ----------
    Z, reference : numpy.ndarray, shape (star, pixel)
        Spectra that give the components, and others, whose hidden pixels choose their number.
    ranks : tuple of int
        Numbers of components to choose from.

    Returns
    -------
    V, F : numpy.ndarray, shape (component, pixel)
        Components, and the same times their standard deviations.
    d : numpy.ndarray, shape (pixel,)
        Mean squares of the residuals of `reference`, times `length`.
    length : float
        Number of pixels over which residuals are alike.
    """
    hidden = _hide_pixels(Z.any(axis=0))
    V, variances = _find_components(Z, min(ranks[-1], len(Z) // 2))
    found = []
    for k in (k for k in ranks if k <= len(V)):
        residual = reference - reference @ V[:k].T @ V[:k]
        F = np.sqrt(variances[:k])[:, None] * V[:k]
        squares = np.maximum(np.mean(residual**2, axis=0), FLOOR)
        errors = np.sum([_predict_hidden(reference, F, squares, mask) for mask in hidden], axis=0)
        for length, error in zip(LENGTHS, errors, strict=True):
            found.append((error, V[:k], F, length * squares, length))
    enough = NEARLY_BEST * min(one[0] for one in found)
    fewest = min(len(one[1]) for one in found if one[0] <= enough)
    best = min((one for one in found if len(one[1]) == fewest), key=lambda one: one[0])
    return best[1:]


def _hide_pixels(varies: np.ndarray) -> list[np.ndarray]:
    """Masks (pixel,) of pixels to predict from the others: at random, and in blocks."""
    n = len(varies)
    blocks = np.arange(n) * N_BLOCKS // n
    masks = [blocks == block for block in range(0, N_BLOCKS, 2)]
    masks.append(np.random.default_rng(0).random(n) < HIDDEN)
    return [mask & varies for mask in masks]


def _predict_hidden(Z: np.ndarray, F: np.ndarray, d: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Sums (length,) of the squared errors of hidden pixels, given all others."""
    weighted = F * np.where(hidden, 0.0, 1 / d)
    P = weighted @ F.T
    seen = weighted @ Z.T
    missing = Z[:, hidden]
    others = F[:, hidden]
    errors = []
    for length in LENGTHS:
        scores = np.linalg.solve(np.eye(len(F)) + P / length, seen / length)
        errors.append(np.sum((missing - scores.T @ others) ** 2))
    return np.array(errors)


def _find_components(Z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading right singular vectors (component, pixel) of Z (star, pixel), and variances."""
    n = len(Z)
    variances, U = np.linalg.eigh(Z @ Z.T / n)
    variances = variances[::-1]
    U = U[:, ::-1]
    k = min(k, int(np.count_nonzero(variances > FLOOR * variances.sum())))
    return (U[:, :k].T @ Z) / np.sqrt(n * variances[:k])[:, None], variances[:k]
