"""Memory: sizes such as "8GB", chunks of stars, and refusals before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from symspec.errors import OptionError, TooLargeError

STARS_AT_ONCE = 256  # worked on together where no size of memory is given


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `n`; the last may be shorter."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def check_fits(n_bytes: int, what: str) -> None:
    """Refuse an array that is larger than this machine's memory.

    Raises
    ------
    TooLargeError
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > memory:
        raise TooLargeError(
            f"the result for {what} takes {n_bytes / 2**30:.1f} GiB and this machine has"
            f" {memory / 2**30:.1f}: ask for fewer at a time."
        )


def parse_memory(memory: str) -> float:
    """Bytes of a text such as "8GB" or "500MB".

    Raises
    ------
    OptionError
        When it is no such text.
    """
    units = {"kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
    text = str(memory).strip().lower()
    try:
        size = float(text[:-2]) * units[text[-2:]]
    except (KeyError, ValueError):
        size = 0.0
    if not size > 0:
        raise OptionError(f'memory should be a text such as "8GB" or "500MB", got {memory!r}.')
    return size


@dataclass(frozen=True)
class Batches:
    """Stars in batches of `STARS_AT_ONCE`, as `Checkpoint.accumulate` walks them."""

    n_stars: int

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, slice]]:
        for first in range(start, self.n_stars, STARS_AT_ONCE):
            rows = slice(first, min(first + STARS_AT_ONCE, self.n_stars))
            yield rows, rows
