"""The error budget of a star: model, flux and noise covariances of its labels, apart and in total."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from symspec.laplace.flags import FlagOptions

PER_STAR = ("labels", "model_cov", "flux_cov", "noise_cov", "total_cov", "flags", "n_bad_pixels")
OPTIONAL_PER_STAR = ("model_interval", "label_flags", "snr", "flux_distance")


@dataclass(frozen=True)
class Prediction:
    r"""Labels of stars with their error budget, all in the units of the labels.

    Attributes
    ----------
    labels : numpy.ndarray, shape (star, label)
    model_cov : numpy.ndarray, shape (star, label, label)
        :math:`J A^{-1} J^T`: from the uncertainty of the weights.
    flux_cov : numpy.ndarray, shape (star, label, label)
        :math:`J_x \Sigma_x J_x^T`: from the errors of the flux; zero where `has_flux_errors` is
        False.
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
        What the model's standard deviation is proved to lie between: twice the same number where
        `model_cov` is exact, 0 and the number where it is an upper bound, NaN where it is an
        approximation.
    label_flags : numpy.ndarray of int, shape (star, label), optional
        Those bits of `flags` that concern one label, at that label.
    snr : numpy.ndarray, shape (star,), optional
        Signal-to-noise ratio, see `find_snr`; NaN where it is not known.
    flux_distance : numpy.ndarray, shape (star,), optional
        How unlike the training spectra the spectrum is, see `TrainingSpace`; None where these are
        not described.
    flag_options : FlagOptions, optional
        The limits behind the flags.
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
    label_flags: np.ndarray | None = None
    snr: np.ndarray | None = None
    flux_distance: np.ndarray | None = None
    flag_options: FlagOptions | None = None

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations (star, label): the square root of the total covariance's diagonal."""
        return standard_deviations(self.total_cov)


def join_predictions(parts: Sequence[Prediction], order: Any = slice(None)) -> Prediction:
    """One prediction of the stars of several, all of the same labels; `order` picks and orders the joined stars."""
    names = (
        *PER_STAR,
        *(name for name in OPTIONAL_PER_STAR if getattr(parts[0], name) is not None),
    )
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names
    }
    return replace(parts[0], **joined)


def standard_deviations(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonals (star, label) of covariances (star, label, label)."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def compute_flux_covariance(
    jacobian: Callable[[np.ndarray], np.ndarray], flux: np.ndarray, ivar: np.ndarray
) -> np.ndarray:
    r""":math:`J_x \mathrm{diag}(1/\mathrm{ivar}) J_x^T` (star, label, label).

    A pixel with ivar = 0 holds its training mean, which no error of the flux can move: its column
    is left out.
    """
    variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
    J = jacobian(flux)
    return np.matmul(J * variance[:, None, :], J.transpose(0, 2, 1))
