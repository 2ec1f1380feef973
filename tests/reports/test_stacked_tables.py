"""Tables on narrow screens: every number stays whole, every row says what it is."""

import io

import pytest
from rich.console import Console

from symspec.reports.tables import new_table

NUMBERS = [["4981 ± 92", "12,345.6", "0.123", "98 %"], ["-0.07 ± 0.31", "7", "1e-12", "100 %"]]
HEADS = ["value of it", "count", "ratio to all", "share"]


def show(width, names=("TEFF", "LOGG")):
    table = new_table("What it is", ["label", "text", *HEADS], left=2)
    table.caption = "below all"
    for name, numbers in zip(names, NUMBERS, strict=True):
        table.add_row(name, "words of several letters", *numbers)
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80])
def test_numbers_stay_whole_and_lines_within_the_width(width):
    said = show(width)
    lines = said.splitlines()
    for number in NUMBERS[0] + NUMBERS[1]:
        assert sum(number in line for line in lines) >= 1, number
    assert max(map(len, lines)) <= width


def test_columns_below_repeat_what_a_row_is_and_the_words_stand_once():
    said = show(34)
    n_tables = said.count("LOGG")
    assert n_tables > 1
    assert said.count("TEFF") == n_tables
    assert said.count("What it is") == said.count("below all") == 1
    assert said.index("What it is") < said.index("TEFF")
    assert said.rindex("LOGG") < said.index("below all")
    assert [head for head in ("count", "share") if said.count(head) != 1] == []


def test_what_fits_is_one_table():
    assert show(100).count("TEFF") == 1


def test_a_long_name_is_broken_before_a_number():
    said = show(40, names=("TEFF", "a" * 60))
    assert "-0.07 ± 0.31" in said
    assert said.replace("\n", "").count("a") >= 60
