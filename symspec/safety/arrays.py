"""Arrays of numbers that callers hand in: what NumPy would have to guess about is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from symspec.errors import DataError


def as_float_array(
    value: ArrayLike | None, name: str, *, dtype: DTypeLike | None = np.float64
) -> np.ndarray:
    """Turn numbers into a float array; refuse whatever NumPy would have to guess about.

    Parameters
    ----------
    value : array_like
        Integers or floats, of any shape; None is refused in words, as every other object.
    name : str
        The caller's name for it, used in the error.
    dtype : numpy dtype or None, default float64
        The floating-point type wanted; None keeps float32 and float64 as they are.

    Returns
    -------
    numpy.ndarray
        The caller's own array when it has that type already: don't write into it.

    Raises
    ------
    DataError
        For rows of unequal lengths, objects, strings, booleans, complex numbers, a masked array
        with masked entries, or numbers too large for `dtype`.
    """
    if isinstance(value, np.ma.MaskedArray) and (count := np.ma.count_masked(value)):
        raise DataError(
            f"{name} should be a plain array, got a masked array with {count} masked values: write "
            f"NaN there, {name}.filled(np.nan){', and 0 in ivar' if name == 'flux' else ''}."
        )
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        ragged = _describe_ragged(value, name)
        raise DataError(
            ragged or f"{name} should be an array of numbers, NumPy says: {error}."
        ) from error
    if dtype is None:
        dtype = raw.dtype if raw.dtype in (np.float32, np.float64) else np.float64
    if raw.dtype.kind not in "iuf":
        raise DataError(_describe_wrong_kind(value, raw, name))
    with np.errstate(over="ignore", invalid="ignore"):  # damaged files may hold signalling NaN
        array = np.asarray(raw, dtype=dtype)
    if (
        array.dtype.itemsize < raw.dtype.itemsize
        and (bad := np.isinf(array) & np.isfinite(raw)).any()
    ):
        raise DataError(
            f"{name} should fit {array.dtype}, got {np.count_nonzero(bad)} values that are too"
            " large: rescale them or ask for float64."
        )
    return array


def check_finite(array: np.ndarray, name: str, axes: tuple[str, ...], advice: str) -> None:
    """Refuse values that are NaN or infinite.

    Parameters
    ----------
    array : numpy.ndarray
        Floats.
    name : str
        The caller's name for it, used in the error.
    axes : tuple of str
        Names of what the axes count, used in the error.
    advice : str
        Advice for the error, without a full stop.

    Raises
    ------
    DataError
        With the count of such values and the place of the first.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # one pass on all cores, without a temporary; the slow check below decides on overflows
        if array.flags.c_contiguous and np.isfinite(np.vdot(array, array)):
            return
    if not (good := np.isfinite(array)).all():
        raise DataError(
            f"{name} should be finite, got {describe_bad(~good, array, axes)}: {advice}."
        )


def describe_bad(bad: np.ndarray, values: np.ndarray, axes: tuple[str, ...]) -> str:
    """Count bad values and name the first: ``2 values (first: star 3, pixel 17 is nan)``.

    Parameters
    ----------
    bad : numpy.ndarray of bool
        True at bad values; at least one is.
    values : numpy.ndarray, shape of `bad`
        The values themselves.
    axes : tuple of str
        Names of what the axes count; the last `bad.ndim` are used: one spectrum has no star axis.

    Returns
    -------
    str
        The count, and place and value of the first in C order.
    """
    first = np.unravel_index(np.argmax(bad), bad.shape)
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes[-bad.ndim :], first, strict=True))
    count = np.count_nonzero(bad)
    return f"{count} value{'s' if count > 1 else ''} (first: {place} is {values[first]:.6g})"


def _describe_ragged(value: Any, name: str) -> str | None:
    """Say which rows differ in length; None when `value` has no rows."""
    try:
        lengths = [len(row) for row in value]
    except TypeError:
        return None
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if other is None:
        return (
            f"{name} should be an array of numbers, got nested sequences of unequal shapes: give"
            " one array."
        )
    return (
        f"{name} should have rows of one length, got rows of lengths {lengths[0]} and"
        f" {lengths[other]} (row {other} differs from row 0): cut or resample all rows to one"
        " length."
    )


def _describe_wrong_kind(value: Any, raw: np.ndarray, name: str) -> str:
    """Say what came where numbers were expected; `raw` is what NumPy made of `value`."""
    kind = raw.dtype.kind
    if kind == "O":
        return _describe_objects(value, raw, name)
    if kind == "c":
        return (
            f"{name} should be real numbers, got complex ones ({raw.dtype}): give their real part"
            " or modulus."
        )
    if kind == "b":
        return (
            f"{name} should be numbers, got booleans: if 0 and 1 are meant, give"
            f" {name}.astype(float)."
        )
    if kind in "US":
        example = str(raw.flat[0]) if raw.size else ""
        return (
            f"{name} should be numbers, got strings such as {example!r}: convert them to floats"
            " first."
        )
    return f"{name} should be numbers, got an array of {raw.dtype}: give floats."


def _describe_objects(value: Any, raw: np.ndarray, name: str) -> str:
    if raw.ndim == 0:
        kind = "None" if value is None else type(value).__name__
        return f"{name} should be an array of numbers, got {kind}: give a NumPy array of floats."
    has_rows = (
        raw.ndim == 1
        and raw.size
        and all(isinstance(row, np.ndarray | list | tuple) for row in raw)
    )
    if has_rows and (ragged := _describe_ragged(raw, name)):
        return ragged
    kinds = ", ".join(sorted({type(item).__name__ for item in raw.flat[:1000]}))
    return (
        f"{name} should be an array of numbers, got an object array holding {kinds}: replace what"
        f" is no number by NaN, then give np.asarray({name}, dtype=float)."
    )
