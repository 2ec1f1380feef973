"""ONNX's activations as symspec's: the table ACTIVATIONS has a function for each operation."""

from __future__ import annotations

import math

import numpy as np

from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.translation import Builder, Translation
from symspec.networks.layers import Activation

# constants of self-normalising networks, ONNX's defaults
_SELU = {"alpha": 1.6732632, "gamma": 1.050701}
_LARGEST = float(np.finfo(np.float32).max)


def _build_plain(name: str) -> Builder:
    """Build an activation without options."""
    return lambda translation, node: translation.put(
        node, translation.signal(node), Activation(name)
    )


def _build_with_alpha(name: str, option: str, default: float) -> Builder:
    """Build an activation whose option is ONNX's `alpha`."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        options = {option: node.number("alpha", default)}
        return translation.put(node, translation.signal(node), Activation(name, options))

    return build


def _build_selu(translation: Translation, node: OnnxNode) -> Signal:
    numbers = [(node.number(key, value), value) for key, value in _SELU.items()]
    if not all(math.isclose(number, value, rel_tol=1e-5) for number, value in numbers):
        raise node.refusal(
            "has constants of its own", "symspec has those of self-normalising networks"
        )
    return translation.put(node, translation.signal(node), Activation("selu"))


def _build_gelu(translation: Translation, node: OnnxNode) -> Signal:
    if node.word("approximate", "none") != "none":
        raise node.refusal(
            "is the approximation by a tanh",
            "symspec has the exact one: train with approximate='none'",
        )
    return translation.put(node, translation.signal(node), Activation("gelu"))


def _build_swish(translation: Translation, node: OnnxNode) -> Signal:
    if node.number("alpha", 1.0) != 1:
        raise node.refusal("has an alpha other than 1", "symspec has x sigmoid(x)")
    return translation.put(node, translation.signal(node), Activation("silu"))


def _build_clip(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    low = translation.number(node, 1, signal)
    high = translation.number(node, 2, signal)
    low = node.get("min", -_LARGEST) if low is None else low
    high = node.get("max", _LARGEST) if high is None else high
    if not low <= high:
        raise node.refusal(f"clips to {low:g} and {high:g}", "the file is damaged")
    if low == 0 and high >= _LARGEST:
        return translation.put(node, signal, Activation("relu"))
    options = {"minimum": max(float(low), -_LARGEST), "maximum": min(float(high), _LARGEST)}
    return translation.put(node, signal, Activation("clip", options))


def _build_bound(key: str) -> Builder:
    """Build the maximum, or minimum, of an array and a number, which is `key` of clip."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        values = [translation.find(node, i) for i in range(len(node.inputs))]
        signals = [value for value in values if isinstance(value, Signal)]
        if len(signals) != 1 or len(values) != 2:
            raise node.refusal("compares several arrays", "symspec compares an array with a number")
        bound = translation.number(node, int(values[0] is signals[0]), signals[0])
        if bound is None or not abs(bound) <= _LARGEST:
            raise node.refusal(f"compares with {bound}", "the file is damaged")
        is_relu = key == "minimum" and bound == 0
        options = {"minimum": -_LARGEST, "maximum": _LARGEST, key: bound}
        return translation.put(
            node, signals[0], Activation("relu") if is_relu else Activation("clip", options)
        )

    return build


ACTIVATIONS: dict[str, Builder] = {
    "Relu": _build_plain("relu"),
    "Tanh": _build_plain("tanh"),
    "Sigmoid": _build_plain("sigmoid"),
    "Softplus": _build_plain("softplus"),
    "LeakyRelu": _build_with_alpha("leaky_relu", "negative_slope", 0.01),
    "Elu": _build_with_alpha("elu", "alpha", 1.0),
    "Selu": _build_selu,
    "Gelu": _build_gelu,
    "Swish": _build_swish,
    "Clip": _build_clip,
    "Max": _build_bound("minimum"),
    "Min": _build_bound("maximum"),
}
