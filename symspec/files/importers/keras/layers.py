"""Keras's layers as symspec's: one table, BUILDERS, of what to build for each class.

A new layer takes a function here, a line in BUILDERS, and one in VARIABLES if it has arrays. Layers
that join several are in `keras_graphs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.keras.description import BUILD, KerasLayer, read_inner
from symspec.files.matching import UnreadArray, read_finite
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.networks.layers import (
    Activation,
    Dense,
    Dropout,
    Layer,
    Shape,
    Standardize,
    Unstandardize,
)
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Flatten, Permute, Reshape, Slice

Arrays = Sequence[UnreadArray]
Builder = Callable[[KerasLayer, Shape, Arrays], list[Layer]]
_EPSILON = 1e-7  # the least standard deviation of Normalization
_MOST_SCALED = 2**22  # numbers of a star

# the arrays of each class that has any, in Keras's order: those that are trained, and those that
# are not
VARIABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Dense": (("kernel", "bias"), ()),
    "Conv1D": (("kernel", "bias"), ()),
    "LocallyConnected1D": (("kernel", "bias"), ()),
    "BatchNormalization": (("gamma", "beta"), ("moving_mean", "moving_variance")),
    "LayerNormalization": (("gamma", "beta"), ()),
    "Normalization": ((), ("mean", "variance", "count")),
}
_OPTION_OF = {"bias": "use_bias", "gamma": "scale", "beta": "center"}

# Keras's functions by name, with the options that it means when none are written
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    name: (name, {})
    for name in ("linear", "relu", "selu", "tanh", "sigmoid", "softplus", "gelu", "silu")
} | {
    "elu": ("elu", {"alpha": 1.0}),
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "swish": ("silu", {}),
    "relu6": ("clip", {"minimum": 0.0, "maximum": 6.0}),
}
_ADVICE = {
    "Lambda": (
        "Lambda layers hold code, which is never run: replace it by Rescaling or Activation, or"
        " give net= with layers of symspec that do the same"
    ),
}


def build_layers(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    """Layers of symspec that do what one of Keras does after training; none where that is nothing.

    Parameters
    ----------
    layer : KerasLayer
        Of a class in `BUILDERS`.
    shape : tuple of int
        Of one star's array that it sees.
    arrays : sequence of UnreadArray
        Its own, of `VARIABLES`.

    Raises
    ------
    FileFormatError
        symspec's layers have no such options; the message says what to do.
    """
    with layer.refusing():
        return BUILDERS[layer.class_name](layer, shape, arrays)


def refuse_class(layer: KerasLayer) -> FileFormatError:
    """Error about a class that symspec has no layers for, to be raised."""
    if ">" in layer.class_name:
        return layer.refusal(
            "is of a class that is not Keras's own, whose code is not in the file and is never run"
        )
    return layer.refusal("is no layer of symspec's", _ADVICE.get(layer.class_name, BUILD))


def count_variables(layer: KerasLayer) -> tuple[int, int]:
    """How many arrays a layer has that are trained, and that are not."""
    if layer.class_name == "Normalization" and layer.config.get("mean") is not None:
        return 0, 0
    trained, fixed = VARIABLES.get(layer.class_name, ((), ()))
    n = sum(layer.flag(_OPTION_OF[name]) if name in _OPTION_OF else True for name in trained)
    return (n, len(fixed)) if layer.flag("trainable") else (0, n + len(fixed))


# --- layers with kernels


def _build_dense(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    return [Dense(layer.count("units"), layer.flag("use_bias")), *build_function(layer)]


def _build_convolution(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    if (groups := layer.count("groups", 1)) != 1:
        raise layer.refusal(
            f"has {groups} groups of channels",
            "symspec's convolutions see all channels: use groups=1",
        )
    convolution = Conv1D(
        layer.count("filters"),
        layer.count("kernel_size"),
        strides=layer.count("strides", 1),
        padding=layer.config.get("padding", "valid"),
        dilation=layer.count("dilation_rate", 1),
        use_bias=layer.flag("use_bias"),
        data_format=_find_format(layer),
    )
    return [convolution, *build_function(layer)]


def _build_locally_connected(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    kept = (
        layer.count("implementation", 1),
        layer.config.get("padding", "valid"),
        _find_format(layer),
    )
    if kept != (1, "valid", "channels_last"):
        options = "implementation {}, padding {!r} and data_format {!r}".format(*kept)
        raise layer.refusal(
            f"has {options}, which keep kernels otherwise", "use 1, 'valid' and 'channels_last'"
        )
    sizes = layer.count("filters"), layer.count("kernel_size"), layer.count("strides", 1)
    return [LocallyConnected1D(*sizes, use_bias=layer.flag("use_bias")), *build_function(layer)]


def _find_format(layer: KerasLayer) -> Any:
    return layer.config.get("data_format") or "channels_last"


# --- activations


def build_function(layer: KerasLayer) -> list[Layer]:
    """Activation that a layer names: a word, or a layer of its own."""
    function = layer.config.get("activation") or "linear"
    if isinstance(function, Mapping) and isinstance(function.get("config"), Mapping):
        inner = read_inner(layer, function)
        if inner.class_name in _ACTIVATION_LAYERS:
            return _ACTIVATION_LAYERS[inner.class_name](inner)
        function = inner.class_name
    elif isinstance(function, Mapping):
        function = function.get("config")
    if function not in ACTIVATIONS:
        raise layer.refusal(
            f"has the activation {function!r}", f"symspec has {', '.join(ACTIVATIONS)}"
        )
    name, options = ACTIVATIONS[function]
    return [] if name == "linear" else [Activation(name, dict(options))]


def _build_leaky_relu(layer: KerasLayer) -> list[Layer]:
    slope = layer.number("negative_slope" if "negative_slope" in layer.config else "alpha", 0.3)
    return [Activation("leaky_relu", {"negative_slope": slope})]


def _build_relu(layer: KerasLayer) -> list[Layer]:
    slope = layer.number("negative_slope", 0.0)
    threshold = layer.number("threshold", 0.0)
    has_maximum = layer.config.get("max_value") is not None
    if threshold or (slope and has_maximum):
        raise layer.refusal(
            f"has threshold {threshold} and negative_slope {slope} beside max_value",
            "use one of them",
        )
    if has_maximum:
        return [Activation("clip", {"minimum": 0.0, "maximum": layer.number("max_value")})]
    return [Activation("leaky_relu", {"negative_slope": slope}) if slope else Activation("relu")]


_ACTIVATION_LAYERS: dict[str, Callable[[KerasLayer], list[Layer]]] = {
    "Activation": build_function,
    "ReLU": _build_relu,
    "LeakyReLU": _build_leaky_relu,
    "ELU": lambda layer: [Activation("elu", {"alpha": layer.number("alpha", 1.0)})],
}


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
    return (
        [pool, Reshape(_keep_positions(layer, shape))] if layer.config.get("keepdims") else [pool]
    )


def _build_global_max(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    n_positions = math.prod(shape) // math.prod(_keep_positions(layer, shape))
    pool = MaxPool1D(n_positions, data_format=_find_format(layer))
    return [pool] if layer.config.get("keepdims") else [pool, Flatten()]


def _keep_positions(layer: KerasLayer, shape: Shape) -> Shape:
    """Shape with one position in place of all."""
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


# --- normalizations and scalings


def _build_batch_norm(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    axes = layer.axes("axis", len(shape))
    n_channels = arrays[-1].shape if arrays else (0,)
    if axes not in ([0], [len(shape) - 1]):
        raise layer.refusal(
            f"has the axes {axes} of {shape}", "symspec normalises the first axis or the last one"
        )
    axis = -1 if axes == [len(shape) - 1] else 0
    flags = {"scale": layer.flag("scale"), "center": layer.flag("center"), "axis": axis}
    return [
        BatchNorm(np.zeros(n_channels), np.ones(n_channels), layer.number("epsilon", 1e-3), **flags)
    ]


def _build_layer_norm(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    if layer.config.get("rms_scaling"):
        raise layer.refusal("has rms_scaling, which divides without taking the mean off")
    axes = layer.axes("axis", len(shape))
    rank = len(shape)
    flags = {"scale": layer.flag("scale"), "center": layer.flag("center"), "n_axes": len(axes)}
    norm = LayerNorm(layer.number("epsilon", 1e-3), **flags)
    if axes == list(range(rank - len(axes), rank)):
        return [norm]
    if (axes, rank) == ([0], 2):
        return [Permute(), norm, Permute()]
    raise layer.refusal(f"has the axes {axes} of {shape}", "symspec normalises the last axes")


def _build_normalization(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
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
    return _scale(layer, shape, kind, layer.axes("axis", len(shape)), mean=mean, scale=scale)


def _build_rescaling(layer: KerasLayer, shape: Shape, arrays: Arrays) -> list[Layer]:
    scale = _read_option(layer, "scale")
    offset = _read_option(layer, "offset")
    if (scale <= 0).any():
        raise layer.refusal(
            "should have a positive scale",
            "put the sign into the kernel of the Dense layer beside it",
        )
    return _scale(layer, shape, Unstandardize, [len(shape) - 1], offset=offset, scale=scale)


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
    kind: Callable[..., Layer],
    axes: Sequence[int],
    **numbers: np.ndarray,
) -> list[Layer]:
    """Scaling by numbers that differ along these axes: of the last one, or else of all numbers in a row."""
    of_last = set(axes) <= {len(shape) - 1}
    whole = shape
    lengths = [n if axis in axes else 1 for axis, n in enumerate(shape)]
    if of_last:
        whole = shape[-1:]
        lengths = lengths[-1:]
    if (n := math.prod(whole)) > _MOST_SCALED:
        raise layer.refusal(
            f"scales {n:,} numbers a star, of {_MOST_SCALED:,} at most", "the file is damaged"
        )
    spread = []
    for key, value in numbers.items():
        if value.size not in (1, n := math.prod(lengths)):
            raise layer.refusal(
                f"should have 1 or {n} numbers as {key}, got {value.size}", "the file is damaged"
            )
        value = value.reshape(lengths if value.size == n else [1] * len(whole))
        spread.append(np.broadcast_to(value, whole).ravel())
    scaling = kind(*spread)
    return [scaling] if of_last else [Flatten(), scaling, Reshape(shape)]


def _without_arrays(build: Callable[[KerasLayer], list[Layer]]) -> Builder:
    return lambda layer, shape, arrays: build(layer)


_IDENTITIES = (  # after training
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
    "LocallyConnected1D": _build_locally_connected,
    "MaxPooling1D": _build_pool(MaxPool1D),
    "AveragePooling1D": _build_pool(AveragePool1D),
    "GlobalMaxPooling1D": _build_global_max,
    "GlobalAveragePooling1D": _build_global_average,
    "ZeroPadding1D": _build_zeros,
    "Cropping1D": _build_cropping,
    "Flatten": _build_flatten,
    "Reshape": _build_reshape,
    "Permute": _build_permute,
    "BatchNormalization": _build_batch_norm,
    "LayerNormalization": _build_layer_norm,
    "Normalization": _build_normalization,
    "Rescaling": _build_rescaling,
    "Dropout": _without_arrays(lambda layer: [Dropout(layer.number("rate"))]),
    **{name: _without_arrays(lambda layer: []) for name in _IDENTITIES},
    **{name: _without_arrays(build) for name, build in _ACTIVATION_LAYERS.items()},
}
