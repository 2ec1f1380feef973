"""The observed labels of a PyMC model, under the noise of a regression."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt

from symspec.errors import OptionError
from symspec.networks.noise import GaussianNoise, Noise
from symspec.networks.params import Symbol
from symspec.safety.label_errors import (
    Labels,
    LabelsWithErrors,
    find_labels_alone,
    find_observed,
)

LABELS = ("star", "label")
LABEL_DIM = "label_name"  # in draws: ArviZ has an axis "label" of its own in its summaries


def add_labels(noise: Noise, f: Symbol, Y: Labels, sigma: Symbol | None) -> Symbol:
    """The observed labels "y"; missing ones leave the density and are predicted like the others.

    Errors that the labels came with are data, too: "label_errors" (star, label), or
    "label_covariance".
    """
    import pymc as pm

    is_observed = find_observed(Y)
    labels = pm.Data("labels", np.where(is_observed, find_labels_alone(Y), 0.0), dims=LABELS)
    mask = None
    if not is_observed.all():
        mask = pm.Data("observed", is_observed.astype(np.float64), dims=LABELS)
    errors = _add_errors(Y)
    has_pairs = errors is not None and errors.ndim == 3
    if sigma is not None and has_pairs:
        raise OptionError(
            "sigma_noise as a variable goes with label errors that are standard deviations"
            " (star, label), got covariances: give label_errors=."
        )
    if sigma is not None and noise.outputs_per_label > 1:
        raise OptionError(
            "sigma_noise as a variable stands for noise of one output a label, got"
            f" {noise!r}: leave it out."
        )
    if isinstance(noise, GaussianNoise) and not (noise.is_full or has_pairs):
        sigma = noise.sigma if sigma is None else sigma
    if sigma is None:
        return _add_vectors(noise, f, labels, mask, errors)
    return _add_normals(f, labels, mask, sigma if errors is None else pt.sqrt(sigma**2 + errors**2))


def _add_errors(Y: Labels) -> Symbol | None:
    """Standard deviations (star, label) or covariances of the labels' own errors, as data."""
    import pymc as pm

    if not isinstance(Y, LabelsWithErrors):
        return None
    if Y.errors.ndim == 2:
        return pm.Data("label_errors", np.sqrt(Y.errors), dims=LABELS)
    return pm.Data("label_covariance", Y.errors, dims=(*LABELS, None))


def _add_normals(f: Symbol, labels: Symbol, mask: Symbol | None, sigma: Symbol) -> Symbol:
    """Labels "y" whose noise is their own."""
    import pymc as pm

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


def _add_vectors(
    noise: Noise, f: Symbol, labels: Symbol, mask: Symbol | None, errors: Symbol | None
) -> Symbol:
    """Labels "y" with one density of all labels of a star, that of the noise."""
    import pymc as pm

    n = noise.n_labels
    n_parts = noise.outputs_per_label
    parts = [f[:, part * n : (part + 1) * n] for part in range(n_parts)]

    def logp(value: Symbol, *args: Symbol) -> Symbol:
        known = value if mask is None else pt.switch(pt.neq(mask, 0.0), value, np.nan)
        known = pt.specify_shape(known, (None, n))
        targets = pt.concatenate([known, *args[n_parts:]], axis=-1)
        return noise.log_likelihood(pt.concatenate(args[:n_parts], axis=-1), targets)

    def random(*args: np.ndarray, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        outputs = [np.broadcast_to(part, (*size, n)) for part in args[:n_parts]]
        drawn = noise.draw(np.concatenate(outputs, axis=-1), rng)
        return drawn + sum(_draw_errors(c, drawn.shape, rng) for c in args[n_parts:])

    dims = ["(c)"] * n_parts
    args = parts
    if errors is not None and errors.ndim == 2:
        dims.append("(c)")
        args = [*parts, pt.specify_shape(errors**2, (None, n))]
    elif errors is not None:
        dims.append("(k)")
        columns = errors.reshape((errors.shape[0], n * n))
        args = [*parts, pt.specify_shape(columns, (None, n * n))]
    return pm.CustomDist(
        "y",
        *args,
        logp=logp,
        random=random,
        signature=f"{','.join(dims)}->(c)",
        observed=labels,
        shape=parts[0].shape,
        dims=LABELS,
    )


def _draw_errors(
    columns: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """Errors (..., label) of these variances (star, label) or covariances (star, label^2)."""
    z = rng.normal(size=shape)
    if columns.shape[-1] == shape[-1]:
        return np.sqrt(columns) * z
    values, vectors = np.linalg.eigh(columns.reshape(-1, shape[-1], shape[-1]))
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]  # zero for missing labels
    return np.einsum("ncd,...nd->...nc", roots, z)
