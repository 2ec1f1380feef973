"""What standardised networks learn does not depend on the units of the flux and of the labels."""

from functools import cache

import numpy as np
import pytest

import symspec as ss

FLUX_UNITS = (1e-17, 1e12, 2.0**-56)
# rounding of flux in other units, 1e-16 times mean over scatter, magnified on the way to a minimum
SAME = 1e-6


@cache
def make_stars():
    """Flux whose scatter is a fiftieth of its mean, with a pixel that never varies, and labels."""
    rng = np.random.default_rng(0)
    t = rng.normal(size=(40, 2))
    flux = 1 + 0.02 * (t @ rng.normal(size=(2, 12)) + rng.normal(size=(40, 12)))
    flux[:, 3] = 0.7
    labels = np.c_[4800 + 300 * t[:, 0], 2.5 + 0.5 * t[:, 1] + 0.2 * t[:, 0] ** 2]
    labels += rng.normal(size=labels.shape) * [60.0, 0.1]
    labels[::7, 1] = np.nan
    return flux, labels


def build_regression(flux, labels, activation="tanh", units=1.0):
    standardize = ss.Standardize.of(flux, constant="keep")
    norm = ss.BatchNorm(np.full(4, 0.1), np.full(4, 1.5))
    layers = [standardize, ss.Dense(4), norm, ss.Activation(activation), ss.Dense(2)]
    net = ss.Network([*layers, ss.Unstandardize.of(labels)], 12)
    sigma = units * np.array([60.0, 0.1])
    return ss.Regression(net, sigma_noise=sigma, prior_precision=ss.scaled_prior(net, 1.0))


def fit(flux, labels, dtype):
    return ss.train(
        build_regression(flux, labels),
        flux,
        labels,
        validation=0.2,
        epochs=15,
        batch_size=8,
        learning_rate=0.01,
        dtype=dtype,
        rng=np.random.default_rng(1),
        progress=False,
    ).theta


def start():
    flux, labels = make_stars()
    reg = build_regression(flux, labels)
    return ss.polish(reg, fit(flux, labels, "float64"), flux, labels, progress=False).theta


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, atol=SAME * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("unit", FLUX_UNITS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_is_the_same_whatever_the_units_of_the_flux(unit, dtype):
    flux, labels = make_stars()
    assert_same(fit(unit * flux, labels, dtype), fit(flux, labels, dtype))


@pytest.mark.parametrize("unit", FLUX_UNITS)
def test_tuning_and_error_bars_are_the_same_whatever_the_units_of_the_flux(unit):
    flux, labels = make_stars()
    theta = start()
    ends = []
    for u in (1.0, unit):
        reg = build_regression(u * flux, labels)
        tuned, weights = ss.tune(reg, theta, u * flux, labels, max_evaluations=4, progress=False)
        laplace = ss.fit_laplace(tuned, weights, u * flux, labels, require_minimum=True)
        ivar = np.full(flux.shape, 1e4) / u / u
        prediction = laplace.predict(1.03 * u * flux, ivar=ivar, progress=False)
        prior = list(tuned.prior_precision.values())
        evidence = laplace.log_marginal_likelihood()
        numbers = [weights, tuned.sigma_noise, prior, evidence, prediction.flux_distance]
        arrays = prediction.to_arrays()
        assert np.abs(arrays.pop("newton_shift")).max() < SAME  # rounding of a gradient of zero
        ends.append([*numbers, *arrays.values()])
    for one, other in zip(*ends, strict=True):
        assert_same(np.asarray(other, float), np.asarray(one, float))


@pytest.mark.parametrize("unit", [1e8])
def test_tuning_is_the_same_whatever_the_units_of_the_labels(unit):
    flux, labels = make_stars()
    theta = start()
    ends = []
    for u in (1.0, unit):
        reg = build_regression(flux, u * labels, units=u)
        tuned, weights = ss.tune(reg, theta, flux, u * labels, max_evaluations=4, progress=False)
        ends.append([weights, tuned.sigma_noise / u])
    for one, other in zip(*ends, strict=True):
        assert_same(other, one)


def test_the_constant_is_what_no_weights_change():
    flux, labels = make_stars()
    net = ss.Network([ss.Dense(2)], 12)
    reg = ss.Regression(net, sigma_noise=[60.0, 0.1], prior_precision=3.0)
    zero = np.zeros_like(flux)
    theta = np.zeros(net.n_params)
    U, _ = ss.compile_objective(reg)(theta, zero, np.where(np.isnan(labels), np.nan, 0.0))
    assert reg.constant(labels) == pytest.approx(U, rel=1e-13)
