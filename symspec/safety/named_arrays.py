"""Arrays by name, in memory or in an open file, of which rows are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ALL = slice(None)


@dataclass(frozen=True)
class NamedArrays:
    """Arrays by name, with the star as their first axis.

    Attributes
    ----------
    names : tuple of str
        What lies at the top of the file.
    find_shape : callable
        ``find_shape(name)`` gives the shape of one array, without reading it.
    load : callable
        ``load(name, rows)`` reads the rows (a slice) of one array, ``load(name)`` all. Both
        functions raise a `FileFormatError` when the array cannot be read safely.
    units : mapping of str to str
        Units of arrays, by name, where they are stated.
    mask_bits : tuple of int, optional
        Which bits of a bitmask tell of bad pixels, where the format has a convention; None: any of
        them.
    """

    names: tuple[str, ...]
    find_shape: Callable[[str], tuple[int, ...]]
    load: Callable[..., np.ndarray]
    units: Mapping[str, str] = field(default_factory=dict)
    mask_bits: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StoredArray:
    """One array: its shape, and ``load(rows)``, which reads the rows (a slice) of it."""

    shape: tuple[int, ...]
    load: Callable[[slice], np.ndarray]


def hold_array(array: Any) -> StoredArray:
    """An array in memory as a `StoredArray`; one without axes is loaded whole."""
    array = np.asarray(array)
    return StoredArray(array.shape, lambda rows: array[rows] if array.ndim else array)


def name_arrays(
    stored: Mapping[str, StoredArray],
    *,
    units: Mapping[str, str] | None = None,
    mask_bits: tuple[int, ...] | None = None,
) -> NamedArrays:
    """Join arrays from anywhere; `units` and `mask_bits` as in `NamedArrays`."""
    return NamedArrays(
        tuple(stored),
        lambda name: stored[name].shape,
        lambda name, rows=ALL: stored[name].load(rows),
        units or {},
        mask_bits,
    )
