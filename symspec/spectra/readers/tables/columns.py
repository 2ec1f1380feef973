"""Which columns of a table are pixels, names, groups, labels and their errors, and which none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from symspec.errors import FileFormatError
from symspec.spectra.names import STARNET_UNITS, is_same_name, name_label_errors
from symspec.spectra.readers.tables.blocks import Block, no_header
from symspec.spectra.readers.tables.headers import (
    DATE_NAMES,
    GROUP_NAMES,
    PixelHeaders,
    describe_perhaps,
    find_id,
    find_pixels,
    simplify,
)
from symspec.spectra.readers.tables.numerals import is_missing, is_number
from symspec.spectra.readers.tables.orientation import BlockOptions


class TableOptions(BlockOptions, Protocol):
    """Options of `symspec.read_spectra` that matter to tables."""

    @property
    def uncertainty(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def wavelength_unit(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """The columns of a table with one spectrum a row.

    Attributes
    ----------
    pixels : PixelHeaders
    labels, errors : list of int
    ids, group : int or None
    left_out : list of str
        Headers of columns that are none of these.
    """

    pixels: PixelHeaders
    labels: list[int]
    errors: list[int]
    ids: int | None
    group: int | None
    left_out: list[str]


def find_columns(block: Block, options: TableOptions, source: str) -> TableColumns:
    """Find out what each column is.

    Raises
    ------
    FileFormatError
        There are no pixels, a column has no header or that of another, or there is none of a name
        asked for.
    DataError
        Columns may be pixels or labels.
    """
    cells = block.cells
    _refuse_underscores(cells, source)
    pixels = find_pixels(cells, options.named.flux, source)
    if pixels is None:
        raise _refuse_pixels(cells, options, source)
    return sort_columns(block, pixels, options, source)


def sort_columns(
    block: Block, pixels: PixelHeaders, options: TableOptions, source: str
) -> TableColumns:
    """Find out what each column is that is none of the pixels.

    Raises
    ------
    FileFormatError
        As `find_columns`.
    """
    cells = block.cells
    free = [i for i in range(len(cells)) if i not in set(pixels.columns)]
    free = [i for i in free if cells[i] or _holds_something(block, i)]
    _check_headers(block, free, source)
    wanted = [_find_wanted(cells, free, name, source) for name in options.label_names or ()]
    group = _find_group(cells, free, options.group, source)
    named = find_id(cells, [i for i in free if i not in wanted and i != group])
    ids = named[0] if named else None
    if ids is None and options.group is not None:
        ids = next(iter(find_id(cells, free)), None)
    taken = {*named, *wanted} | ({group} - {None})
    rest = [i for i in free if i not in taken]
    errors = _find_errors(cells, [*rest, *wanted])
    rest = [i for i in rest if i not in errors]
    is_label = {i: not _is_no_label(block, i) for i in rest}
    labels = wanted if options.label_names is not None else [i for i in rest if is_label[i]]
    unread = [i for i in rest if not is_label[i]] + named[1:]
    return TableColumns(
        pixels=pixels,
        labels=labels,
        errors=[i for i in errors if i not in labels],
        ids=ids,
        group=group,
        left_out=[]
        if options.label_names is not None
        else [cells[i] or f"column {i}" for i in sorted(unread)],
    )


def _refuse_underscores(cells: Sequence[str], source: str) -> None:
    if slips := [cell for cell in cells if re.fullmatch(r"[-+]?\d[\d_.]*", cell) and "_" in cell]:
        raise FileFormatError(
            f"{source}: headers of pixels should be plain numbers, got {slips[0]!r}: leave out the"
            " underscores."
        )


def _refuse_pixels(cells: Sequence[str], options: TableOptions, source: str) -> FileFormatError:
    wanted = options.named.flux
    if wanted is None:
        return no_header(source, cells)
    return FileFormatError(
        f"{source} should have columns of pixels whose headers are numbers with {wanted!r}, got"
        f" {', '.join(cells[:5])[:80]!r}: correct flux={describe_perhaps(cells)}."
    )


def _holds_something(block: Block, column: int) -> bool:
    return any(not is_missing(row.cells[column]) for row in block.rows)


def _check_headers(block: Block, free: Sequence[int], source: str) -> None:
    """Refuse columns that nobody could name, and names that say nothing."""
    cells = block.cells
    unnamed = [i for i in free if not cells[i]]
    if unnamed[1:] or (unnamed and unnamed[0] > 0 and not block.is_turned):
        raise FileFormatError(
            f"{source}: every column should have a header, got none in column {unnamed[-1]}: name"
            " it, or leave it out."
        )
    names = [cells[i] for i in free if cells[i]]
    if len(set(names)) < len(names):
        raise FileFormatError(
            f"{source}: label columns should differ in their headers, got {names}: rename some."
        )


def _find_wanted(cells: Sequence[str], free: Sequence[int], name: str, source: str) -> int:
    found = [i for i in free if cells[i] == name]
    if not found:
        held = ", ".join(cells[i] for i in free if cells[i])
        raise FileFormatError(
            f"{source} should have a column for each label, got none for {name}: it has"
            f" {held or 'no label at all'}; give label_names= out of these."
        )
    return found[0]


def _find_group(
    cells: Sequence[str], free: Sequence[int], wanted: str | None, source: str
) -> int | None:
    """The column that says which rows are of one sample; None without."""
    if wanted is None:
        return next((i for i in free if simplify(cells[i]) in GROUP_NAMES), None)
    found = [i for i in free if is_same_name(cells[i], wanted)]
    if not found:
        held = ", ".join(cells[i] for i in free if cells[i])
        raise FileFormatError(
            f"{source} should have a column {wanted!r}, got {held or 'pixels alone'}: correct"
            " group=."
        )
    return found[0]


def _find_errors(cells: Sequence[str], free: Sequence[int]) -> list[int]:
    """Columns that are the error of another one by their names."""
    names = {error for i in free for error in name_label_errors(cells[i])}
    return [i for i in free if cells[i].lower() in names]


def _is_no_label(block: Block, column: int) -> bool:
    """Whether a column is a date, or holds texts alone, which a label of stars should not."""
    if block.cells[column].upper() in STARNET_UNITS:
        return False
    if simplify(block.cells[column]) in DATE_NAMES:
        return True
    cells = [row.cells[column] for row in block.rows]
    return any(not is_missing(cell) for cell in cells) and not any(map(is_number, cells))
