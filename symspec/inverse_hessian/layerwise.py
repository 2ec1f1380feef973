r"""Layers independent of one another and each diagonal in a product basis: what diagonal and Kronecker forms share.

A layer's kernel and bias are one matrix, :math:`z = \tilde a \tilde W` with :math:`\tilde a = [a,
s]` and :math:`\tilde W = [W; b / s]`. With :math:`s = \sqrt{\delta_W / \delta_b}` its prior has the
one precision :math:`\delta_W`. A layer that does not factorise, such as a convolution, has no a:
its parameters, each in units of its prior as a bias is, are one row, or several rows if they are
very many. The layer's block of A is :math:`(U_a \otimes U_g)\, \mathrm{diag}(E)\, (U_a \otimes
U_g)^T`, E of shape (in, out), so that

.. math:: J A^{-1} J^T \big|_{cd} = \sum_l \sum_{ij} (U_a^T \tilde a)_i^2\, (U_g^T g_c)_j (U_g^T g_d)_j / E_{ij}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.interface import InverseHessian
from symspec.networks.params import LayerParams, ParamLayout
from symspec.safety.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class LayerBlock:
    """One layer's block of A, its parameters in their order as a matrix (in, out).

    Attributes
    ----------
    precision : numpy.ndarray, shape (in, out)
        E; with a bias its last row is the bias.
    scale : numpy.ndarray, shape (in, 1) or (in, out)
        What the parameters are in units of: 1 for a kernel, s for a bias.
    input_basis, output_basis : numpy.ndarray or None
        Orthogonal U_a (in, in) and U_g (out, out); None for the identity.
    """

    precision: np.ndarray
    scale: np.ndarray
    input_basis: np.ndarray | None = None
    output_basis: np.ndarray | None = None


def join_bias(a: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Inputs (star, in) with the bias's constant s behind them, if `scale` has a row for it."""
    if len(scale) == a.shape[1]:
        return a
    return np.concatenate(
        [a, np.full((len(a), 1), scale[-1, 0] if a.shape[1] else 1, a.dtype)], axis=1
    )


def find_scales(
    layout: ParamLayout, prior_precision: Mapping[str, Any], *, isotropic: bool
) -> dict[str, np.ndarray]:
    """Scale of each layer's parameters, (in, 1) or (in, out): 1 where the prior need not be isotropic."""
    scales = {}
    for name, (kernel, bias) in layout.by_layer(prior_precision).items():
        layer = layout.layers[name]
        if not layer.n_in:
            scales[name] = np.sqrt(bias[0] / bias)[None] if isotropic else np.ones((1, layer.n_out))
            continue
        scales[name] = np.ones((layer.n_rows, 1))
        if layer.has_bias and isotropic:
            scales[name][-1] = np.sqrt(kernel / bias)
    return scales


def scale_rows(g: np.ndarray, layer: LayerParams, scale: np.ndarray) -> np.ndarray:
    """Cotangents (star, label, out) in units of `scale`, for a layer that has no inputs which would take it."""
    return g if layer.n_in else g * scale.reshape(-1).astype(g.dtype)


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
        self.layout = layout
        self.blocks = blocks
        self.structure = structure

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
            total += 2 * np.log(np.broadcast_to(block.scale, block.precision.shape)).sum()
        return float(total)

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        def colour(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            W = rng.normal(size=V.shape) / np.sqrt(block.precision)
            return W if block.input_basis is None else block.input_basis @ W @ block.output_basis.T

        return np.array([self._apply(colour, np.empty(self.shape[0])) for _ in range(n_draws)])

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        V = np.zeros((tangents.n_stars, tangents.n_labels, tangents.n_labels))
        for name, block in self.blocks.items():
            a = tangents.inputs[name].astype(np.float64)
            g = tangents.cotangents[name].astype(np.float64)
            g = scale_rows(g, self.layout.layers[name], block.scale)
            if not self.layout.layers[name].n_in and len(block.precision) > 1:
                J = project(g.reshape(*g.shape[:2], *block.precision.shape), block).reshape(g.shape)
                V += np.matmul(J / block.precision.ravel(), J.transpose(0, 2, 1))
                continue
            a = join_bias(a, block.scale)
            if block.input_basis is not None:
                a = a @ block.input_basis
                g = g @ block.output_basis
            weights = a**2 @ (1 / block.precision)
            V += np.matmul(g * weights[:, None, :], g.transpose(0, 2, 1))
        return V

    def arrays(self) -> dict[str, np.ndarray]:
        fields = ("precision", "input_basis", "output_basis")
        every = {
            f"{layer}/{name}": getattr(block, name)
            for layer, block in self.blocks.items()
            for name in fields
        }
        return {name: array for name, array in every.items() if array is not None}

    def _apply(
        self, function: Callable[[np.ndarray, LayerBlock], np.ndarray], v: np.ndarray
    ) -> np.ndarray:
        """Function of each layer's part V (in, out) of D v, times D, which multiplies by `scale`."""
        out = np.empty(self.shape[0])
        for name, block in self.blocks.items():
            part = self.layout.layers[name].slice
            V = block.scale * v[part].reshape(block.precision.shape)
            out[part] = (block.scale * function(V, block)).ravel()
        return out


def project(J: np.ndarray, block: LayerBlock) -> np.ndarray:
    """U_a^T J U_g of matrices (..., in, out)."""
    return block.input_basis.T.astype(J.dtype) @ J @ block.output_basis.astype(J.dtype)


def build_diagonal(
    stream: TangentStream,
    layout: ParamLayout,
    prior_precision: dict[str, Any],
    checkpoint: Checkpoint,
) -> LayerwiseInverse:
    r""":math:`A \approx \mathrm{diag}(A)`: its entries are :math:`\delta + \sum_n a_{ni}^2 \sum_c \hat g_{ncj}^2`.

    An approximation, whose standard deviations of labels may be off by several times in either
    direction: see `audit_structures`.
    """
    scales = find_scales(layout, prior_precision, isotropic=False)

    def add(state: dict[str, np.ndarray], tangents: Any) -> None:
        for layer, total in state.items():
            a = join_bias(tangents.inputs[layer], scales[layer]).astype(np.float64)
            total += (a**2).T @ (tangents.cotangents[layer].astype(np.float64) ** 2).sum(axis=1)

    zeros = {name: np.zeros((layer.n_rows, layer.n_out)) for name, layer in layout.layers.items()}
    state = checkpoint.accumulate("diagonal", stream, zeros, add)
    for name, (kernel, bias) in layout.by_layer(prior_precision).items():
        n_in = layout.layers[name].n_in
        state[name][:n_in] += kernel
        state[name][n_in:] += bias
    blocks = {layer: LayerBlock(total, scales[layer]) for layer, total in state.items()}
    return LayerwiseInverse(layout, blocks, "diagonal")
