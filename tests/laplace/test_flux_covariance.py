"""Correlated errors of the flux in every form, against the same matrices written out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.laplace.flux_errors import find_beyond
from symspec.laplace.prediction import standard_deviations
from symspec.spectra.covariances import DenseCovariance
from symspec.spectra.spectra import hash_spectra

N_STARS, N_PIXELS, N_LABELS = 5, 14, 2
FORMS = ("dense", "banded", "low rank")
SHARED = ("one a star", "one for all")


def build(form, n, rng):
    """A covariance of n stars, and its matrices (star, pixel, pixel) by another way."""
    if form == "dense":
        root = 0.1 * rng.normal(size=(n, N_PIXELS, N_PIXELS + 3))
        matrices = root @ root.transpose(0, 2, 1)
        return DenseCovariance(matrices), matrices
    if form == "banded":
        bands = 0.004 * rng.normal(size=(n, 3, N_PIXELS))
        bands[:, 0] = rng.uniform(0.02, 0.04, size=(n, N_PIXELS))
        matrices = np.zeros((n, N_PIXELS, N_PIXELS))
        for i in range(N_PIXELS):
            for k in range(min(3, N_PIXELS - i)):
                matrices[:, i + k, i] = matrices[:, i, i + k] = bands[:, k, i]
        return ss.BandedCovariance(bands), matrices
    variance = rng.uniform(0, 0.02, size=(n, N_PIXELS))
    factors = 0.1 * rng.normal(size=(n, 2, N_PIXELS))
    matrices = np.einsum("nrp,nrq->npq", factors, factors)
    matrices[:, range(N_PIXELS), range(N_PIXELS)] += variance
    return ss.LowRankCovariance(variance, factors), matrices


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module", params=SHARED)
def errors(form, request):
    """A covariance, and the matrix of each star."""
    n = N_STARS if request.param == "one a star" else 1
    covariance, matrices = build(form, n, np.random.default_rng(0))
    return covariance, np.broadcast_to(matrices, (N_STARS, N_PIXELS, N_PIXELS))


@pytest.fixture(scope="module")
def laplace():
    rng = np.random.default_rng(1)
    X = 1 + 0.3 * rng.normal(size=(60, 3)) @ rng.normal(size=(3, N_PIXELS))
    X += 0.05 * rng.normal(size=X.shape)
    Y = np.stack([X[:, :5].sum(axis=1), np.tanh(X[:, 5] - X[:, 9])], axis=1)
    net = ss.standardized(ss.mlp([N_PIXELS, N_LABELS]), X, Y)
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    theta = ss.polish(reg, net.init_params(rng), X, Y, progress=False).theta
    return ss.fit_laplace(reg, theta, X, Y, progress=False)


@pytest.fixture(scope="module")
def stars():
    """Flux, and whether pixels are bad."""
    rng = np.random.default_rng(2)
    bad = rng.random((N_STARS, N_PIXELS)) < 0.3
    bad[0] = False
    return 1 + 0.3 * rng.normal(size=bad.shape), bad


def test_labels_get_the_covariance_of_the_matrix_written_out(errors):
    covariance, matrices = errors
    J = np.random.default_rng(3).normal(size=(N_STARS, N_LABELS, N_PIXELS))
    assert_allclose(covariance.propagate(J), J @ matrices @ J.transpose(0, 2, 1), rtol=1e-10)
    variance = np.broadcast_to(covariance.variance, (N_STARS, N_PIXELS))
    assert_allclose(variance, np.einsum("npp->np", matrices), rtol=1e-12)
    for some in (slice(1, 3), np.array([4, 0])):
        found = covariance.pick(some).propagate(J[some])
        expected = J[some] @ matrices[some] @ J[some].transpose(0, 2, 1)
        assert_allclose(found, expected, rtol=1e-10)


def test_draws_are_a_root_of_the_matrix_times_independent_numbers(errors):
    covariance, matrices = errors
    columns = [covariance.draw(one) for one in np.eye(covariance.n_normals)]
    root = np.broadcast_to(np.stack(columns, axis=-1), (N_STARS, N_PIXELS, covariance.n_normals))
    assert_allclose(root @ root.transpose(0, 2, 1), matrices, rtol=1e-10, atol=1e-12)


def test_the_errors_of_labels_hold_the_whole_covariance_also_of_filled_pixels(
    laplace, stars, errors
):
    """J E Sigma E^T J^T, where E takes an error of the good pixels to that of the filled spectrum,
    entry by entry, and Sigma is the matrix written out."""
    flux, bad = stars
    covariance, matrices = errors
    ivar = np.where(bad, 0, 1 / np.einsum("npp->np", matrices))
    found = laplace.predict(flux, ivar=ivar, flux_covariance=covariance, progress=False)
    completed = laplace.flux_prior.complete(flux, ivar)
    E = np.stack(
        [
            completed.find_errors(np.where(bad, 0, np.eye(N_PIXELS)[i]), np.zeros(N_PIXELS))
            for i in range(N_PIXELS)
        ],
        axis=-1,
    )
    J = ss.compile_jacobian(laplace.reg.net, "flux")(laplace.theta, completed.flux)
    through = np.where(bad[:, None], 0, J @ E)
    expected = through @ matrices @ through.transpose(0, 2, 1) + found.missing_cov
    assert_allclose(found.flux_cov, expected, rtol=1e-10)
    assert found.missing_cov[1:].any()
    assert_array_equal(found.n_bad_pixels, bad.sum(axis=1))
    # the network is linear: its draws agree with that
    sampled = laplace.predict(flux, ivar=ivar, flux_covariance=covariance, flux="sampled")
    ratio = standard_deviations(sampled.flux_cov) / standard_deviations(expected)
    assert_allclose(ratio, 1, atol=4.5 / np.sqrt(2 * 256))


def test_a_diagonal_covariance_is_an_inverse_variance(laplace, stars):
    flux, bad = stars
    variance = np.random.default_rng(4).uniform(0.01, 0.1, size=flux.shape)
    ivar = np.where(bad, 0, 1 / variance)
    expected = laplace.predict(flux, ivar=ivar)
    diagonal = variance[:, :, None] * np.eye(N_PIXELS)
    factors = np.zeros((1, N_PIXELS))
    for covariance in (
        diagonal,
        ss.BandedCovariance(variance[:, None]),
        ss.LowRankCovariance(variance, factors),
    ):
        found = laplace.predict(flux, ivar=ivar, flux_covariance=covariance)
        assert_allclose(found.flux_cov, expected.flux_cov, rtol=1e-10)
        assert_allclose(found.snr, expected.snr, rtol=1e-12)
        whole = laplace.predict(flux, flux_covariance=covariance)
        assert_allclose(whole.flux_cov, laplace.predict(flux, ivar=1 / variance).flux_cov)
        assert whole.has_flux_errors


def test_spectra_bring_their_covariance_star_by_star(laplace, stars, errors, tmp_path):
    flux, bad = stars
    covariance, matrices = errors
    ivar = np.where(bad, 0, 1 / np.einsum("npp->np", matrices))
    spectra = ss.Spectra(flux=flux, ivar=ivar, flux_covariance=covariance)
    expected = laplace.predict(flux, ivar=ivar, flux_covariance=covariance)
    assert_array_equal(laplace.predict(spectra).flux_cov, expected.flux_cov)
    some = laplace.predict(spectra[[3, 1]]).flux_cov
    assert_allclose(some, expected.flux_cov[[3, 1]], rtol=1e-10)
    assert "covariance of the flux" in repr(spectra)
    survey = ss.predict_survey(tmp_path / "c.fits", laplace, spectra, progress=False)
    assert_allclose(survey.prediction.flux_cov, expected.flux_cov, rtol=1e-10)
    # which is part of what they are
    other = replace(spectra, flux_covariance=DenseCovariance(matrices * np.eye(N_PIXELS)))
    alone = replace(spectra, flux_covariance=None)
    for digest in (hash_spectra, lambda stars: stars.identity()["spectra"]):
        assert len({digest(spectra), digest(other), digest(alone)}) == 3
    whole = ss.Spectra(flux=flux, flux_covariance=covariance)
    assert_allclose(whole.ivar, 1 / np.einsum("npp->np", matrices), rtol=1e-12)


def spoil(matrices, **entries):
    spoilt = matrices.copy()
    for place, value in entries.items():
        spoilt[tuple(int(i) for i in place[1:])] = value
    return spoilt


GOOD = np.broadcast_to(0.04 * np.eye(N_PIXELS), (N_STARS, N_PIXELS, N_PIXELS))
BANDS = np.full((2, N_PIXELS), 0.04)
REFUSED = {
    "variances": (lambda: GOOD[0, :5], ss.ShapeError, r"\(5, 14\): variances alone are given as"),
    "number": (lambda: 0.04, ss.ShapeError, r"shape \(star, pixel, pixel\).* got \(\)"),
    "stars": (lambda: GOOD[:3], ss.ShapeError, "of 5 stars, or one for all.* got that of 3 stars"),
    "pixels": (lambda: GOOD[:, :9, :9], ss.ShapeError, "14 pixels, got that of 5 stars and 9"),
    "asymmetric": (lambda: spoil(GOOD, _201=0.01), ss.DataError, "symmetric.* for star 2"),
    "indefinite": (
        lambda: spoil(GOOD, _101=0.05, _110=0.05),
        ss.DataError,
        "positive definite.* for star 1: .*LowRankCovariance",
    ),
    "negative": (lambda: -GOOD, ss.DataError, "positive definite.* for star 0"),
    "nan": (lambda: spoil(GOOD, _311=np.nan), ss.DataError, "finite.*star 3.*ivar = 0"),
    "words": (lambda: "diagonal", ss.DataError, "flux_covariance should"),
    "bands": (lambda: ss.BandedCovariance(BANDS.T), ss.ShapeError, "14 bands of 2 pixels"),
    "bands, definite": (lambda: ss.BandedCovariance(BANDS), ss.DataError, "positive definite"),
    "bands, pixels": (lambda: ss.BandedCovariance(BANDS[:1, 1:]), ss.ShapeError, "1 stars and 13"),
    "factors": (
        lambda: ss.LowRankCovariance(BANDS[0], BANDS[:, 1:]),
        ss.ShapeError,
        r"got shapes \(1, 14\) and \(1, 2, 13\)",
    ),
    "variance below 0": (
        lambda: ss.LowRankCovariance(-BANDS[0], BANDS),
        ss.DataError,
        "variance should not be negative",
    ),
    "no error at all": (
        lambda: ss.LowRankCovariance(0 * BANDS[0], np.eye(2, N_PIXELS)),
        ss.DataError,
        "above 0 where no factor reaches, got 12 values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_covariance_of_these_spectra_is_refused_in_words(laplace, stars, case):
    make, error, words = REFUSED[case]
    for take in (laplace.predict, lambda X, **given: ss.Spectra(flux=X, **given)):
        with pytest.raises(error, match=words):
            take(stars[0], flux_covariance=make())


def test_inverse_variances_that_disagree_are_refused(laplace, stars):
    ivar = np.full((N_STARS, N_PIXELS), 25.0)
    laplace.predict(stars[0], ivar=ivar, flux_covariance=GOOD)
    ivar[2, 7] = 26.0
    with pytest.raises(ss.DataError, match=r"got 26 rather than 25 at star 2, pixel 7 \(1 such"):
        laplace.predict(stars[0], ivar=ivar, flux_covariance=GOOD)


def test_it_is_given_once_and_not_resampled(laplace, stars):
    grid = np.linspace(5000.0, 5100.0, N_PIXELS)
    spectra = ss.Spectra(flux=stars[0], wavelength=grid, flux_covariance=GOOD)
    with pytest.raises(ss.OptionError, match="flux_covariance should be left out with Spectra"):
        laplace.predict(spectra, flux_covariance=GOOD)
    with pytest.raises(ss.DataError, match="independent errors to be resampled, got a flux_cov"):
        ss.resample(spectra, grid[2:-2])
    resampled = ss.resample(replace(spectra, flux_covariance=None), grid)
    with pytest.raises(ss.OptionError, match="flux_covariance should be left out with Spectra"):
        laplace.predict(resampled, flux_covariance=GOOD)


def test_a_prediction_resumes_with_its_own_covariance_alone(laplace, stars, tmp_path):
    first = laplace.predict(stars[0], flux_covariance=GOOD, resume=tmp_path / "folder")
    again = laplace.predict(stars[0], flux_covariance=GOOD, resume=tmp_path / "folder")
    assert_array_equal(again.flux_cov, first.flux_cov)
    with pytest.raises(ss.DataError, match="that of another one"):
        laplace.predict(stars[0], flux_covariance=0.5 * GOOD, resume=tmp_path / "folder")


@pytest.mark.parametrize("units", [[1.0, 1.0, 1.0], [1e3, 1.0, 1e-3]])
def test_what_is_beyond_a_known_covariance_is_what_the_labels_units_leave(units):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    factors = np.array([[0.2, 0.5, 0.9], [1.0, 1.0, 1.0], [0.3, 2.0, 9.0], [4.0, 5.0, 6.0]])
    # along axes that both have, each variance is known: none, none, two and three are beyond
    known = root @ root.T
    covariances = np.einsum("ik,nk,jk->nij", root, factors, root)
    expected = np.einsum("ik,nk,jk->nij", root, np.maximum(factors - 1, 0), root)
    scale = np.multiply.outer(units, units)
    found = find_beyond(covariances * scale, known * scale) / scale
    assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_without_known_flux_errors_all_is_beyond():
    root = np.random.default_rng(1).normal(size=(2, 3, 3))
    covariances = root @ root.transpose(0, 2, 1)
    assert_allclose(find_beyond(covariances, np.zeros((3, 3))), covariances, rtol=1e-9)
    one = np.diag([4.0, 0.0, 0.0])
    found = find_beyond(covariances, one)
    assert_allclose(found[:, 1:, 1:], covariances[:, 1:, 1:], rtol=1e-5)
