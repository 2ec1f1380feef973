"""Several networks as one: the law of total covariance, and the mixture's own intervals."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_entries
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq

import symspec as ss
from symspec.laplace.prediction import join_predictions
from symspec.mixtures.mean_network import build_mean_network
from symspec.mixtures.prediction import mix_predictions

WEIGHTS = np.array([0.5, 0.3, 0.2])
ROUNDED = 1e-12


def fit(noise, seed, names=("a", "b")):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4))
    Y = np.tanh(X @ rng.normal(size=(4, 2))) + 0.1 * rng.normal(size=(20, 2))
    net = ss.mlp([4, 3, 2], activation="tanh", label_names=names)
    reg = ss.Regression(net, noise=noise, prior_precision=0.3)
    theta = net.init_params(np.random.default_rng(seed))
    return ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False)


@pytest.fixture(scope="module")
def posteriors():
    return [fit(ss.GaussianNoise([0.1, 0.2 + 0.1 * seed]), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def new():
    return np.random.default_rng(5).normal(size=(3, 4)), np.full((3, 4), 25.0)


@pytest.fixture(scope="module")
def combined(posteriors, new):
    X, ivar = new
    return ss.combine(posteriors, weights=10 * WEIGHTS).predict(X, ivar=ivar, progress=False)


def test_covariances_within_and_between_add_up(posteriors, new, combined):
    X, ivar = new
    parts = [one.predict(X, ivar=ivar, progress=False) for one in posteriors]
    labels = np.array([part.labels for part in parts])
    mean = np.einsum("k,knc->nc", WEIGHTS, labels)
    assert_entries(combined.labels, mean, ROUNDED)
    second = np.einsum("k,knc,knd->ncd", WEIGHTS, labels, labels)
    between = second - mean[:, :, None] * mean[:, None, :]
    assert_entries(combined.between_cov, between, 1e-10)
    within = np.einsum("k,kncd->ncd", WEIGHTS, [part.model_cov for part in parts])
    assert_entries(combined.model_cov, within + between, 1e-10)
    for name in ("flux_cov", "noise_cov"):
        own = np.einsum("k,kncd->ncd", WEIGHTS, [getattr(part, name) for part in parts])
        assert_entries(getattr(combined, name), own, ROUNDED)
    total = combined.model_cov + combined.flux_cov + combined.noise_cov
    assert_entries(combined.total_cov, total, ROUNDED)
    both = ss.combine(posteriors, weights=WEIGHTS)
    assert_entries(both.predict_labels(X), combined.labels, ROUNDED)
    assert_entries(both.label_covariance(X), combined.model_cov, 1e-10)
    ends = np.sqrt(np.einsum("ncc->nc", combined.model_cov))
    assert_entries(combined.model_interval, np.stack([ends, ends], axis=2), 1e-6)


@pytest.mark.parametrize("level", [0.3, 0.95])
def test_intervals_densities_and_probabilities_are_those_of_the_mixture(combined, level):
    interval = combined.interval(level)
    for star, c in np.ndindex(3, 2):
        parts = [stats.norm(p.labels[star, c], p.errors[star, c]) for p in combined.parts]

        def cdf(y, parts=parts):
            return sum(w * part.cdf(y) for w, part in zip(WEIGHTS, parts, strict=True))

        for end, share in zip(interval[star, c], ((1 - level) / 2, (1 + level) / 2), strict=True):
            expected = brentq(lambda y, s=share, f=cdf: f(y) - s, -50, 50, xtol=1e-13)
            assert end == pytest.approx(expected, abs=1e-10)
        y = np.full((3, 2), 0.3)
        assert combined.cdf(y)[star, c] == pytest.approx(cdf(0.3), rel=1e-12)
        density = sum(w * part.pdf(0.3) for w, part in zip(WEIGHTS, parts, strict=True))
        assert combined.log_density(y)[star, c] == pytest.approx(np.log(density), rel=1e-10)
    assert_entries(combined.half_width(level), (interval[..., 1] - interval[..., 0]) / 2, ROUNDED)


@pytest.mark.parametrize("apart", [0.0, 1e-9, 1e4])
def test_quantiles_of_networks_that_agree_or_are_far_apart(combined, apart):
    """Probabilities at the ends are those asked for; a star without error bars has no interval."""
    first = combined.parts[0]
    labels, total = first.labels.copy(), first.total_cov.copy()
    labels[0] += apart * first.errors[0]
    total[1] = np.nan
    second = replace(first, labels=labels, total_cov=total)
    both = mix_predictions([first, second], np.array([0.3, 0.7]))
    low, high = np.moveaxis(both.interval(0.68), 2, 0)
    known = [0, 2]
    for ends, share in ((low, 0.16), (high, 0.84)):
        assert_entries(both.cdf(ends)[known], np.full((2, 2), share), 1e-12)
    assert np.isnan([low[1], high[1]]).all()
    for level in (1e-12, 1 - 1e-12):
        low, high = np.moveaxis(both.interval(level)[known], 2, 0)
        ends = np.array([one.interval(level)[known] for one in both.parts])
        slack = 1e-8 * first.errors[known]
        assert (low >= ends[..., 0].min(axis=0) - slack).all()
        assert (high <= ends[..., 1].max(axis=0) + slack).all()


def test_some_stars_and_another_noise_keep_the_mixture(posteriors, new, combined):
    X, ivar = new
    some = combined.select(np.array([2, 0]))
    assert_entries(some.labels, combined.labels[[2, 0]], ROUNDED)
    assert_entries(some.interval(0.95), combined.interval(0.95)[[2, 0]], 1e-9)
    assert_entries(
        some.cdf(some.labels - 0.2), combined.cdf(combined.labels - 0.2)[[2, 0]], ROUNDED
    )
    noise = ss.StudentTNoise([0.3, 0.1], dof=[3.0, 6.0])
    other = combined.with_noise(noise)
    parts = [one.predict(X, ivar=ivar, progress=False).with_noise(noise) for one in posteriors]
    y = combined.labels + 0.4
    expected = np.tensordot(WEIGHTS, [part.cdf(y) for part in parts], 1)
    assert_entries(other.cdf(y), expected, ROUNDED)
    assert_entries(other.noise_cov, parts[0].noise_cov, ROUNDED)
    assert np.abs(other.interval(0.9) - combined.interval(0.9)).max() > 0.01


def test_students_t_has_its_own_tails_in_the_mixture(new):
    X, _ = new
    one = fit(ss.StudentTNoise([0.1, 0.2], dof=[2.0, 5.0]), 0)
    alone = one.predict(X, progress=False)
    y = alone.labels + np.array([0.5, -0.3])
    for c, dof in enumerate((2.0, 5.0)):
        sd = np.sqrt(alone.model_cov[0, c, c])
        noise = stats.t(dof, scale=[0.1, 0.2][c])
        residual = y[0, c] - alone.labels[0, c]

        def integrand(e, noise=noise, r=residual, sd=sd):
            return noise.cdf(r - e) * stats.norm.pdf(e, scale=sd)

        expected, _ = quad(integrand, -9 * sd, 9 * sd, epsabs=1e-12)
        assert alone.cdf(y)[0, c] == pytest.approx(expected, abs=1e-9)
    twice = ss.combine([one, one]).predict(X, progress=False)
    assert_entries(twice.interval(0.9), alone.interval(0.9), 1e-9)


def test_flags_are_those_of_any_network(posteriors, new, combined):
    X, ivar = new
    parts = [one.predict(X, ivar=ivar, progress=False) for one in posteriors]
    np.testing.assert_array_equal(
        combined.flags, np.bitwise_or.reduce([part.flags for part in parts])
    )
    shifts = np.array([part.newton_shift for part in parts])
    assert_entries(np.abs(combined.newton_shift), np.abs(shifts).max(axis=0), ROUNDED)


def test_weights_by_evidence_are_shares_of_the_marginal_likelihood(posteriors):
    logs = np.array([one.log_marginal_likelihood() for one in posteriors])
    found = ss.combine(posteriors, weights="evidence").weights
    assert_entries(found[:, None] / found, np.exp(logs[:, None] - logs), 1e-8)
    np.testing.assert_array_equal(ss.combine(posteriors).weights, np.full(3, 1 / 3))


def test_a_catalogue_takes_a_combined_prediction(combined, tmp_path):
    ss.write_catalogue(tmp_path / "out.fits", combined, ["a", "b", "c"])
    assert (tmp_path / "out.fits").stat().st_size > 0


def test_networks_that_do_not_go_together_and_bad_weights_are_refused(posteriors):
    other = fit(ss.GaussianNoise(0.1), 0, names=("a", "z"))
    with pytest.raises(ss.DataError, match="the same label_names"):
        ss.combine([posteriors[0], other])
    with pytest.raises(ss.OptionError, match="got none"):
        ss.combine([])
    with pytest.raises(ss.OptionError, match="weights"):
        ss.combine(posteriors, weights="best")
    for bad in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 1.0]):
        with pytest.raises(ss.DataError, match="weights should be 3 numbers"):
            ss.combine(posteriors, weights=bad)


def test_means_of_groups_err_by_how_far_the_networks_find_them_apart(posteriors, new):
    X, ivar = new
    groups = ["x", "y", "x"]
    both = ss.combine(posteriors[:2], weights=[0.25, 0.75])
    found = ss.predict_means(both, X, groups, ivar=ivar)
    one, other = (ss.predict_means(p, X, groups, ivar=ivar) for p in posteriors[:2])
    assert_entries(found.labels, 0.25 * one.labels + 0.75 * other.labels, ROUNDED)
    apart = one.labels - other.labels
    between = 0.25 * 0.75 * np.einsum("gc,gd->gcd", apart, apart)
    assert_entries(found.model_cov, 0.25 * one.model_cov + 0.75 * other.model_cov + between, 1e-10)
    rest = found.model_cov + found.flux_cov + found.noise_cov
    assert_entries(found.total_cov, rest, ROUNDED)
    assert_entries(found.flux_cov, 0.25 * one.flux_cov + 0.75 * other.flux_cov, ROUNDED)
    assert list(found.names) == ["x", "y"]


def test_the_jackknife_takes_the_mean_labels_without_each_star(posteriors, new):
    both = ss.combine(posteriors[:2], weights=[0.25, 0.75])
    X = new[0]
    found = ss.jackknife_intervals(both, X, level=0.8)
    rng = np.random.default_rng(0)  # the training stars of `fit`
    flux = rng.normal(size=(20, 4))
    Y = np.tanh(flux @ rng.normal(size=(4, 2))) + 0.1 * rng.normal(size=(20, 2))
    residuals = np.abs(Y - both.leave_one_out().labels)
    without = both.predict_labels(X)[:, :, None] - both.influence(X)
    upper = np.sort(without + residuals.T, axis=2)[..., 16]  # the 17th of 20, 0.8 of 21
    lower = np.sort(without - residuals.T, axis=2)[..., 3]
    assert_entries(found, np.stack([lower, upper], axis=2), 1e-10)


def test_what_single_networks_have_is_asked_of_these(posteriors, new):
    both = ss.combine(posteriors[:2])
    with pytest.raises(AttributeError, match=r"no 'inverse_hessian'.* take one of its posteriors"):
        both.inverse_hessian  # noqa: B018
    with pytest.raises(AttributeError, match="take one of its posteriors"):
        ss.sandwich_covariance(both, new[0], np.ones((3, 2)), new[0])
    with pytest.raises(ss.OptionError, match="should be that of one network"):
        ss.studentized_residuals(both.predict(new[0], progress=False), np.ones((3, 2)))
    again = pickle.loads(pickle.dumps(both))
    np.testing.assert_array_equal(again.weights, both.weights)
    assert copy.copy(both).posteriors == both.posteriors


def test_networks_on_other_wavelengths_are_refused_where_both_are_known(posteriors):
    def on(wavelength):
        net = posteriors[0].net
        own = ss.Network(net.layers, 4, label_names=net.label_names, wavelength=wavelength)
        return replace(posteriors[0], reg=ss.Regression(own, noise=posteriors[0].reg.noise,
                                                        prior_precision=0.3))  # fmt: skip

    grid = np.linspace(5000.0, 5100.0, 4)
    combined = ss.combine([on(grid), posteriors[0], on(grid)])
    assert combined.net.wavelength is not None
    with pytest.raises(ss.DataError, match="should have the same wavelength"):
        ss.combine([on(grid), on(grid + 1)])


def test_predictions_of_other_mixtures_are_not_joined(posteriors, new, combined):
    X, ivar = new
    joined = join_predictions([combined, combined.select(slice(1, 2))])
    assert_entries(joined.interval(0.9)[[0, 3]], combined.interval(0.9)[[0, 1]], 1e-9)
    other = ss.combine(posteriors).predict(X, ivar=ivar, progress=False)
    with pytest.raises(ss.DataError, match="of one mixture to be joined"):
        join_predictions([combined, other])


def test_the_mean_network_gives_the_mean_labels_of_networks_of_any_kind(posteriors):
    start = ss.Identity()
    first = ss.Dense(2)
    twice = ss.Activation("tanh")  # one object at two places
    branched = [start, first, twice, ss.Dense(2), twice, ss.From(start), ss.Dense(2), ss.Add(first)]
    with_noise = [ss.Dense(3), twice, ss.Dense(4)]
    names = posteriors[0].net.label_names
    each = [posteriors[0], posteriors[1]]
    for layers, noise in ((branched, ss.GaussianNoise(0.3)), (with_noise, ss.PredictedNoise())):
        net = ss.Network(layers, 4, n_labels=2, label_names=names)
        reg = ss.Regression(net, noise=noise, prior_precision=1.0)
        theta = net.init_params(np.random.default_rng(len(each)))
        each.append(replace(posteriors[0], reg=reg, theta=theta))
    combined = ss.combine(each, weights=[0.4, 0.3, 0.2, 0.1])
    net, theta = build_mean_network(combined)
    assert net.n_params == sum(one.net.n_params for one in each) + 4 * 2 * 2
    X = np.random.default_rng(2).normal(size=(5, 4))
    assert_entries(ss.compile_predict(net)(theta, X), combined.predict_labels(X), 1e-12)
