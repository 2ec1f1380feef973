"""Batch normalisation folded into the layer before it: the same network with fewer parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from symspec.networks.convolutions import Conv1D
from symspec.networks.layers import Dense, Layer
from symspec.networks.network import Network, as_theta
from symspec.networks.normalizations import BatchNorm
from symspec.networks.params import Shape
from symspec.networks.shaping import Identity


def fold_batch_norm(net: Network, theta: Any) -> tuple[Network, np.ndarray]:
    r"""Fold batch normalisations that follow dense layers or convolutions into their weights.

    With :math:`s = \gamma / \sqrt{v + \epsilon}` a kernel becomes :math:`K s` and a bias :math:`(b
    - m) s + \beta`. Predictions stay as they are. Error bars do not: a prior acts on the folded
    weights then, and gamma and beta, which only rescale what the weights before them can do
    already, no longer add to them.

    Parameters
    ----------
    net : Network
    theta : array_like, shape (param,)

    Returns
    -------
    net : Network
        Normalisations that cannot be folded, as what comes before them is used elsewhere too, stay.
    theta : numpy.ndarray, shape (param,)
    """
    params = net.unpack(np.array(as_theta(theta, net.n_params, symbolic=False), np.float64))
    used = {source for sources in net.sources for source in sources}
    layers = list(net.layers)
    blocks = dict(params)
    for i in range(1, len(layers)):
        before = net.layers[i - 1]
        norm = net.layers[i]
        if not isinstance(before, Dense | Conv1D) or not isinstance(norm, BatchNorm):
            continue
        if i - 1 in used or not _share_channels(before, norm, net.shapes[i]):
            continue
        name = net.layer_names[i - 1]
        scale, shift = _find_affine(norm, params, net.layer_names[i])
        layers[i - 1] = replace(before, use_bias=True)
        layers[i] = Identity()
        blocks[f"{name}/kernel"] = params[f"{name}/kernel"] * scale
        blocks[f"{name}/bias"] = params.get(f"{name}/bias", 0.0) * scale + shift
    return _rebuild(net, layers, blocks)


def _share_channels(before: Dense | Conv1D, norm: BatchNorm, shape: Shape) -> bool:
    """Whether a layer with an output of this shape makes the channels that `norm` normalises."""
    is_first = isinstance(before, Conv1D) and before.data_format == "channels_first"
    return len(shape) == 1 or (norm.axis == 0) == is_first


def _find_affine(
    norm: BatchNorm, params: dict[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of a normalisation."""
    scale = params.get(f"{name}/gamma", 1.0) / np.sqrt(norm.variance + norm.epsilon)
    return scale, params.get(f"{name}/beta", 0.0) - norm.mean * scale


def _rebuild(
    net: Network, layers: list[Layer], blocks: dict[str, np.ndarray]
) -> tuple[Network, np.ndarray]:
    """Network of other layers in the places of the old ones; references and blocks follow."""
    made: list[Layer] = []
    for layer, sources in zip(layers, net.sources, strict=True):
        made.append(type(layer)(*(made[source] for source in sources)) if sources else layer)
    new = net.with_layers(made)
    old_names = dict(zip(new.layer_names, net.layer_names, strict=True))
    parts = (block.name.partition("/") for block in new.layout.blocks)
    return new, new.pack(
        {f"{name}/{key}": blocks[f"{old_names[name]}/{key}"] for name, _, key in parts}
    )
