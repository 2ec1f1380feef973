"""Laplace's error bars compared with Hamiltonian Monte Carlo's, star by star and label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from symspec.derivatives import compiled
from symspec.errors import DataError, OptionError, ShapeError
from symspec.hmc.labels import LABEL_DIM
from symspec.hmc.subsets import (
    ALL,
    Subset,
    check_subset,
    describe_subset,
    find_head,
    restricted_covariance,
)
from symspec.laplace.identity import hash_flux, hash_network, hash_weights
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import standard_deviations
from symspec.safety.arrays import as_float_array
from symspec.safety.stars import check_flux

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

MAX_RHAT = 1.01
MIN_ESS = 400
MAX_DIVERGENT = 0.01
RATIO_TOLERANCE = 0.10  # of the median star's ratio, beside three Monte Carlo errors
STAR_TOLERANCE = 0.25  # of single stars' ratios, and the share of stars that may be beyond
STAR_SHARE = 0.10
SHIFT_TOLERANCE = 0.30  # of the median star's |shift|, in standard deviations
N_ERRORS = 3.0
PROBABILITIES = (0.025, 0.16, 0.5, 0.84, 0.975)

AGREE = "agree"
TOO_SMALL = "Laplace too small"
TOO_LARGE = "Laplace too large"
OFF_CENTRE = "Laplace off centre"
NOT_CONVERGED = "HMC not converged"
VERDICTS = (AGREE, TOO_SMALL, TOO_LARGE, OFF_CENTRE, NOT_CONVERGED)
THRESHOLDS = (
    f"HMC converged: R-hat at most {MAX_RHAT}, bulk and tail ESS at least {MIN_ESS} for every star,"
    f" at most {MAX_DIVERGENT:.0%} divergent draws. Agree: median sd ratio within"
    f" {RATIO_TOLERANCE:.0%} of 1 and at most {STAR_SHARE:.0%} of the stars beyond"
    f" {STAR_TOLERANCE:.0%} on either side, median |shift| at most {SHIFT_TOLERANCE} sd, each with"
    f" {N_ERRORS:g} Monte Carlo errors on top."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class HmcComparison:
    r"""Network outputs f(theta, x) under Hamiltonian Monte Carlo and under Laplace.

    All are in units of the labels.

    Attributes
    ----------
    hmc_mean, hmc_sd, laplace_mean, laplace_sd : numpy.ndarray, shape (star, label)
        Laplace's mean is f(theta*, x), its sd that of the model error alone.
    sd_error, mean_error : numpy.ndarray, shape (star, label)
        Monte Carlo standard errors of `hmc_sd` and `hmc_mean`.
    quantiles : numpy.ndarray, shape (5, star, label)
        Of f at the probabilities 2.5, 16, 50, 84 and 97.5 % under HMC.
    rhat, ess_bulk, ess_tail : numpy.ndarray, shape (star, label)
        Convergence of f: rank-normalised split R-hat and effective sample sizes, Vehtari et al.
        (2021), doi:10.1214/20-BA1221.
    divergences, n_draws : int
        Of all chains.
    pareto_k : float
        Shape of the tail of the Laplace draws' importance weights, Vehtari et al. (2024), Journal
        of Machine Learning Research 25 (72): below 0.7 Laplace's posterior is close to the true one
        in the space of all weights, above it is not, which error bars of f may survive. NaN if the
        draws come from another Laplace posterior.
    others : dict of str to numpy.ndarray, shape (star, label)
        Standard deviations of other error bars.
    label_names, label_units : tuple of str
    structure : str
        Of the Laplace posterior, with its curvature.
    varied : str
        The weights that vary.
    """

    hmc_mean: np.ndarray
    hmc_sd: np.ndarray
    laplace_mean: np.ndarray
    laplace_sd: np.ndarray
    sd_error: np.ndarray
    mean_error: np.ndarray
    quantiles: np.ndarray
    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    divergences: int
    n_draws: int
    pareto_k: float
    label_names: tuple[str, ...]
    label_units: tuple[str, ...]
    structure: str
    varied: str
    others: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def sd_ratio(self) -> np.ndarray:
        """Standard deviation of HMC over Laplace's (star, label): above 1 Laplace is too small."""
        return self.hmc_sd / self.laplace_sd

    @property
    def sd_ratio_error(self) -> np.ndarray:
        """Monte Carlo standard error of `sd_ratio` (star, label)."""
        return self.sd_error / self.laplace_sd

    @property
    def shift(self) -> np.ndarray:
        """(HMC's mean - Laplace's) / HMC's standard deviation (star, label)."""
        return (self.hmc_mean - self.laplace_mean) / self.hmc_sd

    @property
    def shift_error(self) -> np.ndarray:
        """Monte Carlo standard error of `shift` (star, label)."""
        return self.mean_error / self.hmc_sd

    @property
    def ess(self) -> np.ndarray:
        """The smaller of the bulk and tail effective sample sizes (star, label)."""
        return np.minimum(self.ess_bulk, self.ess_tail)

    @property
    def laplace_quantiles(self) -> np.ndarray:
        """Laplace's counterpart (5, star, label) of `quantiles`."""
        return self.laplace_mean + self.laplace_sd * norm.ppf(PROBABILITIES)[:, None, None]

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """One of `VERDICTS` for each label, by `THRESHOLDS`."""
        return tuple(self._judge(c) for c in range(len(self.label_names)))

    def _judge(self, c: int) -> str:
        converged = (
            np.all(self.rhat[:, c] <= MAX_RHAT)
            and np.all(self.ess[:, c] >= MIN_ESS)
            and self.divergences <= MAX_DIVERGENT * self.n_draws
        )
        if not converged:
            return NOT_CONVERGED
        ratio = self.sd_ratio[:, c]
        error = self.sd_ratio_error[:, c]
        median = np.median(ratio)
        margin = N_ERRORS * np.median(error)
        small = np.mean(ratio > 1 + STAR_TOLERANCE + N_ERRORS * error)
        large = np.mean(ratio < 1 / (1 + STAR_TOLERANCE) - N_ERRORS * error)
        if median > 1 + RATIO_TOLERANCE + margin or small > max(STAR_SHARE, large):
            return TOO_SMALL
        if median < 1 - RATIO_TOLERANCE - margin or large > STAR_SHARE:
            return TOO_LARGE
        shift = np.median(np.abs(self.shift[:, c]))
        most = SHIFT_TOLERANCE + N_ERRORS * np.median(self.shift_error[:, c])
        return OFF_CENTRE if shift > most else AGREE

    def mark(self, laplace: LaplacePosterior) -> LaplacePosterior:
        """The Laplace posterior with the verdict, by which its predictions are flagged."""
        return replace(laplace, hmc_verdict=self.verdict)

    def select(self, stars: Any) -> HmcComparison:
        """The same comparison on some of the stars: an index, slice or mask along the star axis."""
        return replace(
            self,
            hmc_mean=self.hmc_mean[stars],
            hmc_sd=self.hmc_sd[stars],
            laplace_mean=self.laplace_mean[stars],
            laplace_sd=self.laplace_sd[stars],
            sd_error=self.sd_error[stars],
            mean_error=self.mean_error[stars],
            quantiles=self.quantiles[:, stars],
            rhat=self.rhat[stars],
            ess_bulk=self.ess_bulk[stars],
            ess_tail=self.ess_tail[stars],
            others={name: sd[stars] for name, sd in self.others.items()},
        )


def compare_hmc(
    laplace: LaplacePosterior,
    draws: DataTree,
    X: ArrayLike,
    *,
    others: Mapping[str, Any] | None = None,
) -> HmcComparison:
    """Compare the error bars of a Laplace posterior with those of Hamiltonian Monte Carlo.

    Weights are never compared: permutations and sign flips of hidden units make them meaningless.
    Draws of a subset of the weights are compared with the Laplace posterior restricted to the same
    subset.

    Parameters
    ----------
    laplace : LaplacePosterior
        The one under test, perhaps another than the chains started from.
    draws : xarray.DataTree
        Of `run_hmc`, or of `pymc.sample` on a `pymc_model` ("theta" in its posterior).
    X : array_like, shape (star, pixel)
        Spectra on which to compare; f is computed from theta for spectra of which the draws do
        not hold it.
    others : dict of str to LaplacePosterior or array_like, optional
        Further error bars to show beside it: standard deviations (star, label) or covariances
        (star, label, label) of f, such as `sandwich_covariance`'s.

    Returns
    -------
    HmcComparison

    Raises
    ------
    OptionError
        The draws hold neither f for these spectra nor theta, or the structure does not fit their
        subset.
    DataError
        Draws that are not finite, or too few.
    """
    X = np.atleast_2d(check_flux(X, laplace.reg.net.n_pixels))
    word = draws.attrs.get("subset", ALL)
    subset = check_subset(int(word) if word.isdigit() else word, laplace.reg.net.n_params)
    f = _find_f(laplace, draws, X, subset)
    statistics = _summarize(f)
    sample_stats = draws["sample_stats"]
    divergences = int(sample_stats["diverging"].sum()) if "diverging" in sample_stats else 0
    network = hash_network(laplace.reg.net, laplace.theta)
    is_same = draws.attrs.get("laplace") == hash_weights(laplace)
    is_same &= draws.attrs.get("network", network) == network  # older draws do not tell
    shape = (len(X), laplace.reg.net.n_labels)
    return HmcComparison(
        hmc_mean=statistics["hmc_mean"],
        hmc_sd=statistics["hmc_sd"],
        mean_error=statistics["mean_error"],
        sd_error=statistics["sd_error"],
        quantiles=statistics["quantiles"],
        rhat=statistics["rhat"],
        ess_bulk=statistics["ess_bulk"],
        ess_tail=statistics["ess_tail"],
        laplace_mean=compiled.compile_predict(laplace.reg.net)(laplace.theta, X),
        laplace_sd=standard_deviations(restricted_covariance(laplace, X, subset)),
        divergences=divergences,
        n_draws=f.shape[0] * f.shape[1],
        pareto_k=float(draws["importance"].attrs["pareto_k"]) if is_same else np.nan,
        label_names=laplace.reg.net.label_names,
        label_units=laplace.reg.net.label_units,
        structure=f"{laplace.curvature} {laplace.structure}",
        varied=describe_subset(subset),
        others={
            name: _find_sds(name, value, X, subset, shape) for name, value in (others or {}).items()
        },
    )


def find_outputs(draws: DataTree) -> Dataset:
    """The posterior with f (chain, draw, check_star, label), of `run_hmc` or of `pymc.sample`."""
    posterior = draws["posterior"].to_dataset()
    return posterior.rename({LABEL_DIM: "label"}) if LABEL_DIM in posterior.dims else posterior


def _find_f(
    laplace: LaplacePosterior, draws: DataTree, X: np.ndarray, subset: Subset
) -> np.ndarray:
    """Outputs (chain, draw, star, label): those stored, else of theta."""
    posterior = find_outputs(draws)
    if "f" in posterior and draws.attrs.get("check_stars", "") == hash_flux(X):
        return posterior["f"].transpose("chain", "draw", "check_star", "label").values
    if "theta" not in posterior:
        raise OptionError(
            "draws should hold f for the spectra X, or theta to compute it from, got neither: give "
            "run_hmc(..., X_check=X), or theta_every=1."
        )
    theta = posterior["theta"].transpose("chain", "draw", "param").values
    net = laplace.reg.net
    inputs = X
    head = find_head(laplace.reg, laplace.theta, subset)
    if head is not None:
        net = head.reg.net
        inputs = head.find_features(X)
    if theta.shape[-1] != net.n_params:
        raise ShapeError(
            f"theta of the draws should have {net.n_params} parameters, as the network of laplace,"
            f" got {theta.shape[-1]}: compare draws of the same network."
        )
    predict = compiled.compile_predict(net)
    return np.array([[predict(one, inputs) for one in chain] for chain in theta])


def _summarize(f: np.ndarray) -> dict[str, np.ndarray]:
    """Moments, quantiles and convergence of draws (chain, draw, star, label)."""
    from arviz_stats.base import array_stats

    if not np.isfinite(f).all() or f.shape[1] < 4:
        raise DataError(
            "draws should be finite and at least 4 a chain, got"
            f" {np.count_nonzero(~np.isfinite(f)):,} values that are not and {f.shape[1]} draws:"
            " run the chains again."
        )
    axes = {"chain_axis": 0, "draw_axis": 1}
    pooled = f.reshape(-1, *f.shape[2:])
    return {
        "hmc_mean": pooled.mean(axis=0),
        "hmc_sd": pooled.std(axis=0, ddof=1),
        "mean_error": array_stats.mcse(f, method="mean", **axes),
        "sd_error": array_stats.mcse(f, method="sd", **axes),
        "quantiles": np.quantile(pooled, PROBABILITIES, axis=0),
        "rhat": array_stats.rhat(f, **axes),
        "ess_bulk": array_stats.ess(f, method="bulk", **axes),
        "ess_tail": array_stats.ess(f, method="tail", prob=(0.05, 0.95), **axes),
    }


def _find_sds(
    name: str, value: Any, X: np.ndarray, subset: Subset, shape: tuple[int, int]
) -> np.ndarray:
    """Standard deviations (star, label) of whatever error bars were given."""
    if isinstance(value, LaplacePosterior):
        return standard_deviations(restricted_covariance(value, X, subset))
    array = as_float_array(value, f"others[{name!r}]")
    if array.shape == (*shape, shape[1]):
        return standard_deviations(array)
    if array.shape != shape:
        raise ShapeError(
            f"others[{name!r}] should be standard deviations {shape} or covariances"
            f" {(*shape, shape[1])}, got {array.shape}."
        )
    return array
