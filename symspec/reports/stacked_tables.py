"""Tables that break no number: columns for which a line has no room stand in a table below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

BESIDE = 3  # blanks beside a column
AT_ENDS = 1  # and at the ends of a line
LONGEST_WORD = 26  # of a text, longer ones are broken
SHORT = 12  # texts of so many characters stay whole


class _Width(NamedTuple):
    """Characters of a column: the least that breaks no number and no word, and all of its text."""

    least: int
    most: int
    is_text: bool


class StackedTable(Table):
    """A table whose first columns say what a row is, and are repeated in each table below.

    Numbers, which are those of columns justified to the right, stay on their line; texts are broken
    between words.

    Parameters
    ----------
    title : str
        With rich's markup.
    n_keys : int
        Number of the first columns.
    """

    def __init__(self, title: str, n_keys: int) -> None:
        super().__init__(
            title=title, title_justify="left", title_style="bold",
            caption_justify="left", header_style="bold", box=box.SIMPLE_HEAD,
        )  # fmt: skip
        self.n_keys = n_keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [_find_width(column) for column in self.columns]
        if _join([width.most for width in widths]) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        yield Text.from_markup(str(self.title), style="bold")
        for piece in _divide([width.least for width in widths], self.n_keys, options.max_width):
            yield self._pick(piece, _spread([widths[i] for i in piece], options.max_width))
        if self.caption:
            yield Text.from_markup(str(self.caption), style="table.caption")

    def _pick(self, piece: Sequence[int], widths: Sequence[int]) -> Table:
        """Some of the columns, in these widths."""
        table = Table(header_style="bold", box=self.box)
        for i, width in zip(piece, widths, strict=True):
            column = self.columns[i]
            table.add_column(column.header, justify=column.justify, overflow="fold", width=width)
        cells = [list(self.columns[i].cells) for i in piece]
        for row, values in zip(self.rows, zip(*cells, strict=True), strict=True):
            table.add_row(*values, style=row.style, end_section=row.end_section)
        return table


def _find_width(column: Column) -> _Width:
    head, *cells = (Text.from_markup(str(text)) for text in (column.header, *column.cells))
    whole = max((text.cell_len for text in cells), default=0)
    most = max(whole, head.cell_len)
    if column.justify == "right":
        return _Width(max(whole, _find_least(head)), most, is_text=False)
    least = max(map(_find_least, (head, *cells)))
    return _Width(min(least, LONGEST_WORD), most, is_text=True)


def _find_least(text: Text) -> int:
    """Characters of the longest word, or of a short text as a whole."""
    words = [len(word) for word in text.plain.split()]
    return text.cell_len if text.cell_len <= SHORT else max(words)


def _join(widths: Sequence[int]) -> int:
    """Characters of a line of these columns."""
    return sum(widths) + BESIDE * len(widths) + AT_ENDS


def _divide(least: Sequence[int], n_keys: int, available: int) -> list[list[int]]:
    """Columns of each table: the keys, and as many others as there is room for, at least one."""
    keys = list(range(n_keys))
    pieces = [keys]
    for i in range(n_keys, len(least)):
        wider = [*pieces[-1], i]
        if pieces[-1] != keys and _join([least[k] for k in wider]) > available:
            wider = [*keys, i]
            pieces.append(wider)
        pieces[-1] = wider
    return pieces


def _spread(widths: Sequence[_Width], available: int) -> list[int]:
    """Widths of columns: the least, and what is left, for those first that want least.

    If even the least is too much, words are broken before numbers are.
    """
    given = [width.least for width in widths]
    texts = [i for i, width in enumerate(widths) if width.is_text]
    while _join(given) > available and any(given[i] > 1 for i in texts):
        given[max(texts, key=lambda i: given[i])] -= 1
    left = max(available - _join(given), 0)
    for i in sorted(range(len(given)), key=lambda i: widths[i].most - widths[i].least):
        more = min(left, widths[i].most - given[i])
        given[i] += more
        left -= more
    return given
