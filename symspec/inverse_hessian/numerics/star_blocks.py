"""Tangents of the training stars, block by block on disk, and the tiles of their kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.numerics.layout import Layout
from symspec.inverse_hessian.numerics.tile_folder import TileFolder
from symspec.networks.params import ParamLayout


class StarBlocks:
    """Tangents of all training stars, of which one block at a time is in memory.

    Parameters
    ----------
    folder : TileFolder
    layout : Layout
    params : ParamLayout
        Of the network.
    variance : dict of str to float or numpy.ndarray
        Prior variance of each block of parameters.
    """

    def __init__(
        self, folder: TileFolder, layout: Layout, params: ParamLayout, variance: dict[str, Any]
    ):
        self.folder = folder
        self.layout = layout
        self.params = params
        self.variance = variance

    def compute(self, b: int, tangents: Callable[[np.ndarray], Tangents]) -> None:
        """Compute and keep a block by a function of stars, unless it is there."""
        name = _name_block(b)
        if self.folder.has(name):
            return
        found = tangents(self.layout.stars[self.layout.blocks[b]])
        arrays = {f"inputs {layer}": a for layer, a in found.inputs.items()}
        arrays |= {f"cotangents {layer}": g for layer, g in found.cotangents.items()}
        self.folder.write_arrays(name, arrays)

    def has(self, b: int) -> bool:
        """Whether a block is there."""
        return self.folder.has(_name_block(b))

    def are_whole(self) -> bool:
        """Whether all blocks are there."""
        return all(self.has(b) for b in range(len(self.layout.blocks)))

    def __getitem__(self, b: int) -> Tangents:
        """Tangents of a block."""
        arrays = self.folder.read_arrays(_name_block(b))
        layers = list(self.params.layers)
        inputs = {layer: arrays[f"inputs {layer}"] for layer in layers}
        return Tangents(
            self.params, inputs, {layer: arrays[f"cotangents {layer}"] for layer in layers}
        )

    def __iter__(self) -> Iterator[Tangents]:
        return (self[b] for b in range(len(self.layout.blocks)))

    def kernel(self, other: Tangents) -> Iterator[np.ndarray]:
        """K of each block's rows and all (label, star) rows of other stars, in Fortran order."""
        other = other.as_factors()
        for rows, tangents in zip(self.layout.rows, self, strict=True):
            yield select(other.gram(tangents, self.variance), rows).T

    def matvec(self, V: np.ndarray) -> list[np.ndarray]:
        """J V of each block's rows (row, ...) for V (param, ...)."""
        out = []
        for rows, tangents in zip(self.layout.rows, self, strict=True):
            by_label = tangents.matvec(V).swapaxes(0, 1)
            out.append(by_label.reshape(-1, *V.shape[1:])[rows])
        return out

    def rmatvec(self, parts: list[np.ndarray]) -> np.ndarray:
        """J^T u (param, ...) for u of each block's rows (row, ...)."""
        out = np.zeros((self.params.n_params, *parts[0].shape[1:]))
        for block, tangents, part in zip(self.layout.blocks, self, parts, strict=True):
            out += tangents.rmatvec(self.layout.spread(block, part))
        return out

    def own_gram(self) -> np.ndarray:
        """Blocks (star, label, label) of K of each star with itself."""
        return np.concatenate([tangents.own_gram(self.variance) for tangents in self])


def select(K: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some columns of a matrix, in C order; itself if these are all."""
    return K if len(columns) == K.shape[1] else np.ascontiguousarray(K[:, columns])


def _name_block(b: int) -> str:
    return f"stars_{b:05d}"
