"""Several operations that are one of symspec's layers: the tables PATTERNS and GATES.

A pattern is the name of an operation with a pattern for each of its inputs. "x" stands for an array
that depends on the spectrum; another name for a constant; each for the same array wherever it is
repeated. A number stands for a constant of that value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.layers import put_dense, put_layer_norm
from symspec.files.importers.onnx.scalings import scale
from symspec.files.importers.onnx.translation import STARS, Translation, Value
from symspec.networks.layers import Activation
from symspec.networks.preprocessing import SNV

_COMMUTE = ("Add", "Mul")
_ROUNDING = 1e-6  # of constants in float32
_MEAN = "mean over the last axes"
_SUM = "sum over the last axes"
_REDUCTIONS = {_MEAN: "ReduceMean", _SUM: "ReduceSum"}
_LEAST_THRESHOLD = 20.0  # above it, log(1 + exp(x)) is x in float32, and to 2e-9
_MOST_FACTORS = 8

Pattern = str | float | tuple  # a name, a number, or an operation's name and patterns


@dataclass(frozen=True)
class Match:
    """The arrays that the names of a pattern stand for.

    Attributes
    ----------
    names : mapping of str to str
        Name of the array in the graph, by its name in the pattern.
    signal : Signal or None
        The array "x".
    constants : mapping of str to numpy.ndarray
        The others.
    first : int or None
        First axis of one star's array over which means are taken.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    signal: Signal | None = None
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    first: int | None = None

    def extend(self, key: str, name: str, value: Value) -> Match:
        """Add what one name of the pattern stands for."""
        names = {**self.names, key: name}
        if isinstance(value, Signal):
            return dataclasses.replace(self, names=names, signal=value)
        return dataclasses.replace(self, names=names, constants={**self.constants, key: value})


def build_pattern(translation: Translation, node: OnnxNode) -> Signal | None:
    """Build the layer of several operations whose last one is `node`; None if there is none."""
    if node.op == "Mul":
        return _build_gated(translation, node)
    for pattern, build in PATTERNS:
        for match in _match_node(translation, node, pattern, Match()):
            if match.signal is None:
                continue
            if (built := build(translation, node, match.signal, match)) is not None:
                return built
    return None


# --- the layers


def _build_softplus(
    translation: Translation, node: OnnxNode, signal: Signal, match: Match
) -> Signal | None:
    threshold = match.constants["threshold"]
    if not signal.takes_number(threshold) or not threshold.item() >= _LEAST_THRESHOLD:
        return None
    return translation.put(node, signal, Activation("softplus"))


def _build_elu(
    translation: Translation, node: OnnxNode, signal: Signal, match: Match
) -> Signal | None:
    alpha = match.constants["alpha"]
    if not signal.takes_number(alpha) or not math.isfinite(alpha.item()):
        return None
    return translation.put(node, signal, Activation("elu", {"alpha": float(alpha.item())}))


def _build_layer_norm(
    translation: Translation, node: OnnxNode, signal: Signal, match: Match
) -> Signal | None:
    epsilon = match.constants["epsilon"]
    if match.first is None or not signal.takes_number(epsilon):
        return None
    shape = signal.shape[match.first :]
    arrays = {}
    for key in {"gamma", "beta"} & set(match.constants):
        array = match.constants[key]
        last = array.shape[-len(shape) :]
        if array.size != math.prod(last) or signal.rank + 1 < array.ndim:
            return None
        arrays[key] = np.broadcast_to(array.reshape(last), shape).ravel()
    return put_layer_norm(translation, node, signal, match.first, epsilon.item(), arrays)


def _build_snv(
    translation: Translation, node: OnnxNode, signal: Signal, match: Match
) -> Signal | None:
    """Build the standard normal variate of a whole spectrum, by either definition of its spread."""
    n = math.prod(signal.shape)
    constants = match.constants
    if match.first is None or n != math.prod(signal.shape[match.first :]) or n < 2:
        return None
    if not all(signal.takes_number(array) for array in constants.values()):
        return None
    numbers = {name: float(array.item()) for name, array in constants.items()}
    factor = numbers.get("times", 1.0) / numbers.get("over", 1.0)
    if "sum" in match.names:
        factor *= n
    ddof = next((d for d in (0, 1) if math.isclose(factor, n / (n - d), rel_tol=_ROUNDING)), None)
    if ddof is None or not numbers.get("epsilon", 0.0) >= 0:
        return None
    output = translation.layers.view(translation.flush(node, signal), (n,))
    layer = SNV(ddof, numbers.get("epsilon", 0.0))
    return Signal(translation.layers.put(output, layer, node.name), signal.shape)


def _build_rows(
    translation: Translation, node: OnnxNode, signal: Signal, match: Match
) -> Signal | None:
    """Build a product for each position, which TensorFlow puts in one axis with the stars."""
    kernel = match.constants["kernel"]
    product = node.inputs[0]
    if isinstance(translation.values.get(product), Signal) or kernel.ndim != 2 or signal.rank < 2:
        return None
    rest = [*signal.shape[:-1], kernel.shape[-1]]
    if match.constants["rows"].tolist() != [-1, signal.shape[-1]]:
        return None
    if match.constants["shape"].tolist() not in ([STARS, *rest], [-1, *rest]):
        return None
    kernel = translation.kernel(translation.makers[product], 1)
    return put_dense(translation, node, signal, kernel, None)


def _build_gated(translation: Translation, node: OnnxNode) -> Signal | None:
    """Build a product of x, a function of x that is in GATES, and constants."""
    if any(isinstance(translation.values.get(name), np.ndarray) for name in node.inputs):
        return None
    for gate in _list_factors(translation, node.inputs, ""):
        for pattern, activation, factor in GATES:
            for match in _match(translation, gate, pattern, Match()):
                constants = _find_constants(translation, node, match.names["x"], gate)
                if match.signal is None or constants is None:
                    continue
                product = translation.put(node, match.signal, Activation(activation))
                for constant in (np.array(factor), *constants):
                    product = scale(translation.layers, node, product, "mul", constant)
                return product
    return None


def _find_constants(
    translation: Translation, node: OnnxNode, x: str, gate: str
) -> list[np.ndarray] | None:
    """Find the constants in a product of x and gate; None if it has other factors."""
    names = _list_factors(translation, node.inputs, x)
    values = [translation.values.get(name) for name in names]
    constants = [value for value in values if isinstance(value, np.ndarray)]
    is_gated = len(values) == len(constants) + 2 and {x, gate} <= set(names)
    return constants if is_gated else None


def _list_factors(translation: Translation, names: Sequence[str], last: str) -> list[str]:
    """List the factors of a product; constants, and the array named `last`, stay whole."""
    factors: list[str] = []
    waiting = list(names)
    while waiting and len(factors) + len(waiting) < _MOST_FACTORS:
        name = waiting.pop(0)
        maker = translation.makers.get(name)
        is_whole = name == last or isinstance(translation.values.get(name), np.ndarray)
        if maker is not None and maker.op == "Mul" and not is_whole:
            waiting += maker.inputs
        else:
            factors.append(name)
    return factors + waiting


# --- how exporters write them

_ARGUMENTS = [("Div", "x", math.sqrt(2)), ("Mul", "x", math.sqrt(0.5))]

# a function that x is multiplied by, the activation that is the product, and a factor
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
_SQUARES = [("Pow", _CENTRED, 2.0), ("Mul", _CENTRED, _CENTRED)]
_DEVIATIONS = [("Sqrt", ("Add", (_MEAN, square), "epsilon")) for square in _SQUARES]
_MEAN_SQUARES = [(_MEAN, square) for square in _SQUARES]
_VARIANCES = [
    *_MEAN_SQUARES,
    *(("Div", ("Mul", square, "times"), "over") for square in _MEAN_SQUARES),
    *(("Mul", square, "times") for square in _MEAN_SQUARES),
    *(("Div", square, "over") for square in _MEAN_SQUARES),
    *(("Div", (_SUM, square), "over") for square in _SQUARES),
]
_ROOTS = [("Sqrt", variance) for variance in _VARIANCES]
_SPREADS = [*_ROOTS, *(("Add", root, "epsilon") for root in _ROOTS)]
_INVERSE = [("Reciprocal", deviation) for deviation in _DEVIATIONS]
_FACTORS = [*_INVERSE, *(("Mul", inverse, "gamma") for inverse in _INVERSE)]
_NORMALISED = [(("Mul", "x", factor), ("Mul", ("Neg", _MEAN_OF_X), factor)) for factor in _FACTORS]

# a pattern whose last node is at hand, and the function that builds its layer
PATTERNS: list[tuple[tuple, Callable[[Translation, OnnxNode, Signal, Match], Signal | None]]] = [
    *((("Where", ("Greater", x, "threshold"), "x", y), _build_softplus) for x, y in _SOFTPLUS),
    (("Add", _ELU_ABOVE, _ELU_BELOW), _build_elu),
    *((("Div", _CENTRED, deviation), _build_layer_norm) for deviation in _DEVIATIONS),
    *((("Div", _CENTRED, spread), _build_snv) for spread in _SPREADS),
    *((("Add", first, second), _build_layer_norm) for first, second in _NORMALISED),
    *(
        (("Add", first, ("Add", second, "beta")), _build_layer_norm)
        for first, second in _NORMALISED
    ),
    (("Reshape", ("MatMul", ("Reshape", "x", "rows"), "kernel"), "shape"), _build_rows),
]


# --- how they are found


def _match(translation: Translation, name: str, pattern: Pattern, match: Match) -> Iterator[Match]:
    """Ways in which an array is made as a pattern says."""
    if isinstance(pattern, tuple):
        if name in translation.makers:
            yield from _match_node(translation, translation.makers[name], pattern, match)
        return
    value = translation.values.get(name)
    if value is None:
        return
    if isinstance(pattern, str):
        is_of_kind = isinstance(value, Signal) == (pattern == "x")
        if is_of_kind and match.names.get(pattern, name) == name:
            yield match.extend(pattern, name, value)
    elif match.signal is not None and isinstance(value, np.ndarray):
        is_one = match.signal.takes_number(value)
        if is_one and math.isclose(value.item(), pattern, rel_tol=_ROUNDING):
            yield match


def _match_node(
    translation: Translation, node: OnnxNode, pattern: tuple, match: Match
) -> Iterator[Match]:
    op, *parts = pattern
    if op in _REDUCTIONS:
        first = _find_first_of(_REDUCTIONS[op], translation, node, match.signal)
        if first is not None and match.first in (None, first):
            names = {**match.names, "sum": node.outputs[0]} if op == _SUM else match.names
            with_first = dataclasses.replace(match, first=first, names=names)
            yield from _match(translation, node.inputs[0], parts[0], with_first)
        return
    is_plain = node.attributes.get("alpha", 1.0) == 1  # of Elu; other options change nothing here
    if node.op != op or len(node.inputs) != len(parts) or not is_plain:
        return
    orders = [node.inputs]
    if op in _COMMUTE and node.inputs != node.inputs[::-1]:
        orders.append(node.inputs[::-1])
    for inputs in orders:
        yield from _match_all(translation, inputs, parts, match)


def _match_all(
    translation: Translation, names: Sequence[str], patterns: Sequence[Pattern], match: Match
) -> Iterator[Match]:
    if not names:
        yield match
        return
    for way in _match(translation, names[0], patterns[0], match):
        yield from _match_all(translation, names[1:], patterns[1:], way)


def _find_first_of(
    op: str, translation: Translation, node: OnnxNode, signal: Signal | None
) -> int | None:
    """First axis of one star's array over which a node reduces, if it keeps the last axes.

    The array is `signal`, or else the input of the node.
    """
    if not node.inputs:
        return None
    if signal is None:
        value = translation.values.get(node.inputs[0])
        if not isinstance(value, Signal):
            return None
        signal = value
    if node.op == "GlobalAveragePool" and op == "ReduceMean":
        return 1
    if node.op != op or not node.count("keepdims", 1):
        return None
    listed = translation.optional_integers(node, 1, "axes") or ()
    axes = sorted(axis % (signal.rank + 1) - 1 for axis in listed)
    first = signal.rank - len(axes)
    return first if axes and axes == list(range(first, signal.rank)) else None
