"""Arrays of numbers and of texts that callers hand in: what NumPy would guess about is refused.

NumPy drops masks and units without a word. Here a mask with masked values is refused, and a unit is
converted to the one that is known, or refused. This holds for whatever states them: NumPy's and
astropy's masked arrays, quantities, columns of tables, NDData, xarray, dask, and lists of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from symspec.errors import DataError

FEW_NUMBERS = 8192
Unit = str | Sequence[str] | None  # one for all numbers, or one for each column


def as_float_array(
    value: ArrayLike | None,
    name: str,
    *,
    dtype: DTypeLike | None = np.float64,
    unit: Unit = None,
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
    unit : str or sequence of str, optional
        The unit wanted, of all numbers or of each column: that of a quantity is converted to it.
        None or "": it is not known, and a quantity with a unit is refused.

    Returns
    -------
    numpy.ndarray
        The caller's own array when it has that type already: don't write into it.

    Raises
    ------
    DataError
        For rows of unequal lengths, objects, strings, booleans, complex numbers, masked values, a
        unit that is not wanted, or numbers too large for `dtype`.
    """
    value = _take_plain(value, name, unit)
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        ragged = _describe_ragged(value, name)
        raise DataError(
            ragged or f"{name} should be an array of numbers, NumPy says: {error}."
        ) from error
    if dtype is None:
        dtype = raw.dtype if raw.dtype in (np.float32, np.float64) else np.float64
    if raw.dtype == dtype:
        return raw
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


def as_texts(value: Any, name: str) -> tuple[str, ...]:
    """Turn names into strings, none of which is cut or changed; refuse what no file holds.

    Parameters
    ----------
    value : array_like or sequence, shape (n,)
        Strings; bytes are decoded as UTF-8, or else as Latin-1; numbers are written out.
    name : str
        The caller's name for it, used in the error.

    Returns
    -------
    tuple of str

    Raises
    ------
    DataError
        A masked entry, a NUL character, or half of a surrogate pair.
    """
    _refuse_masked(value, name, "''")
    if not isinstance(value, list | tuple):  # NumPy would cut the NUL at the end of their strings
        array = np.asarray(value)
        value = (array if array.dtype.kind in "SUO" else array.astype(str)).tolist()
    texts = tuple(_decode(item) if isinstance(item, bytes) else str(item) for item in value)
    for text in texts:
        if "\0" in text or not _is_encodable(text):
            raise DataError(
                f"{name} should be texts that a file can hold, got {text!r} with a NUL character or"
                " half of a surrogate pair: remove it."
            )
    return texts


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
    if is_surely_finite(array):
        return
    if not (good := np.isfinite(array)).all():
        raise DataError(
            f"{name} should be finite, got {describe_bad(~good, array, axes)}: {advice}."
        )


def is_surely_finite(array: np.ndarray) -> bool:
    """Whether the sum of all numbers is finite, and so all of them are; the sum may overflow.

    It is one pass without a temporary. For few numbers it is that of their squares, which BLAS adds
    up without threads: those would wait for each other.
    """
    if array.size <= FEW_NUMBERS:
        return math.isfinite(np.vdot(array, array))
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.add.reduce(array, axis=None))


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


# --- masks and units


def _take_plain(value: Any, name: str, unit: Unit) -> Any:
    """The same numbers without mask and unit: nothing masked among them, all in `unit`."""
    if value is None or isinstance(value, float | int | str) or type(value) is np.ndarray:
        return value
    if isinstance(value, list | tuple):
        return _take_plain_items(value, name, unit)
    if callable(_find(value, "compute")):  # dask's, and xarray's around it
        value = value.compute()
    stated = _find_unit(value)
    if isinstance(_find(value, "dims"), tuple):  # xarray, around arrays of any kind
        value = value.data
        stated = stated or _find_unit(value)
    _refuse_masked(value, name, "0" if name == "ivar" else "np.nan")
    plain = _strip(value)
    if stated is None or str(stated) in ("", unit):
        return plain
    return _convert(np.asarray(plain), stated, name, unit)


def _take_plain_items(value: Sequence[Any], name: str, unit: Unit) -> Sequence[Any]:
    """Items of a list, each as `_take_plain` has it; units of columns are those of its numbers."""
    if all(isinstance(item, float | int) for item in value):
        return value
    units: Sequence[Unit] = [unit] * len(value)
    is_row = not any(isinstance(item, list | tuple) or _find(item, "ndim") for item in value)
    if is_row and not isinstance(unit, str | None):
        units = unit if len(unit) == len(value) else [None] * len(value)
    return [_take_plain(item, name, one) for item, one in zip(value, units, strict=True)]


def _find(value: Any, name: str) -> Any:
    """An attribute of the kind of object: not a column of a table, which may have any name."""
    return getattr(value, name, None) if hasattr(type(value), name) else None


def _find_unit(value: Any) -> Any:
    """The unit that an object states, by itself or in its attributes; None without."""
    stated = _find(value, "unit")  # of astropy
    if stated is None:
        stated = _find(value, "units")  # of pint
    attributes = _find(value, "attrs")  # of xarray, pandas and h5py
    if stated is None and hasattr(attributes, "get"):
        stated = attributes.get("units", attributes.get("unit"))
    return stated.decode() if isinstance(stated, bytes) else stated


def _strip(value: Any) -> Any:
    """The plain numbers of an object that may have a mask or a unit."""
    for name in ("value", "magnitude"):  # of astropy, of pint
        if _find_unit(value) is not None and _find(value, name) is not None:
            value = getattr(value, name)
    value = getattr(value, "unmasked", value)
    return value.data if _has_own_mask(value) and not isinstance(value, np.ndarray) else value


def _has_own_mask(value: Any) -> bool:
    """Whether an object is of a kind that holds data and a mask, not masked by a method."""
    kind = type(value)
    return hasattr(kind, "data") and hasattr(kind, "mask") and not callable(value.mask)


def _refuse_masked(value: Any, name: str, fill: str) -> None:
    mask = value.mask if _has_own_mask(value) else None
    if mask is None or not (count := np.count_nonzero(mask)):
        return
    number = fill.replace("np.nan", "NaN")
    raise DataError(
        f"{name} should be a plain array, got a masked array with {count} masked values: write "
        f"{number} there, {name}.filled({fill}){', and 0 in ivar' if name == 'flux' else ''}."
    )


def _convert(array: np.ndarray, stated: Any, name: str, unit: Unit) -> np.ndarray:
    """Numbers in the unit `stated`, an object of astropy or its name, in the unit wanted."""
    from astropy import units

    if not isinstance(unit, str | None):
        return _convert_columns(array, stated, name, unit)
    try:
        return units.Unit(stated).to(unit or units.dimensionless_unscaled, array)
    # a foreign string may make the parser raise other errors than ValueError
    except Exception:
        raise DataError(_describe_wrong_unit(stated, name, unit)) from None


def _convert_columns(array: np.ndarray, stated: Any, name: str, unit: Sequence[str]) -> np.ndarray:
    """Convert one unit of all numbers to that of each column."""
    if array.ndim == 0 or array.shape[-1] != len(unit):
        raise DataError(_describe_wrong_unit(stated, name, ", ".join(unit)))
    columns = [
        _convert(array[..., i], stated, name, wanted) if str(stated) != wanted else array[..., i]
        for i, wanted in enumerate(unit)
    ]
    return np.stack(columns, axis=-1)


def _describe_wrong_unit(stated: Any, name: str, unit: str | None) -> str:
    if unit:
        return (
            f"{name} should be in {unit}, or a unit that converts to it, got {stated}: convert it,"
            " or say the right unit."
        )
    return (
        f"{name} should be plain numbers, as nothing says in which unit they are wanted, got some"
        f" in {stated}: convert them to the unit of those that the network is trained on, and give"
        f" their values, {name}.value."
    )


# --- what is no array of numbers


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
