"""Spectra of ESO's archive in the format of phase 3: a table of one row, an array in each cell.

The columns say by TUTYPn or TUCDn what they are, and errors are standard deviations (ESO Science
Data Products Standard). Wavelengths are of air where TUCDn says `obs.atmos`, else of vacuum.
"""

from __future__ import annotations

from symspec.errors import DataError
from symspec.safety.named_arrays import Contents, LazyArray, NamedArrays, name_arrays
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_column_units,
    is_table,
    list_others,
    store_columns,
)
from symspec.spectra.readers.fits.headers import find_ids

# ends of TUTYPn, beginnings of TUCDn, and names by convention
_ROLES = {
    "wavelength": ("spectralaxis.value", "em.wl", ("wave",)),
    "flux": ("fluxaxis.value", "phot.flux.density", ("flux",)),
    "std": ("fluxaxis.accuracy.staterror", "stat.error", ("err", "error")),
    "mask": ("fluxaxis.accuracy.qualitystatus", "meta.code.qual", ("qual",)),
}


def is_phase3(file: FitsFile) -> bool:
    """Whether a table of one row says which column holds the wavelengths."""
    return any(map(_is_spectrum, file.hdus))


def arrange_phase3(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the main flux, its error and its quality."""
    hdu = next(filter(_is_spectrum, file.hdus))
    stored = store_columns(file, hdu)
    columns = {role: _find_column(file, hdu, role) for role in _ROLES}
    found = {role: name for role, name in columns.items() if name is not None}
    arrays: dict[str, LazyArray] = {role: stored[name] for role, name in found.items()}
    units = find_column_units(hdu)
    place = describe_hdu(file, hdu)
    ucd = _read_card(hdu, "TUCD", found["wavelength"])
    medium = None
    if ucd.startswith("em.wl"):
        medium = "air" if "obs.atmos" in ucd else "vacuum"
    unused = [name for name in hdu.columns.names if name not in found.values()]
    return name_arrays(
        find_ids(file) | arrays,
        units={role: units[name] for role, name in found.items() if name in units},
        wavelength_medium=medium,
        contents=Contents(
            sources={role: f"{place}, column {name}" for role, name in found.items()},
            left_out=(
                *(f"{place}, column {name}" for name in unused),
                *list_others(file, [hdu]),
            ),
        ),
    )


def _is_spectrum(hdu: Hdu) -> bool:
    if not is_table(hdu) or hdu.header["NAXIS2"] != 1:
        return False
    names = hdu.columns.names
    if any(_read_card(hdu, "TUTYP", name).endswith("spectralaxis.value") for name in names):
        return True
    is_voclass = str(hdu.header.get("VOCLASS", "")).upper().startswith("SPECTRUM")
    return is_voclass and any(_read_card(hdu, "TUCD", name).startswith("em.wl") for name in names)


def _find_column(file: FitsFile, hdu: Hdu, role: str) -> str | None:
    """The column of a role: the only one, else the main one, else the one of the usual name."""
    utype, ucd, usual = _ROLES[role]
    names = hdu.columns.names
    found = [name for name in names if _read_card(hdu, "TUTYP", name).endswith(utype)]
    found = found or [name for name in names if _read_card(hdu, "TUCD", name).startswith(ucd)]
    candidates = found
    if len(found) > 1:
        main = [name for name in found if "meta.main" in _read_card(hdu, "TUCD", name)]
        found = main or [name for name in found if name.lower() in usual]
    is_missing = not found and (candidates or role in ("wavelength", "flux"))
    if len(found) > 1 or is_missing:
        raise DataError(
            f"{file.path}: one column of {hdu.name} should be marked as the main {role}, got"
            f" {', '.join(candidates) or 'none'} out of {', '.join(names)}: say which, flux=,"
            ' wavelength= and uncertainty="std:NAME".'
        )
    return found[0] if found else None


def _read_card(hdu: Hdu, card: str, column: str) -> str:
    number = hdu.columns.names.index(column) + 1
    return str(hdu.header.get(f"{card}{number}", "")).strip().lower()
