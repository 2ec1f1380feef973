"""Operations that slide over positions, or reduce them to one number: convolutions, pools, means.

Arrays are (channel, position), perhaps with further axes of length 1: exporters may write a layer
of one dimension as one of two.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from symspec.files.importers.onnx.arrays import Output, Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.scalings import settle
from symspec.files.importers.onnx.shapes import check_axes
from symspec.files.importers.onnx.translation import Builder, Translation
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    DataFormat,
    GlobalAveragePool1D,
    MaxPool1D,
    Padding,
)
from symspec.networks.layers import Shape

# reduces the axes of a signal from the first number until before the second one
Reduction = Callable[[Translation, OnnxNode, Signal, int, int], Signal]


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Options of an operation along the axis of positions."""

    strides: int
    padding: Padding
    dilation: int


def build_convolution(translation: Translation, node: OnnxNode) -> Signal:
    """Build the convolution of all channels by a kernel (out, in, position)."""
    signal = translation.signal(node)
    kernel = translation.kernel(node, 1)
    bias = translation.optional_constant(node, 2)
    groups = node.count("group", 1)
    axis = _find_positions(node, signal.shape, kernel.shape[2:])
    if groups < 1 or groups * kernel.shape[1] != signal.shape[0]:
        raise node.refusal(
            f"takes {groups} times {kernel.shape[1]} channels where there are {signal.shape}",
            "the file is damaged",
        )
    if tuple(sizes := node.counts("kernel_shape", kernel.shape[2:])) != kernel.shape[2:]:
        raise node.refusal(
            f"has a kernel {kernel.shape} and says {sizes} of it", "the file is damaged"
        )
    window = _read_window(node, signal.shape, kernel.shape[2:], axis)
    kernel = kernel.reshape(*kernel.shape[:2], -1).transpose(2, 1, 0)
    layer = Conv1D(
        kernel.shape[2],
        kernel.shape[0],
        strides=window.strides,
        padding=window.padding,
        dilation=window.dilation,
        use_bias=bias is not None,
        data_format="channels_first",
        groups=groups,
    )
    arrays = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    # a kernel of several groups has other channels for each of its outputs
    output, signs = settle(translation.layers, node, signal, 0 if groups == 1 else None)
    if signs is not None:
        arrays["kernel"] = kernel * signs[:, None]
    output = translation.layers.view(output, (signal.shape[0], signal.shape[axis]))
    shape = _replace(signal.shape, axis, layer.out_shape(output.shape))
    return translation.put_weights(node, output, layer, arrays, shape)


def _find_positions(node: OnnxNode, shape: Shape, sizes: Shape) -> int:
    """Find the axis that windows of these sizes slide along; others have length 1."""
    if len(shape) != len(sizes) + 1 or not sizes:
        raise node.refusal(
            f"takes windows {sizes} of an array of shape {shape}", "the file is damaged"
        )
    long = [axis for axis in range(1, len(shape)) if (shape[axis], sizes[axis - 1]) != (1, 1)]
    if len(long) > 1:
        raise node.refusal(
            f"slides along the axes {long} of {shape}",
            "symspec's layers slide along positions alone",
        )
    return long[0] if long else len(shape) - 1


def _read_window(node: OnnxNode, shape: Shape, sizes: Shape, axis: int) -> _Window:
    """Read stride, padding and dilation along one axis."""
    n_axes = len(sizes)
    strides = node.counts("strides", [1] * n_axes)
    dilations = node.counts("dilations", [1] * n_axes)
    pads = node.counts("pads", [0] * 2 * n_axes)
    mode = node.word("auto_pad", "NOTSET")
    i = axis - 1
    stride = strides[i]
    dilation = dilations[i]
    padding = (pads[i], pads[i + n_axes])
    if any(pads[j] or pads[j + n_axes] for j in range(n_axes) if j != i):
        raise node.refusal(
            f"pads other axes than the positions, by {pads}", "symspec pads positions alone"
        )
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        extent = (sizes[i] - 1) * dilation + 1
        n = -(-shape[axis] // max(stride, 1))
        total = max((n - 1) * stride + extent - shape[axis], 0)
        less = total // 2
        padding = (less, total - less) if mode == "SAME_UPPER" else (total - less, less)
    elif mode == "VALID":
        padding = (0, 0)
    elif mode != "NOTSET":
        raise node.refusal(f"has auto_pad {mode!r}", "the file is damaged")
    return _Window(strides=stride, padding=padding if any(padding) else "valid", dilation=dilation)


def _replace(shape: Shape, axis: int, made: Shape) -> Shape:
    """Shape with the channels and positions of an output."""
    whole = [made[0], *shape[1:]]
    whole[axis] = made[1]
    return tuple(whole)


def build_pool(kind: type[MaxPool1D] | type[AveragePool1D]) -> Builder:
    """Build a pool of windows of positions, channel by channel."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        sizes = tuple(node.counts("kernel_shape", [0] * (signal.rank - 1)))
        axis = _find_positions(node, signal.shape, sizes)
        window = _read_window(node, signal.shape, sizes, axis)
        if window.dilation != 1:
            raise node.refusal(
                "takes positions that are no neighbours", "symspec's pools have no dilation"
            )
        node.ignore("storage_order")
        layer = kind(
            sizes[axis - 1],
            window.strides,
            padding=window.padding,
            data_format="channels_first",
        )
        if isinstance(layer, AveragePool1D):
            counts = bool(node.count("count_include_pad", 0))
            layer = dataclasses.replace(layer, count_padding=counts)
        output = translation.flush(node, signal)
        output = translation.layers.view(output, (signal.shape[0], signal.shape[axis]))
        if node.count("ceil_mode", 0) and _leaves_rest(window, sizes[axis - 1], output.shape[1]):
            raise node.refusal(
                "has a last window that reaches over the end (ceil_mode)",
                "export it with ceil_mode=0",
            )
        output = translation.layers.put(output, layer, node.name)
        return Signal(output, _replace(signal.shape, axis, output.shape))

    return build


def _leaves_rest(window: _Window, size: int, n: int) -> bool:
    """Whether some of n positions are behind the last window of this size."""
    n += sum(window.padding) if isinstance(window.padding, tuple) else 0
    return (n - size) % window.strides != 0


# --- all positions at once


def build_global(reduce: Reduction) -> Builder:
    """Reduce all positions of each channel."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        return reduce(translation, node, signal, 1, signal.rank)

    return build


def build_reduction(reduce: Reduction) -> Builder:
    """Reduce all numbers along neighbouring axes, which may be dropped afterwards."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        axes = translation.optional_integers(node, 1, "axes")
        node.ignore("noop_with_empty_axes")
        if not axes:
            raise node.refusal("takes all stars together", "give it the axes of one star")
        axes = check_axes(node, axes, signal.rank)
        if axes != list(range(axes[0], axes[-1] + 1)):
            raise node.refusal(
                f"reduces the axes {axes} of {signal.shape}", "symspec reduces neighbours"
            )
        keeps = node.count("keepdims", 1)
        reduced = reduce(translation, node, signal, axes[0], axes[-1] + 1)
        rest = signal.shape[: axes[0]] + signal.shape[axes[-1] + 1 :]
        return reduced if keeps else Signal(reduced.output, rest)

    return build


def _view_positions(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> tuple[Output, DataFormat]:
    """View the axes from `first` until before `stop` as positions, with the order of axes."""
    before = math.prod(signal.shape[:first])
    n = math.prod(signal.shape[first:stop])
    after = math.prod(signal.shape[stop:])
    if before > 1 and after > 1:
        raise node.refusal(
            f"reduces axes in the middle of {signal.shape}",
            "symspec reduces the first or the last ones",
        )
    output = translation.flush(node, signal)
    if before == 1 and after > 1:
        return translation.layers.view(output, (n, after)), "channels_last"
    return translation.layers.view(output, (before, n)), "channels_first"


def _keep_one(shape: Shape, first: int, stop: int) -> Shape:
    """Shape with axes of length 1 from `first` until before `stop`."""
    return shape[:first] + (1,) * (stop - first) + shape[stop:]


def take_mean(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> Signal:
    """Take the mean along the axes from `first` until before `stop`."""
    output, data_format = _view_positions(translation, node, signal, first, stop)
    output = translation.layers.put(output, GlobalAveragePool1D(data_format), node.name)
    return Signal(output, _keep_one(signal.shape, first, stop))


def take_largest(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> Signal:
    """Take the largest number along the axes from `first` until before `stop`."""
    output, data_format = _view_positions(translation, node, signal, first, stop)
    n = math.prod(signal.shape[first:stop])
    output = translation.layers.put(output, MaxPool1D(n, data_format=data_format), node.name)
    return Signal(output, _keep_one(signal.shape, first, stop))
