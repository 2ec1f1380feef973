"""The last dense layer of a network as a regression of its own, on the features that the others make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec import compiled
from symspec.checks import check_flux
from symspec.inverse_hessian.last_layer import find_last_layer
from symspec.layers import Dense
from symspec.networks import Network
from symspec.regression import Regression


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
        before = self.net.layers[: _last_dense(self.net)]
        if not before:
            return np.asarray(X, np.float64)
        net = Network(before, self.net.n_pixels)
        return compiled.compile_predict(net, backend=backend, dtype=dtype)(self.theta[: net.n_params], X).astype(
            np.float64
        )


def split_last_layer(reg: Regression, theta: np.ndarray) -> LastLayer:
    """The last dense layer of a network as a regression of its own."""
    net = reg.net
    name, free = find_last_layer(net.layout)
    at = _last_dense(net)
    head = Network(net.layers[at:], net.widths[at], label_names=net.label_names, label_units=net.label_units)
    prior = {b.name: reg.prior_precision[f"{name}/{b.name.partition('/')[2]}"] for b in head.layout.blocks}
    noise: dict[str, Any] = {"sigma_noise": reg.sigma_noise}
    if reg.has_full_noise:
        noise = {"noise_covariance": reg.noise_covariance}
    return LastLayer(Regression(head, prior_precision=prior, **noise), free, net, theta)


def _last_dense(net: Network) -> int:
    """Index of the last dense layer."""
    return max(i for i, layer in enumerate(net.layers) if isinstance(layer, Dense))
