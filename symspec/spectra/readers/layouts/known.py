"""What the layouts of surveys share: cards that mark them, and what they say of their arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from symspec.safety.named_arrays import Contents, LazyArray, NamedArrays
from symspec.spectra.readers.fits.file import (
    FitsFile,
    Hdu,
    describe_hdu,
    find_image_unit,
    is_table,
    list_others,
)
from symspec.spectra.readers.fits.images import take_labels

_APOGEE_UNITS = ("flux", "err", "mask", "wavelen")
_MARKS = ("TELESCOP", "ORIGIN", "INSTRUME", "DATA_V", "SURVEY")


def is_marked(file: FitsFile, word: str) -> bool:
    """Whether the first header names a telescope, an instrument or a survey with this word."""
    header = file.hdus[0].header
    return any(word in str(header.get(card, "")).upper() for card in _MARKS)


def with_medium(arrays: NamedArrays, medium: str) -> NamedArrays:
    """The arrays with the medium of their wavelengths, unless the file states another."""
    return replace(arrays, wavelength_medium=arrays.wavelength_medium or medium)


def is_contradicted(hdu: Hdu, word: str) -> bool:
    """Whether BUNIT of one of APOGEE's images begins with the word of another of them."""
    unit = find_image_unit(hdu).lower()
    return any(unit.startswith(other) for other in _APOGEE_UNITS if other != word)


def describe_arrays(
    file: FitsFile, places: Mapping[str, Hdu], used: Collection[Hdu] = ()
) -> Contents:
    """Contents of a file whose arrays are whole HDUs, by name; `used` are taken besides."""
    return Contents(
        sources={name: describe_hdu(file, hdu) for name, hdu in places.items()},
        left_out=list_others(file, [*places.values(), *used]),
    )


def take_stars(
    file: FitsFile, name: str, n_stars: int
) -> tuple[dict[str, LazyArray], dict[str, str], list[Hdu]]:
    """Columns of the table `name` of one row a star, their units, and the table, if it is there."""
    for hdu in file.hdus:
        if hdu.name == name and is_table(hdu) and hdu.header["NAXIS2"] == n_stars:
            return *take_labels(file, hdu), [hdu]
    return {}, {}, []
