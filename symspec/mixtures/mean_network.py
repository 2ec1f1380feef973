"""The mean labels of several networks as one network, for derivatives by the flux."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from symspec.mixtures.posterior import CombinedPosterior
from symspec.networks.layers import Dense, Layer
from symspec.networks.network import Network
from symspec.networks.shaping import Concatenate, From, Identity, Slice


def build_mean_network(combined: CombinedPosterior) -> tuple[Network, np.ndarray]:
    """The networks of a mixture side by side, and a last layer that takes the mean of their labels.

    It is for derivatives and predictions; its error bars are those of the mixture, not its own.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)
        Weights of all networks, and their shares.
    """
    start = Identity()
    layers: list[Layer] = [start]
    ends = []
    places = []
    for one in combined.posteriors:
        places.append(len(layers) + 1)
        layers += [From(start), *_copy(one.net.layers)]
        if one.net.n_outputs > one.net.n_labels:
            layers.append(Slice(0, one.net.n_labels))
        ends.append(layers[-1])
    n_labels = combined.net.n_labels
    layers += [Concatenate(*ends[:-1]), Dense(n_labels, use_bias=False)]
    net = combined.net.with_layers(layers)
    blocks = {}
    for one, place in zip(combined.posteriors, places, strict=True):
        renamed = dict(zip(one.net.layer_names, net.layer_names[place:], strict=False))
        for name, block in one.net.unpack(one.theta).items():
            layer, _, key = name.partition("/")
            blocks[f"{renamed[layer]}/{key}"] = block
    shares = np.concatenate([weight * np.eye(n_labels) for weight in combined.weights])
    blocks[f"{net.layer_names[-1]}/kernel"] = shares
    return net, net.pack(blocks)


def _copy(layers: Sequence[Layer]) -> list[Layer]:
    """The same layers as other objects, which refer to each other: networks may share theirs."""
    copies = []
    last: dict[int, Layer] = {}
    for layer in layers:
        others = [last[id(other)] for other in layer.others]
        last[id(layer)] = type(layer)(*others) if others else copy(layer)
        copies.append(last[id(layer)])
    return copies
