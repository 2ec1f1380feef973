"""Labels of several networks together: the law of total covariance, and mixture intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize.elementwise import find_root
from scipy.special import logsumexp

from symspec.errors import DataError, OptionError
from symspec.laplace.prediction import STARS_SCORED_AT_ONCE, Prediction, standard_deviations
from symspec.networks.noise import Noise
from symspec.networks.noise.crps import find_distance
from symspec.safety.memory import chunks

ROUNDING = 1e-9  # of quantiles, in standard deviations


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
        return mix_predictions([part.select(stars) for part in self.parts], self.weights)

    def with_noise(self, noise: Noise) -> CombinedPrediction:
        """The same prediction with another noise, of each network; flags stay what they are."""
        return mix_predictions([part.with_noise(noise) for part in self.parts], self.weights)

    def with_flux_of(self, other: Prediction) -> CombinedPrediction:
        """The same with the flux errors that each network has in another one of this mixture.

        Raises
        ------
        OptionError
            The other prediction is not of as many networks.
        """
        if not isinstance(other, CombinedPrediction) or len(other.parts) != len(self.parts):
            raise OptionError(
                f"other should be a prediction of the same mixture of {len(self.parts)} networks,"
                " got another one: predict the stars with this mixture."
            )
        pairs = zip(self.parts, other.parts, strict=True)
        return mix_predictions([mine.with_flux_of(theirs) for mine, theirs in pairs], self.weights)

    @property
    def between_share(self) -> np.ndarray:
        """Share (star, label) of the model's variance that is between the networks."""
        between, model = (
            np.diagonal(covariance, axis1=1, axis2=2)
            for covariance in (self.between_cov, self.model_cov)
        )
        return np.divide(between, model, out=np.zeros_like(model), where=model != 0)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays with a star axis: of the mixture, and of each network under a name of its own."""
        arrays = super().to_arrays() | {"between_cov": self.between_cov}
        shape = (len(self.labels), len(self.weights))
        arrays["network_weights"] = np.broadcast_to(self.weights, shape)
        for k, part in enumerate(self.parts):
            arrays |= {f"network_{k}_{name}": array for name, array in part.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], **described: Any) -> CombinedPrediction:
        """Prediction of the arrays of `to_arrays`; more names among them do no harm.

        Raises
        ------
        DataError
            They are of mixtures with different weights.
        """
        weights = np.unique(arrays["network_weights"], axis=0)
        if len(weights) != 1:
            raise DataError(
                "predictions should be of one mixture to be joined, got those of"
                f" {len(weights)} with other weights: keep them apart."
            )
        parts = []
        for k in range(weights.shape[1]):
            own = f"network_{k}_"
            named = {
                name.removeprefix(own): a for name, a in arrays.items() if name.startswith(own)
            }
            parts.append(Prediction.from_arrays(named, **described))
        return mix_predictions(parts, weights[0])

    def _find_quantile(self, share: float, each: np.ndarray) -> np.ndarray:
        """Between the networks' own quantiles, of `each` (network, star, label, end).

        Far out rounding hides on which side of these it is, and whatever is between them will do.
        """
        quantiles = each[..., 0 if share < 0.5 else 1]
        beyond = ROUNDING * np.max([part.errors for part in self.parts], axis=0)
        low = quantiles.min(axis=0) - beyond
        high = quantiles.max(axis=0) + beyond

        def find_excess(x: np.ndarray, entry: np.ndarray) -> np.ndarray:
            labels = low.copy()
            labels.flat[entry] = x
            return self.cdf(labels).flat[entry] - share

        middle = (low + high) / 2
        entries = np.arange(low.size)
        found = find_root(find_excess, (low.ravel(), high.ravel()), args=(entries,))
        return np.where(found.success.reshape(low.shape), found.x.reshape(low.shape), middle)


def _find_distance(first: Prediction, second: Prediction) -> np.ndarray:
    """Integral (star, label) of the squared difference of two distributions of labels."""
    distance = np.full(first.labels.shape, np.nan)
    apart = first.labels - second.labels
    for rows in chunks(len(apart), STARS_SCORED_AT_ONCE):
        of_second = list(second.select(rows).split_normals())
        for own, normals in first.select(rows).split_normals():
            for others, other_normals in of_second:
                both = own & others
                distance[rows][both] = find_distance(
                    apart[rows][both], normals.take(both[own]), other_normals.take(both[others])
                )
    return distance


def find_spread(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance (..., label, label) between the networks of labels (network, ..., label)."""
    apart = labels - np.tensordot(weights, labels, axes=1)
    return np.einsum("k,k...c,k...d->...cd", weights, apart, apart)


def mix_predictions(parts: list[Prediction], weights: np.ndarray) -> CombinedPrediction:
    """One prediction of several, of the same stars."""
    arrays = [part.to_arrays() for part in parts]

    def average(name: str) -> np.ndarray:
        return np.tensordot(weights, [own[name] for own in arrays], axes=1)

    between = find_spread(np.array([part.labels for part in parts]), weights)
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
            "flux_sampling_error": _take_largest(arrays, "flux_sampling_error"),
            "noise_dof": _take_widest_tails(arrays),
            "noise_mixture": None,  # that of each network is in its part
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


def _take_widest_tails(arrays: list[dict[str, np.ndarray]]) -> np.ndarray | None:
    """The fewest degrees of freedom of any network's noise; None if all of them are normal."""
    known = [own["noise_dof"] for own in arrays if "noise_dof" in own]
    return np.min(known, axis=0) if known else None


def _mix_intervals(
    arrays: list[dict[str, np.ndarray]], weights: np.ndarray, between: np.ndarray
) -> np.ndarray:
    """Bounds of the mixture's model deviation (star, label, 2), from those of its parts."""
    squares = np.tensordot(weights, [own["model_interval"] ** 2 for own in arrays], axes=1)
    return np.sqrt(squares + standard_deviations(between)[:, :, None] ** 2)
