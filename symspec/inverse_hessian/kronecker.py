r"""Kronecker factors: each layer the product of a matrix of inputs and one of cotangents.

Layers are independent. With :math:`\tilde a = [a, s]` (see `layerwise`) and whitened cotangents
:math:`\hat g`, a layer's block of A is

.. math::
    \tfrac1N\, Q \otimes R + \delta, \qquad Q = \sum_n \tilde a_n \tilde a_n^T, \qquad
    R = \sum_n \sum_c \hat g_{nc} \hat g_{nc}^T,

over the N stars that have labels. The sum over the C outputs is the Gaussian likelihood's exact
one, none is drawn at random. Martens & Grosse 2015, arXiv:1503.05671; the bias is part of the
layer, as there. A layer without inputs, such as a convolution, whose rows of J are matrices
:math:`J_{nc}` of its parameters, takes

.. math::
    Q \otimes R / \mathrm{tr}\, Q + \delta, \qquad Q = \sum_{nc} \hat J_{nc} \hat J_{nc}^T, \qquad
    R = \sum_{nc} \hat J_{nc}^T \hat J_{nc},

one step of the power iteration for the nearest Kronecker product (Van Loan & Pitsianis 1993,
doi:10.1007/978-94-015-8196-7_17). Up to `EXACT_BLOCK` parameters make one row, for which R is the
exact block. The eigenvalue-corrected form ("ekfac") keeps the eigenvectors of Q and R and takes as
eigenvalues the diagonal of the exact block in their basis: George et al. 2018, arXiv:1806.03884.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from scipy.linalg import eigh

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.derivatives.threads import multiply_own, threads_of_scipy
from symspec.errors import OptionError
from symspec.inverse_hessian.interface import Problem
from symspec.inverse_hessian.layerwise import (
    LayerBlock,
    LayerwiseInverse,
    find_scales,
    join_bias,
    scale_rows,
)
from symspec.inverse_hessian.numerics.square_roots import Arrays
from symspec.networks.params import LayerParams, ParamLayout
from symspec.safety.checkpoint import Checkpoint

State = dict[str, np.ndarray]
EXACT_BLOCK = 2048  # parameters of a layer without inputs


class KroneckerInverse(LayerwiseInverse):
    """The inverse of independent layers, each a Kronecker product.

    An approximation, exact for a single star and for a network without hidden layers and with one
    label.
    """

    structure = "kronecker"
    has_bases = True
    corrected: ClassVar[bool] = False

    @staticmethod
    def find_scales(layout: ParamLayout, prior_precision: Arrays) -> dict[str, np.ndarray]:
        """Scales that make the prior isotropic."""
        scales = find_scales(layout, prior_precision, isotropic=True)
        for name, layer in layout.layers.items():
            if not layer.n_in:
                scales[name] = scales[name].reshape(KroneckerInverse.find_shape(layer))
        return scales

    @staticmethod
    def find_shape(layer: LayerParams) -> tuple[int, int]:
        columns = {block.shape[-1] for block in layer.blocks}
        if layer.n_in or layer.n_out <= EXACT_BLOCK or len(columns) > 1:
            return layer.n_rows, layer.n_out
        (n,) = columns
        return layer.n_out // n, n

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> Self:
        """From the factors Q and R, and the diagonals of the exact blocks if `corrected`.

        Raises
        ------
        OptionError
            The prior has one precision a parameter: a Kronecker product takes one a block.
        """
        layout = problem.reg.net.layout
        prior_precision = problem.reg.prior_precision
        if any(np.ndim(p) for p in prior_precision.values()):
            raise OptionError(
                "Kronecker structures take one prior precision a block, got one a parameter: use"
                ' structure="diagonal", or an exact one.'
            )
        scales = cls.find_scales(layout, prior_precision)
        stream = problem.stream(theta)
        factors = _accumulate_factors(stream, layout, scales, problem.checkpoint)
        n_stars = max(stream.n_stars, 1)
        blocks = {}
        for name, layer in layout.layers.items():
            alpha, U_a = _eigen(factors.pop(f"{name}/inputs"))
            beta, U_g = _eigen(factors.pop(f"{name}/cotangents"))
            n = n_stars if layer.n_in else max(alpha.sum(), np.finfo(float).tiny)
            blocks[name] = LayerBlock(np.outer(alpha, beta / n), scales[name], (U_a, U_g))
        if cls.corrected:
            _correct(stream, layout, blocks, problem.checkpoint)
        for name, (kernel, bias) in layout.by_layer(prior_precision).items():
            blocks[name].precision[...] += kernel or bias[0]
        return cls(layout, blocks)


class EkfacInverse(KroneckerInverse):
    """The Kronecker-factored inverse with corrected eigenvalues."""

    structure = "ekfac"
    corrected = True


def _accumulate_factors(
    stream: TangentStream,
    layout: ParamLayout,
    scales: dict[str, np.ndarray],
    checkpoint: Checkpoint,
) -> State:
    zeros: State = {}
    for name, layer in layout.layers.items():
        n_in, n_out = KroneckerInverse.find_shape(layer)
        zeros[f"{name}/inputs"] = np.zeros((n_in, n_in))
        zeros[f"{name}/cotangents"] = np.zeros((n_out, n_out))

    def add(state: State, tangents: Tangents) -> None:
        for name, layer in layout.layers.items():
            g = tangents.cotangents[name]
            if layer.n_in:
                a = join_bias(tangents.inputs[name], scales[name])
            else:
                shape = KroneckerInverse.find_shape(layer)
                g = scale_rows(g, layer, scales[name]).reshape(-1, *shape)
                a = g.transpose(0, 2, 1).reshape(-1, g.shape[1])
            g = g.reshape(-1, g.shape[-1])
            state[f"{name}/inputs"] += multiply_own(a.T)
            state[f"{name}/cotangents"] += multiply_own(g.T)

    return stream.accumulate(checkpoint, "kronecker factors", zeros, add)


def _correct(
    stream: TangentStream,
    layout: ParamLayout,
    blocks: dict[str, LayerBlock],
    checkpoint: Checkpoint,
) -> None:
    """Put the diagonal of the exact blocks in place of the products of eigenvalues."""

    def add(state: State, tangents: Tangents) -> None:
        for name, total in state.items():
            block = blocks[name]
            g = tangents.cotangents[name]
            layer = layout.layers[name]
            if not layer.n_in:
                J = scale_rows(g, layer, block.scale).reshape(-1, *total.shape)
                total += (block.rotate(J) ** 2).sum(axis=0)
                continue
            a, g = block.rotate_factors(join_bias(tangents.inputs[name], block.scale), g)
            total += (a**2).T @ (g**2).sum(axis=1)

    zeros = {name: np.zeros_like(block.precision) for name, block in blocks.items()}
    state = stream.accumulate(checkpoint, "kronecker correction", zeros, add)
    for name, total in state.items():
        blocks[name].precision[...] = total


def _eigen(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, at least 0 whatever rounding does, and eigenvectors of a positive matrix."""
    with threads_of_scipy(len(M)):
        values, vectors = eigh(M, driver="evd", overwrite_a=True, check_finite=False)
    return np.maximum(values, 0), vectors
