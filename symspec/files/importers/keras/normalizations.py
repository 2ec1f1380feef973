"""Keras's normalisations and scalings as symspec's layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from symspec.files.importers.keras.description import KerasLayer
from symspec.files.matching import FileArray, read_finite
from symspec.networks.layers import Layer, Shape, Standardize, Unstandardize
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Flatten, Permute, Reshape

_EPSILON = 1e-7  # the least standard deviation of Normalization
_MOST_SCALED = 2**22  # numbers of a star


def build_batch_norm(layer: KerasLayer, shape: Shape, arrays: Sequence[FileArray]) -> list[Layer]:
    """Build a batch normalisation with moments that are read later."""
    axes = layer.axes("axis", len(shape))
    n_channels = arrays[-1].shape if arrays else (0,)
    if axes not in ([0], [len(shape) - 1]):
        raise layer.refusal(
            f"has the axes {axes} of {shape}", "symspec normalises the first axis or the last one"
        )
    axis = -1 if axes == [len(shape) - 1] else 0
    norm = BatchNorm(
        np.zeros(n_channels),  # placeholders for the moments
        np.ones(n_channels),
        layer.number("epsilon", 1e-3),
        scale=layer.flag("scale"),
        center=layer.flag("center"),
        axis=axis,
    )
    return [norm]


def build_layer_norm(layer: KerasLayer, shape: Shape, arrays: Sequence[FileArray]) -> list[Layer]:
    """Build a normalisation along the last axes."""
    if layer.config.get("rms_scaling"):
        raise layer.refusal("has rms_scaling, which divides without taking the mean off")
    axes = layer.axes("axis", len(shape))
    rank = len(shape)
    norm = LayerNorm(
        layer.number("epsilon", 1e-3),
        scale=layer.flag("scale"),
        center=layer.flag("center"),
        n_axes=len(axes),
    )
    if axes == list(range(rank - len(axes), rank)):
        return [norm]
    if (axes, rank) == ([0], 2):
        return [Permute(), norm, Permute()]
    raise layer.refusal(f"has the axes {axes} of {shape}", "symspec normalises the last axes")


def build_normalization(
    layer: KerasLayer, shape: Shape, arrays: Sequence[FileArray]
) -> list[Layer]:
    """Build the standardisation by stored moments, or its inverse."""
    if layer.config.get("mean") is not None:
        mean, variance = (_read_option(layer, key) for key in ("mean", "variance"))
    elif len(arrays) < 2:
        raise layer.refusal(
            "should have the arrays mean and variance, got fewer", "the file is damaged"
        )
    else:
        mean, variance = (read_finite(layer.path, array) for array in arrays[:2])
    if (variance < 0).any():
        raise layer.refusal(
            "should have variances of at least 0, got negative ones", "the file is damaged"
        )
    scale = np.maximum(np.sqrt(variance), _EPSILON)
    kind = Unstandardize if layer.config.get("invert") else Standardize
    axes = layer.axes("axis", len(shape))
    return _scale(layer, shape, kind, axes, {"mean": mean, "scale": scale})


def build_rescaling(layer: KerasLayer, shape: Shape, arrays: Sequence[FileArray]) -> list[Layer]:
    """Build x scale + offset."""
    scale = _read_option(layer, "scale")
    offset = _read_option(layer, "offset")
    if (scale <= 0).any():
        raise layer.refusal(
            "should have a positive scale",
            "put the sign into the kernel of the Dense layer beside it",
        )
    last = [len(shape) - 1]
    return _scale(layer, shape, Unstandardize, last, {"offset": offset, "scale": scale})


def _read_option(layer: KerasLayer, key: str) -> np.ndarray:
    try:
        return np.asarray(layer.config[key], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise layer.refusal(
            f"should have numbers as {key}, got {layer.config.get(key)!r}"
        ) from error


def _scale(
    layer: KerasLayer,
    shape: Shape,
    kind: type[Standardize | Unstandardize],
    axes: Sequence[int],
    numbers: Mapping[str, np.ndarray],
) -> list[Layer]:
    """Scale by numbers that differ along these axes.

    Parameters
    ----------
    layer : KerasLayer
    shape : tuple of int
        Shape of one star's array.
    kind : {Standardize, Unstandardize}
    axes : sequence of int
        If other than the last one, the array is flattened and unflattened.
    numbers : mapping of str to numpy.ndarray
        Mean and scale by the names that Keras has for them.
    """
    of_last = set(axes) <= {len(shape) - 1}
    whole = shape[-1:] if of_last else shape
    lengths = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    lengths = lengths[-1:] if of_last else lengths
    if math.prod(whole) > _MOST_SCALED:
        raise layer.refusal(
            f"scales {math.prod(whole):,} numbers a star, of {_MOST_SCALED:,} at most",
            "the file is damaged",
        )
    n = math.prod(lengths)
    spread = []
    for key, value in numbers.items():
        if value.size not in (1, n):
            raise layer.refusal(
                f"should have 1 or {n} numbers as {key}, got {value.size}", "the file is damaged"
            )
        value = value.reshape(lengths if value.size == n else [1] * len(whole))
        spread.append(np.broadcast_to(value, whole).ravel())
    mean, scale = spread
    scaling = kind(mean, scale)
    return [scaling] if of_last else [Flatten(), scaling, Reshape(shape)]
