"""Spectra of SDSS-V's Milky Way Mapper, mwmStar and mwmVisit: a table each for BOSS and APOGEE.

Tables BOSS/APO, BOSS/LCO, APOGEE/APO and APOGEE/LCO have one spectrum a row, of which some tables
are empty; the grid is in a column or in the header's cards without a number (astra's data model).
"""

from __future__ import annotations

import re
from dataclasses import replace

from symspec.errors import DataError
from symspec.safety.named_arrays import (
    LazyArray,
    NamedArrays,
    hold_array,
    name_arrays,
)
from symspec.spectra.names import IDS, find_first_array
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_hdu,
    is_table,
)
from symspec.spectra.readers.fits.tables import arrange_table
from symspec.spectra.readers.layouts.apstar import APOGEE_BAD_BITS
from symspec.spectra.readers.layouts.known import with_medium

_NAME = re.compile(r"(BOSS|APOGEE)/(APO|LCO)")


def is_mwm(file: FitsFile) -> bool:
    """Whether a table is named after an instrument and an observatory."""
    return any(_NAME.fullmatch(hdu.name) and is_table(hdu) for hdu in file.hdus)


def arrange_mwm(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the one table that holds spectra, or the one asked for by `hdu` or `arm`."""
    main = _find_table(file, options)
    arrays = with_medium(arrange_table(file, main, options), "vacuum")
    if main.name.startswith("APOGEE"):
        arrays = replace(arrays, mask_bits=APOGEE_BAD_BITS)
    return _number_visits(arrays) if main.header["NAXIS2"] > 1 else arrays


def _find_table(file: FitsFile, options: FitsOptions) -> Hdu:
    wanted = options.arm if options.hdu is None else options.hdu
    if wanted is not None:
        return find_hdu(file, wanted)
    tables = [hdu for hdu in file.hdus if _NAME.fullmatch(hdu.name) and is_table(hdu)]
    held = [hdu for hdu in tables if hdu.header["NAXIS2"]]
    if len(held) != 1:
        names = ", ".join(f"{hdu.name} ({hdu.header['NAXIS2']} spectra)" for hdu in tables)
        raise DataError(
            f"{file.path} should hold spectra of one instrument and observatory, got {names}: say"
            " which, hdu=, on one grid each."
        )
    return held[0]


def _number_visits(arrays: NamedArrays) -> NamedArrays:
    """Ids of one star's visits, which would all be the same."""
    name = find_first_array(arrays, IDS)
    if name is None:
        return arrays
    ids = [f"{star} visit {i + 1}" for i, star in enumerate(arrays.load(name).reshape(-1))]
    stored = {one: _pick(arrays, one) for one in arrays.names} | {name: hold_array(ids)}
    return name_arrays(
        stored,
        units=arrays.units,
        mask_bits=arrays.mask_bits,
        wavelength_medium=arrays.wavelength_medium,
        contents=arrays.contents,
    )


def _pick(arrays: NamedArrays, name: str) -> LazyArray:
    return LazyArray(arrays.find_shape(name), lambda rows: arrays.load(name, rows))
