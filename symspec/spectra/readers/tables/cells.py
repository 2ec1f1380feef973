"""Text as rows of cells: which sign separates them, and where the quotes are.

Commas, semicolons, tabs and blanks are tried, and that one is taken which gives a table of numbers.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from symspec.errors import DataError, FileFormatError
from symspec.spectra.readers.tables.numerals import is_number

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}
_GLUED = re.compile(r"[\d.,;+\-eE \t]*[;\t ,][\d.,;+\-eE \t]*", re.ASCII)
_MOST_GLUED = 0.2  # of the numbers
_COMMENT = "#"


@dataclass(frozen=True)
class Row:
    """A row of a table, and the number of its line, for messages."""

    line: int
    cells: list[str]

    @property
    def n_numbers(self) -> int:
        """How many of its cells are numbers."""
        return sum(map(is_number, self.cells))

    @property
    def n_filled(self) -> int:
        """How many of its cells are not empty."""
        return sum(map(bool, self.cells))


def split_text(text: str, separator: str | None, source: str) -> tuple[list[Row], str]:
    """Split text into rows of cells without blanks around them, and say what separates them.

    Empty lines and lines that start with ``#`` are left out.

    Parameters
    ----------
    text : str
    separator : {"comma", "semicolon", "tab", "space"} or None
        What the caller says, or the sign itself.
    source : str
        Name of the file, used in errors.

    Raises
    ------
    DataError
        Several separators give tables.
    FileFormatError
        The text is no table in quotes as they are usual.
    """
    if separator is not None:
        return _split(text, SEPARATORS.get(separator, separator), source), separator
    tables: dict[str, list[Row]] = {}
    for name, sign in SEPARATORS.items():
        with suppress(FileFormatError):  # quotes that another separator ends
            tables[name] = _split(text, sign, source)
    sizes = {name: _count_numbers(rows) for name, rows in tables.items()}
    blank = sizes.pop("space", 0)
    most = max(sizes.values(), default=0)
    if most == 0 and blank > 0:
        return tables["space"], "space"
    found = [name for name, size in sizes.items() if size == most]
    if not found:
        return _split(text, ",", source), "comma"  # which says what is wrong with the quotes
    if most > 0 and len(found) > 1:
        raise DataError(
            f"{source} can be split at {' or '.join(found)} alike: say which,"
            f' separator="{found[0]}" or separator="{found[1]}".'
        )
    return tables[found[0]], found[0]


def find_width(rows: Sequence[Row]) -> int:
    """Cells in a row of the table among rows of other lengths; 0 without a table.

    It is the length that most cells are in, of rows of two cells and more that hold a number.
    """
    sizes: Counter[int] = Counter()
    for row in rows:
        if len(row.cells) > 1 and row.n_numbers:
            sizes[len(row.cells)] += len(row.cells)
    return max(sizes, key=lambda width: sizes[width]) if sizes else 0


def _split(text: str, sign: str, source: str) -> list[Row]:
    lines = list(enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1))
    kept = [(i, line) for i, line in lines if not line.lstrip().startswith(_COMMENT)]
    if sign == " ":  # and tabs, as many as there are
        kept = [(i, line.strip().replace("\t", " ")) for i, line in kept]
    split = _split_quoted(kept, sign, source)
    rows = [Row(i, [cell.strip() for cell in cells]) for i, cells in split]
    return [row for row in rows if any(row.cells)]


def _split_quoted(
    lines: Sequence[tuple[int, str]], sign: str, source: str
) -> Iterator[tuple[int, list[str]]]:
    """Numbers of lines, and their cells, in which quotes protect the separator."""
    reader = csv.reader(
        (f"{line}\n" for _, line in lines), delimiter=sign, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            yield lines[reader.line_num - 1][0], cells
    except csv.Error as error:
        raise FileFormatError(
            f"{source} should be a table of cells, got text that is none ({error}) near line"
            f" {lines[reader.line_num - 1][0]}: check its quotes."
        ) from error


def _count_numbers(rows: Sequence[Row]) -> int:
    """Numbers in the table, 0 where cells hold several numbers each, as at another separator."""
    width = find_width(rows)
    cells = [cell for row in rows if len(row.cells) == width for cell in row.cells]
    n = sum(map(is_number, cells))
    glued = sum(1 for cell in cells if not is_number(cell) and _GLUED.fullmatch(cell))
    return 0 if glued > _MOST_GLUED * n else n
