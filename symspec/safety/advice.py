"""The words of the errors that `symspec.safety.checks` raises: what came, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def describe_bad(bad: np.ndarray, values: np.ndarray, axes: tuple[str, ...]) -> str:
    """Say how many values are bad and which is the first: ``2 values (first: star 3, pixel 17 is nan)``.

    Parameters
    ----------
    bad : numpy.ndarray of bool
        True at bad values; at least one is.
    values : numpy.ndarray, shape of `bad`
        The values themselves.
    axes : tuple of str
        What each axis counts; only the last `bad.ndim` are used, so that one spectrum may drop the
        star.

    Returns
    -------
    str
        The count, and place and value of the first in C order.
    """
    first = np.unravel_index(np.argmax(bad), bad.shape)
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes[-bad.ndim :], first, strict=True))
    count = np.count_nonzero(bad)
    return f"{count} value{'s' if count > 1 else ''} (first: {place} is {values[first]:.6g})"


def describe_ragged(value: Any, name: str) -> str | None:
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


def describe_wrong_kind(value: Any, raw: np.ndarray, name: str) -> str:
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
    if has_rows and (ragged := describe_ragged(raw, name)):
        return ragged
    kinds = ", ".join(sorted({type(item).__name__ for item in raw.flat[:1000]}))
    return (
        f"{name} should be an array of numbers, got an object array holding {kinds}: replace what"
        f" is no number by NaN, then give np.asarray({name}, dtype=float)."
    )


def describe_blocks(theta: Any) -> str | None:
    """Say what list of arrays came where one flat array was meant; None when it is no such list."""
    is_array = isinstance(theta, np.ndarray) and theta.dtype == object and theta.ndim == 1
    if not (isinstance(theta, list | tuple) or is_array):
        return None
    shapes = [_block_shape(block) for block in theta]
    if not any(shapes):
        return None
    listed = ", ".join(str(shape) for shape in shapes[:6]) + (", ..." if len(shapes) > 6 else "")
    kind = "an object array" if is_array else f"a {type(theta).__name__}"
    return f"{kind} of {len(shapes)} arrays with shapes [{listed}]"


def _block_shape(block: Any) -> tuple[int, ...]:
    if isinstance(shape := getattr(block, "shape", None), tuple):
        return tuple(shape)
    lengths: list[int] = []
    while isinstance(block, list | tuple):
        lengths.append(len(block))
        block = block[0] if block else None
    return tuple(lengths)


def describe_mapping(params: Mapping[Any, Any]) -> str:
    """Name the first blocks of a dict: ``a dict of 4 blocks (dense_0/kernel, dense_0/bias, ...)``."""
    names = ", ".join(str(key) for key in list(params)[:2]) + (", ..." if len(params) > 2 else "")
    return f"a dict of {len(params)} blocks" + (f" ({names})" if names else "")


def advise_pixels(shape: tuple[int, ...], n_pixels: int, name: str) -> str:
    """Say what to do with spectra of `shape` for a network of `n_pixels`."""
    if len(shape) == 0:
        return "give an array with one spectrum a row"
    if len(shape) > 2:
        if int(np.prod(shape)) == shape[0] * n_pixels:
            return f"give one spectrum a row: {name}.reshape({shape[0]}, {n_pixels})"
        if shape[-1] == n_pixels:
            return f"give one spectrum a row: {name}.reshape(-1, {n_pixels})"
        return "give one spectrum a row, as an array of two axes"
    if len(shape) == 2 and shape[0] == n_pixels:
        return f"transpose it: {name}.T"
    got = shape[-1]
    if got == n_pixels + 1:
        return f"trim the last pixel or rebuild the network with n_pixels={got}"
    if got == n_pixels - 1:
        return f"one pixel was cut: give it as well or rebuild the network with n_pixels={got}"
    return (
        f"resample the spectra to the network's {n_pixels} pixels or rebuild the network with"
        f" n_pixels={got}"
    )


def advise_labels(shape: tuple[int, ...], n_stars: int, n_labels: int, name: str) -> str:
    """Say what to do with labels of `shape` where (`n_stars`, `n_labels`) is expected."""
    if shape == (n_stars,) and n_labels == 1:
        return f"give {name}[:, None]"
    if shape == (n_labels,) and n_stars == 1:
        return f"give {name}[None, :]"
    if shape == (n_stars,):
        return f"this is one label where {n_labels} are expected: np.stack them along axis 1"
    if len(shape) != 2:
        return "give an array of two axes"
    if shape == (n_labels, n_stars):
        return f"transpose it: {name}.T"
    if shape[1] == n_labels:
        return (
            f"there are spectra of {n_stars} stars and labels of {shape[0]}: select the same stars"
            " in both"
        )
    return (
        f"the network gives {n_labels} labels: pick their columns, or rebuild it with {shape[1]}"
        " outputs"
    )


def advise_ivar(shape: tuple[int, ...], flux_shape: tuple[int, ...]) -> str:
    """Say what to do with inverse variances of `shape` for flux of `flux_shape`."""
    if len(shape) == 2 and shape[::-1] == flux_shape:
        return "transpose it: ivar.T"
    if len(shape) < 2 and len(flux_shape) == 2 and shape in ((), flux_shape[1:]):
        return "one for every star: np.broadcast_to(ivar, flux.shape)"
    return "give one inverse variance for each pixel of each star"


def advise_theta(shape: tuple[int, ...], n_params: int) -> str:
    """Say what to do with an array of `shape` where (`n_params`,) is expected."""
    if int(np.prod(shape)) == n_params:
        return "give theta.ravel()"
    if len(shape) == 2 and shape[1] == n_params:
        return "these are several draws: give one, theta[i]"
    if len(shape) != 1:
        return "pack the network's weights with net.pack(params)"
    return (
        f"the network has {n_params} parameters and theta {shape[0]}, so it belongs to another"
        " network"
    )
