r"""Layers independent of one another and each diagonal in a product basis: what diagonal and Kronecker forms share.

A layer's kernel and bias are one matrix, :math:`z = \tilde a \tilde W` with :math:`\tilde a = [a, s]` and
:math:`\tilde W = [W; b / s]`. With :math:`s = \sqrt{\delta_W / \delta_b}` its prior has the one precision
:math:`\delta_W`. The layer's block of A is
:math:`(U_a \otimes U_g)\, \mathrm{diag}(E)\, (U_a \otimes U_g)^T`, E of shape (in, out), so that

.. math:: J A^{-1} J^T \big|_{cd} = \sum_l \sum_{ij} (U_a^T \tilde a)_i^2\, (U_g^T g_c)_j (U_g^T g_d)_j / E_{ij}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.inverse_hessian.interface import InverseHessian
from symspec.params import ParamLayout
from symspec.tangents import Tangents


@dataclass(frozen=True, eq=False)
class LayerBlock:
    """One layer's block of A.

    Attributes
    ----------
    precision : numpy.ndarray, shape (in, out)
        E; with a bias its last row is the bias.
    bias_scale : float or None
        s, or None without a bias.
    input_basis, output_basis : numpy.ndarray or None
        Orthogonal U_a (in, in) and U_g (out, out); None for the identity.
    """

    precision: np.ndarray
    bias_scale: float | None
    input_basis: np.ndarray | None = None
    output_basis: np.ndarray | None = None


def join_bias(a: np.ndarray, bias_scale: float | None) -> np.ndarray:
    """Inputs (star, in) with the bias's constant s behind them."""
    if bias_scale is None:
        return a
    return np.concatenate([a, np.full((len(a), 1), bias_scale, a.dtype)], axis=1)


def find_bias_scales(
    layout: ParamLayout, prior_precision: Mapping[str, Any], *, isotropic: bool
) -> dict[str, float | None]:
    """S of each layer, None without a bias; 1 where the prior need not be isotropic."""
    layers = {b.name.partition("/")[0]: layout.has(f"{b.name.partition('/')[0]}/bias") for b in layout.blocks}

    def ratio(layer: str) -> float:
        return float(np.sqrt(prior_precision[f"{layer}/kernel"] / prior_precision[f"{layer}/bias"]))

    return {layer: (ratio(layer) if isotropic else 1.0) if has_bias else None for layer, has_bias in layers.items()}


class LayerwiseInverse(InverseHessian):
    """A^-1 of independent layers, each diagonal in its product basis.

    Parameters
    ----------
    layout : ParamLayout
    blocks : dict of str to LayerBlock
        By name of layer.
    structure : str
    """

    accuracy = "approximate"

    def __init__(self, layout: ParamLayout, blocks: dict[str, LayerBlock], structure: str):
        super().__init__(layout.n_params)
        self.layout, self.blocks, self.structure = layout, blocks, structure

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        def solve(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            if block.input_basis is None:
                return V / block.precision
            V = (block.input_basis.T @ V @ block.output_basis) / block.precision
            return block.input_basis @ V @ block.output_basis.T

        return self._apply(solve, v.ravel())

    def diagonal(self) -> np.ndarray:
        def scale(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            if block.input_basis is None:
                return V / block.precision
            return V * (block.input_basis**2 @ (1 / block.precision) @ (block.output_basis**2).T)

        return self._apply(scale, np.ones(self.shape[0]))

    def logdet(self) -> float:
        total = 0.0
        for block in self.blocks.values():
            total -= np.log(block.precision).sum()
            if block.bias_scale is not None:
                total += 2 * block.precision.shape[1] * np.log(block.bias_scale)
        return float(total)

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        def colour(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            W = rng.normal(size=V.shape) / np.sqrt(block.precision)
            return W if block.input_basis is None else block.input_basis @ W @ block.output_basis.T

        return np.array([self._apply(colour, np.empty(self.shape[0])) for _ in range(n_draws)])

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        V = np.zeros((tangents.n_stars, tangents.n_labels, tangents.n_labels))
        for layer, block in self.blocks.items():
            a = join_bias(tangents.inputs[layer].astype(np.float64), block.bias_scale)
            g = tangents.cotangents[layer].astype(np.float64)
            if block.input_basis is not None:
                a, g = a @ block.input_basis, g @ block.output_basis
            weights = a**2 @ (1 / block.precision)
            V += np.matmul(g * weights[:, None, :], g.transpose(0, 2, 1))
        return V

    def arrays(self) -> dict[str, np.ndarray]:
        fields = ("precision", "input_basis", "output_basis")
        every = {f"{layer}/{name}": getattr(block, name) for layer, block in self.blocks.items() for name in fields}
        return {name: array for name, array in every.items() if array is not None}

    def _apply(self, function: Callable[[np.ndarray, LayerBlock], np.ndarray], v: np.ndarray) -> np.ndarray:
        """Function of each layer's part V (in, out) of D v, times D: D multiplies biases by s."""
        params, out = self.layout.unpack(v), np.empty(self.shape[0])
        results = self.layout.unpack(out)
        for layer, block in self.blocks.items():
            V, s = params[f"{layer}/kernel"], block.bias_scale
            if s is None:
                results[f"{layer}/kernel"][...] = function(V, block)
                continue
            R = function(np.vstack([V, s * params[f"{layer}/bias"]]), block)
            results[f"{layer}/kernel"][...], results[f"{layer}/bias"][...] = R[:-1], s * R[-1]
        return out
