"""Grids of FITS headers as programs write them, against astropy's coordinates; errors as flags."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.wcs import WCS
from fits_writing import FLUX, IVAR, N_PIXELS, SIGMA, image, write

from symspec.errors import DataError, ValuesDroppedWarning
from symspec.spectra.readers.read import read_spectra

PIXELS = np.arange(N_PIXELS)
WCS_GRIDS = {
    "CDELT1 and PC1_1": {"CRVAL1": 5000.0, "CDELT1": 1.0, "PC1_1": 0.5, "CRPIX1": 3.0},
    "PC1_1 alone beside CDELT1": {"CRVAL1": 5000.0, "CDELT1": 0.25, "PC1_1": 4.0, "CRPIX1": 1.0},
    "CD1_1": {"CRVAL1": 5000.0, "CD1_1": 0.5, "CRPIX1": 1.0},
    "metres": {"CRVAL1": 5e-7, "CDELT1": 1e-10, "CRPIX1": 1.0, "CUNIT1": "m"},
    "air": {"CRVAL1": 500.0, "CDELT1": 0.1, "CRPIX1": 2.0, "CUNIT1": "nm", "CTYPE1": "AWAV"},
    "frequencies": {"CRVAL1": 6e14, "CDELT1": -1e11, "CUNIT1": "Hz", "CTYPE1": "FREQ"},
    "wavenumbers": {"CRVAL1": 2e6, "CDELT1": -1e3, "CTYPE1": "WAVN", "CUNIT1": "m-1"},
    "energies": {"CRVAL1": 4e-19, "CDELT1": -1e-22, "CUNIT1": "J", "CTYPE1": "ENER"},
}


@pytest.mark.parametrize("name", WCS_GRIDS)
def test_a_grid_is_that_of_astropy(tmp_path, name):
    cards = {"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRPIX1": 1.0} | WCS_GRIDS[name]
    hdu = image(FLUX, primary=True, **cards)
    spectra = read_spectra(write(tmp_path / "x", hdu))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(hdu.header, naxis=[1])
    stored = wcs.wcs_pix2world(PIXELS, 0)[0] * wcs.wcs.cunit[0]
    expected = stored.to_value(spectra.wavelength_unit, equivalencies=u.spectral())
    np.testing.assert_allclose(spectra.wavelength, expected, rtol=1e-11)
    media = {"AWAV": "air", "WAVE": None}  # WAVE is written of air, too
    assert spectra.wavelength_medium == media.get(cards["CTYPE1"], "vacuum")
    np.testing.assert_array_equal(spectra.flux, FLUX)


OTHER_GRIDS = {
    "nanometers in WAT1_001": (
        {
            "CTYPE1": "LINEAR",
            "CRVAL1": 500.0,
            "CDELT1": 0.1,
            "WAT1_001": "wtype=linear label=Wavelength units=nanometers",
        },
        500 + 0.1 * PIXELS,
        "nm",
        None,
    ),
    "Angstroms in WAT1_001": (
        {
            "CTYPE1": "LINEAR",
            "CRVAL1": 5000.0,
            "CD1_1": 0.1,
            "DC_FLAG": 0,
            "WAT1_001": "wtype=linear label=Wavelength units=Angstroms",
        },
        5000 + 0.1 * PIXELS,
        "Angstrom",
        None,
    ),
    "dex": (
        {"CRVAL1": 3.7, "CDELT1": 1e-4, "CUNIT1": "dex(Angstrom)"},
        10 ** (3.7 + 1e-4 * PIXELS),
        "Angstrom",
        None,
    ),
    "dex and DC-FLAG": (
        {"CRVAL1": 3.7, "CDELT1": 1e-4, "CUNIT1": "dex(Angstrom)", "DC_FLAG": 1},
        10 ** (3.7 + 1e-4 * PIXELS),
        "Angstrom",
        None,
    ),
    "a natural logarithm": (
        {"CRVAL1": 8.5, "CDELT1": 1e-4, "CUNIT1": "ln(Angstrom)"},
        np.exp(8.5 + 1e-4 * PIXELS),
        "Angstrom",
        None,
    ),
    "logarithms of nanometres": (
        {"CRVAL1": 2.7, "CDELT1": 1e-4, "CTYPE1": "LOG-LINEAR", "CUNIT1": "NM"},
        10 ** (2.7 + 1e-4 * PIXELS),
        "nm",
        None,
    ),
    "a medium in the unit": (
        {"CRVAL1": 5000.0, "CDELT1": 1.0, "CUNIT1": "Angstrom (Vacuum)"},
        5000.0 + PIXELS,
        "Angstrom",
        "vacuum",
    ),
    "AIRORVAC": (
        {"CRVAL1": 5000.0, "CDELT1": 1.0, "AIRORVAC": "air"},
        5000.0 + PIXELS,
        "Angstrom",
        "air",
    ),
    "VACUUM": (
        {"CRVAL1": 5000.0, "CDELT1": 1.0, "VACUUM": True},
        5000.0 + PIXELS,
        "Angstrom",
        "vacuum",
    ),
}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_a_grid_is_what_its_program_means(tmp_path, name):
    cards, expected, unit, medium = OTHER_GRIDS[name]
    spectra = read_spectra(write(tmp_path / "x", image(FLUX, primary=True, **cards)))
    np.testing.assert_allclose(spectra.wavelength, expected, rtol=1e-13)
    assert spectra.wavelength_unit == unit
    assert spectra.wavelength_medium == medium


def test_the_medium_can_be_said_where_the_file_does_not(tmp_path):
    cards = {"CRVAL1": 5000.0, "CDELT1": 1.0, "CTYPE1": "WAVE"}
    path = write(tmp_path / "x", image(FLUX, primary=True, **cards))
    for medium in (None, "air", "vacuum"):
        assert read_spectra(path, wavelength_medium=medium).wavelength_medium == medium
    path = write(tmp_path / "y", image(FLUX, primary=True, VACUUM=True, **cards))
    assert read_spectra(path, wavelength_medium="vacuum").wavelength_medium == "vacuum"
    with pytest.raises(DataError, match="'air' should agree with the file, got 'vacuum' there"):
        read_spectra(path, wavelength_medium="air")


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".fits", ".h5"])
def test_nanometres_are_asked_for_in_every_format(tmp_path, suffix):
    import h5py
    from astropy.io import fits

    grid = 400 + PIXELS.astype(float)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, flux=FLUX, wavelength=grid)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["flux"] = FLUX
            file["wavelength"] = grid
    elif suffix == ".csv":
        np.savetxt(path, FLUX, delimiter=",", header=",".join(map(str, grid)), comments="")
    else:
        hdus = [fits.PrimaryHDU(FLUX), fits.ImageHDU(grid, name="WAVELENGTH")]
        fits.HDUList(hdus).writeto(path)
    with pytest.raises(DataError, match=r"should be in Angstrom, .* got numbers from 400 to 449"):
        read_spectra(path)
    spectra = read_spectra(path, wavelength_unit="nm")
    np.testing.assert_array_equal(spectra.wavelength, grid)
    assert spectra.wavelength_unit == "nm"


@pytest.mark.parametrize("name", ["wavelength", "wave"])
@pytest.mark.parametrize("unit", [None, "dex(Angstrom)", "ln(Angstrom)", "cm-1", "nm", "eV"])
def test_a_table_in_memory_says_its_unit(name, unit):
    """The same for all formats, as one function reads the grid of named arrays."""
    from astropy.table import Table

    wavelength = 5000 + PIXELS.astype(float)
    stored = {
        None: wavelength,
        "dex(Angstrom)": np.log10(wavelength),
        "ln(Angstrom)": np.log(wavelength),
        "cm-1": 1e8 / wavelength,
        "nm": wavelength / 10,
        "eV": (wavelength * u.AA).to_value("eV", equivalencies=u.spectral()),
    }[unit]
    table = Table({"flux": FLUX, name: np.tile(stored, (6, 1))})
    spectra = read_spectra(table, wavelength_unit=unit)
    found = spectra.wavelength * (10 if spectra.wavelength_unit == "nm" else 1)
    np.testing.assert_allclose(found, wavelength, rtol=1e-12)


@pytest.mark.parametrize("unit", [None, "log10(Angstrom)", "Angstrom", "whatever"])
def test_a_name_says_that_it_is_a_logarithm(unit):
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units that astropy does not know
        table = Table({"flux": FLUX, "loglam": np.tile(np.log10(5000.0 + PIXELS), (6, 1))})
        table["loglam"].unit = u.Unit(unit, parse_strict="silent") if unit else None
    np.testing.assert_allclose(read_spectra(table).wavelength, 5000.0 + PIXELS, rtol=1e-13)


def test_logarithms_in_a_column_are_asked_for_and_then_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, flux=FLUX, wavelength=np.log10(5000.0 + PIXELS))
    with pytest.raises(DataError, match=r"got numbers from 3\.69.*dex\(Angstrom\)"):
        read_spectra(path)
    spectra = read_spectra(path, wavelength_unit="dex(Angstrom)")
    np.testing.assert_allclose(spectra.wavelength, 5000.0 + PIXELS, rtol=1e-13)
    np.savez(path, flux=FLUX, wavelength=np.log10(5000.0 + PIXELS), wavelength_unit="dex(AA)")
    assert read_spectra(path).wavelength[0] == pytest.approx(5000, rel=1e-13)


# --- errors that are flags, or numbers


def write_errors(path, sigma, name="sigma"):
    np.savez(path, flux=1000 * FLUX, **{name: sigma})
    return path


def test_errors_near_the_others_are_no_flags_without_a_word(tmp_path):
    """Counts with errors of 400 and 1100: the larger lose all weight, so it is said."""
    sigma = np.full(FLUX.shape, 400.0)
    sigma[:, ::5] = 1100.0
    path = write_errors(tmp_path / "x.npz", sigma)
    with pytest.warns(
        ValuesDroppedWarning,
        match=r"sigma holds errors .* bad_error=999 in 60 of 300 pixels .* the others, 400: .*inf",
    ):
        ivar = read_spectra(path).ivar
    np.testing.assert_array_equal(ivar == 0, sigma == 1100)
    kept = read_spectra(path, bad_error=np.inf).ivar
    np.testing.assert_allclose(kept, sigma**-2, rtol=1e-14)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("flag", [999.0, 1e10])
def test_flags_far_from_the_errors_are_flags(tmp_path, flag):
    sigma = SIGMA.astype(float)
    sigma[:, ::5] = flag
    ivar = read_spectra(write_errors(tmp_path / "x.npz", sigma)).ivar
    np.testing.assert_array_equal(ivar == 0, sigma == flag)


@pytest.mark.parametrize("kind", ["sigma", "var", "ivar"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -9999.0])
def test_errors_of_which_none_can_be_used_are_refused(tmp_path, kind, bad):
    path = write_errors(tmp_path / "x.npz", np.full(FLUX.shape, bad), kind)
    with pytest.raises(DataError, match=f"{kind} as .* should hold usable errors, got none"):
        read_spectra(path)


def test_stars_without_errors_are_kept_beside_others(tmp_path):
    """One usable star among 40 is enough, also one that is not looked at first."""
    sigma = np.full((40, N_PIXELS), np.nan)
    sigma[33] = 0.1
    path = tmp_path / "x.npz"
    np.savez(path, flux=np.tile(FLUX[:1], (40, 1)), sigma=sigma)
    ivar = read_spectra(path).ivar
    np.testing.assert_array_equal((ivar > 0).any(axis=1), np.arange(40) == 33)


def test_an_inverse_variance_of_zero_says_something(tmp_path):
    path = write_errors(tmp_path / "x.npz", np.zeros(FLUX.shape), "ivar")
    assert (read_spectra(path).ivar == 0).all()
    assert IVAR.shape == FLUX.shape
