"""Images and tables of FITS files, written as other programs do, are read entry by entry."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from fits_writing import FLUX, IVAR, LABELS, N_PIXELS, N_STARS, SIGMA, WAVELENGTH, image, write

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.spectra.readers.read import open_spectra, read_spectra


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def compressed(request):
    return request.param


# --- images


GRIDS = {
    "linear": (
        {"CRVAL1": 5000.0, "CDELT1": 2.5, "CRPIX1": 1.0, "CTYPE1": "WAVE", "CUNIT1": "Angstrom"},
        None,
    ),
    "from the middle": (
        {"CRVAL1": 500.0, "CDELT1": 0.25, "CRPIX1": 11.5, "CTYPE1": "AWAV", "CUNIT1": "nm"},
        None,
    ),
    "CD1_1": (
        {"CRVAL1": 1.5, "CD1_1": 0.001, "CRPIX1": 3.0, "CTYPE1": "WAVE", "CUNIT1": "um"},
        None,
    ),
    "logarithmic": (
        {
            "CRVAL1": 5000.0,
            "CDELT1": 1.0,
            "CRPIX1": 5.0,
            "CTYPE1": "WAVE-LOG",
            "CUNIT1": "Angstrom",
        },
        None,
    ),
    "no CRPIX1": ({"CRVAL1": 5000.0, "CDELT1": 2.0}, lambda i: 5000.0 + 2.0 * i),
    "IRAF": (
        {"CRVAL1": 5000.0, "CDELT1": 2.0, "CD1_1": 2.0, "CRPIX1": 2.0, "DC_FLAG": 0},
        lambda i: 4998.0 + 2 * i,
    ),
    "IRAF log": (
        {"CRVAL1": 3.6, "CD1_1": 1e-4, "CRPIX1": 1.0, "DC_FLAG": 1},
        lambda i: 10 ** (3.6 + 1e-4 * i),
    ),
    "LOG-LINEAR": (
        {"CRVAL1": 3.6, "CDELT1": 1e-4, "CTYPE1": "LOG-LINEAR"},
        lambda i: 10 ** (3.6 + 1e-4 * i),
    ),
    "SDSS": ({"COEFF0": 3.6, "COEFF1": 1e-4}, lambda i: 10 ** (3.6 + 1e-4 * i)),
    "falling": ({"CRVAL1": 5000.0, "CDELT1": -2.0, "CRPIX1": 1.0}, lambda i: 5000.0 - 2.0 * i),
}


@pytest.mark.parametrize("in_extension", [False, True])
@pytest.mark.parametrize("n_axes", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
def test_an_image_has_its_wavelengths_in_the_header(tmp_path, grid, n_axes, in_extension):
    cards, formula = GRIDS[grid]
    data = FLUX if n_axes == 2 else FLUX[0]
    hdu = image(data, primary=not in_extension, **cards)
    spectra = read_spectra(write(tmp_path / "x", hdu))
    if formula is None:  # another reader's word, in the unit of the header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(hdu.header, naxis=[1])
        expected = (wcs.wcs_pix2world(np.arange(N_PIXELS), 0)[0] * u.m).to_value(cards["CUNIT1"])
        assert u.Unit(spectra.wavelength_unit) == u.Unit(cards["CUNIT1"])
    else:
        expected = formula(np.arange(N_PIXELS))
        assert spectra.wavelength_unit == "Angstrom"
    order = slice(None, None, -1) if grid == "falling" else slice(None)
    np.testing.assert_allclose(spectra.wavelength, expected[order], rtol=1e-12)
    np.testing.assert_array_equal(spectra.flux, np.atleast_2d(data)[:, order])


@pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
def test_images_are_told_by_their_names(tmp_path, compressed):
    """The layout of spPlate: fibres in rows, IVAR and ANDMASK, one row a fibre in a table."""
    andmask = np.zeros(FLUX.shape, dtype=np.int32)
    andmask[2, 3] = 4
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("ID", "8A", array=[f"star {i}" for i in range(N_STARS)]),
            fits.Column("TEFF", "D", array=LABELS[:, 0], unit="K"),
            fits.Column("VSINI", "D", array=LABELS[:, 1], unit="km/s"),
        ]
    )
    hdus = [
        image(FLUX, primary=True, CRVAL1=3.6, CD1_1=1e-4, CRPIX1=1, DC_FLAG=1),
        image(IVAR, "IVAR"),
        image(andmask, "ANDMASK"),
        image(andmask + 1, "ORMASK"),
        table,
    ]
    path = write(tmp_path / "spPlate", *hdus, compressed=compressed)
    spectra = read_spectra(path, label_names=["VSINI", "TEFF"])
    np.testing.assert_array_equal(spectra.flux, FLUX)
    expected = IVAR.copy()
    expected[2, 3] = 0
    np.testing.assert_array_equal(spectra.ivar, expected)
    np.testing.assert_array_equal(spectra.labels, LABELS[:, ::-1])
    assert spectra.label_units == ("km/s", "K")
    assert spectra.ids[2] == "star 2"
    assert read_spectra(path).label_names == ("TEFF",)
    with open_spectra(path) as file:
        assert (file.n_stars, file.n_pixels, file.has_ids, file.has_uncertainty) == (
            N_STARS,
            N_PIXELS,
            True,
            True,
        )
        part = file.read(slice(2, 5, 2))
        np.testing.assert_array_equal(part.flux, FLUX[2:5:2])
        np.testing.assert_array_equal(part.ivar, expected[2:5:2])
        assert part.ids.tolist() == ["star 2", "star 4"]


@pytest.mark.parametrize("kind", ["std", "var", "ivar"])
def test_an_image_of_errors_whose_name_does_not_tell_is_asked_for(tmp_path, kind):
    values = {"std": SIGMA.astype(float), "var": IVAR**-1, "ivar": IVAR}[kind]
    path = write(tmp_path / "x", image(FLUX, primary=True), image(values, "ERROR"))
    with pytest.raises(
        DataError, match=r'error \(which may be anything\): say it, uncertainty="std" \|'
    ):
        read_spectra(path)
    np.testing.assert_allclose(read_spectra(path, uncertainty=kind).ivar, IVAR, rtol=1e-13)


def test_wavelengths_may_lie_in_an_image_of_their_own(tmp_path):
    hdus = [
        image(FLUX, primary=True),
        image(IVAR, "IVAR"),
        image(WAVELENGTH[::-1] / 10, "WAVELENGTH", BUNIT="nm"),
    ]
    spectra = read_spectra(write(tmp_path / "x", *hdus))
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH / 10)
    np.testing.assert_array_equal(spectra.flux, FLUX[:, ::-1])
    np.testing.assert_array_equal(spectra.ivar, IVAR[:, ::-1])
    assert spectra.wavelength_unit == "nm"


def test_scaled_integers_are_unscaled(tmp_path):
    stored = np.arange(20, dtype=np.int16).reshape(2, 10) ** 3 % 11
    hdu = image(stored, primary=True)
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 100.0
    path = tmp_path / "x"
    with path.open("wb") as stream:  # as the bytes are, without astropy scaling them back
        stream.write(hdu.header.tostring().encode())
        stream.write(stored.astype(">i2").tobytes() + bytes(2880 - 40))
    with open_spectra(path) as file:
        np.testing.assert_array_equal(file.read(slice(1, 2)).flux, 100 + 0.5 * stored[1:])


@pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
def test_the_hdu_can_be_said(tmp_path):
    path = write(tmp_path / "x", image(FLUX, primary=True), image(FLUX[:, :7] + 1, "RED"))
    assert read_spectra(path).n_pixels == N_PIXELS
    for hdu in ("red", 1):
        np.testing.assert_array_equal(read_spectra(path, hdu=hdu).flux, FLUX[:, :7] + 1)
    with pytest.raises(
        DataError,
        match=r"hdu='BLUE' should be one of those of .*, got 0 PRIMARY, 1 RED: correct hdu=",
    ):
        read_spectra(path, hdu="BLUE")
    with pytest.raises(OptionError, match="hdu should be the number or the name"):
        read_spectra(path, hdu=1.5)


# --- tables


def spectra_table(**replaced):
    columns = {
        "ID": ("8A", [f"star {i}" for i in range(N_STARS)], None),
        "FLUX": (f"{N_PIXELS}E", FLUX, None),
        "IVAR": (f"{N_PIXELS}D", IVAR, None),
        "WAVELENGTH": (f"{N_PIXELS}D", np.tile(WAVELENGTH / 10, (N_STARS, 1)), "nm"),
        "TEFF": ("D", LABELS[:, 0], "K"),
        "LOGG": ("E", LABELS[:, 1], "dex"),
        **replaced,
    }
    made = [
        fits.Column(name, c[0], array=c[1], unit=c[2])
        for name, c in columns.items()
        if c is not None
    ]
    return fits.BinTableHDU.from_columns(made)


def test_a_table_of_one_spectrum_a_row_is_read(tmp_path, compressed):
    mask = np.zeros(FLUX.shape, dtype=bool)
    mask[1, 2] = True
    path = write(
        tmp_path / "x", spectra_table(BAD_PIXEL=(f"{N_PIXELS}L", mask, None)), compressed=compressed
    )
    spectra = read_spectra(path)
    np.testing.assert_array_equal(spectra.flux, FLUX)
    np.testing.assert_array_equal(spectra.ivar, np.where(mask, 0, IVAR))
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH / 10)
    np.testing.assert_allclose(spectra.labels, LABELS, rtol=1e-7)  # one is float32
    assert (spectra.wavelength_unit, spectra.label_units) == ("nm", ("K", "dex"))
    assert spectra.ids.tolist() == [f"star {i}" for i in range(N_STARS)]
    with open_spectra(path) as file:
        np.testing.assert_array_equal(file.read(slice(4, 6)).ivar, IVAR[4:])
        assert file.read(slice(3, 4)).ids.tolist() == ["star 3"]


def test_stars_on_different_grids_are_refused_with_the_star(tmp_path):
    grids = np.tile(WAVELENGTH, (N_STARS, 1))
    grids[4] += 0.1
    path = write(tmp_path / "x", spectra_table(WAVELENGTH=(f"{N_PIXELS}D", grids, "Angstrom")))
    with pytest.raises(
        ShapeError, match=r"got another grid for star 4 than for star 0: .*resample"
    ):
        read_spectra(path)
    with open_spectra(path) as file:
        assert file.read(slice(0, 4)).n_stars == 4
        with pytest.raises(ShapeError, match="for star 4 than"):
            file.read(slice(3, 6))


def test_a_table_may_have_its_grid_in_the_header(tmp_path):
    """The layout of SDSS-V's mwmStar, whose cards have no number."""
    table = spectra_table(WAVELENGTH=None)
    for card, value in {
        "CRVAL": 4.179,
        "CDELT": 6e-6,
        "CRPIX": 1,
        "CTYPE": "LOG-LINEAR",
        "CUNIT": "Angstrom",
    }.items():
        table.header[card] = value
    spectra = read_spectra(write(tmp_path / "x", table))
    np.testing.assert_allclose(
        spectra.wavelength, 10 ** (4.179 + 6e-6 * np.arange(N_PIXELS)), rtol=1e-14
    )


@pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
def test_a_table_of_one_pixel_a_row_is_one_spectrum(tmp_path, compressed):
    columns = [
        fits.Column("wave", "D", array=WAVELENGTH[::-1], unit="Angstrom"),
        fits.Column("flux", "E", array=FLUX[0]),
        fits.Column("sigma", "E", array=SIGMA[0]),
        fits.Column("id", "J", array=np.arange(N_PIXELS)),  # of a pixel, not of a star
    ]
    primary = image(None, primary=True, OBJECT="HD 1")
    path = write(
        tmp_path / "x", primary, fits.BinTableHDU.from_columns(columns), compressed=compressed
    )
    spectra = read_spectra(path)
    np.testing.assert_array_equal(spectra.flux, FLUX[:1, ::-1])
    np.testing.assert_allclose(spectra.ivar, IVAR[:1, ::-1], rtol=1e-14)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)
    assert spectra.ids.tolist() == ["HD 1"]


def test_errors_in_another_unit_than_the_flux_are_converted(tmp_path):
    def table(unit):
        return spectra_table(
            FLUX=(f"{N_PIXELS}E", FLUX, "Jy"),
            IVAR=None,
            sigma=(f"{N_PIXELS}D", 1000.0 * SIGMA, unit),
        )

    np.testing.assert_allclose(
        read_spectra(write(tmp_path / "x", table("mJy")), bad_error=9).ivar, IVAR, rtol=1e-6
    )
    with pytest.raises(
        DataError, match=r"sigma as std should have the flux's unit, Jy, to the power 1, got K"
    ):
        read_spectra(write(tmp_path / "x", table("K")))
    unknown = read_spectra(write(tmp_path / "x", table("furlong")), bad_error=np.inf)
    np.testing.assert_allclose(unknown.ivar, IVAR / 1e6, rtol=1e-6)  # 1000 float32 numbers, rounded


# --- units, and what is refused


def test_a_unit_that_is_not_stated_can_be_said_and_one_that_is_cannot_be_contradicted(tmp_path):
    path = write(tmp_path / "x", image(FLUX, primary=True, CRVAL1=1.5, CDELT1=0.001, CRPIX1=1))
    with pytest.raises(
        DataError,
        match=r"unit should be in Angstrom, .* from 1\.5 to 1\.549: .*_unit=",
    ):
        read_spectra(path)
    assert read_spectra(path, wavelength_unit="micron").wavelength_unit == "micron"
    stated = write(tmp_path / "y", image(FLUX, primary=True, CRVAL1=500, CDELT1=1, CUNIT1="nm"))
    with pytest.raises(
        DataError, match="wavelength_unit='Angstrom' should agree with the file, got 'nm' there"
    ):
        read_spectra(stated, wavelength_unit="Angstrom")
    assert read_spectra(stated, wavelength_unit="nm").wavelength_unit == "nm"
    odd = write(
        tmp_path / "z", image(FLUX, primary=True, CRVAL1=5000, CDELT1=1, CUNIT1="Angstroem (air)")
    )
    with pytest.raises(
        DataError, match=r"astropy.units knows, got 'Angstroem \(air\)': .* wavelength_unit="
    ):
        read_spectra(odd)
    assert read_spectra(odd, wavelength_unit="Angstrom").wavelength_unit == "Angstrom"


@pytest.mark.parametrize(
    ("hdus", "error", "words"),
    [
        (
            [image(None, primary=True)],
            FileFormatError,
            "hold the flux as an image, or as a column named",
        ),
        (
            [image(FLUX[None, None], primary=True)],
            ShapeError,
            r"0 should be an image \(pixel,\) or \(star, pixel\)",
        ),
        ([image(FLUX, primary=True, CRVAL1=1.0)], DataError, "got no CDELT1 nor CD1_1"),
        (
            [image(FLUX, primary=True, CRVAL1=1.0, CDELT1=1.0, CTYPE1="VELO")],
            DataError,
            "in wavelength, got 'VELO'",
        ),
        (
            [image(FLUX, primary=True, CRVAL1=1, CDELT1=1, CTYPE1="MULTISPE")],
            DataError,
            "dispersion for each of the 6 apertures, got none for number 1",
        ),
        (
            [image(FLUX, primary=True, CRVAL1=5e3, CDELT1=0.0)],
            DataError,
            "got twice the same at 49 places",
        ),
        (
            [image(FLUX, primary=True, CRVAL1=5e3, CDELT1=1e3, DC_FLAG=1)],
            DataError,
            "wavelength should be finite",
        ),
        (
            [image(FLUX, primary=True), image(IVAR[:, 1:], "IVAR")],
            ShapeError,
            "ivar should have the shape of the flux",
        ),
        (
            [image(FLUX, primary=True), image(WAVELENGTH[1:], "WAVE")],
            ShapeError,
            r"wave should have shape \(50,\)",
        ),
        (
            [spectra_table(FLUX=("PE()", [np.ones(3)] * N_STARS, None))],
            FileFormatError,
            "got FLUX of varying length",
        ),
        (
            [spectra_table(IVAR=("PD()", [np.ones(3)] * N_STARS, None))],
            FileFormatError,
            "got IVAR of varying length",
        ),
        ([fits.CompImageHDU(FLUX)], FileFormatError, "unpack tiled images with funpack"),
        (
            [spectra_table(SIGMA=(f"{N_PIXELS}E", SIGMA, None))],
            DataError,
            r"got IVAR \(ivar\), SIGMA \(std\): say it",
        ),
        (
            [spectra_table(spectrum=(f"{N_PIXELS}E", FLUX, None))],
            DataError,
            "got FLUX, spectrum: keep one of them",
        ),
        (
            [spectra_table(IVAR=("3D", IVAR[:, :3], None))],
            ShapeError,
            r"should have the shape of the flux, \(6, 50\)",
        ),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_is_no_spectrum_is_refused(tmp_path, hdus, error, words):
    path = write(tmp_path / "x", *hdus)
    with pytest.raises(error, match=words) as caught:
        read_spectra(path)
    assert str(path) in str(caught.value) + "".join(caught.value.__notes__)


def test_hdu_and_mask_bits_need_something_to_be_about(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, flux=FLUX)
    with pytest.raises(OptionError, match="hdu=1 should go with a FITS file, got npz"):
        read_spectra(path, hdu=1)
    with pytest.raises(OptionError, match="arm='B' should go with a FITS file, got npz"):
        read_spectra(path, arm="B")
    with pytest.raises(
        DataError, match=r"mask_bits=\(1,\) asks for bits of a mask, got no array named mask"
    ):
        read_spectra(path, mask_bits=(1,))


def test_cards_off_the_standard_are_read_without_a_warning(tmp_path):
    path = write(tmp_path / "x", image(FLUX, primary=True))
    content = path.read_bytes()
    card = b"lower-case card without a value ~".ljust(80)
    end = content.index(b"END".ljust(80))
    path.write_bytes(content[:end] + card + b"END".ljust(80) + content[end + 160 :])
    np.testing.assert_array_equal(read_spectra(path).flux, FLUX)


def test_stars_on_apogees_grid_are_no_apstar_where_the_images_have_names(tmp_path):
    grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR"}
    mask = np.zeros(FLUX.shape, dtype=np.int16)
    path = write(
        tmp_path / "x",
        image(FLUX, "FLUX", **grid),
        image(IVAR, "IVAR", **grid),
        image(mask, "MASK", **grid),
    )
    spectra = read_spectra(path)
    np.testing.assert_array_equal(spectra.flux, FLUX)
    np.testing.assert_array_equal(spectra.ivar, IVAR)
    three = [
        image(np.tile(WAVELENGTH, (3, 1)), "WAVELENGTH"),
        image(FLUX[:3], "FLUX"),
        image(mask[:3], "MASK"),
    ]
    path = write(tmp_path / "y", three[1], image(IVAR[:3], "IVAR"), three[2], three[0])
    np.testing.assert_array_equal(read_spectra(path).ivar, IVAR[:3])


@pytest.mark.parametrize("word", ["ANGSTROMS", "Angstroms", "angstrom", "AA"])
def test_units_are_understood_as_headers_spell_them(tmp_path, word):
    path = write(tmp_path / "x", image(FLUX, primary=True, CRVAL1=5000, CDELT1=1, CUNIT1=word))
    assert read_spectra(path).wavelength_unit == "Angstrom"
    assert read_spectra(path, wavelength_unit="Angstrom").wavelength_unit == "Angstrom"
