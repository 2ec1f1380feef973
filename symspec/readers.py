"""Spectra out of HDF5, npz and CSV files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from symspec.array_files import ArrayFile, find_format, open_array_file
from symspec.checks import as_float_array, check_choice
from symspec.csv_spectra import read_csv_spectra
from symspec.errors import DataError, FileFormatError, OptionError, ShapeError, SymspecError
from symspec.spectra import Spectra

_FLUX = ("flux", "spectrum", "spectra")
_WAVELENGTH = ("wavelength", "wave")
_IDS = ("ids", "id")
_UNCERTAINTY_KINDS = ("std", "var", "ivar")
_UNCERTAINTIES = {
    **dict.fromkeys(("error_spectrum", "flux_error", "sigma", "flux_sigma", "std", "flux_std"), "std"),
    **dict.fromkeys(("var", "variance", "flux_var", "flux_variance"), "var"),
    **dict.fromkeys(("ivar", "flux_ivar", "inverse_variance"), "ivar"),
}
# a standard deviation by convention only, so the caller may say otherwise
_CONVENTIONS = ("error_spectrum", "flux_error")
_AMBIGUOUS = (
    *(
        "err",
        "error",
        "errors",
        "flux_err",
        "flux_errors",
        "fluxerr",
        "e_flux",
        "spectrum_error",
        "error_spectra",
    ),
    *("unc", "uncertainty", "uncertainties", "flux_uncertainty", "noise"),
)
_STARNET_UNITS = {"TEFF": "K", "LOGG": "dex", "FE_H": "dex"}
_MISSING = -9999.0


def read_spectra(
    path: str | os.PathLike[str],
    *,
    label_names: Sequence[str] | None = None,
    uncertainty: str | None = None,
    bad_error: float = 999.0,
) -> Spectra:
    r"""Read spectra, their uncertainties and their labels from one file.

    The format is told by the first bytes of the file, not by its name:

    - HDF5 and npz hold, under these names in any case, `flux` or `spectrum`, `wavelength`, `ids`, an
      uncertainty (below), and labels: either one array `labels` with `label_names` and `label_units`, or one
      array for each label. Of the latter `TEFF`, `LOGG` and `FE_H` (StarNet's, in K, dex, dex) are read
      unasked, others when `label_names` asks for them.
    - CSV holds a header row, then one spectrum a row, without uncertainties; see
      `symspec.csv_spectra.read_csv_spectra`.

    An uncertainty becomes an inverse variance, ``ivar = 1 / var = 1 / std**2``, and what it is in the file is
    never guessed: `error_spectrum` (StarNet's), `flux_error`, `sigma` and `std` are standard deviations,
    `var` and `variance` variances, `ivar` and `inverse_variance` inverse variances. Where the name does not
    tell (`err`, `uncertainty`, ...) the option `uncertainty` has to.

    A pixel gets ``ivar = 0``, no information, where flux is NaN, infinite or -9999, and where the uncertainty
    is NaN, infinite, -9999, not above 0, or as a standard deviation `bad_error` or more. A negative inverse
    variance other than -9999 is an error, and so is bad flux in a file without uncertainties. Flux of -9999
    becomes NaN. Labels of -9999 become NaN, which means missing.

    Parameters
    ----------
    path : str or path
        The file.
    label_names : sequence of str, optional
        The labels to read, in this order. To an array `labels` that comes without names it gives them.
    uncertainty : {"std", "var", "ivar"}, optional
        What the uncertainty in the file is, or which one to read if there are several.
    bad_error : float, default 999.0
        Standard deviations from here on are flags, not numbers, in the flux's units; ``numpy.inf`` for none.

    Returns
    -------
    Spectra
        All in float64: `flux` and `ivar` (star, pixel), `wavelength` (pixel,), `labels` (star, label), `ids`
        (star,); what the file lacks is None. One spectrum (pixel,) becomes (1, pixel).

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    FileFormatError
        When the file is empty, truncated, damaged, of another format, not to be read safely, or lacks
        the flux or a label asked for.
    DataError
        When what an uncertainty is cannot be told or is contradicted, or values are unusable.
    ShapeError
        When the arrays do not fit together.
    OptionError
        When an option is not understood.
    """
    if uncertainty is not None:
        check_choice(uncertainty, "uncertainty", _UNCERTAINTY_KINDS)
    if not (isinstance(bad_error, Real) and bad_error > 0):
        raise OptionError(f"bad_error should be above 0, got {bad_error!r}: give numpy.inf to keep every error.")
    if isinstance(label_names, str) or not all(isinstance(name, str) for name in label_names or ()):
        raise OptionError(
            f'label_names should be a sequence of strings, got {label_names!r}: write them like ["TEFF", "LOGG"].'
        )
    path = Path(path)
    file_format = find_format(path)
    try:
        if file_format == "csv":
            return _read_csv(path, label_names, uncertainty)
        with open_array_file(path, file_format) as file:
            return _read_arrays(path, file, label_names, uncertainty, bad_error)
    except SymspecError as error:
        error.add_note(f"This happened while reading {path}.")
        raise


def _read_csv(path: Path, label_names: Sequence[str] | None, uncertainty: str | None) -> Spectra:
    if uncertainty is not None:
        raise DataError(_NO_UNCERTAINTY.format(uncertainty, "a CSV file, which holds none"))
    table = read_csv_spectra(path, label_names)
    return Spectra(
        flux=_as_nan(table.flux),
        wavelength=table.wavelength,
        labels=None if table.labels is None else _as_nan(table.labels),
        label_names=table.label_names,
        label_units=_find_units(table.label_names),
        ids=table.ids,
    )


_NO_UNCERTAINTY = (
    "uncertainty={!r} asks for the flux's uncertainty, got {}: leave uncertainty out, or name the array ivar."
)


def _read_arrays(
    path: Path, file: ArrayFile, label_names: Sequence[str] | None, uncertainty: str | None, bad_error: float
) -> Spectra:
    flux_name = _find(file, _FLUX)
    if flux_name is None:
        raise FileFormatError(
            f"{path} should hold the flux under one of the names {', '.join(_FLUX)}, got "
            f"{', '.join(file.names[:20]) or 'no array at all'}: rename it, or use symspec.Spectra."
        )
    flux = as_float_array(file.load(flux_name), flux_name)
    is_single = flux.ndim == 1
    flux = _as_nan(np.atleast_2d(flux))
    if flux.shape[0] == 0:
        raise FileFormatError(f"{path} should hold at least one star, got {flux_name} of shape {flux.shape}.")
    found = _find_uncertainty(file, uncertainty)
    ivar = None
    if found is not None:
        name, kind = found
        error = np.atleast_2d(as_float_array(file.load(name), name))
        ivar = _as_ivar(error, kind, name, flux, bad_error)
    labels, names, units = _read_labels(path, file, label_names, is_single)
    wavelength, ids = _find(file, _WAVELENGTH), _find(file, _IDS)
    return Spectra(
        flux=flux,
        ivar=ivar,
        wavelength=None if wavelength is None else file.load(wavelength),
        labels=labels,
        label_names=names,
        label_units=units,
        ids=None if ids is None else _as_ids(file.load(ids)),
        **_read_wavelength_unit(file),
    )


def _find(file: ArrayFile, names: Sequence[str]) -> str | None:
    found = [name for name in file.names if name.lower() in names]
    if len(found) > 1:
        raise DataError(
            f"a file should hold one array of the names {', '.join(names)}, got {', '.join(found)}: keep one of them."
        )
    return found[0] if found else None


def _as_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values == _MISSING, np.nan, values)


def _find_uncertainty(file: ArrayFile, uncertainty: str | None) -> tuple[str, str] | None:
    """Find the array that holds the flux's uncertainty, and which kind it is."""
    kinds = {name: _UNCERTAINTIES.get(name.lower()) for name in file.names}
    found = {name: kind for name, kind in kinds.items() if kind or name.lower() in _AMBIGUOUS}
    if not found:
        if uncertainty is not None:
            raise DataError(_NO_UNCERTAINTY.format(uncertainty, f"a file that holds {', '.join(file.names[:20])}"))
        return None
    listed = ", ".join(f"{name} ({kind or 'which may be anything'})" for name, kind in found.items())
    if uncertainty is None:
        if len(found) == 1 and (kind := next(iter(found.values()))):
            return next(iter(found)), kind
        raise DataError(
            f"the file should say what the flux's uncertainty is, got {listed}: "
            'say it, uncertainty="std" | "var" | "ivar".'
        )
    exact = [name for name, kind in found.items() if kind == uncertainty]
    open_to_say = [name for name, kind in found.items() if kind is None or name.lower() in _CONVENTIONS]
    if len(candidates := exact or open_to_say) == 1:
        return candidates[0], uncertainty
    raise DataError(
        f"uncertainty={uncertainty!r} should agree with one array of the file, got {listed}: "
        'say which it is, uncertainty="std" | "var" | "ivar", or rename the array.'
    )


def _as_ivar(error: np.ndarray, kind: str, name: str, flux: np.ndarray, bad_error: float) -> np.ndarray:
    if error.shape != flux.shape:
        raise ShapeError(
            f"{name} should have the shape of the flux, {flux.shape}, got {error.shape}: store one for each pixel."
        )
    known = np.isfinite(error) & (error != _MISSING) & np.isfinite(flux)
    if kind != "ivar":
        # a negative ivar is left for Spectra to refuse: it is more likely another quantity than a flag
        known &= error > 0
    ivar = np.zeros_like(error)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        exponent = {"std": -2.0, "var": -1.0, "ivar": 1.0}[kind]
        np.power(error, exponent, out=ivar, where=known)
        smallest = np.float64(bad_error) ** -2.0
    ivar[np.isinf(ivar)] = 0.0
    # the last digits of 1/999**2 depend on the kind it was computed from
    flagged = (ivar > 0) & (ivar <= smallest * (1 + 1e-6))
    if np.count_nonzero(flagged) > np.count_nonzero(ivar > 0) / 2:
        raise DataError(
            f"{name} should mostly be a {kind} within bad_error={bad_error:g} (a standard deviation), got "
            f"{np.count_nonzero(flagged)} of {np.count_nonzero(ivar > 0)} pixels at or beyond it: "
            "give bad_error=numpy.inf if these errors are real."
        )
    ivar[flagged] = 0.0
    return ivar


def _read_labels(
    path: Path, file: ArrayFile, wanted: Sequence[str] | None, is_single: bool
) -> tuple[np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    stored = _find(file, ("labels",))
    columns, units = ({}, {}) if stored is None else _read_label_matrix(file, stored, wanted, is_single)
    if wanted is None:
        wanted = tuple(columns) or tuple(name for name in _STARNET_UNITS if _match(file, name))
    if not wanted:
        return None, (), ()
    for name in wanted:
        if name not in columns:
            columns[name] = _read_label(path, file, name, tuple(columns))
    lengths = {name: len(columns[name]) for name in wanted}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"labels should all have one value a star, got {lengths}: store them for the same stars.")
    labels = _as_nan(np.stack([columns[name] for name in wanted], axis=1))
    return (
        labels,
        tuple(wanted),
        tuple(units.get(name, _STARNET_UNITS.get(name.upper(), "")) for name in wanted),
    )


def _read_label_matrix(
    file: ArrayFile, stored: str, wanted: Sequence[str] | None, is_single: bool
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the array of all labels as its columns, by name."""
    labels = as_float_array(file.load(stored), stored)
    if labels.ndim == 1 and is_single:
        labels = labels[None, :]
    if labels.ndim != 2:
        raise ShapeError(f"{stored} should have shape (star, label), got {labels.shape}: store a matrix.")
    names = _read_words(file, "label_names")
    if names is None:
        names = tuple(wanted or (f"label_{i}" for i in range(labels.shape[1])))
    units = _read_words(file, "label_units") or ("",) * len(names)
    if not len(names) == len(units) == labels.shape[1]:
        raise ShapeError(
            f"label_names and label_units should have one entry for each of the {labels.shape[1]} columns of "
            f"{stored}, got {len(names)} and {len(units)}: store or give as many."
        )
    if len(set(names)) < len(names):
        raise DataError(f"label_names should all differ, got {names}: rename those that occur twice.")
    return dict(zip(names, labels.T, strict=True)), dict(zip(names, units, strict=True))


def _match(file: ArrayFile, name: str) -> str | None:
    return _find(file, (name.lower(),))


def _read_label(path: Path, file: ArrayFile, name: str, known: tuple[str, ...]) -> np.ndarray:
    found = _match(file, name)
    if found is None:
        held = ", ".join([*known, *file.names][:20])
        raise FileFormatError(f"{path} should hold the label {name!r}, got only {held}: correct label_names=.")
    values = as_float_array(file.load(found), found)
    if values.ndim > 1 and values.size != values.shape[0]:
        raise ShapeError(f"{found} should have shape (star,), got {values.shape}: store one value a star.")
    return values.reshape(-1)


def _find_units(label_names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_STARNET_UNITS.get(name.upper(), "") for name in label_names)


def _read_words(file: ArrayFile, name: str) -> tuple[str, ...] | None:
    found = _match(file, name)
    if found is None:
        return None
    return tuple(_as_text(word) for word in np.atleast_1d(file.load(found)).ravel())


def _read_wavelength_unit(file: ArrayFile) -> dict[str, str]:
    words = _read_words(file, "wavelength_unit")
    return {"wavelength_unit": words[0]} if words else {}


def _as_text(word: object) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _as_ids(ids: np.ndarray) -> np.ndarray:
    ids = np.atleast_1d(ids)
    return ids[:, 0] if ids.ndim == 2 and ids.shape[1] == 1 else ids
