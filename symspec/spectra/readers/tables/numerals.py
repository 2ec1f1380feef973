"""Numbers as tables write them: decimal points or commas, and cells that say that one is missing.

Which of the two a file has is found from all of its cells, as one alone may be read either way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from symspec.errors import DataError

Decimal = Literal[".", ","]

DECIMALS: tuple[Decimal, ...] = (".", ",")
MISSING = ("", "na", "n/a", "#n/a", "nan", "null")
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?", re.ASCII)
_PERHAPS_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
_INFINITE = ("inf", "-inf", "+inf", "infinity", "-infinity")


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no number: empty, or NA, N/A, NaN, null."""
    return cell.lower() in MISSING


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a decimal point or a decimal comma."""
    return _NUMBER.fullmatch(cell) is not None


def find_decimal(cells: Iterable[str], said: Decimal | None, source: str) -> Decimal:
    """Find the mark before the decimals of a file, from all of its numbers.

    Parameters
    ----------
    cells : iterable of str
        Those that are no number are passed over.
    said : {".", ","} or None
        What the caller says, who is believed.
    source : str
        Name of the file, used in errors.

    Raises
    ------
    DataError
        There are numbers with points and others with commas, or commas that may as well be those of
        thousands.
    """
    if said is not None:
        return said
    numbers = [cell for cell in cells if is_number(cell) or _PERHAPS_THOUSANDS.fullmatch(cell)]
    commas = [cell for cell in numbers if "," in cell]
    points = [cell for cell in numbers if "." in cell]
    if commas and points:
        raise DataError(
            f"{source} should write all of its numbers with one decimal mark, got {points[0]!r} and"
            f' {commas[0]!r}: say decimal="." or decimal=",", and write the others alike.'
        )
    if commas and all(_PERHAPS_THOUSANDS.fullmatch(cell) for cell in commas):
        raise DataError(
            f"{source} holds numbers such as {commas[0]!r}, whose comma may be that of decimals or"
            ' of thousands: say decimal="," if it is that of decimals, else write them without.'
        )
    return "," if commas else "."


def parse_number(cell: str, decimal: Decimal) -> float:
    """The number of a cell, NaN where it is missing.

    Raises
    ------
    ValueError
        It is none, or has the other decimal mark.
    """
    if is_missing(cell):
        return math.nan
    if cell.lower() in _INFINITE:
        return float(cell)
    other = "," if decimal == "." else "."
    if other in cell or not is_number(cell):
        raise ValueError(cell)
    return float(cell.replace(",", "."))
