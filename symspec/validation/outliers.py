"""Training labels that noise with wide tails made little of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import standard_deviations
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.options import check_count
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra


@dataclass(frozen=True, eq=False, kw_only=True)
class Outliers:
    r"""Training labels by how little they count, one an entry, the least first.

    Attributes
    ----------
    star, label : numpy.ndarray of int
        Row of the star, and number of the label.
    value, predicted : numpy.ndarray
        The training label, and what the network says of its star.
    residual : numpy.ndarray
        The one less the other, in the units of the label.
    trust : numpy.ndarray
        What the label counts for the weights: 1 as without wide tails, 0 not at all. It is
        :math:`\nu / (\nu + z^2)` under Student's t, with z the residual over the scale.
    """

    star: np.ndarray
    label: np.ndarray
    value: np.ndarray
    predicted: np.ndarray
    residual: np.ndarray
    trust: np.ndarray


def find_outliers(
    laplace: LaplacePosterior,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    n_worst: int = 20,
) -> Outliers:
    """Find the training labels that the noise gave the least weight; nothing is thrown away.

    Parameters
    ----------
    laplace : LaplacePosterior
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set, or `Spectra` alone; NaN labels are missing.
    label_errors, ivar : array_like, optional
        As for `fit_laplace`.
    n_worst : int, default 20
        Number of labels to list. Normal noise trusts all alike: then they are those of the largest
        residuals in standard deviations of the noise.

    Raises
    ------
    ShapeError, DataError
        X or Y are not what is expected.
    """
    check_count(n_worst, "n_worst")
    reg = laplace.reg
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    outputs = laplace.predict_outputs(flux)
    predicted = outputs[:, : reg.net.n_labels]
    values = find_labels_alone(labels)
    residual = values - predicted
    trust = reg.noise.trust(np.nan_to_num(residual), labels)
    z = np.abs(residual) / standard_deviations(reg.noise.predict(outputs, np.zeros_like(outputs)))
    order = np.lexsort((-z.ravel(), trust.ravel()))  # missing ones, NaN, come last
    order = order[: min(n_worst, np.count_nonzero(np.isfinite(trust)))]
    star, label = np.unravel_index(order, trust.shape)
    return Outliers(
        star=star,
        label=label,
        value=values[star, label],
        predicted=predicted[star, label],
        residual=residual[star, label],
        trust=trust[star, label],
    )
