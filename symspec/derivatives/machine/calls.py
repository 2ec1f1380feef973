"""NumPy's function for an operation of PyTensor's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.scalar.basic import Add, Cast, Mul, Switch, Tanh
from pytensor.tensor.basic import Join
from pytensor.tensor.blas import Dot22
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import Subtensor, get_idx_list

from symspec.derivatives.machine.products import find_multiply
from symspec.derivatives.machine.tanh import find_tanh

Function = Callable[..., Any]
MOST_SUMMED = 2**16  # numbers that a product with ones adds up, in the array's own precision
TANH = find_tanh()


def find_call(node: Any) -> tuple[Function, list[int]] | None:
    """A function of NumPy's, and the places of its arguments among the inputs, or None."""
    match node.op:
        case Elemwise():
            return _find_elementwise(node)
        case Dot22() | Dot() if node.outputs[0].type.ndim == 2:
            return find_multiply(node), [0, 1]
        case Join() if node.outputs[0].type.ndim == 1:
            return lambda *parts: np.concatenate(parts), list(range(len(node.inputs)))
        case Sum():
            function = _find_sum(node)
            return None if function is None else (function, [0])
    return _find_view(node)


def _find_view(node: Any) -> tuple[Function, list[int]] | None:
    """The same for a function that changes no number: of shapes and places."""
    match node.op:
        case Reshape() if isinstance(node.inputs[1], Constant):
            shape = tuple(node.inputs[1].data.tolist())
            return lambda x: x.reshape(shape), [0]
        case Reshape():
            return lambda x, shape: x.reshape(shape.tolist()), [0, 1]
        case Shape_i(i=i):
            return lambda x: np.asarray(x.shape[i]), [0]
        case DimShuffle():
            return _find_shuffle(node.op), [0]
        case Subtensor() if all(isinstance(i, Constant) for i in node.inputs[1:]):
            return _find_slices(node), [0]
        case SpecifyShape():
            return _find_check(node)
    return None


def _find_check(node: Any) -> tuple[Function, list[int]]:
    """A check of those lengths that are not known to be right."""
    x, *lengths = node.inputs
    asked = [
        (axis, i)
        for i, (axis, length) in enumerate(enumerate(lengths), start=1)
        if not isinstance(length, Constant) or length.data not in (None, x.type.shape[axis])
    ]
    axes = [axis for axis, _ in asked]

    def check(x: np.ndarray, *lengths: Any) -> np.ndarray:
        for axis, length in zip(axes, lengths):  # noqa: B905
            if x.shape[axis] != length.item():
                raise ValueError(f"the shape should be {length} in axis {axis}, got {x.shape}.")
        return x

    return check, [0, *(i for _, i in asked)]


def _find_shuffle(op: DimShuffle) -> Function:
    """Axes in another order; those of length one left out, and others put in."""
    kept = (None if i == "x" else slice(None) for i in op.new_order)
    index = (*kept, *(0 for _ in op.drop), ...)
    order = (*op.shuffle, *op.drop)
    if index == (slice(None), slice(None), ...):
        return (lambda x: x.T) if order == (1, 0) else (lambda x: x)
    return lambda x: x.transpose(order)[index]


def _find_slices(node: Any) -> Function:
    def find_number(i: Any) -> Any:
        if isinstance(i, slice):
            return slice(*map(find_number, (i.start, i.stop, i.step)))
        return int(i.data) if isinstance(i, Constant) else i

    index = (*map(find_number, get_idx_list(node.inputs, node.op.idx_list)), ...)
    return lambda x: x[index]


def _find_sum(node: Any) -> Function | None:
    """A sum of all numbers, or over the first or the last axes, which is a product with ones."""
    (x,) = node.inputs
    axes, ndim, dtype = node.op.axis, x.type.ndim, node.outputs[0].type.dtype
    if x.type.dtype != dtype or dtype not in ("float32", "float64"):
        return None
    if axes is None:
        inner = node.op.acc_dtype
        return lambda x: np.asarray(np.add.reduce(x, axis=None, dtype=inner), dtype)
    n = len(axes)
    are_first = sorted(axes) == list(range(n))
    if not 0 < n < ndim or not (are_first or sorted(axes) == list(range(ndim - n, ndim))):
        return None
    if ndim == 2:
        return _add_rows if are_first else lambda x: _add_rows(x.T)
    return _find_sum_of_many(axes, n if are_first else ndim - n, are_first)


def _find_sum_of_many(axes: tuple[int, ...], n_left: int, are_first: bool) -> Function:
    """The sum over the axes on the left of `n_left`, or those on the right."""

    def add_up(x: np.ndarray) -> np.ndarray:
        left, right = x.shape[:n_left], x.shape[n_left:]
        n_rows, n_columns = math.prod(left), math.prod(right)
        if (n_rows if are_first else n_columns) > MOST_SUMMED or not x.flags.c_contiguous:
            return np.add.reduce(x, axis=axes)
        matrix = x.reshape(n_rows, n_columns)
        return _add_rows(matrix).reshape(right) if are_first else _add_rows(matrix.T).reshape(left)

    return add_up


def _add_rows(x: np.ndarray) -> np.ndarray:
    n = len(x)
    return np.dot(_ones(n, x.dtype), x) if n <= MOST_SUMMED else np.add.reduce(x, axis=0)


@lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> np.ndarray:
    return np.ones(n, dtype)


def _find_elementwise(node: Any) -> tuple[Function, list[int]] | None:
    if len(node.outputs) > 1:
        return None
    places = list(range(len(node.inputs)))
    function = _find_function(node)
    if function is None:
        return None
    if isinstance(function, np.ufunc) and len(node.inputs) > function.nin:
        function = _fold(function)
    is_scalar = node.outputs[0].type.ndim == 0
    if isinstance(function, np.ufunc) and is_scalar:
        return _keep_array(function, node.outputs[0].type.dtype), places
    if node.op.inplace_pattern and not isinstance(node.op.scalar_op, Cast | Switch):
        places += node.op.inplace_pattern.values()
        function = _overwrite_last(function)
    return (lambda *args: np.asarray(function(*args))) if is_scalar else function, places


def _find_function(node: Any) -> Function | None:
    """A ufunc, `take_tanh`, or what makes a new array even where it might overwrite one."""
    scalar = node.op.scalar_op
    dtypes = [np.dtype(x.type.dtype) for x in (*node.inputs, *node.outputs)]
    if isinstance(scalar, Cast):
        return lambda x: x.astype(dtypes[-1])
    if isinstance(scalar, Switch):
        return np.where if np.result_type(*dtypes[1:3]) == dtypes[-1] else None
    if isinstance(scalar, Tanh) and set(dtypes) == {np.dtype(float)}:
        return TANH
    ufunc = node.op.nfunc  # found as the thunk was made
    if not isinstance(ufunc, np.ufunc) or ufunc.nout != 1:
        return None
    if isinstance(scalar, Add | Mul) and len(node.inputs) > 2:
        return ufunc if len(set(dtypes)) == 1 else None
    return ufunc if ufunc.nin == len(node.inputs) and _makes(ufunc, dtypes) else None


def _makes(ufunc: np.ufunc, dtypes: list[np.dtype]) -> bool:
    """Whether NumPy makes the last dtype of those before, and floating-point numbers of such."""
    if dtypes[-1].kind == "f" and any(dtype.kind != "f" for dtype in dtypes[:-1]):
        return False  # PyTensor asks for the precision
    try:
        return ufunc.resolve_dtypes((*dtypes[:-1], None))[-1] == dtypes[-1]
    except TypeError:
        return False


def _fold(ufunc: np.ufunc) -> Function:
    """Sum or product of any number of arrays, with the last step into `out`."""

    def fold(*args: Any, out: Any = None) -> Any:
        return ufunc(reduce(ufunc, args[:-1]), args[-1], out=out)

    return fold


def _keep_array(ufunc: np.ufunc, dtype: str) -> Function:
    """A function of arrays without axes, of which NumPy would make a number."""
    return lambda *args: ufunc(*args, out=np.empty((), dtype))


def _overwrite_last(function: Function) -> Function:
    def overwrite(*args: Any) -> Any:
        return function(*args[:-1], out=args[-1])

    return overwrite
