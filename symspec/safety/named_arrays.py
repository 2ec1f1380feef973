"""Arrays by name, in memory or in an open file, whose rows are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

ALL = slice(None)


class LoadRows(Protocol):
    """Read the rows (a slice) of the array of this name."""

    def __call__(self, name: str, rows: slice = ALL) -> np.ndarray: ...


@dataclass(frozen=True)
class NamedArrays:
    """Arrays by name, with the star as their first axis.

    Attributes
    ----------
    names : tuple of str
    find_shape : callable
        ``find_shape(name)`` is the shape of an array, found without reading it.
    load : callable
        ``load(name, rows)`` reads the rows (a slice) of an array, ``load(name)`` all of it. Both
        functions raise a `FileFormatError` if that is not safe.
    units : mapping of str to str
        Units of arrays by name, where they are stated.
    mask_bits : tuple of int, optional
        Bits of a bitmask that mark bad pixels by the convention of the format; None: any bit.
    """

    names: tuple[str, ...]
    find_shape: Callable[[str], tuple[int, ...]]
    load: LoadRows
    units: Mapping[str, str] = field(default_factory=dict)
    mask_bits: tuple[int, ...] | None = None


@dataclass(frozen=True)
class LazyArray:
    """One array: its shape, and ``load(rows)``, which reads the rows (a slice) of it."""

    shape: tuple[int, ...]
    load: Callable[[slice], np.ndarray]


def hold_array(values: ArrayLike) -> LazyArray:
    """Wrap an array in memory; one without axes is loaded whole."""
    array = np.asarray(values)
    return LazyArray(array.shape, lambda rows: array[rows] if array.ndim else array)


def name_arrays(
    arrays: Mapping[str, LazyArray],
    *,
    units: Mapping[str, str] | None = None,
    mask_bits: tuple[int, ...] | None = None,
) -> NamedArrays:
    """Join arrays from anywhere; `units` and `mask_bits` as in `NamedArrays`."""

    def find_shape(name: str) -> tuple[int, ...]:
        return arrays[name].shape

    def load(name: str, rows: slice = ALL) -> np.ndarray:
        return arrays[name].load(rows)

    return NamedArrays(tuple(arrays), find_shape, load, units or {}, mask_bits)
