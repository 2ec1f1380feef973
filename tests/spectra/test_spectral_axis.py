"""Units, logarithms and media of wavelengths as files spell them; what rises like wavelengths."""

import numpy as np
import pytest
from astropy import units as u
from conftest import SHARED_DATA

import symspec as ss
from symspec.errors import DataError
from symspec.spectra.spectral_axis import (
    check_plausible,
    convert_to_wavelength,
    find_medium,
    is_same_spectral_unit,
    parse_spectral_unit,
    rises_like_wavelengths,
)

TECATOR = SHARED_DATA / "tecator" / "tecator_meats.npz"


@pytest.mark.parametrize(
    ("text", "unit", "scale", "medium"),
    [
        ("Angstrom", "Angstrom", "linear", None),
        ("ANGSTROMS", "Angstrom", "linear", None),
        ("A", "Angstrom", "linear", None),
        ("Angstrom (Vacuum)", "Angstrom", "linear", "vacuum"),
        ("angstrom, air", "Angstrom", "linear", "air"),
        ("NM", "nm", "linear", None),
        ("nanometers", "nm", "linear", None),
        ("MICRONS", "um", "linear", None),
        ("UM", "um", "linear", None),
        ("m", "m", "linear", None),
        ("dex(Angstrom)", "Angstrom", "log10", None),
        ("log(Angstrom)", "Angstrom", "log10", None),
        ("log10(nm)", "nm", "log10", None),
        ("ln(Angstrom)", "Angstrom", "ln", None),
        ("[log Angstrom]", "Angstrom", "log10", None),
        ("cm-1", "cm-1", "linear", None),
        ("1/CM", "cm-1", "linear", None),
        ("Hz", "Hz", "linear", None),
        ("HZ", "Hz", "linear", None),
        ("KEV", "keV", "linear", None),
    ],
)
def test_units_are_understood_as_files_spell_them(text, unit, scale, medium):
    found = parse_spectral_unit(text)
    assert u.Unit(found.unit) == u.Unit(unit)
    assert (found.scale, found.medium) == (scale, medium)


@pytest.mark.parametrize("text", ["", "K", "furlong", "s", "dex(K)", "mag", "(air)", "Angstroem"])
def test_what_is_no_unit_of_spectra_is_refused(text):
    with pytest.raises(DataError, match="a wavenumber, a frequency or an energy that astropy"):
        parse_spectral_unit(text)


@pytest.mark.parametrize("text", ["dex(Angstrom)", "cm-1", "eV"])
def test_in_memory_wavelengths_are_lengths(text):
    """Astropy converts 1 dex(Angstrom) to 10 Angstrom, which is no factor."""
    stars = ss.Spectra(flux=np.ones((1, 3)), wavelength=[3.6, 3.7, 3.8], wavelength_unit=text)
    with pytest.raises(DataError, match=r"should be a length that astropy\.units knows, got"):
        ss.resample(stars, [4000.0, 5000.0], wavelength_unit="Angstrom")


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("dex(Angstrom)", [3.6, 3.7, 4.0], 10 ** np.array([3.6, 3.7, 4.0])),
        ("ln(Angstrom)", [8.1, 8.2, 9.0], np.exp([8.1, 8.2, 9.0])),
        ("m", [4e-7, 5e-7, 1e-6], [4000, 5000, 10000]),
        ("cm-1", [25000, 20000, 10000], [4000, 5000, 10000]),
        ("Hz", [6e14, 5e14, 3e14], 299792458e10 / np.array([6e14, 5e14, 3e14])),
        ("eV", [3.0, 2.5, 1.0], 12398.419843320025 / np.array([3.0, 2.5, 1.0])),
    ],
)
def test_numbers_become_wavelengths(text, values, expected):
    wavelength, unit = convert_to_wavelength(np.array(values), parse_spectral_unit(text))
    assert unit == "Angstrom"
    np.testing.assert_allclose(wavelength, expected, rtol=1e-12)


@pytest.mark.parametrize("text", ["nm", "um", "micron"])
def test_other_lengths_stay_as_they_are(text):
    values = np.array([1.0, 2.0])
    wavelength, unit = convert_to_wavelength(values, parse_spectral_unit(text))
    assert wavelength is values
    assert unit == text


def test_frequencies_and_the_like_are_of_vacuum():
    media = {text: find_medium(parse_spectral_unit(text)) for text in ("nm", "Hz", "cm-1", "eV")}
    assert media == {"nm": None, "Hz": "vacuum", "cm-1": "vacuum", "eV": "vacuum"}


def test_a_logarithm_is_another_unit():
    assert is_same_spectral_unit("NM", "nanometer")
    assert is_same_spectral_unit("Angstrom (Vacuum)", "AA")
    assert not is_same_spectral_unit("dex(Angstrom)", "Angstrom")
    assert not is_same_spectral_unit("nm", "Angstrom")


# --- plausibility


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    ("low", "high", "unit", "as_stated", "as_assumed"),
    [
        (3800, 9000, "Angstrom", True, True),
        (1150, 1800, "Angstrom", True, True),
        (1.0, 20.0, "Angstrom", True, False),
        (400, 900, "Angstrom", True, False),
        (3.6, 3.9, "Angstrom", True, False),
        (0.4, 2.5, "Angstrom", False, False),
        (4e14, 8e14, "Angstrom", False, False),
        (0.0, 9000, "Angstrom", False, False),
        (0.2, 1.0, "m", True, False),
        (0.2, 2.0, "m", False, False),
        (0.05, 900, "nm", False, False),
    ],
)
def test_wavelengths_are_plausible_or_asked_for(low, high, unit, as_stated, as_assumed, stated):
    grid = np.linspace(low, high, 5)
    if as_stated if stated else as_assumed:
        check_plausible(grid, unit, "wave", assumed=None if stated else "without a unit")
        return
    words = "between 1 Angstrom and 1 m" if stated else "without a unit should be in Angstrom"
    with pytest.raises(DataError, match=rf"wave .*{words}.* got numbers from .* wavelength_unit="):
        check_plausible(grid, unit, "wave", assumed=None if stated else "without a unit")


# --- what rises like wavelengths


PIXELS = np.arange(400)
RISING = {
    "linear": 5000 + 0.5 * PIXELS,
    "falling": 9000 - 0.5 * PIXELS,
    "logarithmic": 10 ** (3.6 + 1e-4 * PIXELS),
    "logarithms in float32": (3.6 + 1e-4 * PIXELS).astype(np.float32),
    "logarithmic in float32": (10 ** (4.179 + 6e-6 * PIXELS)).astype(np.float32),
    "finer than float32": (9000 + 0.003 * PIXELS).astype(np.float32),
    "a polynomial": 5000 + 0.5 * PIXELS + 1e-5 * PIXELS**2 - 2e-9 * PIXELS**3,
    "three detectors": np.concatenate(
        [np.linspace(*ends, 130) for ends in ((15145, 15808), (15856, 16436), (16475, 16951))]
    ),
    "micrometres": 1.5 + 0.001 * PIXELS,
    "frequencies": 6e14 - 1e10 * PIXELS,
    "numbers of pixels": PIXELS + 1.0,
}
NOT = {
    "noise": 1 + 0.1 * np.random.default_rng(0).normal(size=400),
    "a steep slope with noise": PIXELS + np.random.default_rng(1).normal(size=400),
    "a sum of noise": np.cumsum(np.random.default_rng(2).uniform(1, 2, size=400)),
    "one pixel turned round": np.where(PIXELS == 200, 5000, 5000 + 0.5 * PIXELS),
    "a constant": np.ones(400),
    "a band's edge": 1 / (1 + np.exp(-(PIXELS - 200) / 8)),
    "negative numbers": PIXELS - 200.0,
    "a missing pixel": np.where(PIXELS == 3, np.nan, 5000 + 0.5 * PIXELS),
    "too few": np.arange(1.0, 8.0),
    "a matrix": np.tile(5000 + 0.5 * PIXELS, (2, 1)),
}


@pytest.mark.parametrize("name", RISING)
def test_wavelengths_rise(name):
    assert rises_like_wavelengths(RISING[name])
    assert rises_like_wavelengths(RISING[name][::-1])


@pytest.mark.parametrize("name", NOT)
def test_flux_does_not(name):
    assert not rises_like_wavelengths(NOT[name])


@pytest.mark.parametrize("snr", [10, 100, 1000])
def test_no_generated_star_does(snr):
    stars = ss.datasets.generated_stars(200, n_pixels=200, snr=snr, rng=np.random.default_rng(3))
    assert not any(map(rises_like_wavelengths, stars.flux))


@pytest.mark.skipif(not TECATOR.exists(), reason="the real spectra are not here")
@pytest.mark.parametrize("pixels", [slice(None), slice(20), slice(40), slice(20, 40)])
def test_no_smooth_absorbance_does(pixels):
    """Near infrared spectra of meat, most of which rise from pixel to pixel in these ranges."""
    absorbance = np.load(TECATOR)["spectra"][:, pixels]
    assert not any(map(rises_like_wavelengths, absorbance))
