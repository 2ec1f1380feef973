"""PyTensor's virtual machine, with NumPy's functions called as they are.

PyTensor's own Python mode takes eight microseconds more than NumPy for an elementwise operation of
any size: it looks whether shapes were broadcast that should not be, which functions here have
checked before, and writes a result that may overwrite an argument twice. Here such an operation is
a call of the ufunc, with the argument as its `out`. Products, slices and transposes are NumPy's as
well, and sums over some axes are products with ones, which take a tenth of the time of `np.sum`.

NumPy has instructions of the processor for tanh of many numbers at once where there are those of
512 bits. Elsewhere it takes four times as long as exp, of which it is made here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.link.vm import VMLinker
from pytensor.scalar.basic import Add, Cast, Mul, Switch, Tanh
from pytensor.tensor.basic import Join
from pytensor.tensor.blas import Dot22
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot, Sum
from pytensor.tensor.shape import Reshape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import Subtensor, get_idx_list

Cell = list[Any]  # holds the value of a variable
Function = Callable[..., Any]
SATURATED = 40.0  # 2 x of which tanh x is 1
LEAST_JOINED = 4096  # numbers of a product that is written where it is joined with others
PIECE = 16_384  # numbers, which stay in a core's cache from one function to the next
MOST_SUMMED = 2**16  # numbers that a product with ones adds up, in the array's own precision


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
        buffers: list[Buffer] = []
        if not any(thunk.lazy for thunk in thunks):
            own = dict(zip(nodes, thunks, strict=True))
            direct = {node: _shorten(node, thunk) for node, thunk in own.items()}
            for node in nodes:
                if isinstance(node.op, Join):
                    direct |= _multiply_into(node, own, self.fgraph.clients, buffers)
            thunks = list(direct.values())
        vm = super().make_vm(nodes, thunks, *others)
        vm.buffers = buffers
        return vm


def _shorten(node: Any, thunk: Any) -> Any:
    """The thunk of an operation that is one call of NumPy's; any other as it is."""
    found = _find_call(node)
    if found is None:
        return thunk
    function, places = found
    (out,) = thunk.outputs
    return _like(thunk, _call_into(out, function, [thunk.inputs[i] for i in places]))


def _like(thunk: Any, direct: Any) -> Any:
    """A call as a thunk in place of another."""
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

    elif len(cells) == 3:
        a, b, c = cells

        def call() -> None:
            out[0] = function(a[0], b[0], c[0])

    else:

        def call() -> None:
            out[0] = function(*[cell[0] for cell in cells])

    return call


class Buffer:
    """The array that arrays are joined in: what a call returns, from its first product on."""

    def __init__(self, shape: tuple[int, ...], dtype: str):
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._array: np.ndarray | None = None

    def offer(self, array: np.ndarray) -> None:
        """Give memory that nobody needs any more, if it is what is needed here."""
        if array.shape == self._shape and array.dtype == self._dtype:
            self._array = array

    def get(self) -> np.ndarray:
        if self._array is None:
            self._array = np.empty(self._shape, self._dtype)
        return self._array

    def take(self) -> np.ndarray:
        """The array, which is not kept."""
        array, self._array = self.get(), None
        return array


def _multiply_into(
    join: Any, thunks: Mapping[Any, Any], clients: Mapping[Any, Any], buffers: list[Buffer]
) -> Any:
    """Thunks of `join` and of large products in it, which are written where it puts them."""
    whole = join.outputs[0].type
    lengths = [0 if x.type.ndim > 1 else x.type.shape[0] or 0 for x in join.inputs]
    ends = np.cumsum(lengths).tolist()
    if whole.shape != (ends[-1],):  # some lengths are not known
        return {}
    products = {}
    others = []
    buffer = Buffer(whole.shape, whole.dtype)
    places = map(slice, [0, *ends[:-1]], ends)
    for x, cell, place in zip(join.inputs, thunks[join].inputs, places, strict=True):
        node = _find_product(x, clients) if x.type.dtype == whole.dtype else None
        if node is None:
            others.append((cell, place))
        else:
            products[node] = _write_product(node, thunks[node], buffer, place)
    (out,) = thunks[join].outputs

    def put_together() -> None:
        out[0] = buffer.take()
        for cell, place in others:
            out[0][place] = cell[0]

    if not products:
        return {}
    buffers.append(buffer)
    return products | {join: _like(thunks[join], put_together)}


def _find_product(x: Any, clients: Mapping[Any, Any]) -> Any:
    """The large product that x is made of by a reshape, if nothing else needs it; or None."""
    if x.owner is None or not isinstance(x.owner.op, Reshape):
        return None
    product = x.owner.inputs[0]
    if product.owner is None or not isinstance(product.owner.op, Dot22):
        return None
    is_alone = len(clients[x]) == len(clients[product]) == 1
    is_known = None not in product.type.shape
    is_large = is_known and math.prod(product.type.shape) >= LEAST_JOINED
    return product.owner if is_alone and is_large else None


def _write_product(node: Any, thunk: Any, buffer: Buffer, place: slice) -> Any:
    """The thunk of a product that goes to its place in the buffer."""
    a, b = thunk.inputs
    (out,) = thunk.outputs
    shape = node.outputs[0].type.shape

    def multiply() -> None:
        out[0] = np.dot(a[0], b[0], out=buffer.get()[place].reshape(shape))

    return _like(thunk, multiply)


def _find_call(node: Any) -> tuple[Function, list[int]] | None:
    """A function of NumPy's, and the places of its arguments among the inputs, or None."""
    match node.op:
        case Elemwise():
            return _find_elementwise(node)
        case Dot22() | Dot() if node.outputs[0].type.ndim == 2:
            return np.dot, [0, 1]
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
        case Sum(axis=tuple(axes)) if _may_multiply(node, axes):
            return _find_sum(node.inputs[0].type.ndim, axes), [0]
        case Sum(axis=None, acc_dtype=inner) if node.inputs[0].type.dtype.startswith("float"):
            outer = node.outputs[0].type.dtype
            return lambda x: np.asarray(np.add.reduce(x, axis=None, dtype=inner), outer), [0]
        case Join() if node.outputs[0].type.ndim == 1:
            return lambda *parts: np.concatenate(parts), list(range(len(node.inputs)))
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


def _may_multiply(node: Any, axes: tuple[int, ...]) -> bool:
    """Whether a sum over some, not all, axes of an array is a product: they come first or last."""
    (x,) = node.inputs
    n = len(axes)
    is_own = x.type.dtype == node.outputs[0].type.dtype in ("float32", "float64")
    ends = (tuple(range(n)), tuple(range(x.type.ndim - n, x.type.ndim)))
    return is_own and 0 < n < x.type.ndim and tuple(sorted(axes)) in ends


def _find_sum(ndim: int, axes: tuple[int, ...]) -> Function:
    if ndim == 2:
        return _add_rows if axes == (0,) else lambda x: _add_rows(x.T)
    are_first = 0 in axes
    n_left = len(axes) if are_first else ndim - len(axes)

    def add_up(x: np.ndarray) -> np.ndarray:
        left, right = x.shape[:n_left], x.shape[n_left:]
        n_rows, n_columns = math.prod(left), math.prod(right)
        n = n_rows if are_first else n_columns
        if n > MOST_SUMMED or not x.flags.c_contiguous:
            return np.add.reduce(x, axis=axes)
        matrix = x.reshape(n_rows, n_columns)
        if are_first:
            return np.dot(_ones(n, x.dtype), matrix).reshape(right)
        return np.dot(matrix, _ones(n, x.dtype)).reshape(left)

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
