"""Spectra of many stars on one wavelength grid, with their noise and labels if known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.safety.arrays import as_float_array, as_texts, check_finite, describe_bad
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.label_errors import MISSING, REFUSE, add_errors
from symspec.safety.named_arrays import Contents
from symspec.safety.options import check_choice
from symspec.safety.stars import (
    check_ivar,
    check_medium,
    check_not_infinite,
    check_wavelength,
)
from symspec.spectra.covariances.dense import match_covariance
from symspec.spectra.covariances.interface import FluxCovariance

# the fields with one row a star
BY_STAR = ("flux", "ivar", "labels", "label_errors", "label_covariance", "groups", "ids")
_OF_TEXT = ("groups", "ids")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Spectra:
    """Spectra of many stars on one wavelength grid.

    Arrays are float64 and read-only. A float64 array of the caller is shared, not copied, and never
    written into. ``spectra[stars]`` with an integer, a slice, a mask or an array of integers gives
    those stars as `Spectra`; an integer keeps the star axis.

    Attributes
    ----------
    flux : numpy.ndarray, shape (star, pixel)
        Flux, in any unit; finite wherever `ivar` is not 0.
    ivar : numpy.ndarray, shape (star, pixel), or None
        Inverse variance of the flux, 1/sigma**2; 0 means no information. None: unknown.
    flux_covariance : FluxCovariance or array_like, optional
        Covariance of the flux where errors of pixels are correlated, see
        `symspec.spectra.covariances`; `ivar` is 1 over its diagonal, or 0.
    wavelength : numpy.ndarray, shape (pixel,), or None
        Wavelength of each pixel, in `wavelength_unit`, to which a quantity is converted.
    labels : numpy.ndarray, shape (star, label), or None
        Labels in `label_units`, to which quantities are converted; NaN where missing.
    label_errors : numpy.ndarray, shape (star, label), or None
        Standard deviation of the error that each label came with, in the label's unit.
    label_covariance : numpy.ndarray, shape (star, label, label), or None
        In place of `label_errors`: covariance of the errors of each star's labels.
    missing_label_error : {"refuse", "infer"}
        What an error means that is NaN while its label is there: a mistake, or that the noise of a
        regression stands for all of the label's error.
    label_names : tuple of str
        One name a label; by default ``label_0``, ``label_1``, ...
    label_units : tuple of str
        One unit a label; by default ``""``.
    ids : numpy.ndarray of str, shape (star,), or None
        Names of the stars; bytes are decoded (UTF-8, else Latin-1), numbers written out.
    groups : numpy.ndarray of str, shape (star,), or None
        What spectra belong together, such as several of one sample: those with the same name are
        never parted when stars are set aside.
    wavelength_unit : str
        Unit of `wavelength`, default ``"Angstrom"``.
    wavelength_medium : {"air", "vacuum"} or None
        Whether `wavelength` is of air or of vacuum; None, the default, where it is not known.

    Raises
    ------
    ShapeError
        Arrays do not fit together.
    DataError
        Flux is not finite where `ivar` is not 0, `ivar` is negative or not finite, a label is
        infinite, an error of a label is not positive or not known, a wavelength negative, a name
        occurs twice, or anything is no array of numbers, is masked, or has a unit that is not known
        to be right.
    OptionError
        Errors of labels are given twice, or without labels.
    """

    name: ClassVar[str] = "the spectra"  # in messages, where those of a file have its path

    flux: np.ndarray
    ivar: np.ndarray | None = None
    wavelength: np.ndarray | None = None
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    label_units: tuple[str, ...] = ()
    ids: np.ndarray | None = None
    wavelength_unit: str = "Angstrom"
    wavelength_medium: str | None = None
    label_errors: np.ndarray | None = None
    label_covariance: np.ndarray | None = None
    missing_label_error: str = REFUSE
    flux_covariance: FluxCovariance | None = None
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        flux = _as_matrix(self.flux, "flux", "pixel")
        self._set("flux", flux)
        if self.ivar is not None:
            self._set("ivar", check_ivar(self.ivar, flux.shape))
        _refuse_unmarked(self.flux, self.ivar)
        if self.flux_covariance is not None:
            covariance, ivar = match_covariance(self.flux_covariance, self.ivar, flux.shape)
            object.__setattr__(self, "flux_covariance", covariance)
            self._set("ivar", ivar)
        units = _as_strings(self.label_units, "label_units")
        check_medium(self.wavelength_medium)
        if self.wavelength is not None:
            grid = _as_wavelength(self.wavelength, flux.shape[1], self.wavelength_unit)
            self._set("wavelength", grid)
        if self.labels is not None:
            labels = _as_labels(self.labels, flux.shape[0], units)
            self._set("labels", labels)
        for name in _OF_TEXT:
            if (texts := getattr(self, name)) is not None:
                self._set(name, _as_names(texts, name, flux.shape[0]))
        names = _as_strings(self.label_names, "label_names")
        _check_length(names, "label_names", self.n_labels)
        _check_length(units, "label_units", self.n_labels)
        if len(set(names)) < len(names):
            raise DataError(
                f"label_names should all differ, got {names}: rename those that occur twice."
            )
        object.__setattr__(
            self, "label_names", names or tuple(f"label_{i}" for i in range(self.n_labels))
        )
        object.__setattr__(self, "label_units", units or ("",) * self.n_labels)
        self._set_label_errors()

    def _set_label_errors(self) -> None:
        check_choice(self.missing_label_error, "missing_label_error", MISSING)
        given = [
            name for name in ("label_errors", "label_covariance") if getattr(self, name) is not None
        ]
        if not given:
            return
        if len(given) > 1 or self.labels is None:
            raise OptionError(
                "label_errors (star, label) or label_covariance (star, label, label) should stand"
                f" beside labels, got {' and '.join(given)}"
                f" {'without labels' if self.labels is None else 'together'}: give one of the two."
            )
        (name,) = given
        units = self.label_units if name == "label_errors" and any(self.label_units) else None
        errors = as_float_array(getattr(self, name), name, unit=units)
        n_axes = 2 if name == "label_errors" else 3
        if errors.ndim != n_axes:
            raise ShapeError(f"{name} should have {n_axes} axes, got shape {errors.shape}.")
        add_errors(self.labels, errors, missing=self.missing_label_error)
        self._set(name, errors)

    def _set(self, name: str, array: np.ndarray) -> None:
        """Store a read-only view, which leaves the caller's own array writable."""
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, name, view)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return self.flux.shape[0]

    @property
    def n_pixels(self) -> int:
        """Number of pixels of each spectrum."""
        return self.flux.shape[1]

    @property
    def n_labels(self) -> int:
        """Number of labels of each star; 0 when there are none."""
        return 0 if self.labels is None else self.labels.shape[1]

    @property
    def has_label_errors(self) -> bool:
        """Whether the labels came with errors."""
        return self.label_errors is not None or self.label_covariance is not None

    def __len__(self) -> int:
        return self.n_stars

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Take some stars, as `read` of an open file does."""
        return self[check_rows(rows, self.n_stars)]

    def read_ids(self) -> np.ndarray | None:
        """Names of all stars (star,), as those of an open file; None without."""
        return self.ids

    def identity(self) -> dict[str, str | None]:
        """Digest of all fields, by the same key as that of an open file."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # as before these were known of any spectra
        if self.wavelength_medium is None:
            del values["wavelength_medium"]
        if self.groups is None:
            del values["groups"]
        if not self.has_label_errors:
            del values["label_errors"], values["label_covariance"], values["missing_label_error"]
        if self.flux_covariance is None:
            del values["flux_covariance"]
        return {"spectra": find_fingerprint(values)}

    @property
    def contents(self) -> Contents:
        """What a file would say of its layout: nothing."""
        return Contents()

    def __getitem__(self, stars: int | slice | ArrayLike) -> Spectra:
        stars = _as_star_index(stars, self.n_stars)
        selected: dict[str, Any] = {
            name: getattr(self, name)[stars] for name in BY_STAR if getattr(self, name) is not None
        }
        if self.flux_covariance is not None:
            selected["flux_covariance"] = self.flux_covariance.pick(stars)
        return replace(self, **selected)

    def __repr__(self) -> str:
        labels = ", ".join(map(with_unit, self.label_names, self.label_units))
        parts = [
            f"{self.n_stars} stars",
            f"{self.n_pixels} pixels",
            "no ivar" if self.ivar is None else "ivar",
            *(["covariance of the flux"] if self.flux_covariance is not None else []),
            self._describe_wavelength(),
            f"labels {labels}" if labels else "no labels",
            *(["errors of labels"] if self.has_label_errors else []),
        ]
        return f"Spectra({', '.join(parts)})"

    def _describe_wavelength(self) -> str:
        if self.wavelength is None:
            return "no wavelength"
        medium = f" ({self.wavelength_medium})" if self.wavelength_medium else ""
        return f"wavelength in {self.wavelength_unit}{medium}"


def hash_spectra(spectra: Spectra) -> str:
    """SHA-256 of the flux and its errors, labels with their errors, and ids of some stars."""
    digest = hashlib.sha256()
    for name in (name for name in BY_STAR if name not in _OF_TEXT):
        array = getattr(spectra, name)
        if array is not None:
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    if spectra.flux_covariance is not None:
        digest.update(find_fingerprint(spectra.flux_covariance).encode())
    digest.update(b"" if spectra.ids is None else "\n".join(spectra.ids).encode())
    return digest.hexdigest()


def check_rows(rows: slice, n_stars: int) -> slice:
    """Refuse anything but a slice that goes forward; return it with its numbers filled in."""
    if not isinstance(rows, slice) or (rows.step or 1) < 1:
        raise OptionError(
            f"rows should be a slice with a step above 0, got {rows!r}: write slice(0, 1000)."
        )
    return slice(*rows.indices(n_stars))


def _as_matrix(
    value: ArrayLike, name: str, axis: str, units: Sequence[str] | None = None
) -> np.ndarray:
    array = as_float_array(value, name, unit=units)
    if array.ndim == 2 and array.shape[1] > 0:
        return array
    advice = "give one row a star"
    if array.ndim == 1:
        advice = f"for one star give {name}[None, :]"
        if axis == "label":
            advice += f", for one label {name}[:, None]"
    elif array.ndim == 2:
        advice = f"give at least one {axis}"
    raise ShapeError(f"{name} should have shape (star, {axis}), got {array.shape}: {advice}.")


def _refuse_unmarked(flux: np.ndarray, ivar: np.ndarray | None) -> None:
    """Refuse flux that is not finite, except where `ivar` says that nothing is known."""
    if ivar is None:
        check_finite(
            flux, "flux", ("star", "pixel"), "give ivar with 0 at these pixels, or fill them"
        )
    elif (bad := ~np.isfinite(flux) & (ivar > 0)).any():
        described = describe_bad(bad, flux, ("star", "pixel"))
        raise DataError(
            f"flux should be finite where ivar is not 0, got {described}: set ivar to 0 at these"
            " pixels, or fill them."
        )


def _as_wavelength(value: ArrayLike, n_pixels: int, unit: str) -> np.ndarray:
    wavelength = as_float_array(value, "wavelength", unit=unit)
    if wavelength.shape != (n_pixels,):
        advice = "give one wavelength for each pixel of flux"
        if wavelength.ndim == 2:
            advice = "all stars share one grid, so resample their spectra to one and give that"
        raise ShapeError(
            f"wavelength should have shape ({n_pixels},), got {wavelength.shape}: {advice}."
        )
    check_wavelength(wavelength)
    return wavelength


def _as_labels(value: ArrayLike, n_stars: int, units: Sequence[str]) -> np.ndarray:
    labels = _as_matrix(value, "labels", "label", units or None)
    if labels.shape[0] != n_stars:
        advice = (
            "transpose it: labels.T"
            if labels.shape[1] == n_stars
            else "select the same stars in flux and labels"
        )
        raise ShapeError(
            f"labels should have shape ({n_stars}, label), got {labels.shape}: {advice}."
        )
    check_not_infinite(labels)
    return labels


def _as_names(value: ArrayLike, name: str, n_stars: int) -> np.ndarray:
    shape = np.shape(value)
    if shape != (n_stars,):
        raise ShapeError(
            f"{name} should have shape ({n_stars},), one a star, got {shape}: select the same"
            " stars."
        )
    return np.array(as_texts(value, name), dtype=str)


def _as_strings(strings: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(strings, str):
        raise DataError(
            f"{name} should be a sequence of strings, got {strings!r}: write ({strings!r},)."
        )
    strings = tuple(strings)
    if not all(isinstance(one, str) for one in strings):
        raise DataError(
            f"{name} should be a sequence of strings, got {strings!r}: convert each with str()."
        )
    return as_texts(strings, name)


def _check_length(strings: tuple[str, ...], name: str, n_labels: int) -> None:
    if strings and len(strings) != n_labels:
        advice = (
            "give one for each column of labels"
            if n_labels
            else "give labels as well, or leave it out"
        )
        raise ShapeError(f"{name} should have length {n_labels}, got {len(strings)}: {advice}.")


def _as_star_index(stars: int | slice | ArrayLike, n_stars: int) -> slice | np.ndarray:
    """Turn a selection of stars into an index that keeps the star axis."""
    if isinstance(stars, slice):
        return stars
    index = np.asarray(stars)
    if isinstance(stars, tuple) or index.ndim > 1 or (index.size and index.dtype.kind not in "iub"):
        raise IndexError(
            "spectra[stars] takes one integer, a slice, a mask or an array of integers, got"
            f" {stars!r}: select pixels on the arrays themselves, e.g. spectra.flux[:, :100]."
        )
    if index.dtype == bool and index.shape != (n_stars,):
        raise ShapeError(
            f"a mask of stars should have shape ({n_stars},), got {index.shape}: give one bool a"
            " star."
        )
    if index.dtype == bool:
        return np.flatnonzero(index)
    index = np.atleast_1d(index).astype(np.intp)
    if index.size and (index.max() >= n_stars or index.min() < -n_stars):
        worst = index.max() if index.max() >= n_stars else index.min()
        raise IndexError(
            f"star {worst} asked for, got spectra of {n_stars} stars: they are numbered from 0."
        )
    return index


def with_unit(name: str, unit: str) -> str:
    """Name of a label with its unit: "TEFF [K]"."""
    return f"{name} [{unit}]" if unit else name
