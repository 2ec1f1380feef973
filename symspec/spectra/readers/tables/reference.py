"""Labels in a table of their own, for spectra that come without: joined by the names of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.spectra.names import STARNET_UNITS, name_label_errors
from symspec.spectra.readers.tables.arrays import parse_columns
from symspec.spectra.readers.tables.blocks import Block
from symspec.spectra.readers.tables.cells import find_width, split_text
from symspec.spectra.readers.tables.columns import TableColumns, sort_columns
from symspec.spectra.readers.tables.headers import PixelHeaders
from symspec.spectra.readers.tables.numerals import find_decimal
from symspec.spectra.readers.tables.text import TextOptions, read_text


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """Labels of samples by name.

    Attributes
    ----------
    places : dict of str to int
        The row of each name.
    label_names, label_units : tuple of str
    labels : numpy.ndarray, shape (row, label)
    errors : numpy.ndarray, shape (row, label), or None
        Standard deviations of their errors, NaN where there is no column of them.
    groups : numpy.ndarray of str, shape (row,), or None
    left_out : list of str
        Columns that are none of these.
    """

    places: dict[str, int]
    label_names: tuple[str, ...]
    label_units: tuple[str, ...]
    labels: np.ndarray
    errors: np.ndarray | None
    groups: np.ndarray | None
    left_out: list[str]


def read_reference(path: Path, options: TextOptions) -> Reference:
    """Read a table of one sample a row, with a column of names and columns of labels.

    Raises
    ------
    FileFormatError
        It is no such table.
    DataError
        A name occurs twice, or there is no column of names.
    """
    source = str(path)
    rows, _ = split_text(read_text(path, options.encoding), options.separator, source)
    width = find_width(rows)
    table = [row for row in rows if len(row.cells) == width]
    if len(table) < 2 or table != rows:
        raise FileFormatError(
            f"{source} should be a table of names and labels, with a row of headers and rows as"
            f" long as it, got {len(rows)} rows of which {len(table)} are alike: leave out all"
            " other lines."
        )
    cells = [cell for row in table for cell in row.cells]
    decimal = find_decimal(cells, options.decimal, source)
    block = Block(cells=table[0].cells, rows=table[1:], decimal=decimal)
    columns = sort_columns(block, PixelHeaders(affix="", unit=None), options, source)
    if columns.ids is None or not columns.labels:
        raise DataError(
            f"{source} should have a column of names, such as id or sample, and labels, got"
            f" {', '.join(block.cells[:20])}: name them so."
        )
    names = [block.cells[i] for i in columns.labels]
    return Reference(
        places=_find_places(block, columns.ids, source),
        label_names=tuple(names),
        label_units=tuple(STARNET_UNITS.get(name.upper(), "") for name in names),
        labels=parse_columns(block, columns.labels, source),
        errors=_find_errors(block, columns, names, source),
        groups=None
        if columns.group is None
        else np.array([row.cells[columns.group] for row in block.rows]),
        left_out=columns.left_out,
    )


def _find_places(block: Block, column: int, source: str) -> dict[str, int]:
    names = [row.cells[column] for row in block.rows]
    places = {name: i for i, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{source} should have each sample once, got {twice!r} several times: keep one of its"
            " rows."
        )
    return places


def _find_errors(
    block: Block, columns: TableColumns, names: Sequence[str], source: str
) -> np.ndarray | None:
    """Errors (row, label) by columns such as Fat_ERR; None without any."""
    if not columns.errors:
        return None
    stored = parse_columns(block, columns.errors, source)
    errors = np.full((len(block.rows), len(names)), np.nan)
    for i, name in enumerate(names):
        known = name_label_errors(name)
        for k, column in enumerate(columns.errors):
            if block.cells[column].lower() in known:
                errors[:, i] = stored[:, k]
    return errors
