"""Flat parameter vector to named blocks and back: the layout every derivative relies on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor import TensorVariable as Symbol

from symspec.errors import DataError, ShapeError

Shape = tuple[int, ...]  # of one star's numbers
Params = Mapping[str, Symbol]  # by name of block


class Compilable:
    """Something whose compiled functions are kept with it, see `symspec.derivatives.backends`."""

    @cached_property
    def compiled(self) -> dict[Any, Any]:
        """Compiled functions by what they were made of."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """All but these: a copy compiles for itself."""
        return {name: value for name, value in vars(self).items() if name != "compiled"}


@dataclass(frozen=True)
class Block:
    """One named parameter array: where it lies in `theta` and how it is shaped."""

    name: str
    shape: Shape
    offset: int

    @property
    def size(self) -> int:
        """Number of parameters in the block."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """The block's place in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class LayerParams:
    """Parameters of one layer, neighbours in `theta`, as a matrix (in + bias, out).

    Attributes
    ----------
    blocks : tuple of Block
    n_in, n_out : int
    has_bias : bool
        Whether the matrix has one more row, the weights of an input that is 1.
    """

    blocks: tuple[Block, ...]
    n_in: int
    n_out: int
    has_bias: bool

    @property
    def offset(self) -> int:
        """Where the layer's first parameter lies in `theta`."""
        return self.blocks[0].offset

    @property
    def n_rows(self) -> int:
        """Rows of the matrix."""
        return self.n_in + self.has_bias

    @property
    def slice(self) -> slice:
        """The layer's place in the flat vector."""
        return slice(self.offset, self.offset + self.n_rows * self.n_out)


class ParamLayout:
    """Order and shapes of the named blocks of a flat vector `theta`, each block in C order.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of each block, in the order in which the blocks stand in `theta`.
    factored : collection of str, default ()
        Layers of a kernel (in, out), and perhaps a bias (out,), that act on a vector.

    Attributes
    ----------
    layers : dict of str to LayerParams
        For layers that are not factored all parameters are in one row, weights of an input that is
        1.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, factored: Collection[str] = ()):
        blocks = []
        offset = 0
        for name, shape in shapes.items():
            blocks.append(Block(name, tuple(map(int, shape)), offset))
            offset += blocks[-1].size
        self.blocks = tuple(blocks)
        self.n_params = offset
        self.layers: dict[str, LayerParams] = {}
        for name, parts in groupby(blocks, lambda block: block.name.partition("/")[0]):
            own = tuple(parts)
            if name in factored:
                n_in, n_out = own[0].shape
                self.layers[name] = LayerParams(own, n_in, n_out, has_bias=len(own) > 1)
            else:
                self.layers[name] = LayerParams(
                    own, 0, sum(block.size for block in own), has_bias=True
                )

    def has(self, name: str) -> bool:
        """Whether there is a block of this name."""
        return any(b.name == name for b in self.blocks)

    def unpack(self, theta: Any) -> dict[str, Any]:
        """Blocks of `theta` (param,), as views; `theta` may be an array or a symbolic vector."""
        return {b.name: theta[b.slice].reshape(b.shape) for b in self.blocks}

    def join(self, blocks: Params) -> Symbol:
        """Symbolic flat vector (param,) of symbolic blocks."""
        return pt.concatenate([blocks[b.name].reshape((b.size,)) for b in self.blocks])

    def pack(self, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Flat vector (param,) of named arrays.

        Raises
        ------
        DataError
            A block is missing or unknown.
        ShapeError
            An array has another shape than its block.
        """
        names = [b.name for b in self.blocks]
        missing = [n for n in names if n not in params]
        unknown = [n for n in params if n not in names]
        if missing or unknown:
            raise DataError(
                f"params should hold the blocks {names}, but {missing or 'none'} are missing and "
                f"{unknown or 'none'} are unknown: use the names of net.unpack(theta)."
            )
        return (
            np.concatenate([_as_block(params[b.name], b) for b in self.blocks])
            if names
            else np.empty(0)
        )

    def of_layer(self, name: str) -> ParamLayout:
        """Layout of one layer's parameters alone."""
        layer = self.layers[name]
        return ParamLayout(
            {b.name: b.shape for b in layer.blocks}, factored=[name] if layer.n_in else ()
        )

    def by_layer(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Values of each layer's kernel and of its bias, from one number or array a block.

        A layer that is not factored has all in the second, and 0 in the first.
        """
        out = {}
        for name, layer in self.layers.items():
            if layer.n_in:
                out[name] = (
                    values[f"{name}/kernel"],
                    values[f"{name}/bias"] if layer.has_bias else 0.0,
                )
                continue
            parts = [
                np.broadcast_to(values[block.name], block.shape).ravel() for block in layer.blocks
            ]
            out[name] = 0.0, np.concatenate(parts)
        return out

    def expand(self, values: Mapping[str, Any]) -> np.ndarray:
        """One value a parameter (param,) from one number or array a block."""
        out = np.empty(self.n_params)
        for b in self.blocks:
            out[b.slice] = np.broadcast_to(values[b.name], b.shape).ravel()
        return out


def _as_block(value: Any, block: Block) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != block.shape:
        hint = ""
        if array.ndim == 2 and array.T.shape == block.shape:
            hint = " It looks transposed (PyTorch keeps kernels as (out, in)): pass its .T."
        raise ShapeError(f"{block.name} should have shape {block.shape}, got {array.shape}.{hint}")
    return array.ravel()
