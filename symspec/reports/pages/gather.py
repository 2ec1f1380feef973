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
from symspec.laplace.identity import hash_network, hash_posterior
from symspec.laplace.leave_one_out import LeftOut
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
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
# of a catalogue's header
_SHOWN = ("SYMSPEC", "NETHASH", "MODHASH", "DATAHASH", "UNCERT", "RESAMPLE", "CALFROM", "FILL")
SAME_LOSS = {"float64": 1e-6, "float32": 1e-3}  # relative, of the negative log posterior
SAME_MEAN = 1e-9  # relative, of training spectra that are those of the model


def gather_given(
    laplace: LaplacePosterior,
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
        true_labels = match_labels(spectra, laplace.reg.net) if true_labels is None else true_labels
        ids = spectra.ids if ids is None else ids
    truth = None if true_labels is None else check_true_labels(prediction, true_labels)
    is_trained = spectra is not None and _has_mean_of(laplace, spectra)
    return Sample(
        heading=f"{'Training' if is_trained else 'New'} {words.many}",
        origin=_describe_given(prediction, truth is not None, is_trained, words),
        prediction=prediction,
        true_labels=truth,
        ids=None if ids is None else as_texts(ids, "ids"),
    )


def gather_catalogue(
    laplace: LaplacePosterior, words: Words, path: str | os.PathLike[str]
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
    own = hash_network(laplace.reg.net, laplace.theta)
    if header.get("NETHASH", own) != own:
        raise DataError(
            f"{path} should be a catalogue of this model, got one of another network: give the"
            " model that 'symspec errors' had."
        )
    prediction, has_tails = _find_tails(laplace, catalogue)
    known = catalogue.true_labels is not None
    sample = Sample(
        heading=f"{words.many.capitalize()} of the catalogue",
        origin=_describe_given(prediction, known, False, words)
        + _describe_match(laplace, header, words),
        prediction=prediction,
        true_labels=catalogue.true_labels,
        ids=catalogue.ids,
        has_tails=has_tails,
        interval=catalogue.interval,
        level=catalogue.level,
    )
    about = {f"catalogue's {key}": str(header[key]) for key in _SHOWN if key in header}
    return sample, about


def leave_out(laplace: LaplacePosterior, words: Words, training: Spectra) -> LeftOut | None:
    """Training stars, each left out in turn; None where this inverse Hessian cannot tell.

    Labels and their errors are those that the posterior holds, or those of `training`.

    Raises
    ------
    DataError
        They are not the stars that the model was trained on, or have no labels.
    """
    net = laplace.reg.net
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
    inverse = laplace.inverse_hessian
    if laplace.curvature != "ggn" or not inverse.is_complete or inverse.accuracy == "interval":
        return None
    held = laplace.training_stars is not None
    return LeftOut.of(laplace, None, None if held else training)


def gather_left_out(left_out: LeftOut, words: Words, training: Spectra, center: str) -> Sample:
    """Predictions of the training stars, each left out in turn."""
    laplace = left_out.laplace
    accuracy = laplace.inverse_hessian.accuracy
    how = "" if accuracy == "exact" else f", by an inverse Hessian that is {accuracy}"
    warning = (
        "The negative log posterior of these labels and their errors is another one than that which"
        " the model was fitted to: its errors of labels were others, and what follows is not"
        " calibrated."
    )
    return Sample(
        heading=f"Training {words.many}, each left out in turn",
        origin=f"{_CENTERS[center]}, each {words.one} predicted as if it had been left out of"
        f" training, without training again: exact for the network linearised at its weights{how}."
        " Noise is all of their labels' scatter around the network: errors that these labels came"
        " with, and what errors of the training flux do, included.",
        prediction=left_out.predict(center),
        true_labels=find_labels_alone(left_out.stars.labels),
        ids=training.ids,
        warning="" if has_loss_of(laplace, training) else warning,
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


def _has_mean_of(laplace: LaplacePosterior, stars: Spectra) -> bool:
    """Whether stars have the mean spectrum of the training stars."""
    mean = fill_flux(stars).mean(axis=0, dtype=np.float64)
    return bool(np.allclose(mean, laplace.flux_mean, rtol=SAME_MEAN, atol=0))


def _describe_given(prediction: Prediction, is_tested: bool, is_trained: bool, words: Words) -> str:
    text = f"{_CENTERS[prediction.center]}."
    if is_trained:
        return (
            f"{text} These are the {words.many} that the model was trained on: their residuals are"
            " smaller than those of new ones, and their coverage says little."
        )
    if is_tested:
        return f"{text} The test is honest if none of these {words.many} was trained on."
    return text


def _describe_match(laplace: LaplacePosterior, header: dict[str, Any], words: Words) -> str:
    if "NETHASH" not in header:
        return " The catalogue does not say which model it is of."
    if header.get("MODHASH") == hash_posterior(laplace):
        return " The catalogue is of this model."
    return (
        " The catalogue is of the same network with another posterior, such as one before"
        " Hamiltonian Monte Carlo's verdict: its errors are shown as they are in it."
    )


def _find_tails(laplace: LaplacePosterior, catalogue: Catalogue) -> tuple[Prediction, bool]:
    """The prediction, and whether the tails of its noise are known."""
    prediction = catalogue.prediction
    noise = laplace.reg.noise
    is_own = catalogue.header.get("MODHASH") == hash_posterior(laplace)
    if noise.n_outputs > len(prediction.label_names):
        return prediction, False
    dof = noise.tail_dof
    if catalogue.has_wide_tails and is_own and dof is not None:
        return replace(prediction, noise_dof=np.broadcast_to(dof, prediction.labels.shape)), True
    return prediction, not catalogue.has_wide_tails


def _check_labels(laplace: LaplacePosterior, prediction: Prediction) -> None:
    net = laplace.reg.net
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
