"""The error budget of labels: model, flux and noise covariances, and their total."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.special import ndtri

from symspec.errors import MissingPixelsWarning
from symspec.laplace.flags import Flag, FlagOptions, find_flags, find_label_flags
from symspec.networks.noise.mixtures import find_half_widths_of_mixture
from symspec.networks.noise.student_t import find_half_width
from symspec.safety.options import check_choice, check_number
from symspec.spectra.flux_prior import FILLS, FluxPrior
from symspec.spectra.pixels import find_snr

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

CENTERS = ("weights", "linearized")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a prediction is made: `center`, `fill` and `flux` of `Prediction`."""

    center: str = "weights"
    fill: str = "conditional"
    flux: str = "linear"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    r"""Labels of stars with their error budget, all in the units of the labels.

    Attributes
    ----------
    labels : numpy.ndarray, shape (star, label)
    model_cov : numpy.ndarray, shape (star, label, label)
        :math:`J A^{-1} J^T`: from the uncertainty of the weights.
    flux_cov : numpy.ndarray, shape (star, label, label)
        :math:`J_x (\Sigma_x + C) J_x^T`: from the errors of the flux, and from what the good pixels
        leave open of the missing ones; zero where `has_flux_errors` is False.
    noise_cov : numpy.ndarray, shape (star, label, label)
        S: the scatter of the training labels around the network.
    total_cov : numpy.ndarray, shape (star, label, label)
        The sum of the three.
    flags : numpy.ndarray of int, shape (star,)
        Bits of `Flag`.
    n_bad_pixels : numpy.ndarray of int, shape (star,)
        Number of pixels with ivar = 0, which are filled.
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
    missing_cov : numpy.ndarray, shape (star, label, label), optional
        The part of `flux_cov` that missing pixels leave open, propagated linearly.
    nonlinearity : numpy.ndarray, shape (star, label), optional
        Standard deviation of the flux's part over the linear one, of the same draws through the
        network: 1 where the network is linear within the errors of the flux.
    flux_sampling_error : numpy.ndarray, shape (star, label), optional
        Monte Carlo error of the flux's standard deviation; 0 for ``flux="linear"``.
    flag_options : FlagOptions, optional
        The limits behind the flags.
    center : {"weights", "linearized"}
        Whether `labels` are the network's, or those of the network linearised at its weights, at
        its own minimum.
    fill : {"conditional", "mean", "uncounted"}
        What stands in for missing pixels: their mean given the good ones, or the training mean;
        "uncounted", the training mean, with what it costs unknown, from a file of symspec 0.1.
    flux : {"linear", "sampled"}
        How `flux_cov` is propagated.
    noise_dof : numpy.ndarray, shape (star, label), optional
        Degrees of freedom of noise with the tails of Student's t; None: it is normal.
    noise_spread : numpy.ndarray, shape (star, label), optional
        Standard deviation that the weights leave the logarithm of the scale of noise that the
        network predicts; `noise_cov` is the mean over it. None: the scale is known.
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
    missing_cov: np.ndarray | None = None
    nonlinearity: np.ndarray | None = None
    flux_sampling_error: np.ndarray | None = None
    flag_options: FlagOptions | None = None
    center: str = "weights"
    fill: str = "conditional"
    flux: str = "linear"
    noise_dof: np.ndarray | None = None
    noise_spread: np.ndarray | None = None

    def interval(self, level: float = 0.68) -> np.ndarray:
        """Central interval (star, label, 2) that holds a new label with this probability.

        Errors of model and flux are normal; the noise adds to them with its own tails. Where the
        network predicts its scale, it is a mixture of normal noise over what the weights leave open
        of that scale, independent of what they leave open of the label.

        Parameters
        ----------
        level : float
            Between 0 and 1.

        Raises
        ------
        OptionError
            `level` is not between 0 and 1.
        """
        check_number(level, "level", "between 0 and 1", lambda x: 0 < x < 1)
        half = self._find_half_width(level)
        return np.stack([self.labels - half, self.labels + half], axis=2)

    def _find_half_width(self, level: float) -> np.ndarray:
        if self.noise_spread is not None:
            variance = np.einsum("ncc->nc", self.total_cov - self.noise_cov)
            sigma = standard_deviations(self.noise_cov) * np.exp(-(self.noise_spread**2))
            return find_half_widths_of_mixture(variance, sigma, self.noise_spread, level)
        if self.noise_dof is None:
            return ndtri(0.5 + level / 2) * self.errors
        variance = np.einsum("ncc->nc", self.total_cov - self.noise_cov)
        half = np.full(self.labels.shape, np.nan)
        scale = standard_deviations(self.noise_cov) * np.sqrt(1 - 2 / self.noise_dof)
        for dof in np.unique(self.noise_dof):
            own = (self.noise_dof == dof) & np.isfinite(variance)
            half[own] = scale[own] * find_half_width(variance[own] / scale[own] ** 2, dof, level)
        return half

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
            "missing_cov": self.missing_cov,
            "nonlinearity": self.nonlinearity,
            "flux_sampling_error": self.flux_sampling_error,
            "noise_dof": self.noise_dof,
            "noise_spread": self.noise_spread,
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
        fill: str = "conditional",
        flux: str = "linear",
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
            missing_cov=arrays.get("missing_cov"),
            nonlinearity=arrays.get("nonlinearity"),
            flux_sampling_error=arrays.get("flux_sampling_error"),
            noise_dof=arrays.get("noise_dof"),
            noise_spread=arrays.get("noise_spread"),
            flag_options=flag_options,
            center=center,
            fill=fill,
            flux=flux,
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
        fill=first.fill,
        flux=first.flux,
    )


def standard_deviations(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonals (star, label) of covariances (star, label, label)."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))


def find_newton_shift(step: np.ndarray, model_cov: np.ndarray) -> np.ndarray:
    """Changes of the labels (star, label) in units of their model standard deviations."""
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN deviations; labels without weights
        return np.where(step == 0, 0.0, step / standard_deviations(model_cov))


def begin(n_stars: int, n_labels: int, n_outputs: int) -> dict[str, np.ndarray]:
    """What is computed of stars before it is summed up, of a flux without errors."""
    of_labels = (n_stars, n_labels)
    square = (n_stars, n_labels, n_labels)
    return {
        "outputs": np.zeros((n_stars, n_outputs)),
        "variances": np.zeros((n_stars, n_outputs)),
        "labels": np.zeros(of_labels),
        "model": np.zeros(square),
        "flux": np.zeros(square),
        "missing": np.zeros(square),
        "interval": np.zeros((n_stars, n_labels, 2)),
        "step": np.zeros(of_labels),
        "nonlinearity": np.ones(of_labels),
        "sampling": np.zeros(of_labels),
    }


def sum_up(
    laplace: LaplacePosterior,
    X: np.ndarray,
    ivar: np.ndarray | None,
    computed: Mapping[str, np.ndarray],
    how: Choices,
    options: FlagOptions,
) -> Prediction:
    """Total errors and flags of stars whose labels and covariances are computed."""
    noise_cov = laplace.reg.noise.predict(computed["outputs"], computed["variances"])
    dof = laplace.reg.noise.tail_dof
    total_cov = computed["model"] + computed["flux"] + noise_cov
    n_bad = np.zeros(len(X), int) if ivar is None else np.count_nonzero(ivar == 0, axis=1)
    snr = find_snr(X, ivar)
    space = laplace.training_space
    distance = None if space is None else space.find_distances(X, ivar)
    shift = None
    if laplace.gradient is not None:
        shift = find_newton_shift(computed["step"], computed["model"])
    label_flags = _flag_labels(laplace, computed, total_cov, shift, n_bad > 0, how, options)
    is_known = laplace.gradient is not None or laplace.certificate.is_minimum
    flags = find_flags(label_flags, n_bad / X.shape[1], is_known, snr, distance, options)
    return Prediction(
        labels=computed["labels"],
        model_cov=computed["model"],
        flux_cov=computed["flux"],
        noise_cov=noise_cov,
        total_cov=total_cov,
        flags=flags,
        n_bad_pixels=n_bad,
        has_flux_errors=ivar is not None,
        label_names=laplace.reg.net.label_names,
        label_units=laplace.reg.net.label_units,
        model_interval=computed["interval"],
        label_flags=label_flags,
        snr=snr,
        flux_distance=distance,
        newton_shift=shift,
        missing_cov=computed["missing"],
        nonlinearity=computed["nonlinearity"],
        flux_sampling_error=computed["sampling"],
        flag_options=options,
        center=how.center,
        fill=how.fill,
        flux=how.flux,
        noise_dof=None if dof is None else np.broadcast_to(dof, computed["labels"].shape),
        noise_spread=laplace.reg.noise.find_spread(computed["variances"]),
    )


def _flag_labels(
    laplace: LaplacePosterior,
    computed: Mapping[str, np.ndarray],
    total_cov: np.ndarray,
    shift: np.ndarray | None,
    is_incomplete: np.ndarray,
    how: Choices,
    options: FlagOptions,
) -> np.ndarray:
    """Flags (star, label) of single labels."""
    is_uncounted = is_incomplete & (how.fill == "uncounted")
    return find_label_flags(
        computed["labels"],
        total_cov,
        laplace.label_range,
        model_interval=computed["interval"],
        is_contradicted=laplace.contradicted,
        widest=laplace.inverse_hessian.widest,
        newton_shift=shift if how.center == "weights" else None,
        missing=_find_share(computed["missing"], laplace.label_spread, is_uncounted),
        nonlinearity=computed["nonlinearity"] if how.flux == "linear" else None,
        options=options,
    )


def choose_fill(fill: str, ivar: np.ndarray | None, prior: FluxPrior | None) -> str:
    """How missing pixels are filled; with a warning if what that costs cannot be counted.

    Raises
    ------
    OptionError
        `fill` is none of `FILLS`.
    """
    check_choice(fill, "fill", FILLS)
    if prior is not None:
        return fill
    if ivar is not None and (ivar == 0).any():
        warnings.warn(
            "this posterior does not hold how training spectra vary (a file of symspec 0.1, or one"
            " training star): missing pixels are filled with the training mean, what that costs is"
            f" not counted in the errors, and these stars are flagged {Flag.INFORMATION_MISSING}."
            " Call fit_laplace again to have it counted.",
            MissingPixelsWarning,
            stacklevel=3,
        )
    return "uncounted"


def _find_share(
    missing: np.ndarray, spread: np.ndarray | None, is_uncounted: np.ndarray
) -> np.ndarray:
    """Deviations that missing pixels leave (star, label) over the labels' spread (label,)."""
    deviation = standard_deviations(missing)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(deviation > 0, deviation / (1.0 if spread is None else spread), 0.0)
    return np.where(is_uncounted[:, None], np.inf, share)
