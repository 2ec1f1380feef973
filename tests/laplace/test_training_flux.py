"""Errors of the training flux are in the scatter of the labels, and count once for new spectra."""

import numpy as np
import pytest
from conftest import assert_entries

import symspec as ss
from symspec.laplace.budget import LEAST_NOISE, take_out_training

B = np.array([[1.0, -0.5, 0.25], [0.3, 0.8, -1.2]])  # labels of the pixels
SIGMA = np.array([0.5, 0.3, 0.4])  # noise of the training flux


def draw(n_stars, sigma, rng):
    """Stars whose labels are linear in the flux as it was before noise sigma (pixel,)."""
    clean = rng.normal(size=(n_stars, 3))
    labels = clean @ B.T + [0.2, 0.1] * rng.normal(size=(n_stars, 2))
    flux = clean + sigma * rng.normal(size=clean.shape)
    return ss.Spectra(flux=flux, ivar=np.broadcast_to(sigma**-2.0, flux.shape), labels=labels)


def fit(known, noise=None):
    net = ss.mlp([3, 2])
    noise = ss.GaussianNoise(sigma=[0.5, 0.5]) if noise is None else noise
    reg = ss.Regression(net, noise=noise, prior_precision=1e-3)
    reg, theta = ss.tune(reg, np.zeros(net.n_params), known, prior="fixed", progress=False)
    return ss.fit_laplace(reg, theta, known, progress=False)


@pytest.fixture(scope="module")
def known():
    return draw(2000, SIGMA, np.random.default_rng(2))


@pytest.fixture(scope="module")
def laplace(known):
    return fit(known)


@pytest.mark.parametrize("factor", [0.01, 1.0, 2.0])
def test_error_bars_are_true_whatever_the_noise_of_new_spectra(laplace, factor):
    new = draw(4000, factor * SIGMA, np.random.default_rng(3))
    prediction = laplace.predict(new, progress=False)
    squares = np.mean((prediction.labels - new.labels) ** 2, axis=0)
    claimed = np.mean(prediction.errors**2, axis=0)
    scatter = laplace.reg.sigma_noise**2
    # four deviations: means of 4,000 squares, and of those of the 2,000 training stars
    doubt = 4 * np.sqrt(2 * squares**2 / 4000 + 2 * scatter**2 / 2000)
    assert (np.abs(claimed - squares) < doubt).all()
    if factor == 1:  # counted twice, it would show
        assert (prediction.flux_cov[0].diagonal() > 2 * doubt).all()
    parts = prediction.model_cov + prediction.flux_cov + prediction.noise_cov
    assert_entries(prediction.total_cov, parts, 1e-14)


def test_as_noisy_as_the_training_spectra_needs_no_errors_of_the_flux(laplace, known):
    with_errors = laplace.predict(known, progress=False)
    without = laplace.predict(known.flux, progress=False)
    np.testing.assert_allclose(without.total_cov, with_errors.total_cov, rtol=1e-12, atol=1e-13)
    assert_entries(without.noise_cov[0], np.diag(laplace.reg.sigma_noise**2), 1e-14)


def test_it_is_what_the_mean_variance_of_good_pixels_does(known):
    ivar = np.array(known.ivar)
    ivar[:500, 0] = 0.0
    ivar[500:1000] *= 4
    found = ss.fit_laplace(
        ss.Regression(ss.mlp([3, 2]), sigma_noise=1.0, prior_precision=1.0),
        np.r_[B.T.ravel(), 0, 0], known.flux, known.labels, ivar=ivar, require_minimum=False,
        progress=False,
    )  # fmt: skip
    variance = SIGMA**2 * [(0.25 * 500 + 1000) / 1500, *[(0.25 * 500 + 1500) / 2000] * 2]
    assert_entries(found.flux_variance, variance, 1e-13)
    prediction = found.predict(known.flux[:2], ivar=np.ones((2, 3)), progress=False)
    assert_entries(prediction.noise_cov[1], np.eye(2) - (B * variance) @ B.T, 1e-12)


def test_nothing_is_taken_out_where_the_training_noise_is_not_known(known):
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=1.0, prior_precision=1.0)
    flux = np.array(known.flux)
    assert ss.fit_laplace(reg, np.zeros(8), flux, known.labels, require_minimum=False,
                          progress=False).flux_variance is None  # fmt: skip
    flux[0, 0] = np.nan
    with pytest.warns(ss.MissingPixelsWarning, match="1 values that are NaN"):
        found = ss.fit_laplace(reg, np.zeros(8), flux, known.labels, require_minimum=False,
                               progress=False)  # fmt: skip
    assert found.flux_variance is None


def test_noise_stays_a_covariance_where_the_flux_explains_more_than_all_of_it():
    rng = np.random.default_rng(0)
    S = np.tile(np.diag([4.0, 1e-4]), (5, 1, 1))
    directions = rng.normal(size=(5, 2, 1)) * [[2.0], [1e-2]]
    T = directions @ directions.transpose(0, 2, 1) * np.array([0.0, 0.1, 0.5, 2, 9])[:, None, None]
    found, _ = take_out_training(S.copy(), None, T)
    for s, t, left in zip(S, T, found, strict=True):
        share = np.linalg.eigvals(np.linalg.solve(s, t)).real.max()
        if share < 1:
            assert_entries(left, s - t, 1e-12)
        else:
            shares = np.linalg.eigvals(np.linalg.solve(s, left)).real
            assert_entries(np.sort(shares), [LEAST_NOISE, 1.0], 1e-9)


def test_tails_and_predicted_scales_lose_their_share(known):
    student = fit(known, ss.StudentTNoise([0.5, 0.5], dof=5.0))
    prediction = student.predict(known[:20], progress=False)
    T = (known.ivar[0] ** -1 * student.theta[:6].reshape(3, 2).T ** 2).sum(axis=1)
    widths = np.diagonal(student.predict(known.flux[:1], progress=False).noise_cov[0])
    assert_entries(np.diagonal(prediction.noise_cov[3]), widths - T, 0.1)  # T is no diagonal
    truth = known.labels[:20]
    assert np.isfinite(prediction.log_density(truth)).all()

    net = ss.mlp([3, 4], n_labels=2)
    reg = ss.Regression(net, noise=ss.PredictedNoise(), prior_precision=1.0)
    theta = np.r_[np.hstack([B.T, np.zeros((3, 2))]).ravel(), 0, 0, 0, 0]
    predicted = ss.fit_laplace(reg, theta, known, require_minimum=False, progress=False)
    prediction = predicted.predict(known[:20], progress=False)
    before = predicted.predict(known.flux[:20], progress=False)
    ratio = np.einsum("ncc->nc", prediction.noise_cov) / np.einsum("ncc->nc", before.noise_cov)
    assert (ratio < 0.9).all()
    assert_entries(prediction.noise_mixture[:, :, 0], before.noise_mixture[:, :, 0] * ratio**0.5,
                   1e-12)  # fmt: skip
    assert_entries(prediction.interval(0.68)[:, :, 1] - prediction.labels,
                   prediction.half_width(0.68), 1e-12)  # fmt: skip
