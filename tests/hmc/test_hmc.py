"""HMC against closed forms, and against Laplace posteriors with errors planted in them."""

import importlib.util
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import arviz_stats
import numpy as np
import pytensor
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from rich.console import Console
from scipy.stats import norm

import symspec as ss
from symspec.hmc.comparison import (
    AGREE,
    NOT_CONVERGED,
    OFF_CENTRE,
    PROBABILITIES,
    TOO_LARGE,
    TOO_SMALL,
    HmcComparison,
)
from symspec.hmc.sampling import _compiling_anew, _cut
from symspec.hmc.subsets import restricted_covariance
from symspec.reports.hmc_tables import print_comparison
from symspec.reports.star_tables import write_comparison, write_draws
from symspec.safety.interrupts import heeding_interrupts

pytestmark = pytest.mark.usefixtures("numba_cache")  # in half of the time

QUICK = {"n_draws": 20, "n_tune": 20, "n_chains": 2, "n_importance": 1, "progress": False}


def fit(reg, theta, X, Y, structure="primal", **words):
    return ss.fit_laplace(
        reg, theta, X, Y, structure=structure, progress=False, require_minimum=False, **words
    )


@pytest.fixture(scope="module")
def linear():
    """A network without hidden layers, whose posterior is normal and known."""
    rng = np.random.default_rng(0)
    X, X_check = rng.normal(size=(40, 3)), 2 * rng.normal(size=(15, 3))
    Y = X @ rng.normal(size=(3, 2)) + [0.3, 0.5] * rng.normal(size=(40, 2))
    Y[3, 1] = np.nan
    reg = ss.Regression(
        ss.mlp([3, 2], label_names=["a", "b"]), sigma_noise=[0.3, 0.5], prior_precision=0.7
    )
    laplace = fit(reg, ss.polish(reg, np.zeros(8), X, Y).theta, X, Y)
    words = {"laplace": laplace, "X_check": X_check, "seed": 1, "progress": False}
    draws = ss.run_hmc(reg, X, Y, log_likelihood=True, **words)
    return SimpleNamespace(reg=reg, X=X, Y=Y, X_check=X_check, laplace=laplace, draws=draws)


@pytest.fixture(scope="module")
def bent():
    """A small tanh network in which Laplace's approximation is a good one."""
    rng = np.random.default_rng(1)
    X, X_check = rng.normal(size=(150, 3)), rng.normal(size=(25, 3))
    Y = np.sin(X[:, :1]) + 0.5 * X[:, 1:2] + 0.1 * rng.normal(size=(150, 1))
    net = ss.mlp([3, 2, 1], activation="tanh", label_names=["y"], label_units=["K"])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=5.0)
    theta = ss.train(reg, X, Y, epochs=200, rng=rng, learning_rate=0.01, progress=False).theta
    theta = ss.polish(reg, theta, X, Y).theta
    laplace = fit(reg, theta, X, Y)
    words = {"laplace": laplace, "X_check": X_check, "seed": 2, "progress": False}
    return SimpleNamespace(
        reg=reg,
        theta=theta,
        X=X,
        Y=Y,
        X_check=X_check,
        laplace=laplace,
        draws=ss.run_hmc(reg, X, Y, **words),
    )


# --- the linear network


def test_the_log_likelihood_of_each_star_is_stored_and_taken_by_arviz(linear):
    stored = linear.draws["log_likelihood"]["y"]
    assert stored.dims == ("chain", "draw", "star")
    assert "log_likelihood" not in linear.draws["posterior"]
    theta = linear.draws["posterior"]["theta"].values
    f = linear.X @ theta[..., :6].reshape(*theta.shape[:2], 3, 2) + theta[:, :, None, 6:]
    right, wide = (
        np.nansum(norm.logpdf(linear.Y, f, scale), axis=-1) for scale in ([0.3, 0.5], [0.9, 1.5])
    )
    assert_allclose(stored, right, rtol=1e-9)
    loo = arviz_stats.loo(linear.draws)
    assert loo.n_data_points == 40
    assert right.mean(axis=(0, 1)).sum() - 20 < loo.elpd < right.mean(axis=(0, 1)).sum()
    groups = {"posterior": linear.draws["posterior"].to_dataset()}
    groups["log_likelihood"] = xr.Dataset({"y": stored.copy(data=wide)})
    ranks = arviz_stats.compare({"wide": xr.DataTree.from_dict(groups), "right": linear.draws})
    assert ranks["rank"].to_dict() == {"right": 0, "wide": 1}


def closed_form(problem):
    """Mean and sd of f, label by label, from NumPy alone."""
    means, sds = [], []
    design, new = (np.c_[x, np.ones(len(x))] for x in (problem.X, problem.X_check))
    for y, sigma in zip(problem.Y.T, problem.reg.sigma_noise, strict=True):
        seen = ~np.isnan(y)
        A = design[seen].T @ design[seen] / sigma**2 + 0.7 * np.eye(4)
        means.append(new @ np.linalg.solve(A, design[seen].T @ y[seen] / sigma**2))
        sds.append(np.sqrt(np.sum(new * np.linalg.solve(A, new.T).T, axis=1)))
    return np.array(means).T, np.array(sds).T


def test_a_linear_network_has_its_closed_form_posterior(linear):
    comparison = ss.compare_hmc(linear.laplace, linear.draws, linear.X_check)
    mean, sd = closed_form(linear)
    # 4 Monte Carlo standard errors, everywhere
    assert (np.abs(comparison.hmc_mean - mean) < 4 * comparison.mean_error).all()
    assert (np.abs(comparison.hmc_sd - sd) < 4 * comparison.sd_error).all()
    assert_allclose(comparison.laplace_sd, sd, rtol=1e-9)
    assert comparison.verdict == (AGREE, AGREE)
    assert comparison.pareto_k == 0.0
    assert (comparison.rhat < 1.01).all()
    assert comparison.ess.min() > 400
    assert comparison.divergences == 0


def test_draws_have_the_names_and_dims_promised(linear):
    posterior = linear.draws["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "param")
    assert posterior["theta"].shape == (4, 1000, 8)
    assert posterior["f"].dims == ("chain", "draw", "check_star", "label_name")
    assert list(posterior["label_name"].values) == ["a", "b"]
    assert posterior["param"].values[0] == "dense_0/kernel[0,0]"
    assert linear.draws.attrs["varied"] == "all weights"
    assert "constant_data" not in linear.draws


def test_arviz_summarises_the_draws(linear):
    """Its summaries have an axis "label" of their own."""
    table = arviz_stats.summary(linear.draws, var_names=["f"], round_to="none")
    means = linear.draws["posterior"]["f"].mean(("chain", "draw"))
    assert_allclose(table.loc["f[2, b]", "mean"], means.sel(check_star=2, label_name="b"))


def test_draws_with_labels_along_an_axis_label_are_compared_too(linear):
    """PyMC's own draws of a model have them, and those of earlier versions."""
    older = linear.draws.copy()
    older["posterior"] = xr.DataTree(older["posterior"].to_dataset().rename(label_name="label"))
    one, other = (ss.compare_hmc(linear.laplace, d, linear.X_check) for d in (older, linear.draws))
    assert_allclose(one.hmc_mean, other.hmc_mean, rtol=0)


@pytest.mark.parametrize(
    ("sampler", "function"),
    [("nutpie", "nutpie.compile_pymc_model"), ("pymc", "pymc.sample")],
)
def test_what_is_sampled_is_compiled_without_a_cache(linear, monkeypatch, sampler, function):
    """With parts out of the cache Numba's code, and so the draws of a seed, would be others."""
    pytest.importorskip(sampler)
    seen = []

    def compile_or_sample(*args, **options):
        seen.append(pytensor.config.numba__cache)
        raise InterruptedError

    monkeypatch.setattr("symspec.hmc.sampling._compiling_anew", _compiling_anew)
    monkeypatch.setattr(function, compile_or_sample)
    options = QUICK | {"sampler": sampler}
    with pytest.raises(InterruptedError):
        ss.run_hmc(linear.reg, linear.X, linear.Y, laplace=linear.laplace, seed=0, **options)
    assert seen == [False]
    assert pytensor.config.numba__cache


def test_f_is_the_networks_output_for_theta(linear):
    posterior, predict = linear.draws["posterior"], ss.compile_predict(linear.reg.net)
    for chain, draw in ((0, 0), (3, 999)):
        theta = posterior["theta"].values[chain, draw]
        assert_allclose(
            posterior["f"].values[chain, draw],
            predict(theta, linear.X_check),
            rtol=1e-10,
            atol=1e-12,
        )


def test_other_spectra_are_computed_from_theta(linear):
    few = ss.compare_hmc(linear.laplace, linear.draws, linear.X_check[4:7])
    all_ = ss.compare_hmc(linear.laplace, linear.draws, linear.X_check).select(slice(4, 7))
    for name in ("hmc_mean", "hmc_sd", "quantiles", "rhat", "ess", "sd_ratio", "laplace_quantiles"):
        assert_allclose(getattr(few, name), getattr(all_, name), rtol=1e-8)


def test_quantiles_of_a_normal_posterior_are_laplaces(linear):
    comparison = ss.compare_hmc(linear.laplace, linear.draws, linear.X_check)
    assert comparison.quantiles.shape == (len(PROBABILITIES), 15, 2)
    # a quantile's standard error is at most 2.7 times the mean's, at 2.5 %
    distance = np.abs(comparison.quantiles - comparison.laplace_quantiles)
    assert (distance < 4 * 2.7 * comparison.mean_error).all()


@pytest.mark.parametrize("sampler", ["pymc", "numpyro"])
def test_other_samplers_find_the_same(linear, sampler):
    if sampler == "numpyro":
        pytest.importorskip("numpyro")
    if sampler == "pymc" and importlib.util.find_spec("jax") is not None:
        import jax

        jax.numpy.zeros(1).block_until_ready()  # its threads run: chains must not be forks
    words = {
        "laplace": linear.laplace,
        "X_check": linear.X_check,
        "n_draws": 500,
        "n_tune": 300,
        "n_chains": 2,
    }
    draws = ss.run_hmc(
        linear.reg, linear.X, linear.Y, sampler=sampler, seed=3, progress=False, **words
    )
    comparison, (mean, sd) = (
        ss.compare_hmc(linear.laplace, draws, linear.X_check),
        closed_form(linear),
    )
    assert (np.abs(comparison.hmc_mean - mean) < 4.5 * comparison.mean_error).all()
    assert (np.abs(comparison.hmc_sd - sd) < 4.5 * comparison.sd_error).all()
    assert draws.attrs["sampler"] == sampler


@pytest.fixture(scope="module")
def quick(linear):
    """Few draws: a run takes as long as its compilation, some ten seconds."""
    options = {"laplace": linear.laplace, "X_check": linear.X_check, "seed": 5} | QUICK
    return ss.run_hmc(linear.reg, linear.X, linear.Y, **options)


@pytest.fixture(scope="module")
def again(linear):
    """The same run of the same stars as `Spectra`, with every fifth theta."""
    stars = ss.Spectra(flux=linear.X, labels=linear.Y, label_names=("a", "b"))
    options = {"laplace": linear.laplace, "X_check": linear.X_check, "seed": 5} | QUICK
    return ss.run_hmc(linear.reg, stars, theta_every=5, **options)


def test_seeds_make_runs_repeatable(quick, again):
    f = quick["posterior"]["f"].values
    assert_allclose(f, again["posterior"]["f"].values, rtol=0)
    assert (f[0] != f[1]).any()  # each chain has its own start and its own numbers


# --- planted errors


def test_the_honest_posterior_passes(bent):
    comparison = ss.compare_hmc(bent.laplace, bent.draws, bent.X_check)
    assert comparison.verdict == (AGREE,)
    assert np.isfinite(comparison.pareto_k)


def test_draws_of_another_network_with_the_same_weights_are_not_taken_for_its_own(bent):
    net = ss.mlp([3, 2, 1], activation="softplus", label_names=["y"], label_units=["K"])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=5.0)
    other = replace(bent.laplace, reg=reg)
    assert np.isnan(ss.compare_hmc(other, bent.draws, bent.X_check).pareto_k)


def planted(bent, error):
    reg, theta, X, Y = bent.reg, bent.theta, bent.X, bent.Y
    if error == "half the noise":
        reg = ss.Regression(reg.net, sigma_noise=0.05, prior_precision=5.0)
    if error == "prior 100 times too narrow":
        reg = ss.Regression(reg.net, sigma_noise=0.1, prior_precision=500.0)
    if error == "prior 100 times too wide":
        reg = ss.Regression(reg.net, sigma_noise=0.1, prior_precision=0.05)
    if reg is not bent.reg:
        theta = ss.polish(reg, theta, X, Y).theta
    if error == "short of the minimum":
        start = np.random.default_rng(5)
        theta = ss.train(reg, X, Y, epochs=3, rng=start, learning_rate=0.003, progress=False).theta
    return fit(reg, theta, X, Y, "last_layer" if error == "last layer" else "primal")


@pytest.mark.parametrize(
    ("error", "verdicts"),
    [
        ("half the noise", (TOO_SMALL,)),
        ("prior 100 times too narrow", (TOO_SMALL, OFF_CENTRE)),
        ("prior 100 times too wide", (TOO_LARGE, OFF_CENTRE)),
        ("short of the minimum", (OFF_CENTRE, TOO_SMALL, TOO_LARGE)),
        ("last layer", (TOO_SMALL,)),
    ],
)
def test_a_planted_error_is_caught(bent, error, verdicts):
    laplace = planted(bent, error)
    comparison = ss.compare_hmc(laplace, bent.draws, bent.X_check)
    assert comparison.verdict[0] in verdicts
    assert np.isnan(comparison.pareto_k)  # the draws know another Laplace posterior
    marked = comparison.mark(laplace)
    assert marked.contradicted.any()
    assert (marked.predict(bent.X_check).flags & ss.Flag.ERROR_UNRELIABLE).all()


def test_agreement_leaves_no_flag(bent):
    marked = ss.compare_hmc(bent.laplace, bent.draws, bent.X_check).mark(bent.laplace)
    assert marked.hmc_verdict == (AGREE,)
    assert not marked.contradicted.any()
    assert not (marked.predict(bent.X_check).flags & ss.Flag.ERROR_UNRELIABLE).any()


def test_a_verdict_is_kept_in_the_models_file(bent, tmp_path):
    laplace = replace(bent.laplace, hmc_verdict=(TOO_SMALL,))
    ss.write_laplace(tmp_path / "model.h5", laplace)
    back = ss.read_laplace(tmp_path / "model.h5")
    assert back.hmc_verdict == (TOO_SMALL,)
    assert (back.predict(bent.X_check).flags & ss.Flag.ERROR_UNRELIABLE).all()


# --- verdicts, from numbers


def make_comparison(ratio=1.0, shift=0.0, rhat=1.001, ess=2000.0, divergences=0, n_stars=20):
    ones = np.ones((n_stars, 1))
    return HmcComparison(
        hmc_mean=shift * ratio * ones,
        hmc_sd=ratio * ones,
        laplace_mean=0 * ones,
        laplace_sd=ones,
        sd_error=0.01 * ones,
        mean_error=0.02 * ones,
        quantiles=np.zeros((5, n_stars, 1)),
        rhat=rhat * ones,
        ess_bulk=ess * ones,
        ess_tail=ess * ones,
        divergences=divergences,
        n_draws=4000,
        pareto_k=0.4,
        label_names=("y",),
        label_units=("K",),
        structure="ggn primal",
        varied="all weights",
    )


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ({}, AGREE),
        ({"ratio": 1.12}, AGREE),  # 10 % and three errors of 1 %
        ({"ratio": 1.14}, TOO_SMALL),
        ({"ratio": 0.86}, TOO_LARGE),
        ({"shift": 0.34}, AGREE),
        ({"shift": -0.40}, OFF_CENTRE),
        ({"rhat": 1.02}, NOT_CONVERGED),
        ({"ess": 399.0}, NOT_CONVERGED),
        ({"divergences": 41}, NOT_CONVERGED),
        ({"rhat": np.nan}, NOT_CONVERGED),
    ],
)
def test_thresholds(numbers, verdict):
    assert make_comparison(**numbers).verdict == (verdict,)


@pytest.mark.parametrize(("ratio", "verdict"), [(2.0, TOO_SMALL), (0.5, TOO_LARGE)])
def test_a_few_stars_far_off_count_where_the_median_agrees(ratio, verdict):
    comparison = make_comparison()
    comparison.hmc_sd[:3] = ratio
    assert comparison.verdict == (verdict,)
    assert comparison.select(slice(3, None)).verdict == (AGREE,)
    comparison = make_comparison()
    comparison.hmc_sd[:2] = ratio
    assert comparison.verdict == (AGREE,)


# --- subsets


@pytest.mark.parametrize("subset", ["last_layer", 4])
def test_a_subset_is_compared_with_laplace_on_the_same_subset(bent, subset):
    words = {"laplace": bent.laplace, "X_check": bent.X_check, "seed": 4, "progress": False}
    draws = ss.run_hmc(bent.reg, bent.X, bent.Y, subset=subset, **words)
    comparison = ss.compare_hmc(bent.laplace, draws, bent.X_check)
    expected = np.sqrt(
        np.diagonal(restricted_covariance(bent.laplace, bent.X_check, subset), axis1=1, axis2=2)
    )
    assert_allclose(comparison.laplace_sd, expected, rtol=1e-10)
    assert comparison.verdict == (AGREE,)
    assert "held fixed" in comparison.varied
    assert draws.attrs["subset"] == str(subset)
    whole = ss.compare_hmc(bent.laplace, bent.draws, bent.X_check)
    assert (comparison.hmc_sd < 1.1 * whole.hmc_sd).all()
    # theta is what varied, so that f can be had for other stars
    few = ss.compare_hmc(bent.laplace, draws, bent.X_check[:3])
    assert_allclose(few.hmc_sd, comparison.hmc_sd[:3], rtol=1e-6)


# --- input that cannot be right


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (
            {"n_chains": 1},
            ss.OptionError,
            "n_chains should be an integer of at least 2, got 1: give 4",
        ),
        ({"n_draws": 0}, ss.OptionError, "n_draws should be an integer of at least 20, got 0"),
        ({"n_tune": 0}, ss.OptionError, "n_tune should be an integer of at least 20, got 0"),
        ({"sampler": "emcee"}, ss.OptionError, "sampler should be one of 'auto', 'nutpie'"),
        ({"subset": "first_layer"}, ss.OptionError, 'subset should be "all", "last_layer"'),
        (
            {"memory": "1kB"},
            ss.TooLargeError,
            r"the draws would take .* leave theta out \(theta_every=0\)",
        ),
        (
            {"max_hours": 1e-9},
            ss.TooLargeError,
            r"draws would take some .* sample subset='last_layer' or subset=50",
        ),
        ({"X_check": np.ones((2, 4))}, ss.ShapeError, r"X_check should have shape \(star, 3\)"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_advice(linear, words, error, said):
    with pytest.raises(error, match=said):
        ss.run_hmc(
            linear.reg, linear.X, linear.Y, laplace=linear.laplace, seed=0, **(QUICK | words)
        )


def test_a_model_without_data_is_refused(linear):
    with pytest.raises(ss.DataError, match="flux should hold at least one star"):
        ss.run_hmc(linear.reg, linear.X[:0], linear.Y[:0], laplace=linear.laplace, seed=0, **QUICK)


def test_a_missing_sampler_names_what_brings_it(linear, monkeypatch):
    monkeypatch.setattr("symspec.hmc.limits.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ss.MissingDependencyError, match=r"pip install 'symspec\[hmc\]'"):
        ss.run_hmc(
            linear.reg,
            linear.X,
            linear.Y,
            laplace=linear.laplace,
            seed=0,
            sampler="nutpie",
            **QUICK,
        )


def test_chains_do_not_start_where_the_density_is_not_finite(linear):
    laplace = replace(linear.laplace, theta=linear.laplace.theta + 1e200)
    with pytest.raises(ss.DataError, match="density should be finite where chains start, got nan"):
        ss.run_hmc(linear.reg, linear.X, linear.Y, laplace=laplace, seed=0, **QUICK)


def test_an_unconverged_laplace_is_warned_of_before_anything_is_sampled(linear, monkeypatch):
    def refuse(*args, **words):
        raise InterruptedError

    monkeypatch.setattr("symspec.hmc.sampling._sample", refuse)
    laplace = fit(linear.reg, linear.laplace.theta + 0.5, linear.X, linear.Y)
    with (
        pytest.warns(ss.NotAtMinimumWarning, match=r"not at a minimum.*symspec\.polish first"),
        pytest.raises(InterruptedError),
    ):
        ss.run_hmc(linear.reg, linear.X, linear.Y, laplace=laplace, seed=0, **QUICK)


def test_theta_can_be_thinned(quick, again):
    assert "theta" not in again["posterior"]
    theta = again["posterior_thinned"]["theta"]
    assert theta.shape == (2, 4, 8)
    assert_allclose(theta, quick["posterior"]["theta"][:, ::5], rtol=0)


def test_theta_can_be_left_out(linear):
    words = {"laplace": linear.laplace, "X_check": linear.X_check, "seed": 0} | QUICK
    none = ss.run_hmc(linear.reg, linear.X, linear.Y, theta_every=0, **words)
    assert list(none["posterior"].data_vars) == ["f"]
    with pytest.raises(ss.OptionError, match="draws should hold f for the spectra X, or theta"):
        ss.compare_hmc(linear.laplace, none, linear.X_check[:3])


def test_spectra_stand_for_flux_and_labels(quick, again):
    np.testing.assert_array_equal(again["posterior"]["f"], quick["posterior"]["f"])


def test_draws_that_are_not_finite_are_refused(linear):
    f = linear.draws["posterior"]["f"].copy()
    f[0, 0, 0, 0] = np.nan
    broken = linear.draws.copy()
    broken["posterior"] = xr.DataTree(linear.draws["posterior"].to_dataset().assign(f=f))
    with pytest.raises(ss.DataError, match=r"draws should be finite .* got 1 values"):
        ss.compare_hmc(linear.laplace, broken, linear.X_check)


def test_an_interrupted_run_keeps_the_finished_draws(tmp_path):
    pytest.importorskip("nutpie")
    script = textwrap.dedent("""
        import os, signal, threading, time, warnings
        import numpy as np
        import symspec as ss
        from contextlib import nullcontext
        import symspec.hmc.sampling
        symspec.hmc.sampling._compiling_anew = nullcontext  # as in the fixture
        # a shell that starts this in the background has it ignore interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 3))
        Y = X[:, :1] + rng.normal(size=(200, 1))
        reg = ss.Regression(ss.mlp([3, 1]), sigma_noise=1.0, prior_precision=1.0)
        laplace = ss.fit_laplace(reg, ss.polish(reg, np.zeros(4), X, Y).theta, X, Y, progress=False)
        import nutpie
        sample = nutpie.sample
        def interrupted(*args, **words):
            threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            return sample(*args, **words)
        nutpie.sample = interrupted
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            draws = ss.run_hmc(
                reg, X, Y, laplace=laplace, seed=0, n_draws=1_000_000, n_tune=100, n_chains=2,
                max_hours=np.inf,
                n_importance=1, X_check=X[:1], theta_every=0, memory="100GB", progress=False,
            )
        f = draws["posterior"]["f"]
        print(f.sizes["draw"] > 10, bool(np.isfinite(f).all()), f.sizes["draw"] < 1_000_000)
        print([str(w.message) for w in caught if "interrupted" in str(w.message)])
        """)
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(ss.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True True True"), done.stdout
    assert "of 1000000 draws of 2 of 2 chains are kept" in done.stdout


def swallow_an_interrupt(*args, **words):
    """What C code does to an interrupt that falls into a callback."""
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def make_another_error_of_an_interrupt(*args, **words):
    swallow_an_interrupt()
    raise RuntimeError("All initialization points failed")


@pytest.mark.parametrize(
    ("compiling", "drawing"),
    [
        (swallow_an_interrupt, lambda *_, **__: pytest.fail("drawn after an interrupt")),
        (lambda *_, **__: None, make_another_error_of_an_interrupt),
    ],
    ids=["while compiling", "at the first draw"],
)
def test_no_interrupt_before_the_first_draw_is_lost(linear, monkeypatch, compiling, drawing):
    pytest.importorskip("nutpie")
    monkeypatch.setattr("nutpie.compile_pymc_model", compiling)
    monkeypatch.setattr("nutpie.sample", drawing)
    options = QUICK | {"sampler": "nutpie"}
    with heeding_interrupts((signal.SIGINT,)), pytest.raises(KeyboardInterrupt):
        ss.run_hmc(linear.reg, linear.X, linear.Y, laplace=linear.laplace, seed=0, **options)


@pytest.mark.parametrize(
    ("lengths", "n_chains", "n_draws"),
    [((30, 30, 28, 5), 3, 28), ((30, 29, 0, 0), 2, 29), ((20, 12, 12, 12), 4, 12)],
)
@pytest.mark.parametrize("asked", [100, 30], ids=["none complete", "some complete"])
def test_interrupted_chains_are_cut_to_one_length(lengths, n_chains, n_draws, asked):
    f = np.ones((4, 30, 2, 1))
    for chain, length in enumerate(lengths):
        f[chain, length:] = np.nan
    posterior = xr.Dataset({"f": (("chain", "draw", "check_star", "label"), f)})
    stats = xr.Dataset({"diverging": (("chain", "draw"), np.zeros((4, 30), bool))})
    draws = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})
    with pytest.warns(
        UserWarning,
        match=f"interrupted: {n_draws} of {asked} draws of {n_chains} of 4 chains are kept",
    ):
        cut = _cut(draws, asked)
    assert cut["posterior"]["f"].shape == (n_chains, n_draws, 2, 1)
    assert cut["posterior"]["f"].notnull().all()
    assert cut["sample_stats"]["diverging"].shape == (n_chains, n_draws)


def test_an_interrupt_before_any_draw_is_an_interrupt():
    f = xr.Dataset({"f": (("chain", "draw", "check_star", "label"), np.full((2, 3, 1, 1), np.nan))})
    with pytest.raises(KeyboardInterrupt):
        _cut(xr.DataTree.from_dict({"posterior": f}), 100)


# --- files and screens


def test_files_hold_what_was_found(bent, tmp_path):
    from astropy.table import Table

    comparison = ss.compare_hmc(bent.laplace, bent.draws, bent.X_check)
    write_comparison(tmp_path / "table.ecsv", comparison)
    table = Table.read(tmp_path / "table.ecsv")
    assert_allclose(table["y_SD_RATIO"], comparison.sd_ratio[:, 0])
    assert_allclose(table["y_Q97.5"], comparison.quantiles[4, :, 0])
    assert table.meta["VERDICT_y"] == AGREE
    write_draws(tmp_path / "draws.nc", bent.draws)
    back = xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf")
    again = ss.compare_hmc(bent.laplace, back, bent.X_check)
    assert_allclose(again.sd_ratio, comparison.sd_ratio, rtol=0)
    assert again.pareto_k == comparison.pareto_k
    with pytest.raises(ss.FileKeptError):
        write_draws(tmp_path / "draws.nc", bent.draws)
    with pytest.raises(ss.OptionError, match=r"path should end in one of \.ecsv, \.csv"):
        write_comparison(tmp_path / "table.fits", comparison)
    with pytest.raises(ss.ShapeError, match=r"ids should have shape \(25,\)"):
        write_comparison(tmp_path / "other.csv", comparison, ["a"])


def test_the_screen_tells_verdict_thresholds_and_other_error_bars(bent):
    others = {
        "exact Hessian": fit(bent.reg, bent.theta, bent.X, bent.Y, curvature="hessian"),
        "sandwich": ss.sandwich_covariance(bent.laplace, bent.X, bent.Y, bent.X_check),
        "twice": 2 * np.ones((25, 1)),
    }
    comparison = ss.compare_hmc(bent.laplace, bent.draws, bent.X_check, others=others)
    console = Console(record=True, width=200, file=io.StringIO())
    print_comparison(console, comparison)
    said = console.export_text()
    for words in (
        "ggn primal",
        "exact Hessian",
        "sandwich",
        "y [K]",
        AGREE,
        "Pareto k",
        "R-hat at most 1.01",
    ):
        assert words in said
    assert_allclose(comparison.others["twice"], 2)
    with pytest.raises(ss.ShapeError, match=r"others\['odd'\] should be standard deviations"):
        ss.compare_hmc(bent.laplace, bent.draws, bent.X_check, others={"odd": np.ones(25)})
