import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SHARED_DATA
from scipy.special import voigt_profile

from symspec.errors import (
    DataError,
    FileFormatError,
    MissingDependencyError,
    OptionError,
    ShapeError,
)
from symspec.spectra import line_list
from symspec.spectra.datasets import (
    LINE_FWHM,
    _read_one_grid,
    generated_flux,
    generated_flux_jacobian,
    generated_stars,
    miles,
)
from symspec.spectra.line_list import KNOWN_LINES, LINE_WAVELENGTH, equivalent_widths, strong_lines

PACKED_MILES = SHARED_DATA / "miles" / "miles_v9.1.npz"
needs_mangadap = pytest.mark.skipif(
    importlib.util.find_spec("mangadap") is None,
    reason="sdss-mangadap, which carries MILES, is not installed",
)
SUN = np.array([[5772.0, 4.44, 0.0]])
WAVELENGTH = np.linspace(3900, 6900, 601)
CASES = {
    "sun": [5772.0, 4.44, 0.0],
    "cool giant": [4200.0, 1.2, -0.3],
    "metal-poor turn-off": [6400.0, 4.1, -1.9],
    "hot dwarf": [7400.0, 4.3, 0.4],
}


def rng(seed=0):
    return np.random.default_rng(seed)


def width_of(wavelength, labels):
    nearest = np.argmin(np.abs(LINE_WAVELENGTH - wavelength))
    assert abs(LINE_WAVELENGTH[nearest] - wavelength) < 0.02
    return equivalent_widths(np.atleast_2d(labels))[0][:, nearest]


# -------------------------------------------------------------------------------------------------
# MILES


@needs_mangadap
def test_miles_holds_the_785_labelled_fgk_stars():
    spectra = miles()
    assert spectra.flux.shape == (785, 4300)
    assert spectra.label_names == ("TEFF", "LOGG", "FE_H")
    assert spectra.label_units == ("K", "dex", "dex")
    assert spectra.ivar is None
    assert np.isfinite(spectra.labels).all()
    assert ((spectra.labels[:, 0] > 3800) & (spectra.labels[:, 0] < 7500)).all()
    assert len(set(spectra.ids)) == 785
    # the library's documented grid: 3540.5 to 7409.6 Angstrom in steps of 0.9
    np.testing.assert_allclose(
        spectra.wavelength[[0, 1, -1]], [3540.5, 3541.4, 7409.6], rtol=0, atol=1e-9
    )


@needs_mangadap
@pytest.mark.skipif(
    not PACKED_MILES.is_file(), reason="no independently packed MILES file beside the repository"
)
def test_miles_agrees_entry_by_entry_with_the_packed_file():
    with np.load(PACKED_MILES) as packed:
        labels = packed["labels"]
        keep = np.isfinite(labels).all(axis=1) & (labels[:, 0] > 3800) & (labels[:, 0] < 7500)
        spectra = miles()
        np.testing.assert_array_equal(spectra.ids, packed["miles_id"][keep])
        np.testing.assert_array_equal(spectra.labels, labels[keep])
        np.testing.assert_array_equal(
            spectra.flux.astype(np.float32), packed["flux"][keep]
        )  # packed as float32
        np.testing.assert_allclose(spectra.wavelength, packed["wavelength"], rtol=1e-12)


@needs_mangadap
def test_all_miles_labels_agree_with_the_short_table_beside_them():
    folder = Path(importlib.util.find_spec("mangadap").submodule_search_locations[0])
    table = np.loadtxt(folder / "data/spectral_templates/miles/MILES_params.db", dtype=str)
    short = {f"m{number}": np.array(values, dtype=float) for number, *values in table}
    spectra = miles(complete=False, teff_range=None)
    assert spectra.n_stars == 984
    # the short table lacks a few stars; none of the others may differ
    both = np.array([star in short for star in spectra.ids])
    assert both.sum() > 970
    expected = np.array([short[star] for star in spectra.ids[both]])
    expected[expected > 9000 * np.array([11, 1, 1])] = (
        np.nan
    )  # 99999 and 9999 stand for a missing label
    np.testing.assert_array_equal(spectra.labels[both], expected)
    assert np.isnan(spectra.labels).any(axis=1).sum() == 40
    assert miles(teff_range=None).n_stars == 944


@needs_mangadap
def test_a_cool_miles_star_has_the_stronger_sodium_line():
    spectra = miles()
    line = np.abs(spectra.wavelength - 5892.9) < 4
    beside = (np.abs(spectra.wavelength - 5892.9) < 20) & ~line
    depth = 1 - spectra.flux[:, line].mean(axis=1) / spectra.flux[:, beside].mean(axis=1)
    teff = spectra.labels[:, 0]
    # flux and labels of different stars would give equal medians
    assert np.median(depth[teff < 4500]) > 3 * np.median(depth[teff > 6000])


@needs_mangadap
def test_miles_clips_only_when_asked():
    teff_range = (4050.0, 4080.0)
    raw, clipped = miles(teff_range=teff_range), miles(teff_range=teff_range, clip=(0.0, 3.0))
    assert raw.flux.min() < 0
    assert raw.flux.max() > 3
    np.testing.assert_array_equal(clipped.flux, np.minimum(np.maximum(raw.flux, 0), 3))
    np.testing.assert_array_equal(clipped.ids, raw.ids)


@needs_mangadap
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"teff_range": (5000, 4000)},
            r"teff_range should be two finite numbers.*got \(5000, 4000\).*write",
        ),
        ({"teff_range": 5000}, r"teff_range should be two numbers, got 5000: write teff_range="),
        (
            {"teff_range": (1.0, 2.0)},
            r"teff_range should hold some stars, got \(1.0, 2.0\) K: MILES spans",
        ),
        (
            {"clip": (3, 0)},
            r"clip should be two finite numbers.*got \(3, 0\): write clip=\(0.0, 3.0\)",
        ),
    ],
)
def test_miles_refuses_bad_options(options, words):
    with pytest.raises(OptionError, match=words):
        miles(**options)


@pytest.mark.parametrize("state", ["is not installed", "lacks them"])
def test_without_mangadap_the_error_names_the_extra(monkeypatch, tmp_path, state):
    spec = None if "not" in state else SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        MissingDependencyError,
        match=rf'sdss-mangadap, which {state}: pip install "symspec\[demo\]"',
    ):
        miles()


def test_files_on_different_wavelengths_are_refused(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    for name, start in [("a.fits", 3540.5), ("b.fits", 3541.0)]:
        hdu = fits.PrimaryHDU(np.ones(5))
        hdu.header["CRPIX1"], hdu.header["CRVAL1"], hdu.header["CDELT1"] = 2, start, 0.9
        hdu.writeto(tmp_path / name)
    flux, wavelength = _read_one_grid([tmp_path / "a.fits"])
    assert flux.shape == (1, 5)
    np.testing.assert_allclose(wavelength, [3539.6, 3540.5, 3541.4, 3542.3, 3543.2], rtol=1e-12)
    with pytest.raises(
        FileFormatError, match=r"b\.fits should have .*3540\.5.* got .*3541\.0.*: reinstall"
    ):
        _read_one_grid([tmp_path / "a.fits", tmp_path / "b.fits"])


def test_datasets_import_neither_astropy_nor_mangadap():
    code = "import sys, symspec.datasets; print({'astropy', 'mangadap'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert answer.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------- lines and
# widths


def opacity_ratio_by_hand(teff, logg, fe_h, line, element):
    """Line over continuum opacity of one line in plain cgs numbers, one step after the other."""
    from scipy import constants as si

    wavelength, energy, log_gf, ionised = line
    log_eps, chi, u_neutral, u_ion, weight = element
    electron_mass, h, k = si.m_e * 1e3, si.h * 1e7, si.k * 1e7
    e_squared = (si.e * si.c * 10) ** 2  # esu^2
    ev = si.e * 1e7
    p_e = 10 * 10 ** ((logg - 4.44 + fe_h) / 3) * (teff / 5772) ** 9

    def ionised_fraction(u1, u0, energy_ev):
        phi = 2 * u1 / u0 * (2 * np.pi * electron_mass) ** 1.5 * (k * teff) ** 2.5 / h**3
        ratio = phi * np.exp(-energy_ev * ev / (k * teff)) / p_e
        return ratio / (1 + ratio)

    ion = ionised_fraction(u_ion, u_neutral, chi)
    y, partition = (ion, u_ion) if ionised else (1 - ion, u_neutral)
    number = 10 ** (log_eps - 12 + (fe_h if weight > 2 else 0)) * y
    number *= 10**log_gf * np.exp(-energy * ev / (k * teff)) / partition
    velocity = np.sqrt(2 * k * teff / (weight * si.atomic_mass * 1e3) + 1.5e5**2)
    theta = 5040 / teff
    kappa = 4.158e-10 * 3e-17 * p_e * theta**2.5 * 10 ** (0.754 * theta)
    kappa *= 1 - ionised_fraction(1.0, 2.0, 13.598)
    cross_section = (
        np.sqrt(np.pi) * e_squared / (electron_mass * si.c * 100) * wavelength * 1e-8 / velocity
    )
    return cross_section * number / kappa, velocity


@pytest.mark.parametrize("labels", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    ("line", "element"),
    [
        ((6562.79, 10.199, 0.710, False), (12.00, 13.598, 2.0, 1.0, 1.008)),
        ((5889.951, 0.0, 0.108, False), (6.24, 5.139, 2.05, 1.0, 22.990)),
        ((5269.537, 0.859, -1.321, False), (7.50, 7.902, 27.0, 43.0, 55.845)),
        ((5018.440, 2.891, -1.100, True), (7.50, 7.902, 27.0, 43.0, 55.845)),
    ],
    ids=["H-alpha", "Na D2", "Fe I 5269", "Fe II 5018"],
)
def test_widths_follow_saha_and_boltzmann_written_out_by_hand(labels, line, element):
    teff, logg, fe_h = labels
    eta, velocity = opacity_ratio_by_hand(teff, logg, fe_h, line, element)
    a = 0.02 * (
        10 ** ((logg - 4.44 + fe_h) / 3) * (teff / 5772) ** 9
        if line[1] > 10
        else 10 ** ((logg - 4.44) / 1.5)
    )
    growth = np.sqrt(
        2 * np.log(1 + np.pi / 2 * eta**2) + 4 * np.sqrt(np.pi) * a * eta**2 / (1 + eta)
    )
    expected = 0.6 * line[0] * velocity / 2.997925e10 * growth
    # rtol: physical constants are written with five to seven digits
    np.testing.assert_allclose(width_of(line[0], labels), expected, rtol=1e-4)


@pytest.mark.parametrize("a", [0.001, 0.02, 0.2])
def test_curve_of_growth_agrees_with_an_integrated_voigt_profile(a):
    eta = np.logspace(-3, 6, 28)
    v = np.sinh(np.linspace(0, 13, 20001))  # to 2e5 Doppler widths, fine near the middle
    profile = np.sqrt(np.pi) * voigt_profile(v, np.sqrt(0.5), a)  # 1 / sqrt(2): exp(-v^2)
    integrated = 2 * np.trapezoid(-np.expm1(-eta[:, None] * profile), v, axis=1)
    flat, damped = 2 * np.log1p(np.pi / 2 * eta**2), 4 * np.sqrt(np.pi) * a * eta**2 / (1 + eta)
    formula = np.sqrt(flat + damped)
    # 25 %: the formula interpolates; both ends are exact but for terms of relative order a
    np.testing.assert_allclose(formula, integrated, rtol=0.25)
    np.testing.assert_allclose(formula[[0, -1]], integrated[[0, -1]], rtol=0.01 + 2 * a)


# Equivalent widths in the Sun's spectrum [Angstrom], rounded; compare Moore, Minnaert & Houtgast
# (1966)
SOLAR_WIDTHS = {
    "Ca K": (3933.66, 20.3),
    "Ca I 4227": (4226.73, 1.48),
    "Fe I 4045": (4045.81, 1.17),
    "Fe I 5269": (5269.54, 0.48),
    "Mg b1": (5183.60, 1.58),
    "Na D2": (5889.95, 0.75),
    "Na D1": (5895.92, 0.56),
    "H-alpha": (6562.79, 4.0),
    "Ba II 4554": (4554.03, 0.159),
    "Fe I 5250": (5250.21, 0.062),
    "Ca I 6162": (6162.17, 0.222),
}


@pytest.mark.parametrize(("wavelength", "observed"), SOLAR_WIDTHS.values(), ids=SOLAR_WIDTHS.keys())
def test_the_suns_lines_come_out_within_a_factor_of_two(wavelength, observed):
    assert observed / 2 < width_of(wavelength, SUN)[0] < 2 * observed


def test_balmer_wavelengths_follow_rydberg():
    upper = np.arange(3, 10)
    vacuum = 1e8 / (109677.58 * (1 / 4 - 1 / upper**2))
    for wavelength in vacuum / 1.00028:  # refractive index of air in the optical, to 1e-5
        assert np.abs(LINE_WAVELENGTH - wavelength).min() < 0.1


def test_the_line_table_is_sane():
    assert (np.diff(LINE_WAVELENGTH) > 0).all()
    assert 150 < LINE_WAVELENGTH.size < 250
    neutral = ~line_list._IONISED
    assert (
        line_list._EXCITATION[neutral] < line_list._IONISATION[line_list._ELEMENT[neutral]]
    ).all()
    photon = 12398.42 / LINE_WAVELENGTH  # eV; the upper level of a neutral line is bound as well
    upper = line_list._EXCITATION + photon
    assert (upper[neutral] < line_list._IONISATION[line_list._ELEMENT[neutral]]).all()


@pytest.mark.parametrize("labels", CASES.values(), ids=CASES.keys())
def test_width_jacobian_agrees_with_central_differences(labels):
    _, jacobian = equivalent_widths(np.array([labels]))
    for i, step in enumerate([0.5, 1e-4, 1e-4]):
        shift = step * np.eye(3)[i]
        above, below = (equivalent_widths(np.array([labels + sign * shift]))[0] for sign in (1, -1))
        # truncation ~ step^2, roundoff ~ 1e-16 / step: both below 1e-7 of the line width
        np.testing.assert_allclose(
            jacobian[..., i],
            (above - below) / (2 * step),
            rtol=2e-6,
            atol=1e-8 / (1e3 if i == 0 else 1),
        )


def test_cool_stars_have_more_iron_and_sodium_and_hot_stars_more_balmer():
    labels = np.stack([np.linspace(4000, 7000, 7), np.full(7, 4.0), np.zeros(7)], axis=1)
    for cool_line in (5250.209, 5269.537, 5889.951):
        assert (np.diff(width_of(cool_line, labels)) < 0).all()
    for balmer in (6562.79, 4861.35, 4340.47):
        assert (np.diff(width_of(balmer, labels)) > 0).all()


def test_all_metal_lines_grow_with_metallicity():
    labels = np.stack([np.full(6, 5000.0), np.full(6, 3.0), np.linspace(-2, 0.5, 6)], axis=1)
    widths = equivalent_widths(labels)[0]
    metal = line_list._IS_METAL > 0
    assert (np.diff(widths[:, metal], axis=0) > 0).all()
    assert metal.sum() == LINE_WAVELENGTH.size - 7


def test_gravity_weakens_weak_ionised_lines_and_widens_strong_neutral_ones():
    metal_poor = np.array([[5500.0, 3.0, -2.0]])
    widths, jacobian = equivalent_widths(metal_poor)
    weak = widths[0] < 0.02
    by_gravity = jacobian[0, :, 1] / widths[0]
    ionised, metal = line_list._IONISED, line_list._IS_METAL > 0
    assert (by_gravity[weak & ionised] < -0.3).all()
    assert (np.abs(by_gravity[weak & ~ionised & metal]) < 0.25).all()
    _, solar = equivalent_widths(SUN)
    for strong in (5183.604, 5889.951, 4226.728):
        assert solar[0, np.argmin(np.abs(LINE_WAVELENGTH - strong)), 1] > 0


def test_strong_lines_gives_names_in_range_and_in_order():
    assert strong_lines(5880, 6600) == {
        "Na D2": 5889.95,
        "Na D1": 5895.92,
        "TiO 6159": 6159.0,
        "H-alpha": 6562.79,
    }
    assert strong_lines() == KNOWN_LINES
    assert list(KNOWN_LINES.values()) == sorted(KNOWN_LINES.values())
    for name in (
        "Ca K",
        "Ca H",
        "Ca I 4227",
        "Mg b1",
        "Mg b2",
        "Mg b4",
        "Na D1",
        "Na D2",
        "H-beta",
        "Ba II 4554",
    ):
        assert np.abs(LINE_WAVELENGTH - KNOWN_LINES[name]).min() < 0.02


def test_strong_lines_refuses_a_reversed_range():
    with pytest.raises(
        OptionError, match=r"wavelength_min should be below wavelength_max, got 7000 and 4000: swap"
    ):
        strong_lines(7000, 4000)


# ---------------------------------------------------------------------------------------- generated
# stars


def test_generated_flux_is_the_exponential_of_a_sum_over_lines():
    labels = np.array(list(CASES.values()))
    widths, _ = equivalent_widths(labels)
    sigma = LINE_FWHM / 2.3548200450309493
    tau = np.zeros((len(labels), WAVELENGTH.size))
    for star in range(len(labels)):
        for line, at in enumerate(LINE_WAVELENGTH):
            profile = np.exp(-((WAVELENGTH - at) ** 2) / (2 * sigma**2)) / (
                sigma * np.sqrt(2 * np.pi)
            )
            tau[star] += widths[star, line] * profile
    # rtol: sums in another order, of exponents up to about 30
    np.testing.assert_allclose(generated_flux(labels, WAVELENGTH), np.exp(-tau), rtol=1e-12)


def test_the_area_of_a_weak_line_is_its_equivalent_width():
    labels = [5000.0, 3.0, -2.5]
    wavelength = np.linspace(6705, 6730, 2501)  # Ca I 6717.7 is alone there
    area = np.trapezoid(1 - generated_flux([labels], wavelength)[0], wavelength)
    width = width_of(6717.681, labels)[0]
    assert width < 0.02
    assert area == pytest.approx(width, rel=0.01)  # exp(-tau) loses tau / 2.8 of it, tau < 0.01


def test_generated_flux_lies_between_black_and_continuum():
    spectra = generated_stars(200, n_pixels=1000, rng=rng())
    flux = generated_flux(spectra.labels, spectra.wavelength)
    assert flux.min() > 0
    assert flux.max() <= 1
    assert np.median(flux) > 0.9


@pytest.mark.parametrize("labels", CASES.values(), ids=CASES.keys())
def test_flux_jacobian_agrees_with_central_differences(labels):
    jacobian = generated_flux_jacobian([labels], WAVELENGTH)
    assert jacobian.shape == (1, WAVELENGTH.size, 3)
    for i, step in enumerate([0.5, 1e-4, 1e-4]):
        shift = step * np.eye(3)[i]
        above, below = (generated_flux([labels + sign * shift], WAVELENGTH) for sign in (1, -1))
        # roundoff 1e-16 / step, truncation ~ step^2 with derivatives of order one per dex, 1e-3 per
        # K
        atol = 1e-11 if i == 0 else 1e-7
        np.testing.assert_allclose(
            jacobian[..., i], (above - below) / (2 * step), rtol=1e-5, atol=atol
        )


def test_flux_and_jacobian_are_finite_at_the_corners_of_what_is_allowed():
    corners = np.stack(np.meshgrid([2000.0, 20000.0], [-2.0, 10.0], [-10.0, 3.0]), axis=-1).reshape(
        -1, 3
    )
    assert np.isfinite(generated_flux(corners, WAVELENGTH)).all()
    assert np.isfinite(generated_flux_jacobian(corners, WAVELENGTH)).all()


def test_jacobian_keeps_stars_and_labels_apart():
    labels = np.array(list(CASES.values()))
    together = generated_flux_jacobian(labels, WAVELENGTH)
    apart = [generated_flux_jacobian(labels[n : n + 1], WAVELENGTH)[0] for n in range(len(labels))]
    np.testing.assert_allclose(
        together, apart, rtol=1e-10, atol=1e-16
    )  # BLAS sums in another order


def test_float32_flux_is_the_rounded_float64_flux():
    labels = list(CASES.values())
    single = generated_flux(labels, WAVELENGTH, dtype="float32")
    assert single.dtype == np.float32
    # float32 has 6e-8 of each width; exponents reach about 30
    np.testing.assert_allclose(single, generated_flux(labels, WAVELENGTH), atol=1e-6)


def test_generated_stars_are_the_model_plus_noise_of_the_stated_size():
    spectra = generated_stars(400, n_pixels=500, rng=rng(1), snr=50.0)
    noise = spectra.flux - generated_flux(spectra.labels, spectra.wavelength)
    n_values = noise.size
    # five standard errors of a mean and of a standard deviation
    assert abs(noise.mean()) < 5 * 0.02 / np.sqrt(n_values)
    assert abs(noise.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * n_values)
    # fresh noise in every star, also across the blocks in which it is drawn
    correlation = np.corrcoef(noise)[np.triu_indices(400, 1)]
    assert np.abs(correlation).max() < 6 / np.sqrt(500)
    np.testing.assert_array_equal(spectra.ivar, np.full((400, 500), 2500.0))
    np.testing.assert_array_equal(spectra.wavelength, np.linspace(3900, 6900, 500))
    assert spectra.ids[0] == "generated_0"
    assert len(set(spectra.ids)) == 400


def test_generated_labels_fill_their_ranges_independently():
    ranges = {"teff_range": (4500, 5500), "logg_range": (2, 3), "fe_h_range": (-1, 0)}
    labels = generated_stars(2000, n_pixels=2, rng=rng(2), **ranges).labels
    low, high = np.transpose(list(ranges.values()))
    unit = (labels - low) / (high - low)
    assert unit.min() >= 0
    assert unit.max() <= 1
    np.testing.assert_allclose(
        unit.mean(axis=0), 0.5, atol=5 / np.sqrt(12 * 2000)
    )  # five standard errors
    off_diagonal = np.corrcoef(unit.T)[np.triu_indices(3, 1)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(2000)


def test_the_same_seed_gives_the_same_stars_and_another_gives_others():
    first, again, other = (generated_stars(3, n_pixels=50, rng=rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.flux, again.flux)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.flux != other.flux).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_stars": 0}, r"n_stars should be a positive integer, got 0: give"),
        ({"n_stars": 2.0}, r"n_stars should be a positive integer, got 2\.0: give"),
        ({"n_pixels": 1}, r"n_pixels should be an integer of at least 2, got 1: give"),
        (
            {"rng": 0},
            (
                r"rng should be a numpy\.random\.Generator, got .*0: write"
                r" rng=np\.random\.default_rng\(0\)"
            ),
        ),
        (
            {"snr": 0.0},
            r"snr should be one positive number, got 0\.0: for no noise call generated_flux",
        ),
        ({"snr": np.inf}, r"snr should be one positive number, got inf"),
        (
            {"teff_range": (7000, 4000)},
            r"teff_range should be two finite numbers, the smaller first, got \(7000, 4000\)",
        ),
        (
            {"teff_range": (1000, 4000)},
            r"teff_range should lie within 2000 to 20000, got \(1000, 4000\): write",
        ),
        (
            {"logg_range": (4, 4)},
            r"logg_range should be two finite numbers.*write logg_range=\(1\.0, 5\.0\)",
        ),
        (
            {"fe_h_range": (0, np.nan)},
            r"fe_h_range should be two finite numbers, .* got \(0, nan\)",
        ),
        ({"fe_h_range": 0.0}, r"fe_h_range should be two numbers, got 0\.0: write fe_h_range="),
        (
            {"wavelength_range": (-1, 5000)},
            r"wavelength_range should lie within 0 to inf, got \(-1, 5000\)",
        ),
    ],
)
def test_generated_stars_refuses_bad_options(options, words):
    arguments = {"n_stars": 2, "n_pixels": 10, "rng": rng()} | options
    with pytest.raises(OptionError, match=words):
        generated_stars(**arguments)


@pytest.mark.parametrize("function", [generated_flux, generated_flux_jacobian])
@pytest.mark.parametrize(
    ("labels", "wavelength", "error", "words"),
    [
        (
            SUN[0],
            WAVELENGTH,
            ShapeError,
            r"labels should have shape \(star, 3\).* got \(3,\): .* labels\[None, :\]",
        ),
        (
            SUN[:, :2],
            WAVELENGTH,
            ShapeError,
            r"labels should have shape \(star, 3\).* got \(1, 2\): give one row",
        ),
        (
            SUN[:, ::-1],
            WAVELENGTH,
            DataError,
            r"labels\[:, 0\] should be Teff \[K\] from 2000 to 20000, got 0 to 0: .*order",
        ),
        (
            SUN + np.array([0, 0, 5]),
            WAVELENGTH,
            DataError,
            r"labels\[:, 2\] should be \[Fe/H\] from -10 to 3, got 5 to 5",
        ),
        (
            SUN * np.nan,
            WAVELENGTH,
            DataError,
            r"labels should be finite, got NaN or infinite ones: leave",
        ),
        (
            SUN,
            WAVELENGTH[None],
            ShapeError,
            r"wavelength should have shape \(pixel,\), got \(1, 601\): all stars",
        ),
        (
            SUN,
            -WAVELENGTH,
            DataError,
            r"wavelength should be finite and positive, got -6900\.0 to -3900\.0: give",
        ),
    ],
    ids=[
        "one star",
        "two labels",
        "reversed labels",
        "absurd metallicity",
        "nan",
        "a grid a star",
        "negative wavelength",
    ],
)
def test_generated_flux_refuses_bad_arrays(function, labels, wavelength, error, words):
    with pytest.raises(error, match=words):
        function(labels, wavelength)


def test_generated_flux_refuses_another_dtype():
    with pytest.raises(
        OptionError, match=r"dtype should be one of 'float64', 'float32', got 'float16'"
    ):
        generated_flux(SUN, WAVELENGTH, dtype="float16")
