"""The stars that a model was trained on, found again in a file of spectra."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symspec.cli.shared.files import read_labelled_spectra
from symspec.errors import DataError
from symspec.mixtures.left_out import find_flux_mean
from symspec.mixtures.posterior import AnyPosterior
from symspec.spectra.grids import check_grid
from symspec.spectra.pixels import fill_by_mean, fill_flux
from symspec.spectra.selections import split_stars
from symspec.spectra.spectra import Spectra


class Found(NamedTuple):
    """Stars that a model was trained on, filled; those to compare on; whether these are others."""

    training: Spectra
    compared: Spectra
    is_set_aside: bool


def read_training_stars(
    laplace: AnyPosterior,
    path: Path,
    reading: dict[str, Any],
    validation: float,
    seed: int,
) -> Found:
    """Read the stars that a model was trained on, and those to compare on.

    Parameters
    ----------
    laplace : LaplacePosterior or CombinedPosterior
    path : Path
    reading : dict
        Options of `symspec.read_spectra`.
    validation, seed
        As for `find_training_stars`.

    Raises
    ------
    DataError, ShapeError
        The file has no labels, is on another grid, or the model was trained on other stars.
    """
    stars = read_labelled_spectra(path, laplace.net.label_names, reading)
    check_grid(laplace.net, stars, str(path))
    return find_training_stars(laplace, stars, validation, seed)


def find_training_stars(
    laplace: AnyPosterior, spectra: Spectra, validation: float, seed: int
) -> Found:
    """Stars of a file that a model was trained on, and those to compare on.

    The mean spectrum identifies the training stars: all with labels, or those that `split_stars`
    leaves. The stars that it sets aside are those to compare on; without any, the training stars.
    Their missing pixels are filled as when the model was trained, by symspec 0.1 with their mean.

    Raises
    ------
    DataError
        The model was trained on other stars.
    OptionError
        Its networks were trained on different ones.
    """
    wanted = find_flux_mean(laplace)
    for fraction in (0.0, validation):
        training, others = split_stars(spectra, fraction, seed)
        for fill in (fill_flux, fill_by_mean):
            flux = fill(training)
            mean = flux.mean(axis=0, dtype=np.float64)
            if np.allclose(mean, wanted, rtol=1e-9, atol=0):
                filled = replace(training, flux=flux, ivar=None, flux_covariance=None)
                if others is None:
                    return Found(filled, training, is_set_aside=False)
                return Found(filled, others, is_set_aside=True)
    raise DataError(
        f"the spectra should be those that the model was trained on, got {len(spectra)} stars of"
        " another mean spectrum: give that file, and --validation, --train-seed and --group as they"
        " were for 'symspec train'."
    )
