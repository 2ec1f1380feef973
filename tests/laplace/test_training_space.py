"""Distances from training spectra against loops, dense algebra, and spectra of known kinds."""

import h5py
import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose

import symspec as ss
from symspec.laplace.flags import Flag
from symspec.laplace.training_space import (
    FLOOR,
    MAX_COMPONENTS,
    MAX_STARS,
    MIN_STARS,
    describe_training,
)
from symspec.spectra.datasets import generated_stars

N_PIXELS, N_KINDS = 60, 3


def draw_spectra(n, rng, noise=0.05):
    """Smooth spectra of three kinds of change, with noise; the last pixel is always the same."""
    grid = np.linspace(0, 1, N_PIXELS)
    shapes = 0.3 * np.array(
        [np.sin(3 * grid), np.cos(9 * grid), np.exp(-(((grid - 0.5) / 0.1) ** 2))]
    )
    flux = 1 + rng.normal(size=(n, N_KINDS)) @ shapes + noise * rng.normal(size=(n, N_PIXELS))
    flux[:, -1] = 0.7
    return flux


@pytest.fixture(scope="module")
def X():
    return draw_spectra(1500, np.random.default_rng(1))


@pytest.fixture(scope="module")
def space(X):
    return describe_training(X, X.mean(axis=0))


@pytest.fixture(scope="module")
def others():
    """Other spectra, some with bad pixels, with their inverse variances."""
    rng = np.random.default_rng(2)
    flux, ivar = draw_spectra(40, rng), rng.uniform(50, 5000, size=(40, N_PIXELS))
    ivar[rng.random(ivar.shape) < 0.1] = 0
    ivar[:10] = rng.uniform(50, 5000, size=(10, N_PIXELS))
    ivar[39, :-4] = 0
    return flux, ivar


def halves(X):
    """Stars of the components and stars of the quantiles."""
    some = np.random.default_rng(0).permutation(len(X))[:MAX_STARS]
    return X[some[::2]], X[some[1::2]]


def test_components_are_the_leading_singular_vectors_of_the_first_half(X, space):
    first, _ = halves(X)
    deviation = first - X.mean(axis=0)
    scale = np.sqrt(np.mean(deviation**2, axis=0))
    assert_allclose(space.scale[:-1], scale[:-1], rtol=1e-12)
    assert space.scale[-1] == np.inf
    Z = deviation[:, :-1] / scale[:-1]
    _, s, Vt = np.linalg.svd(Z, full_matrices=False)
    kept = np.argmax(np.abs(space.components[:, :-1] @ Vt.T), axis=1)
    assert kept[:N_KINDS].tolist() == [0, 1, 2]
    assert len(kept) <= kept[-1] + 1 <= MAX_COMPONENTS
    assert_allclose(space.variances, s[kept] ** 2 / len(Z), rtol=1e-9)
    # singular values of noise lie close together: vectors are known to rounding over their relative
    # distances
    assert_allclose(np.abs(space.components[:, :-1] @ Vt[kept].T), np.eye(len(kept)), atol=1e-9)
    assert_allclose(space.components[:, -1], 0, atol=1e-15)
    residual = Z - Z @ Vt[kept].T @ Vt[kept]
    assert_allclose(space.residual_variance[:-1], np.mean(residual**2, axis=0), rtol=1e-9)


def test_distances_are_their_formula_pixel_by_pixel(space, others):
    """Scores as the mean of t given z = V^T t + noise of variance rho, by the covariance of z."""
    flux, ivar = others
    V, variances, rho = space.components, space.variances, space.residual_variance[:-1].mean()
    for star in range(len(flux)):
        good = [i for i in range(N_PIXELS - 1) if ivar[star, i] > 0]
        z = np.array([(flux[star, i] - space.mean[i]) / space.scale[i] for i in good])
        Vg = V[:, good]
        C = Vg.T @ np.diag(variances) @ Vg + rho * np.eye(len(good))
        t = np.diag(variances) @ Vg @ np.linalg.solve(C, z)
        noise = np.array([1 / (ivar[star, i] * space.scale[i] ** 2) for i in good])
        d_t = np.sqrt(
            np.mean([t[j] ** 2 / (variances[j] + Vg[j] ** 2 @ noise) for j in range(len(V))])
        )
        residual = z - Vg.T @ t
        d_r = np.sqrt(np.mean(residual**2 / (space.residual_variance[good] + noise)))
        expected = max(d_t / space.quantiles[0], d_r / space.quantiles[1])
        assert_allclose(space.find_distances(flux[[star]], ivar[[star]]), [expected], rtol=1e-8)


def test_quantiles_are_those_of_spectra_that_had_no_part_in_the_components(X, space):
    """Two distances, each beyond its 99 % quantile in 1 % of such spectra: 1 to 2 % of all."""
    _, second = halves(X)
    beyond = np.mean(space.find_distances(second) > 1)
    assert 0.009 <= beyond <= 0.021
    fresh = space.find_distances(draw_spectra(20_000, np.random.default_rng(3)))
    # the quantiles of 750 spectra are those of 98.2 to 99.8 % (two standard errors)
    assert 0.003 < np.mean(fresh > 1) < 0.04
    assert 0.4 < np.median(fresh) < 1


def test_noise_that_is_known_makes_no_spectrum_a_stranger(X, space):
    rng = np.random.default_rng(4)
    flux = draw_spectra(2000, rng, noise=0.0)
    for sigma in (0.05, 0.5, 5.0):
        noisy = flux + sigma * rng.normal(size=flux.shape)
        distance = space.find_distances(noisy, np.full(flux.shape, sigma**-2.0))
        assert np.mean(distance > 1.5) < 0.005
    assert (
        np.median(space.find_distances(noisy)) > 10
    )  # the same spectra of which nobody says that they are noisy


@pytest.mark.parametrize("value", [np.nan, np.inf, -9999.0, 1e30], ids=str)
def test_what_stands_in_a_bad_pixel_does_not_matter(space, others, value):
    flux, ivar = others
    filled = np.where(ivar > 0, flux, space.mean)
    spoilt = np.where(ivar > 0, flux, value)
    np.testing.assert_array_equal(
        space.find_distances(spoilt, ivar), space.find_distances(filled, ivar)
    )


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6])
def test_bad_pixels_alone_make_no_spectrum_a_stranger(space, fraction):
    """Filled with the mean, 30 % of bad pixels would look like 30 % of all variation."""
    rng = np.random.default_rng(5)
    flux, ivar = draw_spectra(1000, rng), np.full((1000, N_PIXELS), 0.05**-2)
    ivar[rng.random(ivar.shape) < fraction] = 0
    assert np.mean(space.find_distances(flux, ivar) > 1.5) < 0.01


def test_a_spectrum_without_a_good_pixel_has_no_distance(space, others):
    flux, ivar = others
    ivar = ivar.copy()
    ivar[3] = 0
    ivar[4, :-1] = 0  # the last pixel never varies: it tells nothing
    distance = space.find_distances(flux, ivar)
    assert np.flatnonzero(np.isnan(distance)).tolist() == [3, 4]


STRANGERS = {
    "scaled": lambda flux: 2 * flux,
    "an-emission-line": lambda flux: flux + 3 * (np.arange(N_PIXELS) == 20),
    "another-shape": lambda flux: flux + 0.5 * np.cos(40 * np.linspace(0, 1, N_PIXELS)),
    "far-along-a-component": lambda flux: 1 + 12 * (flux - 1),
    "infinite": lambda flux: np.full(flux.shape, 1e200),
}


@pytest.mark.parametrize("change", STRANGERS.values(), ids=STRANGERS)
def test_spectra_of_another_kind_are_far_away(space, change):
    flux = draw_spectra(200, np.random.default_rng(6))
    ivar = np.full(flux.shape, 0.05**-2)
    for known in (None, ivar):
        assert np.mean(space.find_distances(change(flux), known) > 1.5) > 0.9
        assert np.mean(space.find_distances(flux, known) > 1.5) < 0.02


def test_stars_cooler_than_the_training_stars_are_found_and_those_among_them_are_not():
    rng, words = np.random.default_rng(7), {"n_pixels": 300, "snr": 100.0}
    X = generated_stars(800, rng=rng, **words).flux
    space = describe_training(X, X.mean(axis=0))
    for temperatures, fewest, most in (((4500, 6500), 0, 0.02), ((2300, 2500), 0.95, 1)):
        stars = generated_stars(200, rng=rng, teff_range=temperatures, **words)
        assert fewest <= np.mean(space.find_distances(stars.flux, stars.ivar) > 1.5) <= most


# --- what it is made from


def test_few_spectra_or_such_as_never_vary_are_not_described():
    X = draw_spectra(MIN_STARS, np.random.default_rng(8))
    assert describe_training(X, X.mean(axis=0)) is not None
    assert describe_training(X[1:], X[1:].mean(axis=0)) is None
    assert describe_training(np.ones((50, 4)), np.ones(4)) is None


def test_directions_that_are_mere_noise_are_left_out():
    """200 spectra of 4,000 pixels vary 20 times as much along their own noise as others do."""
    rng = np.random.default_rng(13)
    shapes = np.repeat(rng.normal(size=(N_KINDS, 40)), 100, axis=1)

    def draw(n):
        return 1 + 0.1 * rng.normal(size=(n, N_KINDS)) @ shapes + 0.05 * rng.normal(size=(n, 4000))

    X = draw(400)
    space = describe_training(X, X.mean(axis=0))
    assert len(space.components) == N_KINDS
    assert np.mean(space.find_distances(draw(300)) > 1.5) < 0.01
    outlier = draw(1) + 0.1 * 8 * shapes[:1]  # eight standard deviations along one of them
    assert space.find_distances(outlier) > 1.5


def test_few_spectra_are_described_well_enough_to_know_their_like():
    rng = np.random.default_rng(9)
    X = draw_spectra(40, rng)
    space = describe_training(X, X.mean(axis=0))
    assert np.mean(space.find_distances(draw_spectra(1000, rng)) > 1.5) < 0.2
    assert np.mean(space.find_distances(2 * draw_spectra(1000, rng)) > 1.5) > 0.9


def test_one_pixel_is_a_space_too():
    x = np.random.default_rng(10).uniform(1, 3, size=(200, 1))
    distance = describe_training(x, x.mean(axis=0)).find_distances(np.array([[2.0], [3.0], [5.0]]))
    # |x - 2| in units of its 99 % quantile, 0.99
    assert_allclose(distance, [0, 1, 3], atol=0.1)


def test_spectra_without_noise_leave_the_floor_as_residual():
    X = draw_spectra(100, np.random.default_rng(11), noise=0.0)
    space = describe_training(X, X.mean(axis=0))
    assert len(space.components) == N_KINDS
    assert_allclose(space.residual_variance, FLOOR, rtol=1e-12)
    assert np.isfinite(space.find_distances(X)).all()


class Counted:
    """Spectra of which it is known how many were looked at."""

    def __init__(self, array):
        self.array, self.seen = array, 0

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.seen += len(rows)
        return self.array[rows]


def test_the_cost_does_not_grow_with_the_training_set():
    X = draw_spectra(100, np.random.default_rng(12))
    many = Counted(np.tile(X, (500, 1)))
    describe_training(many, X.mean(axis=0))
    assert many.seen == MAX_STARS


def test_single_precision_gives_the_same_distances(X, space, others):
    single = describe_training(X.astype(np.float32), X.mean(axis=0))
    flux, ivar = others
    # float32 keeps flux to 6e-8, which is 1e-6 of the scale of the quietest pixel
    assert_allclose(single.find_distances(flux, ivar), space.find_distances(flux, ivar), rtol=1e-5)


# --- kept with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A posterior with a description of its training spectra, and its file."""
    rng = np.random.default_rng(14)
    X = draw_spectra(60, rng)
    Y = X[:, :2] * [300.0, 1.0] + [5000.0, 2.0]
    reg = ss.Regression(
        ss.standardized(ss.mlp([N_PIXELS, 2]), X + 1e-3 * rng.normal(size=X.shape), Y),
        sigma_noise=[50.0, 0.1],
        prior_precision=1.0,
    )
    laplace = ss.fit_laplace(reg, reg.net.init_params(rng), X, Y, require_minimum=False)
    path = tmp_path_factory.mktemp("model") / "model.h5"
    ss.write_laplace(path, laplace)
    return laplace, path


def test_a_description_comes_back_from_a_file_bit_by_bit(model):
    laplace, path = model
    read = ss.read_laplace(path).training_space
    for name, array in vars(laplace.training_space).items():
        np.testing.assert_array_equal(getattr(read, name), array, strict=True)
    assert np.isinf(read.scale[-1])


def test_a_file_from_before_descriptions_gives_predictions_whose_catalogue_says_so(model, tmp_path):
    laplace, path = model
    (tmp_path / "old.h5").write_bytes(path.read_bytes())
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        del file["laplace/training_space"]
        file.attrs["format_version"] = 1  # without a digest
    old = ss.read_laplace(tmp_path / "old.h5")
    far = draw_spectra(5, np.random.default_rng(15)) * 3
    new, prediction = (posterior.predict(far) for posterior in (laplace, old))
    assert (new.flags & Flag.OUTSIDE_TRAINING_SPECTRA).all()
    assert prediction.flux_distance is None
    np.testing.assert_array_equal(prediction.flags, new.flags & ~Flag.OUTSIDE_TRAINING_SPECTRA)
    ss.write_catalogue(tmp_path / "c.ecsv", prediction)
    table = Table.read(tmp_path / "c.ecsv")
    assert "FLUX_DISTANCE" not in table.colnames
    assert "512 (model without a description of its training spectra)" in table.meta["NOTEVAL"]
