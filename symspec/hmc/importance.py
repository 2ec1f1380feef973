"""Importance weights of draws of a Laplace posterior: how far it is from the true one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from symspec.derivatives.backends import find_mode
from symspec.errors import DataError

if TYPE_CHECKING:
    import pymc as pm
    from xarray import Dataset

EQUAL = 1e-6  # nats between weights that are taken to be equal
MIN_WEIGHTS = 100  # fewer have no tail to speak of
MAX_LOST = 0.1  # share of Laplace draws whose density may be not finite


def weigh_laplace_draws(model: pm.Model, n: int, seed: int) -> Dataset:
    """Log weights (laplace_draw,) of n draws, up to a constant, and the Pareto k of their tail.

    Parameters
    ----------
    model : pymc.Model
        Whitened: its variable is a unit normal under the Laplace posterior.
    n, seed : int

    Raises
    ------
    DataError
        The density is not finite where chains would start.
    """
    import xarray as xr
    from arviz_stats.base import array_stats

    (variable,) = model.free_RVs
    size = int(np.prod(model.initial_point(0)[variable.name].shape))
    z = np.random.default_rng(seed).normal(size=(max(n, 1), size))
    log_density = model.compile_logp(mode=find_mode("numpy", "float64"))
    with np.errstate(all="ignore"):
        log_p = np.array([log_density({variable.name: row}) for row in [np.zeros(size), *z]])
    at_mode = log_p[0]
    log_p = log_p[1:]
    lost = np.mean(~np.isfinite(log_p))
    if not np.isfinite(at_mode) or lost > MAX_LOST:
        raise DataError(
            f"the posterior density should be finite where chains start, got {at_mode:.4g} at the"
            f" Laplace posterior's weights and {lost:.0%} not finite among {len(z)} draws of it:"
            " check sigma_noise, prior_precision and the weights, or take a structure closer to"
            " the truth (primal)."
        )
    weights = np.where(np.isfinite(log_p), log_p + 0.5 * np.sum(z**2, axis=1), -np.inf)
    finite = weights[np.isfinite(weights)]
    k = np.nan
    if np.ptp(finite) < EQUAL:
        k = 0.0  # the posterior is normal, and this is it
    elif len(finite) >= MIN_WEIGHTS:
        k = float(np.nan_to_num(array_stats.psislw(-finite)[1], nan=np.inf))
    return xr.Dataset({"log_weight": ("laplace_draw", weights)}, attrs={"pareto_k": k})
