"""Mean labels of groups of stars by one network, or by several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from symspec.laplace import means
from symspec.laplace.means import GroupMeans
from symspec.mixtures.posterior import AnyPosterior, find_weights, list_posteriors
from symspec.mixtures.prediction import find_spread
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra


def predict_means(
    laplace: AnyPosterior,
    X: ArrayLike | Spectra | Resampled,
    groups: ArrayLike | None = None,
    *,
    ivar: ArrayLike | None = None,
    center: str = "weights",
) -> GroupMeans:
    """Predict the mean labels of groups of stars.

    Parameters
    ----------
    laplace : LaplacePosterior or CombinedPosterior
        Of any structure: the mean's model error is as exact as that of single stars. Of several
        networks it holds how far the means are apart that each of them finds.
    X : array_like, shape (star, pixel), Spectra or Resampled
    groups : array_like, shape (star,), optional
        Name or number of each star's group; by default all stars are one, named "all".
    ivar : array_like, shape (star, pixel), optional
        As for `LaplacePosterior.predict`; `Spectra` bring their own.
    center : {"weights", "linearized"}
        As for `LaplacePosterior.predict`.

    Returns
    -------
    GroupMeans

    Raises
    ------
    ShapeError, DataError
        `groups` is not one name a star; X or ivar is not what `predict` takes.
    OptionError
        The posterior has no linearised centre.
    """
    each = list_posteriors(laplace)
    parts = [means.predict_means(one, X, groups, ivar=ivar, center=center) for one in each]
    if len(parts) == 1:
        return parts[0]
    weights = find_weights(laplace)

    def average(name: str) -> np.ndarray:
        return np.tensordot(weights, [getattr(part, name) for part in parts], axes=1)

    between = find_spread(np.array([part.labels for part in parts]), weights)
    model = average("model_cov") + between
    flux = average("flux_cov")
    noise = average("noise_cov")
    return replace(
        parts[0],
        labels=average("labels"),
        model_cov=model,
        flux_cov=flux,
        noise_cov=noise,
        total_cov=model + flux + noise,
    )
