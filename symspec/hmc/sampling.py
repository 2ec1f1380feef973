"""Hamiltonian Monte Carlo of a regression's posterior, in the coordinates and from the draws of a Laplace posterior."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from symspec.derivatives import compiled
from symspec.derivatives.backends import find_mode
from symspec.derivatives.functions import check_stars
from symspec.errors import (
    DataError,
    MissingDependencyError,
    NotAtMinimumWarning,
    OptionError,
    TooLargeError,
)
from symspec.hmc.model import pymc_model
from symspec.hmc.subsets import Subset, check_subset, describe_subset
from symspec.inverse_hessian.last_layer import find_last_layer, split_last_layer
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.regression import Regression
from symspec.networks.windows import register_jax
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.checks import check_choice, check_flux
from symspec.safety.memory import parse_memory
from symspec.spectra.selections import pick_evenly
from symspec.version import __version__

if TYPE_CHECKING:
    import pymc as pm
    from xarray import Dataset, DataTree

SAMPLERS = ("auto", "nutpie", "pymc", "numpyro", "blackjax")
GRADIENTS_PER_DRAW = 30  # of a whitened posterior; a tree of depth 5
MIN_DRAWS = 20
MIN_CHAINS = 2
CHECK_STARS = 500
TIMED_OPERATIONS = 1e9  # of the pass from which the time of all is estimated
EQUAL = 1e-6  # nats; fewer weights have no tail to speak of
MIN_WEIGHTS = 100
MAX_LOST = 0.1  # share of Laplace draws whose density may be not finite


def run_hmc(
    reg: Regression,
    X: Any,
    Y: Any,
    *,
    laplace: LaplacePosterior,
    seed: int,
    X_check: Any = None,
    subset: Subset = "all",
    n_draws: int = 1000,
    n_chains: int = 4,
    n_tune: int = 1000,
    n_importance: int = 1000,
    sampler: str = "auto",
    target_accept: float | None = None,
    theta_every: int = 1,
    max_hours: float = 24.0,
    memory: str = "8GB",
    progress: bool = True,
) -> DataTree:
    r"""Sample the posterior of a network by the No-U-Turn sampler, to check a Laplace posterior.

    The chains move in z of theta = theta* + L z with :math:`L L^T = A^{-1}` and start at draws of
    the Laplace posterior. What they converge to does not depend on it.

    Parameters
    ----------
    reg : Regression
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set; NaN labels are missing.
    laplace : LaplacePosterior
        With structure "primal", "dual", "low_rank", "kronecker", "ekfac" or "diagonal"; for
        subset="last_layer" with "last_layer", "primal" or "dual".
    seed : int
    X_check : array_like, shape (check_star, pixel), optional
        Spectra whose network outputs are stored; by default the training set, or 500 of it evenly
        spaced.
    subset : {"all", "last_layer"} or int, default "all"
        What varies, see `pymc_model`.
    n_draws, n_chains, n_tune : int
        Draws kept of each chain, chains, and draws for adaptation before.
    n_importance : int, default 1000
        Laplace draws whose importance weights are stored, see `compare_hmc`.
    sampler : {"auto", "nutpie", "pymc", "numpyro", "blackjax"}
        "auto" is nutpie where it is installed, else PyMC's own.
    target_accept : float, optional
        By default 0.95, or 0.8 for the last layer, whose posterior is normal and has no narrow
        places.
    theta_every : int, default 1
        Keep theta of every so manieth draw; 0 leaves it out, also while sampling. If more than 1 it
        is in the group "posterior_thinned".
    max_hours : float, default 24
        A problem that would take longer is refused.
    memory : str, default "8GB"
        What the draws may take.
    progress : bool, default True
        Show the sampler's progress.

    Returns
    -------
    xarray.DataTree
        ArviZ's: "posterior" with f (chain, draw, check_star, label) in units of the labels, and
        theta (chain, draw, param); "sample_stats"; "importance" with the log weights of Laplace
        draws (laplace_draw,). Attributes tell the subset and what was run. After Ctrl-C it holds
        the draws finished until then.

    Raises
    ------
    ShapeError, DataError
        X, Y or X_check are not what is expected, or the density is not finite where chains would
        start.
    OptionError
        Too few chains or draws, a sampler not known, or a structure that does not fit the subset.
    TooLargeError
        It would take longer than `max_hours`, or more than `memory`.
    MissingDependencyError
        The sampler is not installed.

    Notes
    -----
    Hoffman & Gelman (2014), Journal of Machine Learning Research 15, 1593.
    """
    X, Y = check_stars(reg.net, X, Y)
    subset = check_subset(subset, reg.net.n_params)
    sampler = _check_sampler(sampler)
    _check_counts(n_draws, n_chains, n_tune, theta_every)
    X_check = _find_check_stars(reg, X, X_check)
    _check_memory(
        n_draws * n_chains,
        _count_theta(reg, subset, theta_every),
        len(X_check) * reg.net.n_labels,
        memory,
    )
    _check_hours(reg, laplace, X, Y, subset, (n_draws + n_tune) * n_chains, max_hours)
    _warn_unless_minimum(laplace)
    model = pymc_model(reg, X, Y, laplace=laplace, subset=subset, X_check=X_check)
    importance = _weigh_laplace_draws(model, n_importance, seed)
    target_accept = target_accept or (0.8 if subset == "last_layer" else 0.95)
    settings = {"sampler": sampler, "seed": seed, "target_accept": target_accept}
    counts = {"draws": n_draws, "tune": n_tune, "chains": n_chains}
    begin = time.perf_counter()
    draws = _sample(
        model, ["f", "theta"][: 1 + bool(theta_every)], **settings, **counts, progress=progress
    )
    draws = _keep(_cut(draws, n_draws), importance, theta_every)
    draws.attrs |= _describe(laplace, subset, X_check) | settings
    draws.attrs |= {"n_tune": n_tune, "n_stars": len(X), "seconds": time.perf_counter() - begin}
    return draws


def _describe(laplace: LaplacePosterior, subset: Subset, X_check: np.ndarray) -> dict[str, str]:
    """What a comparison has to know of the draws."""
    return {
        "symspec_version": __version__,
        "subset": str(subset),
        "varied": describe_subset(subset),
        "whitened_by": f"{laplace.curvature} {laplace.structure}",
        "laplace": fingerprint_laplace(laplace),
        "check_stars": find_fingerprint(X_check),
    }


def fingerprint_laplace(laplace: LaplacePosterior) -> str:
    """Digest of what a Laplace posterior says of its weights."""
    words = laplace.curvature, laplace.structure
    return find_fingerprint(
        laplace.theta, laplace.reg.noise.identity(), laplace.reg.prior_precision, words
    )


def _sample(
    model: pm.Model,
    names: list[str],
    *,
    sampler: str,
    seed: int,
    target_accept: float,
    progress: bool,
    **words: Any,
) -> DataTree:
    """One BLAS thread for each chain: chains run side by side."""
    import pymc as pm

    nuts: dict[str, Any] = {"target_accept": target_accept}
    if sampler == "nutpie":
        words["compile_kwargs"] = {"jitter_rvs": set()}
    elif sampler == "pymc":
        words["init"] = "adapt_diag"  # without jitter
        words["mp_ctx"] = (
            "forkserver" if "jax" in sys.modules else None
        )  # a fork of JAX's threads may hang
    else:
        register_jax()
        nuts["jitter"] = False
    with model, threadpool_limits(1):
        return pm.sample(
            **words,
            var_names=names,
            cores=os.cpu_count(),
            random_seed=seed,
            nuts_sampler=sampler,
            nuts=nuts,
            progressbar=progress,
            quiet=not progress,
            compute_convergence_checks=False,
        )


def _weigh_laplace_draws(model: pm.Model, n: int, seed: int) -> Dataset:
    """Log importance weights (laplace_draw,) of draws of the Laplace posterior, up to a constant, and Pareto's k.

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
    with np.errstate(over="ignore", invalid="ignore"):
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
    if np.ptp(finite) < EQUAL:
        k = 0.0  # the posterior is normal, and this is it
    else:
        k = (
            float(np.nan_to_num(array_stats.psislw(-finite)[1], nan=np.inf))
            if len(finite) >= MIN_WEIGHTS
            else np.nan
        )
    return xr.Dataset({"log_weight": ("laplace_draw", weights)}, attrs={"pareto_k": k})


def _cut(draws: DataTree, n_draws: int) -> DataTree:
    """Of a run that was interrupted, what chains of one length hold: as many draws as possible.

    Raises
    ------
    KeyboardInterrupt
        No chain had begun to draw.
    """
    f = draws["posterior"]["f"]
    if f.sizes["draw"] == n_draws:
        return draws
    lengths = f.notnull().all(("check_star", "label")).sum("draw").values
    n_kept = int(
        max(lengths, key=lambda length: length * np.count_nonzero(lengths >= length), default=0)
    )
    if n_kept == 0:
        raise KeyboardInterrupt
    chains = np.flatnonzero(lengths >= n_kept)
    warnings.warn(
        f"interrupted: {n_kept} of {n_draws} draws of {len(chains)} of {len(lengths)} chains are"
        " kept.",
        UserWarning,
        stacklevel=3,
    )
    return draws.isel(chain=chains, draw=slice(n_kept))


def _keep(draws: DataTree, importance: Dataset, theta_every: int) -> DataTree:
    """What is worth keeping, with theta thinned; inputs are not copied into each result."""
    import xarray as xr

    names = [name for name in ("f", "theta") if name in draws["posterior"]]
    posterior = draws["posterior"].to_dataset()[names]
    stats = draws["sample_stats"].to_dataset()
    stats = stats[
        [name for name, values in stats.data_vars.items() if values.dtype != object]
    ]  # no words of None
    groups = {"posterior": posterior, "sample_stats": stats, "importance": importance}
    if theta_every > 1:
        groups["posterior"] = posterior[["f"]].drop_dims("param", errors="ignore")
        groups["posterior_thinned"] = posterior[["theta"]].isel(draw=slice(None, None, theta_every))
    return xr.DataTree.from_dict(groups)


# --- checks before any work


def _warn_unless_minimum(laplace: LaplacePosterior) -> None:
    if not laplace.certificate.is_minimum:
        warnings.warn(
            f"the Laplace posterior's weights are {laplace.certificate.message} The chains start"
            " around them and may need long to leave: symspec.polish first.",
            NotAtMinimumWarning,
            stacklevel=3,
        )


def _check_sampler(sampler: str) -> str:
    check_choice(sampler, "sampler", SAMPLERS)
    if sampler == "auto":
        return "pymc" if importlib.util.find_spec("nutpie") is None else "nutpie"
    if importlib.util.find_spec(sampler) is None:
        extra = "hmc" if sampler == "nutpie" else None
        advice = f"pip install 'symspec[{extra}]'" if extra else f"pip install {sampler}"
        raise MissingDependencyError(
            f"sampler={sampler!r} needs the package {sampler}: {advice}, or sampler='auto'."
        )
    return sampler


def _check_counts(n_draws: int, n_chains: int, n_tune: int, theta_every: int) -> None:
    least = {
        "n_draws": (n_draws, MIN_DRAWS),
        "n_tune": (n_tune, MIN_DRAWS),
        "theta_every": (theta_every, 0),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise OptionError(f"{name} should be at least {smallest}, got {value}.")
    if n_chains < MIN_CHAINS:
        raise OptionError(
            f"n_chains should be at least {MIN_CHAINS}, better 4, got {n_chains}: convergence is"
            " seen by comparing chains."
        )


def _find_check_stars(reg: Regression, X: np.ndarray, X_check: Any) -> np.ndarray:
    if X_check is not None:
        return np.atleast_2d(check_flux(X_check, reg.net.n_pixels, name="X_check"))
    return X[pick_evenly(len(X), CHECK_STARS)]


def _count_theta(reg: Regression, subset: Subset, theta_every: int) -> int:
    """Parameters of which each draw is kept."""
    free = (
        find_last_layer(reg.net.layout)[1] if subset == "last_layer" else slice(0, reg.net.n_params)
    )
    return free.stop - free.start if theta_every else 0


def _check_memory(n_draws: int, n_theta: int, n_f: int, memory: str) -> None:
    n_bytes = 8.0 * n_draws * (n_theta + n_f)
    limit = parse_memory(memory)
    if n_bytes > limit:
        raise TooLargeError(
            f"the draws would take {n_bytes / 1e9:.3g} GB, {8e-9 * n_draws * n_theta:.3g} of it for"
            f" theta, and memory is {memory}: leave theta out (theta_every=0), give fewer stars in"
            " X_check, or draw less."
        )


def _check_hours(
    reg: Regression,
    laplace: LaplacePosterior,
    X: np.ndarray,
    Y: np.ndarray,
    subset: Subset,
    n: int,
    max_hours: float,
) -> None:
    """Refuse what would take too long, by the time of one gradient."""
    theta = laplace.theta
    stars = X
    if subset == "last_layer":
        head = split_last_layer(reg, theta)
        reg = head.reg
        theta = theta[head.free]
        stars = np.zeros((len(X), reg.net.n_pixels))  # as long to pass as features
    some = slice(0, int(np.clip(TIMED_OPERATIONS / reg.net.n_params, 64, len(X))))
    gradient = compiled.compile_objective(reg)
    with np.errstate(over="ignore", invalid="ignore"):  # told of where chains start
        gradient(theta, stars[some], Y[some])
        begin = time.perf_counter()
        gradient(theta, stars[some], Y[some])
    seconds = (time.perf_counter() - begin) * len(X) / len(stars[some])
    hours = seconds * GRADIENTS_PER_DRAW * n / min(os.cpu_count() or 1, 4) / 3600
    if hours > max_hours:
        took = f"{hours:,.0f} hours" if hours < 100 else f"{hours / 24:,.0f} days"
        others = {
            "all": "subset='last_layer' or subset=50 (so many directions)",
            "last_layer": "fewer draws",
        }
        raise TooLargeError(
            f"{n:,} draws would take some {took} ({seconds:.3g} s a gradient, {GRADIENTS_PER_DRAW}"
            f" a draw), more than max_hours={max_hours:g}: sample"
            f" {others.get(str(subset), 'fewer stars, or draw less')}, or allow more max_hours."
        )
