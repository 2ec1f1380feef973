"""Several operations that are one of symspec's layers: one table, PATTERNS, of how exporters write them.

A pattern is the name of an operation with a pattern for each of its inputs. A word stands for any array, the same one
wherever it stands again; a number for a constant that is this number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from symspec.importers.onnx_arrays import Signal
from symspec.importers.onnx_description import OnnxNode
from symspec.importers.onnx_layers import put_layer_norm
from symspec.importers.onnx_translation import Translation
from symspec.layers import Activation

_COMMUTE = ("Add", "Mul")
_ROUNDING = 1e-6  # of constants in float32
_MEAN = "mean over the last axis"
_LEAST_THRESHOLD = 20.0  # from where on log(1 + exp(x)) is x in float32, and to 2e-9

Pattern = Any  # a word, a number or a tuple of a word and patterns


def _multiply(a: Pattern, b: Pattern, c: Pattern) -> list[Pattern]:
    """Products of three factors, in whichever order."""
    return [("Mul", a, ("Mul", b, c)), ("Mul", b, ("Mul", a, c)), ("Mul", c, ("Mul", a, b))]


_ARGUMENTS = [("Div", "x", math.sqrt(2)), ("Mul", "x", math.sqrt(0.5))]
_DOUBLE_PHI = [
    *(("Add", ("Erf", argument), 1.0) for argument in _ARGUMENTS),
    ("Erfc", ("Mul", ("Neg", "x"), math.sqrt(0.5))),
    ("Erfc", ("Mul", "x", -math.sqrt(0.5))),
]
_MEAN_OF_X = (_MEAN, "x")
_CENTRED = ("Sub", "x", _MEAN_OF_X)
_DEVIATIONS = [
    ("Sqrt", ("Add", (_MEAN, square), "epsilon")) for square in (("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED))
]
_FACTORS = [("Mul", ("Reciprocal", deviation), "gamma") for deviation in _DEVIATIONS]

# what a node may be the last of, and the layer that it then is
PATTERNS: list[tuple[Pattern, str]] = [
    (("Mul", "x", ("Sigmoid", "x")), "silu"),
    *((product, "gelu") for phi in _DOUBLE_PHI for product in _multiply("x", phi, 0.5)),
    (("Where", ("Greater", "x", "threshold"), "x", ("Softplus", "x")), "softplus"),
    *((("Div", _CENTRED, deviation), "layer_norm") for deviation in _DEVIATIONS),
    *(
        (("Add", ("Mul", "x", factor), ("Add", ("Mul", ("Neg", _MEAN_OF_X), factor), "beta")), "layer_norm")
        for factor in _FACTORS
    ),
]


def build_pattern(translation: Translation, node: OnnxNode) -> Signal | None:
    """Signal of the layer that several operations are, of which this one is the last; None where they are none."""
    for pattern, word in PATTERNS:
        if pattern[0] != node.op:
            continue
        for found in _match_node(translation, node, pattern, {}):
            signal = translation.values[found["x"]]
            if isinstance(signal, Signal) and (built := _build(translation, node, word, signal, found)) is not None:
                return built
    return None


def _build(
    translation: Translation, node: OnnxNode, word: str, signal: Signal, found: Mapping[str, str]
) -> Signal | None:
    if word == "softplus" and not _is_number(translation, found["threshold"], at_least=_LEAST_THRESHOLD):
        return None
    if word != "layer_norm":
        return translation.put(node, signal, Activation(word))
    constants = {key: translation.values[name] for key, name in found.items() if key != "x"}
    if not all(isinstance(array, np.ndarray) for array in constants.values()):
        return None
    epsilon = constants.pop("epsilon")
    arrays = {key: np.broadcast_to(array.ravel(), signal.shape[-1:]) for key, array in constants.items()}
    return put_layer_norm(translation, node, signal, signal.rank - 1, epsilon.item(), arrays)


def _match(translation: Translation, name: str, pattern: Pattern, found: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Ways in which an array is made as a pattern says: what each of its words then is."""
    if isinstance(pattern, float):
        if _is_number(translation, name, near=pattern):
            yield dict(found)
    elif isinstance(pattern, str):
        if found.get(pattern, name) == name:
            yield {**found, pattern: name}
    elif name in translation.makers:
        yield from _match_node(translation, translation.makers[name], pattern, found)


def _match_node(
    translation: Translation, node: OnnxNode, pattern: Pattern, found: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    op, *parts = pattern
    if op == _MEAN:
        if node.op == "ReduceMean" and _reduces_last(translation, node, found.get("x", node.inputs[0])):
            yield from _match(translation, node.inputs[0], parts[0], found)
        return
    if node.op != op or len(node.inputs) != len(parts):
        return
    for inputs in (node.inputs, node.inputs[::-1]) if op in _COMMUTE else (node.inputs,):
        yield from _match_all(translation, inputs, parts, found)


def _match_all(
    translation: Translation, names: Sequence[str], patterns: Sequence[Pattern], found: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    if not names:
        yield dict(found)
        return
    for way in _match(translation, names[0], patterns[0], found):
        yield from _match_all(translation, names[1:], patterns[1:], way)


def _is_number(translation: Translation, name: str, near: float | None = None, at_least: float = -math.inf) -> bool:
    value = translation.values.get(name)
    if not isinstance(value, np.ndarray) or value.size != 1:
        return False
    number = float(value.item())
    return number >= at_least if near is None else math.isclose(number, near, rel_tol=_ROUNDING)


def _reduces_last(translation: Translation, node: OnnxNode, name: str) -> bool:
    """Whether a node acts along the last axis of an array with the axes of a named one, and keeps it with length 1."""
    signal = translation.values.get(name)
    if not isinstance(signal, Signal) or not node.count("keepdims", 1):
        return False
    return translation.integers(node, 1, "axes") in ([-1], [signal.rank])
