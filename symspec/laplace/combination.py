"""Several networks as one: the mixture of their posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, softmax

from symspec.errors import DataError, OptionError
from symspec.laplace.flags import FlagOptions
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import (
    STARS_SCORED_AT_ONCE,
    Prediction,
    standard_deviations,
)
from symspec.networks.noise import Noise
from symspec.networks.noise.crps import find_distance
from symspec.safety.memory import chunks
from symspec.safety.options import check_choice
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra

WEIGHTS = ("equal", "evidence")
HALVINGS = 60  # of the range that holds a quantile: to rounding


@dataclass(frozen=True, kw_only=True)
class CombinedPrediction(Prediction):
    """Labels of a mixture of networks: their mean, and the covariance of the mixture.

    `model_cov` holds both parts of the law of total covariance: what each network leaves open, and
    how far the networks are apart, which is `between_cov` alone.

    Attributes
    ----------
    between_cov : numpy.ndarray, shape (star, label, label)
        Covariance of the labels between the networks.
    parts : tuple of Prediction
        Of each network.
    weights : numpy.ndarray, shape (network,)
        Of the mixture; they sum to 1.
    """

    between_cov: np.ndarray
    parts: tuple[Prediction, ...]
    weights: np.ndarray

    def interval(self, level: float = 0.68) -> np.ndarray:
        """Central interval (star, label, 2) of the mixture that holds a label so often.

        Raises
        ------
        OptionError
            `level` is not between 0 and 1.
        """
        each = np.array([part.interval(level) for part in self.parts])  # refuses bad levels
        ends = [self._find_quantile(share, each) for share in ((1 - level) / 2, (1 + level) / 2)]
        return np.stack(ends, axis=2)

    def cdf(self, labels: ArrayLike) -> np.ndarray:
        """Probability (star, label) that a label is below `labels` (star, label)."""
        return np.tensordot(self.weights, [part.cdf(labels) for part in self.parts], axes=1)

    def log_density(self, labels: ArrayLike) -> np.ndarray:
        """Log density (star, label) of new labels (star, label), each by itself."""
        each = np.array([part.log_density(labels) for part in self.parts])
        return logsumexp(each, axis=0, b=self.weights[:, None, None])

    def crps(self, labels: ArrayLike) -> np.ndarray:
        r"""Continuous ranked probability score (star, label) of new labels (star, label).

        That of a mixture is :math:`\sum_k w_k C_k - \sum_{k<l} w_k w_l \int (F_k - F_l)^2 dx`.
        """
        scores = np.tensordot(self.weights, [part.crps(labels) for part in self.parts], axes=1)
        for k, m in combinations(range(len(self.parts)), 2):
            apart = _find_distance(self.parts[k], self.parts[m])
            scores = scores - self.weights[k] * self.weights[m] * apart
        return scores

    def half_width(self, level: float = 0.68) -> np.ndarray:
        """Half of the width of `interval` (star, label)."""
        low, high = np.moveaxis(self.interval(level), -1, 0)
        return (high - low) / 2

    def select(self, stars: np.ndarray | slice) -> CombinedPrediction:
        """The prediction of some of the stars: an index array, slice or mask."""
        return _mix([part.select(stars) for part in self.parts], self.weights)

    def with_noise(self, noise: Noise) -> CombinedPrediction:
        """The same prediction with another noise, of each network; flags stay what they are."""
        return _mix([part.with_noise(noise) for part in self.parts], self.weights)

    def _find_quantile(self, share: float, each: np.ndarray) -> np.ndarray:
        """By halving the range of the networks' own quantiles, which holds that of the mixture."""
        end = 0 if share < 0.5 else 1
        low = each[..., end].min(axis=0)
        high = each[..., end].max(axis=0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            is_below = self.cdf(middle) < share
            low = np.where(is_below, middle, low)
            high = np.where(is_below, high, middle)
        return (low + high) / 2


@dataclass(frozen=True, eq=False)
class CombinedPosterior:
    """A mixture of the posteriors of several networks, each around its own weights.

    Attributes
    ----------
    posteriors : tuple of LaplacePosterior
    weights : numpy.ndarray, shape (network,)
    """

    posteriors: tuple[LaplacePosterior, ...]
    weights: np.ndarray

    def predict_labels(self, X: ArrayLike) -> np.ndarray:
        """Labels (star, label) or (label,), the weighted mean of the networks'."""
        return np.tensordot(self.weights, [one.predict_labels(X) for one in self.posteriors], 1)

    def label_covariance(self, X: ArrayLike) -> np.ndarray:
        """Covariance (star, label, label) of the labels within the networks and between them."""
        within = np.tensordot(self.weights, [one.label_covariance(X) for one in self.posteriors], 1)
        labels = np.array([one.predict_labels(X) for one in self.posteriors])
        return within + _spread(labels, self.weights)

    def predict(
        self,
        X: ArrayLike | Spectra | Resampled,
        *,
        ivar: ArrayLike | None = None,
        flag_options: FlagOptions | None = None,
        progress: bool | Progress = True,
        **options: Any,
    ) -> CombinedPrediction:
        """Labels with the error budget of the mixture.

        Parameters
        ----------
        X, ivar, flag_options, progress, **options
            As for `LaplacePosterior.predict`, which is called for each network.

        Returns
        -------
        CombinedPrediction
            A star has the flags that any network gives it, the widest distance and shift.
        """
        with show_progress(progress) as show:
            parts = [
                one.predict(X, ivar=ivar, flag_options=flag_options, progress=show, **options)
                for one in self.posteriors
            ]
        return _mix(parts, self.weights)


def combine(
    posteriors: Sequence[LaplacePosterior], *, weights: str | ArrayLike = "equal"
) -> CombinedPosterior:
    """Take several networks together: trained from other starts, or of other sizes.

    One network's error bars are those of one basin; between the training stars, several starts
    differ by more (Lakshminarayanan et al. 2017, arXiv:1612.01474; Eschenhagen et al. 2021,
    arXiv:2111.03577, for mixtures of Laplace approximations). They have to end in different minima
    for that: where all lead to the same one, up to signs and order of units, `between_cov` is zero
    and the mixture is one network again.

    Parameters
    ----------
    posteriors : sequence of LaplacePosterior
        Of the same pixels and labels.
    weights : {"equal", "evidence"} or array_like (network,)
        "evidence": proportional to the marginal likelihood, of posteriors of the same training set;
        a few nats make one of them count alone. Numbers are divided by their sum.

    Raises
    ------
    DataError
        They differ in their pixels or labels, or the weights are no positive numbers.
    OptionError
        Fewer than one posterior, or a name of weights that there is not.
    """
    each = tuple(posteriors)
    if not each:
        raise OptionError("combine takes at least one posterior, got none.")
    first = each[0].reg.net
    for other in (one.reg.net for one in each[1:]):
        for name in ("n_pixels", "label_names", "label_units"):
            if getattr(other, name) != getattr(first, name):
                raise DataError(
                    f"the networks should have the same {name}, got {getattr(first, name)} and"
                    f" {getattr(other, name)}: combine networks of the same spectra and labels."
                )
    return CombinedPosterior(each, _find_weights(each, weights))


def _find_weights(posteriors: tuple[LaplacePosterior, ...], weights: str | ArrayLike) -> np.ndarray:
    n = len(posteriors)
    if isinstance(weights, str):
        if check_choice(weights, "weights", WEIGHTS) == "equal":
            return np.full(n, 1 / n)
        return softmax([one.log_marginal_likelihood() for one in posteriors])
    found = np.asarray(weights, float)
    if found.shape != (n,) or not (np.isfinite(found) & (found >= 0)).all() or not found.any():
        raise DataError(
            f"weights should be {n} numbers of at least 0, one for each posterior, got {weights}."
        )
    return found / found.sum()


def _find_distance(first: Prediction, second: Prediction) -> np.ndarray:
    """Integral (star, label) of the squared difference of two distributions of labels."""
    distance = np.full(first.labels.shape, np.nan)
    apart = first.labels - second.labels
    for rows in chunks(len(apart), STARS_SCORED_AT_ONCE):
        for own, normals in first.select(rows).split_normals():
            for others, other_normals in second.select(rows).split_normals():
                both = own & others
                distance[rows][both] = find_distance(
                    apart[rows][both], normals.take(both[own]), other_normals.take(both[others])
                )
    return distance


def _spread(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance (..., label, label) between the networks of labels (network, ..., label)."""
    apart = labels - np.tensordot(weights, labels, axes=1)
    return np.einsum("k,k...c,k...d->...cd", weights, apart, apart)


def _mix(parts: list[Prediction], weights: np.ndarray) -> CombinedPrediction:
    """One prediction of several, of the same stars."""
    arrays = [part.to_arrays() for part in parts]

    def average(name: str) -> np.ndarray:
        return np.tensordot(weights, [own[name] for own in arrays], axes=1)

    between = _spread(np.array([part.labels for part in parts]), weights)
    means = {name: average(name) for name in ("labels", "model_cov", "flux_cov", "noise_cov")}
    means["model_cov"] = means["model_cov"] + between
    means["total_cov"] = means["model_cov"] + means["flux_cov"] + means["noise_cov"]
    first = {field.name: getattr(parts[0], field.name) for field in fields(Prediction)}
    return CombinedPrediction(
        **first
        | means
        | {
            "flags": np.bitwise_or.reduce([own["flags"] for own in arrays]),
            "label_flags": np.bitwise_or.reduce([own["label_flags"] for own in arrays]),
            "model_interval": _mix_intervals(arrays, weights, between),
            "flux_distance": _take_largest(arrays, "flux_distance"),
            "newton_shift": _take_largest(arrays, "newton_shift"),
            "nonlinearity": _take_largest(arrays, "nonlinearity"),
            "missing_cov": average("missing_cov"),
        },
        between_cov=between,
        parts=tuple(parts),
        weights=weights,
    )


def _take_largest(arrays: list[dict[str, np.ndarray]], name: str) -> np.ndarray | None:
    """Of each star, the entry of largest size among the networks; None if one has none."""
    if any(name not in own for own in arrays):
        return None
    values = np.array([own[name] for own in arrays])
    largest = np.abs(values).argmax(axis=0)
    return np.take_along_axis(values, largest[None], axis=0)[0]


def _mix_intervals(
    arrays: list[dict[str, np.ndarray]], weights: np.ndarray, between: np.ndarray
) -> np.ndarray:
    """Bounds of the mixture's model deviation (star, label, 2), from those of its parts."""
    squares = np.tensordot(weights, [own["model_interval"] ** 2 for own in arrays], axes=1)
    return np.sqrt(squares + standard_deviations(between)[:, :, None] ** 2)
