"""Some stars of many: those with labels, those to train on, evenly spaced ones; their labels under other names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from symspec.errors import DataError
from symspec.spectra.spectra import Spectra


def split_stars(spectra: Spectra, fraction: float, seed: int) -> tuple[Spectra, Spectra | None]:
    """Stars to train on, and a random `fraction` of those with labels to test on (None for a fraction of 0).

    Raises
    ------
    DataError
        Fewer than two stars are left to train on.
    """
    labelled = np.flatnonzero(~np.isnan(spectra.labels).all(axis=1))
    n_out = max(1, round(fraction * labelled.size)) if fraction > 0 else 0
    if labelled.size - n_out < 2:
        raise DataError(
            f"training needs at least two stars with labels, got {labelled.size}, of which {n_out}"
            " are set aside for validation: give more stars, or a validation of 0."
        )
    if n_out == 0:
        return spectra[labelled], None
    order = np.random.default_rng(seed).permutation(labelled)
    return spectra[np.sort(order[n_out:])], spectra[np.sort(order[:n_out])]


def match_labels(spectra: Spectra, label_names: Sequence[str]) -> np.ndarray | None:
    """Labels (star, label) of the file under a network's names, NaN where there is none; None without any."""
    columns = dict(
        zip(spectra.label_names, () if spectra.labels is None else spectra.labels.T, strict=True)
    )
    if not any(name in columns for name in label_names):
        return None
    nothing = np.full(len(spectra), np.nan)
    return np.stack([columns.get(name, nothing) for name in label_names], axis=1)


def pick_evenly(n: int, most: int) -> np.ndarray:
    """Places of at most so many of n stars, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
