"""Several posteriors with their weights in one archive: each in a group of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.files.stored.archive import Archive, write_array, write_attribute
from symspec.files.stored.posteriors import read_posterior, write_posterior
from symspec.mixtures.posterior import CombinedPosterior

SUM_OF_WEIGHTS = 1e-9  # how far from 1


def write_mixture(file: Any, combined: CombinedPosterior) -> None:
    """Write the posteriors, numbered from 0, and their weights."""
    write_attribute(file, "n_networks", len(combined.posteriors))
    write_array(file, "weights", combined.weights)
    for k, posterior in enumerate(combined.posteriors):
        write_posterior(file.create_group(f"networks/{k}"), posterior)


def read_mixture(archive: Archive) -> CombinedPosterior:
    """Read what `write_mixture` wrote."""
    n = archive.attribute("/", "n_networks", int)
    weights = _read_weights(archive, n)
    posteriors = [read_posterior(archive.inside(f"networks/{k}")) for k in range(n)]
    return CombinedPosterior(tuple(posteriors), weights)


def _read_weights(archive: Archive, n: int) -> np.ndarray:
    weights = archive.array("weights", (n,), finite=True)
    total = weights.sum()
    if (weights < 0).any() or abs(total - 1) > SUM_OF_WEIGHTS:
        expected = f"{n} numbers of at least 0 whose sum is 1"
        raise archive.refusal("weights", expected, f"those of sum {total:.6g}")
    return weights
