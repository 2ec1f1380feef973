"""Sums and products with constants: a layer's bias, or fixed scalings by positive factors.

Steps are gathered until another operation takes the array. A sign then goes into the weights of the
layer before, if it is adjacent, or of the layer after.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from symspec.files.importers.onnx.arrays import LayerGraph, Output, Signal, Step
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.matching import HELD, MOST_AXES
from symspec.networks.convolutions import Conv1D
from symspec.networks.layers import Dense, Layer, Shape, Standardize, Unstandardize
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Permute

_MOST_STEPS = 16  # gathered before they become layers
_SIGNS = "put the sign into the kernel of the layer beside it"


def scale(
    graph: LayerGraph, node: OnnxNode, signal: Signal, operation: str, constant: np.ndarray
) -> Signal:
    """Add a constant to a signal, or multiply or divide the signal by it.

    Parameters
    ----------
    graph : LayerGraph
    node : OnnxNode
        Used in errors.
    signal : Signal
    operation : {"add", "mul", "div"}
    constant : numpy.ndarray
        Its shape must broadcast to the signal's.
    """
    array = _align(node, signal.shape, constant)
    if operation == "div" and not array.all():
        raise node.refusal(
            "divides by zero",
            "a feature that never varied has no scale: export the model without it",
        )
    if signal.n_uses > 1 or len(signal.steps) >= _MOST_STEPS:
        signal = Signal(flush(graph, node, signal), signal.shape)
    if signal.is_own and not signal.steps and _take_block(signal, operation, array):
        return signal
    if operation == "mul" and array.size == 1 and signal.steps and signal.steps[-1][0] == "mul":
        *before, (_, last) = signal.steps  # one factor instead of two
        return dataclasses.replace(signal, steps=(*before, ("mul", last * array)))
    shapes = [held.shape for _, held in signal.steps]
    graph.count(HELD * math.prod(np.broadcast_shapes(array.shape, *shapes)))
    return dataclasses.replace(signal, steps=(*signal.steps, (operation, array)))


def reshape(graph: LayerGraph, node: OnnxNode, signal: Signal, shape: Shape) -> Signal:
    """Give the numbers of a signal another shape."""
    if len(shape) > MOST_AXES:
        raise node.refusal(f"makes an array of {len(shape)} axes", "the file is damaged")
    steps = _reshape_steps(signal, shape)
    if steps is None or signal.n_uses > 1:
        return Signal(flush(graph, node, signal), shape)
    return dataclasses.replace(signal, shape=shape, steps=steps)


def _align(node: OnnxNode, shape: Shape, constant: np.ndarray) -> np.ndarray:
    """Give a constant as many axes as one star's array; it must broadcast to that array."""
    if constant.dtype.kind != "f":
        raise node.refusal(
            f"joins floats with numbers of type {constant.dtype}", "the file is damaged"
        )
    array = np.asarray(constant, np.float64)
    if array.ndim == len(shape) + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim < len(shape):
        array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    fits = array.ndim == len(shape) and all(
        n in (1, length) for n, length in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise node.refusal(
            f"joins a star's array of shape {shape} with a constant of {constant.shape}"
        )
    return array


def _reshape_steps(signal: Signal, shape: Shape) -> tuple[Step, ...] | None:
    """Reshape the steps of a signal; None if they act on axes that are lost."""
    held = [axis for axis, n in enumerate(signal.shape) if n != 1]
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    is_same = [signal.shape[axis] for axis in held] == [shape[axis] for axis in kept]
    steps = []
    for operation, array in signal.steps:
        lengths = [1] * len(shape)
        if is_same:
            for old, new in zip(held, kept, strict=True):
                lengths[new] = array.shape[old]
        elif array.size != 1:
            return None
        steps.append((operation, array.reshape(lengths)))
    return tuple(steps)


# --- into the weights of the layer before


def _take_block(signal: Signal, operation: str, array: np.ndarray) -> bool:
    """Let a constant become a missing bias, gamma or beta of the layer before; tell if it can."""
    owner, axis = _find_owner(signal.output)
    found = _add_block(owner.layer, operation)
    if found is None:
        return False
    vector = vector_along(array, signal.shape, signal.output.shape, axis)
    if vector is None or vector.size != array.size:
        return False
    name, owner.layer = found
    owner.arrays[name] = vector
    return True


def _find_owner(output: Output) -> tuple[Output, int]:
    """Find the layer whose weights make an output, perhaps swapped since; with the feature axis."""
    is_swapped = isinstance(output.layer, Permute)
    owner = output.sources[0] if is_swapped else output
    axis = -1
    if isinstance(owner.layer, Conv1D):
        axis = 0
    elif isinstance(owner.layer, BatchNorm):
        axis = owner.layer.axis
    axis %= len(owner.shape)
    return owner, 1 - axis if is_swapped else axis


def _add_block(layer: object, operation: str) -> tuple[str, Layer] | None:
    """Find the block that a sum or product after a layer may become; with the layer that has it."""
    if isinstance(layer, Dense | Conv1D) and operation == "add" and not layer.use_bias:
        return "bias", dataclasses.replace(layer, use_bias=True)
    if isinstance(layer, LayerNorm) and operation == "add" and not layer.center:
        return "beta", dataclasses.replace(layer, center=True)
    if isinstance(layer, LayerNorm) and operation == "mul" and not (layer.scale or layer.center):
        return "gamma", dataclasses.replace(layer, scale=True)
    return None


def vector_along(array: np.ndarray, shape: Shape, other: Shape, axis: int) -> np.ndarray | None:
    """Vector of a constant that differs along one axis only; None if it differs along others.

    Parameters
    ----------
    array : numpy.ndarray
        A constant that broadcasts to `shape`.
    shape, other : tuple of int
        Two shapes of the same numbers.
    axis : int
        Axis of `other`, which may be several ones of `shape`.
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
    """Multiply the weights of the layer before by signs; return the other steps, None if it fails.

    It fails where another layer sees the weights, or signs differ along other axes than features.
    """
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
    """Sign of the product of all factors, of length 1 along axes of equal signs.

    It is 0 where a factor is 0, and None if all signs are positive.
    """
    signs = np.ones(1)
    for operation, array in signal.steps:
        if operation != "add":
            signs = signs * np.sign(array)
    for axis in range(signs.ndim):
        first = signs.take([0], axis)
        signs = first if np.all(signs == first) else signs
    return None if np.all(signs > 0) else signs


def _without_signs(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Make all factors positive; the product of their signs is to be applied after the steps.

    For steps in reverse order it is to be applied before them.
    """
    signs = np.ones(())
    positive = []
    for operation, array in steps:
        if operation == "add":
            positive.append((operation, array * signs))
        else:
            signs = signs * np.sign(array)
            positive.append((operation, np.where(array == 0, 1, np.abs(array))))
    return tuple(positive)


# --- into layers of their own


def flush(graph: LayerGraph, node: OnnxNode, signal: Signal) -> Output:
    """Add layers for the steps of a signal; return their output.

    Raises
    ------
    FileFormatError
        A factor is negative or zero, and no layer takes its sign.
    """
    return settle(graph, node, signal)[0]


def settle(
    graph: LayerGraph, node: OnnxNode, signal: Signal, axis: int | None = None
) -> tuple[Output, np.ndarray | None]:
    """Add layers for the steps of a signal before a layer whose kernel may take their signs.

    Parameters
    ----------
    graph : LayerGraph
    node : OnnxNode
        The node of that layer.
    signal : Signal
    axis : int, optional
        Axis of the features that its kernel multiplies, if it has a kernel.

    Returns
    -------
    Output
    numpy.ndarray or None
        Signs of the features, by which to multiply the kernel.
    """
    signs = _find_signs(signal)
    if signal not in graph.settled:
        steps = _without_signs(signal.steps) if signs is None else _fold_back(signal, signs)
        if steps is not None:
            graph.settled[signal] = _put_steps(graph, node, signal, steps)
    if signal in graph.settled:
        return graph.settled[signal], None
    if axis is not None and signs is not None and signs.all():
        vector = vector_along(signs, signal.shape, signal.shape, axis)
        if vector is not None:
            return _put_steps(graph, node, signal, _without_signs(signal.steps)), vector
    graph.settled[signal] = _put_affine(graph, node, signal)
    return graph.settled[signal], None


def _put_steps(graph: LayerGraph, node: OnnxNode, signal: Signal, steps: Sequence[Step]) -> Output:
    """Add steps of positive factors, in pairs, as (x - mean) / scale or x * scale + mean."""
    output = signal.output
    waiting = [step for step in steps if np.any(step[1] != (0 if step[0] == "add" else 1))]
    while waiting:
        kind, mean, factor = _take_pair(waiting)
        with node.refusing():
            output = _put_scaling(graph, node, output, signal.shape, kind, mean, factor)
    return output


def _take_pair(
    steps: list[Step],
) -> tuple[type[Standardize] | type[Unstandardize], np.ndarray, np.ndarray]:
    """Take the first step from a list, or the first two if one layer can do both."""
    operation, array = steps.pop(0)
    following = steps[0][0] if steps else ""
    if operation == "add" and following in ("mul", "div"):
        factor = steps.pop(0)[1]
        return Standardize, -array, factor if following == "div" else 1 / factor
    if operation == "add":
        return Unstandardize, array, np.ones(())
    if following == "add":
        return Unstandardize, steps.pop(0)[1], array if operation == "mul" else 1 / array
    return Unstandardize if operation == "mul" else Standardize, np.zeros(()), array


def _put_scaling(
    graph: LayerGraph,
    node: OnnxNode,
    output: Output,
    shape: Shape,
    kind: type[Standardize] | type[Unstandardize],
    mean: np.ndarray,
    factor: np.ndarray,
) -> Output:
    """Add (x - mean) / factor, or x * factor + mean, along the axes where these numbers differ.

    Along the first axis it is a batch normalisation without gamma and beta.
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
    mean = np.broadcast_to(mean, whole).ravel()
    factor = np.broadcast_to(factor, whole).ravel()
    if after == 1:
        output = graph.view(output, (before, n) if before > 1 else (n,))
        return graph.put(output, kind(mean, factor))
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
    """Build (x - mean) / factor along the first axis."""
    return BatchNorm(mean, factor**2, epsilon=0.0, scale=False, center=False, axis=0)


def _put_affine(graph: LayerGraph, node: OnnxNode, signal: Signal) -> Output:
    """Add steps with factors of any sign as gamma and beta of a batch normalisation.

    As gamma and beta are weights, this is only done behind other weights.
    """
    factor = np.ones(())
    shift = np.zeros(())
    for operation, array in signal.steps:
        if operation == "add":
            shift = shift + array
        else:
            array = array if operation == "mul" else 1 / array
            factor = factor * array
            shift = shift * array
    shift = shift + 0 * factor
    for axis in {0, signal.rank - 1} & set(range(signal.rank)):
        n = signal.shape[axis]
        n_rest = math.prod(signal.shape) // n
        if not signal.output.has_weights or not factor.size == n > 1:
            continue
        gamma = vector_along(factor, signal.shape, signal.shape, axis)
        beta = vector_along(shift, signal.shape, signal.shape, axis)
        if gamma is None or beta is None:
            continue
        is_first = axis == 0 and n_rest > 1
        shape: Shape = (n, n_rest) if is_first else (n_rest, n)
        if n_rest == 1:
            shape = (n,)
        norm = BatchNorm(np.zeros(n), np.ones(n), epsilon=0.0, axis=0 if is_first else -1)
        output = graph.view(signal.output, shape)
        return graph.put(output, norm, node.name, {"gamma": gamma, "beta": beta})
    raise node.refusal("takes what has been multiplied by negative numbers or zero", _SIGNS)
