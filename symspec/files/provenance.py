"""Where numbers come from: versions, and digests of networks, files and spectra."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import numpy as np

from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.safety.checkpoint import find_fingerprint
from symspec.version import __version__


def find_versions() -> dict[str, str]:
    """Versions of symspec and of what its numbers come from."""
    return {"symspec": __version__, "numpy": version("numpy"), "pytensor": version("pytensor")}


def hash_network(net: Network, theta: np.ndarray) -> str:
    """Digest of layers, labels and weights: the same for the same network, whatever file it comes from."""
    layers = [{"kind": layer.kind} | _find_settings(layer) for layer in net.layers]
    names = net.n_pixels, net.label_names, net.label_units, net.wavelength, net.wavelength_unit
    return find_fingerprint(*layers, net.sources, *names, np.asarray(theta, np.float64))


def hash_laplace(laplace: LaplacePosterior) -> str:
    """Digest of all that predictions with a Laplace posterior depend on: network, noise, inverse Hessian, and so on."""
    network = hash_network(laplace.reg.net, laplace.theta)
    space = None if laplace.training_space is None else vars(laplace.training_space)
    training = laplace.flux_mean, laplace.label_range, space
    words = (
        laplace.structure,
        laplace.curvature,
        laplace.backend,
        laplace.dtype,
        laplace.hmc_verdict,
    )
    noise = (
        laplace.reg.noise.identity(),
        laplace.reg.prior_precision,
        laplace.certificate.is_minimum,
    )
    return find_fingerprint(network, *noise, laplace.inverse_hessian.arrays(), *training, *words)


def join_hashes(hashes: Any) -> str:
    """One digest of those of the pieces, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _find_settings(layer: Layer) -> dict[str, Any]:
    """Fields of a layer, but for other layers, which the network lists itself."""
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: value for name, value in values.items() if not _is_layers(value)}


def _is_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (
        isinstance(value, tuple) and any(isinstance(v, Layer) for v in value)
    )
