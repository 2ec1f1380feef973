"""Keras's layers as symspec's: the table BUILDERS has a function for each class.

A new layer takes a function, a line in BUILDERS, and one in VARIABLES if it has arrays. Layers that
join several are in `graphs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from symspec.errors import FileFormatError
from symspec.files.importers.keras.activations import ACTIVATION_LAYERS, build_function
from symspec.files.importers.keras.description import KerasLayer
from symspec.files.importers.keras.normalizations import (
    build_batch_norm,
    build_layer_norm,
    build_normalization,
    build_rescaling,
)
from symspec.files.matching import BUILD, FileArray
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.networks.layers import Dense, Dropout, Layer, PReLU, Shape
from symspec.networks.shaping import Flatten, Permute, Reshape, Slice

Arrays = Sequence[FileArray]
Builder = Callable[[KerasLayer, Shape, Arrays], list[Layer]]

# the arrays of each class that has any, in Keras's order: trained ones, and others
VARIABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Dense": (("kernel", "bias"), ()),
    "Conv1D": (("kernel", "bias"), ()),
    "SeparableConv1D": (("depthwise_kernel", "pointwise_kernel", "bias"), ()),
    "DepthwiseConv1D": (("kernel", "bias"), ()),
    "LocallyConnected1D": (("kernel", "bias"), ()),
    "PReLU": (("alpha",), ()),
    "BatchNormalization": (("gamma", "beta"), ("moving_mean", "moving_variance")),
    "LayerNormalization": (("gamma", "beta"), ()),
    "Normalization": ((), ("mean", "variance", "count")),
}
_OPTION_OF = {"bias": "use_bias", "gamma": "scale", "beta": "center"}

_ADVICE = {
    "Lambda": (
        "Lambda layers hold code, which is never run: replace it by Rescaling or Activation, or"
        " give net= with layers of symspec that do the same"
    ),
}


def build_layers(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    """Build the equivalent of a layer of Keras after training; no layers for an identity.

    Parameters
    ----------
    layer : KerasLayer
        A layer of a class in `BUILDERS`.
    shape : tuple of int
        Shape of one star's input.
    arrays : sequence of FileArray
        Its arrays, named in `VARIABLES`.

    Raises
    ------
    FileFormatError
        symspec's layers lack an option; the message gives advice.
    """
    with layer.refusing():
        return BUILDERS[layer.class_name](layer, shape, arrays)


def arrange_arrays(layer: KerasLayer, arrays: Arrays) -> Arrays:
    """The arrays of a layer in the shapes that symspec's layers have for them.

    A kernel (position, in, multiplier) that convolves each channel by itself becomes that of as
    many groups, (position, 1, in * multiplier).
    """
    if layer.class_name not in ("SeparableConv1D", "DepthwiseConv1D") or not arrays:
        return arrays
    first, *others = arrays
    if len(first.shape) != 3:
        return arrays
    shape = (first.shape[0], 1, first.shape[1] * first.shape[2])
    return [FileArray(first.name, shape, lambda: first.read().reshape(shape)), *others]


def refuse_class(layer: KerasLayer) -> FileFormatError:
    """Make the error about a class of layers that symspec lacks."""
    if ">" in layer.class_name:
        return layer.refusal(
            "is of a class that is not Keras's own, whose code is not in the file and is never run"
        )
    return layer.refusal("is no layer of symspec's", _ADVICE.get(layer.class_name, BUILD))


def count_variables(layer: KerasLayer) -> tuple[int, int]:
    """Count the arrays of a layer that are trained, and the others."""
    if layer.class_name == "Normalization" and layer.config.get("mean") is not None:
        return 0, 0
    trained, fixed = VARIABLES.get(layer.class_name, ((), ()))
    n = sum(layer.flag(_OPTION_OF[name]) if name in _OPTION_OF else True for name in trained)
    return (n, len(fixed)) if layer.flag("trainable") else (0, n + len(fixed))


# --- layers with kernels


def _build_dense(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    return [Dense(layer.count("units"), layer.flag("use_bias")), *build_function(layer)]


def _build_convolution(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    convolution = Conv1D(
        layer.count("filters"),
        layer.count("kernel_size"),
        strides=layer.count("strides", 1),
        padding=layer.config.get("padding", "valid"),
        dilation=layer.count("dilation_rate", 1),
        use_bias=layer.flag("use_bias"),
        data_format=_find_format(layer),
        groups=layer.count("groups", 1),
    )
    return [convolution, *build_function(layer)]


def _build_depthwise(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    convolution = _convolve_channels(layer, shape, use_bias=layer.flag("use_bias"))
    return [convolution, *build_function(layer)]


def _build_separable(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    """Build a convolution of each channel by itself, and one of single positions that mixes."""
    mixing = Conv1D(
        layer.count("filters"),
        1,
        use_bias=layer.flag("use_bias"),
        data_format=_find_format(layer),
    )
    return [_convolve_channels(layer, shape, use_bias=False), mixing, *build_function(layer)]


def _convolve_channels(layer: KerasLayer, shape: Shape, *, use_bias: bool) -> Conv1D:
    """Build a convolution of as many groups as there are channels."""
    data_format = _find_format(layer)
    if len(shape) != 2:
        raise layer.refusal(f"takes an array of shape {shape} a star", "the file is damaged")
    n_channels = shape[-1] if data_format == "channels_last" else shape[0]
    return Conv1D(
        n_channels * layer.count("depth_multiplier", 1),
        layer.count("kernel_size"),
        strides=layer.count("strides", 1),
        padding=layer.config.get("padding", "valid"),
        dilation=layer.count("dilation_rate", 1),
        use_bias=use_bias,
        data_format=data_format,
        groups=n_channels,
    )


def _build_prelu(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    shared = layer.axes("shared_axes", len(shape), None)
    return [PReLU(tuple(1 if axis in shared else n for axis, n in enumerate(shape)))]


def _build_locally_connected(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    implementation = layer.count("implementation", 1)
    padding = layer.config.get("padding", "valid")
    data_format = _find_format(layer)
    if (implementation, padding, data_format) != (1, "valid", "channels_last"):
        raise layer.refusal(
            f"has implementation {implementation}, padding {padding!r} and data_format"
            f" {data_format!r}, which change the layout of its kernels",
            "use 1, 'valid' and 'channels_last'",
        )
    convolution = LocallyConnected1D(
        layer.count("filters"),
        layer.count("kernel_size"),
        layer.count("strides", 1),
        use_bias=layer.flag("use_bias"),
    )
    return [convolution, *build_function(layer)]


def _find_format(layer: KerasLayer) -> Any:
    return layer.config.get("data_format") or "channels_last"


# --- pools and shapes


def _build_pool(kind: Callable[..., Layer]) -> Builder:
    def build(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
        size = layer.count("pool_size", 2)
        strides = size if layer.config.get("strides") is None else layer.count("strides")
        padding = layer.config.get("padding", "valid")
        return [kind(size, strides, padding=padding, data_format=_find_format(layer))]

    return build


def _build_global_average(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    pool = GlobalAveragePool1D(_find_format(layer))
    if layer.config.get("keepdims"):
        return [pool, Reshape(_keep_positions(layer, shape))]
    return [pool]


def _build_global_max(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    n_positions = math.prod(shape) // math.prod(_keep_positions(layer, shape))
    pool = MaxPool1D(n_positions, data_format=_find_format(layer))
    return [pool] if layer.config.get("keepdims") else [pool, Flatten()]


def _keep_positions(layer: KerasLayer, shape: Shape) -> Shape:
    """Shape with one position instead of all."""
    return (1, *shape[1:]) if _find_format(layer) == "channels_last" else (*shape[:-1], 1)


def _build_zeros(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    padding = layer.config.get("padding", 1)
    padding = tuple(padding) if isinstance(padding, list) else padding
    return [ZeroPadding1D(padding, data_format=_find_format(layer))]


def _build_cropping(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    before, after = layer.config.get("cropping", (1, 1))
    return [Slice(before, shape[0] - after)]


def _build_flatten(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    if len(shape) == 1:
        return []
    return [Permute(), Flatten()] if _find_format(layer) == "channels_first" else [Flatten()]


def _build_reshape(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    target = layer.config["target_shape"]
    known = math.prod(n for n in target if n != -1)
    return [Reshape(tuple(math.prod(shape) // known if n == -1 else n for n in target))]


def _build_permute(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    order = list(layer.config["dims"])
    if order == list(range(1, len(shape) + 1)):
        return []
    if order != [2, 1]:
        raise layer.refusal(f"puts axes into the order {order}", "symspec exchanges two axes")
    return [Permute()]


def _without_arrays(build: Callable[[KerasLayer], list[Layer]]) -> Builder:
    return lambda layer, shape, arrays: build(layer)


_IDENTITIES = (  # once trained
    "InputLayer",
    "Identity",
    "ActivityRegularization",
    "SpatialDropout1D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
)
BUILDERS: dict[str, Builder] = {
    "Dense": _build_dense,
    "Conv1D": _build_convolution,
    "SeparableConv1D": _build_separable,
    "DepthwiseConv1D": _build_depthwise,
    "LocallyConnected1D": _build_locally_connected,
    "PReLU": _build_prelu,
    "MaxPooling1D": _build_pool(MaxPool1D),
    "AveragePooling1D": _build_pool(AveragePool1D),
    "GlobalMaxPooling1D": _build_global_max,
    "GlobalAveragePooling1D": _build_global_average,
    "ZeroPadding1D": _build_zeros,
    "Cropping1D": _build_cropping,
    "Flatten": _build_flatten,
    "Reshape": _build_reshape,
    "Permute": _build_permute,
    "BatchNormalization": build_batch_norm,
    "LayerNormalization": build_layer_norm,
    "Normalization": build_normalization,
    "Rescaling": build_rescaling,
    "Dropout": _without_arrays(lambda layer: [Dropout(layer.number("rate"))]),
    **{name: _without_arrays(lambda layer: []) for name in _IDENTITIES},
    **{name: _without_arrays(build) for name, build in ACTIVATION_LAYERS.items()},
}
