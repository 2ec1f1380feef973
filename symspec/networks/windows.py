"""PyTensor Ops: sliding windows over positions, their adjoint, and the largest number of each.

As slices, joins and paddings these would be dozens of nodes each, which take seconds to compile
once they are differentiated twice. Axes for stars, labels or directions may stand before (position,
channel). PyTensor's Numba linker knows them once the first one is made, its JAX linker once a graph
is compiled for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import optdb
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import _vectorize_node
from pytensor.graph.rewriting.basic import GraphRewriter

from symspec.networks.params import Symbol


class _Sliding(Op):
    """Geometry of windows.

    Parameters
    ----------
    length : int
        Positions of the array.
    before : int
        Zeros before the first of them. After the last there are as many as the windows reach over.
    n : int
        Windows.
    size, stride : int
        Positions of a window, and from the start of one to that of the next.
    """

    __props__ = ("length", "before", "n", "size", "stride")

    def __init__(self, length: int, before: int, n: int, size: int, stride: int):
        self.length = length
        self.before = before
        self.n = n
        self.size = size
        self.stride = (
            stride if n > 1 else size
        )  # from a single window nothing starts, and a block has a stride's size
        register_numba()

    @property
    def n_parts(self) -> int:
        """How many blocks of `stride` positions a window reaches over."""
        return math.ceil(self.size / self.stride)

    @property
    def n_blocks(self) -> int:
        """How many such blocks all windows reach over."""
        return self.n + self.n_parts - 1

    def part(self, j: int, n_channels: int) -> tuple[slice, slice]:
        """Place in a window of its j-th part, and in the block that it is taken from."""
        first = j * self.stride * n_channels
        width = min(self.stride, self.size - j * self.stride) * n_channels
        return slice(first, first + width), slice(0, width)


class Slide(_Sliding):
    """Windows (window, size * channel) of an array (position, channel)."""

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        channels = x.type.shape[-1]
        tail = (self.n, None if channels is None else self.size * channels)
        return Apply(self, [x], [pt.tensor(dtype=x.dtype, shape=(*x.type.shape[:-2], *tail))])

    def infer_shape(self, node: Apply, shapes: list) -> list:
        return [(*shapes[0][:-2], self.n, self.size * shapes[0][-1])]

    def perform(self, node: Apply, inputs: list, outputs: list) -> None:
        (x,) = inputs
        batch = x.shape[:-2]
        n_channels = x.shape[-1]
        blocks = _fit(x, self.before, self.n_blocks * self.stride).reshape(
            *batch, self.n_blocks, -1
        )
        out = np.empty((*batch, self.n, self.size * n_channels), x.dtype)
        for j in range(self.n_parts):
            inside, taken = self.part(j, n_channels)
            out[..., inside] = blocks[..., j : j + self.n, taken]
        outputs[0][0] = out

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list:
        return [Unslide(*(getattr(self, name) for name in self.__props__))(cotangents[0])]

    def pushforward(self, inputs: Any, outputs: Any, tangents: Any) -> list:
        return [self(tangents[0])]


class Unslide(_Sliding):
    """Adjoint of `Slide`: windows (window, size * channel) add up to (position, channel)."""

    def make_node(self, g: Any) -> Apply:
        g = pt.as_tensor_variable(g)
        columns = g.type.shape[-1]
        tail = (self.length, None if columns is None else columns // self.size)
        return Apply(self, [g], [pt.tensor(dtype=g.dtype, shape=(*g.type.shape[:-2], *tail))])

    def infer_shape(self, node: Apply, shapes: list) -> list:
        return [(*shapes[0][:-2], self.length, shapes[0][-1] // self.size)]

    def perform(self, node: Apply, inputs: list, outputs: list) -> None:
        (g,) = inputs
        batch = g.shape[:-2]
        n_channels = g.shape[-1] // self.size
        n_blocks = max(self.n_blocks, math.ceil((self.before + self.length) / self.stride))
        blocks = np.zeros((*batch, n_blocks, self.stride * n_channels), g.dtype)
        for j in range(self.n_parts):
            inside, taken = self.part(j, n_channels)
            target = blocks[..., j : j + self.n, taken]
            if j == 0:  # nothing has been added yet
                target[...] = g[..., inside]
            else:
                target += g[..., inside]
        out = blocks.reshape(*batch, n_blocks * self.stride, n_channels)
        outputs[0][0] = out[..., self.before : self.before + self.length, :]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list:
        return [Slide(*(getattr(self, name) for name in self.__props__))(cotangents[0])]

    def pushforward(self, inputs: Any, outputs: Any, tangents: Any) -> list:
        return [self(tangents[0])]


class Largest(Op):
    """Largest numbers along the last axis but one; the first of equal ones has the derivative.

    NaN stays NaN.
    """

    __props__ = ()

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        shape = (*x.type.shape[:-2], x.type.shape[-1])
        return Apply(self, [x], [pt.tensor(dtype=x.dtype, shape=shape)])

    def infer_shape(self, node: Apply, shapes: list) -> list:
        return [(*shapes[0][:-2], shapes[0][-1])]

    def perform(self, node: Apply, inputs: list, outputs: list) -> None:
        outputs[0][0] = _find_largest(inputs[0])

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list:
        return [FirstLargest()(inputs[0]) * pt.expand_dims(cotangents[0], -2)]

    def pushforward(self, inputs: Any, outputs: Any, tangents: Any) -> list:
        chosen = FirstLargest()(inputs[0]) * tangents[0]
        return [pt.sum(chosen, axis=-2, acc_dtype=chosen.dtype)]  # of which one is not zero


class FirstLargest(Op):
    """1 at the first of the largest numbers along the last axis but one, 0 elsewhere.

    With NaN among them, the 1 is at any place.
    """

    __props__ = ()

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        return Apply(self, [x], [x.type()])

    def infer_shape(self, node: Apply, shapes: list) -> list:
        return shapes

    def perform(self, node: Apply, inputs: list, outputs: list) -> None:
        (x,) = inputs
        out = np.empty_like(x)
        free = np.ones(x[..., 0, :].shape, bool)
        largest = _find_largest(x)
        for i in range(x.shape[-2]):
            chosen = ~(x[..., i, :] < largest) & free
            free &= ~chosen
            out[..., i, :] = chosen
        outputs[0][0] = out

    def connection_pattern(self, node: Apply) -> list:
        return [[False]]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list:
        return [DisconnectedType()()]

    def pushforward(self, inputs: Any, outputs: Any, tangents: Any) -> list:
        return [disconnected_type()]


@_vectorize_node.register(Slide)
@_vectorize_node.register(Unslide)
@_vectorize_node.register(Largest)
@_vectorize_node.register(FirstLargest)
def _keep_axes_before(op: Op, node: Apply, x: Symbol) -> Apply:
    return op.make_node(x)


def _find_largest(x: np.ndarray) -> np.ndarray:
    """Maximum along the last axis but one, half against half: faster than NumPy's own reduction."""
    while (n := x.shape[-2]) > 1:
        half = n // 2
        largest = np.maximum(x[..., :half, :], x[..., half : 2 * half, :])
        if n % 2:
            np.maximum(largest[..., :1, :], x[..., -1:, :], out=largest[..., :1, :])
        x = largest
    return x[..., 0, :].copy()


def _fit(x: np.ndarray, before: int, length: int) -> np.ndarray:
    """`x` (..., position, channel) with zeros before, cut or filled with zeros to `length`."""
    if before == 0 and x.shape[-2] >= length:
        return x[..., :length, :]
    out = np.zeros((*x.shape[:-2], length, x.shape[-1]), x.dtype)
    stop = min(length, before + x.shape[-2])
    out[..., before:stop, :] = x[..., : stop - before, :]
    return out


@cache
def register_numba() -> None:
    """Register the Ops with PyTensor's Numba linker: loops, compiled."""
    from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

    loops: dict[type[Op], Callable[..., Any]] = {
        Slide: _loop_slide,
        Unslide: _loop_unslide,
        Largest: _loop_largest,
        FirstLargest: _loop_first_largest,
    }
    for op, build in loops.items():
        register_funcify_default_op_cache_key(op)(
            lambda op, build=build, **_: numba_njit(build(op))
        )


@cache
def register_jax() -> None:
    """Register the Ops with PyTensor's JAX linker: slices of blocks, as NumPy has them."""
    from pytensor.link.jax.dispatch import jax_funcify

    traces: dict[type[Op], Callable[..., Any]] = {
        Slide: _trace_slide,
        Unslide: _trace_unslide,
        Largest: _trace_largest,
        FirstLargest: _trace_first_largest,
    }
    for op, build in traces.items():
        jax_funcify.register(op)(lambda op, build=build, **_: build(op))


class _RegisterJax(GraphRewriter):
    """Registers the Ops as soon as any graph is compiled for JAX, and leaves the graph as it is."""

    def apply(self, fgraph: Any) -> None:
        register_jax()


# of the tag "jax" alone, so that only that mode, which imports JAX anyway, comes here
optdb.register("symspec_register_jax", _RegisterJax(), "jax", position=0)


def _loop_slide(op: Slide) -> Callable[..., Any]:
    length, before, n, size, stride = (getattr(op, name) for name in op.__props__)

    def slide(x: np.ndarray) -> np.ndarray:
        n_channels = x.shape[-1]
        rows = np.ascontiguousarray(x).reshape((-1, length, n_channels))
        out = np.zeros((rows.shape[0], n, size * n_channels), x.dtype)
        for star in range(rows.shape[0]):
            for i in range(n):
                for k in range(size):
                    place = i * stride + k - before
                    if 0 <= place < length:
                        for c in range(n_channels):
                            out[star, i, k * n_channels + c] = rows[star, place, c]
        return out.reshape((*x.shape[:-2], n, size * n_channels))

    return slide


def _loop_unslide(op: Unslide) -> Callable[..., Any]:
    length, before, n, size, stride = (getattr(op, name) for name in op.__props__)

    def unslide(g: np.ndarray) -> np.ndarray:
        n_channels = g.shape[-1] // size
        rows = np.ascontiguousarray(g).reshape((-1, n, size * n_channels))
        out = np.zeros((rows.shape[0], length, n_channels), g.dtype)
        for star in range(rows.shape[0]):
            for i in range(n):
                for k in range(size):
                    place = i * stride + k - before
                    if 0 <= place < length:
                        for c in range(n_channels):
                            out[star, place, c] += rows[star, i, k * n_channels + c]
        return out.reshape((*g.shape[:-2], length, n_channels))

    return unslide


def _loop_largest(op: Largest) -> Callable[..., Any]:
    def largest(x: np.ndarray) -> np.ndarray:
        n = x.shape[-2]
        n_channels = x.shape[-1]
        rows = np.ascontiguousarray(x).reshape((-1, n, n_channels))
        out = np.empty((rows.shape[0], n_channels), x.dtype)
        for row in range(rows.shape[0]):
            for c in range(n_channels):
                best = rows[row, 0, c]
                for i in range(1, n):
                    if rows[row, i, c] > best or np.isnan(rows[row, i, c]):
                        best = rows[row, i, c]
                out[row, c] = best
        return out.reshape((*x.shape[:-2], n_channels))

    return largest


def _loop_first_largest(op: FirstLargest) -> Callable[..., Any]:
    def first_largest(x: np.ndarray) -> np.ndarray:
        n = x.shape[-2]
        n_channels = x.shape[-1]
        rows = np.ascontiguousarray(x).reshape((-1, n, n_channels))
        out = np.zeros_like(rows)
        for row in range(rows.shape[0]):
            for c in range(n_channels):
                best = 0
                for i in range(1, n):
                    if rows[row, i, c] > rows[row, best, c] or np.isnan(rows[row, i, c]):
                        best = i
                out[row, best, c] = 1
        return out.reshape(x.shape)

    return first_largest


def _trace_slide(op: Slide) -> Callable[..., Any]:
    import jax.numpy as jnp

    def slide(x: Any) -> Any:
        n_channels = x.shape[-1]
        n_positions = op.n_blocks * op.stride
        after = max(n_positions - op.before - op.length, 0)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(op.before, after), (0, 0)])[..., :n_positions, :]
        blocks = x.reshape(*x.shape[:-2], op.n_blocks, op.stride * n_channels)
        parts = [op.part(j, n_channels)[1] for j in range(op.n_parts)]
        return jnp.concatenate(
            [blocks[..., j : j + op.n, taken] for j, taken in enumerate(parts)], axis=-1
        )

    return slide


def _trace_unslide(op: Unslide) -> Callable[..., Any]:
    import jax.numpy as jnp

    def unslide(g: Any) -> Any:
        n_channels = g.shape[-1] // op.size
        n_positions = op.n_blocks * op.stride
        blocks = jnp.zeros((*g.shape[:-2], op.n_blocks, op.stride * n_channels), g.dtype)
        for j in range(op.n_parts):
            inside, taken = op.part(j, n_channels)
            blocks = blocks.at[..., j : j + op.n, taken].add(g[..., inside])
        out = blocks.reshape(*g.shape[:-2], n_positions, n_channels)
        missing = max(op.before + op.length - n_positions, 0)
        out = jnp.pad(out, [(0, 0)] * (g.ndim - 2) + [(0, missing), (0, 0)])
        return out[..., op.before : op.before + op.length, :]

    return unslide


def _trace_largest(op: Largest) -> Callable[..., Any]:
    return lambda x: x.max(axis=-2)


def _trace_first_largest(op: FirstLargest) -> Callable[..., Any]:
    import jax.numpy as jnp

    def first_largest(x: Any) -> Any:
        places = jnp.arange(x.shape[-2])[:, None]
        return (places == jnp.argmax(x, axis=-2, keepdims=True)).astype(x.dtype)

    return first_largest
