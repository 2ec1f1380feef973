"""A prediction: labels of stars with their error budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from symspec.errors import ShapeError
from symspec.laplace.flags import FlagOptions
from symspec.networks.noise import LOG_2PI, Noise, mixtures, tails
from symspec.networks.noise.crps import Normals, find_crps
from symspec.safety.arrays import as_float_array
from symspec.safety.memory import chunks
from symspec.safety.options import check_level

STARS_SCORED_AT_ONCE = 4096
LEAST_DOF = 0.5  # degrees of freedom of noise with a finite continuous ranked probability score


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
        S: the scatter of the training labels around the network; of Student's t the squares of
        half widths of 68.27 %, see `StudentTNoise`.
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
        network: 1 where the network is linear within the errors of the flux, or these are too small
        beside model and noise to matter, see `find_flux_errors`.
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
    noise_mixture : numpy.ndarray, shape (star, label, 2), optional
        Where the network predicts the noise, its standard deviation in the middle, and the standard
        deviation that the weights leave its logarithm; `noise_cov` is the mean over it. None: the
        scale is known.
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
    noise_mixture: np.ndarray | None = None

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
        half = self.half_width(level)
        return np.stack([self.labels - half, self.labels + half], axis=2)

    def half_width(self, level: float = 0.68) -> np.ndarray:
        """Half of the width of `interval` (star, label)."""
        check_level(level)
        if self.noise_mixture is not None:
            return mixtures.find_half_widths(*self._split_mixture(self.noise_mixture), level)
        if self.noise_dof is None:
            return ndtri(0.5 + level / 2) * self.errors
        return tails.find_half_widths(*self._find_parts(self.noise_dof), level)

    def _find_parts(self, dof: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variance of model and flux, and scale and degrees of freedom of the noise."""
        variance = np.einsum("ncc->nc", self.total_cov - self.noise_cov)
        return variance, standard_deviations(self.noise_cov) / tails.find_sigma(dof), dof

    def _split_mixture(self, mixture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variance of all but the noise, and the noise in the middle with the spread of its log."""
        sigma, spread = np.moveaxis(mixture, 2, 0)
        own = sigma**2 * np.exp(2 * spread**2)
        return np.einsum("ncc->nc", self.total_cov) - own, sigma, spread

    def log_density(self, labels: ArrayLike) -> np.ndarray:
        """Log density (star, label) of new labels, each by itself.

        The mean over stars that were not trained on is the score by which noises, priors and
        networks are told apart.

        Parameters
        ----------
        labels : array_like, shape (star, label)
            In the units of the labels; NaN gives NaN.

        Raises
        ------
        ShapeError
            `labels` has another shape than the labels predicted.
        """
        residuals = self._find_residuals(labels)
        if self.noise_mixture is not None:
            parts = self._split_mixture(self.noise_mixture)
            return mixtures.find_log_densities(residuals, *parts)
        if self.noise_dof is not None:
            return tails.find_log_densities(residuals, *self._find_parts(self.noise_dof))
        errors = self.errors
        return -0.5 * ((residuals / errors) ** 2 + LOG_2PI) - np.log(errors)

    def cdf(self, labels: ArrayLike) -> np.ndarray:
        """Probability (star, label) that new labels are below these, each by itself.

        Of labels that were held out it is uniform between 0 and 1 if the error bars are true.

        Parameters
        ----------
        labels : array_like, shape (star, label)
            In the units of the labels; NaN gives NaN.

        Raises
        ------
        ShapeError
            `labels` has another shape than the labels predicted.
        """
        residuals = self._find_residuals(labels)
        if self.noise_mixture is not None:
            parts = self._split_mixture(self.noise_mixture)
            return mixtures.find_probabilities(residuals, *parts)
        if self.noise_dof is not None:
            return tails.find_probabilities(residuals, *self._find_parts(self.noise_dof))
        return ndtr(residuals / self.errors)

    def crps(self, labels: ArrayLike) -> np.ndarray:
        r"""Continuous ranked probability score (star, label) of new labels, each by itself.

        :math:`\int (F(x) - 1[x \ge y])^2 dx` with F the `cdf`, in the units of the labels: the mean
        over stars that were not trained on is smaller for better predictions. Of a prediction
        without error bars it would be the absolute residual; unlike the log density it makes little
        of single outliers (Gneiting & Raftery 2007, doi:10.1198/016214506000001437).

        Parameters
        ----------
        labels : array_like, shape (star, label)
            In the units of the labels; NaN gives NaN.

        Returns
        -------
        numpy.ndarray, shape (star, label)
            Infinite for noise of at most half a degree of freedom.

        Raises
        ------
        ShapeError
            `labels` has another shape than the labels predicted.
        """
        residuals = self._find_residuals(labels)
        scores = np.full(residuals.shape, np.nan)
        for rows in chunks(len(residuals), STARS_SCORED_AT_ONCE):
            for own, normals in self.select(rows).split_normals():
                scores[rows][own] = find_crps(residuals[rows][own], normals)
        if self.noise_dof is not None:
            scores[np.isfinite(residuals) & (self.noise_dof <= LEAST_DOF)] = np.inf
        return scores

    def split_normals(self) -> Iterator[tuple[np.ndarray, Normals]]:
        """The distribution of labels as mixtures of normals: masks (star, label), and each's."""
        if self.noise_mixture is not None:
            yield from mixtures.split_normals(*self._split_mixture(self.noise_mixture))
        elif self.noise_dof is not None:
            yield from tails.split_normals(*self._find_parts(self.noise_dof))
        else:
            variance = np.einsum("ncc->nc", self.total_cov)
            known = np.isfinite(variance)
            yield known, Normals(variance[known][:, None], np.ones(1))

    def _find_residuals(self, labels: ArrayLike) -> np.ndarray:
        y = as_float_array(labels, "labels", unit=self.label_units)
        if y.shape != self.labels.shape:
            raise ShapeError(
                f"labels should have the shape of those predicted, {self.labels.shape}, got"
                f" {y.shape}: give NaN where a label is not known."
            )
        return y - self.labels

    def select(self, stars: np.ndarray | slice) -> Prediction:
        """The prediction of some of the stars: an index array, slice or mask."""
        return join_predictions([self], stars)

    def with_noise(self, noise: Noise) -> Prediction:
        """The same prediction with another noise, such as that of `symspec.fit_noise`.

        Flags stay what they are.
        """
        noise_cov = noise.predict(self.labels, np.zeros_like(self.labels))
        dof = noise.tail_dof
        return replace(
            self,
            noise_cov=noise_cov,
            total_cov=self.model_cov + self.flux_cov + noise_cov,
            noise_dof=None if dof is None else np.broadcast_to(dof, self.labels.shape),
            noise_mixture=None,
        )

    def with_flux_of(self, other: Prediction) -> Prediction:
        """The same prediction with the flux errors of another one of these stars beside its own."""
        return replace(
            self,
            flux_cov=self.flux_cov + other.flux_cov,
            total_cov=self.total_cov + other.flux_cov,
        )

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
            "noise_mixture": self.noise_mixture,
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
            noise_mixture=arrays.get("noise_mixture"),
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
    return type(first).from_arrays(
        joined,
        has_flux_errors=first.has_flux_errors,
        label_names=first.label_names,
        label_units=first.label_units,
        flag_options=first.flag_options,
        center=first.center,
        fill=first.fill,
        flux=first.flux,
    )


def join_held_out(parts: Sequence[Prediction], fold: np.ndarray) -> Prediction:
    """Predictions of the stars of each fold, 0, 1, ... in turn, in the order of `fold` (star,)."""
    return join_predictions(parts, np.argsort(np.argsort(fold, kind="stable")))


def standard_deviations(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonals (star, label) of covariances (star, label, label)."""
    return np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
