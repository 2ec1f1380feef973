"""Intervals of the jackknife+: against refits, and their guarantee for noise that is not normal."""

import numpy as np
import pytest
from conftest import assert_entries

import symspec as ss

N = 20
REG = ss.Regression(ss.mlp([5, 2]), sigma_noise=[0.5, 1.0], prior_precision=0.1)


def fit(X, Y, errors=None):
    theta = np.zeros(REG.net.n_params)
    theta = ss.polish(REG, theta, X, Y, label_errors=errors, tolerance=1e-25).theta
    return ss.fit_laplace(REG, theta, X, Y, label_errors=errors)


def make_stars(n, rng, slopes=None):
    """Heavy-tailed noise that grows along the first pixel."""
    X = rng.normal(size=(n, 5))
    slopes = rng.normal(size=(5, 2)) if slopes is None else slopes
    return X, X @ slopes + np.abs(X[:, :1]) * rng.standard_t(3, size=(n, 2)), slopes


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_they_are_order_statistics_of_refits(level):
    rng = np.random.default_rng(0)
    X, Y, _ = make_stars(N + 3, rng)
    new, X, Y = X[N:], X[:N], Y[:N]
    Y[3, 1] = np.nan
    errors = rng.uniform(0.1, 0.5, size=Y.shape)
    found = ss.jackknife_intervals(fit(X, Y, errors), new, level=level)
    low, high = np.empty((2, 3, 2, N))
    for n in range(N):
        kept = np.arange(N) != n
        refit = fit(X[kept], Y[kept], errors[kept])
        residual = np.abs(Y[n] - refit.predict_labels(X[n]))
        low[:, :, n] = refit.predict_labels(new) - residual
        high[:, :, n] = refit.predict_labels(new) + residual
    for c in range(2):
        known = ~np.isnan(Y[:, c])
        count = known.sum() + 1
        first, last = int((1 - level) * count + 1e-9), int(np.ceil(level * count - 1e-9))
        assert_entries(found[:, c, 0], np.sort(low[:, c, known])[:, first - 1], 1e-9)
        assert_entries(found[:, c, 1], np.sort(high[:, c, known])[:, last - 1], 1e-9)


def test_they_hold_what_they_guarantee_on_twenty_sets():
    rng = np.random.default_rng(1)
    levels = (0.68, 0.95)
    inside = np.empty((20, 2))
    for k in range(20):
        X, Y, slopes = make_stars(60, rng)
        X_new, Y_new, _ = make_stars(400, rng, slopes)
        laplace = fit(X, Y)
        for i, level in enumerate(levels):
            low, high = np.moveaxis(ss.jackknife_intervals(laplace, X_new, level=level), -1, 0)
            inside[k, i] = np.mean((low <= Y_new) & (Y_new <= high))
    # the guarantee is of the mean over sets; a set of 60 is apart from it by some 0.06
    assert (inside.mean(axis=0) >= [2 * level - 1 for level in levels]).all()
    np.testing.assert_allclose(inside.mean(axis=0), levels, atol=4 * 0.06 / np.sqrt(20))


def test_few_stars_leave_them_open_and_bad_levels_are_refused():
    X, Y, _ = make_stars(10, np.random.default_rng(2))
    laplace = fit(X, Y)
    assert np.isinf(ss.jackknife_intervals(laplace, X, level=0.95)).all()
    assert np.isfinite(ss.jackknife_intervals(laplace, X, level=0.5)).all()
    with pytest.raises(ss.OptionError, match="level"):
        ss.jackknife_intervals(laplace, X, level=1.0)
