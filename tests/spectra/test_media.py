"""Air, vacuum and velocities against specutils and astropy, in spectra, networks and resampling."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.coordinates import SpectralCoord
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.errors import DataError, OptionError, ShapeError
from symspec.spectra.grids import check_grid, fit_to_network
from symspec.spectra.resampling import propagate_through
from symspec.spectra.resampling_matrices import build_resampling_matrix
from symspec.spectra.wavelengths import (
    SPEED_OF_LIGHT,
    convert_medium,
    shift_to_rest_frame,
)

WAVELENGTH = np.linspace(2100.0, 24000.0, 500)
# as specutils 2 converts them, by iteration for the way back
AIR = {3000.0: 2999.12554924, 5000.0: 4998.60552201, 6562.8: 6560.98750728, 16000.0: 15995.62958172}
VACUUM = {3000.0: 3000.87466862, 5000.0: 5001.39484864, 6562.8: 6564.61298, 16000.0: 16004.37160713}


def make_stars(n=3, medium=None, wavelength=None):
    rng = np.random.default_rng(n)
    grid = np.linspace(5000, 5200, 41) if wavelength is None else wavelength
    flux = 1 + 0.1 * rng.normal(size=(n, grid.size))
    ivar = rng.uniform(50, 200, size=flux.shape)
    return ss.Spectra(flux=flux, ivar=ivar, wavelength=grid, wavelength_medium=medium)


def make_net(grid, medium=None):
    layers = [ss.Dense(3), ss.Activation("tanh"), ss.Dense(2)]
    return ss.Network(layers, grid.size, wavelength=grid, wavelength_medium=medium)


# --- the formulae


def test_air_and_vacuum_are_those_of_specutils_by_its_numbers():
    """To the digits that are written above, half a unit in the last of nine decimals."""
    found = convert_medium(np.array([*AIR]), "Angstrom", "vacuum", "air")
    assert_allclose(found, [*AIR.values()], rtol=0, atol=1e-8)
    found = convert_medium(np.array([*VACUUM]), "Angstrom", "air", "vacuum")
    assert_allclose(found, [*VACUUM.values()], rtol=0, atol=1e-8)


def test_air_and_vacuum_are_those_of_specutils():
    utils = pytest.importorskip("specutils.utils.wcs_utils")
    air = utils.vac_to_air(WAVELENGTH * u.AA).value
    assert_allclose(convert_medium(WAVELENGTH, "Angstrom", "vacuum", "air"), air, rtol=1e-9)
    exact = {"scheme": "iteration", "precision": 1e-12, "maxiter": 50}
    vacuum = utils.air_to_vac(WAVELENGTH * u.AA, **exact).value
    assert_allclose(convert_medium(WAVELENGTH, "Angstrom", "air", "vacuum"), vacuum, rtol=1e-9)


@pytest.mark.parametrize("unit", ["Angstrom", "nm", "um"])
def test_there_and_back_is_where_it_was(unit):
    grid = (WAVELENGTH * u.AA).to_value(unit)
    air = convert_medium(grid, unit, "vacuum", "air")
    assert_allclose(air, grid / 1.00027, rtol=6e-5)  # the index is 1.00027 to 1.00032
    assert_allclose(convert_medium(air, unit, "air", "vacuum"), grid, rtol=1e-15)


def test_what_is_not_known_is_not_converted():
    for media in ((None, "air"), ("vacuum", None), (None, None), ("air", "air")):
        assert convert_medium(WAVELENGTH, "Angstrom", *media) is WAVELENGTH


def test_air_is_opaque_below_2000_angstrom():
    grid = np.array([1000.0, 1999.0])
    assert_array_equal(convert_medium(grid, "Angstrom", "vacuum", "air"), grid)


@pytest.mark.parametrize("velocity", [-300.0, -20.0, 0.0, 65.4, 3000.0, 1e5])
def test_velocities_shift_as_astropys(velocity):
    coordinate = SpectralCoord(WAVELENGTH * u.AA, radial_velocity=velocity * u.km / u.s)
    expected = coordinate.to_rest().to_value(u.AA)
    assert_allclose(shift_to_rest_frame(WAVELENGTH, velocity), expected, rtol=1e-13)
    assert constants.c.to_value(u.km / u.s) == SPEED_OF_LIGHT


@pytest.mark.parametrize("velocity", [3e5, -299792.458, np.inf])
def test_nothing_is_as_fast_as_light(velocity):
    with pytest.raises(OptionError, match="in km/s and slower than light"):
        shift_to_rest_frame(WAVELENGTH, velocity)


# --- spectra and networks


def test_the_medium_is_kept():
    stars = make_stars(medium="air")
    assert stars[:2].wavelength_medium == "air"
    assert "wavelength in Angstrom (air)" in repr(stars)
    assert ss.resample(stars, stars.wavelength[3:9]).spectra.wavelength_medium == "air"
    with pytest.raises(OptionError, match="wavelength_medium should be one of 'air', 'vacuum'"):
        make_stars(medium="water")
    with pytest.raises(OptionError, match="wavelength_medium should be one of"):
        make_net(stars.wavelength, "water")


def test_spectra_without_a_medium_are_known_as_before():
    """Runs of earlier versions are resumed by this digest."""
    stars = make_stars()
    assert stars.identity() != make_stars(medium="air").identity()
    assert stars.identity()["spectra"] == make_stars()[:].identity()["spectra"]


def test_a_network_in_a_file_keeps_its_medium(tmp_path):
    grid = np.linspace(5000, 5200, 6)
    for medium in (None, "air", "vacuum"):
        net = make_net(grid, medium)
        theta = net.init_params(np.random.default_rng(0))
        ss.write_network(tmp_path / "net.h5", net, theta, overwrite=True)
        assert ss.read_network(tmp_path / "net.h5")[0].wavelength_medium == medium
        assert net.with_layers(net.layers).wavelength_medium == medium


def test_spectra_of_the_other_medium_are_refused():
    stars = make_stars(medium="air")
    with pytest.raises(DataError, match="takes wavelengths of vacuum, got those of air in stars"):
        check_grid(make_net(stars.wavelength, "vacuum"), stars, "stars")
    check_grid(make_net(stars.wavelength, "air"), stars, "stars")
    check_grid(make_net(stars.wavelength), stars, "stars")
    check_grid(make_net(stars.wavelength, "vacuum"), make_stars(), "stars")


def test_they_are_converted_when_they_are_resampled():
    stars = make_stars(medium="air")
    grid = np.linspace(5010, 5190, 20)
    fitted = fit_to_network(make_net(grid, "vacuum"), stars, "linear").spectra
    assert fitted.wavelength_medium == "vacuum"
    vacuum = convert_medium(stars.wavelength, "Angstrom", "air", "vacuum")
    expected = [np.interp(grid, vacuum, flux) for flux in stars.flux]
    assert_allclose(fitted.flux, expected, rtol=1e-12)
    check_grid(make_net(grid, "vacuum"), fitted, "the spectra")
    unknown = fit_to_network(make_net(grid, "vacuum"), make_stars(), "linear").spectra
    assert_allclose(unknown.flux, [np.interp(grid, stars.wavelength, f) for f in stars.flux])


def test_a_medium_that_is_not_known_cannot_be_converted():
    with pytest.raises(DataError, match=r"of air or of vacuum, to be taken to air, got .*None"):
        ss.resample(make_stars(), np.linspace(5010, 5190, 20), wavelength_medium="air")


# --- velocities


@pytest.mark.parametrize("kind", ["linear", "flux_conserving"])
@pytest.mark.parametrize("medium", [None, "vacuum", "air"])
def test_resampling_shifts_to_the_rest_frame(kind, medium):
    stars = make_stars(medium=medium)
    grid = np.linspace(5010, 5190, 20)
    velocities = np.array([-120.0, 0.0, 250.0])
    resampled = ss.resample(stars, grid, kind=kind, radial_velocity=velocities)
    for star, velocity in enumerate(velocities):
        vacuum = convert_medium(stars.wavelength, "Angstrom", medium, medium and "vacuum")
        coordinate = SpectralCoord(vacuum * u.AA, radial_velocity=velocity * u.km / u.s)
        rest = coordinate.to_rest().to_value(u.AA)
        rest = convert_medium(rest, "Angstrom", medium and "vacuum", medium)
        R = build_resampling_matrix(rest, grid, kind).toarray()
        assert_allclose(resampled.spectra.flux[star], R @ stars.flux[star], rtol=1e-9)
        variance = np.diag(R @ np.diag(1 / stars.ivar[star]) @ R.T)
        assert_allclose(resampled.spectra.ivar[star], 1 / variance, rtol=1e-7)
        factor = resampled.covariance_factor(star).toarray()
        assert_allclose(factor @ factor.T, R @ np.diag(1 / stars.ivar[star]) @ R.T, atol=1e-9)


def test_a_line_returns_to_its_wavelength():
    """A receding star's line at 5100 Angstrom is seen at 5117."""
    grid = np.linspace(5000, 5200, 401)
    seen = 5100 * np.sqrt((1 + 1000 / SPEED_OF_LIGHT) / (1 - 1000 / SPEED_OF_LIGHT))
    flux = 1 - 0.5 * np.exp(-0.5 * ((grid - seen) / 2) ** 2)
    stars = ss.Spectra(flux=flux[None], ivar=np.ones((1, 401)), wavelength=grid)
    rest = ss.resample(stars, np.linspace(5050, 5150, 201), radial_velocity=1000.0).spectra
    assert rest.wavelength[np.argmin(rest.flux)] == pytest.approx(5100, abs=0.26)  # half a pixel
    assert seen == pytest.approx(5117.04, abs=0.01)


def test_one_velocity_is_that_of_all_stars():
    stars = make_stars()
    grid = np.linspace(5010, 5190, 20)
    one = ss.resample(stars, grid, radial_velocity=50.0)
    each = ss.resample(stars, grid, radial_velocity=[50.0, 50.0, 50.0])
    assert_array_equal(one.spectra.flux, each.spectra.flux)
    assert_array_equal(one.matrix.toarray(), each.matrix.toarray())
    still = ss.resample(stars, grid, radial_velocity=0.0)
    assert_array_equal(still.spectra.flux, ss.resample(stars, grid).spectra.flux)


def test_errors_are_propagated_through_the_map_of_each_star():
    grid = np.linspace(5010, 5190, 20)
    net = make_net(grid)
    rng = np.random.default_rng(5)
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    X = 1 + 0.1 * rng.normal(size=(30, 20))
    Y = rng.normal(size=(30, 2))
    laplace = ss.fit_laplace(reg, net.init_params(rng), X, Y, require_minimum=False)
    stars = make_stars()
    velocities = [-100.0, 20.0, 300.0]
    together = laplace.predict(ss.resample(stars, grid, radial_velocity=velocities))
    for star, velocity in enumerate(velocities):
        alone = laplace.predict(ss.resample(stars[star], grid, radial_velocity=velocity))
        assert_allclose(together.labels[star], alone.labels[0], rtol=1e-12)
        assert_allclose(together.flux_cov[star], alone.flux_cov[0], rtol=1e-10)


def test_derivatives_of_some_stars_are_propagated():
    resampled = ss.resample(
        make_stars(), np.linspace(5010, 5190, 20), radial_velocity=[0.0, 50.0, 100.0]
    )
    J = np.random.default_rng(0).normal(size=(2, 1, 20))
    found = resampled.propagate(J, slice(1, 3))
    for row, star in enumerate((1, 2)):
        ivar = resampled.source_ivar[star : star + 1]
        one = propagate_through(J[row : row + 1], resampled.matrices[star], ivar)
        assert_allclose(found[row], one[0], rtol=1e-14)
    with pytest.raises(DataError, match=r"share one map .* got one a star.* matrices\[star\]"):
        _ = resampled.matrix


@pytest.mark.parametrize(
    ("velocity", "error", "words"),
    [
        ([1.0, 2.0], ShapeError, r"one number, or have shape \(3,\), got \(2,\)"),
        ([1.0, np.nan, 2.0], DataError, "radial_velocity should be finite"),
        (3e5, OptionError, "slower than light"),
        (1e5, DataError, "should overlap the grid of the spectra"),
        (5 * u.m, DataError, "radial_velocity"),
    ],
)
def test_velocities_are_checked(velocity, error, words):
    with pytest.raises(error, match=words):
        ss.resample(make_stars(), np.linspace(5010, 5190, 20), radial_velocity=velocity)


def test_a_velocity_may_have_another_unit():
    grid = np.linspace(5010, 5190, 20)
    found = ss.resample(make_stars(), grid, radial_velocity=50_000 * u.m / u.s)
    assert_allclose(
        found.spectra.flux, ss.resample(make_stars(), grid, radial_velocity=50.0).spectra.flux
    )
