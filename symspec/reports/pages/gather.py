"""What a report is given, checked against the model, as predicted stars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_objective
from symspec.derivatives.functions import check_stars
from symspec.errors import DataError, OptionError, ShapeError
from symspec.files.catalogue_reading import Catalogue, read_catalogue
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
from symspec.mixtures.identity import hash_model, hash_networks
from symspec.mixtures.left_out import AnyLeftOut, find_flux_mean
from symspec.mixtures.left_out import leave_out as leave_each_out
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.mixtures.prediction import CombinedPrediction
from symspec.reports.pages.figures.samples import Sample
from symspec.reports.pages.figures.words import Words
from symspec.safety.arrays import as_texts
from symspec.safety.label_errors import find_labels_alone
from symspec.spectra.grids import check_grid
from symspec.spectra.pixels import fill_flux
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars, match_labels
from symspec.spectra.spectra import Spectra, with_unit
from symspec.validation.calibration import check_true_labels

_CENTERS = {
    "weights": "Labels are those of the network at its weights",
    "linearized": "Labels are those of the network linearised at its weights, at its own minimum",
}
_MEAN_CENTERS = {
    "weights": "Labels are the mean of those of the networks at their weights",
    "linearized": "Labels are the mean of those of the networks linearised at their weights, at the"
    " minimum of each",
}
# of a catalogue's header
_SHOWN = ("SYMSPEC", "NETHASH", "MODHASH", "DATAHASH", "UNCERT", "RESAMPLE", "CALFROM", "FILL")
SAME_LOSS = {"float64": 1e-6, "float32": 1e-3}  # relative, of the negative log posterior
SAME_MEAN = 1e-9  # relative, of training spectra that are those of the model


def gather_given(
    laplace: AnyPosterior,
    words: Words,
    stars: Spectra | Resampled | None,
    prediction: Prediction | None,
    true_labels: ArrayLike | None,
    ids: Any,
) -> Sample | None:
    """Predicted stars from their spectra, their prediction, or both; None without either.

    Raises
    ------
    ShapeError, DataError
        They do not fit the model, or each other.
    """
    spectra = stars.spectra if isinstance(stars, Resampled) else stars
    if prediction is None and stars is not None:
        prediction = laplace.predict(stars, progress=False)
    if prediction is None:
        return None
    _check_labels(laplace, prediction)
    n_stars = len(prediction.labels)
    if spectra is not None:
        if len(spectra) != n_stars:
            raise ShapeError(
                f"stars should be those of the prediction, {n_stars:,}, got {len(spectra):,}: give"
                " the same ones in the same order."
            )
        true_labels = match_labels(spectra, laplace.net) if true_labels is None else true_labels
        ids = spectra.ids if ids is None else ids
    truth = None if true_labels is None else check_true_labels(prediction, true_labels)
    is_trained = spectra is not None and _has_mean_of(laplace, spectra)
    return Sample(
        heading=f"{'Training' if is_trained else 'New'} {words.many}",
        origin=_describe_given(
            laplace, prediction.center, truth is not None, is_trained=is_trained, words=words
        ),
        prediction=prediction,
        true_labels=truth,
        ids=None if ids is None else as_texts(ids, "ids"),
        between_cov=_find_between(prediction),
    )


def gather_catalogue(
    laplace: AnyPosterior, words: Words, path: str | os.PathLike[str]
) -> tuple[Sample, dict[str, str]]:
    """Predicted stars of a catalogue, and what its header says of their origin.

    Raises
    ------
    FileFormatError
        It is no catalogue of symspec's.
    DataError
        It is another model's.
    """
    catalogue = read_catalogue(path)
    prediction = catalogue.prediction
    _check_labels(laplace, prediction)
    header = catalogue.header
    own = hash_networks(laplace)
    if header.get("NETHASH", own) != own:
        raise DataError(
            f"{path} should be a catalogue of this model, got one of another network: give the"
            " model that 'symspec errors' had."
        )
    prediction, has_tails = _find_tails(laplace, catalogue)
    known = catalogue.true_labels is not None
    sample = Sample(
        heading=f"{words.many.capitalize()} of the catalogue",
        origin=_describe_given(laplace, prediction.center, known, is_trained=False, words=words)
        + _describe_match(laplace, header, words),
        prediction=prediction,
        true_labels=catalogue.true_labels,
        ids=catalogue.ids,
        has_tails=has_tails,
        interval=catalogue.interval,
        level=catalogue.level,
        between_cov=catalogue.between_cov,
    )
    about = {f"catalogue's {key}": str(header[key]) for key in _SHOWN if key in header}
    return sample, about


def leave_out(laplace: AnyPosterior, words: Words, training: Spectra) -> AnyLeftOut | None:
    """Training stars, each left out in turn; None where this inverse Hessian cannot tell.

    Labels and their errors are those that the posterior holds, or those of `training`.

    Raises
    ------
    DataError
        They are not the stars that the model was trained on, or have no labels.
    OptionError
        The networks of a mixture were trained on different stars.
    """
    net = laplace.net
    find_flux_mean(laplace)
    check_grid(net, training, "the training stars")
    if match_labels(training, net) is None:
        raise DataError(
            f"the training {words.many} should have the labels {', '.join(net.label_names)}, got"
            " none of them: give the file that the model was trained on."
        )
    if not _has_mean_of(laplace, training):
        raise DataError(
            f"the training {words.many} should be those that the model was trained on, got"
            f" {len(training):,} of another mean spectrum: give that file, without what was set"
            " aside."
        )
    each = list_posteriors(laplace)
    if not all(map(_can_leave_out, each)):
        return None
    held = all(one.training_stars is not None for one in each)
    return leave_each_out(laplace, None if held else training)


def _can_leave_out(laplace: LaplacePosterior) -> bool:
    inverse = laplace.inverse_hessian
    return laplace.curvature == "ggn" and inverse.is_complete and inverse.accuracy != "interval"


def gather_left_out(
    laplace: AnyPosterior, left_out: AnyLeftOut, words: Words, training: Spectra, center: str
) -> Sample:
    """Predictions of the training stars, each left out in turn."""
    each = list_posteriors(laplace)
    rough = sorted({one.inverse_hessian.accuracy for one in each} - {"exact"})
    how = f", by an inverse Hessian that is {' or '.join(rough)}" if rough else ""
    prediction = left_out.predict(center)
    warning = (
        "The negative log posterior of these labels and their errors is another one than that which"
        " the model was fitted to: its errors of labels were others, and what follows is not"
        " calibrated."
    )
    return Sample(
        heading=f"Training {words.many}, each left out in turn",
        origin=f"{_describe_center(laplace, center)}, each {words.one} predicted as if it had been"
        " left out of training, without training again: exact for the network linearised at its"
        f" weights{how}. Noise is all of their labels' scatter around the network: errors that"
        " these labels came with, and what errors of the training flux do, included.",
        prediction=prediction,
        true_labels=find_labels_alone(left_out.stars.labels),
        ids=training.ids,
        between_cov=_find_between(prediction),
        warning="" if all(has_loss_of(one, training) for one in each) else warning,
    )


def has_loss_of(laplace: LaplacePosterior, stars: Spectra) -> bool:
    """Whether flux, labels and their errors give the negative log posterior of the model."""
    if laplace.training_stars is not None:
        return True
    X, Y, _ = as_stars(laplace.reg.net, stars)
    objective = compile_objective(laplace.reg, backend=laplace.backend, dtype=laplace.dtype)
    found, _ = objective(laplace.theta, *check_stars(laplace.reg.net, X, Y))
    tolerance = SAME_LOSS[laplace.dtype]
    return bool(np.isclose(found, laplace.negative_log_posterior, rtol=tolerance, atol=tolerance))


def _has_mean_of(laplace: AnyPosterior, stars: Spectra) -> bool:
    """Whether stars have the mean spectrum of the training stars of a network."""
    mean = fill_flux(stars).mean(axis=0, dtype=np.float64)
    trained = [one.flux_mean for one in list_posteriors(laplace)]
    return any(np.allclose(mean, own, rtol=SAME_MEAN, atol=0) for own in trained)


def _find_between(prediction: Prediction) -> np.ndarray | None:
    return prediction.between_cov if isinstance(prediction, CombinedPrediction) else None


def _describe_center(laplace: AnyPosterior, center: str) -> str:
    return (_CENTERS if isinstance(laplace, LaplacePosterior) else _MEAN_CENTERS)[center]


def _describe_given(
    laplace: AnyPosterior, center: str, is_tested: bool, *, is_trained: bool, words: Words
) -> str:
    text = f"{_describe_center(laplace, center)}."
    if is_trained:
        return (
            f"{text} These are the {words.many} that the model was trained on: their residuals are"
            " smaller than those of new ones, and their coverage says little."
        )
    if is_tested:
        return f"{text} The test is honest if none of these {words.many} was trained on."
    return text


def _describe_match(laplace: AnyPosterior, header: dict[str, Any], words: Words) -> str:
    if "NETHASH" not in header:
        return " The catalogue does not say which model it is of."
    if header.get("MODHASH") == hash_model(laplace):
        return " The catalogue is of this model."
    return (
        " The catalogue is of the same network with another posterior, such as one before"
        " Hamiltonian Monte Carlo's verdict: its errors are shown as they are in it."
    )


def _find_tails(laplace: AnyPosterior, catalogue: Catalogue) -> tuple[Prediction, bool]:
    """The prediction, and whether its distribution is known, which a mixture's is not."""
    prediction = catalogue.prediction
    if catalogue.n_networks > 1 or not isinstance(laplace, LaplacePosterior):
        return prediction, False
    noise = laplace.reg.noise
    is_own = catalogue.header.get("MODHASH") == hash_model(laplace)
    if noise.n_outputs > len(prediction.label_names):
        return prediction, False
    dof = noise.tail_dof
    if catalogue.has_wide_tails and is_own and dof is not None:
        return replace(prediction, noise_dof=np.broadcast_to(dof, prediction.labels.shape)), True
    return prediction, not catalogue.has_wide_tails


def _check_labels(laplace: AnyPosterior, prediction: Prediction) -> None:
    net = laplace.net
    own = list(map(with_unit, net.label_names, net.label_units))
    found = list(map(with_unit, prediction.label_names, prediction.label_units))
    if found != own:
        raise DataError(
            f"the prediction should be of the model's labels, {', '.join(own)}, got"
            f" {', '.join(found)}: give one of this model."
        )


def check_given(catalogue: object, chosen: Sequence[str], **others: object) -> None:
    """Refuse a catalogue beside what it brings itself, and chosen stars without their spectra.

    Raises
    ------
    OptionError
    """
    given = [name for name, value in others.items() if value is not None]
    if catalogue is not None and given:
        raise OptionError(
            f"catalogue should be given alone, as it brings what {given[0]} is, got both: leave one"
            " of them out."
        )
    if chosen and "stars" not in given:
        raise OptionError(
            "chosen needs the spectra of these stars, got none: give stars, or leave it out."
        )


def check_single(laplace: AnyPosterior, **checks: object) -> None:
    """Refuse, of a mixture, what is said of one network.

    Raises
    ------
    OptionError
    """
    given = [name for name, value in checks.items() if value is not None]
    if given and not isinstance(laplace, LaplacePosterior):
        raise OptionError(
            f"{given[0]} is of one network, and laplace a mixture of {len(laplace.posteriors)}:"
            " write a page on that one, laplace.posteriors[0] for example."
        )
