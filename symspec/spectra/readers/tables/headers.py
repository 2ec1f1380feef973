"""What the headers of a table say: which columns are pixels, of which wavelength, and what else.

Headers of pixels are numbers, numbers with a unit, such as ``900 nm`` or ``4000 cm-1``, or numbers
with one and the same text before and after, such as ``X900`` of R or ``spc.400``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError
from symspec.spectra.names import is_grid_name
from symspec.spectra.readers.tables.numerals import is_number

N_JUDGED = 8  # columns, fewer with a text before their numbers are no pixels unasked
_UNIT = r"nm|cm\s*\^?\s*[-\u2212]\s*1|cm\u207b\u00b9|1/cm|[u\u00b5\u03bc]m|angstrom|\u00c5"
_HEADER = re.compile(
    rf"(?P<prefix>[^\d+-]*?)(?P<number>\d+(?:[.,]\d+)?)(?:[\s_]*(?P<unit>{_UNIT})|(?P<suffix>\D*))",
    re.I | re.ASCII,
)
_UNITS = {"\u00e5": "Angstrom", "angstrom": "Angstrom", "nm": "nm"}
_WAVENUMBER = r"wave\s*numbers?|wellenzahl(en)?|nombre d'onde|n\u00famero de onda"
_GRID = re.compile(
    rf"(?P<name>wave\s*lengths?|wellenl(\u00e4|ae)ngen?|longueur d'onde|longitud de onda|lambda|wl"
    rf"|{_WAVENUMBER}|wn|raman shift)?[\s_,;:/]*[(\[]?\s*(?P<unit>{_UNIT})?\s*[)\]]?\.?",
    re.I,
)
# by what is left of a header in lower case without blanks and signs; the first that is there
ID_NAMES = (
    "id",
    "ids",
    "sampleid",
    "sample",
    "samples",
    "samplename",
    "samplenumber",
    "sampleno",
    "samplenr",
    "probe",
    "probenname",
    "probennummer",
    "echantillon",
    "muestra",
    "name",
    "spectrum",
    "spectrumid",
    "spectrumname",
    "scanid",
    "scan",
    "file",
    "filename",
    "rownames",
    "",
)
GROUP_NAMES = ("group", "groups")
DATE_NAMES = ("date", "time", "datetime", "timestamp", "datum", "uhrzeit", "dateandtime")
_QUANTITIES = {
    *("absorbance", "absorption", "abs", "reflectance", "refl", "%r", "transmittance"),
    *("transmission", "%t", "log1/r", "log(1/r)", "intensity", "counts", "signal", "raw"),
    *("samplesignal", "referencesignal", "sampleintensity", "referenceintensity", "reference"),
    *("ref", "dark", "white", "whitereference", "darkreference", "background", "radiance"),
    *("irradiance", "mean", "average", "median", "min", "max", "std", "stddev", "sd", "error"),
    *("err", "sigma", "variance", "uncertainty", "flux", "noise", "snr"),
}


@dataclass(frozen=True, kw_only=True)
class PixelHeaders:
    """Columns whose headers are wavelengths.

    Attributes
    ----------
    affix : str
        The text around the numbers, without the unit.
    unit : str or None
        The unit of the headers.
    columns : list of int
    numbers : list of str
        The numbers of their headers, as they are written.
    """

    affix: str
    unit: str | None
    columns: list[int] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """By which a caller picks them: "X", "nm", or "" for plain numbers."""
        return self.affix or self.unit or ""

    @property
    def values(self) -> list[float]:
        """The numbers, whatever their decimal mark."""
        return [float(number.replace(",", ".")) for number in self.numbers]

    @property
    def only_count(self) -> bool:
        """Whether they are numbered 0, 1, 2, ... or 1, 2, 3, ..."""
        return counts(self.numbers)

    def describe(self) -> str:
        """How a caller picks them, and what they are."""
        n = len(self.columns)
        return f'flux="{self.name}" ({n} columns, {self.numbers[0]} to {self.numbers[-1]})'


def counts(numbers: Sequence[str]) -> bool:
    """Whether these are 0, 1, 2, ... or 1, 2, 3, ..."""
    return bool(numbers) and any(
        list(numbers) == [str(i) for i in range(first, first + len(numbers))] for first in (0, 1)
    )


def find_pixels(cells: Sequence[str], wanted: str | None, source: str) -> PixelHeaders | None:
    """Find the columns of pixels by their headers; None without any.

    Parameters
    ----------
    cells : sequence of str
    wanted : str or None
        The text around the numbers, where the caller says it: ``"X"``.
    source : str
        Name of the file, used in errors.

    Raises
    ------
    DataError
        Several kinds of columns may be pixels, or those that may be are only counted.
    """
    kinds = _sort_by_affix(cells)
    if wanted is not None:
        return next((kind for kind in kinds if _fold(kind.name) == _fold(wanted)), None)
    likely = _find_likely(kinds)
    if len(likely) > 1 or (likely and likely[0].affix and likely[0].only_count):
        raise DataError(
            f"{source} holds columns that may be pixels or labels, and their headers do not tell:"
            f" say which are pixels, {' or '.join(kind.describe() for kind in likely)}."
        )
    return likely[0] if likely else None


def find_likely_pixels(cells: Sequence[str]) -> list[PixelHeaders]:
    """Columns that are pixels by their headers, or may be, and whose numbers go one way."""
    found = _find_likely(_sort_by_affix(cells))
    return [kind for kind in found if is_monotonic(kind.values) or len(kind.columns) == 1]


def find_header_number(cell: str) -> str | None:
    """The number in a header of a pixel, as it is written; None without."""
    return _split(cell)[1]


def _find_likely(kinds: Sequence[PixelHeaders]) -> list[PixelHeaders]:
    """Plain numbers, and many columns with one text; those that count are labels beside them."""
    plain = [kind for kind in kinds if not kind.affix]
    others = [kind for kind in kinds if kind.affix and len(kind.columns) >= N_JUDGED]
    return plain + [kind for kind in others if not (plain and kind.only_count)]


def describe_perhaps(cells: Sequence[str]) -> str:
    """What to say of columns that may be pixels, but are too few; "" without any."""
    kinds = [kind for kind in _sort_by_affix(cells) if len(kind.columns) > 1]
    largest = max(kinds, key=lambda kind: len(kind.columns), default=None)
    return f", or say {largest.describe()} if these are pixels" if largest else ""


def _sort_by_affix(cells: Sequence[str]) -> list[PixelHeaders]:
    """Columns whose headers hold a number, by the text around it and the unit."""
    kinds: dict[tuple[str, str | None], PixelHeaders] = {}
    for i, cell in enumerate(cells):
        affix, number, unit = _split(cell)
        if number is None:
            continue
        kind = kinds.setdefault((_fold(affix), unit), PixelHeaders(affix=affix, unit=unit))
        kind.columns.append(i)
        kind.numbers.append(number)
    return list(kinds.values())


def _split(cell: str) -> tuple[str, str | None, str | None]:
    """The text around the number of a header, that number, and its unit."""
    if is_number(cell):
        return "", cell, None
    found = _HEADER.fullmatch(cell)
    if found is None:
        return cell, None, None
    unit = _spell_unit(found["unit"])
    prefix = found["prefix"]
    bare = prefix.strip(" _.-").lower()
    if unit is None and not found["suffix"] and bare in _UNITS:  # nm900
        return "", found["number"], _UNITS[bare]
    return prefix + (found["suffix"] or ""), found["number"], unit


def _spell_unit(text: str | None) -> str | None:
    """A unit of a header as `symspec.spectra.spectral_axis` understands it."""
    if text is None:
        return None
    plain = re.sub(r"\s", "", text.lower())
    if plain in _UNITS:
        return _UNITS[plain]
    return "um" if plain.endswith("m") else "cm-1"


def find_grid_unit(cell: str, source: str) -> tuple[bool, str | None]:
    """Whether a header names wavelengths or wavenumbers, and their unit if it says so.

    Raises
    ------
    DataError
        It names Raman shifts, which are neither.
    """
    found = _GRID.fullmatch(cell)
    if found is None or not (found["name"] or found["unit"]):
        return is_grid_name(cell), None
    if "raman" in (found["name"] or "").lower():
        raise DataError(
            f"{source} holds Raman shifts, {cell!r}, which are differences and no wavelengths of"
            " light: write the pixels' numbers 0, 1, 2, ... in their place."
        )
    unit = _spell_unit(found["unit"])
    if unit is None and re.match(rf"{_WAVENUMBER}|wn$", found["name"] or "", re.I):
        unit = "cm-1"
    return True, unit


def is_quantity(cell: str) -> bool:
    """Whether a header names what was measured, or a statistic, rather than a sample."""
    plain = re.sub(r"[(\[].*?[)\]]\s*$", "", cell) if not cell.startswith("(") else cell
    return _fold(plain) in _QUANTITIES or _fold(cell) in _QUANTITIES


def find_id(cells: Sequence[str], free: Sequence[int]) -> list[int]:
    """Columns whose headers are those of names, the likeliest first."""
    named = {i: simplify(cells[i]) for i in free}
    return sorted(
        (i for i, name in named.items() if name in ID_NAMES),
        key=lambda i: ID_NAMES.index(named[i]),
    )


def simplify(cell: str) -> str:
    """A header in lower case, without blanks and signs: "Sample No." is "sampleno"."""
    return re.sub(r"[^a-z0-9]", "", cell.lower())


def is_monotonic(numbers: ArrayLike) -> bool:
    """Whether numbers rise, or fall, all the way."""
    steps = np.diff(np.asarray(numbers, dtype=np.float64))
    return bool(steps.size) and bool((steps > 0).all() or (steps < 0).all())


def _fold(text: str) -> str:
    return re.sub(r"\s", "", text.lower())
