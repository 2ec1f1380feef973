"""The parameters of a network, one flat array: checked, and drawn to start a training from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import DTypeLike

from symspec.errors import ShapeError
from symspec.networks.params import ParamLayout
from symspec.safety.arrays import as_float_array, check_finite
from symspec.safety.options import check_choice

# Keras's initialisers: (mode of the fan, gain, distribution)
INITIALIZERS = {
    "he_normal": ("in", 2.0, "truncated_normal"),
    "he_uniform": ("in", 2.0, "uniform"),
    "glorot_normal": ("mean", 1.0, "truncated_normal"),
    "glorot_uniform": ("mean", 1.0, "uniform"),
    "lecun_normal": ("in", 1.0, "truncated_normal"),
    "lecun_uniform": ("in", 1.0, "uniform"),
}
TRUNCATED_NORMAL_STD = 0.87962566103423978  # of a unit normal cut at +-2, as Keras divides it out


def check_theta(theta: Any, n_params: int, *, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Check a network's parameters, one flat array.

    Parameters
    ----------
    theta : array_like, shape (param,)
        Every weight of the network, in the order of `Network.pack`.
    n_params : int
        The number expected.
    dtype : numpy dtype, default float64
        The floating-point type wanted.

    Returns
    -------
    numpy.ndarray, shape (param,)
        Parameters in `dtype`; the caller's own array when it is of that type already.

    Raises
    ------
    ShapeError
        When it is a list or dict of blocks, or has another shape.
    DataError
        When a value is not finite.
    """
    expected = f"theta should be one flat array of shape ({n_params},)"
    if type(theta) is not np.ndarray or theta.dtype == object:
        _refuse_blocks(theta, expected)
    theta = as_float_array(theta, "theta", dtype=dtype)
    if theta.shape != (n_params,):
        raise ShapeError(f"{expected}, got {theta.shape}: {_advise_theta(theta.shape, n_params)}.")
    check_finite(
        theta,
        "theta",
        ("entry",),
        "its training diverged or its file is damaged, so train it again",
    )
    return theta


def as_theta(theta: Any, n_params: int, *, symbolic: bool = True) -> Any:
    """One flat vector (param,), symbolic or numbers, checked."""
    if isinstance(theta, list | tuple | Mapping):
        shapes = [np.shape(a) for a in (theta.values() if isinstance(theta, Mapping) else theta)]
        raise ShapeError(
            f"theta should be one flat vector of {n_params} parameters, got {len(shapes)} arrays of"
            f' shapes {shapes}: pack them with net.pack({{"dense_0/kernel": W0, "dense_0/bias": b0,'
            " ...})."
        )
    theta = pt.as_tensor_variable(theta) if symbolic else np.asarray(theta)
    length = (
        theta.type.shape[0]
        if symbolic and theta.ndim == 1
        else theta.shape[0]
        if theta.ndim
        else None
    )
    if theta.ndim != 1 or (length is not None and length != n_params):
        got = f"{theta.ndim} axes" if theta.ndim != 1 else f"{length}"
        raise ShapeError(f"theta should be one flat vector of {n_params} parameters, got {got}.")
    return theta


def _refuse_blocks(theta: Any, expected: str) -> None:
    if isinstance(theta, Mapping):
        raise ShapeError(
            f"{expected}, got {_describe_mapping(theta)}: pack them with net.pack(params)."
        )
    if (blocks := _describe_blocks(theta)) is not None:
        advice = 'net.pack({"dense_0/kernel": W0, "dense_0/bias": b0, ...})'
        raise ShapeError(f"{expected}, got {blocks}: pack them with {advice}.")


def _describe_blocks(theta: Any) -> str | None:
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


def _describe_mapping(params: Mapping[Any, Any]) -> str:
    """Name the first blocks: ``a dict of 4 blocks (dense_0/kernel, dense_0/bias, ...)``."""
    names = ", ".join(str(key) for key in list(params)[:2]) + (", ..." if len(params) > 2 else "")
    return f"a dict of {len(params)} blocks" + (f" ({names})" if names else "")


def _advise_theta(shape: tuple[int, ...], n_params: int) -> str:
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


def draw_weights(
    layout: ParamLayout, fans: Mapping[str, tuple[int, int]], rng: np.random.Generator, init: str
) -> np.ndarray:
    """Draw `theta` (param,), see `Network.init_params`; `fans` are in and out of each kernel."""
    fan_mode, gain, shape = INITIALIZERS[check_choice(init, "init", tuple(INITIALIZERS))]
    theta = np.zeros(layout.n_params)
    for block in layout.blocks:
        if block.name.endswith("/gamma"):
            theta[block.slice] = 1
        elif block.name in fans:
            fan_in, fan_out = fans[block.name]
            std = np.sqrt(gain / (fan_in if fan_mode == "in" else (fan_in + fan_out) / 2))
            theta[block.slice] = std * _draw_unit(rng, block.size, shape)
    return theta


def _draw_unit(rng: np.random.Generator, size: int, shape: str) -> np.ndarray:
    """Numbers of zero mean and unit variance."""
    if shape == "uniform":
        return rng.uniform(-np.sqrt(3), np.sqrt(3), size)
    draws = rng.normal(size=size)
    while (outside := np.abs(draws) > 2).any():
        draws[outside] = rng.normal(size=int(outside.sum()))
    return draws / TRUNCATED_NORMAL_STD
