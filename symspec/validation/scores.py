"""Scores of predictions against labels held out, and which network they are for.

The log score of a star is the log density that a prediction gave its labels, summed over them: it
asks for good labels and for true error bars at once (Gneiting & Raftery 2007,
doi:10.1198/016214506000001437). Two networks are compared star by star, so that what is hard to
predict for both counts for neither. The continuous ranked probability score, `Prediction.crps`, is
in the units of the label, and makes less of single outliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from symspec.laplace.prediction import Prediction
from symspec.networks.regression import Regression
from symspec.validation.calibration import check_true_labels


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanScores:
    """Means over the stars whose label is known, and whose prediction is not NaN; NaN without any.

    Attributes
    ----------
    log_score : numpy.ndarray, shape (label,)
        Log density of the label [nats, with labels in their units]; larger is better.
    crps : numpy.ndarray, shape (label,)
        Continuous ranked probability score, in the label's unit; smaller is better.
    """

    log_score: np.ndarray
    crps: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """A network that was tried, and how it did on stars held out.

    Attributes
    ----------
    name : str
        Its hidden layers: "linear", "8 tanh".
    reg : Regression
        With the noise and prior found from all stars.
    theta : numpy.ndarray, shape (param,)
        Its weights, trained on all stars.
    evidence : float
        Log marginal likelihood of all stars [nats].
    log_scores : numpy.ndarray, shape (star,)
        Log score of each star [nats] while it was held out, with labels in units of their standard
        deviations.
    log_score, log_score_error : float
        Their mean, and its standard error.
    behind, behind_error : float
        By how much that mean is below the best of all candidates, and the standard error of this
        difference.
    coverage : numpy.ndarray, shape (2, label)
        Shares of labels held out inside their intervals of 68 and 95 %.
    scatter : numpy.ndarray, shape (label,)
        Robust standard deviation of the residuals, in the labels' units.
    rmse : numpy.ndarray, shape (label,)
        Root of the mean squared residual, in the labels' units.
    relative_rmse : float
        The same over all labels, in units of their standard deviations.
    seconds : float
        Time it took, of one core.
    is_chosen : bool
    """

    name: str
    reg: Regression = field(repr=False)
    theta: np.ndarray = field(repr=False)
    evidence: float
    log_scores: np.ndarray = field(repr=False)
    log_score: float
    log_score_error: float
    behind: float
    behind_error: float
    coverage: np.ndarray
    scatter: np.ndarray
    rmse: np.ndarray
    relative_rmse: float
    seconds: float
    is_chosen: bool

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return self.reg.net.n_params


def find_mean_scores(prediction: Prediction, true_labels: ArrayLike) -> MeanScores:
    """Mean scores of a prediction of stars that were not trained on.

    Parameters
    ----------
    prediction : Prediction
    true_labels : array_like, shape (star, label)
        In the units of the labels; NaN is left out.

    Raises
    ------
    ShapeError
        `true_labels` has another shape than the labels predicted.
    """
    truth = check_true_labels(prediction, true_labels)
    return MeanScores(
        log_score=_average_known(prediction.log_density(truth)),
        crps=_average_known(prediction.crps(truth)),
    )


def _average_known(scores: np.ndarray) -> np.ndarray:
    """Means (label,) of scores (star, label) that are not NaN."""
    known = ~np.isnan(scores)
    n_known = known.sum(axis=0)
    sums = np.where(known, scores, 0.0).sum(axis=0)
    return np.where(n_known > 0, sums / np.maximum(n_known, 1), np.nan)


def score_stars(prediction: Prediction, labels: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Log score (star,) of labels (star, label) in units of their spread (label,).

    NaN labels are left out; -inf where a prediction is not finite.
    """
    densities = prediction.log_density(labels) + np.log(spread)
    known = ~np.isnan(labels)
    finite = np.where(np.isnan(densities), -np.inf, densities)
    return np.where(known, finite, 0.0).sum(axis=1)


def find_mean(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Mean of values (star,), and its standard error, for which a group counts as one star."""
    mean = float(np.mean(values))
    if not np.isfinite(mean):
        return mean, np.nan
    sums = np.bincount(groups, values - mean)
    n_groups = np.unique(groups).size
    return mean, float(np.sqrt(n_groups / max(n_groups - 1, 1) * np.sum(sums**2)) / values.size)


def find_behind(log_scores: Sequence[np.ndarray], groups: np.ndarray) -> list[tuple[float, float]]:
    """By how much each mean of scores (star,) is below the best, with its standard error."""
    best = max(log_scores, key=lambda scores: float(np.mean(scores)))
    behind = []
    for scores in log_scores:
        if np.isfinite(scores).all():
            behind.append(find_mean(best - scores, groups))
        else:
            behind.append((np.inf, np.nan))
    return behind


def find_smallest_good(behind: Sequence[tuple[float, float]], sizes: Sequence[int]) -> int:
    """The smallest that is at most its standard error behind the best.

    Of equal sizes it is the one that is less far behind.
    """
    good = [i for i, (mean, error) in enumerate(behind) if mean <= error or mean == 0]
    return min(good, key=lambda i: (sizes[i], behind[i][0]))
