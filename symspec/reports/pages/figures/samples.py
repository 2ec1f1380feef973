"""The stars that a page is about, and the numbers that it gives of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.validation.calibration import ONE_SIGMA, sigma_mad

MOST_BINS = 10
LEAST_IN_BIN = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """Predicted stars, with what else is known of them.

    Attributes
    ----------
    heading : str
        What they are, for headings.
    origin : str
        A sentence on where labels and errors come from.
    prediction : Prediction
    true_labels : numpy.ndarray, shape (star, label), or None
        NaN where unknown.
    ids : sequence of str, or None
    has_tails : bool
        Whether the intervals of every level are known, which catalogues do not hold of noise with
        wide tails.
    interval : numpy.ndarray, shape (star, label, 2), or None
        In that case, those that the catalogue holds.
    level : float or None
        Their level.
    between_cov : numpy.ndarray, shape (star, label, label), or None
        Of a mixture of networks, the part of the model covariance that is between them.
    warning : str
        What a reader has to know before the numbers; empty if there is nothing.
    """

    heading: str
    origin: str
    prediction: Prediction
    true_labels: np.ndarray | None = None
    ids: Any = None
    has_tails: bool = True
    interval: np.ndarray | None = None
    level: float | None = None
    between_cov: np.ndarray | None = None
    warning: str = ""

    def __len__(self) -> int:
        return len(self.prediction.labels)

    @property
    def is_tested(self) -> bool:
        """Whether a true label is known."""
        return self.true_labels is not None and bool(np.isfinite(self.true_labels).any())

    @property
    def snr(self) -> np.ndarray | None:
        """Signal-to-noise ratios (star,), if those of some stars are known."""
        snr = self.prediction.snr
        return snr if snr is not None and np.isfinite(snr).any() else None

    def name(self, star: int) -> str:
        """Its id, or its number."""
        return str(star) if self.ids is None else str(self.ids[star])

    def find_residuals(self) -> np.ndarray:
        """Predicted less true labels (star, label), NaN where one is unknown."""
        return self.prediction.labels - np.asarray(self.true_labels)

    def find_deviations(self) -> np.ndarray:
        """Half widths (star, label) of 68.27 %: of normal errors, the standard deviations."""
        return self.prediction.half_width(ONE_SIGMA) if self.has_tails else self.prediction.errors

    def find_pit(self) -> np.ndarray:
        """Probabilities (star, label) that a label is below the true one, NaN where unknown."""
        return self.prediction.cdf(np.asarray(self.true_labels))

    def find_budget(self) -> dict[str, np.ndarray]:
        """Standard deviations (star, label) by the part of the error."""
        prediction = self.prediction
        parts = {"model": prediction.model_cov}
        if self.between_cov is not None:
            parts = {"within": prediction.model_cov - self.between_cov, "between": self.between_cov}
        if prediction.has_flux_errors:
            parts["flux"] = prediction.flux_cov
        parts |= {"noise": prediction.noise_cov, "total": prediction.total_cov}
        with np.errstate(invalid="ignore"):
            return {name: standard_deviations(part) for name, part in parts.items()}


@dataclass(frozen=True, eq=False)
class Bin:
    """Stars of similar x: the median of x, and their places among all."""

    x: float
    members: np.ndarray


def find_bins(x: np.ndarray, known: np.ndarray) -> Iterator[Bin]:
    """Known stars (star,) in the order of x, in at most ten bins of equal numbers."""
    usable = np.flatnonzero(known & np.isfinite(x))
    order = usable[np.argsort(x[usable], kind="stable")]
    n_bins = int(np.clip(order.size // LEAST_IN_BIN, 1, MOST_BINS)) if order.size else 0
    for members in np.array_split(order, n_bins) if n_bins else ():
        yield Bin(float(np.median(x[members])), members)


def find_coverage(pit: np.ndarray, known: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Shares (level,) of labels within their central intervals; a NaN prediction is a miss.

    Parameters
    ----------
    pit : numpy.ndarray, shape (star,)
        As `Sample.find_pit` gives it for one label.
    known : numpy.ndarray of bool, shape (star,)
        Where the true label is known.
    levels : tuple of float
    """
    inside = np.abs(2 * pit[known] - 1)[:, None] <= np.array(levels)
    return inside.mean(axis=0) if len(inside) else np.full(len(levels), np.nan)


def find_scatter(values: np.ndarray) -> float:
    """Robust scatter of the known values (star,), NaN without any."""
    return float(sigma_mad(values[:, None])[0])


def find_median(values: np.ndarray) -> float:
    """Median of the known values, NaN without any."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan
