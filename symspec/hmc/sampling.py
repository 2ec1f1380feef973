"""Hamiltonian Monte Carlo of a regression's posterior, whitened by a Laplace posterior."""

from __future__ import annotations

import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from symspec.derivatives.functions import check_stars
from symspec.errors import NotAtMinimumWarning
from symspec.hmc.importance import weigh_laplace_draws
from symspec.hmc.labels import LABEL_DIM
from symspec.hmc.limits import check_counts, check_hours, check_memory, check_sampler
from symspec.hmc.model import pymc_model
from symspec.hmc.subsets import LAST_LAYER, Subset, check_subset, describe_subset, find_free
from symspec.laplace.identity import hash_flux, hash_network, hash_weights
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.regression import Regression
from symspec.networks.windows import register_jax
from symspec.safety.interrupts import keep_on_interrupt, raise_if_interrupted
from symspec.safety.label_errors import find_observed
from symspec.safety.progress import Progress, be_silent
from symspec.safety.stars import check_flux
from symspec.spectra.selections import as_stars, pick_evenly
from symspec.spectra.spectra import Spectra
from symspec.version import __version__

if TYPE_CHECKING:
    import pymc as pm
    from xarray import Dataset, DataTree

CHECK_STARS = 500


def run_hmc(
    reg: Regression,
    X: ArrayLike | Spectra,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    laplace: LaplacePosterior,
    seed: int,
    X_check: ArrayLike | None = None,
    subset: Subset = "all",
    n_draws: int = 1000,
    n_chains: int = 4,
    n_tune: int = 1000,
    n_importance: int = 1000,
    sampler: str = "auto",
    target_accept: float | None = None,
    theta_every: int = 1,
    log_likelihood: bool = False,
    max_hours: float = 24.0,
    memory: str = "8GB",
    progress: bool | Progress = True,
) -> DataTree:
    r"""Sample the posterior of a network by the No-U-Turn sampler, to check a Laplace posterior.

    The chains move in z of theta = theta* + L z with :math:`L L^T = A^{-1}` and start at draws of
    the Laplace posterior. What they converge to does not depend on it.

    Parameters
    ----------
    reg : Regression
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set, or `Spectra` alone; NaN labels are missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        0 at bad pixels of the training flux, which are filled. `Spectra` bring their own.
    laplace : LaplacePosterior
        With structure "primal", "dual", "low_rank", "kronecker", "ekfac" or "diagonal"; for
        subset="last_layer" with "last_layer", "primal" or "dual".
    seed : int
    X_check : array_like, shape (check_star, pixel), optional
        Spectra whose network outputs are stored; by default the training set, or 500 of it evenly
        spaced.
    subset : {"all", "last_layer"} or int, default "all"
        The parameters that vary, see `pymc_model`.
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
        Thinning of theta; 0 leaves it out, also while sampling. Beyond 1 it is in the group
        "posterior_thinned".
    log_likelihood : bool, default False
        Store the log density of each training star's labels with every draw, by which `arviz.loo`
        and `arviz.compare` hold noises, priors and networks against each other.
    max_hours : float, default 24
        A problem that would take longer is refused.
    memory : str, default "8GB"
        Memory that the draws may take.
    progress : bool or Progress, default True
        True: the sampler's own bar. A callable is called with (stage, done, total) after each draw
        of any chain, adaptation included; before and after all of them if the sampler is not
        "pymc".

    Returns
    -------
    xarray.DataTree
        ArviZ's: "posterior" with f (chain, draw, check_star, label_name) in units of the labels,
        and theta (chain, draw, param); "sample_stats"; "importance" with the log weights of Laplace
        draws (laplace_draw,); if asked for, "log_likelihood" with y (chain, draw, star) of the
        stars that have labels. Attributes hold the subset and the settings. After Ctrl-C it holds
        the draws finished until then.

    Raises
    ------
    ShapeError, DataError
        X, Y or X_check are not what is expected, or the density is not finite where chains would
        start.
    OptionError
        Too few chains or draws, an unknown sampler, or a structure that does not fit the subset.
    TooLargeError
        It would take longer than `max_hours`, or more than `memory`.
    MissingDependencyError
        The sampler is not installed.

    Notes
    -----
    One seed gives the same draws again on the same machine with the same versions of the packages:
    what is sampled is compiled anew each time, without Numba's cache, which costs some twenty
    seconds.

    Hoffman & Gelman (2014), Journal of Machine Learning Research 15, 1593.
    """
    X, Y = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    subset = check_subset(subset, reg.net.n_params)
    sampler = check_sampler(sampler)
    check_counts(n_draws, n_chains, n_tune, theta_every)
    X_check = _find_check_stars(reg, X, X_check)
    kept = find_free(reg.net.layout, subset)
    n_kept = kept.stop - kept.start if theta_every else 0
    n_stored = len(X_check) * reg.net.n_labels + log_likelihood * len(X)
    check_memory(n_draws * n_chains, n_kept, n_stored, memory)
    check_hours(reg, laplace, X, Y, subset, (n_draws + n_tune) * n_chains, max_hours)
    _warn_unless_minimum(laplace)
    model = pymc_model(
        reg, X, Y, laplace=laplace, subset=subset, X_check=X_check, log_likelihood=log_likelihood
    )
    importance = weigh_laplace_draws(model, n_importance, seed)
    target_accept = target_accept or (0.8 if subset == LAST_LAYER else 0.95)
    how: dict[str, Any] = {"sampler": sampler, "seed": seed, "target_accept": target_accept}
    how["n_tune"] = n_tune
    names = ["f", *["theta"] * bool(theta_every), *["log_likelihood"] * log_likelihood]
    begin = time.perf_counter()
    draws = _sample(model, names, n_draws=n_draws, n_chains=n_chains, progress=progress, **how)
    seconds = time.perf_counter() - begin
    labelled = np.flatnonzero(find_observed(Y).any(axis=1))
    draws = _keep(_cut(draws, n_draws), importance, theta_every, labelled)
    draws.attrs |= _describe(laplace, subset, X_check)
    draws.attrs.update(how, n_stars=len(X), seconds=seconds)
    return draws


def _describe(laplace: LaplacePosterior, subset: Subset, X_check: np.ndarray) -> dict[str, str]:
    """Attributes by which a comparison knows the draws."""
    return {
        "symspec_version": __version__,
        "subset": str(subset),
        "varied": describe_subset(subset),
        "whitened_by": f"{laplace.curvature} {laplace.structure}",
        "laplace": hash_weights(laplace),
        "network": hash_network(laplace.reg.net, laplace.theta),
        "check_stars": hash_flux(X_check),
    }


def _sample(
    model: pm.Model,
    names: list[str],
    *,
    sampler: str,
    seed: int,
    target_accept: float,
    n_draws: int,
    n_tune: int,
    n_chains: int,
    progress: bool | Progress,
) -> DataTree:
    """Draws of the variables `names`; chains run side by side, with one BLAS thread each."""
    counts = {"draws": n_draws, "tune": n_tune, "chains": n_chains, "cores": os.cpu_count()}
    total = n_chains * (n_tune + n_draws)
    shows_bar = bool(progress) and not callable(progress)
    follow = progress if callable(progress) else be_silent
    follow("sampling", 0, total)
    with model, threadpool_limits(1), _compiling_anew():
        if sampler == "nutpie":
            draws = _sample_by_nutpie(model, names, counts, seed, target_accept, shows_bar)
        else:
            callback = _count_draws(follow, total) if sampler == "pymc" else None
            draws = _sample_by_pymc(
                names, counts, seed, target_accept, shows_bar, sampler, callback
            )
    if sampler != "pymc":
        follow("sampling", total, total)
    return draws


def _sample_by_nutpie(
    model: pm.Model,
    names: list[str],
    counts: dict[str, Any],
    seed: int,
    target_accept: float,
    shows_bar: bool,
) -> DataTree:
    """Draws by nutpie itself: PyMC would not tell where compiling ends and drawing begins.

    Raises
    ------
    KeyboardInterrupt
        There was an interrupt before the first draw.
    """
    import nutpie

    compiled = nutpie.compile_pymc_model(model, var_names=names, jitter_rvs=set())
    raise_if_interrupted()
    keep_on_interrupt()
    begin = time.perf_counter()
    try:
        draws: DataTree = nutpie.sample(
            compiled,
            seed=seed,
            save_warmup=False,
            progress_bar=shows_bar,
            target_accept=target_accept,
            **counts,
        )
    except RuntimeError:
        raise_if_interrupted()  # nutpie makes another error of one that falls into its start
        raise
    # as PyMC has it
    seconds = time.perf_counter() - begin
    draws["posterior"].attrs.update(sampling_time=seconds, tuning_steps=counts["tune"])
    return draws


def _sample_by_pymc(
    names: list[str],
    counts: dict[str, Any],
    seed: int,
    target_accept: float,
    shows_bar: bool,
    sampler: str,
    callback: Callable[..., None] | None,
) -> DataTree:
    """Draws by PyMC's own sampler, or by one of those in JAX that it calls."""
    import pymc as pm

    nuts: dict[str, Any] = {"target_accept": target_accept}
    own: dict[str, Any] = {}  # options that only this sampler has
    if sampler == "pymc":
        own["init"] = "adapt_diag"  # without jitter
        # a fork of JAX's threads may hang
        own["mp_ctx"] = "forkserver" if "jax" in sys.modules else None
        own["callback"] = callback
    else:
        register_jax()
        nuts["jitter"] = False
    keep_on_interrupt()
    return pm.sample(
        var_names=names,
        random_seed=seed,
        nuts_sampler=sampler,
        nuts=nuts,
        progressbar=shows_bar,
        quiet=not shows_bar,
        compute_convergence_checks=False,
        **counts,
        **own,
    )


def _compiling_anew() -> AbstractContextManager[None]:
    """Compile without Numba's cache.

    With parts out of the cache of an earlier compilation, its code is other by the last digits.
    Chains amplify these, so that one seed would give other draws.
    """
    anew: AbstractContextManager[None] = pytensor.config.change_flags(numba__cache=False)
    return anew


def _count_draws(progress: Progress, total: int) -> Callable[..., None]:
    """Callback of `pymc.sample`, which is called after each draw of any chain."""
    counter = itertools.count(1)

    def count(trace: Any, draw: Any) -> None:
        progress("sampling", next(counter), total)

    return count


def _cut(draws: DataTree, n_draws: int) -> DataTree:
    """Chains of one length, with as many draws as possible, of a run that was interrupted.

    Raises
    ------
    KeyboardInterrupt
        No chain had begun to draw.
    """
    f = draws["posterior"]["f"]
    # chains that were interrupted are filled up with NaN, to the length of the longest
    lengths = f.notnull().all(("check_star", "label")).sum("draw").values
    if len(lengths) and (lengths == n_draws).all():
        return draws
    n_chains = [np.count_nonzero(lengths >= length) for length in lengths]
    n_kept = int(lengths[np.argmax(lengths * n_chains)]) if len(lengths) else 0
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


def _keep(draws: DataTree, importance: Dataset, theta_every: int, labelled: np.ndarray) -> DataTree:
    """The groups to be kept, with theta thinned; the model's data are left out."""
    import xarray as xr

    names = [name for name in ("f", "theta") if name in draws["posterior"]]
    posterior = draws["posterior"].to_dataset()[names].rename(label=LABEL_DIM)
    stats = draws["sample_stats"].to_dataset()
    # some samplers put strings and None among them
    stats = stats[[name for name, values in stats.data_vars.items() if values.dtype != object]]
    groups = {"posterior": posterior, "sample_stats": stats, "importance": importance}
    if theta_every > 1:
        groups["posterior"] = posterior[["f"]].drop_dims("param", errors="ignore")
        groups["posterior_thinned"] = posterior[["theta"]].isel(draw=slice(None, None, theta_every))
    if "log_likelihood" in draws["posterior"]:
        density = draws["posterior"].to_dataset()["log_likelihood"]
        groups["log_likelihood"] = xr.Dataset({"y": density.isel(star=labelled)})
    return xr.DataTree.from_dict(groups)


def _warn_unless_minimum(laplace: LaplacePosterior) -> None:
    if not laplace.certificate.is_minimum:
        warnings.warn(
            f"the Laplace posterior's weights are {laplace.certificate.message} The chains start"
            " around them and may need long to leave: symspec.polish first.",
            NotAtMinimumWarning,
            stacklevel=3,
        )


def _find_check_stars(reg: Regression, X: np.ndarray, X_check: ArrayLike | None) -> np.ndarray:
    if X_check is not None:
        return np.atleast_2d(check_flux(X_check, reg.net.n_pixels, name="X_check"))
    return X[pick_evenly(len(X), CHECK_STARS)]
