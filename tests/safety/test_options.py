"""Counts, numbers and words: what is allowed passes, everything else is refused in words."""

import re

import numpy as np
import pytest

from symspec.errors import OptionError
from symspec.safety.options import check_choice, check_count, check_number, check_rng, is_count


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (1, {}),
        (np.int64(7), {}),
        (0, {"least": 0}),
        (5, {"least": 2, "most": 5}),
        (None, {"or_none": True}),
    ],
)
def test_whole_numbers_within_bounds_pass(value, bounds):
    check_count(value, "epochs", **bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (0, {}, "epochs should be a positive integer, got 0."),
        (2.0, {}, "epochs should be a positive integer, got 2.0."),
        (True, {}, "epochs should be a positive integer, got True."),
        ("3", {}, "epochs should be a positive integer, got '3'."),
        (None, {}, "epochs should be a positive integer, got None."),
        (1, {"least": 2}, "epochs should be an integer of at least 2, got 1."),
        (-1, {"or_none": True}, "epochs should be a positive integer or None, got -1."),
        (6, {"most": 5_000, "least": 7}, "epochs should be an integer from 7 to 5,000, got 6."),
        (9, {"most": 8}, "epochs should be an integer from 1 to 8, got 9."),
        (1, {"least": 2, "advice": "give 4"}, "an integer of at least 2, got 1: give 4."),
    ],
)
def test_anything_else_is_refused_with_bounds_and_advice(value, bounds, words):
    with pytest.raises(OptionError, match=re.escape(words)):
        check_count(value, "epochs", **bounds)


def test_a_count_is_a_whole_number_within_bounds():
    assert is_count(np.uint8(3), 1, 3)
    assert not any(is_count(value, 1, 3) for value in (0, 4, True, 2.0, None, "2"))


@pytest.mark.parametrize("value", [0.0, -1, np.nan, np.inf, True, "fast", None])
def test_a_number_out_of_its_range_is_refused(value):
    words = f"rate should be a number, positive, got {value!r}."
    with pytest.raises(OptionError, match=re.escape(words)):
        check_number(value, "rate", "positive", lambda x: x > 0)
    check_number(np.float32(0.1), "rate", "positive", lambda x: x > 0)


def test_a_slip_in_a_word_is_answered_with_the_nearest_one():
    assert check_choice("primal", "structure", ("primal", "dual")) == "primal"
    with pytest.raises(OptionError, match="got 'Primal': did you mean 'primal'"):
        check_choice("Primal", "structure", ("primal", "dual"))
    with pytest.raises(OptionError, match="should be one of 'primal', 'dual', got 3: choose one"):
        check_choice(3, "structure", ("primal", "dual"))


@pytest.mark.parametrize(
    ("rng", "words"),
    [
        (3, "got the seed 3: write rng=np.random.default_rng(3)"),
        (None, "got None: write rng=np.random.default_rng(0)"),
        (np.random, "write rng=np.random.default_rng(0)"),
    ],
)
def test_a_seed_is_no_generator(rng, words):
    with pytest.raises(OptionError, match=re.escape(words)):
        check_rng(rng)
