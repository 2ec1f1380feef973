"""Operations that move numbers, join arrays or take pieces of them.

Axes of length 1 come and go in a graph; the others determine the layer. `before` and `after` are
the products of the lengths of one star's axes before and after the one acted on.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from symspec.files.importers.onnx.arrays import Output, Signal
from symspec.files.importers.onnx.constants import check_axis, cut_shape, read_slices
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.scalings import reshape
from symspec.files.importers.onnx.translation import STARS, Translation
from symspec.networks.convolutions import ZeroPadding1D
from symspec.networks.layers import Shape


def build_same(translation: Translation, node: OnnxNode) -> Signal:
    """Build the signal itself, under another name."""
    signal = translation.signal(node)
    return reshape(translation.layers, node, signal, signal.shape)


def build_shape(translation: Translation, node: OnnxNode) -> np.ndarray:
    """Make the shape of a signal, with an open number of stars."""
    return cut_shape(node, (STARS, *translation.signal(node).shape))


def build_reshape(translation: Translation, node: OnnxNode) -> Signal:
    """Give the numbers another shape."""
    signal = translation.signal(node)
    target = translation.integers(node, 1, "shape", with_stars=True)
    keeps_zeros = node.get("allowzero", 0)
    if is_column_of_labels(translation, node):
        return build_same(translation, node)
    whole = (STARS, *signal.shape)
    lengths = [
        whole[i] if n == 0 and not keeps_zeros and i < len(whole) else n
        for i, n in enumerate(target)
    ]
    first = lengths[0] if lengths else 0
    rest = lengths[1:]
    n = math.prod(signal.shape)
    if first in (STARS, *translation.n_stars) and rest.count(-1) == 1 and 0 not in rest:
        rest[rest.index(-1)] = n // abs(math.prod(rest))
    has_stars = first in (-1, STARS) or first >= 1
    if not has_stars or min(rest, default=1) < 1 or math.prod(rest) != n:
        raise node.refusal(
            f"makes an array of shape {str(target)[:100]} of one of shape {signal.shape} a star",
            "symspec keeps the stars apart: export the model so that the first axis is theirs"
            " throughout",
        )
    translation.n_stars |= {first} - {-1, STARS}  # of the example that the exporter was given
    return reshape(translation.layers, node, signal, tuple(rest))


def is_column_of_labels(translation: Translation, node: OnnxNode) -> bool:
    """Whether a node ends the graph with the labels of all stars below each other.

    So skl2onnx does with several labels of an `MLPRegressor`. They are in the order (star, label).
    """
    is_end = node.op == "Reshape" and node.outputs[0] in translation.graph.outputs
    if not is_end or translation.uses[node.outputs[0]] > 1 or translation.signal(node).rank != 1:
        return False
    return translation.integers(node, 1, "shape", with_stars=True) == [-1, 1]


def build_flatten(translation: Translation, node: OnnxNode) -> Signal:
    """Flatten one star's axes."""
    signal = translation.signal(node)
    axis = node.count("axis", 1)
    axis = axis + signal.rank + 1 if axis < 0 else axis
    if axis < 1 or math.prod(signal.shape[: axis - 1]) != 1:
        raise node.refusal(f"joins the stars with other axes of {signal.shape}")
    return reshape(translation.layers, node, signal, (math.prod(signal.shape),))


def build_squeeze(translation: Translation, node: OnnxNode) -> Signal:
    """Drop axes of length 1."""
    signal = translation.signal(node)
    axes = translation.optional_integers(node, 1, "axes")
    if axes is None and 1 in translation.n_stars:
        raise node.refusal(
            "leaves out the axis of one star, too", "export the model with an open number of stars"
        )
    axes = [i + 1 for i, n in enumerate(signal.shape) if n == 1] if axes is None else axes
    axes = check_axes(node, axes, signal.rank)
    if any(signal.shape[axis] != 1 for axis in axes):
        raise node.refusal(f"leaves out the axes {axes} of {signal.shape}", "the file is damaged")
    shape = tuple(n for axis, n in enumerate(signal.shape) if axis not in axes)
    return reshape(translation.layers, node, signal, shape)


def build_unsqueeze(translation: Translation, node: OnnxNode) -> Signal:
    """Insert axes of length 1."""
    signal = translation.signal(node)
    axes = translation.optional_integers(node, 1, "axes") or []
    shape = []
    lengths = list(signal.shape)
    axes = check_axes(node, axes, signal.rank + len(axes))
    for axis in range(signal.rank + len(axes)):
        shape.append(1 if axis in axes else lengths.pop(0))
    return reshape(translation.layers, node, signal, tuple(shape))


def check_axes(node: OnnxNode, axes: list[int], rank: int) -> list[int]:
    """Axes of one star's array of this rank, sorted; the graph counts that of the stars, too."""
    counted = sorted({check_axis(node, axis, rank + 1) - 1 for axis in axes})
    if -1 in counted:
        raise node.refusal("acts along the axis of the stars", "symspec keeps them apart")
    return counted


def build_transpose(translation: Translation, node: OnnxNode) -> Signal:
    """Permute axes: apart from those of length 1, some of the last ones come first."""
    signal = translation.signal(node)
    order = list(node.get("perm") or range(signal.rank, -1, -1))
    if sorted(order) != list(range(signal.rank + 1)) or order[0] != 0:
        raise node.refusal(f"puts axes into the order {order}", "symspec keeps the stars first")
    order = [axis - 1 for axis in order[1:]]
    shape = tuple(signal.shape[axis] for axis in order)
    kept = [axis for axis in order if signal.shape[axis] != 1]
    if kept == sorted(kept):
        return reshape(translation.layers, node, signal, shape)
    n_last = sorted(kept).index(kept[0])
    if kept != sorted(kept)[n_last:] + sorted(kept)[:n_last]:
        raise node.refusal(
            f"puts axes of {signal.shape} into the order {order}", "symspec exchanges two of them"
        )
    signal = reshape(translation.layers, node, signal, signal.shape)
    first = math.prod(signal.shape[axis] for axis in sorted(kept)[:n_last])
    output = translation.layers.view(signal.output, (first, math.prod(signal.shape) // first))
    steps = tuple((step, array.transpose(order)) for step, array in signal.steps)
    return dataclasses.replace(
        signal, output=translation.layers.swap(output), shape=shape, steps=steps
    )


# --- pieces


def _cut(
    translation: Translation, node: OnnxNode, signal: Signal, axis: int, start: int, stop: int
) -> Signal:
    """Take neighbours along one axis."""
    n = signal.shape[axis]
    if not 0 <= start < stop <= n:
        raise node.refusal(f"takes {start} to {stop} of {n}", "the file is damaged")
    shape = (*signal.shape[:axis], stop - start, *signal.shape[axis + 1 :])
    before = math.prod(shape[:axis])
    after = math.prod(shape[axis + 1 :])
    layers = translation.layers
    output = translation.flush(node, signal)
    if before == 1:
        flat = layers.view(output, (n * after,))
        return Signal(layers.slice(flat, start * after, stop * after), shape)
    swapped = layers.swap(layers.view(output, (before, n * after)))
    piece = layers.slice(swapped, start * after, stop * after)
    return Signal(layers.swap(piece), shape)


def build_slice(translation: Translation, node: OnnxNode) -> Signal:
    """Take neighbours along some axes."""
    signal = build_same(translation, node)
    node.ignore("axes")
    for axis, start, stop, step in read_slices(translation, node, signal.rank + 1):
        length = STARS if axis == 0 else signal.shape[axis - 1]
        if axis == 0 and (start, step) == (0, 1) and stop >= 2**31 - 1:
            continue  # all stars
        if axis == 0 or step != 1:
            raise node.refusal(
                f"takes every {step}th along axis {axis}", "symspec takes neighbours of one star"
            )
        start, stop, _ = slice(start, stop).indices(length)
        signal = _cut(translation, node, signal, axis - 1, start, stop)
    return signal


def build_split(translation: Translation, node: OnnxNode) -> list[Signal]:
    """Cut one axis into pieces."""
    signal = build_same(translation, node)
    (axis,) = check_axes(node, [node.count("axis", 0)], signal.rank)
    n = signal.shape[axis]
    n_pieces = len(node.outputs)
    sizes = translation.optional_integers(node, 1, "split")
    if node.count("num_outputs", n_pieces) != n_pieces or n_pieces == 0:
        raise node.refusal(
            f"makes {n_pieces} outputs and means another number", "the file is damaged"
        )
    if sizes is None:
        size = math.ceil(n / n_pieces)  # the last one may be shorter
        sizes = [size] * (n_pieces - 1) + [n - size * (n_pieces - 1)]
    if sum(sizes) != n or len(sizes) != n_pieces:
        raise node.refusal(f"cuts {n} into {sizes[:8]}", "the file is damaged")
    stops = np.cumsum(sizes).tolist()
    return [
        _cut(translation, node, signal, axis, stop - size, stop)
        for size, stop in zip(sizes, stops, strict=True)
    ]


def build_gather(translation: Translation, node: OnnxNode) -> Signal:
    """Take neighbours along one axis, or one number, whose axis is dropped."""
    signal = translation.signal(node)
    indices = translation.constant(node, 1)
    (axis,) = check_axes(node, [node.count("axis", 0)], signal.rank)
    n = signal.shape[axis]
    listed = np.ravel(indices)
    if not ((-n <= listed) & (listed < n)).all():
        raise node.refusal(f"takes numbers beyond the {n} there are", "the file is damaged")
    start = int(listed[0]) % n if listed.size else 0
    are_neighbours = listed.size <= n and (listed % n == start + np.arange(listed.size)).all()
    if indices.ndim > 1 or not are_neighbours:
        raise node.refusal("takes numbers in another order", "symspec takes neighbours as they are")
    piece = _cut(translation, node, signal, axis, start, start + listed.size)
    shape = piece.shape if indices.ndim else (*piece.shape[:axis], *piece.shape[axis + 1 :])
    return dataclasses.replace(piece, shape=shape)


def build_concatenation(translation: Translation, node: OnnxNode) -> Signal:
    """Concatenate arrays along one axis."""
    signals = [translation.signal(node, i) for i in range(len(node.inputs))]
    (axis,) = check_axes(node, [node.count("axis")], signals[0].rank)
    rests = {(*signal.shape[:axis], *signal.shape[axis + 1 :]) for signal in signals}
    if len(rests) > 1 or len({signal.rank for signal in signals}) > 1:
        raise node.refusal(
            f"joins arrays of shapes {[signal.shape for signal in signals][:8]}",
            "the file is damaged",
        )
    length = sum(signal.shape[axis] for signal in signals)
    shape = (*signals[0].shape[:axis], length, *signals[0].shape[axis + 1 :])
    before = math.prod(shape[:axis])
    outputs: list[Output] = []
    for signal in signals:
        n = math.prod(signal.shape) // before
        output = translation.flush(node, signal)
        outputs.append(translation.layers.view(output, (before, n) if before > 1 else (n,)))
    return Signal(translation.layers.join(outputs), shape)


# --- padding


def build_padding(translation: Translation, node: OnnxNode) -> Signal:
    """Put zeros before and after the numbers along one axis."""
    signal = translation.signal(node)
    pads = translation.integers(node, 1, "pads")
    value = node.get("value", 0.0)  # until opset 10
    filling = translation.optional_constant(node, 2)
    filling = np.asarray(value) if filling is None else filling
    axes = translation.optional_integers(node, 3, "axes")
    axes = list(range(signal.rank + 1)) if axes is None else axes
    mode = node.word("mode", "constant")
    if mode != "constant" or np.any(filling) or len(pads) != 2 * len(axes):
        raise node.refusal(f"pads in the mode {mode} with {filling}", "symspec pads with zeros")
    pairs = {
        axis: (first, last)
        for axis, first, last in zip(axes, pads, pads[len(axes) :], strict=False)
        if first or last
    }
    if not pairs:
        return build_same(translation, node)
    axis, *others = check_axes(node, list(pairs), signal.rank)
    (pair,) = [pair for key, pair in pairs.items() if key % (signal.rank + 1) == axis + 1]
    n = signal.shape[axis]
    before = math.prod(signal.shape[:axis])
    after = math.prod(signal.shape[axis + 1 :])
    if others or min(pair) < 0 or (before > 1 and after > 1):
        raise node.refusal(
            f"pads axes of {signal.shape} by {pads[:16]}",
            "symspec pads positions or channels alone",
        )
    shape: Shape = (before, n) if after == 1 else (n, after)
    layer = ZeroPadding1D(pair, "channels_first" if after == 1 else "channels_last")
    output = translation.layers.view(translation.flush(node, signal), shape)
    output = translation.layers.put(output, layer)
    return Signal(output, (*signal.shape[:axis], n + sum(pair), *signal.shape[axis + 1 :]))
