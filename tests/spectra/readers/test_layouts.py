"""Files of every layout are read pixel by pixel, and their nearest misreadings refused by words."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from case_writing import noise, table
from conftest import SHARED_DATA
from fits_writing import image, write
from layout_cases import (
    CASES,
    desi_hdus,
    desi_parts,
    lamost_rows,
    multispec_cards,
    onedspec_bands,
    orders_table,
    overlapping_orders,
    phase3_table,
    xshooter,
)
from mutations import KINDS, try_mutation
from sdss_cases import MWM_CARDS, mwm_table

from symspec.errors import (
    DataError,
    FileFormatError,
    OptionError,
    ShapeError,
    SymspecError,
    UnusedDataWarning,
)
from symspec.spectra.readers.read import open_spectra, read_spectra

pytestmark = pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
N = 30
GRID = 5000 + 0.5 * np.arange(N)
FLUX, IVAR = noise(4, N)


@pytest.mark.parametrize("name", CASES)
def test_a_layout_is_read(tmp_path, name):
    case = CASES[name]()
    spectra = read_spectra(case.write(tmp_path), **case.options)
    last = case.wavelength.size - 1
    order = np.argsort(case.wavelength)
    for pixel in (0, last // 2, last):  # three by name, then all
        stored = order[pixel]
        assert spectra.wavelength[pixel] == pytest.approx(case.wavelength[stored], rel=1e-13)
        assert spectra.flux[-1, pixel] == pytest.approx(case.flux[-1, stored], rel=1e-14)
        if case.ivar is not None:
            assert spectra.ivar[-1, pixel] == pytest.approx(case.ivar[-1, stored], rel=1e-13)
    np.testing.assert_allclose(spectra.wavelength, case.wavelength[order], rtol=1e-13)
    np.testing.assert_allclose(spectra.flux, case.flux[:, order], rtol=1e-14)
    if case.ivar is None:
        assert spectra.ivar is None
    else:
        np.testing.assert_allclose(spectra.ivar, case.ivar[:, order], rtol=1e-13)
    assert spectra.wavelength_unit == case.unit
    assert spectra.wavelength_medium == case.medium
    if case.ids is not None:
        assert spectra.ids.tolist() == case.ids


@pytest.mark.parametrize("name", CASES)
def test_a_layout_says_what_it_is_and_where_all_lies(tmp_path, name):
    case = CASES[name]()
    with open_spectra(case.write(tmp_path), **case.options) as file:
        assert file.contents.layout == case.layout
        assert {"flux", "wavelength"} <= file.contents.sources.keys()
        assert ("uncertainty" in file.contents.sources) == (case.ivar is not None)


@pytest.mark.parametrize("name", CASES)
def test_some_stars_of_a_layout_are_those_of_all(tmp_path, name):
    case = CASES[name]()
    path = case.write(tmp_path)
    whole = read_spectra(path, **case.options)
    with open_spectra(path, **case.options) as file:
        last = file.read(slice(file.n_stars - 1, file.n_stars))
    np.testing.assert_array_equal(last.flux, whole.flux[-1:])
    np.testing.assert_array_equal(last.wavelength, whole.wavelength)
    if whole.ivar is not None:
        np.testing.assert_array_equal(last.ivar, whole.ivar[-1:])


# --- nearest misreadings


def two_rows():
    """Wavelength and flux as rows of one image."""
    return [image(np.stack([GRID, FLUX[0]]), primary=True)]


def five_rows():
    """As LAMOST's, of a telescope that the header does not name."""
    masks = np.zeros((2, N))
    return [image(np.vstack([FLUX[:1], IVAR[:1], GRID[None], masks]), primary=True)]


def rows_with_a_mask():
    """As LAMOST's pilot survey's, of a telescope that the header does not name."""
    primary, *_ = lamost_rows(third=noise(40, seed=6)[0])
    del primary.header["TELESCOP"]
    return [primary]


def desi_without(*names):
    return [hdu for hdu in desi_hdus(desi_parts()) if hdu.name not in names]


def desi_off_by_half_a_pixel():
    parts = desi_parts()
    parts["R"][0][:] += 0.4
    return desi_hdus(parts)


def desi_with_errors(value):
    hdus = desi_hdus(desi_parts())
    for hdu in hdus:
        if hdu.name.endswith("IVAR"):
            hdu.data[...] = value
    return hdus


def desi_with_short_grid():
    parts = desi_parts()
    grid, *others = parts["R"]
    parts["R"] = (grid[1:], *others)
    return desi_hdus(parts)


def lamost_without_any_grid():
    primary, *_ = lamost_rows(third=noise(40, seed=6)[0])
    del primary.header["COEFF0"]
    return [primary]


def mwm_of_two_instruments():
    return [mwm_table("BOSS/APO", 1)[0], mwm_table("APOGEE/APO", 1)[0]]


def mwm_of_none():
    return [mwm_table("BOSS/APO", 0)[0], mwm_table("APOGEE/APO", 0)[0]]


def bands_without_names():
    hdus = onedspec_bands().hdus
    hdus[0].header["BANDID1"] = ""
    return hdus


def bands_called(*names):
    hdus = onedspec_bands().hdus
    for i, name in enumerate(names, 1):
        hdus[0].header[f"BANDID{i}"] = name
    return hdus


def cube_without_cards():
    return [image(np.stack([FLUX, FLUX, IVAR]), primary=True, CRVAL1=5000.0, CDELT1=1.0)]


def multispec_of(*specs, n=1):
    return [image(FLUX[:n], primary=True, **multispec_cards(*specs))]


def phase3_without_a_main_flux():
    hdu, *_ = phase3_table(OTHER=("30D", FLUX[:1]))
    hdu.header["TUTYP6"] = "Spectrum.Data.FluxAxis.Value"
    hdu.header["TUCD2"] = "phot.flux.density"
    hdu.columns.change_name("FLUX", "FLUX_A")
    return [image(None, primary=True), hdu]


def xshooter_slit():
    hdus = xshooter().hdus
    return [
        image(np.tile(hdu.data, (3, 1)), hdu.name, primary=i == 0, INSTRUME="XSHOOTER")
        for i, hdu in enumerate(hdus)
    ]


def several_unnamed_images():
    return [image(None, primary=True), image(FLUX), image(IVAR)]


def wavelengths_named_flux():
    return [table({"FLUX": (f"{N}D", np.tile(GRID, (2, 1)))})]


def wavelengths_first():
    """The first image of a name that says nothing is the grid."""
    return [image(GRID, primary=True), image(FLUX, "SCIENCE")]


def image_and_table():
    """Both may be flux: an image without a name, and a column that is called so."""
    return [image(FLUX, primary=True), table({"FLUX": (f"{N}D", FLUX + 1)})]


def logarithms(**units):
    columns = {"wave": ("D", np.log10(GRID)), "flux": ("D", FLUX[0]), "sigma": ("D", IVAR[0])}
    return [table(columns, units=units)]


def table_without_names():
    return [table({"X": (f"{N}D", FLUX), "Y": (f"{N}D", FLUX)})]


def all_nan(name):
    return [image(FLUX, primary=True), image(np.full(FLUX.shape, np.nan), name)]


def grid_card(**cards):
    return [image(FLUX, primary=True, **{"CRVAL1": 5000.0, "CDELT1": 1.0} | cards)]


REFUSED = {
    "wavelength and flux as rows": (two_rows, {}, DataError, "row 0 that go .* as wavelengths do"),
    "flux, ivar, wavelength as rows": (five_rows, {}, DataError, "row 2 that go .*flux= or hdu="),
    "flux and a mask as rows": (
        rows_with_a_mask,
        {},
        DataError,
        "got whole numbers in row 3 alone, as of a mask: if rows are flux",
    ),
    "mwmStar's logarithms as wavelengths": (
        lambda: [mwm_table("BOSS/APO", 1, cards=MWM_CARDS | {"CTYPE": "LINEAR"})[0]],
        {},
        DataError,
        "of the layout SDSS-V .* from 1,000 to 1,000,000, got numbers from 4.17",
    ),
    "DESI's grid as flux": (
        lambda: desi_hdus(desi_parts()),
        {"hdu": "B_WAVELENGTH"},
        DataError,
        "should be an HDU of flux, got B_WAVELENGTH",
    ),
    "DESI, no such arm": (
        lambda: desi_hdus(desi_parts()),
        {"arm": "Z"},
        OptionError,
        "arms or orders of .*, B, R, got 'Z'",
    ),
    "DESI, arms on different pixels": (
        desi_off_by_half_a_pixel,
        {},
        DataError,
        "should share their pixels, got B, R on different ones near 36",
    ),
    "DESI, arms without errors": (
        lambda: desi_without("B_IVAR", "R_IVAR"),
        {},
        DataError,
        "overlap should come with errors",
    ),
    "DESI, errors of one arm": (
        lambda: desi_without("R_IVAR"),
        {},
        DataError,
        "all arms or none should have errors, got none of R: choose others, arm=",
    ),
    "DESI, a mask of one arm": (
        lambda: desi_without("B_MASK"),
        {},
        DataError,
        "all arms or none should have masks, got none of B",
    ),
    "DESI, errors that are all NaN": (
        lambda: desi_with_errors(np.nan),
        {},
        DataError,
        "ivar as ivar should hold usable errors, got none",
    ),
    "DESI, negative inverse variances": (
        lambda: desi_with_errors(-1.0),
        {},
        DataError,
        "errors of B as ivar should not be negative, got 90",
    ),
    "DESI, a grid too short": (desi_with_short_grid, {}, DataError, "R_WAVELENGTH should have one"),
    "DESI, grids lost": (
        lambda: desi_without("B_WAVELENGTH", "R_WAVELENGTH"),
        {},
        FileFormatError,
        "name the image that holds the flux, got several of other names, HDU 2 B_FLUX",
    ),
    "LAMOST without a grid": (lamost_without_any_grid, {}, DataError, "row 2 of a LAMOST image"),
    "LAMOST with hdu": (
        lambda: [lamost_rows()[0]],
        {"hdu": 0},
        DataError,
        "row 2 that go .* as wavelengths do",
    ),
    "mwmStar of two instruments": (
        mwm_of_two_instruments,
        {},
        DataError,
        r"got BOSS/APO \(1 spectra\), APOGEE/APO \(1 spectra\): say which, hdu=",
    ),
    "mwmStar without spectra": (mwm_of_none, {}, DataError, "BOSS/APO .0 spectra."),
    "bands without names": (
        bands_without_names,
        {},
        DataError,
        "say what they are in cards BANDID",
    ),
    "bands that begin with the errors": (
        lambda: bands_called("sigma", "spectrum"),
        {},
        DataError,
        "first band of IRAF's images should be the spectrum, got BANDID1 = 'sigma'",
    ),
    "an order of stars": (
        lambda: onedspec_bands().hdus,
        {"arm": 2},
        OptionError,
        "got apertures on one grid in .*, which are read as stars",
    ),
    "orders of one number": (
        lambda: multispec_of(*["7 7 0 5000. 1. 30 0. 0. 0."] * 2, n=2),
        {"arm": 7},
        DataError,
        "names of their own, got 7, 7",
    ),
    "a cube": (cube_without_cards, {}, ShapeError, "got an image of shape .3, 4, 30."),
    "orders that overlap": (
        lambda: [overlapping_orders()[0]],
        {},
        DataError,
        "orders that overlap should share their pixels, .* choose one, arm='1'",
    ),
    "no such order": (
        lambda: [overlapping_orders()[0]],
        {"arm": 7},
        OptionError,
        "arms or orders of .*, 1, 2, got '7'",
    ),
    "multispec without a card": (
        lambda: multispec_of("1 1 0 5000. 1. 30 0. 0. 0.", n=2),
        {},
        DataError,
        "each of the 2 apertures, got none for number 2",
    ),
    "multispec in pixels": (
        lambda: multispec_of("1 1 -1 1. 1. 30 0. 0. 0."),
        {},
        DataError,
        "got type -1, which stands for pixels without wavelengths",
    ),
    "multispec by a table": (
        lambda: multispec_of("1 1 2 1. 1. 30 0. 0. 0. 1. 0. 5 2 1. 2. 3. 4."),
        {},
        DataError,
        "got IRAF's function 5",
    ),
    "multispec cut short": (
        lambda: multispec_of("1 1 2 1. 1. 30 0. 0. 0. 1. 0. 1 4 1. 30. 5000. 1."),
        {},
        DataError,
        "should have 4 coefficients, got 2",
    ),
    "multispec without numbers": (
        lambda: multispec_of("1 1 0 INDEF"),
        {},
        DataError,
        "nine numbers or more, got '1 1 0 INDEF'",
    ),
    "phase 3, two main fluxes": (
        phase3_without_a_main_flux,
        {},
        DataError,
        "marked as the main flux, got FLUX_A, OTHER out of",
    ),
    "X-shooter along the slit": (xshooter_slit, {}, DataError, "places along the slit: extract it"),
    "orders of a table that overlap": (
        lambda: [orders_table(step=20.5)[0]],
        {},
        DataError,
        "got 80, 79, 78 on different ones",
    ),
    "an arm of a plain image": (
        lambda: [image(FLUX, primary=True)],
        {"arm": "B"},
        OptionError,
        "several arms or orders, got images and tables in",
    ),
    "several images without names": (
        several_unnamed_images,
        {},
        FileFormatError,
        "name the image that holds the flux, got several .*: say which it is, hdu=",
    ),
    "an image and a table": (
        image_and_table,
        {},
        FileFormatError,
        "one place for the flux, got the image HDU 0 PRIMARY and the column FLUX of HDU 1: say",
    ),
    "wavelengths under the name of flux": (
        wavelengths_named_flux,
        {},
        DataError,
        "FLUX should hold the flux, .* got numbers in row 0 that go from pixel to pixel",
    ),
    "wavelengths in the first image": (wavelengths_first, {}, DataError, "as wavelengths do, 5000"),
    "logarithms without a unit": (
        logarithms,
        {},
        DataError,
        "without a unit should be in Angstrom, .* got numbers from 3.69897 to .*logarithms",
    ),
    "logarithms in a linear unit": (
        lambda: logarithms(wave="nm"),
        {"wavelength_unit": "Angstrom"},
        DataError,
        "should agree with the file, got 'nm' there",
    ),
    "micrometres taken for metres": (
        lambda: logarithms(wave="m"),
        {},
        DataError,
        "between 1 Angstrom and 1 m, got numbers from 3.69",
    ),
    "columns that say nothing": (
        table_without_names,
        {},
        FileFormatError,
        "say which it is, flux=",
    ),
    "errors that are all NaN": (
        lambda: all_nan("SIGMA"),
        {},
        DataError,
        "sigma as std should hold usable errors, got none in any pixel of any star",
    ),
    "inverse variances that are all NaN": (
        lambda: all_nan("IVAR"),
        {},
        DataError,
        "ivar as ivar should hold usable errors",
    ),
    "a column that is not there": (
        lambda: [table({"X": (f"{N}D", FLUX)})],
        {"flux": "Z"},
        FileFormatError,
        "named Z",
    ),
    "an error that is not there": (
        lambda: [table({"FLUX": (f"{N}D", FLUX)})],
        {"uncertainty": "std:Z"},
        FileFormatError,
        "should hold an array named 'Z', got FLUX: correct uncertainty=",
    ),
    "an inverse variance called an error": (
        lambda: [image(FLUX, primary=True), image(IVAR, "IVAR")],
        {"uncertainty": "std:IVAR"},
        DataError,
        'uncertainty="std:ivar" should agree with the name of the array, which says ivar',
    ),
    "a grid turned against the pixels": (
        lambda: grid_card(PC1_2=0.1),
        {},
        DataError,
        "along the first axis alone, got PC1_2 = 0.1",
    ),
    "nanometres taken for Angstrom": (
        lambda: grid_card(CRVAL1=500.0),
        {},
        DataError,
        "from 1,000 to 1,000,000, got numbers from 500 to 529",
    ),
    "frequencies taken for Angstrom": (
        lambda: grid_card(CRVAL1=5e14, CDELT1=1e10),
        {},
        DataError,
        "got numbers from 5e.14",
    ),
    "numbers of pixels": (
        lambda: grid_card(CRVAL1=1.0),
        {},
        DataError,
        "or numbers of pixels",
    ),
    "velocities": (lambda: grid_card(CTYPE1="VELO"), {}, DataError, "wavelength, got 'VELO'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_misreading_is_refused_by_words(tmp_path, name):
    make, options, error, words = REFUSED[name]
    path = write(tmp_path / "x.fits", *make())
    with pytest.raises(error, match=words):
        read_spectra(path, **options)


def test_no_layout_is_tried_on_what_is_said(tmp_path):
    """The caller's names count, even of a file of DESI."""
    grid, flux, ivar, _ = desi_parts()["B"]
    path = write(tmp_path / "x.fits", *desi_hdus(desi_parts()))
    said = {"flux": "B_FLUX", "wavelength": "b_wavelength", "uncertainty": "ivar:B_IVAR"}
    spectra = read_spectra(path, **said)
    for pixel in (0, 14, 29):
        assert spectra.flux[2, pixel] == flux[2, pixel]
        assert spectra.ivar[2, pixel] == ivar[2, pixel]
        assert spectra.wavelength[pixel] == grid[pixel]


@pytest.mark.parametrize("kind", ["cubic", "linear"])
def test_splines_of_multispec_are_those_of_scipy(tmp_path, kind):
    """Uniform B-splines, whose coefficients IRAF stores."""
    from scipy.interpolate import BSpline

    degree = 3 if kind == "cubic" else 1
    n_pieces = 4
    c = (
        5000
        + 20 * np.arange(n_pieces + degree)
        + np.array([0, 1, 3, 2, 0, 1, 2])[: n_pieces + degree]
    )
    knots = 1 + 29 / n_pieces * np.arange(-degree, n_pieces + degree + 1)
    scale = 6 if kind == "cubic" else 1  # IRAF's basis sums to 6
    expected = scale * BSpline(knots, c, degree)(np.arange(1.0, 31.0))
    number = 3 if kind == "cubic" else 4
    text = f"1 1 2 1. 1. 30 0. 0. 0. 1. 0. {number} {n_pieces} 1. 30. "
    hdus = multispec_of(text + " ".join(map(repr, c.astype(float).tolist())))
    spectra = read_spectra(write(tmp_path / "x.fits", *hdus))
    np.testing.assert_allclose(spectra.wavelength, expected, rtol=1e-13)


def test_what_a_plain_file_holds_besides_is_named_once(tmp_path):
    columns = {"FLUX": (f"{N}D", FLUX), "IVAR": (f"{N}D", IVAR), "SKY": (f"{N}D", FLUX)}
    path = write(tmp_path / "x.fits", table(columns, "STARS"), image(FLUX, "MODEL"))
    with pytest.warns(UnusedDataWarning, match=r"was not read: SKY, HDU 2 MODEL\.") as caught:
        spectra = read_spectra(path)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(spectra.ivar, IVAR)


def test_of_a_folder_it_is_named_for_the_first_file_alone(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", flux=FLUX[i], sky=FLUX[i])
    with pytest.warns(UnusedDataWarning, match=r"0\.npz holds what was not read: sky") as caught:
        read_spectra(tmp_path)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["DESI, arms joined", "BOSS", "mwmStar", "X-shooter"])
def test_the_other_hdus_of_a_survey_are_known_not_to_be_missed(tmp_path, name):
    case = CASES[name]()
    read_spectra(case.write(tmp_path), **case.options)


def test_labels_that_were_not_asked_for_are_not_missed(tmp_path):
    np.savez(tmp_path / "x.npz", flux=FLUX, VMICRO=FLUX[:, 0], TEFF=FLUX[:, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_spectra(tmp_path / "x.npz", label_names=["TEFF"]).label_names == ("TEFF",)
    with pytest.warns(UnusedDataWarning, match="was not read: VMICRO"):
        read_spectra(tmp_path / "x.npz")


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_lost_something_is_refused_or_read_right(tmp_path, name):
    """A share of tests/bench/fuzz_layouts.py."""
    rng = np.random.default_rng(1)
    found = {kind: try_mutation(name, kind, rng, tmp_path) for kind in KINDS}
    assert "wrong" not in found.values()
    assert {"refused", "right"} & set(found.values())


def test_every_refusal_is_symspecs_own():
    assert all(issubclass(error, SymspecError) for _, _, error, _ in REFUSED.values())
    assert len(CASES) + len(REFUSED) >= 60


REAL = SHARED_DATA / "wdtools/sample_spectrum.fits"


@pytest.mark.skipif(not REAL.exists(), reason="the real spectrum is not here")
def test_a_real_coadd_is_recognised():
    with open_spectra(REAL) as file:
        assert file.contents.layout == "SDSS BOSS coadd"
        assert file.wavelength_medium == "vacuum"
    with fits.open(REAL) as opened:
        assert len(opened) > 1
