"""Options that callers choose: words, counts, numbers within a range, sources of randomness."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symspec.errors import OptionError

Padding = str | int | tuple[int, int]  # a word, as many on both sides, or before and after


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Check that an option is one of the words allowed.

    Parameters
    ----------
    value : str
        The caller's word.
    name : str
        The option's name, used in the error.
    choices : sequence of str
        The words allowed.

    Returns
    -------
    str
        `value` itself.

    Raises
    ------
    OptionError
        With the words allowed, and the nearest one if the word looks like a slip.
    """
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(repr(choice) for choice in choices)
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(value.lower(), by_lower, n=1) if isinstance(value, str) else []
    hint = f"did you mean {by_lower[near[0]]!r}?" if near else "choose one of these."
    raise OptionError(f"{name} should be one of {listed}, got {value!r}: {hint}")


def check_count(
    value: Any,
    name: str,
    *,
    least: int = 1,
    most: int | None = None,
    or_none: bool = False,
    advice: str = "",
) -> None:
    """Refuse anything but a whole number within bounds.

    Parameters
    ----------
    value : int
        The caller's number; True and 2.0 are none.
    name : str
        The option's name, used in the error.
    least : int, default 1
        The smallest number allowed.
    most : int, optional
        The largest number allowed.
    or_none : bool, default False
        Whether None is allowed, too.
    advice : str, optional
        Advice for the error, without a full stop.

    Raises
    ------
    OptionError
        When it is no whole number, or out of bounds.
    """
    if (value is None and or_none) or is_count(value, least, most):
        return
    kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
    if most is not None:
        kind = f"an integer from {least} to {most:,}"
    if or_none:
        kind += " or None"
    raise OptionError(f"{name} should be {kind}, got {value!r}{advice and f': {advice}'}.")


def is_count(value: Any, least: int = 1, most: int | None = None) -> bool:
    """Whether a value is a whole number within bounds; True and 2.0 are none."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return bool(least <= value and (most is None or value <= most))


def check_number(value: Any, name: str, rule: str, is_allowed: Callable[[float], bool]) -> None:
    """Refuse anything but a finite number within a range.

    Parameters
    ----------
    value : float
        The caller's number.
    name : str
        The option's name, used in the error.
    rule : str
        The range, such as "positive", used in the error.
    is_allowed : callable
        Whether a finite number is within the range.

    Raises
    ------
    OptionError
        When it is no finite number, or out of the range.
    """
    is_real = isinstance(value, int | float | np.integer | np.floating)
    if is_real and not isinstance(value, bool) and np.isfinite(value) and is_allowed(value):
        return
    raise OptionError(f"{name} should be a number, {rule}, got {value!r}.")


def check_rng(rng: Any) -> np.random.Generator:
    """Check that the source of randomness is a `numpy.random.Generator`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    numpy.random.Generator
        `rng` itself.

    Raises
    ------
    OptionError
        When it is anything else: a seed, None, the module `numpy.random` or an old `RandomState`.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    is_seed = isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0
    seed = int(rng) if is_seed else 0
    got = f"the seed {seed}" if is_seed else repr(rng)
    raise OptionError(
        f"rng should be a numpy.random.Generator, got {got}: write"
        f" rng=np.random.default_rng({seed})."
    )


def check_level(level: float, name: str = "level") -> None:
    """Refuse, under the argument's name, a level of an interval that is not between 0 and 1.

    Raises
    ------
    OptionError
        As it says.
    """
    check_number(level, name, "between 0 and 1", lambda x: 0 < x < 1)


def as_pair(padding: Padding) -> tuple[int, int]:
    """Positions before and after."""
    if isinstance(padding, str):
        return 0, 0  # "valid"
    if isinstance(padding, int | np.integer):
        return padding, padding
    before, after = padding
    return before, after


def check_padding(padding: Padding, words: tuple[str, ...]) -> None:
    """Refuse a padding that is none of these words, one whole number or two.

    Raises
    ------
    OptionError
        With what is expected.
    """
    if isinstance(padding, str):
        if padding not in words:
            raise OptionError(
                f"padding should be one of {words} or whole numbers, got {padding!r}."
            )
        return
    if not isinstance(padding, int | np.integer) and len(padding) != 2:
        raise OptionError(
            f"padding should be one number or two, before and after, got {padding!r}."
        )
    for n in as_pair(padding):
        check_count(n, "padding", least=0)
