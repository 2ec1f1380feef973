"""Keras's description of a model (JSON) as layers of symspec; nothing that it names is imported or run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.importers.matching import StoredArray, read_finite
from symspec.layers import Activation, Dense, Dropout, Layer, Standardize, Unstandardize

MODELS = ("Sequential", "Functional", "Model")
LARGEST = 2**24  # features of one layer
_EPSILON = 1e-7  # the least standard deviation of Normalization

# Keras's functions by name, with the options that it means when none are written
ACTIVATIONS: dict[str, tuple[str, dict[str, float]]] = {
    name: (name, {}) for name in ("linear", "relu", "selu", "tanh", "sigmoid", "softplus", "gelu", "silu")
} | {
    "elu": ("elu", {"alpha": 1.0}),
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "swish": ("silu", {}),
    "relu6": ("clip", {"minimum": 0.0, "maximum": 6.0}),
}
_GENERAL = "symspec has Dense, activations, Dropout, Normalization and Rescaling, so import another model"
_ADVICE = {
    "Lambda": "Lambda layers hold code, which is never run: replace it by Rescaling or Activation, or give net= with "
    "layers of symspec that do the same",
    "BatchNormalization": "fold it into the Dense layer before it, kernel * s and (bias - mean) * s + beta with "
    "s = gamma / sqrt(variance + epsilon), and save the model without it",
    **dict.fromkeys(MODELS, "add the inner model's layers to the outer model one by one and save it again"),
    **dict.fromkeys(
        ("GaussianNoise", "GaussianDropout", "AlphaDropout"), "it acts in training only, so save the model without it"
    ),
}


@dataclass(frozen=True)
class KerasLayer:
    """One layer as Keras describes it."""

    path: str | os.PathLike[str]
    class_name: str
    name: str
    config: Mapping[str, Any]
    inbound: Any = None

    def refusal(self, what: str, advice: str = _GENERAL) -> FileFormatError:
        """Error about this layer, to be raised."""
        return FileFormatError(f"{self.path}: layer {self.name!r} ({self.class_name}) {what[:500]}: {advice}.")

    def number(self, key: str, default: float | None = None) -> float:
        """One number of the description."""
        value = self.config.get(key, default)
        if isinstance(value, Mapping):  # as NumPy's numbers were once written
            value = value.get("value", value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refusal(f"should have a number as {key}, got {value!r}")
        return float(value)

    def numbers(self, key: str, n: int) -> np.ndarray:
        """One number for each of `n` features, of a number or a list of as many."""
        try:
            value = np.asarray(self.config[key], np.float64).ravel()
        except (KeyError, TypeError, ValueError) as error:
            raise self.refusal(f"should have numbers as {key}, got {self.config.get(key)!r}") from error
        return self.spread(value, key, n)

    def spread(self, value: np.ndarray, key: str, n: int) -> np.ndarray:
        """One number for each of `n` features."""
        if value.size not in (1, n):
            raise self.refusal(f"should have 1 or {n} numbers as {key}, got {value.size}")
        return np.broadcast_to(value.ravel(), (n,))


def read_layers(path: str | os.PathLike[str], model: Any) -> list[KerasLayer]:
    """Take the list of layers out of a model's description, in its order."""
    class_name = model.get("class_name") if isinstance(model, Mapping) else None
    if class_name not in MODELS:
        raise FileFormatError(
            f"{path} should be a model of type {', '.join(MODELS)}, got {class_name!r}: a model written as a class "
            "has its layers in code, which is not in the file; give net= with the layers that it has."
        )
    config = model["config"]
    listed = config if isinstance(config, list) else config["layers"]
    return [_read_layer(path, entry) for entry in listed]


def _read_layer(path: str | os.PathLike[str], entry: Mapping[str, Any]) -> KerasLayer:
    config = entry["config"]
    layer = KerasLayer(
        path,
        str(entry["class_name"]),
        str(config.get("name", entry.get("name"))),
        config,
        entry.get("inbound_nodes"),
    )
    module = entry.get("module") or "keras"
    registered = entry.get("registered_name") or layer.class_name
    if str(module).partition(".")[0] not in ("keras", "tf_keras", "tensorflow") or registered != layer.class_name:
        raise layer.refusal(f"is a class of {module} ({registered}), whose code is not in the file")
    return layer


def order_chain(path: str | os.PathLike[str], model: Mapping[str, Any], layers: Sequence[KerasLayer]) -> list:
    """Layers from input to output; refuses branches, layers used twice and further inputs or outputs."""
    if model["class_name"] == "Sequential":
        return list(layers)
    sources = {layer.name: _find_sources(layer) for layer in layers}
    by_name = {layer.name: layer for layer in layers}
    after = {}
    for name, source in sources.items():
        if source is not None and after.setdefault(source, name) != name:
            raise by_name[name].refusal(
                f"shares its input with {after[source]!r}, a branch", "symspec's networks are chains of layers"
            )
    starts = [name for name, source in sources.items() if source is None]
    if len(starts) != 1:
        raise FileFormatError(f"{path} should have one input, got {len(starts)} ({', '.join(starts[:8])}).")
    chain = [by_name[starts[0]]]
    while chain[-1].name in after:
        chain.append(by_name[after[chain[-1].name]])
        if len(chain) > len(layers):
            break
    outputs = _find_tensors(model["config"].get("output_layers"))
    if len(chain) != len(layers) or outputs != [chain[-1].name]:
        raise FileFormatError(
            f"{path} should be one chain of layers from input to output, got {len(layers)} layers and the outputs "
            f"{', '.join(outputs)}: import a model that ends at its last layer."
        )
    return chain


def _find_sources(layer: KerasLayer) -> str | None:
    """Name of the one layer that this one takes its input from; None for the input."""
    nodes = layer.inbound or []
    if layer.class_name == "InputLayer":
        return None
    tensors = _find_tensors(nodes)
    if len(tensors) != 1:
        raise layer.refusal(
            f"takes its input from {', '.join(tensors) or 'nothing'}", "symspec's networks are chains of layers"
        )
    if _is_training(nodes):
        raise layer.refusal(
            "is called with training=True, so that its output is random at every call",
            "save the model with the layer called as usual",
        )
    return tensors[0]


def _find_tensors(node: Any) -> list[str]:
    """Names of the layers that a node refers to: [name, 0, 0, ...] of Keras 2, "keras_history" of Keras 3."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            return [str(node["keras_history"][0])]
        return [name for value in node.values() for name in _find_tensors(value)]
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and all(isinstance(i, int) for i in node[1:3]):
            return [node[0], *(name for value in node[3:] for name in _find_tensors(value))]
        return [name for value in node for name in _find_tensors(value)]
    return []


def _is_training(node: Any) -> bool:
    """Whether a call asks for the random behaviour of training."""
    if isinstance(node, Mapping):
        return node.get("training") is True or any(_is_training(value) for value in node.values())
    return isinstance(node, list) and any(_is_training(value) for value in node)


def find_n_features(
    path: str | os.PathLike[str], model: Mapping[str, Any], chain: Sequence[KerasLayer], first: StoredArray | None
) -> int:
    """Features of one input, from whichever place says it; `first` is the first kernel."""
    config = model["config"]
    shapes = [layer.config.get(key) for layer in chain[:1] for key in ("batch_shape", "batch_input_shape")]
    shapes += [config.get("build_input_shape")] if isinstance(config, Mapping) else []
    shape = next((shape for shape in shapes if shape), None)
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], list):
        shape = shape[0]
    if shape is None and first is not None and len(first.shape) == 2:
        shape = [None, first.shape[0]]
    n = shape[-1] if isinstance(shape, list) and len(shape) == 2 else None
    if isinstance(n, bool) or not isinstance(n, int) or not 0 < n <= LARGEST:
        raise FileFormatError(
            f"{path} should take inputs of shape (star, pixel), got {shape}: symspec's layers see one vector a star, "
            "without axes of steps or channels."
        )
    return n


# --- one layer


def build_layers(layer: KerasLayer, n: int, arrays: Sequence[StoredArray]) -> tuple[list[Layer], list[StoredArray]]:
    """Layers of symspec for one of Keras, for `n` features in, and the arrays that are their parameters.

    Raises
    ------
    FileFormatError
        symspec has no such layer; the message says what to do.
    """
    if layer.class_name not in _BUILDERS:
        advice = _ADVICE.get(layer.class_name)
        general = f"{_GENERAL}, or give net= if layers of these do the same"
        raise layer.refusal("is no layer of symspec's", advice or general)
    return _BUILDERS[layer.class_name](layer, n, arrays)


def _build_dense(layer: KerasLayer, n: int, arrays: Sequence[StoredArray]) -> tuple[list[Layer], list[StoredArray]]:
    units, use_bias = layer.config.get("units"), layer.config.get("use_bias", True)
    want = [(n, units), (units,)] if use_bias else [(n, units)]
    if [array.shape for array in arrays] != want:
        found = ", ".join(f"{a.name} {a.shape}" for a in arrays) or "nothing"
        raise layer.refusal(f"should have arrays of shapes {want}, got {found}", "the file is damaged or quantized")
    return [Dense(units, bool(use_bias)), *_build_function(layer)], list(arrays)


def _build_function(layer: KerasLayer) -> list[Layer]:
    """Activation that a layer names: a word, or a layer of its own."""
    function = layer.config.get("activation") or "linear"
    if isinstance(function, Mapping) and function.get("class_name") in _ACTIVATION_LAYERS:
        inner = {**function, "config": {"name": layer.name, **function["config"]}}
        return _ACTIVATION_LAYERS[function["class_name"]](_read_layer(layer.path, inner))
    if isinstance(function, Mapping):
        function = function.get("config") if isinstance(function.get("config"), str) else function.get("class_name")
    if function not in ACTIVATIONS:
        raise layer.refusal(f"has the activation {function!r}", f"symspec has {', '.join(ACTIVATIONS)}")
    name, options = ACTIVATIONS[function]
    return [] if name == "linear" else [Activation(name, dict(options))]


def _build_leaky_relu(layer: KerasLayer) -> list[Layer]:
    slope = layer.number("negative_slope" if "negative_slope" in layer.config else "alpha", 0.3)
    return [Activation("leaky_relu", {"negative_slope": slope})]


def _build_relu(layer: KerasLayer) -> list[Layer]:
    slope, threshold = layer.number("negative_slope", 0.0), layer.number("threshold", 0.0)
    has_maximum = layer.config.get("max_value") is not None
    if threshold or (slope and has_maximum):
        raise layer.refusal(f"has threshold {threshold} and negative_slope {slope} beside max_value", "use one of them")
    if has_maximum:
        return [Activation("clip", {"minimum": 0.0, "maximum": layer.number("max_value")})]
    return [Activation("leaky_relu", {"negative_slope": slope}) if slope else Activation("relu")]


_ACTIVATION_LAYERS: dict[str, Callable[[KerasLayer], list[Layer]]] = {
    "Activation": _build_function,
    "ReLU": _build_relu,
    "LeakyReLU": _build_leaky_relu,
    "ELU": lambda layer: [Activation("elu", {"alpha": layer.number("alpha", 1.0)})],
}


def _build_normalization(
    layer: KerasLayer, n: int, arrays: Sequence[StoredArray]
) -> tuple[list[Layer], list[StoredArray]]:
    axis = layer.config.get("axis", -1)
    if axis not in (None, -1, 1, [], [-1], [1]):
        raise layer.refusal(f"has axis {axis}, where features lie along the last one")
    if layer.config.get("mean") is not None:
        mean, variance = layer.numbers("mean", n), layer.numbers("variance", n)
    elif len(arrays) < 2 or any(array.shape not in ((), (1,), (n,), (1, n)) for array in arrays[:2]):
        found = ", ".join(f"{a.name} {a.shape}" for a in arrays) or "nothing"
        raise layer.refusal(f"should have mean and variance of {n} features, got {found}", "the file is damaged")
    else:
        mean, variance = (layer.spread(read_finite(layer.path, a), "mean", n) for a in arrays[:2])
    if (variance < 0).any():
        raise layer.refusal("should have variances of at least 0, got negative ones", "the file is damaged")
    kind = Unstandardize if layer.config.get("invert") else Standardize
    return [kind(mean, np.maximum(np.sqrt(variance), _EPSILON))], []


def _build_rescaling(layer: KerasLayer, n: int, arrays: Sequence[StoredArray]) -> tuple[list[Layer], list[StoredArray]]:
    scale = layer.numbers("scale", n)
    if (scale <= 0).any():
        raise layer.refusal("should have a positive scale", "put the sign into the kernel of the Dense layer beside it")
    return [Unstandardize(layer.numbers("offset", n), scale)], []


def _without_arrays(build: Callable[[KerasLayer], list[Layer]]) -> Callable[..., Any]:
    return lambda layer, n, arrays: (build(layer), [])


_BUILDERS: dict[str, Callable[..., tuple[list[Layer], list[StoredArray]]]] = {
    "Dense": _build_dense,
    "Normalization": _build_normalization,
    "Rescaling": _build_rescaling,
    "Dropout": _without_arrays(lambda layer: [Dropout(layer.number("rate"))]),
    "InputLayer": _without_arrays(lambda layer: []),
    "Flatten": _without_arrays(lambda layer: []),  # of vectors, which is all there is here
} | {name: _without_arrays(build) for name, build in _ACTIVATION_LAYERS.items()}
