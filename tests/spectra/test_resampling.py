"""Resampled flux and its covariance, against integrals, dense algebra and Monte Carlo."""

from itertools import pairwise

import astropy.units as u
import numpy as np
import pytest
from scipy import sparse

from symspec.errors import DataError, OptionError, ShapeError
from symspec.spectra.resampling import propagate_through, resample
from symspec.spectra.resampling_matrices import build_resampling_matrix
from symspec.spectra.spectra import Spectra

N_STARS, N_LABELS = 4, 3
OLD = 5000.0 * (1 + 2e-4) ** np.arange(40)
GRIDS = {
    "same": OLD,
    "wider": np.linspace(5004.0, 5034.0, 9),
    "narrower": np.linspace(5004.0, 5034.0, 71),
    "shifted": OLD[2:-2] + 0.3,
    "uneven": 5003.0 + np.cumsum(np.random.default_rng(0).uniform(1.0, 2.9, 15)),
}


def make_spectra(rng, *, n_stars=N_STARS, wavelength=OLD, n_bad=0, unit="Angstrom"):
    flux = 1 + rng.normal(scale=0.1, size=(n_stars, wavelength.size))
    ivar = rng.uniform(10.0, 1000.0, size=flux.shape)
    for star in range(n_stars):
        ivar[star, rng.choice(wavelength.size, n_bad, replace=False)] = 0.0
    flux[ivar == 0] = np.nan
    return Spectra(flux=flux, ivar=ivar, wavelength=wavelength, wavelength_unit=unit)


def edges_of(grid):
    """Borders half way between pixels, one pixel after the other."""
    middle = [(a + b) / 2 for a, b in pairwise(grid)]
    return [grid[0] - (middle[0] - grid[0]), *middle, grid[-1] + (grid[-1] - middle[-1])]


def integral_matrix(old, new):
    """Mean over new pixels of flux that is constant in each old one, by a loop over all pairs."""
    R = np.zeros((len(new), len(old)))
    old_edges, new_edges = edges_of(old), edges_of(new)
    for i in range(len(new)):
        for j in range(len(old)):
            shared = min(new_edges[i + 1], old_edges[j + 1]) - max(new_edges[i], old_edges[j])
            R[i, j] = max(0.0, shared) / (new_edges[i + 1] - new_edges[i])
    return R


def interpolation_matrix(old, new):
    """What np.interp does to each unit vector."""
    return np.stack([np.interp(new, old, row) for row in np.eye(len(old))], axis=1)


MATRICES = {"flux_conserving": integral_matrix, "linear": interpolation_matrix}


@pytest.fixture(params=list(MATRICES))
def kind(request):
    return request.param


# --- the map


@pytest.mark.parametrize("grid", GRIDS)
def test_the_map_is_the_integral_or_the_interpolation(kind, grid):
    R = build_resampling_matrix(OLD, GRIDS[grid], kind)
    # weights below 1e-6 are dropped and shared out
    np.testing.assert_allclose(R.toarray(), MATRICES[kind](OLD, GRIDS[grid]), atol=3e-6)
    np.testing.assert_allclose(R.sum(axis=1), 1.0, rtol=1e-14)


def test_the_same_grid_changes_nothing(kind):
    spectra = make_spectra(np.random.default_rng(1), n_bad=5)
    resampled = resample(spectra, OLD, kind=kind)
    np.testing.assert_array_equal(resampled.matrix.toarray(), np.eye(OLD.size))
    np.testing.assert_array_equal(resampled.spectra.flux, spectra.flux)
    # one over one over
    np.testing.assert_allclose(resampled.spectra.ivar, spectra.ivar, rtol=1e-15)


def test_the_integral_over_wavelength_is_conserved():
    rng = np.random.default_rng(2)
    flux = rng.uniform(0.5, 1.5, size=OLD.size)
    old_edges = np.array(edges_of(OLD))
    cumulative = np.append(0.0, np.cumsum(flux * np.diff(old_edges)))
    for name in ("wider", "narrower", "uneven"):
        new_edges = np.array(edges_of(GRIDS[name]))
        between = np.diff(np.interp(new_edges, old_edges, cumulative))
        new = build_resampling_matrix(OLD, GRIDS[name]) @ flux
        np.testing.assert_allclose(
            new * np.diff(new_edges), between, rtol=1e-5
        )  # weights below 1e-6 are dropped


def test_a_constant_stays_and_linear_interpolation_keeps_a_slope(kind):
    spectra = Spectra(flux=np.stack([np.ones(OLD.size), OLD]), wavelength=OLD)
    new = np.linspace(5004.0, 5034.0, 50)
    resampled = resample(spectra, new, kind=kind).spectra
    np.testing.assert_allclose(resampled.flux[0], 1.0, rtol=1e-14)
    if kind == "linear":
        np.testing.assert_allclose(
            resampled.flux[1], new, rtol=1e-9
        )  # weights below 1e-6 are dropped
    assert resampled.ivar is None


# --- what is bad


def test_new_pixels_that_reach_out_of_the_old_grid_are_bad():
    spectra = make_spectra(np.random.default_rng(3), wavelength=np.arange(10.0, 20.0))
    new = np.arange(8.0, 22.0)
    for kind in MATRICES:
        ivar = resample(spectra, new, kind=kind).spectra.ivar
        np.testing.assert_array_equal(ivar > 0, np.tile((new >= 10) & (new <= 19), (N_STARS, 1)))
    shifted = np.arange(8.25, 22.0)  # 9.25 and 19.25 have only a part inside
    ivar = resample(spectra, shifted).spectra.ivar
    np.testing.assert_array_equal(ivar[0] > 0, (shifted > 10) & (shifted < 19))


def test_a_new_pixel_is_bad_if_any_old_one_in_it_is(kind):
    spectra = make_spectra(np.random.default_rng(4), n_bad=6)
    for grid in GRIDS.values():
        resampled = resample(spectra, grid, kind=kind)
        dense = MATRICES[kind](OLD, grid)
        expected = np.array(
            [
                [
                    not any(ivar == 0 and w > 1e-6 for w, ivar in zip(row, star, strict=True))
                    for row in dense
                ]
                for star in spectra.ivar
            ]
        )
        np.testing.assert_array_equal(resampled.spectra.ivar > 0, expected)
        assert np.isfinite(resampled.spectra.flux[expected]).all()
        assert np.isnan(resampled.spectra.flux[~expected]).all()


def test_a_gap_between_detectors_is_no_wide_pixel(kind):
    old = np.r_[np.arange(100.0, 110.0), np.arange(150.0, 160.0, 2.0)]
    spectra = make_spectra(np.random.default_rng(5), wavelength=old)
    new = np.r_[101.5, 102.5, 109.0, np.arange(115.0, 145.0, 5.0), 150.0, 152.0, 154.0, 156.0]
    good = resample(spectra, new, kind="linear").spectra.ivar[0] > 0
    np.testing.assert_array_equal(good, (new <= 109) | (new >= 150))
    new = np.arange(100.0, 159.0)
    good = resample(spectra, new).spectra.ivar[0] > 0
    np.testing.assert_array_equal(good, (new <= 109) | (new >= 150))


def test_a_grid_with_gaps_is_taken_to_itself():
    grid = np.r_[5.0, np.arange(100.0, 110.0), 130.0, np.arange(150.0, 160.0)]
    spectra = make_spectra(np.random.default_rng(6), wavelength=grid)
    np.testing.assert_array_equal(resample(spectra, grid).matrix.toarray(), np.eye(grid.size))


# --- the covariance


@pytest.mark.parametrize("grid", GRIDS)
def test_ivar_is_one_over_the_diagonal_of_the_covariance(kind, grid):
    spectra = make_spectra(np.random.default_rng(7), n_bad=3)
    resampled = resample(spectra, GRIDS[grid], kind=kind)
    R = resampled.matrix.toarray()
    for star in range(N_STARS):
        good = resampled.spectra.ivar[star] > 0
        variance = np.where(spectra.ivar[star] > 0, 1 / np.maximum(spectra.ivar[star], 1e-300), 0.0)
        expected = R @ np.diag(variance) @ R.T
        np.testing.assert_allclose(
            resampled.spectra.ivar[star][good], 1 / np.diag(expected)[good], rtol=1e-12
        )
        L = resampled.covariance_factor(star)
        expected[~good] = expected[:, ~good] = 0.0
        np.testing.assert_allclose((L @ L.T).toarray(), expected, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("n_bad", [0, 4])
def test_errors_go_through_to_the_labels(kind, grid, n_bad):
    rng = np.random.default_rng(8)
    spectra = make_spectra(rng, n_bad=n_bad)
    resampled = resample(spectra, GRIDS[grid], kind=kind)
    J = rng.normal(size=(N_STARS, N_LABELS, GRIDS[grid].size))
    found = propagate_through(J, resampled.matrix, resampled.source_ivar)
    R = resampled.matrix.toarray()
    for n in range(N_STARS):
        good = resampled.spectra.ivar[n] > 0
        expected = np.zeros((N_LABELS, N_LABELS))
        for p in range(OLD.size):
            if spectra.ivar[n, p] > 0:
                column = J[n][:, good] @ R[good, p]
                expected += np.outer(column, column) / spectra.ivar[n, p]
        np.testing.assert_allclose(found[n], expected, rtol=1e-10, atol=1e-15)
        from_factor = J[n] @ resampled.covariance_factor(n).toarray()
        np.testing.assert_allclose(found[n], from_factor @ from_factor.T, rtol=1e-10, atol=1e-15)


def test_neighbours_share_noise_which_the_diagonal_alone_gets_wrong():
    """Two halves of one old pixel: the sum of both varies four times as much as one, not twice."""
    spectra = Spectra(
        flux=np.ones((1, 3)), ivar=np.ones((1, 3)), wavelength=np.array([1.0, 2.0, 3.0])
    )
    resampled = resample(spectra, np.array([1.75, 2.25]))
    J = np.ones((1, 1, 2))
    assert propagate_through(J, resampled.matrix, resampled.source_ivar)[0, 0, 0] == pytest.approx(
        4.0
    )
    assert (1 / resampled.spectra.ivar[0]).sum() == pytest.approx(2.0)


def test_the_covariance_of_labels_is_that_of_resampled_noise(kind):
    rng = np.random.default_rng(9)
    spectra = make_spectra(rng, n_stars=2, n_bad=2)
    new = GRIDS["narrower"]
    resampled = resample(spectra, new, kind=kind)
    J = rng.normal(size=(2, N_LABELS, new.size))
    V = propagate_through(J, resampled.matrix, resampled.source_ivar)
    n_draws = 20_000
    sigma = np.where(spectra.ivar > 0, spectra.ivar, np.inf) ** -0.5
    for star in range(2):
        noise = rng.normal(size=(n_draws, OLD.size)) * sigma[star]
        drawn = Spectra(
            flux=np.where(spectra.ivar[star] > 0, 1 + noise, np.nan),
            ivar=np.tile(spectra.ivar[star], (n_draws, 1)),
            wavelength=OLD,
        )
        flux = resample(drawn, new, kind=kind).spectra.flux
        labels = np.nan_to_num(flux - 1) @ J[star].T
        found = labels.T @ labels / n_draws  # the mean is known to be 0
        # Var(y_i y_j) = V_ii V_jj + V_ij^2 for normal y
        error = np.sqrt((np.outer(np.diag(V[star]), np.diag(V[star])) + V[star] ** 2) / n_draws)
        # 6 independent entries for each of 2 stars and 2 kinds: beyond 4 with a probability of
        # 0.0015
        assert np.abs((found - V[star]) / error).max() < 4


# --- units, labels, and what is refused


def test_units_are_converted(kind):
    spectra = make_spectra(np.random.default_rng(10))
    expected = resample(spectra, GRIDS["wider"], kind=kind)
    in_nm = resample(spectra, GRIDS["wider"] / 10, kind=kind, wavelength_unit="nm")
    np.testing.assert_allclose(
        in_nm.spectra.flux, expected.spectra.flux, rtol=1e-9
    )  # rounding of the grid
    np.testing.assert_allclose(in_nm.spectra.ivar, expected.spectra.ivar, rtol=1e-9)
    assert in_nm.spectra.wavelength_unit == "nm"
    np.testing.assert_array_equal(in_nm.spectra.wavelength, GRIDS["wider"] / 10)
    quantity = resample(spectra, GRIDS["wider"] * 1e-4 * u.um, kind=kind)
    np.testing.assert_allclose(quantity.spectra.flux, expected.spectra.flux, rtol=1e-9)
    assert quantity.spectra.wavelength_unit == "um"


def test_labels_and_ids_stay():
    flux, wavelength = np.ones((2, 3)), np.array([1.0, 2.0, 3.0])
    spectra = Spectra(
        flux=flux,
        wavelength=wavelength,
        labels=[[1.0], [2.0]],
        label_names=("a",),
        label_units=("K",),
        ids=["x", "y"],
    )
    resampled = resample(spectra, [1.5, 2.5], kind="linear").spectra
    np.testing.assert_array_equal(resampled.labels, [[1.0], [2.0]])
    assert (resampled.label_names, resampled.label_units) == (("a",), ("K",))
    assert resampled.ids.tolist() == ["x", "y"]


def test_the_map_is_sparse_at_full_size():
    R = build_resampling_matrix(
        10 ** (4.179 + 6e-6 * np.arange(8575)), np.linspace(15200.0, 16900.0, 7214)
    )
    assert isinstance(R, sparse.csr_array)
    assert R.nnz < 4 * 7214


GOOD = {"flux": np.ones((1, 4)), "wavelength": np.arange(1.0, 5.0)}


@pytest.mark.parametrize(
    ("spectra", "wavelength", "options", "error", "words"),
    [
        (
            {"flux": np.ones((1, 4))},
            [1.0, 2.0],
            {},
            DataError,
            "should have wavelengths to be resampled, got none",
        ),
        (
            GOOD,
            [1.0, 2.0],
            {"kind": "lin"},
            OptionError,
            "should be one of 'flux_conserving', 'linear', got 'lin'",
        ),
        (
            GOOD,
            [[1.0, 2.0]],
            {},
            ShapeError,
            r"wavelength should have shape \(pixel,\), got \(1, 2\)",
        ),
        (GOOD, [2.0, 1.0], {}, DataError, "wavelength should rise, got a grid that falls"),
        (GOOD, [1.0, 2.0, 2.0], {}, DataError, "got twice the same at 1 places"),
        (GOOD, [1.0, np.nan], {}, DataError, "wavelength should be finite"),
        (GOOD, [], {}, DataError, "got no pixel at all"),
        (
            GOOD,
            [100.0, 101.0],
            {},
            DataError,
            "1 to 4 Angstrom, got 100 to 101: if the units differ, say",
        ),
        (
            GOOD,
            [0.0, 1.0, 2.0],
            {},
            DataError,
            r"without ivar, got 1 pixels out of it \(first: pixel 0\)",
        ),
        (
            GOOD,
            [0.2, 0.3],
            {"wavelength_unit": "parsnip"},
            DataError,
            "astropy.units knows, got 'parsnip'",
        ),
        (GOOD, [0.2, 0.3], {"wavelength_unit": "Hz"}, DataError, "should be a length .*got 'Hz'"),
        (
            {**GOOD, "wavelength_unit": ""},
            [1.0, 2.0],
            {},
            DataError,
            "should state the unit of their wavelengths",
        ),
        (
            {**GOOD, "wavelength_unit": "pixel"},
            [0.1],
            {"wavelength_unit": "nm"},
            DataError,
            "got 'pixel'",
        ),
        (
            {**GOOD, "wavelength": GOOD["wavelength"][::-1]},
            [2.0, 3.0],
            {},
            DataError,
            "spectra.wavelength should rise",
        ),
        (
            GOOD,
            [2.0, 3.0] * u.AA,
            {"wavelength_unit": "nm"},
            DataError,
            "should agree with the unit of wavelength",
        ),
        (GOOD, [2.0], {}, ShapeError, "two pixels or more, got one"),
    ],
)
def test_what_cannot_be_resampled_is_refused(spectra, wavelength, options, error, words):
    with pytest.raises(error, match=words):
        resample(Spectra(**spectra), wavelength, **options)


def test_arrays_that_do_not_fit_are_refused():
    R = build_resampling_matrix(OLD, GRIDS["wider"])
    J, ivar = np.ones((2, 3, 9)), np.ones((2, 40))
    for bad_J, bad_ivar in [(J[0], ivar), (J[:, :, :8], ivar), (J, ivar[:, :39]), (J[:1], ivar)]:
        with pytest.raises(ShapeError, match="ivar is that of the flux before it was resampled"):
            propagate_through(bad_J, R, bad_ivar)
    without = resample(Spectra(flux=np.ones((1, 40)), wavelength=OLD), GRIDS["wider"])
    with pytest.raises(DataError, match="should come with ivar for a covariance"):
        without.covariance_factor(0)
