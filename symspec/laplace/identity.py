"""Digests that say whether two networks, or two Laplace posteriors, are the same.

They are stored in draws, catalogues and the folders of partial runs, so that what is digested, and
in which order, stays as it is.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.safety.checkpoint import find_fingerprint


def hash_network(net: Network, theta: ArrayLike) -> str:
    """Digest of layers, labels, wavelengths and weights, whatever file they come from."""
    layers = [{"kind": layer.kind} | _find_settings(layer) for layer in net.layers]
    return find_fingerprint(
        *layers,
        net.sources,
        net.n_pixels,
        net.label_names,
        net.label_units,
        net.wavelength,
        net.wavelength_unit,
        np.asarray(theta, np.float64),
    )


def hash_weights(laplace: LaplacePosterior) -> str:
    """Digest of the normal distribution of the weights: theta, noise, prior, curvature, structure.

    Draws of Hamiltonian Monte Carlo hold it, to be known as draws of this posterior. What is learnt
    of a posterior later, such as its `hmc_verdict`, leaves it as it is.
    """
    return find_fingerprint(
        laplace.theta,
        laplace.reg.noise.identity(),
        laplace.reg.prior_precision,
        (laplace.curvature, laplace.structure),
    )


def hash_posterior(laplace: LaplacePosterior) -> str:
    """Digest of all that predictions depend on: what `hash_weights` covers, and everything else.

    Catalogues and partial runs hold it: a run goes on with the same network, inverse Hessian,
    training set, passes through the network and verdict only.
    """
    space = laplace.training_space
    return find_fingerprint(
        hash_network(laplace.reg.net, laplace.theta),
        laplace.reg.noise.identity(),
        laplace.reg.prior_precision,
        laplace.certificate.is_minimum,
        laplace.inverse_hessian.arrays(),
        laplace.flux_mean,
        laplace.label_range,
        None if space is None else vars(space),
        laplace.structure,
        laplace.curvature,
        laplace.backend,
        laplace.dtype,
        laplace.hmc_verdict,
    )


def _find_settings(layer: Layer) -> dict[str, Any]:
    """Fields of a layer, but for other layers, which the network lists itself."""
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: value for name, value in values.items() if not _is_layers(value)}


def _is_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (
        isinstance(value, tuple) and any(isinstance(v, Layer) for v in value)
    )
