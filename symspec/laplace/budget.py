"""The error budget of labels: model, flux and noise covariances summed up, and flagged."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from symspec.derivatives.threads import Threads
from symspec.errors import MissingPixelsWarning, OptionError
from symspec.laplace.flags import Flag, FlagOptions, find_flags, find_label_flags
from symspec.laplace.flux_errors import (
    FluxNoise,
    find_beyond,
    find_flux_errors,
    find_linear_errors,
)
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.safety.checkpoint import Checkpoint
from symspec.safety.label_errors import Labels
from symspec.safety.memory import Batches
from symspec.safety.options import check_choice
from symspec.spectra.covariances.interface import FluxCovariance
from symspec.spectra.flux_prior import FILLS, Completed, FluxPrior
from symspec.spectra.pixels import find_snr
from symspec.spectra.selections import as_flux
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

CENTERS = ("weights", "linearized")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a prediction is made: `center`, `fill` and `flux` of `Prediction`."""

    center: str = "weights"
    fill: str = "conditional"
    flux: str = "linear"


def check_center(laplace: LaplacePosterior, center: str) -> None:
    """Refuse a centre that there is not; warn of what the linearised one could not be solved to.

    Raises
    ------
    OptionError
        `center` is none of `CENTERS`, or the posterior has no linearised one.
    """
    if check_choice(center, "center", CENTERS) == "weights":
        return
    if not can_be_linearized(laplace):
        raise OptionError(
            'center="linearized" should be asked of a posterior of curvature="ggn" from all'
            " training stars and with the gradient of U, which this one is not: call"
            " fit_laplace again."
        )
    for words in laplace.newton_warnings:
        warnings.warn(words, RuntimeWarning, stacklevel=4)


def choose_center(posteriors: Sequence[LaplacePosterior], center: str) -> str:
    """The centre; for "auto" the linearised one, if it is there, of weights that are no minimum.

    Raises
    ------
    OptionError
        It is neither "auto" nor one of `CENTERS`.
    """
    if check_choice(center, "center", ("auto", *CENTERS)) != "auto":
        return center
    if all(one.certificate.is_minimum for one in posteriors):
        return "weights"
    return "linearized" if all(map(can_be_linearized, posteriors)) else "weights"


def can_be_linearized(laplace: LaplacePosterior) -> bool:
    """Whether there is a centre of the linearised network."""
    is_whole = laplace.curvature == "ggn" and laplace.inverse_hessian.is_complete
    return is_whole and laplace.gradient is not None


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


@dataclass(frozen=True, eq=False)
class Budgets:
    """What `sum_up` sums up, computed of some stars at a time.

    Attributes
    ----------
    laplace : LaplacePosterior
    flux : numpy.ndarray, shape (star, pixel)
    ivar : numpy.ndarray, shape (star, pixel), or None
    covariance : FluxCovariance or None
        Of the flux, if its errors are correlated.
    how : Choices
    """

    laplace: LaplacePosterior
    flux: np.ndarray
    ivar: np.ndarray | None
    covariance: FluxCovariance | None
    how: Choices

    def compute(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Of all stars, but for those that the checkpoint has kept."""
        net = self.laplace.reg.net
        n_stars = len(self.flux)
        start = begin(n_stars, net.n_labels, net.n_outputs)
        with threads_for(self.laplace, n_stars):
            return checkpoint.accumulate("prediction", Batches(n_stars), start, self.add)

    def add(self, state: dict[str, np.ndarray], rows: slice) -> None:
        """Put these stars into a state of `begin`."""
        if self.ivar is None:
            self._add_labels(state, rows, self.flux[rows])
            return
        completed = complete(self.laplace, self.flux[rows], self.ivar[rows], self.how.fill)
        self._add_labels(state, rows, completed.flux)
        noise = FluxNoise.of(self.ivar[rows], self.covariance and self.covariance.pick(rows))
        labels = state["labels"][rows]
        noise_cov = self.laplace.reg.noise.predict(state["outputs"][rows], state["variances"][rows])
        others = state["model"][rows] + noise_cov
        found = find_flux_errors(
            partial(self.laplace.respond, center=self.how.center),
            labels,
            completed,
            noise,
            rest=np.einsum("ncc->nc", others),
            method=self.how.flux,
            eps=float(np.finfo(self.laplace.dtype).eps),
        )
        for name, array in found.to_arrays().items():
            state[name][rows] = array
        known = self.laplace.training_flux_cov
        if known is not None:
            state["flux"][rows] = find_beyond(
                found.covariance, known[CENTERS.index(self.how.center)]
            )

    def _add_labels(self, state: dict[str, np.ndarray], rows: slice, flux: np.ndarray) -> None:
        """Labels, their model covariances with bounds, and what a Newton step changes."""
        C = self.laplace.reg.net.n_labels
        outputs = self.laplace.predict_outputs(flux)
        for part, tangents in self.laplace.output_tangents(flux):
            stars = slice(rows.start + part.start, rows.start + part.stop)
            found = self.laplace.inverse_hessian.enclose(tangents)
            variances = np.einsum("ncc->nc", found.value)
            variances[~(variances >= 0)] = np.nan  # no digit is left
            ends = (np.maximum(found.lower, 0), found.upper)
            deviations = np.stack([standard_deviations(end) for end in ends], axis=-1)
            step = tangents.matvec(self.laplace.newton_step)
            if self.how.center == "linearized":
                outputs[part] += step
            state["variances"][stars] = variances
            state["model"][stars] = found.value[:, :C, :C]
            state["interval"][stars] = deviations[:, :C]
            state["step"][stars] = step[:, :C]
        state["outputs"][rows] = outputs
        state["labels"][rows] = outputs[:, :C]


def complete(
    laplace: LaplacePosterior, flux: np.ndarray, ivar: np.ndarray, fill: str = "conditional"
) -> Completed:
    """Fill the missing pixels of stars (star, pixel), by the mean alone if no more is known."""
    prior = laplace.flux_prior or FluxPrior.of_mean(laplace.flux_mean)
    return prior.complete(flux, ivar, fill)


def find_flux_covariance(
    laplace: LaplacePosterior, spectra: Spectra, center: str = "weights"
) -> np.ndarray:
    """Covariances (star, label, label) that errors of the flux make, by derivatives, all of it."""
    net = laplace.reg.net
    flux, ivar, covariance = as_flux(net, spectra)
    if ivar is None:
        return np.zeros((len(flux), net.n_labels, net.n_labels))
    completed = complete(laplace, flux, ivar)
    noise = FluxNoise.of(ivar, covariance)
    with threads_for(laplace, len(flux)):
        response = laplace.respond(completed.flux, center=center)
        return find_linear_errors(response, completed, noise)[0]


def sum_up(
    laplace: LaplacePosterior,
    X: np.ndarray,
    ivar: np.ndarray | None,
    computed: Mapping[str, np.ndarray],
    how: Choices,
    options: FlagOptions,
    labels: Labels | None = None,
) -> Prediction:
    """Total errors and flags of stars whose labels and covariances are computed.

    The noise is that of new labels, or of these `labels`, with their own errors.
    """
    noise = laplace.reg.noise
    noise_cov = noise.predict(computed["outputs"], computed["variances"], labels)
    dof = noise.tail_dof
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
        noise_mixture=noise.find_mixture(computed["outputs"], computed["variances"]),
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


def threads_for(laplace: LaplacePosterior, n_stars: int = 0) -> AbstractContextManager[None]:
    """Threads as the matrices of the inverse Hessian, or passes of new stars, are worth them."""
    net = laplace.reg.net
    n_inside = laplace.inverse_hessian.n_rows / net.n_outputs
    return Threads(net).for_matrices(max(n_stars, n_inside))


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
