"""Means over groups of stars: weights err for all together, flux and noise for each alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import t

import symspec as ss

N, D, C = 40, 5, 2
GROUPS = np.array(["old", "young", "old"] * 4)


def fit(structure="primal", noise=None, **options):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    Y = X[:, :C] + 0.3 * rng.normal(size=(N, C))
    net = ss.mlp([D, 4, C], activation="tanh", label_names=["TEFF", "LOGG"])
    noise = noise or ss.GaussianNoise(covariance=[[0.09, 0.01], [0.01, 0.04]])
    reg = ss.Regression(net, noise=noise, prior_precision=1.0)
    theta = ss.train(reg, X, Y, epochs=30, rng=rng, progress=False).theta
    how = {"structure": structure, "require_minimum": False, "progress": False} | options
    return ss.fit_laplace(reg, theta, X, Y, **how)


@pytest.fixture(scope="module")
def laplace():
    return fit()


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(1)
    return rng.normal(size=(len(GROUPS), D)), rng.uniform(50, 200, size=(len(GROUPS), D))


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_model_errors_are_those_of_the_joint_covariance(stars, structure):
    laplace = fit(structure)
    X, ivar = stars
    means = ss.predict_means(laplace, X, GROUPS, ivar=ivar)
    V = laplace.joint_covariance(X)
    single = laplace.predict(X, ivar=ivar, progress=False)
    assert means.names.tolist() == ["old", "young"]
    assert means.n_stars.tolist() == [8, 4]
    for g, name in enumerate(means.names):
        inside = np.flatnonzero(name == GROUPS)
        n = len(inside)
        assert_allclose(means.labels[g], single.labels[inside].mean(axis=0), rtol=1e-13)
        shared = V[np.ix_(inside, range(C), inside, range(C))].sum(axis=(0, 2)) / n**2
        assert_allclose(means.model_cov[g], shared, rtol=1e-9)
        assert_allclose(means.flux_cov[g], single.flux_cov[inside].sum(axis=0) / n**2, rtol=1e-13)
        assert_allclose(means.noise_cov[g], np.array([[0.09, 0.01], [0.01, 0.04]]) / n, rtol=1e-13)
    parts = means.model_cov + means.flux_cov + means.noise_cov
    assert_allclose(means.total_cov, parts, rtol=1e-13)
    assert_allclose(means.errors**2, np.einsum("gcc->gc", parts), rtol=1e-13)


@pytest.mark.parametrize("structure", ["kronecker", "diagonal", "last_layer", "low_rank", "krylov"])
def test_stars_alone_have_their_own_errors_of_any_structure(stars, structure):
    laplace = fit(structure)
    X, _ = stars
    means = ss.predict_means(laplace, X, np.arange(len(X)))
    single = laplace.predict(X, progress=False)
    # krylov's and low rank's are intervals, of a hundredth
    rtol = 0.02 if structure in ("krylov", "low_rank") else 1e-9
    assert_allclose(means.model_cov, single.model_cov, rtol=rtol, atol=rtol * 1e-3)


def test_like_stars_do_not_average_out(laplace, stars):
    X = np.tile(stars[0][:1], (100, 1))
    one = laplace.predict(X[:1], progress=False)
    many = ss.predict_means(laplace, X)
    assert many.names.tolist() == ["all"]
    assert_allclose(many.model_cov, one.model_cov, rtol=1e-9)
    assert_allclose(many.noise_cov, one.noise_cov / 100, rtol=1e-12)


def test_noise_with_tails_counts_by_its_variance(stars):
    laplace = fit(noise=ss.StudentTNoise(scale=[0.3, 0.2], dof=[4.0, 1.5]))
    means = ss.predict_means(laplace, stars[0], GROUPS)
    expected = 0.3**2 * t.var(4.0) / means.n_stars
    assert_allclose(means.noise_cov[:, 0, 0], expected, rtol=1e-12)
    assert np.isinf(means.noise_cov[:, 1, 1]).all()  # which a mean of such does not reach
    assert not means.noise_cov[:, 0, 1].any()


def test_missing_pixels_are_filled_and_both_centres_are_means(laplace, stars):
    X, ivar = stars[0].copy(), stars[1].copy()
    X[3, 1], ivar[3, 1] = np.nan, 0.0
    for center in ("weights", "linearized"):
        means = ss.predict_means(laplace, X, GROUPS, ivar=ivar, center=center)
        single = laplace.predict(X, ivar=ivar, center=center, progress=False)
        assert_allclose(means.labels[0], single.labels[GROUPS == "old"].mean(axis=0), rtol=1e-12)
        assert np.isfinite(means.total_cov).all()


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        (["a", "b"], ss.ShapeError, r"groups should have shape \(12,\)"),
        ([np.nan] + [1.0] * 11, ss.DataError, "got NaN"),
    ],
)
def test_groups_are_checked(laplace, stars, groups, error, words):
    with pytest.raises(error, match=words):
        ss.predict_means(laplace, stars[0], groups)
