"""Coadded spectra of SDSS and BOSS: a table of one pixel a row, and the exposures in others.

Flux, loglam (log10 of wavelengths in vacuum), ivar and and_mask are columns (SDSS's data model,
`spec` and `spec-lite` files).
"""

from __future__ import annotations

from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.readers.fits.file import FitsFile, FitsOptions, Hdu, find_hdu, is_table
from symspec.spectra.readers.fits.tables import arrange_table
from symspec.spectra.readers.layouts.known import with_medium

_COLUMNS = {"flux", "loglam", "ivar"}


def is_boss(file: FitsFile) -> bool:
    """Whether the first table has flux, loglam and ivar of one pixel a row."""
    return any(map(_is_coadd, file.hdus))


def arrange_boss(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the first such table, or the one asked for."""
    coadds = filter(_is_coadd, file.hdus)
    main = next(coadds) if options.hdu is None else find_hdu(file, options.hdu)
    return with_medium(arrange_table(file, main, options), "vacuum")


def _is_coadd(hdu: Hdu) -> bool:
    if not is_table(hdu):
        return False
    names = {name.lower(): name for name in hdu.columns.names}
    return names.keys() >= _COLUMNS and hdu.columns[names["flux"]].format.repeat == 1
