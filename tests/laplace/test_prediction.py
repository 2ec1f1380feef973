"""The error budget of a star against loops, noisy spectra, and the slips that others have made."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.laplace.flags import Flag
from symspec.laplace.flux_errors import FluxNoise
from symspec.laplace.prediction import join_held_out, join_predictions, standard_deviations
from symspec.spectra.pixels import fill_bad_pixels, find_snr

N_STARS, N_PIXELS, N_LABELS = 6, 5, 3
COVARIANCES = ("model_cov", "flux_cov", "noise_cov", "total_cov")


@pytest.fixture(scope="module")
def tanh():
    """A trained tanh network with labels in their own units."""
    return fit_network(hidden=[3], scale=np.ones(N_LABELS))


@pytest.fixture(scope="module")
def linear():
    return fit_network(hidden=[], scale=np.ones(N_LABELS))


def fit_network(hidden, scale):
    """A network fitted to the same stars, with each label's unit divided by `scale`."""
    rng = np.random.default_rng(31)
    x_mean, x_scale = rng.uniform(0.8, 1.1, N_PIXELS), rng.uniform(0.05, 0.2, N_PIXELS)
    y_mean, y_scale = scale * [5000.0, 3.0, -0.2], scale * [400.0, 0.7, 0.3]
    X = x_mean + x_scale * rng.normal(size=(30, N_PIXELS))
    Y = y_mean + y_scale * np.tanh(
        (X - x_mean) / x_scale @ rng.normal(0, 0.6, size=(N_PIXELS, N_LABELS))
    )
    net = ss.mlp([N_PIXELS, *hidden, N_LABELS], activation="tanh")
    net = ss.Network(
        [ss.Standardize(x_mean, x_scale), *net.layers, ss.Unstandardize(y_mean, y_scale)], N_PIXELS
    )
    reg = ss.Regression(net, sigma_noise=0.1 * y_scale, prior_precision=1.0)
    theta = ss.polish(reg, net.init_params(rng), X, Y, tolerance=1e-12).theta
    X_new = x_mean + x_scale * rng.normal(size=(N_STARS, N_PIXELS))
    fit = ss.fit_laplace(reg, theta, X, Y)
    ivar = rng.uniform(0.5, 2, size=X_new.shape) * 100 / x_scale**2
    return SimpleNamespace(net=net, theta=theta, X=X, Y=Y, X_new=X_new, ivar=ivar, fit=fit)


# --- flux ---


def test_the_flux_covariance_is_a_sum_over_pixels():
    rng = np.random.default_rng(1)
    J = rng.normal(size=(N_STARS, N_LABELS, N_PIXELS))
    ivar = rng.uniform(0.1, 9, size=(N_STARS, N_PIXELS))
    ivar[1, 2] = ivar[4, 0] = 0

    expected = np.zeros((N_STARS, N_LABELS, N_LABELS))
    for n in range(N_STARS):
        for c in range(N_LABELS):
            for d in range(N_LABELS):
                for i in range(N_PIXELS):
                    if ivar[n, i] > 0:
                        expected[n, c, d] += J[n, c, i] * J[n, d, i] / ivar[n, i]
    # five products and their sum
    assert_allclose(FluxNoise.of(ivar).propagate(J), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("network", ["linear", "tanh"])
def test_the_flux_covariance_uses_the_derivatives_of_the_network(network, request):
    case = request.getfixturevalue(network)
    found = case.fit.predict(case.X_new, ivar=case.ivar).flux_cov
    predict, h = ss.compile_predict(case.net), 1e-5
    for n in range(N_STARS):
        steps = h * np.eye(N_PIXELS)
        J = (
            predict(case.theta, case.X_new[n] + steps) - predict(case.theta, case.X_new[n] - steps)
        ).T / (2 * h)
        # central differences: h^2 times third derivatives of 1 / x_scale^2 = 400, and 1e-16 x 5000
        # / h = 5e-8
        assert_allclose(found[n], (J / case.ivar[n]) @ J.T, rtol=1e-6)


def test_noisy_spectra_scatter_as_the_flux_covariance_says(linear):
    rng, n = np.random.default_rng(2), 20_000
    prediction = linear.fit.predict(linear.X_new[:2], ivar=linear.ivar[:2])
    predict = ss.compile_predict(linear.net)
    for star in range(2):
        noisy = linear.X_new[star] + rng.normal(size=(n, N_PIXELS)) / np.sqrt(linear.ivar[star])
        shifts = predict(linear.theta, noisy) - prediction.labels[star]
        expected = prediction.flux_cov[star]
        variance = np.diag(expected)
        error = np.sqrt((expected**2 + np.outer(variance, variance)) / n)  # Wishart
        # 2 stars with 6 different entries: the chance that a correct one exceeds 4 is 0.001
        assert np.abs((shifts.T @ shifts / n - expected) / error).max() < 4


# --- pixels without information ---


def test_bad_pixels_hold_the_training_mean_and_good_ones_their_flux():
    flux = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, -9999.0]])
    ivar = np.array([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    filled = fill_bad_pixels(flux, ivar, np.array([10.0, 20.0, 30.0]))
    np.testing.assert_array_equal(filled, [[1, 20, 3], [4, 5, 30]])
    assert np.isnan(flux[0, 1])
    assert fill_bad_pixels(flux, None, np.zeros(3)) is flux


@pytest.mark.parametrize("value", [np.nan, np.inf, -9999.0, 0.0, 1e30], ids=str)
def test_what_stands_in_a_bad_pixel_does_not_matter(tanh, value):
    ivar, X = tanh.ivar.copy(), tanh.X_new.copy()
    ivar[1, 2] = ivar[4] = 0
    X[ivar == 0] = value
    prediction = tanh.fit.predict(X, ivar=ivar)
    X[ivar == 0] = np.broadcast_to(tanh.X.mean(axis=0), X.shape)[ivar == 0]
    expected = tanh.fit.predict(X, ivar=ivar)
    for name in ("labels", *COVARIANCES):
        assert_allclose(getattr(prediction, name), getattr(expected, name), rtol=1e-12)
    assert prediction.n_bad_pixels.tolist() == [0, 1, 0, 0, N_PIXELS, 0]
    assert [bool(f & Flag.BAD_PIXELS) for f in prediction.flags] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]


def test_a_star_without_any_good_pixel_gets_finite_numbers_and_an_error(tanh):
    prediction = tanh.fit.predict(np.full((1, N_PIXELS), np.nan), ivar=np.zeros((1, N_PIXELS)))
    mean = tanh.fit.predict(tanh.X.mean(axis=0))
    assert_allclose(prediction.labels, mean.labels, rtol=1e-12)
    assert (prediction.errors > 0).all()
    assert prediction.n_bad_pixels.tolist() == [N_PIXELS]
    assert prediction.flags[0] & Flag.BAD_PIXELS


# --- units, flags, and what is returned ---


@pytest.mark.parametrize("hidden", [[], [3]], ids=["linear", "tanh"])
def test_labels_in_other_units_have_their_covariances_in_the_squares_of_them(hidden):
    scale = np.array([1e-3, 2.0, 10.0])
    plain, scaled = fit_network(hidden, np.ones(N_LABELS)), fit_network(hidden, scale)
    before = plain.fit.predict(plain.X_new, ivar=plain.ivar)
    after = scaled.fit.predict(scaled.X_new, ivar=scaled.ivar)
    # both networks are polished to a decrement of 1e-12: the weights agree to its root
    assert_allclose(after.labels, before.labels * scale, rtol=1e-5)
    for name in COVARIANCES:
        difference = getattr(after, name) / np.outer(scale, scale) - getattr(before, name)
        sd = standard_deviations(getattr(before, name))
        assert np.abs(difference / (sd[:, :, None] * sd[:, None, :])).max() < 1e-5
    assert_allclose(after.errors, before.errors * scale, rtol=1e-5)
    np.testing.assert_array_equal(after.flags, before.flags)


def test_standard_deviations_are_roots_of_the_diagonal():
    covariance = np.array([[[4.0, 1.0], [1.0, 9.0]], [[0.25, -0.1], [-0.1, 1e-4]]])
    assert_allclose(standard_deviations(covariance), [[2, 3], [0.5, 0.01]], rtol=1e-15)


def test_stars_beyond_the_training_labels_are_flagged_and_have_numbers(linear):
    far = linear.X.mean(axis=0) + 40 * (linear.X_new[:1] - linear.X.mean(axis=0))
    prediction = linear.fit.predict(np.vstack([linear.X.mean(axis=0), far]))
    low, high = linear.Y.min(axis=0), linear.Y.max(axis=0)
    assert ((prediction.labels[1] < low) | (prediction.labels[1] > high)).any()
    assert prediction.flags.tolist() == [
        0,
        Flag.OUTSIDE_TRAINING_RANGE | Flag.OUTSIDE_TRAINING_SPECTRA,
    ]
    assert np.isfinite(prediction.total_cov).all()
    assert (
        prediction.errors[1] > prediction.errors[0]
    ).all()  # and larger errors, as the weights matter more


def test_no_entry_is_left_uninitialised(tanh, monkeypatch):
    """Memory that was asked for and not written would show the poison."""
    expected = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    allocate = np.empty

    def poisoned(*args, **options):
        array = allocate(*args, **options)
        array.fill(np.nan if array.dtype.kind == "f" else 99)
        return array

    monkeypatch.setattr(np, "empty", poisoned)
    monkeypatch.setattr(
        "symspec.laplace.posterior.STARS_AT_ONCE", 4
    )  # two batches, the second not full
    prediction = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    assert np.isnan(np.empty(1)).all()
    for name in ("labels", *COVARIANCES):
        assert_allclose(getattr(prediction, name), getattr(expected, name), rtol=1e-12)
    np.testing.assert_array_equal(prediction.flags, expected.flags)
    np.testing.assert_array_equal(prediction.n_bad_pixels, expected.n_bad_pixels)


def test_every_covariance_is_symmetric_and_none_has_a_negative_variance(tanh):
    prediction = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    for name in COVARIANCES:
        V = getattr(prediction, name)
        sd = standard_deviations(V)
        correlation = V / (sd[:, :, None] * sd[:, None, :])
        assert V.shape == (N_STARS, N_LABELS, N_LABELS)
        assert_allclose(correlation, correlation.transpose(0, 2, 1), atol=1e-10)
        # of unit diagonal; rounding may take an eigenvalue of a singular one below zero by 1e-15
        assert np.linalg.eigvalsh(correlation).min() > -1e-10


def test_the_signal_to_noise_ratio_is_the_median_over_good_pixels():
    flux = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    ivar = np.array([[4.0, 100.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(
        find_snr(flux, ivar), [3.0, np.nan, 2.5]
    )  # of 2, 20 and 3; of nothing; of 2 and 3
    np.testing.assert_array_equal(find_snr(flux, None), [np.nan] * 3)


# --- predictions as arrays


def cut(prediction, rows):
    """Some stars of a prediction, attribute by attribute."""
    arrays = {
        name: value[rows]
        for name, value in vars(prediction).items()
        if isinstance(value, np.ndarray)
    }
    return replace(prediction, **arrays)


def assert_same(prediction, expected):
    for field in fields(ss.Prediction):
        np.testing.assert_array_equal(
            getattr(prediction, field.name), getattr(expected, field.name), err_msg=field.name
        )


@pytest.mark.parametrize("left_out", [(), ("model_interval", "label_flags", "snr")], ids=str)
def test_a_prediction_comes_back_from_its_arrays(tanh, left_out):
    written = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    written = replace(written, **dict.fromkeys(left_out))
    arrays = written.to_arrays()
    assert {len(array) for array in arrays.values()} == {N_STARS}
    read = ss.Prediction.from_arrays(
        arrays | {"ids": np.arange(N_STARS)},  # as other arrays may stand beside them
        has_flux_errors=True,
        label_names=written.label_names,
        label_units=written.label_units,
        flag_options=written.flag_options,
    )
    assert_same(read, written)


def test_every_attribute_of_a_star_is_among_the_arrays(tanh):
    prediction = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    of_stars = [name for name, value in vars(prediction).items() if isinstance(value, np.ndarray)]
    assert sorted(prediction.to_arrays()) == sorted(of_stars)
    assert prediction.to_arrays()["snr"] is prediction.snr


def test_joined_predictions_are_those_of_all_stars(tanh):
    whole = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    parts = [cut(whole, slice(0, 2)), cut(whole, slice(2, N_STARS))]
    assert_same(join_predictions(parts), whole)
    order = np.array([3, 0, 5])
    assert_same(join_predictions(parts, order), cut(whole, order))


def test_predictions_of_folds_are_joined_in_the_order_of_the_stars(tanh):
    whole = tanh.fit.predict(tanh.X_new, ivar=tanh.ivar)
    fold = np.arange(N_STARS)[::-1] % 3
    parts = [whole.select(fold == k) for k in range(3)]
    assert_same(join_held_out(parts, fold), whole)


def test_results_are_built_by_keyword(tanh):
    prediction = tanh.fit.predict(tanh.X_new)
    for result in (prediction, tanh.fit, tanh.fit.certificate, tanh.fit.training_space):
        with pytest.raises(TypeError, match="positional argument"):
            type(result)(*vars(result).values())


# --- threads and processes


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(50, 20)), rng.normal(size=(50, 2))
    net = ss.mlp([20, 4, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=0.5, prior_precision=1.0)
    theta = net.init_params(rng)
    options = {"structure": "dual", "require_minimum": False, "progress": False}
    return ss.fit_laplace(reg, theta, X, Y, **options)


def test_threads_get_the_bits_that_one_thread_gets(small):
    rng = np.random.default_rng(1)
    spectra = [rng.normal(size=(1 + i % 5, 20)) for i in range(200)]

    def predict(X):
        prediction = small.predict(X, ivar=np.full(X.shape, 50.0), progress=False)
        return np.concatenate([prediction.labels.ravel(), prediction.total_cov.ravel()])

    expected = [predict(X) for X in spectra]
    with ThreadPoolExecutor(4) as pool:
        for found, right in zip(pool.map(predict, spectra), expected, strict=True):
            np.testing.assert_array_equal(found, right)


def test_a_posterior_that_has_predicted_can_be_sent_to_another_process(small):
    X = np.random.default_rng(2).normal(size=(3, 20))
    right = small.predict(X, progress=False)
    again = pickle.loads(pickle.dumps(small)).predict(X, progress=False)
    np.testing.assert_array_equal(again.total_cov, right.total_cov)
