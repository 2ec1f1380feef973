"""Lines follow Saha, Boltzmann and the curve of growth, and those of the Sun are as observed."""

import numpy as np
import pytest
from scipy.special import voigt_profile
from star_cases import CASES, SUN, width_of

from symspec.errors import OptionError
from symspec.spectra import line_list
from symspec.spectra.line_list import KNOWN_LINES, LINE_WAVELENGTH, equivalent_widths, strong_lines


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
