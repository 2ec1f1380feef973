"""What a model is, of one network or of several: digests, and words for headers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from symspec.laplace.identity import describe_posterior, hash_network, hash_posterior
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.posterior import AnyPosterior, list_posteriors


def describe_model(laplace: AnyPosterior) -> dict[str, Any]:
    """All that predictions depend on, for `find_fingerprint`: every network, and the weights."""
    if isinstance(laplace, LaplacePosterior):
        return describe_posterior(laplace)
    each = [describe_posterior(one) for one in laplace.posteriors]
    return {"networks": each, "weights": laplace.weights}


def hash_model(laplace: AnyPosterior) -> str:
    """Digest of all that predictions depend on: every network, and the weights."""
    return _hash(laplace, hash_posterior)


def hash_networks(laplace: AnyPosterior) -> str:
    """Digest of layers, labels, wavelengths and weights of every network, and their shares."""
    return _hash(laplace, lambda one: hash_network(one.reg.net, one.theta))


def describe_origin(laplace: AnyPosterior) -> dict[str, str | int]:
    """Entries of a catalogue's header: structure, curvature and noise, of a mixture each network's.

    Of a mixture its networks, NETWORKS, and their shares, WEIGHTS, come first.
    """
    each = list_posteriors(laplace)
    entries: dict[str, str | int] = {}
    if not isinstance(laplace, LaplacePosterior):
        entries["NETWORKS"] = len(each)
        entries["WEIGHTS"] = ", ".join(f"{weight:.6g}" for weight in laplace.weights)
    entries["STRUCT"] = name_each([one.structure for one in each])
    entries["CURVAT"] = name_each([one.curvature for one in each])
    entries["NOISE"] = name_each([one.reg.noise.describe() for one in each])
    return entries


def name_each(texts: list[str]) -> str:
    """What all have in common, or the text of each with its number."""
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"network {k}: {text}" for k, text in enumerate(texts, 1))


def _hash(laplace: AnyPosterior, find: Callable[[LaplacePosterior], str]) -> str:
    """The digest of one network, or one of those of all networks of a mixture."""
    each = [find(one) for one in list_posteriors(laplace)]
    if isinstance(laplace, LaplacePosterior):
        return each[0]
    listed = [*each, *(float(weight).hex() for weight in laplace.weights)]
    return hashlib.blake2b("|".join(listed).encode(), digest_size=16).hexdigest()
