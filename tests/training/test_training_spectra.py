"""Spectra stand for X and Y: the same numbers as of arrays that were filled and ordered by hand."""

import dataclasses

import numpy as np
import pytest

import symspec as ss

N_STARS, N_PIXELS = 24, 12
WAVELENGTH = np.linspace(4000.0, 4110.0, N_PIXELS)
NAMES = ("TEFF", "LOGG")


def build_network(wavelength=WAVELENGTH, names=NAMES):
    dense = ss.mlp([N_PIXELS, 3, 2], activation="tanh")
    return ss.Network(dense.layers, N_PIXELS, label_names=names, wavelength=wavelength)


def build_regression(**options):
    return ss.Regression(build_network(**options), sigma_noise=0.3, prior_precision=1.0)


@pytest.fixture(scope="module")
def spectra():
    """Stars with bad pixels, a missing label, one label too many, and another order of labels."""
    rng = np.random.default_rng(0)
    flux = 1 + 0.1 * rng.normal(size=(N_STARS, N_PIXELS))
    ivar = np.full(flux.shape, 100.0)
    ivar[3, 4] = ivar[5] = ivar[:, 7] = 0.0
    flux[3, 4] = flux[5, 0] = np.nan
    labels = rng.normal(size=(N_STARS, 3))
    labels[2, 1] = np.nan
    return ss.Spectra(
        flux=flux, ivar=ivar, wavelength=WAVELENGTH, labels=labels,
        label_names=("LOGG", "FE_H", "TEFF"), label_units=("dex", "dex", "K"),
    )  # fmt: skip


def fill_by_hand(spectra):
    """Bad pixels take the mean of the other stars, 0 where all are bad; labels TEFF, LOGG."""
    X = np.array(spectra.flux)
    for pixel in range(N_PIXELS):
        good = spectra.ivar[:, pixel] > 0
        X[~good, pixel] = X[good, pixel].mean() if good.any() else 0.0
    return X, spectra.labels[:, [2, 0]]


def assert_same(found, expected):
    # means of columns are summed in another order by hand; minima are found to 1e-6 nats of 100
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-11)


def run_train(reg, theta, *stars):
    rng = np.random.default_rng(1)
    options = {"epochs": 3, "batch_size": 8, "dtype": "float64", "rng": rng, "progress": False}
    return ss.train(reg, *stars, theta=theta, **options).theta


def run_tune(reg, theta, *stars):
    """Log evidence at the start: the path from there magnifies the last digits of the flux."""
    found = []
    options = {"max_evaluations": 1, "progress": False}
    ss.tune(reg, theta, *stars, **options, callback=lambda _, evidence: found.append(evidence))
    return np.array([found[0].log_marginal_likelihood])


def run_laplace(reg, theta, *stars):
    laplace = ss.fit_laplace(reg, theta, *stars, require_minimum=False, progress=False)
    return np.r_[laplace.inverse_hessian.diagonal(), laplace.flux_mean]


RUNS = {
    "train": run_train,
    "minimize": lambda *given: ss.minimize(*given, max_iterations=5, progress=False).x,
    "polish": lambda *given: ss.polish(*given, max_iterations=3, progress=False).theta,
    "tune": run_tune,
    "fit_laplace": run_laplace,
}


@pytest.mark.parametrize("name", RUNS)
def test_spectra_give_the_numbers_of_arrays_filled_by_hand(spectra, name):
    reg = build_regression()
    theta = reg.net.init_params(np.random.default_rng(2))
    found = RUNS[name](reg, theta, spectra)
    assert_same(found, RUNS[name](reg, theta, *fill_by_hand(spectra)))
    swapped = spectra.labels[:, [0, 2]]
    other = RUNS[name](reg, theta, fill_by_hand(spectra)[0], 10 * swapped)
    assert not np.allclose(found, other, rtol=1e-3) or name == "fit_laplace"  # A has no labels


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"wavelength": WAVELENGTH + 5.0}, ss.DataError, "got other wavelengths in the spectra"),
        ({"names": ("TEFF", "VSINI")}, ss.DataError, "the 2 labels of the network, TEFF, VSINI"),
    ],
    ids=["grid", "labels"],
)
def test_another_grid_and_other_labels_are_refused(spectra, name, options, error, words):
    reg = build_regression(**options)
    with pytest.raises(error, match=words):
        RUNS[name](reg, np.zeros(reg.net.n_params), spectra)


@pytest.mark.parametrize("name", RUNS)
def test_labels_given_twice_or_not_at_all_are_refused(spectra, name):
    reg = build_regression()
    theta = np.zeros(reg.net.n_params)
    with pytest.raises(ss.OptionError, match="Y should be left out with Spectra"):
        RUNS[name](reg, theta, spectra, spectra.labels)
    with pytest.raises(ss.OptionError, match="Y should hold the labels"):
        RUNS[name](reg, theta, spectra.flux)


def test_validation_spectra_of_few_training_stars_are_filled_with_their_mean(spectra):
    training, watched = spectra[:16], spectra[16:]
    bad = np.array(watched.ivar)
    bad[1, 2:5] = 0.0
    watched = dataclasses.replace(watched, ivar=bad)
    X, Y = fill_by_hand(training)
    held_out = np.where(bad > 0, watched.flux, X.mean(axis=0)), watched.labels[:, [2, 0]]
    reg = build_regression()
    theta = reg.net.init_params(np.random.default_rng(2))
    losses = []
    for stars, validation in (((training,), watched), ((X, Y), held_out)):
        fit = ss.train(
            reg,
            *stars,
            theta=theta,
            validation=validation,
            epochs=2,
            dtype="float64",
            rng=np.random.default_rng(1),
            progress=False,
        )
        losses.append(fit.history["validation_loss"])
    assert_same(*losses)


def test_validation_spectra_of_another_grid_are_refused(spectra):
    reg = build_regression()
    moved = dataclasses.replace(spectra, wavelength=WAVELENGTH + 5.0)
    with pytest.raises(ss.DataError, match="got other wavelengths"):
        ss.train(reg, spectra, validation=moved, rng=np.random.default_rng(0), progress=False)
