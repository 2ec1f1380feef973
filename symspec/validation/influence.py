"""Training stars by what they do: those that move predictions most, and suspicious ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import ShapeError
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.mixtures.left_out import AnyLeftOut
from symspec.safety.memory import chunks
from symspec.safety.options import check_count
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.validation.calibration import ONE_SIGMA, check_true_labels

MOST_AT_ONCE = 2**24  # numbers of new stars, labels and training stars


@dataclass(frozen=True, eq=False, kw_only=True)
class Movers:
    """The training stars, or groups of them, that moved the labels of each new star most.

    Attributes
    ----------
    group : numpy.ndarray of int, shape (star, rank)
        Number of the training star or group, the most influential first.
    moved : numpy.ndarray, shape (star, rank, label)
        The label as predicted, less what it would be without them, in its own units.
    shares : numpy.ndarray, shape (star, rank, label)
        The same in standard deviations of the label's model error.
    without : numpy.ndarray, shape (star, rank, label)
        What the label would be without them.
    unknown : numpy.ndarray of int
        Groups of which it is not known what they moved: without them nothing is left that
        determines some weights, or, by the exact Hessian, no minimum. They rank last, with NaN.
    """

    group: np.ndarray
    moved: np.ndarray
    shares: np.ndarray
    without: np.ndarray
    unknown: np.ndarray


def find_movers(
    left_out: AnyLeftOut,
    X_new: Spectra | Resampled,
    prediction: Prediction,
    *,
    n_most: int = 5,
    curvature: str = "auto",
    progress: bool | Progress = True,
) -> Movers:
    """Find the training stars that moved the labels of new stars most.

    They are told by the largest share of a model error that they moved any label by.

    Parameters
    ----------
    left_out : LeftOut or CombinedLeftOut
        Training stars, left out one by one or in groups.
    X_new : Spectra or Resampled
    prediction : Prediction
        Of these.
    n_most : int, default 5
        Training stars or groups for each new star.
    curvature, progress
        As for `LaplacePosterior.influence`.

    Raises
    ------
    OptionError
        The posterior is of another structure than "primal" and "dual", or not at a minimum for
        curvature="hessian".
    ShapeError
        The prediction is not of these stars.
    """
    check_count(n_most, "n_most")
    spectra = X_new.spectra if isinstance(X_new, Resampled) else X_new
    n_stars, n_labels = prediction.labels.shape
    if len(spectra) != n_stars:
        raise ShapeError(
            f"X_new should be the stars of the prediction, {n_stars:,}, got {len(spectra):,}: give"
            " the same ones in the same order."
        )
    errors = standard_deviations(prediction.model_cov)
    size = max(1, MOST_AT_ONCE // (n_labels * len(left_out.stars.flux)))
    parts = []
    unknown = []
    with show_progress(progress) as show:
        for rows in chunks(n_stars, size):
            some = spectra[rows]
            found = left_out.find_influence(some, curvature=curvature, progress=show)
            parts.append(_take_most(found, errors[rows], n_most))
            unknown.append(find_unknown(found))
    group, moved, shares = (np.concatenate(part) for part in zip(*parts, strict=True))
    without = prediction.labels[:, None, :] - moved
    return Movers(
        group=group, moved=moved, shares=shares, without=without,
        unknown=reduce(np.intersect1d, unknown),
    )  # fmt: skip


def find_unknown(influence: np.ndarray) -> np.ndarray:
    """Numbers of the groups of which influence (star, label, group) tells nothing, of any star."""
    return np.flatnonzero(np.isnan(influence).all(axis=(0, 1)))


def _take_most(
    influence: np.ndarray, errors: np.ndarray, n_most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups (star, rank) that moved most, by how much, and by how many model errors."""
    with np.errstate(divide="ignore", invalid="ignore"):  # where the model has no error
        shares = influence / errors[:, :, None]
    size = np.where(np.isnan(shares), np.inf, np.abs(shares))
    size = np.where(np.isnan(influence), -1.0, size).max(axis=1)
    group = np.argsort(-size, axis=1, kind="stable")[:, :n_most]
    picked = group[:, None, :]
    moved = np.take_along_axis(influence, picked, axis=2)
    return group, moved.swapaxes(1, 2), np.take_along_axis(shares, picked, axis=2).swapaxes(1, 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Suspects:
    """Training labels by how far they are from what the other stars say, the farthest first.

    Attributes
    ----------
    star, label : numpy.ndarray of int
        Row of the star, and number of the label.
    value, predicted : numpy.ndarray
        The training label, and what the network says of its star without it.
    error : numpy.ndarray
        Half width of the interval of 68.27 % around `predicted`, which holds the label's own error:
        of normal errors the standard deviation.
    z : numpy.ndarray
        Predicted less value, over the error.
    """

    star: np.ndarray
    label: np.ndarray
    value: np.ndarray
    predicted: np.ndarray
    error: np.ndarray
    z: np.ndarray


def find_suspects(
    prediction: Prediction, training_labels: ArrayLike, *, n_worst: int | None = None
) -> Suspects:
    """Find the training labels that contradict all other stars.

    Labels of a star that alone determines some weights, so that nothing is left without it, have no
    z and are left out.

    Parameters
    ----------
    prediction : Prediction
        Of the training stars, each left out, see `LaplacePosterior.leave_one_out`.
    training_labels : array_like, shape (star, label)
        In the units of the labels; NaN is left out.
    n_worst : int, optional
        Number of labels to list; by default all.

    Raises
    ------
    ShapeError
        `training_labels` has another shape than the labels predicted.
    """
    values = check_true_labels(prediction, training_labels)
    errors = prediction.half_width(ONE_SIGMA)
    z = (prediction.labels - values) / errors
    order = np.argsort(-np.abs(z), axis=None, kind="stable")  # NaN last
    order = order[: np.count_nonzero(~np.isnan(z))][:n_worst]
    star, label = np.unravel_index(order, z.shape)
    return Suspects(
        star=star,
        label=label,
        value=values[star, label],
        predicted=prediction.labels[star, label],
        error=errors[star, label],
        z=z[star, label],
    )
