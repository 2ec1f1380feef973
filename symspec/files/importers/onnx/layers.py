"""ONNX's operations as symspec's layers: one table, BUILDERS, of what to build for each.

A new operation takes a function and a line in BUILDERS. The function asks the node for its options
(one that nobody asks for is refused) and the translation for what the node takes, and gives the
Signal that comes out. What a graph makes of constants alone is in `onnx_constants`, several
operations that are one layer in `onnx_patterns`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.constants import check_axis, convert
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.protobuf import FLOATS
from symspec.files.importers.onnx.scalings import scale, settle
from symspec.files.importers.onnx.shapes import (
    build_concatenation,
    build_flatten,
    build_gather,
    build_padding,
    build_reshape,
    build_same,
    build_shape,
    build_slice,
    build_split,
    build_squeeze,
    build_transpose,
    build_unsqueeze,
)
from symspec.files.importers.onnx.translation import Builder, Translation
from symspec.files.importers.onnx.windows import (
    build_convolution,
    build_global,
    build_pool,
    build_reduction,
    take_largest,
    take_mean,
)
from symspec.networks.convolutions import AveragePool1D, MaxPool1D
from symspec.networks.layers import Activation, Dense, Dropout
from symspec.networks.normalizations import BatchNorm, LayerNorm

_SELU = {
    "alpha": 1.6732632,
    "gamma": 1.050701,
}  # of self-normalising networks, as ONNX has them by default
_LARGEST = float(np.finfo(np.float32).max)

# --- layers with weights


def _build_gemm(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    kernel = translation.kernel(node, 1)
    bias = translation.constant(node, 2)
    alpha = node.number("alpha", 1.0)
    beta = node.number("beta", 1.0)
    if node.count("transA", 0) or signal.rank != 1 or kernel.ndim != 2:
        raise node.refusal(
            f"multiplies arrays of shape {signal.shape} a star by {kernel.shape}, or turned ones"
        )
    kernel = kernel.T if node.count("transB", 0) else kernel
    if bias is not None:
        bias = _spread(node, bias if beta == 1 else beta * bias, kernel.shape[1])
    return put_dense(translation, node, signal, kernel if alpha == 1 else alpha * kernel, bias)


def _build_matmul(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    kernel = translation.kernel(node, 1)
    while (
        2 < kernel.ndim <= signal.rank + 1 and kernel.shape[0] == 1
    ):  # more axes would be the product's, too
        kernel = kernel[0]
    if kernel.ndim not in (1, 2) or not signal.rank:
        raise node.refusal(f"multiplies arrays of shape {signal.shape} a star by {kernel.shape}")
    product = put_dense(translation, node, signal, kernel.reshape(len(kernel), -1), None)
    return product if kernel.ndim == 2 else dataclasses.replace(product, shape=signal.shape[:-1])


def put_dense(
    translation: Translation,
    node: OnnxNode,
    signal: Signal,
    kernel: np.ndarray,
    bias: np.ndarray | None,
) -> Signal:
    """Product of the last axis with a kernel (in, out)."""
    n_in, n_out = kernel.shape
    if signal.shape[-1] != n_in:
        raise node.refusal(
            f"takes {n_in} features where there are {signal.shape}", "the file is damaged"
        )
    output, signs = settle(translation.layers, node, signal, -1)
    arrays = {"kernel": kernel if signs is None else kernel * signs[:, None]}
    if bias is not None:
        arrays["bias"] = bias
    n_rows = math.prod(signal.shape[:-1])
    output = translation.layers.view(output, (n_rows, n_in) if n_rows > 1 else (n_in,))
    shape = (*signal.shape[:-1], n_out)
    return translation.put_weights(node, output, Dense(n_out, bias is not None), arrays, shape)


def _spread(node: OnnxNode, array: np.ndarray, n: int) -> np.ndarray:
    """Constant as a vector of one number a feature."""
    if array.shape not in ((), (1,), (n,), (1, 1), (1, n)):
        raise node.refusal(
            f"should have {n} numbers a layer, got a constant of shape {array.shape}"
        )
    return np.broadcast_to(array.ravel(), n)


# --- sums and products


def _build_sum(translation: Translation, node: OnnxNode) -> Signal:
    """Sum of what comes from the spectrum, to which all constants are added."""
    values = [translation.find(node, i) for i in range(len(node.inputs))]
    signals = [value for value in values if isinstance(value, Signal)]
    total = build_same(translation, node) if len(values) == 1 else _add(translation, node, signals)
    for value in values:
        if isinstance(value, np.ndarray):
            total = scale(translation.layers, node, total, "add", value)
    return total


def _add(translation: Translation, node: OnnxNode, signals: Sequence[Signal]) -> Signal:
    """Sum of signals of one shape; a single one is that itself."""
    if len({signal.shape for signal in signals}) != 1:
        raise node.refusal(
            f"adds arrays of different shapes, {', '.join(str(s.shape) for s in signals[:8])}"
        )
    if len(signals) == 1:
        return signals[0]
    outputs = [translation.flush(node, signal) for signal in signals]
    views = [translation.layers.view(output, outputs[0].shape) for output in outputs]
    return Signal(translation.layers.add(views), signals[0].shape)


def _build_difference(translation: Translation, node: OnnxNode) -> Signal:
    first = translation.find(node, 0)
    second = translation.find(node, 1)
    if isinstance(second, np.ndarray):
        return scale(translation.layers, node, translation.signal(node), "add", -second)
    second = scale(translation.layers, node, translation.signal(node, 1), "mul", np.array(-1.0))
    if isinstance(first, np.ndarray):
        return scale(translation.layers, node, second, "add", first)
    return _add(translation, node, [translation.signal(node), second])


def _build_product(translation: Translation, node: OnnxNode) -> Signal:
    a, b = (translation.find(node, i) for i in (0, 1))
    if isinstance(a, Signal) and isinstance(b, Signal):
        raise node.refusal("multiplies two arrays that depend on the spectrum")
    signal, constant = (a, b) if isinstance(a, Signal) else (b, a)
    return scale(translation.layers, node, signal, "mul", constant)


def _build_quotient(translation: Translation, node: OnnxNode) -> Signal:
    return scale(
        translation.layers, node, translation.signal(node), "div", translation.constant(node, 1)
    )


def _build_negative(translation: Translation, node: OnnxNode) -> Signal:
    return scale(translation.layers, node, translation.signal(node), "mul", np.array(-1.0))


# --- normalizations


def _build_batch_norm(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    arrays = [translation.constant(node, i) for i in (1, 2, 3, 4)]
    node.ignore("momentum")
    if node.count("training_mode", 0):
        raise node.refusal(
            "takes its moments from the stars at hand", "export the model for inference"
        )
    if not signal.rank or any(array.shape != signal.shape[:1] for array in arrays):
        raise node.refusal(
            f"should have vectors of the channels of {signal.shape}", "the file is damaged"
        )
    gamma, beta, mean, variance = arrays
    n = len(gamma)
    n_rest = math.prod(signal.shape[1:])
    layer = BatchNorm(mean, variance, node.number("epsilon", 1e-5), axis=0 if n_rest > 1 else -1)
    output = translation.layers.view(
        translation.flush(node, signal), (n, n_rest) if n_rest > 1 else (n,)
    )
    return translation.put_weights(
        node, output, layer, {"gamma": gamma, "beta": beta}, signal.shape
    )


def _build_layer_norm(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    gamma = translation.constant(node, 1)
    beta = translation.constant(node, 2)
    node.ignore("stash_type")
    first = check_axis(node, node.count("axis", -1), signal.rank + 1) - 1
    if first < 0:
        raise node.refusal("takes all stars together", "give it the axes of one star")
    shapes = {"gamma": gamma, "beta": beta}
    arrays = {
        key: np.broadcast_to(a, signal.shape[first:]).ravel()
        for key, a in shapes.items()
        if a is not None
    }
    return put_layer_norm(translation, node, signal, first, node.number("epsilon", 1e-5), arrays)


def put_layer_norm(
    translation: Translation,
    node: OnnxNode,
    signal: Signal,
    first: int,
    epsilon: float,
    arrays: dict[str, Any],
) -> Signal:
    """Normalisation along the axes from `first` on."""
    n_rows = math.prod(signal.shape[:first])
    n = math.prod(signal.shape[first:])
    output = translation.layers.view(
        translation.flush(node, signal), (n_rows, n) if n_rows > 1 else (n,)
    )
    layer = LayerNorm(epsilon, scale="gamma" in arrays, center="beta" in arrays)
    return translation.put_weights(node, output, layer, arrays, signal.shape)


# --- activations


def _build_activation(name: str, **options: float) -> Builder:
    """Elementwise function with some of ONNX's options, here with their defaults, by symspec's names for them."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        read = {key: node.number("alpha", default) for key, default in options.items()}
        return translation.put(node, translation.signal(node), Activation(name, read))

    return build


def _build_selu(translation: Translation, node: OnnxNode) -> Signal:
    if any(
        not math.isclose(node.number(key, value), value, rel_tol=1e-5)
        for key, value in _SELU.items()
    ):
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
    bounds = []
    for i, key, default in ((1, "min", -_LARGEST), (2, "max", _LARGEST)):
        bound = translation.number(node, i, signal)
        bounds.append(node.get(key, default) if bound is None else bound)
    low, high = bounds
    if not low <= high:
        raise node.refusal(f"clips to {low:g} and {high:g}", "the file is damaged")
    if low == 0 and high >= _LARGEST:
        return translation.put(node, signal, Activation("relu"))
    options = {"minimum": max(float(low), -_LARGEST), "maximum": min(float(high), _LARGEST)}
    return translation.put(node, signal, Activation("clip", options))


def _build_bound(key: str) -> Builder:
    """The larger or the smaller of an array and a number, which is then its "minimum" or "maximum"."""

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


# --- what changes nothing


def _build_cast(translation: Translation, node: OnnxNode) -> Signal:
    if node.get("to") not in FLOATS:
        raise node.refusal("makes whole numbers of the spectrum's")
    node.ignore("saturate", "round_mode")
    return build_same(translation, node)


def _build_cast_like(translation: Translation, node: OnnxNode) -> Signal | np.ndarray:
    node.ignore("saturate", "round_mode")
    value = translation.find(node, 0)
    other = translation.find(node, 1)
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        return convert(node, value, other.dtype)
    if isinstance(value, np.ndarray):
        return convert(node, value, value.dtype if value.dtype.kind == "f" else np.float64)
    translation.signal(node, 1)  # which is of floats
    return build_same(translation, node)


def _build_dropout(translation: Translation, node: OnnxNode) -> Signal:
    rate = translation.constant(node, 1, node.get("ratio", 0.5))
    node.ignore("seed")
    if np.any(translation.constant(node, 2, False)):
        raise node.refusal("is to be random in use, too", "export the model for inference")
    return translation.put(node, translation.signal(node), Dropout(float(np.asarray(rate).item())))


BUILDERS: dict[str, Callable[[Translation, OnnxNode], Any]] = {
    "Gemm": _build_gemm,
    "MatMul": _build_matmul,
    "Conv": build_convolution,
    "Add": _build_sum,
    "Sum": _build_sum,
    "Sub": _build_difference,
    "Mul": _build_product,
    "Div": _build_quotient,
    "Neg": _build_negative,
    "BatchNormalization": _build_batch_norm,
    "LayerNormalization": _build_layer_norm,
    "Relu": _build_activation("relu"),
    "LeakyRelu": _build_activation("leaky_relu", negative_slope=0.01),
    "Elu": _build_activation("elu", alpha=1.0),
    "Selu": _build_selu,
    "Tanh": _build_activation("tanh"),
    "Sigmoid": _build_activation("sigmoid"),
    "Softplus": _build_activation("softplus"),
    "Gelu": _build_gelu,
    "Swish": _build_swish,
    "Clip": _build_clip,
    "Max": _build_bound("minimum"),
    "Min": _build_bound("maximum"),
    "MaxPool": build_pool(MaxPool1D),
    "AveragePool": build_pool(AveragePool1D),
    "GlobalMaxPool": build_global(take_largest),
    "GlobalAveragePool": build_global(take_mean),
    "ReduceMax": build_reduction(take_largest),
    "ReduceMean": build_reduction(take_mean),
    "Pad": build_padding,
    "Concat": build_concatenation,
    "Slice": build_slice,
    "Split": build_split,
    "Gather": build_gather,
    "Reshape": build_reshape,
    "Flatten": build_flatten,
    "Squeeze": build_squeeze,
    "Unsqueeze": build_unsqueeze,
    "Transpose": build_transpose,
    "Shape": build_shape,
    "Identity": build_same,
    "Cast": _build_cast,
    "CastLike": _build_cast_like,
    "Dropout": _build_dropout,
}
