r"""Kronecker factors: layers independent, each the product of a matrix of inputs and one of cotangents.

With :math:`\tilde a = [a, s]` (see `layerwise`) and whitened cotangents :math:`\hat g`, a layer's block of A is

.. math::
    \tfrac1N\, Q \otimes R + \delta, \qquad Q = \sum_n \tilde a_n \tilde a_n^T, \qquad
    R = \sum_n \sum_c \hat g_{nc} \hat g_{nc}^T,

over the N stars that have labels. The sum over the C outputs is the Gaussian likelihood's exact one, none is drawn at
random. Martens & Grosse 2015, arXiv:1503.05671; the bias is part of the layer, as there.
The eigenvalue-corrected form ("ekfac") keeps the eigenvectors of Q and R and takes as eigenvalues the diagonal of
the exact block in their basis: George et al. 2018, arXiv:1806.03884.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from symspec.checkpoint import Checkpoint
from symspec.errors import OptionError
from symspec.inverse_hessian.layerwise import LayerBlock, LayerwiseInverse, find_bias_scales, join_bias
from symspec.params import ParamLayout
from symspec.tangent_stream import TangentStream
from symspec.tangents import Tangents

State = dict[str, np.ndarray]


def build_kronecker(
    stream: TangentStream,
    layout: ParamLayout,
    prior_precision: dict[str, float],
    checkpoint: Checkpoint,
    *,
    corrected: bool = False,
) -> LayerwiseInverse:
    """Kronecker-factored inverse, or with `corrected` the eigenvalue-corrected one.

    An approximation, exact for a single star and for a network without hidden layers and with one label.

    Raises
    ------
    OptionError
        The prior has one precision a parameter: a Kronecker product takes one a block.
    """
    if any(np.ndim(p) for p in prior_precision.values()):
        raise OptionError(
            "Kronecker structures take one prior precision a block, got one a parameter: use structure="
            '"diagonal", or an exact one.'
        )
    shapes = {b.name.partition("/")[0]: b.shape for b in layout.blocks if b.name.endswith("/kernel")}
    prior = {layer: prior_precision[f"{layer}/kernel"] for layer in shapes}
    scale = find_bias_scales(layout, prior_precision, isotropic=True)
    factors = _accumulate_factors(stream, shapes, scale, checkpoint)
    n_stars = max(stream.n_stars, 1)
    blocks = {}
    for layer in shapes:
        alpha, U_a = _eigen(factors.pop(f"{layer}/inputs"))
        beta, U_g = _eigen(factors.pop(f"{layer}/cotangents"))
        blocks[layer] = LayerBlock(np.outer(alpha, beta / n_stars), scale[layer], U_a, U_g)
    if corrected:
        _correct(stream, blocks, checkpoint)
    for layer, block in blocks.items():
        block.precision[...] += prior[layer]
    return LayerwiseInverse(layout, blocks, "ekfac" if corrected else "kronecker")


def _accumulate_factors(
    stream: TangentStream, shapes: dict[str, tuple[int, ...]], scale: dict[str, float | None], checkpoint: Checkpoint
) -> State:
    state = {}
    for layer, (n_in, n_out) in shapes.items():
        n_in += scale[layer] is not None
        state |= {f"{layer}/inputs": np.zeros((n_in, n_in)), f"{layer}/cotangents": np.zeros((n_out, n_out))}

    def add(state: State, tangents: Tangents) -> None:
        for layer in shapes:
            a = join_bias(tangents.inputs[layer], scale[layer])
            g = tangents.cotangents[layer].reshape(-1, shapes[layer][1])
            state[f"{layer}/inputs"] += a.T @ a
            state[f"{layer}/cotangents"] += g.T @ g

    return checkpoint.accumulate("kronecker factors", stream, state, add)


def _correct(stream: TangentStream, blocks: dict[str, LayerBlock], checkpoint: Checkpoint) -> None:
    """Put the diagonal of the exact blocks in place of the products of eigenvalues."""

    def add(state: State, tangents: Tangents) -> None:
        for layer, total in state.items():
            block, dtype = blocks[layer], tangents.inputs[layer].dtype
            a = join_bias(tangents.inputs[layer], block.bias_scale) @ block.input_basis.astype(dtype)
            g = tangents.cotangents[layer] @ block.output_basis.astype(dtype)
            total += (a**2).T @ (g**2).sum(axis=1)

    zeros = {layer: np.zeros_like(block.precision) for layer, block in blocks.items()}
    state = checkpoint.accumulate("kronecker correction", stream, zeros, add)
    for layer, total in state.items():
        blocks[layer].precision[...] = total


def _eigen(M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, those below zero by rounding set to it, and eigenvectors of a positive matrix."""
    values, vectors = eigh(M, driver="evd", overwrite_a=True, check_finite=False)
    return np.maximum(values, 0), vectors
