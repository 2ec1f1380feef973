"""Labels among named arrays, and their errors: one matrix of all labels, or one array for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from symspec.errors import DataError, FileFormatError, ShapeError
from symspec.safety.arrays import as_float_array, as_texts
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.names import STARNET_UNITS, find_array, name_label_errors
from symspec.spectra.pixels import as_nan
from symspec.spectra.wavelengths import find_label_factor

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
    errors : tuple of (str, int or None) or None
        The same for standard deviations of the labels' errors; empty where no label has any.
    covariance : str
        Name of an array of their covariances, over all columns of the matrix of labels, or "".
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: tuple[Column, ...]
    errors: tuple[Column | None, ...] = ()
    covariance: str = ""

    @property
    def arrays(self) -> set[str]:
        """Names of all arrays."""
        errors = [column for column in self.errors if column is not None]
        return {name for name, _ in (*self.columns, *errors)} | {self.covariance} - {""}


def find_labels(
    arrays: NamedArrays,
    wanted: Sequence[str] | None,
    n_stars: int,
    is_single: bool,
    source: str,
    errors: str = "auto",
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
    errors : {"auto", "none"}
        Whether errors of the labels are looked for, too.

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
        A name occurs twice, or a label has two arrays of errors.
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
    found = StoredLabels(
        names=tuple(wanted),
        units=tuple(units[name] for name in wanted),
        columns=tuple(columns[name] for name in wanted),
    )
    return found if errors == "none" else _find_errors(arrays, found, source)


def _find_errors(arrays: NamedArrays, labels: StoredLabels, source: str) -> StoredLabels:
    """The same labels with the places of their errors."""
    of_all = find_array(arrays, ("label_errors",))
    pairs = find_array(arrays, ("label_covariance",))
    found: list[Column | None] = []
    for name, (_, column) in zip(labels.names, labels.columns, strict=True):
        taken = name_label_errors(name)
        places: list[Column] = [(a, None) for a in arrays.names if a.lower() in taken]
        if column is not None:
            places += [(a, column) for a in (of_all, pairs) if a is not None]
        if len(places) > 1:
            held = ", ".join(a for a, _ in places)
            raise DataError(
                f"{source} should hold the errors of {name} once, got {held}: keep one of them, or"
                ' read with label_errors="none".'
            )
        found += places or [None]
    if not any(found):
        return labels
    if all(place is not None and place[0] == pairs for place in found):
        return replace(labels, covariance=pairs or "")
    return replace(labels, errors=tuple(found))


def load_label_errors(
    arrays: NamedArrays, labels: StoredLabels, rows: slice, is_single: bool
) -> dict[str, np.ndarray]:
    """Errors of the labels of some stars, as `Spectra` take them; empty without any."""
    if labels.covariance:
        columns = np.array([column for _, column in labels.columns], dtype=int)
        E = as_float_array(arrays.load(labels.covariance), labels.covariance)
        E = (E[None] if is_single and E.ndim == 2 else E)[rows]
        return {"label_covariance": as_nan(E)[:, columns][:, :, columns]}
    if not labels.errors:
        return {}
    n_rows = len(load_labels(arrays, labels, rows, is_single))
    values = np.full((n_rows, len(labels.names)), np.nan)
    for i, place in enumerate(labels.errors):
        if place is not None:
            one = StoredLabels(names=labels.names[i : i + 1], units=("",), columns=(place,))
            unit = arrays.units.get(place[0], "")
            factor = find_label_factor(unit, labels.units[i], place[0]) if unit else 1.0
            values[:, i] = factor * load_labels(arrays, one, rows, is_single)[:, 0]
    return {"label_errors": values}


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
