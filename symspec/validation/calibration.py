"""Tests of error bars: scatter and coverage of predictions whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import ndtri

from symspec.errors import DataError, OptionError, ShapeError
from symspec.laplace.prediction import Prediction
from symspec.mixtures.prediction import CombinedPrediction
from symspec.networks.noise import StudentTNoise
from symspec.networks.noise.tails import find_log_density
from symspec.safety.arrays import as_float_array

MIN_KNOWN = 10  # true labels that a factor takes
FIRST_DOF = 4.0
SCALES = (1e-3, 1e3)  # of the noise, in medians of the residuals
DOFS = (0.3, 1e3)
# 1 / norm.ppf(0.75): the median absolute deviation of a unit normal is 0.6745
MAD_TO_SIGMA = 1.4826
ONE_SIGMA = 0.682689492137086  # probability of a normal variate within a standard deviation


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


def find_binomial_error(level: float, n: int) -> float:
    """Standard deviation of the share of n labels that lie within an interval of this level."""
    return float(np.sqrt(level * (1 - level) / n)) if n else np.nan


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
    OptionError
        The prediction is that of a mixture of networks.
    """
    if isinstance(prediction, CombinedPrediction):
        raise OptionError(
            "prediction should be that of one network, whose noise is less than its scatter by what"
            " it learnt, got one of a mixture: take one of its parts, or leave_one_out."
        )
    labels = check_true_labels(prediction, training_labels)
    variance = np.diagonal(prediction.noise_cov - prediction.model_cov, axis1=1, axis2=2)
    # a star that was not trained on may have V > S: NaN
    with np.errstate(invalid="ignore", divide="ignore"):
        return (labels - prediction.labels) / np.sqrt(variance)


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
    _check_known(np.isfinite(z), prediction)
    n_known = np.count_nonzero(np.isfinite(z), axis=0)
    counts = f"robust scatter of {', '.join(map(str, n_known))} residuals over their errors"
    return ErrorCalibration(
        factor=sigma_mad(np.where(np.isfinite(z), z, np.nan)),
        source=f"{source}: {counts}" if source else counts,
    )


def fit_noise(prediction: Prediction, true_labels: ArrayLike) -> StudentTNoise:
    r"""Find the noise under which labels that were held out have the largest density.

    .. math:: \max_{s_c, \nu_c} \sum_n \log p(y_{nc} \mid f_{nc}, V_{nc}, s_c, \nu_c),

    with V the variance of model and flux, which stays, and Student's t of scale s and nu degrees of
    freedom for what is left. The noise of the regression is what the evidence of the training set
    says; where the network bends to its training labels more than its linear approximation tells,
    that may be too large. `Prediction.with_noise` takes what is found.

    Parameters
    ----------
    prediction : Prediction
        Of stars that were not trained on.
    true_labels : array_like, shape (star, label)
        In the units of the labels; NaN is left out.

    Raises
    ------
    ShapeError
        `true_labels` has another shape than the labels predicted.
    DataError
        A label is known of fewer than ten stars.
    """
    residuals = check_true_labels(prediction, true_labels) - prediction.labels
    known = np.isfinite(residuals)
    _check_known(known, prediction)
    variance = np.einsum("ncc->nc", prediction.model_cov + prediction.flux_cov)
    found = [
        _fit_student_t(r[seen], v[seen])
        for r, v, seen in zip(residuals.T, variance.T, known.T, strict=True)
    ]
    scale, dof = np.transpose(found)
    return StudentTNoise(scale, dof)


def _fit_student_t(residuals: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Scale and degrees of freedom of largest density beside normal errors of these variances."""
    unit = float(np.median(np.abs(residuals))) or 1.0

    def minus_density(h: np.ndarray) -> float:
        scale, dof = np.exp(h)
        scaled = residuals / unit / scale, variance / (unit * scale) ** 2
        return residuals.size * h[0] - float(np.sum(find_log_density(*scaled, dof)))

    start = np.log([1.0, FIRST_DOF])
    bounds = [np.log(limits) for limits in (SCALES, DOFS)]
    found = minimize(minus_density, start, method="L-BFGS-B", bounds=bounds)
    return np.exp(found.x) * [unit, 1.0]


def _check_known(known: np.ndarray, prediction: Prediction) -> None:
    """Refuse too few known labels (star, label)."""
    n_known = np.count_nonzero(known, axis=0)
    if n_known.min() < MIN_KNOWN:
        raise DataError(
            f"a calibration takes at least {MIN_KNOWN} true values of each label, got"
            f" {n_known.tolist()} of {', '.join(prediction.label_names)}: give more stars."
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
