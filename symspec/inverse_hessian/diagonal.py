"""The curvature's diagonal alone: every weight independent of all others."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.checkpoint import Checkpoint
from symspec.inverse_hessian.layerwise import LayerBlock, LayerwiseInverse, find_bias_scales, join_bias
from symspec.params import ParamLayout
from symspec.tangent_stream import TangentStream


def build_diagonal(
    stream: TangentStream, layout: ParamLayout, prior_precision: dict[str, Any], checkpoint: Checkpoint
) -> LayerwiseInverse:
    r""":math:`A \approx \mathrm{diag}(A)`: its entries are :math:`\delta + \sum_n a_{ni}^2 \sum_c \hat g_{ncj}^2`.

    An approximation, whose standard deviations of labels may be off by several times in either direction:
    see `audit_structures`.
    """
    layers = {b.name.partition("/")[0]: b.shape for b in layout.blocks if b.name.endswith("/kernel")}
    scale = find_bias_scales(layout, prior_precision, isotropic=False)

    def add(state: dict[str, np.ndarray], tangents: Any) -> None:
        for layer, total in state.items():
            a = join_bias(tangents.inputs[layer], scale[layer]).astype(np.float64)
            total += (a**2).T @ (tangents.cotangents[layer].astype(np.float64) ** 2).sum(axis=1)

    zeros = {k: np.zeros((n_in + (scale[k] is not None), n_out)) for k, (n_in, n_out) in layers.items()}
    state = checkpoint.accumulate("diagonal", stream, zeros, add)
    for layer, total in state.items():
        n_in = layers[layer][0]
        total[:n_in] += prior_precision[f"{layer}/kernel"]
        total[n_in:] += prior_precision.get(f"{layer}/bias", 0.0)
    blocks = {layer: LayerBlock(total, scale[layer]) for layer, total in state.items()}
    return LayerwiseInverse(layout, blocks, "diagonal")
