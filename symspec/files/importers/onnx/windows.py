"""Operations that slide over positions, or reduce them to one number: convolutions, pools, means.

Arrays are (channel, position), perhaps with further axes of length 1, as exporters write what is
one-dimensional in other programs as two-dimensional.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.scalings import settle
from symspec.files.importers.onnx.shapes import check_axes
from symspec.files.importers.onnx.translation import Builder, Translation
from symspec.networks.convolutions import AveragePool1D, Conv1D, GlobalAveragePool1D, MaxPool1D
from symspec.networks.layers import Layer, Shape

_FIRST = {"data_format": "channels_first"}


def build_convolution(translation: Translation, node: OnnxNode) -> Signal:
    """Convolution of all channels by a kernel (out, in, position)."""
    signal = translation.signal(node)
    kernel = translation.kernel(node, 1)
    bias = translation.constant(node, 2)
    if (groups := node.count("group", 1)) != 1:
        raise node.refusal(
            f"has {groups} groups of channels",
            "symspec's convolutions see all channels: use group=1",
        )
    axis = _find_positions(node, signal.shape, kernel.shape[2:])
    if kernel.shape[1] != signal.shape[0]:
        raise node.refusal(
            f"takes {kernel.shape[1]} channels where there are {signal.shape}",
            "the file is damaged",
        )
    if tuple(sizes := node.counts("kernel_shape", kernel.shape[2:])) != kernel.shape[2:]:
        raise node.refusal(
            f"has a kernel {kernel.shape} and says {sizes} of it", "the file is damaged"
        )
    window = _read_window(node, signal.shape, kernel.shape[2:], axis)
    kernel = kernel.reshape(*kernel.shape[:2], -1).transpose(2, 1, 0)
    layer = Conv1D(kernel.shape[2], kernel.shape[0], use_bias=bias is not None, **window, **_FIRST)
    arrays = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    output, signs = settle(translation.layers, node, signal, 0)
    if signs is not None:
        arrays["kernel"] = kernel * signs[:, None]
    output = translation.layers.view(output, (signal.shape[0], signal.shape[axis]))
    shape = _replace(signal.shape, axis, layer.out_shape(output.shape))
    return translation.put_weights(node, output, layer, arrays, shape)


def _find_positions(node: OnnxNode, shape: Shape, sizes: Shape) -> int:
    """The axis of (channel, ...) that windows of these sizes slide along; others have length 1."""
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


def _read_window(node: OnnxNode, shape: Shape, sizes: Shape, axis: int) -> dict[str, Any]:
    """Stride, padding and dilation along one axis, as `Conv1D` takes them."""
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
        padding = (
            (total // 2, total - total // 2)
            if mode == "SAME_UPPER"
            else (total - total // 2, total // 2)
        )
    elif mode == "VALID":
        padding = (0, 0)
    elif mode != "NOTSET":
        raise node.refusal(f"has auto_pad {mode!r}", "the file is damaged")
    return {
        "strides": stride,
        "padding": padding if any(padding) else "valid",
        "dilation": dilation,
    }


def _replace(shape: Shape, axis: int, made: Shape) -> Shape:
    """Shape with the channels and positions of what was made."""
    whole = [made[0], *shape[1:]]
    whole[axis] = made[1]
    return tuple(whole)


def build_pool(kind: Callable[..., Layer]) -> Builder:
    """Windows of positions, channel by channel, as one of symspec's pools has them."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        sizes = tuple(node.counts("kernel_shape", [0] * (signal.rank - 1)))
        axis = _find_positions(node, signal.shape, sizes)
        window = _read_window(node, signal.shape, sizes, axis)
        if window.pop("dilation") != 1:
            raise node.refusal(
                "takes positions that are no neighbours", "symspec's pools have no dilation"
            )
        node.ignore("storage_order")
        options = (
            {"count_padding": bool(node.count("count_include_pad", 0))}
            if kind is AveragePool1D
            else {}
        )
        layer = kind(sizes[axis - 1], **window, **options, **_FIRST)
        output = translation.layers.view(
            translation.flush(node, signal), (signal.shape[0], signal.shape[axis])
        )
        if node.count("ceil_mode", 0) and _leaves_rest(layer, output.shape[1]):
            raise node.refusal(
                "has a last window that reaches over the end (ceil_mode)",
                "export it with ceil_mode=0",
            )
        output = translation.layers.put(output, layer, node.name)
        return Signal(output, _replace(signal.shape, axis, output.shape))

    return build


def _leaves_rest(layer: Any, n: int) -> bool:
    n += sum(layer.padding) if isinstance(layer.padding, tuple) else 0
    return (n - layer.pool_size) % layer.strides != 0


# --- all positions at once


def build_global(reduce: Callable[[Translation, OnnxNode, Signal, int, int], Signal]) -> Builder:
    """All positions of each channel."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        return reduce(translation, node, signal, 1, signal.rank)

    return build


def build_reduction(reduce: Callable[[Translation, OnnxNode, Signal, int, int], Signal]) -> Builder:
    """All numbers along some neighbouring axes, which may be left out afterwards."""

    def build(translation: Translation, node: OnnxNode) -> Signal:
        signal = translation.signal(node)
        axes = translation.integers(node, 1, "axes")
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
        return (
            reduced
            if keeps
            else Signal(reduced.output, signal.shape[: axes[0]] + signal.shape[axes[-1] + 1 :])
        )

    return build


def _prepare(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> tuple[Any, ...]:
    """Output with positions in one axis, how it is ordered, their number, and the shape with one in place of all."""
    before, n, after = (
        math.prod(signal.shape[i:j]) for i, j in ((0, first), (first, stop), (stop, signal.rank))
    )
    if before > 1 and after > 1:
        raise node.refusal(
            f"reduces axes in the middle of {signal.shape}",
            "symspec reduces the first or the last ones",
        )
    shape, word = (
        ((n, after), "channels_last")
        if before == 1 and after > 1
        else ((before, n), "channels_first")
    )
    output = translation.layers.view(translation.flush(node, signal), shape)
    return output, word, n, signal.shape[:first] + (1,) * (stop - first) + signal.shape[stop:]


def take_mean(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> Signal:
    """Mean along the axes from `first` until before `stop`."""
    output, word, _, shape = _prepare(translation, node, signal, first, stop)
    return Signal(translation.layers.put(output, GlobalAveragePool1D(word), node.name), shape)


def take_largest(
    translation: Translation, node: OnnxNode, signal: Signal, first: int, stop: int
) -> Signal:
    """Largest number along the axes from `first` until before `stop`."""
    output, word, n, shape = _prepare(translation, node, signal, first, stop)
    return Signal(translation.layers.put(output, MaxPool1D(n, data_format=word), node.name), shape)
