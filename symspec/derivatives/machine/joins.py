"""Arrays that are joined: products are written where they are joined, and not copied there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pytensor.tensor.blas import Dot22
from pytensor.tensor.shape import Reshape

from symspec.derivatives.machine.products import find_multiply

Cell = list[Any]  # holds the value of a variable
LEAST_JOINED = 4096  # numbers of a product that is written where it is joined with others


class Buffer:
    """The array that arrays are joined in: what a call returns, from its first product on."""

    def __init__(self, shape: tuple[int, ...], dtype: str):
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._array: np.ndarray | None = None

    def offer(self, array: np.ndarray) -> bool:
        """Give memory that nobody needs any more; whether it is what is needed here."""
        is_taken = array.shape == self._shape and array.dtype == self._dtype
        if is_taken:
            self._array = array
        return is_taken

    def get(self) -> np.ndarray:
        if self._array is None:
            self._array = np.empty(self._shape, self._dtype)
        return self._array

    def take(self) -> np.ndarray:
        """The array, which is not kept."""
        array, self._array = self.get(), None
        return array


def multiply_into(
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
    return products | {join: like(thunks[join], put_together)}


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
    multiply = find_multiply(node)

    def write() -> None:
        out[0] = multiply(a[0], b[0], out=buffer.get()[place].reshape(shape))

    return like(thunk, write)


def like(thunk: Any, direct: Any) -> Any:
    """A call as a thunk in place of another."""
    direct.inputs = thunk.inputs
    direct.outputs = thunk.outputs
    direct.lazy = False
    return direct
