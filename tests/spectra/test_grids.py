"""Spectra on another grid than the network's are refused, or resampled with their covariance."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.errors import DataError, ShapeError
from symspec.spectra.grids import check_grid, fit_to_network

OLD, NEW = np.linspace(4995, 5205, 43), np.linspace(5000, 5200, 25)


@pytest.fixture(scope="module")
def net():
    return ss.mlp([25, 4, 2], activation="tanh")


@pytest.fixture(scope="module")
def on_grid():
    layers = [ss.Dense(4), ss.Activation("tanh"), ss.Dense(2)]
    return ss.Network(layers, 25, label_names=["TEFF", "LOGG"], wavelength=NEW)


@pytest.fixture(scope="module")
def laplace(on_grid):
    rng = np.random.default_rng(0)
    reg = ss.Regression(on_grid, sigma_noise=0.1, prior_precision=1.0)
    X, Y = 1 + 0.1 * rng.normal(size=(40, 25)), rng.normal(size=(40, 2))
    return ss.fit_laplace(reg, on_grid.init_params(rng), X, Y, require_minimum=False)


def make_spectra(wavelength=OLD, unit="Angstrom", n=3):
    rng = np.random.default_rng(1)
    flux, ivar = (
        1 + 0.1 * rng.normal(size=(n, wavelength.size)),
        rng.uniform(50, 200, (n, wavelength.size)),
    )
    ivar[1, 7] = 0
    return ss.Spectra(flux=flux, ivar=ivar, wavelength=wavelength, wavelength_unit=unit)


@pytest.mark.parametrize("kind", ["flux_conserving", "linear"])
def test_errors_of_resampled_flux_are_propagated_with_their_covariance(laplace, kind):
    """Against dense matrices; the diagonal alone would be another number."""
    resampled = ss.resample(make_spectra(), NEW, kind=kind)
    prediction = laplace.predict(resampled, fill="mean")
    of_noise = prediction.flux_cov - prediction.missing_cov  # what missing pixels leave is apart
    J = ss.compile_jacobian(laplace.reg.net)
    R = resampled.matrix.toarray()
    for star, spectrum in enumerate(resampled.spectra.flux):
        good = resampled.spectra.ivar[star] > 0
        J_x = J(laplace.theta, np.where(good, spectrum, laplace.flux_mean)) * good
        known = resampled.source_ivar[star] > 0
        variance = np.where(known, 1 / np.where(known, resampled.source_ivar[star], 1), 0)
        assert_allclose(of_noise[star], J_x @ R @ np.diag(variance) @ R.T @ J_x.T, rtol=1e-10)
    alone = laplace.predict(resampled.spectra.flux, ivar=resampled.spectra.ivar)
    assert_allclose(alone.labels, prediction.labels, rtol=0)
    if kind == "flux_conserving":  # of the others no two new pixels share an old one
        assert (abs(alone.flux_cov / prediction.flux_cov - 1) > 0.01).any()


def test_a_survey_resamples_to_the_network(laplace, tmp_path):
    spectra = make_spectra()
    survey = ss.predict_survey(tmp_path / "c.ecsv", laplace, spectra, resample="linear")
    expected = laplace.predict(ss.resample(spectra, NEW, kind="linear"))
    assert_allclose(survey.prediction.total_cov, expected.total_cov, rtol=1e-12)
    assert "RESAMPLE: linear" in (tmp_path / "c.ecsv").read_text()
    with pytest.raises(ShapeError, match=r"takes spectra of 25 pixels, got 43 .* resample"):
        ss.predict_survey(tmp_path / "d.ecsv", laplace, spectra)


def test_the_same_grid_passes_in_any_unit(on_grid):
    spectra = make_spectra(NEW / 10, "nm")
    assert fit_to_network(on_grid, spectra) is spectra
    check_grid(
        on_grid, ss.Spectra(flux=spectra.flux, ivar=spectra.ivar), "spectra without wavelengths"
    )


def test_another_grid_of_as_many_pixels_is_refused(on_grid):
    with pytest.raises(
        DataError,
        match=r"from 5000 to 5200 Angstrom, got other .* \(pixel 0: 5001 rather than 5000\)",
    ):
        fit_to_network(on_grid, make_spectra(NEW + 1))
    with pytest.raises(ShapeError, match="25 pixels, got 24"):
        fit_to_network(on_grid, make_spectra(NEW[1:]))


def test_resampling_needs_the_wavelengths_of_the_network(net):
    with pytest.raises(DataError, match="a network without: give"):
        fit_to_network(net, make_spectra(), "linear")


@pytest.mark.parametrize(
    ("wavelength", "error", "words"),
    [
        (NEW[1:], ShapeError, "shape"),
        (NEW[::-1], DataError, "rise"),
        (np.full(25, np.nan), DataError, "finite"),
    ],
)
def test_wavelengths_of_a_network_are_checked(wavelength, error, words):
    with pytest.raises(error, match=words):
        ss.Network([ss.Dense(2)], 25, wavelength=wavelength)


def test_wavelengths_stay_with_the_network(on_grid, tmp_path):
    moved = on_grid.with_layers([ss.Standardize(np.zeros(25), np.ones(25)), *on_grid.layers])
    ss.write_network(tmp_path / "net.h5", moved, moved.init_params(np.random.default_rng(0)))
    net, _ = ss.read_network(tmp_path / "net.h5")
    assert_allclose(net.wavelength, NEW, rtol=0)
    assert net.wavelength_unit == "Angstrom"
