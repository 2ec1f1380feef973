"""Sums and products with constants: a layer's bias, or fixed scalings, whose factors are positive.

Steps are gathered until something else takes the array. A sign then goes into the weights of the
layer before, if nothing stands between, or of the layer behind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from symspec.files.importers.onnx.arrays import LayerGraph, Output, Signal, Step
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.protobuf import MOST_AXES
from symspec.files.matching import HELD
from symspec.networks.convolutions import Conv1D
from symspec.networks.layers import Dense, Layer, Shape, Standardize, Unstandardize
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Permute

_MOST_STEPS = 16  # to look at together
_SIGNS = "put the sign into the kernel of the layer beside it"


def scale(
    graph: LayerGraph, node: OnnxNode, signal: Signal, word: str, constant: np.ndarray
) -> Signal:
    """Signal plus, times or over a constant.

    Parameters
    ----------
    graph : LayerGraph
    node : OnnxNode
        Used in errors.
    signal : Signal
    word : {"add", "mul", "div"}
    constant : numpy.ndarray
        Of a shape that leaves the signal's own as it is.
    """
    array = _align(node, signal.shape, constant)
    if word == "div" and not array.all():
        raise node.refusal(
            "divides by zero",
            "a feature that never varied has no scale: export the model without it",
        )
    if signal.n_uses > 1 or len(signal.steps) >= _MOST_STEPS:
        signal = Signal(flush(graph, node, signal), signal.shape)
    if signal.is_own and not signal.steps and _take_block(signal, word, array):
        return signal
    if word == "mul" and array.size == 1 and signal.steps and signal.steps[-1][0] == "mul":
        *before, (_, last) = signal.steps  # one factor of two
        return dataclasses.replace(signal, steps=(*before, (word, last * array)))
    shapes = [held.shape for _, held in signal.steps]
    graph.count(HELD * math.prod(np.broadcast_shapes(array.shape, *shapes)))
    return dataclasses.replace(signal, steps=(*signal.steps, (word, array)))


def reshape(graph: LayerGraph, node: OnnxNode, signal: Signal, shape: Shape) -> Signal:
    """The same numbers in another shape."""
    if len(shape) > MOST_AXES:
        raise node.refusal(f"makes an array of {len(shape)} axes", "the file is damaged")
    steps = _reshape_steps(signal, shape)
    if steps is None or signal.n_uses > 1:
        return Signal(flush(graph, node, signal), shape)
    return dataclasses.replace(signal, shape=shape, steps=steps)


def _align(node: OnnxNode, shape: Shape, constant: np.ndarray) -> np.ndarray:
    """Constant with as many axes as one star's array, whose shape it does not change."""
    if constant.dtype.kind != "f":
        raise node.refusal(
            f"joins floats with numbers of type {constant.dtype}", "the file is damaged"
        )
    array = np.asarray(constant, np.float64)
    if array.ndim == len(shape) + 1 and array.shape[0] == 1:
        array = array[0]
    array = (
        array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
        if array.ndim < len(shape)
        else array
    )
    fits = array.ndim == len(shape) and all(
        n in (1, length) for n, length in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise node.refusal(
            f"joins a star's array of shape {shape} with a constant of {constant.shape}"
        )
    return array


def _reshape_steps(signal: Signal, shape: Shape) -> tuple[Step, ...] | None:
    """A signal's steps for the same numbers in another shape; None where they act on axes that are there no more."""
    held = [axis for axis, n in enumerate(signal.shape) if n != 1]
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    is_same = [signal.shape[axis] for axis in held] == [shape[axis] for axis in kept]
    steps = []
    for word, array in signal.steps:
        lengths = [1] * len(shape)
        if is_same:
            for old, new in zip(held, kept, strict=True):
                lengths[new] = array.shape[old]
        elif array.size != 1:
            return None
        steps.append((word, array.reshape(lengths)))
    return tuple(steps)


# --- into the weights of the layer before


def _take_block(signal: Signal, word: str, array: np.ndarray) -> bool:
    """Let a constant be the bias, gamma or beta of the layer before, if that has none yet; whether it does."""
    owner, axis = _find_owner(signal.output)
    name, option = _find_free_block(owner.layer, word)
    vector = vector_along(array, signal.shape, signal.output.shape, axis) if name else None
    if vector is None or vector.size != array.size:
        return False
    owner.layer = dataclasses.replace(owner.layer, **{option: True})
    owner.arrays[name] = vector
    return True


def _find_owner(output: Output) -> tuple[Output, int]:
    """The layer whose weights make an output, and the axis of its features; axes may have been exchanged since."""
    is_swapped = isinstance(output.layer, Permute)
    owner = output.sources[0] if is_swapped else output
    layer = owner.layer
    axis = 0 if isinstance(layer, Conv1D) else layer.axis if isinstance(layer, BatchNorm) else -1
    axis %= len(owner.shape)
    return owner, 1 - axis if is_swapped else axis


def _find_free_block(layer: Layer | type[Layer], word: str) -> tuple[str, str]:
    """The block that a sum or a product after a layer may become, and the option that makes room for it."""
    if isinstance(layer, Dense | Conv1D) and word == "add" and not layer.use_bias:
        return "bias", "use_bias"
    if isinstance(layer, LayerNorm) and word == "add" and not layer.center:
        return "beta", "center"
    if isinstance(layer, LayerNorm) and word == "mul" and not (layer.scale or layer.center):
        return "gamma", "scale"
    return "", ""


def vector_along(array: np.ndarray, shape: Shape, other: Shape, axis: int) -> np.ndarray | None:
    """A constant that differs along one axis only, as a vector; None where it differs along others.

    Parameters
    ----------
    array : numpy.ndarray
        As it meets an array of `shape`.
    shape, other : tuple of int
        Of the same numbers.
    axis : int
        Of `other`; of `shape` it may be several.
    """
    axis %= len(other)
    if array.size == 1:
        return np.broadcast_to(array.ravel(), other[axis])
    before = math.prod(other[:axis])
    after = math.prod(other[axis + 1 :])
    rank = len(shape)
    first = next((i for i in range(rank + 1) if math.prod(shape[:i]) == before), rank)
    stop = next((i for i in range(rank, first, -1) if math.prod(shape[i:]) == after), first)
    if stop == first or any(n != 1 for i, n in enumerate(array.shape) if not first <= i < stop):
        return None
    return np.broadcast_to(array.reshape(array.shape[first:stop]), shape[first:stop]).ravel()


def _fold_back(signal: Signal, signs: np.ndarray) -> tuple[Step, ...] | None:
    """Multiply the weights of the layer before by signs; gives the steps that are left, None if it cannot take them."""
    owner, axis = _find_owner(signal.output)
    if not signal.is_own or not {"kernel", "gamma"} & set(owner.arrays):
        return None
    vector = vector_along(signs, signal.shape, signal.output.shape, axis)
    if vector is None:
        return None
    for name, array in owner.arrays.items():
        owner.arrays[name] = array * vector  # features are the last axis of all
    return _without_signs(signal.steps[::-1])[::-1]


def _find_signs(signal: Signal) -> np.ndarray | None:
    """Signs of all factors together, 0 where one is, of length 1 where alike; None where all are positive."""
    factors = [np.sign(array) for word, array in signal.steps if word != "add"]
    signs = math.prod(factors) if factors else np.ones(1)
    for axis in range(signs.ndim):
        first = signs.take([0], axis)
        signs = first if (signs == first).all() else signs
    return None if (signs > 0).all() else signs


def _without_signs(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps with positive factors, where the product of all signs is taken behind them.

    Of steps in reverse order, it is taken before them.
    """
    signs = np.ones(())
    left = []
    for word, array in steps:
        if word == "add":
            left.append((word, array * signs))
        else:
            signs = signs * np.sign(array)
            left.append((word, np.where(array == 0, 1, np.abs(array))))
    return tuple(left)


# --- into layers of their own


def flush(graph: LayerGraph, node: OnnxNode, signal: Signal) -> Output:
    """Put down a signal's steps; gives what comes out of them.

    Raises
    ------
    FileFormatError
        A factor is negative or zero, and no layer takes its sign.
    """
    return settle(graph, node, signal)[0]


def settle(
    graph: LayerGraph, node: OnnxNode, signal: Signal, axis: int | None = None
) -> tuple[Output, np.ndarray | None]:
    """Put down a signal's steps before a layer whose kernel may take their signs.

    Parameters
    ----------
    graph : LayerGraph
    node : OnnxNode
        That of the layer.
    signal : Signal
    axis : int, optional
        Of the features that the kernel multiplies.

    Returns
    -------
    Output
    numpy.ndarray or None
        Signs of the features, which the kernel has to take.
    """
    signs = _find_signs(signal)
    if signal not in graph.settled:
        steps = _without_signs(signal.steps) if signs is None else _fold_back(signal, signs)
        if steps is not None:
            graph.settled[signal] = _put_steps(graph, node, signal, steps)
    if signal in graph.settled:
        return graph.settled[signal], None
    vector = (
        None
        if axis is None or not signs.all()
        else vector_along(signs, signal.shape, signal.shape, axis)
    )
    if vector is not None:
        return _put_steps(graph, node, signal, _without_signs(signal.steps)), vector
    graph.settled[signal] = _put_affine(graph, node, signal)
    return graph.settled[signal], None


def _put_steps(graph: LayerGraph, node: OnnxNode, signal: Signal, steps: Sequence[Step]) -> Output:
    """Steps, whose factors are positive, as (x - mean) / scale or x * scale + mean, two and two."""
    output = signal.output
    steps = [(word, array) for word, array in steps if (array != (0 if word == "add" else 1)).any()]
    while steps:
        word, array = steps.pop(0)
        follows = steps[0][0] if steps else ""
        if word == "add" and follows in ("mul", "div"):
            factor = steps.pop(0)[1]
            kind = Standardize
            mean = -array
            factor = factor if follows == "div" else 1 / factor
        elif word == "add":
            kind = Unstandardize
            mean = array
            factor = np.ones(())
        elif follows == "add":
            kind = Unstandardize
            mean = steps.pop(0)[1]
            factor = array if word == "mul" else 1 / array
        else:
            kind = Unstandardize if word == "mul" else Standardize
            mean = np.zeros(())
            factor = array
        with node.refusing():
            output = _put_scaling(graph, node, output, signal.shape, kind, mean, factor)
    return output


def _put_scaling(
    graph: LayerGraph,
    node: OnnxNode,
    output: Output,
    shape: Shape,
    kind: type[Standardize | Unstandardize],
    mean: np.ndarray,
    factor: np.ndarray,
) -> Output:
    """Let (x - mean) / factor, or x * factor + mean, act along the axes of `shape` where these numbers differ.

    Along the first axis that is a normalisation of fixed moments without gamma and beta.
    """
    if mean.size == factor.size == 1:
        n = output.shape[-1]
        graph.count(HELD * n)
        return graph.put(output, kind(np.full(n, mean.item()), np.full(n, factor.item())))
    lengths = np.broadcast_shapes(mean.shape, factor.shape)
    varying = [axis for axis, n in enumerate(lengths) if n != 1]
    first = varying[0]
    last = varying[-1]
    within = shape[first : last + 1]
    after = math.prod(shape[last + 1 :])
    before = math.prod(shape[:first])
    n = math.prod(within)
    graph.count(HELD * n)
    whole = (1,) * first + within + (1,) * (len(shape) - last - 1)
    mean, factor = (np.broadcast_to(a, whole).ravel() for a in (mean, factor))
    if after == 1:
        return graph.put(
            graph.view(output, (before, n) if before > 1 else (n,)), kind(mean, factor)
        )
    if before > 1:
        raise node.refusal(
            f"scales the axes {within} in the middle of {shape}",
            "symspec scales the first or the last",
        )
    output = graph.view(output, (n, after))
    if kind is Standardize:
        return graph.put(output, _fix_moments(mean, factor))
    return graph.put(output, _fix_moments(-mean / factor, 1 / factor))


def _fix_moments(mean: np.ndarray, factor: np.ndarray) -> Layer:
    """(x - mean) / factor along the first axis."""
    return BatchNorm(mean, factor**2, epsilon=0.0, scale=False, center=False, axis=0)


def _put_affine(graph: LayerGraph, node: OnnxNode, signal: Signal) -> Output:
    """Steps as gamma and beta of a normalisation, of any sign: only behind weights, as these are some themselves."""
    factor = np.ones(())
    shift = np.zeros(())
    for word, array in signal.steps:
        if word == "add":
            shift = shift + array
        else:
            array = array if word == "mul" else 1 / array
            factor = factor * array
            shift = shift * array
    shift = shift + 0 * factor
    for axis in {0, signal.rank - 1} & set(range(signal.rank)):
        n = signal.shape[axis]
        n_rest = math.prod(signal.shape) // signal.shape[axis]
        if not signal.output.has_weights or not factor.size == n > 1:
            continue
        gamma, beta = (vector_along(a, signal.shape, signal.shape, axis) for a in (factor, shift))
        if gamma is not None and beta is not None:
            is_first = axis == 0 and n_rest > 1
            shape = (n, n_rest) if is_first else (n_rest, n) if n_rest > 1 else (n,)
            norm = BatchNorm(np.zeros(n), np.ones(n), epsilon=0.0, axis=0 if is_first else -1)
            return graph.put(
                graph.view(signal.output, shape), norm, node.name, gamma=gamma, beta=beta
            )
    raise node.refusal("takes what has been multiplied by negative numbers or zero", _SIGNS)
