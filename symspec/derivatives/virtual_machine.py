"""PyTensor's virtual machine, with NumPy's functions called as they are.

PyTensor's own Python mode takes eight microseconds more than NumPy for an elementwise operation of
any size: it looks whether shapes were broadcast that should not be, which functions here have
checked before, and writes a result that may overwrite an argument twice. Here such an operation is
a call of the ufunc, with the argument as its `out`.

NumPy has instructions of the processor for tanh of many numbers at once where there are those of
512 bits. Elsewhere it takes four times as long as exp, of which it is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.link.vm import VMLinker
from pytensor.scalar.basic import Add, Cast, Mul, Switch, Tanh
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Reshape

Cell = list[Any]  # holds the value of a variable
Function = Callable[..., Any]
SATURATED = 40.0  # 2 x of which tanh x is 1
PIECE = 16_384  # numbers, which stay in a core's cache from one function to the next


def take_tanh(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Tanh as 1 - 2 / (exp(2 x) + 1), within 4e-16: of small numbers, not so many digits hold."""
    if out is None:
        out = np.empty_like(x)
    for part, result in _divide(x, out):
        np.multiply(part, 2.0, out=result)
        np.minimum(result, SATURATED, out=result)  # no exponential is infinite
        np.exp(result, out=result)
        np.add(result, 1.0, out=result)
        np.divide(2.0, result, out=result)
        np.subtract(1.0, result, out=result)
    return out


def _divide(x: np.ndarray, out: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of both, one after the other; the whole where it does not lie in one row in memory."""
    if x.size <= PIECE or not x.flags.forc or x.strides != out.strides:
        yield x, out
        return
    x, out = x.ravel("K"), out.ravel("K")
    for begin in range(0, x.size, PIECE):
        yield x[begin : begin + PIECE], out[begin : begin + PIECE]


def find_tanh() -> Function:
    """NumPy's tanh where it is fast, `take_tanh` elsewhere."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    is_wide = any(name == "X86_V4" or name.startswith("AVX512") for name in found)
    return np.tanh if is_wide else take_tanh


TANH = find_tanh()


class DirectLinker(VMLinker):
    """`VMLinker` of Python thunks, of which those of elementwise operations are calls of NumPy.

    Shapes and dtypes of the function's arguments have to be what the graph says, and whoever calls
    it silences NumPy's warnings.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"use_cloop": False, "c_thunks": False} | options)

    def make_vm(self, nodes: Any, thunks: Any, *others: Any) -> Any:
        if not any(thunk.lazy for thunk in thunks):
            thunks = [_shorten(node, thunk) for node, thunk in zip(nodes, thunks, strict=True)]
        return super().make_vm(nodes, thunks, *others)


def _shorten(node: Any, thunk: Any) -> Any:
    """The thunk of an operation that is one call of NumPy's; any other as it is."""
    found = _find_call(node)
    if found is None:
        return thunk
    function, places = found
    (out,) = thunk.outputs
    direct: Any = _call_into(out, function, [thunk.inputs[i] for i in places])
    direct.inputs = thunk.inputs
    direct.outputs = thunk.outputs
    direct.lazy = False
    return direct


def _call_into(out: Cell, function: Function, cells: list[Cell]) -> Callable[[], None]:
    if len(cells) == 1:
        (a,) = cells

        def call() -> None:
            out[0] = function(a[0])

    elif len(cells) == 2:
        a, b = cells

        def call() -> None:
            out[0] = function(a[0], b[0])

    else:

        def call() -> None:
            out[0] = function(*[cell[0] for cell in cells])

    return call


def _find_call(node: Any) -> tuple[Function, list[int]] | None:
    """A function of NumPy's, and the places of its arguments among the inputs, or None."""
    if isinstance(node.op, Reshape) and isinstance(node.inputs[1], Constant):
        shape = tuple(node.inputs[1].data.tolist())
        return lambda x: x.reshape(shape), [0]
    if not isinstance(node.op, Elemwise) or len(node.outputs) > 1:
        return None
    places = list(range(len(node.inputs)))
    function = _find_function(node)
    if function is None:
        return None
    if isinstance(function, np.ufunc) and len(node.inputs) > function.nin:
        function = _fold(function)
    if node.op.inplace_pattern and not isinstance(node.op.scalar_op, Cast | Switch):
        places += node.op.inplace_pattern.values()
        function = _overwrite_last(function)
    if node.outputs[0].type.ndim == 0:
        return lambda *args: np.asarray(function(*args)), places  # NumPy makes scalars of them
    return function, places


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


def _overwrite_last(function: Function) -> Function:
    def overwrite(*args: Any) -> Any:
        return function(*args[:-1], out=args[-1])

    return overwrite
