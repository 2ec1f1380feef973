"""Columns of a catalogue, under either convention of names, and its header."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.laplace.flags import Flag
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.mixtures.prediction import CombinedPrediction
from symspec.safety.arrays import as_float_array, as_texts
from symspec.validation.calibration import ErrorCalibration
from symspec.workers.versions import find_versions

DIALECTS = ("upper", "lower")
COLUMN_NAMES = {  # {0} is the label, {1} the part of the error
    "upper": {
        "total": "{0}_ERR",
        "part": "{0}_{1}_ERR",
        "low": "{0}_LO",
        "high": "{0}_HI",
        "shift": "{0}_NEWTON_SHIFT",
        "flags": "{0}_FLAGS",
        "truth": "{0}_TRUE",
        "total_cov": "COV",
        "part_cov": "{1}_COV",
    },
    "lower": {
        "total": "e_{0}",
        "part": "e_{0}_{1}",
        "low": "{0}_lo",
        "high": "{0}_hi",
        "shift": "{0}_newton_shift",
        "flags": "f_{0}",
        "truth": "{0}_true",
        "total_cov": "cov",
        "part_cov": "cov_{1}",
    },
}
_PARTS = {
    "": "total",
    "MODEL": "model (weights)",
    "BETWEEN": "between-network (part of the model's)",
    "FLUX": "flux-error",
    "NOISE": "noise (label scatter)",
}
CENTERS = {
    "weights": "labels of the network at its weights",
    "linearized": "labels of the network linearised at its weights, at its minimum",
}
MEAN = ", the mean of all networks"  # behind these, of a mixture
FILLS = {
    "conditional": "missing pixels hold their mean given the good ones, its error is counted",
    "mean": "missing pixels hold the training mean, its error is counted",
    "uncounted": "missing pixels hold the training mean, its error is not counted",
}
PROPAGATIONS = {
    "linear": "flux errors by the derivatives at the spectrum",
    "sampled": "flux errors by draws through the network",
}
_OF_LABEL = ("total", "low", "high", "shift", "flags", "truth")
_QUALITY = ("FLAGS", "N_BAD_PIXELS", "SNR", "FLUX_DISTANCE")
_FITS_OWN = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|TFIELDS|THEAP|EXTNAME|EXTVER|EXTLEVEL|EXTEND|"
    r"BLOCKED|CHECKSUM|DATASUM|COMMENT|COMMENTS|HISTORY|CONTINUE|HIERARCH|END|T[A-Z]{3,4}\d+"
)


class Column(NamedTuple):
    """Values (star,) or (star, label, label) of a column, with their unit and a description."""

    values: np.ndarray
    unit: str
    description: str


def build_columns(
    prediction: Prediction,
    ids: ArrayLike | None,
    *,
    true_labels: ArrayLike | None = None,
    calibration: ErrorCalibration | None = None,
    interval: float | None = None,
    dialect: str = "upper",
) -> dict[str, Column]:
    """Columns by name, see `write_catalogue`.

    Raises
    ------
    ShapeError, DataError, OptionError
        As `write_catalogue`.
    """
    truth = _check_truth(true_labels, prediction)
    names = COLUMN_NAMES[dialect]
    fold = str.upper if dialect == "upper" else str.lower
    columns = [
        ("ID", Column(_check_ids(ids, len(prediction.labels)), "", "the star")),
        *_list_labels(prediction, truth, calibration, interval, names),
        *_list_covariances(prediction, names),
        *_list_quality(prediction),
    ]
    named = [(fold(name), column) for name, column in columns]
    refuse_duplicates([name for name, _ in named])
    return dict(named)


def list_columns(label_names: Sequence[str], dialect: str) -> list[str]:
    """Names of all columns that a catalogue of these labels may have.

    Raises
    ------
    DataError
        As `name_labels`, or two columns have the same name.
    """
    names = COLUMN_NAMES[dialect]
    fold = str.upper if dialect == "upper" else str.lower
    parts = [part for part in _PARTS if part]
    listed = ["ID", *_QUALITY, names["total_cov"]]
    listed += [names["part_cov"].format("", part) for part in parts]
    for label in name_labels(label_names):
        listed += [label, *(names[kind].format(label) for kind in _OF_LABEL)]
        listed += [names["part"].format(label, part) for part in (*parts, "CAL")]
    listed = [fold(name) for name in listed]
    refuse_duplicates(listed)
    return listed


def name_labels(label_names: Sequence[str]) -> list[str]:
    """Names of columns: upper case, other signs as underscores, so that [Fe/H] becomes FE_H.

    Raises
    ------
    DataError
        A name has no letters, or letters that are not ASCII.
    """
    for label in label_names:
        if not label.isascii() or not re.search("[A-Za-z]", label):
            raise DataError(
                "label names should have letters, and ASCII ones only, to name columns, got"
                f" {label!r}: rename it in the network, say ALPHA_FE."
            )
    return [re.sub(r"[^A-Z0-9]+", "_", label.upper()).strip("_") for label in label_names]


def _list_labels(
    prediction: Prediction,
    truth: np.ndarray | None,
    calibration: ErrorCalibration | None,
    interval: float | None,
    names: Mapping[str, str],
) -> Iterator[tuple[str, Column]]:
    """Each label with its errors, interval, flags and known values."""
    errors = {}
    ends = None if interval is None else prediction.interval(interval)
    with np.errstate(invalid="ignore"):  # a variance that rounding made negative has the error NaN
        for part, covariance in _find_covariances(prediction).items():
            errors[part] = standard_deviations(covariance)
    columns = name_labels(prediction.label_names)
    for i, label in enumerate(prediction.label_names):
        name = columns[i]
        unit = prediction.label_units[i]
        yield name, Column(prediction.labels[:, i], unit, f"predicted {label}")
        for part, error in errors.items():
            pattern = names["part" if part else "total"]
            description = f"{_PARTS[part]} standard deviation of {name}"
            yield pattern.format(name, part), Column(error[:, i], unit, description)
        if calibration is not None:
            calibrated = calibration.factor[i] * errors[""][:, i]
            description = f"calibrated standard deviation of {name}, see CALFROM"
            yield names["part"].format(name, "CAL"), Column(calibrated, unit, description)
        if ends is not None:
            for k, (end, word) in enumerate((("low", "lower"), ("high", "upper"))):
                description = f"{word} end of the central interval that holds {name}, see INTERVAL"
                yield names[end].format(name), Column(ends[:, i, k], unit, description)
        if prediction.newton_shift is not None:
            description = f"what a Newton step would change in {name}, in units of its model error"
            column = Column(prediction.newton_shift[:, i], "", description)
            yield names["shift"].format(name), column
        if prediction.label_flags is not None:
            description = f"bits of FLAGS that concern {name} alone"
            column = Column(prediction.label_flags[:, i], "", description)
            yield names["flags"].format(name), column
        if truth is not None:
            yield names["truth"].format(name), Column(truth[:, i], unit, f"known {label}")


def _list_covariances(
    prediction: Prediction, names: Mapping[str, str]
) -> Iterator[tuple[str, Column]]:
    order = ", ".join(name_labels(prediction.label_names))
    for part, covariance in _find_covariances(prediction).items():
        pattern = names["part_cov" if part else "total_cov"]
        description = f"{_PARTS[part]} covariance of {order}, in products of their units"
        yield pattern.format("", part), Column(covariance, "", description)


def _list_quality(prediction: Prediction) -> Iterator[tuple[str, Column]]:
    """Flags, and the numbers behind them."""
    description = "bits, see FLAG1, FLAG2, ... in the header; 0: nothing known against it"
    yield "FLAGS", Column(prediction.flags, "", description)
    description = "pixels without information, replaced by a mean"
    yield "N_BAD_PIXELS", Column(prediction.n_bad_pixels, "", description)
    if prediction.snr is not None and prediction.has_flux_errors:
        yield "SNR", Column(prediction.snr, "", "median signal-to-noise ratio of a good pixel")
    if prediction.flux_distance is not None:
        description = "from the training spectra, 99 % of which are nearer than 1"
        yield "FLUX_DISTANCE", Column(prediction.flux_distance, "", description)


def _find_covariances(prediction: Prediction) -> dict[str, np.ndarray]:
    """Covariances by the part of the error; that of the flux only if its errors are known."""
    covariances = {"": prediction.total_cov, "MODEL": prediction.model_cov}
    if isinstance(prediction, CombinedPrediction):
        covariances["BETWEEN"] = prediction.between_cov
    if prediction.has_flux_errors:
        covariances["FLUX"] = prediction.flux_cov
    covariances["NOISE"] = prediction.noise_cov
    return covariances


def refuse_duplicates(names: Sequence[str]) -> None:
    """Refuse columns of equal names.

    Raises
    ------
    DataError
    """
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(
            f"columns should have different names, got {', '.join(twice)} twice: rename the labels"
            " of the network (case does not count, nor signs such as brackets)."
        )


def _check_ids(ids: ArrayLike | None, n_stars: int) -> np.ndarray:
    if ids is None:
        return np.arange(n_stars)
    array = np.asarray(ids)
    if array.shape != (n_stars,):
        raise ShapeError(
            f"ids should have shape ({n_stars},), one a star of the prediction, got {array.shape}:"
            " give the ids of the same stars in the same order."
        )
    is_words = array.dtype.kind in "SU" or all(isinstance(i, str | bytes) for i in array)
    if not is_words and array.dtype.kind not in "iu":
        raise DataError(
            f"ids should be words or whole numbers, got {array.dtype}: give np.array(ids,"
            " dtype=str)."
        )
    texts = as_texts(ids, "ids")
    return np.array(texts, dtype=str) if is_words else array


def _check_truth(true_labels: ArrayLike | None, prediction: Prediction) -> np.ndarray | None:
    if true_labels is None:
        return None
    shape = prediction.labels.shape
    truth = as_float_array(true_labels, "true_labels", unit=prediction.label_units)
    if truth.shape != shape:
        raise ShapeError(
            f"true_labels should have shape {shape}, that of the predicted labels, got"
            f" {truth.shape}: give NaN where a label is unknown."
        )
    return truth


# --- header


def build_header(
    prediction: Prediction,
    meta: Mapping[str, Any],
    calibration: ErrorCalibration | None = None,
    interval: float | None = None,
) -> dict[str, Any]:
    """Strings and numbers by key: versions, labels, flags, calibration, and the entries of `meta`.

    Raises
    ------
    OptionError
        `meta` has a key or value that no header takes.
    """
    header: dict[str, Any] = {name.upper(): number for name, number in find_versions().items()}
    header["N_LABELS"] = len(prediction.label_names)
    labels = zip(prediction.label_names, prediction.label_units, strict=True)
    for i, (name, unit) in enumerate(labels, 1):
        header[f"LABEL{i}"] = name
        header[f"UNIT{i}"] = unit
    header["CENTER"] = CENTERS[prediction.center]
    if isinstance(prediction, CombinedPrediction):
        header["CENTER"] += MEAN
    header["FILL"] = FILLS[prediction.fill]
    header["FLUXPROP"] = PROPAGATIONS[prediction.flux]
    header["ERRTYPE"] = "columns of errors are standard deviations"
    if isinstance(prediction, CombinedPrediction):
        header["ERRTYPE"] += f" of a mixture of {len(prediction.parts)} networks, not normal"
    if prediction.noise_dof is not None:
        header["ERRTYPE"] += "; of noise with wide tails half widths of 68.27 %"
    if interval is not None:
        header["INTERVAL"] = float(interval)
    header["FLUXERR"] = bool(prediction.has_flux_errors)
    header |= _describe_flags(prediction)
    if calibration is not None:
        header["CALFROM"] = calibration.source
        for i, factor in enumerate(calibration.factor, 1):
            header[f"CAL{i}"] = float(factor)
    for key, value in meta.items():
        header[key] = _check_entry(key, value, header)
    return header


def _describe_flags(prediction: Prediction) -> dict[str, Any]:
    """Meanings of the bits, the limits, and flags that could not be evaluated."""
    described: dict[str, Any] = {}
    for flag in Flag:
        described[f"FLAG{flag.value}"] = f"{flag.name}: {flag.meaning}"
    limits = prediction.flag_options
    if limits is None:
        return described
    described["EDGE"] = limits.edge
    described["MAXBAD"] = limits.max_bad_fraction
    described["MINSNR"] = limits.min_snr
    described["MAXDIST"] = limits.max_distance
    described["MAXSHIFT"] = limits.max_newton_shift
    described["MAXMISS"] = limits.max_missing
    described["MAXNONL"] = limits.max_nonlinearity
    missing = []
    if not prediction.has_flux_errors:
        missing.append(f"{Flag.LOW_SNR.value} (no errors of the flux)")
    if prediction.flux_distance is None:
        missing.append(
            f"{Flag.OUTSIDE_TRAINING_SPECTRA.value} (model without a description of its training"
            " spectra)"
        )
    if missing:
        described["NOTEVAL"] = f"not evaluated: {', '.join(missing)}"
    return described


def _check_entry(key: Any, value: Any, header: dict[str, Any]) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        raise OptionError(
            f"keys of meta should be of letters, digits, _ and -, got {key!r}: rename it."
        )
    if key.upper() in map(str.upper, header) or _FITS_OWN.fullmatch(key.upper()):
        raise OptionError(f"meta should not hold {key!r}, which the header has already: rename it.")
    if not isinstance(value, str | int | float):
        raise OptionError(
            f"meta should hold words and numbers, got {value!r} for {key!r}: write it as a text."
        )
    return value
