"""Keras's activations, functions named by a layer or layers of their own, as symspec's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from symspec.files.importers.keras.description import KerasLayer, read_inner
from symspec.networks.activations import ACTIVATIONS
from symspec.networks.layers import Activation, Layer

# Keras's functions, with symspec's names and options: all of symspec's but "clip" have the same
# name in Keras; those whose names or default options differ are listed
FUNCTIONS: dict[str, tuple[str, dict[str, float]]] = {
    **{name: (name, {}) for name in ACTIVATIONS if name != "clip"},
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "relu6": ("clip", {"minimum": 0.0, "maximum": 6.0}),
    "swish": ("silu", {}),
}


def build_function(layer: KerasLayer) -> list[Layer]:
    """Build the activation that a layer has as an option: a name, or a layer of its own."""
    function = layer.config.get("activation") or "linear"
    if isinstance(function, Mapping) and isinstance(function.get("config"), Mapping):
        inner = read_inner(layer, function)
        if inner.class_name in ACTIVATION_LAYERS:
            return ACTIVATION_LAYERS[inner.class_name](inner)
        function = inner.class_name
    elif isinstance(function, Mapping):
        function = function.get("config")
    if function not in FUNCTIONS:
        raise layer.refusal(
            f"has the activation {function!r}", f"symspec has {', '.join(FUNCTIONS)}"
        )
    name, options = FUNCTIONS[function]
    return [] if name == "linear" else [Activation(name, dict(options))]


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


def _build_leaky_relu(layer: KerasLayer) -> list[Layer]:
    slope = layer.number("negative_slope" if "negative_slope" in layer.config else "alpha", 0.3)
    return [Activation("leaky_relu", {"negative_slope": slope})]


def _build_elu(layer: KerasLayer) -> list[Layer]:
    return [Activation("elu", {"alpha": layer.number("alpha", 1.0)})]


ACTIVATION_LAYERS: dict[str, Callable[[KerasLayer], list[Layer]]] = {
    "Activation": build_function,
    "ReLU": _build_relu,
    "LeakyReLU": _build_leaky_relu,
    "ELU": _build_elu,
}
