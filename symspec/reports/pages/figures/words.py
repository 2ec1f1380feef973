"""Words and numbers as a page writes them: what its objects are called, and how many digits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from symspec.errors import OptionError
from symspec.reports.pages.figures.parts import Cell, Number
from symspec.reports.tables import format_number

_VOWELS = "aeiou"


@dataclass(frozen=True)
class Words:
    """What the objects are called whose spectra these are: one of them, and many."""

    one: str = "star"
    many: str = "stars"

    @classmethod
    def of(cls, name: str) -> Self:
        """Parse "sample" or, where the plural is another than English makes it, "ox/oxen".

        Raises
        ------
        OptionError
            There is no word, or there are more than two.
        """
        words = [word.strip() for word in name.split("/")]
        if len(words) > 2 or not all(words):
            raise OptionError(
                f"object_name should be a word, or one and its plural as in ox/oxen, got {name!r}."
            )
        return cls(words[0], words[1] if len(words) == 2 else _make_plural(words[0]))

    def adapt(self, text: str) -> str:
        """A text on stars, such as a reason that another room gives, in these words."""
        named = {"star": self.one, "stars": self.many}
        return re.sub(r"\bstars?\b", lambda found: named[found[0]], text)

    def count(self, n: int) -> str:
        """So many of them: "1 star", "785 stars"."""
        return f"{n:,} {self.one if n == 1 else self.many}"


def number(value: float, unit: str = "") -> Number:
    """A number to three digits, with its unit if it has one."""
    text = "-" if np.isnan(value) else format_number(float(value))
    return Number(float(value), f"{text} {unit}".rstrip() if text != "-" else text)


def numbers(values: Iterable[float]) -> list[Cell]:
    """Cells of numbers to three digits."""
    return [number(value) for value in values]


def percent(share: float, digits: int = 0) -> Number:
    """A share of 1 in percent; its value is the share itself."""
    text = "-" if np.isnan(share) else f"{100 * share:.{digits}f} %"
    return Number(float(share), text)


def count(n: int) -> Number:
    """A whole number."""
    return Number(float(n), f"{n:,}")


def _make_plural(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"
