"""Errors of labels from missing pixels and noise against the errors that are made."""

import warnings
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose

import symspec as ss
from symspec.derivatives.span import Response
from symspec.laplace.flags import Flag
from symspec.laplace.flux_errors import NEGLIGIBLE, FluxNoise, find_flux_errors
from symspec.laplace.prediction import standard_deviations
from symspec.spectra.flux_prior import fit_flux_prior
from symspec.spectra.selections import as_stars

N_PIXELS, N_LINES, N_TRAIN = 40, 10, 600
SIGMA = 0.02  # of the flux of new stars
LOST = Flag.INFORMATION_MISSING
BENT = Flag.FLUX_ERROR_NONLINEAR


def draw_stars(n, rng):
    """Spectra of which ten pixels, alike, tell the label, and thirty others vary by themselves."""
    label = rng.normal(size=(n, 1))
    flux = 1 + 0.1 * rng.normal(size=(n, N_PIXELS))
    flux[:, :N_LINES] = 1 + 0.1 * label + 0.01 * rng.normal(size=(n, N_LINES))
    return flux, 5500 + 277 * label


def build_network(kind):
    if kind == "linear":
        return ss.mlp([N_PIXELS, 1])
    if kind == "relu":
        return ss.mlp([N_PIXELS, 8, 1], activation="relu")
    layers = [ss.Reshape((N_PIXELS, 1)), ss.Conv1D(2, 5), ss.Activation("relu"), ss.Flatten()]
    return ss.Network([*layers, ss.Dense(1)], N_PIXELS)


@pytest.fixture(scope="module", params=["linear", "relu", "convolutional"])
def laplace(request):
    rng = np.random.default_rng(1)
    X, Y = draw_stars(N_TRAIN, rng)
    net = ss.standardized(build_network(request.param), X, Y)
    reg = ss.Regression(net, sigma_noise=2.0, prior_precision=ss.scaled_prior(net, 3.0))
    theta = ss.train(reg, X, Y, epochs=60, learning_rate=3e-3, rng=rng, progress=False).theta
    scatter = np.std(ss.compile_predict(net)(theta, X) - Y, axis=0)
    reg = ss.Regression(net, sigma_noise=scatter, prior_precision=reg.prior_precision)
    return ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False)


def observe(flux, bad, rng):
    ivar = np.where(bad, 0.0, SIGMA**-2)
    return np.where(bad, np.nan, flux + SIGMA * rng.normal(size=flux.shape)), ivar


# --- what is claimed, and what is so


@pytest.mark.parametrize("n_lost", [0, 1, 5, 10, 40])
def test_errors_grow_as_informative_pixels_are_lost_and_are_as_large_as_is_said(laplace, n_lost):
    rng = np.random.default_rng(2)
    flux, truth = draw_stars(2000, rng)
    X, ivar = observe(flux, np.broadcast_to(np.arange(N_PIXELS) < n_lost, flux.shape), rng)
    linear = laplace.predict(X, ivar=ivar)
    sampled = laplace.predict(X[:400], ivar=ivar[:400], flux="sampled")
    rms = np.sqrt(np.mean((linear.labels - truth) ** 2))
    claimed = np.sqrt(np.mean(sampled.total_cov))
    # 256 reference spectra give an error to 4.4 %, 2,000 stars the rms to 1.6 %: three of these
    assert_allclose(claimed, rms, rtol=0.14)
    is_bent = np.mean(linear.label_flags & BENT > 0)
    assert is_bent > 0.2 or abs(np.sqrt(np.mean(linear.total_cov)) / rms - 1) < 0.14
    if n_lost >= N_LINES:
        assert rms > 0.8 * 277
        assert (linear.label_flags & (LOST | BENT)).all()
    else:
        assert rms < 0.2 * 277
        assert not (linear.label_flags & LOST).any()


@pytest.mark.parametrize("n_lost", [5, 9])
def test_the_training_mean_costs_more_and_says_so(laplace, n_lost):
    rng = np.random.default_rng(3)
    flux, truth = draw_stars(2000, rng)
    X, ivar = observe(flux, np.broadcast_to(np.arange(N_PIXELS) < n_lost, flux.shape), rng)
    found = {}
    for fill in ("conditional", "mean"):
        prediction = laplace.predict(X, ivar=ivar, fill=fill)
        assert prediction.fill == fill
        claimed = np.sqrt(np.mean(prediction.total_cov))
        found[fill] = np.sqrt(np.mean((prediction.labels - truth) ** 2))
        assert 0.8 * found[fill] < claimed < max(1.25 * found[fill], found[fill] + 8)
    assert found["mean"] > 1.5 * found["conditional"]


def test_what_missing_pixels_leave_is_what_draws_of_them_leave(laplace):
    """Brute force: the missing pixels of a star are drawn from the training distribution.

    In it they are the star's own label, which the good lines tell but for their scatter and noise,
    and their own scatter.
    """
    rng = np.random.default_rng(4)
    flux, _ = draw_stars(30, rng)
    bad = np.zeros(flux.shape, bool)
    bad[:, [0, 2, 4, 6, 8, 11, 20]] = True
    X, ivar = observe(flux, bad, rng)
    prediction = laplace.predict(X, ivar=ivar)
    good_lines = np.array([1, 3, 5, 7, 9])
    n_draws = 4000
    lines = X[:, good_lines] - 1
    precision = len(good_lines) / (0.01**2 + SIGMA**2) + 0.1**-2
    mean = lines.sum(axis=1) / (0.01**2 + SIGMA**2) / precision
    squares = []
    for n in range(len(X)):
        drawn = np.tile(X[n], (n_draws, 1))
        level = mean[n] + precision**-0.5 * rng.normal(size=(n_draws, 1))
        drawn[:, bad[n]] = 1 + level + 0.01 * rng.normal(size=(n_draws, bad[n].sum()))
        drawn[:, [11, 20]] = 1 + 0.1 * rng.normal(size=(n_draws, 2))
        labels = laplace.predict_labels(drawn)
        squares.append(np.mean((labels - prediction.labels[n, 0]) ** 2))
    expected = np.sqrt(np.mean(squares))
    completed = laplace.flux_prior.complete(X, ivar)
    found = []
    for _ in range(200):
        deviation = (
            rng.normal(size=len(laplace.flux_prior.reference)) @ laplace.flux_prior.reference
        )
        errors = completed.find_errors(SIGMA * rng.normal(size=X.shape) * ~bad, deviation)
        labels = laplace.predict_labels(completed.flux - np.where(bad, errors, 0))
        found.append((labels - prediction.labels) ** 2)
    # 256 reference spectra: 4.4 %, here of a handful of independent pixels
    assert_allclose(np.sqrt(np.mean(found)), expected, rtol=0.15)
    if len(laplace.reg.net.layers) == 3:
        J = ss.compile_jacobian(laplace.reg.net, "flux")(laplace.theta, completed.flux)
        seen, missing = completed.propagate(J)
        through = np.where(bad[:, None], 0, seen - J)  # of the noise, by the fill
        C = missing[:, 0, 0] + np.sum(through[:, 0] ** 2, axis=1) * SIGMA**2
        assert_allclose(np.sqrt(np.mean(C)), expected, rtol=0.15)


def test_the_budget_is_that_of_the_completed_spectra(laplace):
    rng = np.random.default_rng(5)
    flux, _ = draw_stars(20, rng)
    X, ivar = observe(flux, rng.random(flux.shape) < 0.3, rng)
    prediction = laplace.predict(X, ivar=ivar)
    completed = laplace.flux_prior.complete(X, ivar)
    assert_allclose(prediction.labels, laplace.predict_labels(completed.flux), rtol=1e-12)
    assert_allclose(prediction.model_cov, laplace.label_covariance(completed.flux), rtol=1e-9)
    J = ss.compile_jacobian(laplace.reg.net, "flux")(laplace.theta, completed.flux)
    seen, missing = completed.propagate(J)
    noise = np.sum(seen**2 * np.where(ivar > 0, SIGMA**2, 0)[:, None], axis=2)
    assert_allclose(prediction.flux_cov[:, 0], noise + missing[:, 0], rtol=1e-10)
    assert_allclose(prediction.missing_cov, missing, rtol=1e-10)
    whole = laplace.predict(flux, ivar=np.full(flux.shape, SIGMA**-2))
    assert not whole.missing_cov.any()


def test_resampled_spectra_have_their_correlated_noise_in_the_filled_pixels():
    """Every entry: (J_g + J_b W) R diag(1/ivar) R^T (J_g + J_b W)^T."""
    rng = np.random.default_rng(6)
    grid = np.linspace(5000.0, 5100.0, 30)
    shapes = rng.normal(size=(3, 30))
    X = 1 + 0.1 * rng.normal(size=(200, 3)) @ shapes + 0.01 * rng.normal(size=(200, 30))
    Y = 100 * X[:, :2]
    net = ss.standardized(ss.Network(ss.mlp([30, 4, 2], activation="tanh").layers, 30,
                                     wavelength=grid), X, Y)  # fmt: skip
    reg = ss.Regression(net, sigma_noise=5.0, prior_precision=1.0)
    theta = net.init_params(rng)
    laplace = ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False)
    old = np.linspace(4990.0, 5110.0, 70)
    ivar = rng.uniform(50, 500, size=(4, 70))
    ivar[:, [20, 40]] = 0
    stars = ss.Spectra(flux=1 + 0.1 * rng.normal(size=(4, 70)), ivar=ivar, wavelength=old)
    resampled = ss.resample(stars, grid)
    found = laplace.predict(resampled)
    inside = resampled.spectra
    assert (found.n_bad_pixels > 0).all()
    completed = laplace.flux_prior.complete(inside.flux, inside.ivar)
    J = ss.compile_jacobian(net, "flux")(theta, completed.flux)
    seen, missing = completed.propagate(J)
    for n in range(4):
        L = seen[n] @ resampled.covariance_factor(n).toarray()
        assert_allclose(found.flux_cov[n], L @ L.T + missing[n], rtol=1e-10)


# --- where the network bends within the errors of the flux


@pytest.fixture(scope="module")
def bent():
    """A relu network whose noise hides on which side of its kinks a star is."""
    rng = np.random.default_rng(7)
    X = 1 + 0.3 * rng.normal(size=(500, 20))
    Y = np.abs(X[:, :1] - 1) + 0.5 * np.abs(X[:, 1:2] - X[:, 2:3])
    net = ss.standardized(ss.mlp([20, 24, 1], activation="relu"), X, Y)
    reg = ss.Regression(net, sigma_noise=0.05, prior_precision=ss.scaled_prior(net, 1.0))
    theta = ss.train(reg, X, Y, epochs=200, learning_rate=5e-3, rng=rng, progress=False).theta
    return ss.fit_laplace(reg, theta, X, Y, require_minimum=False, progress=False)


@pytest.fixture(scope="module")
def noisy(bent):
    """Stars of a signal-to-noise ratio of 5, and the deviations of 100,000 draws for each."""
    rng = np.random.default_rng(8)
    sigma = 0.2
    X = 1 + 0.3 * rng.normal(size=(25, 20))
    deviations = []
    for x in X:
        labels = bent.predict_labels(x + sigma * rng.normal(size=(100_000, 20)))
        deviations.append(np.sqrt(np.mean((labels - bent.predict_labels(x)) ** 2)))
    return X, np.full(X.shape, sigma**-2.0), np.array(deviations)


def test_labels_are_flagged_where_linear_errors_are_off_by_more_than_a_fifth(bent, noisy):
    X, ivar, deviations = noisy
    prediction = bent.predict(X, ivar=ivar)
    linear = standard_deviations(prediction.flux_cov)[:, 0]
    apart = np.maximum(deviations / linear, linear / deviations) - 1
    is_flagged = (prediction.label_flags[:, 0] & BENT) > 0
    # 64 draws tell the ratio to a tenth
    assert is_flagged[apart > 0.32].all()
    assert not is_flagged[apart < 0.08].any()
    assert is_flagged.any()
    assert not is_flagged.all()
    assert_allclose(prediction.nonlinearity[:, 0], deviations / linear, rtol=0.35)


def test_sampled_errors_are_those_of_many_draws_within_their_monte_carlo_error(bent, noisy):
    X, ivar, deviations = noisy
    prediction = bent.predict(X, ivar=ivar, flux="sampled")
    assert prediction.flux == "sampled"
    sampled = standard_deviations(prediction.flux_cov)[:, 0]
    error = prediction.flux_sampling_error[:, 0]
    assert (error < 0.1 * sampled).all()
    # stars share their random numbers, so that their errors agree in sign
    assert (np.abs(sampled - deviations) < 4 * error).all()
    assert not (prediction.label_flags & BENT).any()
    again = bent.predict(X[3:5], ivar=ivar[3:5], flux="sampled")
    assert_allclose(again.flux_cov, prediction.flux_cov[3:5], rtol=1e-9)


def test_sampled_intervals_hold_what_they_say(bent):
    """Of stars whose true spectrum is known: the share of labels within one and two deviations."""
    rng = np.random.default_rng(9)
    sigma = 0.2
    X = 1 + 0.3 * rng.normal(size=(1500, 20))
    seen = X + sigma * rng.normal(size=X.shape)
    ivar = np.full(X.shape, sigma**-2.0)
    found = bent.predict(seen, ivar=ivar, flux="sampled", progress=False)
    sd = standard_deviations(found.flux_cov)
    rms = np.sqrt(np.mean((found.labels - bent.predict_labels(X)) ** 2))
    assert_allclose(np.sqrt(np.mean(sd**2)), rms, rtol=0.15)


def test_a_linear_network_needs_no_draws(laplace):
    rng = np.random.default_rng(10)
    flux, _ = draw_stars(50, rng)
    X, ivar = observe(flux, rng.random(flux.shape) < 0.2, rng)
    prediction = laplace.predict(X, ivar=ivar)
    if len(laplace.reg.net.layers) == 3:
        assert_allclose(prediction.nonlinearity, 1, rtol=1e-9)
        sampled = laplace.predict(X, ivar=ivar, flux="sampled")
        ratio = standard_deviations(sampled.flux_cov) / standard_deviations(prediction.flux_cov)
        assert_allclose(ratio, 1, atol=4 / np.sqrt(2 * 256))
    assert not prediction.flux_sampling_error.any()


def test_an_error_below_rounding_is_not_called_bent(bent):
    X = 1 + 0.3 * np.random.default_rng(11).normal(size=(5, 20))
    prediction = bent.predict(X, ivar=np.full(X.shape, 1e32))
    np.testing.assert_array_equal(prediction.nonlinearity, 1)


@pytest.mark.parametrize("flux", ["linear", "sampled"])
def test_errors_around_the_linearised_network_are_those_of_its_own_labels(bent, noisy, flux):
    X, ivar, _ = noisy
    found = bent.predict(X, ivar=ivar, center="linearized", flux=flux)
    rng = np.random.default_rng(12)
    star = 2
    drawn = X[star] + 0.2 * rng.normal(size=(20_000, 20))
    labels = bent.predict(drawn, center="linearized", progress=False).labels
    deviation = np.sqrt(np.mean((labels - found.labels[star]) ** 2))
    ratio = found.nonlinearity[star, 0]
    linear = np.sqrt(found.flux_cov[star, 0, 0]) * (ratio if flux == "linear" else 1)
    assert_allclose(linear, deviation, rtol=0.25 if flux == "linear" else 0.12)


def hold_against_draws(laplace, X, ivar, rest):
    """Linear flux errors of stars whose labels have variances `rest` beside them, and draws."""
    n_passes = []
    jacobian = ss.compile_jacobian(laplace.reg.net, "flux")
    completed = laplace.flux_prior.complete(X, ivar)

    def labels(X):
        n_passes.append(len(X))
        return laplace.predict_labels(X)

    found = find_flux_errors(
        partial(Response, labels, partial(jacobian, laplace.theta)),
        laplace.predict_labels(completed.flux),
        completed,
        FluxNoise.of(ivar),
        rest=rest,
    )
    return found, sum(n_passes) / len(X)


def test_few_draws_are_taken_where_errors_of_the_flux_hardly_matter(bent, noisy):
    X, ivar, _ = noisy
    alone, n_alone = hold_against_draws(bent, X, ivar, None)
    linear = np.einsum("ncc->nc", alone.covariance)
    swamped, n_swamped = hold_against_draws(bent, X, ivar, np.full(linear.shape, 1e6))
    assert n_swamped == 4
    np.testing.assert_array_equal(swamped.nonlinearity, 1)
    assert_allclose(swamped.covariance, alone.covariance, rtol=1e-12)
    assert n_alone > 6
    unknown, n_unknown = hold_against_draws(bent, X, ivar, np.full(linear.shape, np.nan))
    assert_allclose(unknown.nonlinearity, alone.nonlinearity, rtol=1e-12)
    assert n_unknown == n_alone


def test_how_many_draws_and_stars_go_together_changes_nothing(bent, noisy, monkeypatch):
    X, ivar, _ = noisy
    together, _ = hold_against_draws(bent, X, ivar, None)
    for name in ("DRAWN_BYTES", "CACHE_BYTES"):
        monkeypatch.setattr(f"symspec.laplace.flux_errors.{name}", 1)
        found, _ = hold_against_draws(bent, X, ivar, None)
        for one, other in zip(vars(found).values(), vars(together).values(), strict=True):
            assert_allclose(one, other, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("share", [0.003, 0.01, 0.02, 0.05, 0.3])
def test_a_total_that_is_not_flagged_is_off_by_no_more_than_is_said(bent, noisy, share):
    """Of stars whose linear errors are as large, half and a third as large as this share."""
    X, ivar, deviations = noisy
    found, _ = hold_against_draws(bent, X, ivar, None)
    linear = np.einsum("ncc->nc", found.covariance)
    rest = linear.mean() / share * np.resize([1.0, 2.0, 3.0], linear.shape)
    nonlinearity = hold_against_draws(bent, X, ivar, rest)[0].nonlinearity
    passes = (nonlinearity < 1.2) & (nonlinearity > 1 / 1.2)
    assert passes.any()
    true = rest + deviations[:, None] ** 2
    ratio = np.sqrt(true / (rest + linear))[passes]
    # few draws tell a ratio of 1.2 from 1.4
    least = np.maximum(linear, NEGLIGIBLE * rest)[passes]
    assert (ratio**2 <= 1 + 1.4**2 * least / (rest + linear)[passes]).all()
    if share < NEGLIGIBLE / 2:
        assert (ratio < np.sqrt(1 + 1.44 * NEGLIGIBLE)).all()
        assert passes.all()


# --- kept, and said


def test_a_posterior_comes_back_with_what_it_knows_of_missing_pixels(laplace, tmp_path):
    ss.write_laplace(tmp_path / "model.h5", laplace)
    read = ss.read_laplace(tmp_path / "model.h5")
    for name, array in vars(laplace.flux_prior).items():
        np.testing.assert_array_equal(getattr(read.flux_prior, name), array, strict=True)
    np.testing.assert_array_equal(read.label_spread, laplace.label_spread)
    rng = np.random.default_rng(13)
    X, ivar = observe(draw_stars(5, rng)[0], rng.random((5, N_PIXELS)) < 0.3, rng)
    np.testing.assert_array_equal(
        read.predict(X, ivar=ivar).total_cov, laplace.predict(X, ivar=ivar).total_cov
    )


def test_a_file_without_it_warns_flags_and_says_so_in_the_catalogue(laplace, tmp_path):
    ss.write_laplace(tmp_path / "old.h5", laplace)
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        del file["laplace/flux_prior"], file["laplace/label_spread"]
        file.attrs["format_version"] = 1  # without a digest
    old = ss.read_laplace(tmp_path / "old.h5")
    rng = np.random.default_rng(14)
    bad = np.zeros((4, N_PIXELS), bool)
    bad[1:3, 5] = True
    X, ivar = observe(draw_stars(4, rng)[0], bad, rng)
    with pytest.warns(ss.MissingPixelsWarning, match="training mean.* not counted"):
        prediction = old.predict(X, ivar=ivar)
    assert prediction.fill == "uncounted"
    assert ((prediction.label_flags & LOST) > 0).all(axis=1).tolist() == [False, True, True, False]
    ss.write_catalogue(tmp_path / "c.ecsv", prediction)
    assert "is not counted" in Table.read(tmp_path / "c.ecsv").meta["FILL"]
    whole = old.predict(X[[0, 3]], ivar=ivar[[0, 3]])  # nothing is missing: no warning
    assert_allclose(whole.total_cov, prediction.total_cov[[0, 3]], rtol=1e-9)


@pytest.mark.parametrize("words", [{"fill": "zero"}, {"flux": "exact"}], ids=str)
def test_other_words_are_refused(laplace, words):
    (name, word), *_ = words.items()
    with pytest.raises(ss.OptionError, match=f"{name} should be one of .*{word}"):
        laplace.predict(np.ones(N_PIXELS), **words)


def test_a_survey_gives_what_predict_gives(laplace, tmp_path, monkeypatch):
    monkeypatch.setattr("symspec.files.partial_runs.PIECE_BYTES", 16 * 8 * N_PIXELS)
    rng = np.random.default_rng(15)
    flux, _ = draw_stars(50, rng)
    X, ivar = observe(flux, rng.random(flux.shape) < 0.2, rng)
    stars = ss.Spectra(flux=X, ivar=ivar)
    for words in ({}, {"fill": "mean"}, {"flux": "sampled"}):
        expected = laplace.predict(stars, **words, progress=False)
        survey = dict(words)
        if "flux" in survey:
            survey["flux_errors"] = survey.pop("flux")
        path = tmp_path / f"{'_'.join(words)}.fits"
        found = ss.predict_survey(path, laplace, stars, progress=False, **survey).prediction
        assert (found.fill, found.flux) == (expected.fill, expected.flux)
        for name in ("labels", "flux_cov", "missing_cov", "nonlinearity", "flux_sampling_error"):
            assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-8, atol=1e-9)
        header = Table.read(path).meta
        assert header["FILL"].startswith("missing pixels hold")
        assert ("draws" in header["FLUXPROP"]) == ("flux" in words)


def test_labels_that_never_vary_are_not_divided_by(laplace):
    X, ivar = np.full((1, N_PIXELS), np.nan), np.zeros((1, N_PIXELS))
    flat = replace(laplace, label_spread=np.zeros(1))
    assert (flat.predict(X, ivar=ivar).label_flags & LOST).all()


# --- derivatives


@pytest.mark.parametrize("fill", [None, "conditional", "mean"])
def test_derivatives_are_those_at_the_filled_spectra_and_their_file_says_so(
    laplace, tmp_path, fill
):
    rng = np.random.default_rng(19)
    X, ivar = observe(draw_stars(6, rng)[0], rng.random((6, N_PIXELS)) < 0.3, rng)
    stars = ss.Spectra(flux=X, ivar=ivar)
    net, theta = laplace.reg.net, laplace.theta
    words = {"flux_prior": laplace.flux_prior, "fill": fill, "progress": False}
    ss.write_jacobian(tmp_path / "j.h5", net, theta, stars, **words)
    how = fill or "conditional"
    filled = laplace.flux_prior.complete(X, ivar, how).flux
    with h5py.File(tmp_path / "j.h5") as file:
        expected = ss.compile_jacobian(net)(theta, filled)
        assert_allclose(file["jacobian"][()], expected, rtol=1e-10, atol=1e-12)
        said = {"mean": "the training mean", "conditional": "their mean given the good ones"}
        assert file.attrs["fill"] == f"missing pixels hold {said[how]}"


def test_derivatives_are_not_filled_by_what_nobody_gave(laplace, tmp_path):
    stars = ss.Spectra(flux=np.ones((2, N_PIXELS)), ivar=np.zeros((2, N_PIXELS)))
    given = (tmp_path / "j.h5", laplace.reg.net, laplace.theta, stars)
    with pytest.raises(ss.OptionError, match=r"needs what training spectra tell.*flux_prior="):
        ss.write_jacobian(*given, fill="conditional")
    with pytest.raises(ss.OptionError, match="fill should be one of"):
        ss.write_jacobian(*given, fill="zero")


# --- training spectra that lack pixels


def fill_one_by_one(X, ivar):
    """Bad pixels by least squares on the leading components of the stars without any."""
    whole = X[(ivar > 0).all(axis=1)]
    mean = whole.mean(axis=0)
    _, _, V = np.linalg.svd(whole - mean, full_matrices=False)
    filled = np.array(X)
    for x, good in zip(filled, ivar > 0, strict=True):
        scores = np.linalg.lstsq(V[:1, good].T, (x - mean)[good], rcond=None)[0]
        x[~good] = (mean + scores @ V[:1])[~good]
    return filled


def test_training_takes_inverse_variances_and_fills_as_well_as_the_other_pixels_tell():
    rng = np.random.default_rng(20)
    label = rng.normal(size=(400, 1))
    truth = 1 + 0.1 * label * rng.uniform(0.5, 1.5, size=N_PIXELS)
    X = truth + 0.01 * rng.normal(size=truth.shape)
    bad = rng.random(X.shape) < 0.1
    bad[:100] = False
    ivar = np.where(bad, 0.0, 1e4)
    holes = np.where(bad, np.nan, X)
    net = ss.mlp([N_PIXELS, 1])
    flux, _, _ = as_stars(net, holes, label, ivar=ivar)
    np.testing.assert_array_equal(flux[~bad], X[~bad])
    error = np.sqrt(np.mean((flux - truth)[bad] ** 2))
    by_hand = np.sqrt(np.mean((fill_one_by_one(holes, ivar) - truth)[bad] ** 2))
    assert error < 1.05 * by_hand
    by_mean = np.sqrt(np.mean((truth - truth.mean(axis=0))[bad] ** 2))
    assert error < 0.1 * by_mean


TRAINERS = {
    "train": lambda *given, **words: (
        ss.train(
            *given[:1], *given[2:], theta=given[1], epochs=2, rng=np.random.default_rng(0), **words
        ).theta
    ),
    "minimize": lambda *given, **words: ss.minimize(*given, max_iterations=3, **words).x,
    "polish": lambda *given, **words: ss.polish(*given, max_iterations=3, **words).theta,
    "tune": lambda *given, **words: ss.tune(*given, max_evaluations=1, **words)[1],
    "fit_laplace": lambda *given, **words: (
        ss.fit_laplace(*given, require_minimum=False, **words).flux_prior.reference
    ),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_inverse_variances_beside_arrays_are_those_of_spectra(name):
    rng = np.random.default_rng(21)
    X, Y = draw_stars(60, rng)
    ivar = np.where(rng.random(X.shape) < 0.1, 0.0, SIGMA**-2)
    holes = np.where(ivar > 0, X, np.nan)
    reg = ss.Regression(ss.mlp([N_PIXELS, 1]), sigma_noise=50.0, prior_precision=1e-3)
    start = reg.net.init_params(rng)
    run = TRAINERS[name]
    found = run(reg, start, holes, Y, ivar=ivar, progress=False)
    spectra = ss.Spectra(flux=holes, ivar=ivar, labels=Y)
    assert_allclose(found, run(reg, start, spectra, progress=False), rtol=1e-10, atol=1e-12)
    filled = as_stars(reg.net, spectra)[0]
    if name != "fit_laplace":  # which knows nothing of the holes then
        assert_allclose(found, run(reg, start, filled, Y, progress=False), rtol=1e-10)
    with pytest.raises(ss.OptionError, match="ivar should be left out with Spectra"):
        run(reg, start, spectra, ivar=ivar, progress=False)
    with pytest.raises(ss.ShapeError, match="ivar should have the shape of the flux"):
        run(reg, start, holes, Y, ivar=ivar[:, 1:], progress=False)
    with pytest.raises(ss.DataError, match="flux should be finite wherever ivar is positive"):
        run(reg, start, holes, Y, ivar=np.ones(X.shape), progress=False)


def test_stars_to_watch_are_filled_as_the_training_stars_tell():
    rng = np.random.default_rng(22)
    X, Y = draw_stars(300, rng)
    others, truth = draw_stars(40, rng)
    bad = np.zeros(others.shape, bool)
    bad[:, :5] = True
    watched = ss.Spectra(flux=others, ivar=np.where(bad, 0.0, SIGMA**-2), labels=truth)
    prior = fit_flux_prior(X, X.mean(axis=0))
    filled = prior.complete(others, watched.ivar).flux
    reg = ss.Regression(ss.mlp([N_PIXELS, 1]), sigma_noise=50.0, prior_precision=1e-3)
    losses = []
    for validation in (watched, (filled, truth)):
        words = {"epochs": 2, "rng": np.random.default_rng(0), "progress": False}
        fit = ss.train(reg, X, Y, validation=validation, dtype="float64", **words)
        losses.append(fit.history["validation_loss"])
    assert_allclose(*losses, rtol=1e-10)


def test_training_takes_flux_with_nan_as_missing_and_says_how_many():
    rng = np.random.default_rng(16)
    X, Y = draw_stars(60, rng)
    holes = X.copy()
    holes[rng.random(X.shape) < 0.1] = np.nan
    ivar = np.where(np.isnan(holes), 0.0, 1e150)
    stars = ss.Spectra(flux=holes, ivar=ivar, labels=Y)
    net = ss.mlp([N_PIXELS, 1])
    reg = ss.Regression(net, sigma_noise=50.0, prior_precision=1e-6)
    n = np.count_nonzero(ivar == 0)
    found = []
    for words in ((holes, Y), (stars,)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ss.MissingPixelsWarning)
            start = net.init_params(np.random.default_rng(17))
            theta = ss.polish(reg, start, *words).theta
            laplace = ss.fit_laplace(reg, theta, *words, progress=False)
        says = [str(one.message) for one in told if one.category is ss.MissingPixelsWarning]
        assert len(says) == (2 if len(words) == 2 else 0)
        assert all(f"flux holds {n} values that are NaN" in words for words in says)
        found.append(laplace)
    assert_allclose(found[0].theta, found[1].theta, rtol=1e-8)
    for name, array in vars(found[1].flux_prior).items():
        assert_allclose(getattr(found[0].flux_prior, name), array, rtol=1e-8, atol=1e-12)


def test_a_pixel_that_no_training_star_has_is_refused():
    X, Y = draw_stars(30, np.random.default_rng(18))
    X[:, 3] = np.nan
    reg = ss.Regression(ss.mlp([N_PIXELS, 1]), sigma_noise=50.0, prior_precision=1.0)
    with pytest.raises(ss.DataError, match="flux should be finite, got 30 values"):
        ss.fit_laplace(reg, np.zeros(N_PIXELS + 1), X, Y)
