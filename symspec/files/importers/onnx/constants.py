"""What a graph makes of constants alone: one table, FOLDERS, of what to do for each operation.

Exporters leave such nodes around shapes, paddings and turned kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.description import OnnxNode
from symspec.files.importers.onnx.protobuf import BFLOAT16
from symspec.files.importers.onnx.translation import Translation, check_without_stars
from symspec.networks.layers import Shape

# numbers of onnx.TensorProto.DataType; halves are kept as floats
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
    """Constant that a node makes of constants; None where it takes anything else."""
    arrays = [translation.find(node, i) for i in range(len(node.inputs))]
    if node.op not in FOLDERS or not all(
        array is None or isinstance(array, np.ndarray) for array in arrays
    ):
        return None
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            folded = np.asarray(FOLDERS[node.op](translation, node))
    except FileFormatError:
        raise
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise node.refusal(f"cannot be worked out ({error})", "the file is damaged") from error
    node.check_asked()
    return folded


def _make_constant(translation: Translation, node: OnnxNode) -> np.ndarray:
    value = next((node.get(key) for key in _VALUES if key in node.attributes), None)
    if isinstance(value, FileFormatError):
        raise value
    if value is None:
        raise node.refusal("holds neither numbers nor an array")
    return value


def _fill_shape(translation: Translation, node: OnnxNode) -> np.ndarray:
    shape = translation.integers(node, 0, "input")
    value = node.get("value", np.zeros(1, np.float32))
    if (
        not isinstance(value, np.ndarray)
        or value.size != 1
        or not shape
        or any(n < 0 for n in shape)
    ):
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


def convert(node: OnnxNode, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Constant as numbers of another type, halves as the floats that they are."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        check_without_stars(node, array)
    made = array.astype(dtype, copy=False)
    return made.astype(np.float32) if dtype == np.float16 else made


def _round_to_bfloat16(array: np.ndarray) -> np.ndarray:
    """Floats without their last two bytes, rounded to the nearest, of two such to the even one."""
    bits = array.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return np.where(np.isfinite(array), rounded.view(np.float32), array)


def _fold_moving(
    move: Callable[[Translation, OnnxNode, np.ndarray], np.ndarray],
) -> Callable[..., np.ndarray]:
    """Numbers that only change their places, perhaps into a copy, which has no more than there were."""

    def fold_one(translation: Translation, node: OnnxNode) -> np.ndarray:
        array = translation.constant(node, 0)
        if array is None:
            raise node.refusal("takes nothing", "the file is damaged")
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
    axes = translation.integers(node, 1, "axes")
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
    if starts is None or stops is None:
        raise node.refusal("should have starts and ends, got none", "the file is damaged")
    axes = translation.integers(node, 3, "axes")
    steps = translation.integers(node, 4, "steps")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return [
        (check_axis(node, axis, rank), *rest)
        for axis, *rest in zip(axes, starts, stops, steps, strict=True)
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
    """Lengths of an array's axes, or of some of them."""
    return np.array(shape[node.get("start", 0) : node.get("end")], np.int64)


def _fold_arithmetic(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def fold_all(translation: Translation, node: OnnxNode) -> np.ndarray:
        arrays = [translation.constant(node, i) for i in range(len(node.inputs))]
        if len(arrays) != getattr(function, "nin", 2):  # one more NumPy would write into
            raise node.refusal(f"takes {len(arrays)} arrays", "the file is damaged")
        for array in arrays:
            check_without_stars(node, array)
        translation.charge(
            node, 8 * math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        )
        return function(*arrays)

    return fold_all


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotient, of whole numbers without what is behind the point."""
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
