"""Networks that came trained get error bars: what is found, and what it agrees with."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_entries

import symspec as ss
from symspec.files import read_laplace, write_laplace
from symspec.fitting import adopt_network, count_beyond_training


@pytest.fixture(scope="module")
def stars():
    return ss.datasets.generated_stars(
        150, n_pixels=30, snr=200, wavelength_range=(5150, 5300), rng=np.random.default_rng(0)
    )


@pytest.fixture(scope="module")
def foreign(stars):
    """A network that takes flux as it is and gives z-scores, stopped early; it has no names."""
    whole = ss.standardized(ss.mlp([30, 8, 3], activation="relu"), stars.flux, stars.labels)
    reg = ss.Regression(whole, sigma_noise=0.1 * stars.labels.std(axis=0), prior_precision=1.0)
    fit = ss.train(reg, stars, epochs=60, learning_rate=1e-2, rng=np.random.default_rng(1),
                   progress=False)  # fmt: skip
    return ss.Network(whole.layers[:-1], 30), fit.theta


def test_names_units_wavelengths_and_scaling_come_from_the_stars(foreign, stars):
    net, theta = foreign
    adopted = adopt_network(net, theta, stars, progress=False)
    laplace = adopted.laplace
    assert "z-scores" in adopted.label_scaling.rule
    assert laplace.reg.net.label_names == stars.label_names
    assert laplace.reg.net.label_units == stars.label_units
    np.testing.assert_array_equal(laplace.reg.net.wavelength, stars.wavelength)
    np.testing.assert_array_equal(laplace.theta, theta)
    scaled = stars.labels.mean(axis=0) + stars.labels.std(axis=0) * ss.compile_predict(net)(
        theta, stars.flux
    )
    assert_entries(laplace.predict_labels(stars.flux), scaled, 1e-12)


def test_noise_and_prior_are_those_of_the_linearised_evidence(foreign, stars):
    laplace = adopt_network(*foreign, stars, progress=False).laplace
    start = ss.Regression(
        laplace.reg.net,
        sigma_noise=0.1 * stars.labels.std(axis=0),
        prior_precision=ss.scaled_prior(laplace.reg.net, 1.0),
    )
    tuned, _ = ss.tune(
        start, laplace.theta, stars, move=False, tolerance=1e-8, progress=False, max_evaluations=99
    )
    # the tolerance of `tune` leaves each of them within 0.14 of the deviation that the evidence
    # leaves it: 1 / sqrt(2 * 150) of a sigma for the noise
    assert_entries(laplace.reg.sigma_noise, tuned.sigma_noise, 0.2 / np.sqrt(300))


def test_flux_errors_count_beyond_those_of_the_training_spectra(foreign, stars, tmp_path):
    beyond = adopt_network(*foreign, stars, progress=False).laplace
    every = adopt_network(*foreign, stars, count_flux_errors="all", progress=False).laplace
    assert every.training_flux_cov is None
    J = ss.compile_jacobian(beyond.net, "flux")(beyond.theta, stars.flux)
    covariances = np.einsum("ncp,np,ndp->ncd", J, 1 / stars.ivar, J)
    assert_entries(beyond.training_flux_cov[0], covariances.mean(axis=0), 1e-10)
    again = count_beyond_training(beyond, stars).training_flux_cov
    np.testing.assert_array_equal(again, beyond.training_flux_cov)
    write_laplace(tmp_path / "model.h5", beyond)
    read = read_laplace(tmp_path / "model.h5")
    noisier = replace(stars, ivar=stars.ivar / 9)
    for center, known in zip(("weights", "linearized"), beyond.training_flux_cov, strict=True):
        all_of_it = every.predict(noisier, center=center, progress=False)
        found = read.predict(noisier, center=center, progress=False)
        # nine times each covariance, less one of them: along no combination less than nothing
        least = np.linalg.eigvalsh(found.flux_cov - (all_of_it.flux_cov - known))
        scale = np.abs(all_of_it.flux_cov).max(axis=(1, 2))
        assert (least >= -1e-10 * scale[:, None]).all()
        assert (np.linalg.eigvalsh(found.flux_cov) >= -1e-10 * scale[:, None]).all()
        others = all_of_it.total_cov - all_of_it.flux_cov
        assert_entries(found.total_cov - found.flux_cov, others, 1e-9)
        as_noisy = read.predict(stars, center=center, progress=False)
        share = np.einsum("ncc->nc", as_noisy.flux_cov) / np.diag(known)
        assert np.median(share) < 0.5  # all of it would be 1


def test_spectra_without_errors_leave_nothing_to_count_beyond(foreign, stars):
    laplace = adopt_network(*foreign, replace(stars, ivar=None), progress=False).laplace
    assert laplace.training_flux_cov is None


def test_flux_is_scaled_where_the_network_expects_it(foreign, stars):
    net, theta = foreign
    inner = ss.Network(net.layers[1:], 30)
    adopted = adopt_network(inner, theta, stars, flux_scaling="zscore", progress=False)
    expected = adopt_network(net, theta, stars, progress=False).laplace
    assert_entries(
        adopted.laplace.predict_labels(stars.flux), expected.predict_labels(stars.flux), 1e-10
    )
    with pytest.raises(ss.DataError, match="their flux scaled as it was"):
        adopt_network(inner, theta, stars, progress=False)


def test_a_scaling_that_is_given_is_taken(foreign, stars):
    scaling = (stars.labels.mean(axis=0) + 1.0, stars.labels.std(axis=0))
    laplace = adopt_network(*foreign, stars, label_scaling=scaling, progress=False).laplace
    found = adopt_network(*foreign, stars, progress=False).laplace
    shift = laplace.predict_labels(stars.flux) - found.predict_labels(stars.flux)
    assert_entries(shift, np.ones(shift.shape), 1e-10)
    with pytest.raises(ss.OptionError, match="label_scaling should be a mean and a scale"):
        adopt_network(*foreign, stars, label_scaling=(np.ones(2), 1.0))


def test_the_weights_go_to_the_minimum_when_they_may(stars):
    net = ss.mlp([30, 2, 3], activation="tanh")
    whole = ss.standardized(net, stars.flux, stars.labels)
    reg = ss.Regression(whole, sigma_noise=0.1 * stars.labels.std(axis=0), prior_precision=1.0)
    theta = ss.train(reg, stars, epochs=100, learning_rate=1e-2, rng=np.random.default_rng(1),
                     progress=False).theta  # fmt: skip
    moved = adopt_network(whole, theta, stars, move="minimum", progress=False).laplace
    assert moved.certificate.is_minimum
    assert not adopt_network(whole, theta, stars, progress=False).laplace.certificate.is_stationary


def test_stars_that_do_not_go_with_the_network_are_refused(foreign, stars):
    net, theta = foreign
    with pytest.raises(ss.DataError, match="should have labels"):
        adopt_network(net, theta, ss.Spectra(flux=stars.flux))
    two = ss.Spectra(flux=stars.flux, labels=stars.labels[:, :2], label_names=("TEFF", "LOGG"))
    with pytest.raises(ss.ShapeError, match="should have 3 labels, one for each output"):
        adopt_network(net, theta, two)
    short = ss.Spectra(flux=stars.flux[:, :20], labels=stars.labels)
    with pytest.raises(ss.ShapeError, match="takes spectra of 30 pixels, got 20"):
        adopt_network(net, theta, short)
    with pytest.raises(ss.OptionError, match="move"):
        adopt_network(net, theta, stars, move="far")
