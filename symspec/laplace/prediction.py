"""The error budget of labels: model, flux and noise covariances, and their total."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from symspec.laplace.flags import FlagOptions
from symspec.spectra.resampling import Resampled

CENTERS = ("weights", "linearized")


@dataclass(frozen=True, kw_only=True)
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
        S: the scatter of the training labels around the network.
    total_cov : numpy.ndarray, shape (star, label, label)
        The sum of the three.
    flags : numpy.ndarray of int, shape (star,)
        Bits of `Flag`.
    n_bad_pixels : numpy.ndarray of int, shape (star,)
        Number of pixels with ivar = 0, replaced by their training mean.
    has_flux_errors : bool
        Whether `ivar` was given.
    label_names, label_units : tuple of str
    model_interval : numpy.ndarray, shape (star, label, 2), optional
        Proved bounds of the model's standard deviation: equal where `model_cov` is exact, 0 and the
        deviation where it is an upper bound, NaN where it is an approximation.
    label_flags : numpy.ndarray of int, shape (star, label), optional
        The bits of `flags` that concern single labels.
    snr : numpy.ndarray, shape (star,), optional
        Signal-to-noise ratio, see `find_snr`; NaN where it is unknown.
    flux_distance : numpy.ndarray, shape (star,), optional
        Distance of the spectrum from the training spectra, see `TrainingSpace`; None where they
        are not described.
    newton_shift : numpy.ndarray, shape (star, label), optional
        What a Newton step of the weights would change in each label, in units of its model standard
        deviation: 0 at a minimum of U; None if the gradient of U is unknown.
    flag_options : FlagOptions, optional
        The limits behind the flags.
    center : {"weights", "linearized"}
        Whether `labels` are the network's, or those of the network linearised at its weights, at
        its own minimum.
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
    newton_shift: np.ndarray | None = None
    flag_options: FlagOptions | None = None
    center: str = "weights"

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations (star, label): the square root of the total covariance's diagonal."""
        return standard_deviations(self.total_cov)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays with a star axis, by the names of their attributes; those that are None left out.

        Together with the attributes that hold for all stars, `from_arrays` takes them back.
        """
        arrays = {
            "labels": self.labels,
            "model_cov": self.model_cov,
            "flux_cov": self.flux_cov,
            "noise_cov": self.noise_cov,
            "total_cov": self.total_cov,
            "flags": self.flags,
            "n_bad_pixels": self.n_bad_pixels,
            "model_interval": self.model_interval,
            "label_flags": self.label_flags,
            "snr": self.snr,
            "flux_distance": self.flux_distance,
            "newton_shift": self.newton_shift,
        }
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, np.ndarray],
        *,
        has_flux_errors: bool,
        label_names: tuple[str, ...],
        label_units: tuple[str, ...],
        flag_options: FlagOptions | None = None,
        center: str = "weights",
    ) -> Self:
        """Prediction of the arrays of `to_arrays`; more names among them do no harm."""
        return cls(
            labels=arrays["labels"],
            model_cov=arrays["model_cov"],
            flux_cov=arrays["flux_cov"],
            noise_cov=arrays["noise_cov"],
            total_cov=arrays["total_cov"],
            flags=arrays["flags"],
            n_bad_pixels=arrays["n_bad_pixels"],
            has_flux_errors=has_flux_errors,
            label_names=label_names,
            label_units=label_units,
            model_interval=arrays.get("model_interval"),
            label_flags=arrays.get("label_flags"),
            snr=arrays.get("snr"),
            flux_distance=arrays.get("flux_distance"),
            newton_shift=arrays.get("newton_shift"),
            flag_options=flag_options,
            center=center,
        )


def join_predictions(
    parts: Sequence[Prediction], order: slice | np.ndarray = slice(None)
) -> Prediction:
    """Join predictions of the same labels along the star axis; `order` indexes the joined stars."""
    arrays = [part.to_arrays() for part in parts]
    joined = {name: np.concatenate([part[name] for part in arrays])[order] for name in arrays[0]}
    first = parts[0]
    return Prediction.from_arrays(
        joined,
        has_flux_errors=first.has_flux_errors,
        label_names=first.label_names,
        label_units=first.label_units,
        flag_options=first.flag_options,
        center=first.center,
    )


def standard_deviations(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonals (star, label) of covariances (star, label, label)."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def find_newton_shift(step: np.ndarray, model_cov: np.ndarray) -> np.ndarray:
    """Changes of the labels (star, label) in units of their model standard deviations."""
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN deviations; labels without weights
        return np.where(step == 0, 0.0, step / standard_deviations(model_cov))


def compute_flux_covariance(
    jacobian: Callable[[np.ndarray], np.ndarray],
    flux: np.ndarray,
    ivar: np.ndarray,
    resampled: Resampled | None = None,
    rows: slice = slice(None),
) -> np.ndarray:
    r""":math:`J_x \Sigma_x J_x^T` (star, label, label) of the flux's errors.

    :math:`\Sigma_x` is diag(1 / ivar), without the pixels of ivar = 0: they hold their training
    mean, which errors of the flux do not change. For stars `rows` of resampled spectra it is that
    of their sources' errors, with the correlations.
    """
    J = jacobian(flux)
    if resampled is not None and resampled.source_ivar is not None:
        return resampled.propagate(J, rows)
    variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
    return np.matmul(J * variance[:, None, :], J.transpose(0, 2, 1))
