"""Tests of error bars: scatter and coverage of predictions whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from symspec.derivatives.compiled import compile_predict
from symspec.derivatives.functions import check_stars
from symspec.errors import DataError, OptionError, ShapeError
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.safety.arrays import as_float_array
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.options import check_count
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

MIN_KNOWN = 10  # true labels that a factor takes
# 1 / norm.ppf(0.75): the median absolute deviation of a unit normal is 0.6745
MAD_TO_SIGMA = 1.4826


def coverage(
    prediction: Prediction, true_labels: ArrayLike, levels: Sequence[float] = (0.68, 0.95)
) -> np.ndarray:
    r"""Fraction c of true labels inside their intervals, see `Prediction.interval`.

    Honest errors give :math:`c_{lc} \approx l` for level l, to within
    :math:`\sqrt{l (1 - l) / N_c}` of the N_c stars with label c.

    Parameters
    ----------
    prediction : Prediction
    true_labels : array_like, shape (star, label)
        In the units of the labels; NaN is left out. A star whose prediction is NaN counts as
        missed.
    levels : sequence of float, default (0.68, 0.95)
        Probabilities, each between 0 and 1.

    Returns
    -------
    numpy.ndarray, shape (level, label)
        NaN for a label without a true value.

    Raises
    ------
    ShapeError
        `true_labels` has another shape than the labels predicted.
    OptionError
        A level is not between 0 and 1.
    """
    truth = check_true_labels(prediction, true_labels)
    intervals = np.array([prediction.interval(float(level)) for level in _check_levels(levels)])
    known = ~np.isnan(truth)
    with np.errstate(invalid="ignore"):  # an error of NaN covers nothing
        inside = (intervals[..., 0] <= truth) & (truth <= intervals[..., 1])
    n_known = known.sum(axis=0)
    return np.where(n_known > 0, (inside & known).sum(axis=1) / np.maximum(n_known, 1), np.nan)


def studentized_residuals(prediction: Prediction, training_labels: ArrayLike) -> np.ndarray:
    r"""Residuals of training labels in units of their leave-one-out errors.

    .. math:: z_{nc} = \frac{y_{nc} - f_{nc}}{\sqrt{S_{cc} - V_{n,cc}}}

    With S the noise and V the model covariance: in the linearised model this is the residual from a
    fit without the label, over its predictive standard deviation (Cook & Weisberg 1982, Residuals
    and Influence in Regression). A flexible network bends towards a wrong label, which the plain
    residual hides and this one shows.

    Parameters
    ----------
    prediction : Prediction
        Of the training stars, by the network at its minimum.
    training_labels : array_like, shape (star, label)
        In the units of the labels; NaN stays NaN.

    Returns
    -------
    numpy.ndarray, shape (star, label)
        Standard normal if model and noise are right.

    Raises
    ------
    ShapeError
        `training_labels` has another shape than the labels predicted.
    """
    labels = check_true_labels(prediction, training_labels)
    variance = np.diagonal(prediction.noise_cov - prediction.model_cov, axis1=1, axis2=2)
    # a star that was not trained on may have V > S: NaN
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labels - prediction.labels) / np.sqrt(variance)


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
    n_worst: int = 20,
) -> Outliers:
    """Find the training labels that the noise gave the least weight; nothing is thrown away.

    Parameters
    ----------
    laplace : LaplacePosterior
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set, or `Spectra` alone; NaN labels are missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
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
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors))
    predicted = compile_predict(reg.net)(laplace.theta, flux)
    values = find_labels_alone(labels)
    residual = values - predicted
    trust = reg.noise.trust(np.nan_to_num(residual), labels)
    z = np.abs(residual) / standard_deviations(reg.noise.predict(predicted))
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


def sigma_mad(residuals: ArrayLike) -> np.ndarray:
    r"""Robust scatter of each label, from the median absolute deviation.

    .. math:: 1.4826\, \mathrm{med}_n |r_{nc} - \mathrm{med}_m\, r_{mc}|

    For normal residuals it is their standard deviation; outliers hardly move it.

    Parameters
    ----------
    residuals : array_like, shape (star, label)
        NaN is left out.

    Returns
    -------
    numpy.ndarray, shape (label,)
        In the units of the residuals; NaN for a label without residuals.

    Raises
    ------
    ShapeError
        `residuals` is not a matrix.
    """
    residuals = as_float_array(residuals, "residuals")
    if residuals.ndim != 2:
        advice = "for one label give residuals[:, None]"
        raise ShapeError(
            f"residuals should have shape (star, label), got {residuals.shape}: {advice}."
        )
    return np.array([_mad_of_known(column[~np.isnan(column)]) for column in residuals.T])


@dataclass(frozen=True, eq=False, kw_only=True)
class ErrorCalibration:
    """Factors that calibrate the errors of each label, and their source.

    Attributes
    ----------
    factor : numpy.ndarray, shape (label,)
        Calibrated errors are the total errors times this.
    source : str
        One line for a catalogue's header.

    Raises
    ------
    ShapeError, DataError
        The factors are not positive numbers, one a label.
    """

    factor: np.ndarray
    source: str

    def __post_init__(self) -> None:
        factor = np.array(as_float_array(self.factor, "factor"))
        if factor.ndim != 1:
            raise ShapeError(
                f"factor should have shape (label,), got {factor.shape}: give one number a label."
            )
        if not (np.isfinite(factor) & (factor > 0)).all():
            raise DataError(
                f"factor should be positive numbers, got {factor}: give 1 for a label left as"
                " it is."
            )
        object.__setattr__(self, "factor", factor)


def calibrate_errors(
    prediction: Prediction, true_labels: ArrayLike, *, source: str = ""
) -> ErrorCalibration:
    r"""Find the factor by which the total errors of each label are too small (above 1) or large.

    .. math:: c_c = 1.4826\, \mathrm{med}_n |z_{nc} - \mathrm{med}_m z_{mc}|, \qquad
        z_{nc} = (y_{nc} - f_{nc}) / \sigma_{nc},

    the robust scatter of residuals in units of their errors, known to about :math:`1.2 /
    \sqrt{N_c}` of itself. Like the median it looks at the middle half of the residuals: of noise
    with wide tails, sigma is that of a normal distribution with the same interval of 50 %.

    Parameters
    ----------
    prediction : Prediction
        Of stars that were not trained on.
    true_labels : array_like, shape (star, label)
        In the units of the labels; NaN is left out.
    source : str, optional
        A description of these stars; their number is added.

    Raises
    ------
    ShapeError
        `true_labels` has another shape than the labels predicted.
    DataError
        A label is known of fewer than ten stars.
    """
    truth = check_true_labels(prediction, true_labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (truth - prediction.labels) / _find_normal_sd(prediction, 0.5)
    n_known = np.count_nonzero(np.isfinite(z), axis=0)
    if n_known.min() < MIN_KNOWN:
        raise DataError(
            f"a calibration takes at least {MIN_KNOWN} true values of each label, got"
            f" {n_known.tolist()} of {', '.join(prediction.label_names)}: give more stars."
        )
    counts = f"robust scatter of {', '.join(map(str, n_known))} residuals over their errors"
    return ErrorCalibration(
        factor=sigma_mad(np.where(np.isfinite(z), z, np.nan)),
        source=f"{source}: {counts}" if source else counts,
    )


def _find_normal_sd(prediction: Prediction, level: float) -> np.ndarray:
    """Standard deviations (star, label) of normal distributions with the same interval."""
    return prediction.half_width(level) / ndtri(0.5 + level / 2)


def check_true_labels(prediction: Prediction, true_labels: ArrayLike) -> np.ndarray:
    """Check that true labels (star, label) match a prediction.

    Raises
    ------
    ShapeError
        The shape is another one.
    """
    truth = as_float_array(true_labels, "true_labels", unit=prediction.label_units)
    if truth.shape != prediction.labels.shape:
        raise ShapeError(
            f"true_labels should have the shape of prediction.labels, {prediction.labels.shape},"
            f" got {truth.shape}: select the same stars and labels, NaN where the truth is not"
            " known."
        )
    return truth


def _check_levels(levels: Sequence[float]) -> np.ndarray:
    array = np.atleast_1d(as_float_array(levels, "levels"))
    if array.ndim != 1 or not ((array > 0) & (array < 1)).all():
        raise OptionError(
            f"levels should be probabilities between 0 and 1, got {levels!r}: write (0.68, 0.95)."
        )
    return array


def _mad_of_known(values: np.ndarray) -> float:
    if not values.size:
        return np.nan
    return MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))
