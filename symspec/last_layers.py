"""The last dense layer of a network as a regression of its own, on the features that the others make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec import compiled
from symspec.checks import check_flux
from symspec.errors import OptionError
from symspec.inverse_hessian.last_layer import find_last_layer
from symspec.networks import Network
from symspec.regression import Regression
from symspec.shaping import Flatten, Reshape


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A regression on the features before a network's last dense layer.

    Attributes
    ----------
    reg : Regression
        Of that layer and what follows it, with the same noise and prior; its flux are features.
    free : slice
        The layer's place in the whole network's theta.
    net : Network
        The whole network.
    theta : numpy.ndarray, shape (param,)
        The whole network's weights.
    """

    reg: Regression
    free: slice
    net: Network
    theta: np.ndarray

    def find_features(self, X: Any, *, backend: str = "auto", dtype: str = "float64") -> np.ndarray:
        """Features (star, feature) of flux (star, pixel), some stars at a time."""
        X = check_flux(X, self.net.n_pixels, dtype=None)
        before = self.net.layers[: _last_with_parameters(self.net)]
        if not before:
            return np.asarray(X, np.float64)
        net = Network([*before, Flatten()], self.net.n_pixels)
        return compiled.compile_predict(net, backend=backend, dtype=dtype)(self.theta[: net.n_params], X).astype(
            np.float64
        )


def split_last_layer(reg: Regression, theta: np.ndarray) -> LastLayer:
    """The last dense layer of a network as a regression of its own.

    Raises
    ------
    OptionError
        What follows that layer refers to layers before it.
    """
    net = reg.net
    name, free = find_last_layer(net.layout)
    at = _last_with_parameters(net)
    if any(source < at for sources in net.sources[at:] for source in sources):
        raise OptionError(
            f"the last layer with parameters, {name}, should have all others before it, got a network in which some "
            'go around it to the labels: use subset="all" or a number of directions.'
        )
    layers = [Reshape(net.shapes[at]), *net.layers[at:]] if len(net.shapes[at]) > 1 else net.layers[at:]
    head = Network(layers, net.widths[at], label_names=net.label_names, label_units=net.label_units)
    prior = {b.name: reg.prior_precision[f"{name}/{b.name.partition('/')[2]}"] for b in head.layout.blocks}
    noise: dict[str, Any] = {"sigma_noise": reg.sigma_noise}
    if reg.has_full_noise:
        noise = {"noise_covariance": reg.noise_covariance}
    return LastLayer(Regression(head, prior_precision=prior, **noise), free, net, theta)


def _last_with_parameters(net: Network) -> int:
    """Index of the last layer with parameters."""
    return net.layer_names.index(find_last_layer(net.layout)[0])
