"""The error budget of a star: model, flux and noise covariances of its labels, apart and in total."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Any

import numpy as np


class Flag(IntFlag):
    """Bits of `Prediction.flags`; 0 means that nothing is known against the star."""

    FAILED = 1
    OUTSIDE_TRAINING_RANGE = 2
    BAD_PIXELS = 4
    NOT_AT_MINIMUM = 8
    MODEL_ERROR_INEXACT = 16
    ERROR_UNRELIABLE = 32

    @property
    def meaning(self) -> str:
        """One line for a header."""
        return _MEANINGS[self]


_PER_STAR = ("labels", "model_cov", "flux_cov", "noise_cov", "total_cov", "flags", "n_bad_pixels")
_MEANINGS = {
    Flag.FAILED: "the prediction or a covariance is not finite",
    Flag.OUTSIDE_TRAINING_RANGE: "a label lies outside the range of the training labels",
    Flag.BAD_PIXELS: "pixels without information (ivar = 0) were replaced by the training mean",
    Flag.NOT_AT_MINIMUM: "the weights are not certified to be at a minimum: error bars unreliable",
    Flag.MODEL_ERROR_INEXACT: "the model's part of the error is an approximation, an upper bound or a wide interval",
    Flag.ERROR_UNRELIABLE: "Hamiltonian Monte Carlo contradicts this network's model error: error bars unreliable",
}
WIDE = 0.05  # relative width of the interval of a model error above which it is flagged


@dataclass(frozen=True)
class Prediction:
    r"""Labels of stars with their error budget, all in the units of the labels.

    Attributes
    ----------
    labels : numpy.ndarray, shape (star, label)
    model_cov : numpy.ndarray, shape (star, label, label)
        :math:`J A^{-1} J^T`: from the uncertainty of the weights.
    flux_cov : numpy.ndarray, shape (star, label, label)
        :math:`J_x \Sigma_x J_x^T`: from the errors of the flux; zero where `has_flux_errors` is False.
    noise_cov : numpy.ndarray, shape (star, label, label)
        S: the scatter of labels around the network, as the training labels have it.
    total_cov : numpy.ndarray, shape (star, label, label)
        The sum of the three.
    flags : numpy.ndarray of int, shape (star,)
        Bits of `Flag`.
    n_bad_pixels : numpy.ndarray of int, shape (star,)
        Pixels with ivar = 0, replaced by their training mean.
    has_flux_errors : bool
        Whether `ivar` was given.
    label_names, label_units : tuple of str
    model_interval : numpy.ndarray, shape (star, label, 2), optional
        What the model's standard deviation is proved to lie between: twice the same number where `model_cov` is exact,
        0 and the number where it is an upper bound, NaN where it is an approximation.
    """

    labels: np.ndarray
    model_cov: np.ndarray
    flux_cov: np.ndarray
    noise_cov: np.ndarray
    total_cov: np.ndarray
    flags: np.ndarray
    n_bad_pixels: np.ndarray
    has_flux_errors: bool
    label_names: tuple[str, ...]
    label_units: tuple[str, ...]
    model_interval: np.ndarray | None = None

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations (star, label): the square root of the total covariance's diagonal."""
        return standard_deviations(self.total_cov)


def join_predictions(parts: Sequence[Prediction], order: Any = slice(None)) -> Prediction:
    """One prediction of the stars of several, all of the same labels; `order` picks and orders the joined stars."""
    names = _PER_STAR if parts[0].model_interval is None else (*_PER_STAR, "model_interval")
    joined = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}
    return replace(parts[0], **joined)


def standard_deviations(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonals (star, label) of covariances (star, label, label)."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def fill_bad_pixels(flux: np.ndarray, ivar: np.ndarray | None, flux_mean: np.ndarray) -> np.ndarray:
    """Flux (star, pixel) with the pixels of ivar = 0 replaced by their training mean (pixel,)."""
    return flux if ivar is None else np.where(ivar > 0, flux, flux_mean)


def compute_flux_covariance(
    jacobian: Callable[[np.ndarray], np.ndarray], flux: np.ndarray, ivar: np.ndarray
) -> np.ndarray:
    r""":math:`J_x \mathrm{diag}(1/\mathrm{ivar}) J_x^T` (star, label, label).

    A pixel with ivar = 0 holds its training mean, which no error of the flux can move: its column is left out.
    """
    variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
    J = jacobian(flux)
    return np.matmul(J * variance[:, None, :], J.transpose(0, 2, 1))


def find_flags(
    labels: np.ndarray,
    total_cov: np.ndarray,
    n_bad_pixels: np.ndarray,
    label_range: np.ndarray,
    is_minimum: bool,
    model_interval: np.ndarray | None = None,
    is_contradicted: bool = False,
) -> np.ndarray:
    """Flags (star,) for labels (star, label), with the training labels' range (2, label)."""
    failed = ~(np.isfinite(labels).all(axis=1) & np.isfinite(total_cov).all(axis=(1, 2)))
    with np.errstate(invalid="ignore"):
        outside = ((labels < label_range[0]) | (labels > label_range[1])).any(axis=1)
    flags = np.where(failed, Flag.FAILED, 0) | np.where(outside, Flag.OUTSIDE_TRAINING_RANGE, 0)
    flags |= np.where(n_bad_pixels > 0, Flag.BAD_PIXELS, 0)
    if model_interval is not None:
        low, high = np.moveaxis(model_interval, -1, 0)
        known = (low >= (1 - WIDE) * high).all(axis=1)  # False for NaN
        flags |= np.where(known | failed, 0, Flag.MODEL_ERROR_INEXACT)
    flags |= 0 if is_minimum else Flag.NOT_AT_MINIMUM
    return (flags | (Flag.ERROR_UNRELIABLE if is_contradicted else 0)).astype(np.int32)
