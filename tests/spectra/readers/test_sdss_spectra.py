"""Layouts of SDSS's files, written as their documentation says, are read entry by entry."""

import numpy as np
import pytest
from astropy.io import fits
from conftest import SHARED_DATA
from fits_writing import FLUX, IVAR, N_PIXELS, SIGMA, WAVELENGTH, image, write

from symspec.errors import DataError, OptionError
from symspec.spectra.readers.read import open_spectra, read_spectra

REAL_BOSS = SHARED_DATA / "wdtools/sample_spectrum.fits"
APOGEE_BAD = (0, 1, 2, 3, 4, 5, 6, 7, 14)


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def compressed(request):
    return request.param


def write_apstar(path, n_visits=3, *, n_pixels=8575, masks=True, **options):
    """Write apStar's flux, error and bitmask: two combined rows and the visits, or one visit."""
    n_rows = n_visits + 2 if n_visits > 1 else 1
    rng = np.random.default_rng(n_visits)
    flux = rng.normal(1.0, 0.1, size=(n_rows, n_pixels)).astype(np.float32)
    error = rng.uniform(0.01, 0.1, size=flux.shape).astype(np.float32)
    mask = np.zeros(flux.shape, dtype=np.int16)
    error[0, 7] = 1e10
    if masks:
        for bit in range(15):
            mask[0, 100 + bit] = 1 << bit
    if n_rows == 1:
        flux, error, mask = flux[0], error[0], mask[0]
    grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC_FLAG": 1}
    primary = image(None, primary=True, OBJID="2M00000068+5710233", **grid)
    hdus = [image(flux, **grid), image(error, **grid), image(mask, **grid), image(flux * 0, **grid)]
    return write(path, primary, *hdus, **options), np.atleast_2d(flux), np.atleast_2d(error)


def test_an_apstar_file_gives_its_combined_spectrum(tmp_path, compressed):
    path, flux, error = write_apstar(tmp_path / "apStar", compressed=compressed)
    spectra = read_spectra(path)
    assert spectra.flux.shape == (1, 8575)
    np.testing.assert_array_equal(spectra.flux[0], flux[0])
    bad = np.zeros(8575, dtype=bool)
    bad[[7, *(100 + bit for bit in APOGEE_BAD)]] = True
    np.testing.assert_array_equal(spectra.ivar[0] == 0, bad)
    np.testing.assert_allclose(
        spectra.ivar[0][~bad], error[0][~bad].astype(float) ** -2, rtol=1e-14
    )
    # the last pixel of APOGEE's grid, as its documentation has it
    assert spectra.wavelength[0] == pytest.approx(15100.80, abs=0.01)
    assert spectra.wavelength[-1] == pytest.approx(16999.81, abs=0.01)
    assert spectra.wavelength_unit == "Angstrom"
    assert spectra.ids.tolist() == ["2M00000068+5710233"]


@pytest.mark.parametrize(
    ("choice", "rows", "ids"),
    [
        ("combined", [0], ["X"]),
        ("combined_global", [1], ["X"]),
        ("visits", [2, 3, 4], ["X visit 1", "X visit 2", "X visit 3"]),
        ("all", [0, 1, 2, 3, 4], ["X", "X", "X visit 1", "X visit 2", "X visit 3"]),
    ],
)
def test_rows_of_an_apstar_file_are_picked_by_name(tmp_path, choice, rows, ids):
    path, flux, error = write_apstar(tmp_path / "apStar", masks=False)
    spectra = read_spectra(path, apstar=choice, bad_error=np.inf)
    np.testing.assert_array_equal(spectra.flux, flux[rows])
    np.testing.assert_allclose(spectra.ivar, error[rows].astype(float) ** -2, rtol=1e-14)
    assert [name.replace("2M00000068+5710233", "X") for name in spectra.ids] == ids
    with open_spectra(path, apstar=choice, bad_error=np.inf) as file:
        for row in range(len(rows)):
            np.testing.assert_array_equal(file.read(slice(row, row + 1)).flux[0], flux[rows[row]])


def test_an_apstar_file_of_one_visit_has_one_row(tmp_path):
    path, flux, _ = write_apstar(tmp_path / "apStar", n_visits=1)
    for choice in ("combined", "combined_global", "visits", "all"):
        np.testing.assert_array_equal(read_spectra(path, apstar=choice).flux, flux)
    with pytest.raises(
        OptionError, match=r"apstar should be one of 'combined', .* did you mean 'visits'"
    ):
        read_spectra(path, apstar="visit")


def test_the_bits_that_count_can_be_said(tmp_path):
    path, _, _ = write_apstar(tmp_path / "apStar")
    for bits in [(12,), (12, 13, 0), ()]:
        ivar = read_spectra(path, mask_bits=bits).ivar[0]
        np.testing.assert_array_equal(
            np.flatnonzero(ivar == 0), sorted([7, *(100 + bit for bit in bits)])
        )
    with pytest.raises(
        OptionError, match=r"mask_bits should be 0 to 15 for bitmask of .*, got \[16\]"
    ):
        read_spectra(path, mask_bits=(16,))


def test_an_aspcapstar_file_has_a_model_where_others_have_a_mask(tmp_path):
    grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR"}
    hdus = [image(array, **grid) for array in (FLUX[0], SIGMA[0], FLUX[1])]
    spectra = read_spectra(write(tmp_path / "x", *hdus))
    np.testing.assert_array_equal(spectra.flux, FLUX[:1])
    np.testing.assert_allclose(spectra.ivar, IVAR[:1], rtol=1e-14)


def test_an_apvisit_file_is_sorted_to_one_rising_grid(tmp_path, compressed):
    rng = np.random.default_rng(3)
    ends = [
        (16951.0, 16475.0),
        (16436.0, 15856.0),
        (15808.0, 15145.0),
    ]  # red to blue, falling within each chip
    wavelength = np.stack([np.linspace(*pair, 4096) for pair in ends])
    flux = rng.normal(1.0, 0.1, size=(3, 4096)).astype(np.float32)
    error = rng.uniform(0.01, 0.1, size=(3, 4096)).astype(np.float32)
    mask = np.zeros((3, 4096), dtype=np.int16)
    mask[1, 10], mask[2, 20], mask[0, 30] = 1, 2**14, 2**9
    hdus = [image(array) for array in (flux, error, mask, wavelength)]
    primary = image(None, primary=True, OBJID="2M1")
    spectra = read_spectra(
        write(tmp_path / "apVisit", primary, *hdus, image(flux), compressed=compressed)
    )
    assert spectra.flux.shape == (1, 3 * 4096)
    assert (np.diff(spectra.wavelength) > 0).all()
    for chip, pixel in [(0, 0), (1, 10), (2, 20), (2, 4095), (0, 30), (1, 2000)]:
        at = int(np.flatnonzero(spectra.wavelength == wavelength[chip, pixel])[0])
        assert spectra.flux[0, at] == flux[chip, pixel]
        good = (chip, pixel) not in ((1, 10), (2, 20))
        expected = float(error[chip, pixel]) ** -2 if good else 0.0
        assert spectra.ivar[0, at] == pytest.approx(expected, rel=1e-14)
    assert np.count_nonzero(spectra.ivar == 0) == 2
    assert spectra.ids.tolist() == ["2M1"]


def test_chips_that_overlap_in_a_wavelength_are_refused(tmp_path):
    wavelength = (
        np.stack([np.linspace(3, 2, 11), np.linspace(2, 1, 11), np.linspace(0.9, 0.1, 11)]) * 1000
    )
    mask = np.zeros((3, 11), dtype=np.int16)
    hdus = [image(array) for array in (wavelength, wavelength, mask, wavelength)]
    with pytest.raises(
        DataError, match="should rise or fall from pixel to pixel, got twice the same at 1 places"
    ):
        read_spectra(write(tmp_path / "x", *hdus), bad_error=np.inf)


def coadd(**extra):
    and_mask = np.zeros(N_PIXELS, dtype=np.int32)
    and_mask[[3, 4]] = 2**23, 2**31 - 1
    columns = {
        "flux": ("E", FLUX[0]),
        "loglam": ("E", np.log10(WAVELENGTH)),
        "ivar": ("E", np.where(np.arange(N_PIXELS) == 9, 0, IVAR[0])),
        "and_mask": ("J", and_mask),
        "or_mask": ("J", np.ones(N_PIXELS)),
        "model": ("E", FLUX[1]),
        **extra,
    }
    made = [fits.Column(name, form, array=array) for name, (form, array) in columns.items()]
    return fits.BinTableHDU.from_columns(made, name="COADD")


def test_a_boss_coadd_is_read(tmp_path, compressed):
    primary = image(
        None, primary=True, PLATEID=4455, MJD=55539, FIBERID=92, COEFF0=3.5, COEFF1=1e-4, DC_FLAG=1
    )
    spall = fits.BinTableHDU.from_columns(
        [fits.Column("FLUX_OTHER", "5E", array=np.ones((1, 5)))], name="SPALL"
    )
    path = write(tmp_path / "spec", primary, coadd(), spall, compressed=compressed)
    spectra = read_spectra(path)
    np.testing.assert_array_equal(spectra.flux, FLUX[:1])
    np.testing.assert_allclose(spectra.wavelength, WAVELENGTH, rtol=1e-6)  # of float32
    bad = np.isin(np.arange(N_PIXELS), [3, 4, 9])
    np.testing.assert_array_equal(spectra.ivar[0] == 0, bad)
    np.testing.assert_allclose(spectra.ivar[0][~bad], IVAR[0][~bad], rtol=1e-6)  # of float32
    assert spectra.ids.tolist() == ["4455-55539-0092"]
    ivar = read_spectra(path, mask_bits=(23,)).ivar[0]
    np.testing.assert_array_equal(np.flatnonzero(ivar == 0), [3, 4, 9])
    ivar = read_spectra(path, mask_bits=(0, 1)).ivar[0]
    np.testing.assert_array_equal(np.flatnonzero(ivar == 0), [4, 9])


@pytest.mark.skipif(not REAL_BOSS.exists(), reason="the real spectrum is not here")
def test_a_real_boss_spectrum_is_read():
    spectra = read_spectra(REAL_BOSS)
    with fits.open(REAL_BOSS) as opened:
        table = opened[1].data
        np.testing.assert_array_equal(spectra.flux[0], table["flux"])
        good = (table["ivar"] > 0) & (table["and_mask"] == 0)
        np.testing.assert_array_equal(spectra.ivar[0], np.where(good, table["ivar"], 0))
        np.testing.assert_allclose(
            spectra.wavelength, 10 ** table["loglam"].astype(float), rtol=1e-14
        )
    assert spectra.ids.tolist() == ["4455-55539-0692"]
    assert (spectra.wavelength[[0, -1]] // 10).tolist() == [359, 1039]
    other = read_spectra(REAL_BOSS, hdu=4)
    assert other.n_pixels == 2517
