"""Noise of training spectra is an error of their labels, and counts once for new stars."""

import numpy as np
from conftest import assert_entries

import symspec as ss
from symspec.fitting import adopt_network
from symspec.fitting.flux_noise import add_flux_noise

B = np.array([[1.0, -0.5, 0.25], [0.3, 0.8, -1.2]])  # labels of the pixels
NET = ss.mlp([3, 2])


def draw(n_stars, sigma, rng):
    """Stars whose labels are linear in the flux as it was before noise sigma (pixel,)."""
    clean = rng.normal(size=(n_stars, 3))
    labels = clean @ B.T + [0.2, 0.1] * rng.normal(size=(n_stars, 2))
    flux = clean + sigma * rng.normal(size=clean.shape)
    return ss.Spectra(flux=flux, ivar=np.broadcast_to(sigma**-2.0, flux.shape), labels=labels)


def fit_linear(stars):
    """Weights of least squares."""
    design = np.column_stack([stars.flux, np.ones(len(stars))])
    found = np.linalg.lstsq(design, stars.labels)[0]
    return np.concatenate([found[:3].ravel(), found[3]])


def test_it_is_the_noise_of_the_flux_through_the_derivatives_beside_the_labels_own():
    rng = np.random.default_rng(0)
    ivar = rng.uniform(1, 100, size=(30, 3))
    errors = rng.uniform(0.1, 0.4, size=(30, 2))
    flux = rng.normal(size=(30, 3))
    stars = ss.Spectra(flux=flux, ivar=ivar, labels=flux @ B.T, label_errors=errors)
    found = add_flux_noise(NET, np.r_[B.T.ravel(), 0.0, 0.0], stars)
    expected = (B / ivar[:, None]) @ B.T + errors[:, :, None] ** 2 * np.eye(2)
    assert_entries(found.label_covariance, expected, 1e-13)
    assert found.label_errors is None


def test_missing_pixels_of_training_stars_count_more_than_noisy_ones():
    rng = np.random.default_rng(1)
    stars = draw(200, np.full(3, 0.01), rng)
    ivar = np.array(stars.ivar)
    ivar[::2, 0] = 0.0
    theta = np.r_[B.T.ravel(), 0.0, 0.0]
    found = add_flux_noise(NET, theta, ss.Spectra(flux=stars.flux, ivar=ivar, labels=stars.labels))
    # a pixel that the others tell nothing of has the variance of the spectra, 1 here, to 10 %
    variances = np.einsum("ncc->nc", found.label_covariance)[::2]
    assert_entries(variances.mean(axis=0), B[:, 0] ** 2 + 1e-4 * (B**2).sum(axis=1), 0.2)


def test_stars_without_errors_of_the_flux_are_as_they_are():
    stars = ss.Spectra(flux=np.eye(3), labels=np.ones((3, 2)))
    assert add_flux_noise(NET, np.zeros(8), stars) is stars


def test_error_bars_are_true_whatever_the_noise_of_new_spectra():
    rng = np.random.default_rng(2)
    sigma = np.array([0.5, 0.3, 0.4])
    known = draw(2000, sigma, rng)
    laplace = adopt_network(NET, fit_linear(known), known, progress=False).laplace
    scatter = np.mean((laplace.predict_labels(known.flux) - known.labels) ** 2, axis=0)
    for factor in (0.01, 1.0, 2.0):
        new = draw(4000, factor * sigma, rng)
        prediction = laplace.predict(new, progress=False)
        squares = np.mean((prediction.labels - new.labels) ** 2, axis=0)
        claimed = np.mean(prediction.errors**2, axis=0)
        # four deviations: means of 4,000 squares, and of those of the 2,000 training stars
        doubt = 4 * np.sqrt(2 * squares**2 / 4000 + 2 * scatter**2 / 2000)
        assert (np.abs(claimed - squares) < doubt).all()
        if factor == 1:  # counted twice, it would show
            assert (prediction.flux_cov[0].diagonal() > 2 * doubt).all()
