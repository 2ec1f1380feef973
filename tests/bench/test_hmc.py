"""What whitening is worth: effective draws of f a second, with Laplace's coordinates and without.

    python -m pytest tests/bench/test_hmc.py -q -s -o addopts=""

The same model, sampler and run, on meat spectra (Tecator): neighbouring pixels are nearly the same,
so that the posterior is narrow in some directions and wide in others.
"""

from pathlib import Path

import numpy as np
import pymc as pm
import pytest
from arviz_stats.base import array_stats
from scipy.signal import savgol_filter
from threadpoolctl import threadpool_limits

import symspec as ss
from symspec.reports.hmc_tables import print_comparison
from symspec.reports.tables import open_console

TECATOR = Path(__file__).parents[3] / "shared/data/tecator/tecator_meats.npz"


def build_problem():
    """100 pixels, five tanh units, 172 near-infrared spectra, differentiated by Savitzky-Golay."""
    data = np.load(TECATOR)
    X, Y, names = (
        savgol_filter(data["spectra"], 9, 2, deriv=1),
        data["labels"],
        ["moisture", "fat", "protein"],
    )
    X, Y, X_check = X[:172], Y[:172], X[172:]
    net = ss.standardized(ss.mlp([100, 5, 3], activation="tanh", label_names=names), X, Y)
    reg = ss.Regression(
        net, sigma_noise=0.15 * Y.std(axis=0), prior_precision=ss.scaled_prior(net, 4.0)
    )
    theta = ss.train(reg, X, Y, epochs=300, rng=np.random.default_rng(0), progress=False).theta
    reg, theta = ss.tune(reg, theta, X, Y, prior="fixed")
    return reg, theta, X, Y, X_check


def smallest_ess(f):
    axes = {"chain_axis": 0, "draw_axis": 1}
    tail = array_stats.ess(f, method="tail", prob=(0.05, 0.95), **axes)
    return np.minimum(array_stats.ess(f, method="bulk", **axes), tail).min()


@pytest.mark.skipif(not TECATOR.exists(), reason="needs the Tecator spectra")
def test_whitening_pays():
    reg, theta, X, Y, X_check = build_problem()
    laplace = ss.fit_laplace(reg, theta, X, Y, structure="primal", progress=False)
    draws = ss.run_hmc(
        reg,
        X,
        Y,
        laplace=laplace,
        X_check=X_check,
        seed=1,
        n_draws=1000,
        n_tune=600,
        progress=False,
    )
    others = {
        "exact Hessian": ss.fit_laplace(
            reg, theta, X, Y, structure="primal", curvature="hessian", progress=False
        ),
        "sandwich": ss.sandwich_covariance(laplace, X, Y, X_check),
    }
    print_comparison(open_console(), ss.compare_hmc(laplace, draws, X_check, others=others))
    ours = smallest_ess(draws["posterior"]["f"].values), draws["posterior"].attrs["sampling_time"]
    with threadpool_limits(1), ss.pymc_model(reg, X, Y, X_check=X_check):
        words = {
            "var_names": ["f"],
            "progressbar": False,
            "quiet": True,
            "compute_convergence_checks": False,
        }
        plain = pm.sample(
            150, tune=300, chains=4, random_seed=1, nuts_sampler=draws.attrs["sampler"], **words
        )
    theirs = smallest_ess(plain["posterior"]["f"].values), plain["posterior"].attrs["sampling_time"]
    print("\n\n| | smallest ESS of f | sampling [s] | ESS a second |\n|---|---:|---:|---:|")
    for name, (ess, seconds) in (("whitened", ours), ("as it stands", theirs)):
        print(f"| {name} | {ess:.0f} | {seconds:.1f} | {ess / seconds:.2f} |")
    assert ours[0] / ours[1] >= 5 * theirs[0] / theirs[1]


def test_no_false_alarm_in_20_seeds_of_a_linear_network():
    """Laplace is exact there: whatever the verdict finds against it is a false alarm."""
    verdicts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        X, X_check = rng.normal(size=(60, 5)), 2 * rng.normal(size=(30, 5))
        Y = X @ rng.normal(size=(5, 2)) + [0.3, 0.5] * rng.normal(size=(60, 2))
        reg = ss.Regression(ss.mlp([5, 2]), sigma_noise=[0.3, 0.5], prior_precision=1.0)
        theta = ss.polish(reg, np.zeros(reg.net.n_params), X, Y).theta
        laplace = ss.fit_laplace(reg, theta, X, Y, structure="primal", progress=False)
        draws = ss.run_hmc(
            reg, X, Y, laplace=laplace, X_check=X_check, seed=seed, n_importance=1, progress=False
        )
        verdicts += ss.compare_hmc(laplace, draws, X_check).verdict
    assert verdicts == ["agree"] * 40
