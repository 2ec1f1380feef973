"""Nodes that take constants alone, worked out by NumPy: the table FOLDERS has their functions.

Exporters leave such nodes around shapes, paddings and transposed kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.arrays import Signal
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.protobuf import BFLOAT16
from symspec.files.importers.onnx.translation import Translation, check_without_stars
from symspec.networks.layers import Shape

# by onnx.TensorProto.DataType; 16-bit floats are kept as 32-bit ones
_DTYPES = {
    1: np.float32,
    6: np.int64,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    16: np.float32,
}
_VALUES = ("value", "value_float", "value_floats", "value_int", "value_ints")


def fold(translation: Translation, node: OnnxNode) -> np.ndarray | None:
    """Work out a node that takes only constants; None for any other."""
    values = [translation.find(node, i) for i in range(len(node.inputs))]
    if node.op not in FOLDERS or any(isinstance(value, Signal) for value in values):
        return None
    try:
        with np.errstate(all="ignore"):  # numbers that are not finite are refused where needed
            folded = np.asarray(FOLDERS[node.op](translation, node))
    except FileFormatError:
        raise
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise node.refusal(f"cannot be worked out ({error})", "the file is damaged") from error
    node.check_asked()
    return folded


def _make_constant(translation: Translation, node: OnnxNode) -> np.ndarray:
    value = next((node.get(key) for key in _VALUES if key in node.attributes), None)
    if value is None:
        raise node.refusal("holds neither numbers nor an array")
    return value


def _fill_shape(translation: Translation, node: OnnxNode) -> np.ndarray:
    shape = translation.integers(node, 0, "input")
    value = node.get("value", np.zeros(1, np.float32))
    is_number = isinstance(value, np.ndarray) and value.size == 1
    if not is_number or not shape or any(n < 0 for n in shape):
        raise node.refusal(f"fills the shape {shape} with {value}")
    translation.charge(node, 8 * math.prod(shape))
    return np.full(shape, value.item())


def _cast(translation: Translation, node: OnnxNode) -> np.ndarray:
    array = translation.constant(node, 0)
    kind = node.get("to")
    node.ignore("saturate", "round_mode")
    if kind not in _DTYPES:
        raise node.refusal(f"makes numbers of type {kind}")
    if array.dtype != _DTYPES[kind] or kind == BFLOAT16:
        translation.charge(node, 8 * array.size)
    made = convert(node, array, _DTYPES[kind])
    return _round_to_bfloat16(made) if kind == BFLOAT16 else made


def convert(node: OnnxNode, array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Convert a constant to another type, rounded but not stored to 16 bits."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        check_without_stars(node, array)
    made = array.astype(dtype, copy=False)
    return made.astype(np.float32) if dtype == np.float16 else made


def _round_to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Round float32 to its first two bytes, to the nearest and ties to even."""
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isfinite(array), rounded.view(np.float32), array)


def _fold_moving(
    move: Callable[[Translation, OnnxNode, np.ndarray], np.ndarray],
) -> Callable[..., np.ndarray]:
    """Fold an operation that moves numbers, perhaps into a copy of the same size."""

    def fold_one(translation: Translation, node: OnnxNode) -> np.ndarray:
        array = translation.constant(node, 0)
        moved = move(translation, node, array)
        if not np.may_share_memory(moved, array):
            translation.charge(node, moved.nbytes)
        return moved

    return fold_one


def _reshape(translation: Translation, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    target = translation.integers(node, 1, "shape")
    keeps_zeros = node.get("allowzero", 0)
    return array.reshape(
        [array.shape[i] if n == 0 and not keeps_zeros else n for i, n in enumerate(target)]
    )


def _squeeze(translation: Translation, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    axes = translation.optional_integers(node, 1, "axes")
    return np.squeeze(array, None if axes is None else tuple(axes))


def _unsqueeze(translation: Translation, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    return np.expand_dims(array, tuple(translation.integers(node, 1, "axes")))


def _transpose(translation: Translation, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    return array.transpose(node.get("perm"))


def _slice(translation: Translation, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    index = [slice(None)] * array.ndim
    for axis, start, stop, step in read_slices(translation, node, array.ndim):
        index[axis] = slice(start, stop, step)
    return array[tuple(index)]


def read_slices(
    translation: Translation, node: OnnxNode, rank: int
) -> list[tuple[int, int, int, int]]:
    """Axis, start, stop and step of each slice."""
    starts = translation.integers(node, 1, "starts")
    stops = translation.integers(node, 2, "ends")
    axes = translation.optional_integers(node, 3, "axes")
    steps = translation.optional_integers(node, 4, "steps")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return [
        (check_axis(node, axis, rank), start, stop, step)
        for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True)
    ]


def check_axis(node: OnnxNode, axis: int, rank: int) -> int:
    """Axis counted from the first one."""
    if not -rank <= axis < rank:
        raise node.refusal(f"acts on axis {axis} of an array of {rank} axes", "the file is damaged")
    return axis % rank


def _gather(translation: Translation, node: OnnxNode) -> np.ndarray:
    array = translation.constant(node, 0)
    indices = translation.constant(node, 1)
    axis = node.count("axis", 0)
    n_rest = array.size // max(array.shape[check_axis(node, axis, array.ndim)], 1)
    translation.charge(node, 8 * indices.size * n_rest)
    return np.take(array, indices, axis=axis)


def _expand(translation: Translation, node: OnnxNode) -> np.ndarray:
    array = translation.constant(node, 0)
    shape = np.broadcast_shapes(array.shape, tuple(translation.integers(node, 1, "shape")))
    translation.charge(node, 8 * math.prod(shape))
    return np.broadcast_to(array, shape)


def _concatenate(translation: Translation, node: OnnxNode) -> np.ndarray:
    arrays = [translation.constant(node, i) for i in range(len(node.inputs))]
    translation.charge(node, sum(array.nbytes for array in arrays))
    return np.concatenate(arrays, axis=node.count("axis"))


def _take_shape(translation: Translation, node: OnnxNode) -> np.ndarray:
    return cut_shape(node, translation.constant(node, 0).shape)


def cut_shape(node: OnnxNode, shape: Shape) -> np.ndarray:
    """Lengths of the axes from `start` to `end`, by default all."""
    return np.array(shape[node.get("start", 0) : node.get("end")], np.int64)


def _fold_arithmetic(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def fold_all(translation: Translation, node: OnnxNode) -> np.ndarray:
        arrays = [translation.constant(node, i) for i in range(len(node.inputs))]
        if len(arrays) != getattr(function, "nin", 2):  # NumPy would write into one more
            raise node.refusal(f"takes {len(arrays)} arrays", "the file is damaged")
        for array in arrays:
            check_without_stars(node, array)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        translation.charge(node, 8 * math.prod(shape))
        return function(*arrays)

    return fold_all


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide; whole numbers are truncated towards zero."""
    return np.trunc(a / b).astype(np.int64) if a.dtype.kind in "iu" else a / b


FOLDERS: dict[str, Callable[[Translation, OnnxNode], np.ndarray]] = {
    "Constant": _make_constant,
    "ConstantOfShape": _fill_shape,
    "Cast": _cast,
    "Identity": _fold_moving(lambda translation, node, array: array),
    "Reshape": _fold_moving(_reshape),
    "Squeeze": _fold_moving(_squeeze),
    "Unsqueeze": _fold_moving(_unsqueeze),
    "Transpose": _fold_moving(_transpose),
    "Slice": _fold_moving(_slice),
    "Gather": _gather,
    "Expand": _expand,
    "Concat": _concatenate,
    "Shape": _take_shape,
    "Add": _fold_arithmetic(np.add),
    "Sub": _fold_arithmetic(np.subtract),
    "Mul": _fold_arithmetic(np.multiply),
    "Div": _fold_arithmetic(_divide),
    "Mod": _fold_arithmetic(np.mod),
    "Neg": _fold_arithmetic(np.negative),
    "Sqrt": _fold_arithmetic(np.sqrt),
    "Reciprocal": _fold_arithmetic(np.reciprocal),
}
