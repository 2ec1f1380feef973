"""The stars that a model was trained on, found again in a file of spectra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from symspec.errors import DataError
from symspec.laplace.posterior import LaplacePosterior
from symspec.spectra.pixels import fill_by_mean, fill_flux
from symspec.spectra.selections import split_stars
from symspec.spectra.spectra import Spectra


def find_training_stars(
    laplace: LaplacePosterior, spectra: Spectra, validation: float, seed: int
) -> tuple[Spectra, Spectra]:
    """Stars of a file that a model was trained on, and those to compare on.

    The mean spectrum identifies the training stars: all with labels, or those that `split_stars`
    leaves. The stars that it sets aside are those to compare on; without any, the training stars.
    Their missing pixels are filled as when the model was trained, by symspec 0.1 with their mean.

    Raises
    ------
    DataError
        The model was trained on other stars.
    """
    for fraction in (0.0, validation):
        training, others = split_stars(spectra, fraction, seed)
        for fill in (fill_flux, fill_by_mean):
            flux = fill(training)
            mean = flux.mean(axis=0, dtype=np.float64)
            if np.allclose(mean, laplace.flux_mean, rtol=1e-9, atol=0):
                filled = replace(training, flux=flux, ivar=None, flux_covariance=None)
                return filled, training if others is None else others
    raise DataError(
        f"the spectra should be those that the model was trained on, got {len(spectra)} stars of"
        " another mean spectrum: give that file, and --validation and --train-seed as they were"
        " for 'symspec train'."
    )
