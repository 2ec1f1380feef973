"""What arrays of spectra are called in files and tables, and what these names tell about them."""

from __future__ import annotations

from collections.abc import Sequence

from symspec.errors import DataError, FileFormatError
from symspec.safety.named_arrays import NamedArrays, StoredArray

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
UNCERTAINTIES = {
    **dict.fromkeys(
        ("error_spectrum", "flux_error", "sigma", "flux_sigma", "std", "flux_std"), "std"
    ),
    **dict.fromkeys(("var", "variance", "flux_var", "flux_variance"), "var"),
    **dict.fromkeys(("ivar", "flux_ivar", "inverse_variance"), "ivar"),
}
# a standard deviation by convention only, so the caller may say otherwise
CONVENTIONS = ("error_spectrum", "flux_error")
AMBIGUOUS = (
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
STARNET_UNITS = {"TEFF": "K", "LOGG": "dex", "FE_H": "dex"}
_OF_PIXELS = {*FLUX, *WAVELENGTH, *LOG_WAVELENGTH, *MASKS, *UNCERTAINTIES, *AMBIGUOUS}
NO_UNCERTAINTY = (
    "uncertainty={!r} asks for the flux's uncertainty, got {}: leave uncertainty out, or name the"
    " array ivar."
)


def is_pixel_name(name: str) -> bool:
    """Whether an array of this name holds one value for each pixel, in any case."""
    return name.lower() in _OF_PIXELS


def keep_pixel_columns(stored: dict[str, StoredArray]) -> dict[str, StoredArray]:
    """Columns of a table; only those of pixels where it has one pixel a row, so that there is one star."""
    has_one = any(name.lower() in FLUX and len(array.shape) == 1 for name, array in stored.items())
    return (
        {name: array for name, array in stored.items() if is_pixel_name(name)}
        if has_one
        else stored
    )


def find_array(arrays: NamedArrays, names: Sequence[str]) -> str | None:
    """Find the one array with one of these names, in any case; None without one, a `DataError` with several."""
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


def find_flux(arrays: NamedArrays, source: str) -> str:
    """Find the flux, without which there are no spectra."""
    if (name := find_array(arrays, FLUX)) is None:
        raise FileFormatError(
            f"{source} should hold the flux under one of the names {', '.join(FLUX)}, got"
            f" {', '.join(arrays.names[:20]) or 'no array at all'}: rename it, or use"
            " symspec.Spectra."
        )
    return name


def find_uncertainty(arrays: NamedArrays, uncertainty: str | None) -> tuple[str, str] | None:
    """Find the array that holds the flux's uncertainty, and which kind it is.

    Parameters
    ----------
    arrays : NamedArrays
        Arrays by name.
    uncertainty : {"std", "var", "ivar"} or None
        The kind that the caller says it is, or asks for.

    Returns
    -------
    (str, {"std", "var", "ivar"}) or None
        Name and kind; None when there is no uncertainty.

    Raises
    ------
    DataError
        When the kind cannot be told, or the caller and the name contradict each other.
    """
    kinds = {name: UNCERTAINTIES.get(name.lower()) for name in arrays.names}
    found = {name: kind for name, kind in kinds.items() if kind or name.lower() in AMBIGUOUS}
    if not found:
        if uncertainty is not None:
            raise DataError(
                NO_UNCERTAINTY.format(
                    uncertainty, f"a file that holds {', '.join(arrays.names[:20])}"
                )
            )
        return None
    listed = ", ".join(
        f"{name} ({kind or 'which may be anything'})" for name, kind in found.items()
    )
    if uncertainty is None:
        if len(found) == 1 and (kind := next(iter(found.values()))):
            return next(iter(found)), kind
        raise DataError(
            f"the file should say what the flux's uncertainty is, got {listed}: "
            'say it, uncertainty="std" | "var" | "ivar".'
        )
    exact = [name for name, kind in found.items() if kind == uncertainty]
    open_to_say = [
        name for name, kind in found.items() if kind is None or name.lower() in CONVENTIONS
    ]
    if len(candidates := exact or open_to_say) == 1:
        return candidates[0], uncertainty
    raise DataError(
        f"uncertainty={uncertainty!r} should agree with one array of the file, got {listed}: "
        'say which it is, uncertainty="std" | "var" | "ivar", or rename the array.'
    )
