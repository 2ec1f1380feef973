"""ONNX's operations as symspec's layers: the table BUILDERS has a function for each operation.

A new operation takes a function and a line in BUILDERS. The function asks the node for its options
(others are refused) and the translation for its inputs, and returns the Signal that the node makes.
Nodes that take constants alone are in `constants`, layers of several operations in `patterns`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from symspec.files.importers.onnx.activations import ACTIVATIONS
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
from symspec.networks.layers import Dense, Dropout, PReLU
from symspec.networks.normalizations import BatchNorm, LayerNorm

# --- layers with weights


def _build_gemm(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    kernel = translation.kernel(node, 1)
    bias = translation.optional_constant(node, 2)
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
    # a kernel of more axes would add them to the product
    while 2 < kernel.ndim <= signal.rank + 1 and kernel.shape[0] == 1:
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
    """Multiply the last axis by a kernel (in, out)."""
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
    """Broadcast a constant to one number a feature."""
    if array.shape not in ((), (1,), (n,), (1, 1), (1, n)):
        raise node.refusal(
            f"should have {n} numbers a layer, got a constant of shape {array.shape}"
        )
    return np.broadcast_to(array.ravel(), n)


# --- sums and products


def _build_sum(translation: Translation, node: OnnxNode) -> Signal:
    """Add the signals, and the constants to their sum."""
    values = [translation.find(node, i) for i in range(len(node.inputs))]
    signals = [value for value in values if isinstance(value, Signal)]
    total = build_same(translation, node) if len(values) == 1 else _add(translation, node, signals)
    for value in values:
        if isinstance(value, np.ndarray):
            total = scale(translation.layers, node, total, "add", value)
    return total


def _add(translation: Translation, node: OnnxNode, signals: Sequence[Signal]) -> Signal:
    """Add signals of one shape; a single one is returned as it is."""
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
    negative = scale(translation.layers, node, translation.signal(node, 1), "mul", np.array(-1.0))
    if isinstance(first, np.ndarray):
        return scale(translation.layers, node, negative, "add", first)
    return _add(translation, node, [translation.signal(node), negative])


def _build_product(translation: Translation, node: OnnxNode) -> Signal:
    first = translation.find(node, 0)
    second = translation.find(node, 1)
    if isinstance(first, Signal) and isinstance(second, Signal):
        return _multiply(translation, node, [first, second])
    i = 0 if isinstance(first, Signal) else 1
    signal = translation.signal(node, i)
    return scale(translation.layers, node, signal, "mul", translation.constant(node, 1 - i))


def _multiply(translation: Translation, node: OnnxNode, signals: Sequence[Signal]) -> Signal:
    """Multiply signals of one shape, but for axes of length 1 and missing ones before the first."""
    rank = max(signal.rank for signal in signals)
    shapes = [(1,) * (rank - signal.rank) + signal.shape for signal in signals]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        raise node.refusal(
            f"multiplies arrays of shapes {', '.join(map(str, shapes))} a star",
            "the file is damaged",
        ) from None
    if len({signal.rank for signal in signals}) > 1:
        raise node.refusal(
            f"multiplies arrays of shapes {', '.join(str(s.shape) for s in signals)} a star, whose"
            " axes are those of the stars and others"
        )
    outputs = [translation.flush(node, signal) for signal in signals]
    views = [
        translation.layers.view(output, own) for output, own in zip(outputs, shapes, strict=True)
    ]
    return Signal(translation.layers.multiply(views), shape)


def _build_quotient(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    return scale(translation.layers, node, signal, "div", translation.constant(node, 1))


def _build_negative(translation: Translation, node: OnnxNode) -> Signal:
    return scale(translation.layers, node, translation.signal(node), "mul", np.array(-1.0))


# --- normalizations


def _build_batch_norm(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    gamma, beta, mean, variance = (translation.constant(node, i) for i in (1, 2, 3, 4))
    node.ignore("momentum")
    if node.count("training_mode", 0):
        raise node.refusal(
            "takes its moments from the stars at hand", "export the model for inference"
        )
    shapes = {array.shape for array in (gamma, beta, mean, variance)}
    if not signal.rank or shapes != {signal.shape[:1]}:
        raise node.refusal(
            f"should have vectors of the channels of {signal.shape}", "the file is damaged"
        )
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
    blocks = {
        "gamma": translation.optional_constant(node, 1),
        "beta": translation.optional_constant(node, 2),
    }
    node.ignore("stash_type")
    first = check_axis(node, node.count("axis", -1), signal.rank + 1) - 1
    if first < 0:
        raise node.refusal("takes all stars together", "give it the axes of one star")
    arrays = {
        key: np.broadcast_to(array, signal.shape[first:]).ravel()
        for key, array in blocks.items()
        if array is not None
    }
    return put_layer_norm(translation, node, signal, first, node.number("epsilon", 1e-5), arrays)


def put_layer_norm(
    translation: Translation,
    node: OnnxNode,
    signal: Signal,
    first: int,
    epsilon: float,
    arrays: Mapping[str, np.ndarray],
) -> Signal:
    """Normalise along the axes from `first` on."""
    n_rows = math.prod(signal.shape[:first])
    n = math.prod(signal.shape[first:])
    output = translation.layers.view(
        translation.flush(node, signal), (n_rows, n) if n_rows > 1 else (n,)
    )
    layer = LayerNorm(epsilon, scale="gamma" in arrays, center="beta" in arrays)
    return translation.put_weights(node, output, layer, arrays, signal.shape)


# --- operations that change nothing


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
    translation.signal(node, 1)  # signals are floats
    return build_same(translation, node)


def _build_dropout(translation: Translation, node: OnnxNode) -> Signal:
    ratio = node.get("ratio", 0.5)  # until opset 12
    rate = translation.optional_constant(node, 1)
    rate = np.asarray(ratio) if rate is None else rate
    node.ignore("seed")
    is_training = translation.optional_constant(node, 2)
    if is_training is not None and is_training.any():
        raise node.refusal("is to be random in use, too", "export the model for inference")
    return translation.put(node, translation.signal(node), Dropout(float(rate.item())))


def _build_scaler(translation: Translation, node: OnnxNode) -> Signal:
    """Build (x - offset) * scale, as scikit-learn's scalers are written."""
    signal = translation.signal(node)
    offset = np.asarray(node.get("offset", np.zeros(1)), np.float64)
    factor = np.asarray(node.get("scale", np.ones(1)), np.float64)
    if signal.rank != 1 or not {offset.size, factor.size} <= {1, *signal.shape}:
        raise node.refusal(
            f"scales arrays of shape {signal.shape} a star by {offset.size} and {factor.size}"
            " numbers",
            "the file is damaged",
        )
    centred = scale(translation.layers, node, signal, "add", -offset)
    return scale(translation.layers, node, centred, "mul", factor)


def _build_prelu(translation: Translation, node: OnnxNode) -> Signal:
    signal = translation.signal(node)
    slope = translation.kernel(node, 1)
    if slope.ndim == signal.rank + 1 and slope.shape[0] == 1:
        slope = slope[0]
    if slope.ndim < signal.rank:
        slope = slope.reshape((1,) * (signal.rank - slope.ndim) + slope.shape)
    output = translation.layers.view(translation.flush(node, signal), signal.shape)
    layer = PReLU(slope.shape)
    return translation.put_weights(node, output, layer, {"alpha": slope}, signal.shape)


BUILDERS: dict[str, Builder] = {
    "ai.onnx.ml.Scaler": _build_scaler,
    "PRelu": _build_prelu,
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
    **ACTIVATIONS,
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
