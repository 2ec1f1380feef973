"""Flat parameter vector to named blocks and back: the layout every derivative relies on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symspec.errors import DataError, ShapeError


@dataclass(frozen=True)
class Block:
    """One named parameter array: where it lies in `theta` and how it is shaped."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of parameters in the block."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """The block's place in the flat vector."""
        return slice(self.offset, self.offset + self.size)


class ParamLayout:
    """Order and shapes of the named blocks of a flat vector `theta`, each block in C order.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shape of each block, in the order in which the blocks stand in `theta`.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        blocks, offset = [], 0
        for name, shape in shapes.items():
            blocks.append(Block(name, tuple(shape), offset))
            offset += blocks[-1].size
        self.blocks = tuple(blocks)
        self.n_params = offset

    def has(self, name: str) -> bool:
        """Whether there is a block of this name."""
        return any(b.name == name for b in self.blocks)

    def unpack(self, theta: Any) -> dict[str, Any]:
        """Blocks of `theta` (param,), as views; `theta` may be an array or a symbolic vector."""
        return {b.name: theta[b.slice].reshape(b.shape) for b in self.blocks}

    def join(self, blocks: Mapping[str, Any]) -> pt.TensorVariable:
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
        return np.concatenate([_as_block(params[b.name], b) for b in self.blocks]) if names else np.empty(0)

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
