"""What says whether two networks, or two Laplace posteriors, are the same.

`describe_posterior` gives all that results depend on: runs that can be resumed take the fingerprint
of it. The digests of the `hash_` functions are stored in draws, catalogues and files of
derivatives, so that what is digested, and in which order, stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.networks.network import Network
from symspec.networks.regression import describe_regression, find_medium, find_settings

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior

# fields without a part in predictions
_NOT_PREDICTED = ("reason", "negative_log_posterior", "training_stars")


def describe_posterior(laplace: LaplacePosterior) -> dict[str, Any]:
    """All that predictions depend on, for `find_fingerprint`: every field, and new ones as well."""
    names = [field.name for field in fields(laplace) if field.name not in _NOT_PREDICTED]
    return {name: getattr(laplace, name) for name in names} | {
        "reg": describe_regression(laplace.reg),
        "certificate": _describe_optimum(laplace),
    }


def hash_network(net: Network, theta: ArrayLike) -> str:
    """Digest of layers, labels, wavelengths and weights, whatever file they come from."""
    layers = [{"kind": layer.kind} | find_settings(layer) for layer in net.layers]
    return _find_stored_digest(
        *layers,
        net.sources,
        net.n_pixels,
        net.label_names,
        net.label_units,
        net.wavelength,
        net.wavelength_unit,
        *find_medium(net).values(),
        np.asarray(theta, np.float64),
    )


def hash_weights(laplace: LaplacePosterior) -> str:
    """Digest of the normal distribution of the weights: theta, noise, prior, curvature, structure.

    Draws of Hamiltonian Monte Carlo hold it, to be known as draws of this posterior. What is learnt
    of a posterior later, such as its `hmc_verdict`, leaves it as it is.
    """
    return _find_stored_digest(
        laplace.theta,
        laplace.reg.noise.identity(),
        laplace.reg.prior_precision,
        (laplace.curvature, laplace.structure),
    )


def hash_posterior(laplace: LaplacePosterior) -> str:
    """Digest of all that predictions depend on: what `hash_weights` covers, and everything else.

    Catalogues hold it.
    """
    space = laplace.training_space
    prior = laplace.flux_prior
    # digests of the first version, whose posteriors had none, stay as they are
    later: list[Any] = [] if prior is None else [vars(prior), laplace.label_spread]
    for name in ("training_flux_cov", "exact_step"):
        if (array := getattr(laplace, name)) is not None:
            later.append((name, array))
    return _find_stored_digest(
        hash_network(laplace.reg.net, laplace.theta),
        laplace.reg.noise.identity(),
        laplace.reg.prior_precision,
        _describe_optimum(laplace),
        laplace.inverse_hessian.arrays(),
        laplace.flux_mean,
        laplace.label_range,
        None if space is None else vars(space),
        laplace.structure,
        laplace.curvature,
        laplace.backend,
        laplace.dtype,
        laplace.hmc_verdict,
        *later,
    )


def _describe_optimum(laplace: LaplacePosterior) -> Any:
    """What the flags of stars take from it: the gradient, or the verdict of a file without one."""
    return laplace.certificate.is_minimum if laplace.gradient is None else laplace.gradient


def hash_flux(X: np.ndarray) -> str:
    """Digest of spectra (star, pixel), by which draws know those that they hold predictions of."""
    return _find_stored_digest(X)


def _find_stored_digest(*parts: Any) -> str:
    """Digest as the first version made it, whose digests are stored.

    It is enough for what is digested above; `find_fingerprint` tells any values apart.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Mapping):
            items = (item for pair in sorted(part.items()) for item in pair)
            part = _find_stored_digest(*items)
        elif isinstance(part, tuple | list) and any(isinstance(x, np.ndarray) for x in part):
            part = _find_stored_digest(*part)
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
        digest.update(b"|")
    return digest.hexdigest()
