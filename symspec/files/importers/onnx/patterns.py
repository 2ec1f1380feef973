"""Several operations that are one of symspec's layers: tables of how exporters write them, PATTERNS and GATES.

A pattern is the name of an operation with a pattern for each of its inputs. "x" stands for an array
that depends on the spectrum, another word for a constant, each for the same one wherever it stands
again; a number for a constant that is this number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.layers import put_dense, put_layer_norm
from symspec.files.importers.onnx.scalings import scale
from symspec.files.importers.onnx.translation import STARS, Translation
from symspec.networks.layers import Activation

_COMMUTE = ("Add", "Mul")
_ROUNDING = 1e-6  # of constants in float32
_MEAN = "mean over the last axes"
_FIRST = "the first of these"
_LEAST_THRESHOLD = 20.0  # from where on log(1 + exp(x)) is x in float32, and to 2e-9
_MOST_FACTORS = 8

Pattern = Any  # a word, a number or a tuple of a word and patterns
Found = Mapping[
    str, Any
]  # the name of what each word of a pattern stands for, and from which axis on means are


def build_pattern(translation: Translation, node: OnnxNode) -> Signal | None:
    """Signal of the layer that several operations are, of which this one is the last; None where they are none."""
    if node.op == "Mul":
        return _build_gated(translation, node)
    for pattern, build in PATTERNS:
        for found in _match_node(translation, node, pattern, {}):
            built = build(translation, node, translation.values[found["x"]], found)
            if built is not None:
                return built
    return None


# --- what layers they are


def _build_softplus(
    translation: Translation, node: OnnxNode, signal: Signal, found: Found
) -> Signal | None:
    threshold = translation.values[found["threshold"]]
    if not signal.takes_number(threshold) or not threshold.item() >= _LEAST_THRESHOLD:
        return None
    return translation.put(node, signal, Activation("softplus"))


def _build_elu(
    translation: Translation, node: OnnxNode, signal: Signal, found: Found
) -> Signal | None:
    alpha = translation.values[found["alpha"]]
    if not signal.takes_number(alpha) or not math.isfinite(alpha.item()):
        return None
    return translation.put(node, signal, Activation("elu", {"alpha": float(alpha.item())}))


def _build_layer_norm(
    translation: Translation, node: OnnxNode, signal: Signal, found: Found
) -> Signal | None:
    first = found[_FIRST]
    arrays = {}
    n_axes = signal.rank - first
    epsilon = translation.values[found["epsilon"]]
    if not signal.takes_number(epsilon):
        return None
    for key in {"gamma", "beta"} & set(found):
        array = translation.values[found[key]]
        if array.size != math.prod(array.shape[-n_axes:]) or signal.rank + 1 < array.ndim:
            return None
        arrays[key] = np.broadcast_to(
            array.reshape(array.shape[-n_axes:]), signal.shape[first:]
        ).ravel()
    return put_layer_norm(translation, node, signal, first, epsilon.item(), arrays)


def _build_rows(
    translation: Translation, node: OnnxNode, signal: Signal, found: Found
) -> Signal | None:
    """A product for each position of each star, for which TensorFlow puts these in one axis."""
    rows, shape, kernel = (translation.values[found[key]] for key in ("rows", "shape", "kernel"))
    product = node.inputs[0]
    if isinstance(translation.values[product], Signal) or kernel.ndim != 2 or signal.rank < 2:
        return None
    whole = [*signal.shape[:-1], kernel.shape[-1]]
    if rows.tolist() != [-1, signal.shape[-1]] or shape.tolist() not in (
        [STARS, *whole],
        [-1, *whole],
    ):
        return None
    return put_dense(
        translation, node, signal, translation.kernel(translation.makers[product], 1), None
    )


def _build_gated(translation: Translation, node: OnnxNode) -> Signal | None:
    """A product of x, of a function of x that is one of GATES, and of constants."""
    if any(isinstance(translation.values.get(name), np.ndarray) for name in node.inputs):
        return None
    for gate in _list_factors(translation, node.inputs, ""):
        for pattern, word, factor in GATES:
            for found in _match(translation, gate, pattern, {}):
                names = _list_factors(translation, node.inputs, found["x"])
                values = [translation.values.get(name) for name in names]
                constants = [value for value in values if isinstance(value, np.ndarray)]
                if len(values) == len(constants) + 2 and {found["x"], gate} <= set(names):
                    product = translation.put(
                        node, translation.values[found["x"]], Activation(word)
                    )
                    for constant in (np.array(factor), *constants):
                        product = scale(translation.layers, node, product, "mul", constant)
                    return product
    return None


def _list_factors(translation: Translation, names: Sequence[str], last: str) -> list[str]:
    """Names of what is multiplied together, where a named one, a constant, and what makes them too many stay whole."""
    factors = []
    waiting = list(names)
    while waiting and len(factors) + len(waiting) < _MOST_FACTORS:
        name = waiting.pop(0)
        maker = translation.makers.get(name)
        is_whole = name == last or isinstance(translation.values[name], np.ndarray)
        if maker is not None and maker.op == "Mul" and not is_whole:
            waiting += maker.inputs
        else:
            factors.append(name)
    return factors + waiting


# --- how they are written

_ARGUMENTS = [("Div", "x", math.sqrt(2)), ("Mul", "x", math.sqrt(0.5))]

# functions that x is multiplied by, what the product is, and how many times that
GATES: list[tuple[Pattern, str, float]] = [
    (("Sigmoid", "x"), "silu", 1.0),
    *((("Add", ("Erf", argument), 1.0), "gelu", 2.0) for argument in _ARGUMENTS),
    (("Erfc", ("Mul", ("Neg", "x"), math.sqrt(0.5))), "gelu", 2.0),
    (("Erfc", ("Mul", "x", -math.sqrt(0.5))), "gelu", 2.0),
]

_ONCE_X = ("Mul", "x", 1.0)  # PyTorch's option beta
_SOFTPLUS = [("x", ("Softplus", "x")), (_ONCE_X, ("Div", ("Softplus", _ONCE_X), 1.0))]
_IS_ABOVE = ("Greater", "x", 0.0)
_ELU_ABOVE = ("Mul", ("Cast", _IS_ABOVE), ("Elu", "x"))
_ELU_BELOW = ("Mul", ("Mul", "alpha", ("Elu", "x")), ("Cast", ("Not", _IS_ABOVE)))
_MEAN_OF_X = (_MEAN, "x")
_CENTRED = ("Sub", "x", _MEAN_OF_X)
_DEVIATIONS = [
    ("Sqrt", ("Add", (_MEAN, square), "epsilon"))
    for square in (("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED))
]
_INVERSE = [("Reciprocal", deviation) for deviation in _DEVIATIONS]
_FACTORS = [*_INVERSE, *(("Mul", inverse, "gamma") for inverse in _INVERSE)]
_NORMALISED = [(("Mul", "x", factor), ("Mul", ("Neg", _MEAN_OF_X), factor)) for factor in _FACTORS]

# what a node may be the last of, and what builds the layer that it then is
PATTERNS: list[tuple[Pattern, Callable[[Translation, OnnxNode, Signal, Found], Signal | None]]] = [
    *((("Where", ("Greater", x, "threshold"), "x", y), _build_softplus) for x, y in _SOFTPLUS),
    (("Add", _ELU_ABOVE, _ELU_BELOW), _build_elu),
    *((("Div", _CENTRED, deviation), _build_layer_norm) for deviation in _DEVIATIONS),
    *((("Add", first, second), _build_layer_norm) for first, second in _NORMALISED),
    *(
        (("Add", first, ("Add", second, "beta")), _build_layer_norm)
        for first, second in _NORMALISED
    ),
    (("Reshape", ("MatMul", ("Reshape", "x", "rows"), "kernel"), "shape"), _build_rows),
]


# --- how they are found


def _match(
    translation: Translation, name: str, pattern: Pattern, found: Found
) -> Iterator[dict[str, str]]:
    """Ways in which an array is made as a pattern says: what each of its words then stands for."""
    if isinstance(pattern, float):
        number = translation.values.get(name)
        signal = translation.values.get(found["x"])
        is_one = isinstance(number, np.ndarray) and signal.takes_number(number)
        if is_one and math.isclose(number.item(), pattern, rel_tol=_ROUNDING):
            yield dict(found)
    elif isinstance(pattern, str):
        kind = Signal if pattern == "x" else np.ndarray
        if isinstance(translation.values.get(name), kind) and found.get(pattern, name) == name:
            yield {**found, pattern: name}
    elif name in translation.makers:
        yield from _match_node(translation, translation.makers[name], pattern, found)


def _match_node(
    translation: Translation, node: OnnxNode, pattern: Pattern, found: Found
) -> Iterator[dict[str, str]]:
    op, *parts = pattern
    if op == _MEAN:
        first = _find_first_of_mean(translation, node, found.get("x"))
        if first is not None and found.get(_FIRST, first) == first:
            yield from _match(translation, node.inputs[0], parts[0], {**found, _FIRST: first})
        return
    is_plain = node.attributes.get("alpha", 1.0) == 1  # of Elu; other options change nothing here
    if node.op != op or len(node.inputs) != len(parts) or not is_plain:
        return
    for inputs in (
        dict.fromkeys((node.inputs, node.inputs[::-1])) if op in _COMMUTE else (node.inputs,)
    ):
        yield from _match_all(translation, inputs, parts, found)


def _match_all(
    translation: Translation, names: Sequence[str], patterns: Sequence[Pattern], found: Found
) -> Iterator[dict[str, str]]:
    if not names:
        yield dict(found)
        return
    for way in _match(translation, names[0], patterns[0], found):
        yield from _match_all(translation, names[1:], patterns[1:], way)


def _find_first_of_mean(translation: Translation, node: OnnxNode, name: str | None) -> int | None:
    """The first axis of a star's array that a node takes the mean over, if it keeps the axes and they are the last.

    The array is a named one, or that which the node takes.
    """
    signal = (
        translation.values.get(node.inputs[0] if name is None else name) if node.inputs else None
    )
    if not isinstance(signal, Signal):
        return None
    if node.op == "GlobalAveragePool":
        return 1
    if node.op != "ReduceMean" or not node.count("keepdims", 1):
        return None
    axes = sorted(
        axis % (signal.rank + 1) - 1 for axis in translation.integers(node, 1, "axes") or ()
    )
    first = signal.rank - len(axes)
    return first if axes and axes == list(range(first, signal.rank)) else None
