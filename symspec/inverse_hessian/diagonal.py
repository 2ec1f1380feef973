"""The curvature's diagonal alone: every weight independent of all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.checkpoint import Checkpoint
from symspec.inverse_hessian.layerwise import LayerBlock, LayerwiseInverse, find_scales, join_bias
from symspec.params import ParamLayout
from symspec.tangent_stream import TangentStream


def build_diagonal(
    stream: TangentStream, layout: ParamLayout, prior_precision: dict[str, Any], checkpoint: Checkpoint
) -> LayerwiseInverse:
    r""":math:`A \approx \mathrm{diag}(A)`: its entries are :math:`\delta + \sum_n a_{ni}^2 \sum_c \hat g_{ncj}^2`.

    An approximation, whose standard deviations of labels may be off by several times in either direction:
    see `audit_structures`.
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
