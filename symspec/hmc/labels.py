"""The observed labels of a PyMC model, under the noise of a regression."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytensor.tensor as pt

from symspec.networks.noise import GaussianNoise, Noise
from symspec.networks.params import Symbol

LABELS = ("star", "label")
LABEL_DIM = "label_name"  # in draws: ArviZ has an axis "label" of its own in its summaries


def add_labels(noise: Noise, f: Symbol, Y: np.ndarray, sigma: Symbol | None) -> Symbol:
    """The observed labels "y"; missing ones leave the density and are predicted like the others."""
    import pymc as pm

    is_observed = np.isfinite(Y)
    labels = pm.Data("labels", np.where(is_observed, Y, 0.0), dims=LABELS)
    mask = None
    if not is_observed.all():
        mask = pm.Data("observed", is_observed.astype(np.float64), dims=LABELS)
    if sigma is None and isinstance(noise, GaussianNoise) and not noise.is_full:
        sigma = noise.sigma
    if sigma is None:
        return _add_vectors(noise, f, labels, mask)
    if mask is None:
        return pm.Normal("y", f, sigma, observed=labels, shape=f.shape, dims=LABELS)

    def logp(value: Symbol, f: Symbol, sigma: Symbol) -> Symbol:
        return mask * pm.logp(pm.Normal.dist(f, sigma), value)

    return pm.CustomDist(
        "y",
        f,
        sigma,
        logp=logp,
        dist=lambda f, sigma, size: pm.Normal.dist(f, sigma, size=size),
        observed=labels,
        shape=f.shape,
        dims=LABELS,
    )


def _add_vectors(noise: Noise, f: Symbol, labels: Symbol, mask: Symbol | None) -> Symbol:
    """Labels "y" with one density of all labels of a star, PyMC's own if it has it."""
    import pymc as pm

    def logp(value: Symbol, f: Symbol) -> Symbol:
        known = value if mask is None else pt.switch(pt.neq(mask, 0.0), value, np.nan)
        return noise.log_likelihood(f, known)

    def random(f: np.ndarray, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        return noise.draw(np.broadcast_to(f, (*size, f.shape[-1])), rng)

    distribution = partial(
        pm.CustomDist,
        "y",
        f,
        logp=logp,
        signature="(c)->(c)",
        observed=labels,
        shape=f.shape,
        dims=LABELS,
    )
    if not isinstance(noise, GaussianNoise):
        return distribution(random=random)
    chol = np.linalg.cholesky(noise.covariance)
    if mask is None:
        return pm.MvNormal("y", f, chol=chol, observed=labels, shape=f.shape, dims=LABELS)
    return distribution(dist=lambda f, size: pm.MvNormal.dist(f, chol=chol, size=size))
