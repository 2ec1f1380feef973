"""Labels among named arrays: one matrix of all labels, or one array for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from symspec.errors import DataError, FileFormatError, ShapeError
from symspec.safety.arrays import as_float_array, as_texts
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.names import STARNET_UNITS, find_array
from symspec.spectra.pixels import as_nan

Column = tuple[str, int | None]  # name of an array, and its column if that is a matrix


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """The places of labels among named arrays.

    Attributes
    ----------
    names, units : tuple of str
        One a label, in the order wanted.
    columns : tuple of (str, int or None)
        For each label the array, and its column if that is a matrix.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: tuple[Column, ...]


def find_labels(
    arrays: NamedArrays, wanted: Sequence[str] | None, n_stars: int, is_single: bool, source: str
) -> StoredLabels | None:
    """Find the labels wanted, or all labels of known names.

    Parameters
    ----------
    arrays : NamedArrays
    wanted : sequence of str or None
        Names of labels, in this order; None: all columns of `labels`, else those of StarNet that
        are there.
    n_stars : int
    is_single : bool
        Whether the flux (pixel,) has no axis of stars.
    source : str
        Name of the source, used in errors.

    Returns
    -------
    StoredLabels or None
        None if there are no labels, and none are wanted.

    Raises
    ------
    FileFormatError
        A label wanted is not there.
    ShapeError
        A label has another number of values than there are stars.
    DataError
        A name occurs twice.
    """
    stored = find_array(arrays, ("labels",))
    columns: dict[str, Column] = {}
    units: dict[str, str] = {}
    if stored is not None:
        columns, units = _find_columns(arrays, stored, wanted, is_single)
    if wanted is None:
        wanted = tuple(columns) or tuple(
            name for name in STARNET_UNITS if find_array(arrays, (name.lower(),))
        )
    if not wanted:
        return None
    known = tuple(columns)
    for name in wanted:
        if name not in columns:
            columns[name] = _find_column(arrays, name, known, source)
    _check_lengths(
        {name: _count_values(arrays, columns[name], is_single) for name in wanted}, n_stars
    )
    for name, (array, _) in columns.items():
        units.setdefault(name, arrays.units.get(array, STARNET_UNITS.get(name.upper(), "")))
    return StoredLabels(
        names=tuple(wanted),
        units=tuple(units[name] for name in wanted),
        columns=tuple(columns[name] for name in wanted),
    )


def load_labels(
    arrays: NamedArrays, labels: StoredLabels, rows: slice, is_single: bool
) -> np.ndarray:
    """Labels (star, label) of some stars, NaN where missing."""
    loaded = {
        name: as_float_array(arrays.load(name) if is_single else arrays.load(name, rows), name)
        for name in dict.fromkeys(name for name, _ in labels.columns)
    }
    values = [
        loaded[name].reshape(-1) if column is None else np.atleast_2d(loaded[name])[:, column]
        for name, column in labels.columns
    ]
    stacked = as_nan(np.stack(values, axis=1))
    return stacked[rows] if is_single else stacked


def read_strings(arrays: NamedArrays, name: str) -> tuple[str, ...] | None:
    """Read the strings of one array; None if it is not there."""
    found = find_array(arrays, (name,))
    if found is None:
        return None
    return as_texts(np.atleast_1d(arrays.load(found)).ravel(), found)


def _find_columns(
    arrays: NamedArrays, stored: str, wanted: Sequence[str] | None, is_single: bool
) -> tuple[dict[str, Column], dict[str, str]]:
    """Find the columns of the array of all labels, and their units, by name."""
    shape = arrays.find_shape(stored)
    if len(shape) == 1 and is_single:
        shape = (1, *shape)
    if len(shape) != 2:
        raise ShapeError(f"{stored} should have shape (star, label), got {shape}: store a matrix.")
    names = read_strings(arrays, "label_names")
    if names is None:
        names = tuple(wanted or (f"label_{i}" for i in range(shape[1])))
    units = read_strings(arrays, "label_units") or ("",) * len(names)
    if not len(names) == len(units) == shape[1]:
        raise ShapeError(
            f"label_names and label_units should have one entry for each of the {shape[1]} columns"
            f" of {stored}, got {len(names)} and {len(units)}: store or give as many."
        )
    if len(set(names)) < len(names):
        raise DataError(
            f"label_names should all differ, got {names}: rename those that occur twice."
        )
    columns: dict[str, Column] = {name: (stored, i) for i, name in enumerate(names)}
    return columns, dict(zip(names, units, strict=True))


def _find_column(
    arrays: NamedArrays, name: str, known: tuple[str, ...], source: str
) -> tuple[str, None]:
    found = find_array(arrays, (name.lower(),))
    if found is None:
        held = ", ".join([*known, *arrays.names][:20])
        raise FileFormatError(
            f"{source} should hold the label {name!r}, got only {held}: correct label_names=."
        )
    shape = arrays.find_shape(found)
    if len(shape) > 1 and np.prod(shape) != shape[0]:
        raise ShapeError(f"{found} should have shape (star,), got {shape}: store one value a star.")
    return found, None


def _count_values(arrays: NamedArrays, column: Column, is_single: bool) -> int:
    name, index = column
    shape = arrays.find_shape(name)
    return 1 if not shape or (index is not None and is_single and len(shape) == 1) else shape[0]


def _check_lengths(lengths: dict[str, int], n_stars: int) -> None:
    if len(set(lengths.values())) > 1:
        raise ShapeError(
            f"labels should all have one value a star, got {lengths}: store them for the same"
            " stars."
        )
    if (n := next(iter(lengths.values()))) != n_stars:
        raise ShapeError(
            f"labels should have shape ({n_stars}, {len(lengths)}), got ({n}, {len(lengths)}): "
            "select the same stars in flux and labels."
        )
