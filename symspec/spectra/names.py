"""Names of arrays in files and tables of spectra, and what they say about the arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from symspec.errors import DataError, FileFormatError
from symspec.safety.named_arrays import LazyArray, NamedArrays

FLUX = ("flux", "spectrum", "spectra")
WAVELENGTH = ("wavelength", "wavelengths", "wave", "lambda", "spectral_axis")
LOG_WAVELENGTH = ("loglam", "log_wavelength", "log10_wavelength")
MASKS = ("mask", "bad_pixel", "bad_pixels", "bitmask", "and_mask", "andmask", "pixel_flags")
# the first of these that is there
IDS = (
    "ids",
    "id",
    "apogee_id",
    "sdss_id",
    "source_id",
    "object_id",
    "star_id",
    "targetid",
    "objid",
)
GROUPS = ("group", "groups")  # rows of one star or sample
UNCERTAINTIES = {
    "error_spectrum": "std",
    "flux_error": "std",
    "sigma": "std",
    "flux_sigma": "std",
    "std": "std",
    "flux_std": "std",
    "var": "var",
    "variance": "var",
    "flux_var": "var",
    "flux_variance": "var",
    "ivar": "ivar",
    "flux_ivar": "ivar",
    "inverse_variance": "ivar",
}
# a standard deviation by convention only, which the caller may overrule
CONVENTIONS = ("error_spectrum", "flux_error")
AMBIGUOUS = (
    "err",
    "error",
    "errors",
    "flux_err",
    "flux_errors",
    "fluxerr",
    "e_flux",
    "spectrum_error",
    "error_spectra",
    "unc",
    "uncertainty",
    "uncertainties",
    "flux_uncertainty",
    "noise",
)
# {} is the name of a label
LABEL_ERRORS = ("{}_err", "{}_error", "e_{}", "err_{}", "sigma_{}", "{}_sigma", "{}_std")
STARNET_UNITS = {"TEFF": "K", "LOGG": "dex", "FE_H": "dex"}
_OF_PIXELS = {*FLUX, *WAVELENGTH, *LOG_WAVELENGTH, *MASKS, *UNCERTAINTIES, *AMBIGUOUS}
_SAY_IT = 'say it, uncertainty="std" | "var" | "ivar"'
_N_LISTED = 20  # names in an error


@dataclass(frozen=True, kw_only=True)
class NamedByCaller:
    """Names of arrays that the caller states, where those of the file do not tell.

    Attributes
    ----------
    flux, wavelength, uncertainty : str or None
        Names of arrays, columns or HDUs, in any case.
    kind : {"std", "var", "ivar"} or None
        Kind of the uncertainty.
    """

    flux: str | None = None
    wavelength: str | None = None
    uncertainty: str | None = None
    kind: str | None = None

    @classmethod
    def parse(cls, flux: str | None, wavelength: str | None, uncertainty: str | None) -> Self:
        """Take the uncertainty, "std", or "std:NAME" with the name of its array, to pieces."""
        kind, _, name = (uncertainty or "").partition(":")
        return cls(flux=flux, wavelength=wavelength, uncertainty=name or None, kind=kind or None)

    def holds(self, name: str) -> bool:
        """Whether an array of this name is one of them."""
        return any(map(partial(is_same_name, name), (self.flux, self.wavelength, self.uncertainty)))

    def is_flux(self, name: str) -> bool:
        """Whether an array of this name is the flux, by the caller's word or else by its name."""
        return is_flux_name(name) if self.flux is None else is_same_name(name, self.flux)


def is_same_name(name: str, other: str | None) -> bool:
    """Whether two names are the same, in any case."""
    return other is not None and name.lower() == other.lower()


def is_pixel_name(name: str) -> bool:
    """Whether an array of this name holds one value for each pixel, in any case."""
    return name.lower() in _OF_PIXELS


def is_id_name(name: str) -> bool:
    """Whether an array of this name holds the names of the stars, in any case."""
    return name.lower() in IDS


def is_flux_name(name: str) -> bool:
    """Whether an array of this name holds the flux, in any case."""
    return name.lower() in FLUX


def is_grid_name(name: str) -> bool:
    """Whether an array of this name holds wavelengths or their logarithms, in any case."""
    return name.lower() in (*WAVELENGTH, *LOG_WAVELENGTH)


def keep_pixel_columns(
    columns: Mapping[str, LazyArray], named: NamedByCaller | None = None
) -> dict[str, LazyArray]:
    """Columns of a table; of a table with one pixel a row, which is one star, those of pixels.

    Those that the caller names are of pixels.
    """
    named = named or NamedByCaller()
    is_one_star = any(
        named.is_flux(name) and len(array.shape) == 1 for name, array in columns.items()
    )
    return {
        name: array
        for name, array in columns.items()
        if not is_one_star or is_pixel_name(name) or named.holds(name)
    }


def name_label_errors(label: str) -> tuple[str, ...]:
    """Names of an array that holds standard deviations of the errors of a label, in lower case."""
    return tuple(pattern.format(label.lower()) for pattern in LABEL_ERRORS)


def find_array(arrays: NamedArrays, names: Sequence[str]) -> str | None:
    """Find the array with one of these names, in any case; None without one.

    Raises
    ------
    DataError
        There are several.
    """
    found = [name for name in arrays.names if name.lower() in names]
    if len(found) > 1:
        raise DataError(
            f"a file should hold one array of the names {', '.join(names)}, got {', '.join(found)}:"
            " keep one of them."
        )
    return found[0] if found else None


def find_first_array(arrays: NamedArrays, names: Sequence[str]) -> str | None:
    """Find the array of the first of these names that is there, in any case."""
    return next((found for name in names if (found := find_array(arrays, (name,)))), None)


def find_flux(arrays: NamedArrays, source: str, named: NamedByCaller) -> str:
    """Find the flux, without which there are no spectra."""
    if named.flux is not None:
        return find_named_array(arrays, named.flux, "flux", source)
    if (name := find_array(arrays, FLUX)) is None:
        raise FileFormatError(
            f"{source} should hold the flux under one of the names {', '.join(FLUX)}, got"
            f" {_list_names(arrays) or 'no array at all'}: say which it is, flux=, or use"
            " symspec.Spectra."
        )
    return name


def find_grid_array(arrays: NamedArrays, source: str, named: NamedByCaller) -> str | None:
    """Find the wavelengths, or their logarithms; None without."""
    if named.wavelength is not None:
        return find_named_array(arrays, named.wavelength, "wavelength", source)
    return find_array(arrays, WAVELENGTH) or find_array(arrays, LOG_WAVELENGTH)


def find_named_array(arrays: NamedArrays, name: str, option: str, source: str) -> str:
    """Find the array of a name that the caller gives by an option, in any case."""
    if (found := find_array(arrays, (name.lower(),))) is None:
        raise FileFormatError(
            f"{source} should hold an array named {name!r}, got {_list_names(arrays)}: correct"
            f" {option}=."
        )
    return found


def find_uncertainty(
    arrays: NamedArrays, named: NamedByCaller, source: str
) -> tuple[str, str] | None:
    """Find the array that holds the flux's uncertainty, and its kind.

    Parameters
    ----------
    arrays : NamedArrays
    named : NamedByCaller
        The kind that the caller states, or asks for among several, perhaps with a name.
    source : str
        Name of the source, used in errors.

    Returns
    -------
    (str, {"std", "var", "ivar"}) or None
        Name and kind; None when there is no uncertainty.

    Raises
    ------
    FileFormatError
        There is no array of the caller's name.
    DataError
        The kind is unknown, or the caller contradicts the name.
    """
    uncertainty = named.kind
    if named.uncertainty is not None and uncertainty is not None:
        return _find_stated(arrays, named.uncertainty, uncertainty, source), uncertainty
    kinds = {
        name: UNCERTAINTIES.get(name.lower())
        for name in arrays.names
        if not is_same_name(name, named.flux) and not is_same_name(name, named.wavelength)
    }
    found = {name: kind for name, kind in kinds.items() if kind or name.lower() in AMBIGUOUS}
    if not found and uncertainty is None:
        return None
    if not found:
        raise DataError(
            f"uncertainty={uncertainty!r} asks for the flux's uncertainty, got a file that holds"
            f" {_list_names(arrays)}: leave uncertainty out, or name the array ivar."
        )
    listed = ", ".join(
        f"{name} ({kind or 'which may be anything'})" for name, kind in found.items()
    )
    if uncertainty is None:
        (name, known), *others = found.items()
        if known is None or others:
            raise DataError(
                f"the file should say what the flux's uncertainty is, got {listed}: {_SAY_IT}."
            )
        return name, known
    exact = [name for name, kind in found.items() if kind == uncertainty]
    unknown = [name for name, kind in found.items() if kind is None or name.lower() in CONVENTIONS]
    candidates = exact or unknown
    if len(candidates) != 1:
        raise DataError(
            f"uncertainty={uncertainty!r} should agree with one array of the file, got {listed}:"
            ' say which it is, uncertainty="std" | "var" | "ivar", or rename the array.'
        )
    return candidates[0], uncertainty


def _find_stated(arrays: NamedArrays, wanted: str, kind: str, source: str) -> str:
    """The array of uncertainties that the caller names, whose own name may not contradict."""
    name = find_named_array(arrays, wanted, "uncertainty", source)
    known = UNCERTAINTIES.get(name.lower(), kind)
    if known != kind and name.lower() not in CONVENTIONS:
        raise DataError(
            f'uncertainty="{kind}:{name}" should agree with the name of the array, which says'
            f' {known}: write "{known}:{name}", or rename it.'
        )
    return name


def _list_names(arrays: NamedArrays) -> str:
    return ", ".join(arrays.names[:_N_LISTED])
