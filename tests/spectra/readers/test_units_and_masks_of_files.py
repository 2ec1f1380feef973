"""What files say of masks, units and scales is heeded, or refused in words."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.utils.masked import Masked
from fits_writing import FLUX, IVAR, LABELS, SIGMA, WAVELENGTH, image, write
from numpy.testing import assert_allclose

import symspec as ss
from symspec.errors import DataError, FileFormatError
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.selections import as_stars, match_labels

GRID = {"CRVAL1": 5000.0, "CDELT1": 2.0, "CTYPE1": "WAVE"}


@pytest.mark.parametrize("name", ["MASK", "SIGMA", "IVAR", "WAVELENGTH", ""])
def test_compressed_tiles_beside_plain_flux_are_refused(tmp_path, name):
    """They may hold what belongs to the flux."""
    tiled = fits.CompImageHDU((SIGMA * 1000).astype(np.int32), name=name or None)
    path = write(tmp_path / "x", image(FLUX, primary=True, **GRID), tiled)
    with pytest.raises(FileFormatError, match=r"compressed tiles in HDU 1 \w+: .* funpack first"):
        read_spectra(path)


@pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
def test_compressed_tiles_of_something_else_are_left(tmp_path):
    tiled = fits.CompImageHDU(FLUX, name="MODEL_FIT")
    path = write(tmp_path / "x", image(FLUX, primary=True, **GRID), tiled)
    np.testing.assert_array_equal(read_spectra(path).flux, FLUX)


def test_errors_in_an_image_of_another_unit_than_the_flux_are_converted(tmp_path):
    images = [image(FLUX, primary=True, BUNIT="Jy", **GRID), image(SIGMA, "SIGMA", BUNIT="mJy")]
    found = read_spectra(write(tmp_path / "x", *images)).ivar
    np.testing.assert_allclose(found, 1e6 * IVAR, rtol=1e-6)
    images[1].header["BUNIT"] = "K"
    with pytest.raises(DataError, match="should have the flux's unit, Jy"):
        read_spectra(write(tmp_path / "x", *images))


@pytest.mark.parametrize("cards", [{"BSCALE": 0}, {"BSCALE": 0.0}, {"BSCALE": "x"}])
def test_a_scale_that_makes_all_numbers_the_same_is_refused(tmp_path, cards):
    path = write(tmp_path / "x", image(np.ones((6, 50), np.int16), primary=True, **GRID))
    content = path.read_bytes()
    card = fits.Card("BSCALE", cards["BSCALE"]).image.encode()
    path.write_bytes(
        content.replace(b"END" + b" " * 77, card + b"END" + b" " * 77, 1)[: len(content)]
    )
    with pytest.raises(FileFormatError, match=r"by a factor other than 0, .* got the factor"):
        read_spectra(path)


def test_a_header_of_negative_wavelengths_is_refused(tmp_path):
    path = write(tmp_path / "x", image(FLUX, primary=True, CRVAL1=-50.0, CDELT1=1.5, DC_FLAG=0))
    with pytest.raises(DataError, match=r"not be negative, .*\(first: pixel 0 is -50\)"):
        read_spectra(path)


@pytest.mark.parametrize("form", ["fits", "table"])
def test_a_missing_number_costs_the_names_of_other_stars_no_digits(tmp_path, form):
    """As floats 4611686018427387905 and 4611686018427387904 would be the same."""
    names = np.array([2**62 + 1, 2**62, -1, 3, 4, 5])
    table = Table({"flux": FLUX, "ivar": IVAR})
    table["wavelength"] = np.tile(WAVELENGTH, (6, 1))
    table["source_id"] = MaskedColumn(names, mask=names < 0)
    source = table
    if form == "fits":
        table["source_id"].fill_value = -1
        source = write(tmp_path / "x", fits.BinTableHDU(table))
    found = read_spectra(source).ids.tolist()
    assert found == [str(2**62 + 1), str(2**62), "", "3", "4", "5"]


@pytest.mark.parametrize("part", ["flux", "uncertainty"])
def test_masked_numbers_of_a_spectrum_are_bad_pixels(part):
    mask = np.zeros(50, bool)
    mask[7] = True
    arrays = {"flux": FLUX[0], "uncertainty": SIGMA[0]}
    arrays[part] = Masked(arrays[part], mask)
    uncertainty = SimpleNamespace(uncertainty_type="std", array=arrays["uncertainty"], unit=None)
    spectrum = SimpleNamespace(
        flux=arrays["flux"], spectral_axis=WAVELENGTH * u.AA, uncertainty=uncertainty
    )
    assert np.flatnonzero(read_spectra(spectrum).ivar[0] == 0).tolist() == [7]


# --- labels in another unit than a network's


def build_net(unit="K"):
    return ss.Network([ss.Dense(1)], 50, label_names=["TEFF"], label_units=[unit])


def read_labelled(unit):
    table = Table({"flux": FLUX, "TEFF": np.abs(LABELS[:, 0])})
    table["TEFF"].unit = unit
    return read_spectra(table, label_names=["TEFF"])


def test_labels_are_taken_to_the_units_of_the_network():
    stars = read_labelled("kK")
    assert stars.label_units == ("kK",)
    expected = 1000 * np.abs(LABELS[:, :1])
    np.testing.assert_allclose(as_stars(build_net(), stars)[1], expected, rtol=1e-15)
    np.testing.assert_allclose(match_labels(stars, build_net()), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("unit", "wanted"), [("dex", "dex(cm / s2)"), ("log(cgs)", "dex"), ("K", ""), ("K", "K")]
)
def test_units_that_say_the_same_or_nothing_are_left(unit, wanted):
    stars = read_labelled(unit)
    assert as_stars(build_net(wanted), stars)[1] is stars.labels


def test_labels_in_a_unit_of_another_kind_are_refused():
    with pytest.raises(DataError, match=r"the label TEFF should be in K, .* got mag: convert it"):
        as_stars(build_net(), read_labelled("mag"))


# --- attributes of HDF5 and NetCDF


def write_with_attributes(path, **attributes):
    """A file of three stars; attributes by the name of the array."""
    with h5py.File(path, "w") as file:
        file["flux"] = np.arange(1.0, 13.0).reshape(3, 4)
        file["ivar"] = np.ones((3, 4))
        file["wavelength"] = np.linspace(5000, 6000, 4)
        file["teff"] = np.array([5, 6, -999], dtype="i4")
        for name, values in attributes.items():
            file[name].attrs.update(values)
    return path


@pytest.mark.parametrize("word", ["units", "unit"])
@pytest.mark.parametrize("kind", [str, np.bytes_])
def test_units_of_hdf5_arrays_are_heeded(tmp_path, word, kind):
    path = write_with_attributes(
        tmp_path / "stars.h5",
        flux={word: kind("Jy")},
        ivar={word: kind("mJy-2")},
        wavelength={word: kind("nm")},
        teff={word: kind("kK")},
    )
    spectra = ss.read_spectra(path, label_names=["teff"])
    assert spectra.wavelength_unit == "nm"
    assert spectra.label_units == ("kK",)
    assert_allclose(spectra.ivar, 1e6, rtol=1e-12)  # 1 / mJy^2 in 1 / Jy^2


def test_what_hdf5_marks_as_missing_is_nan(tmp_path):
    path = write_with_attributes(
        tmp_path / "stars.h5",
        flux={"_FillValue": 7.0},
        teff={"missing_value": np.int32(-999)},
    )
    spectra = ss.read_spectra(path, label_names=["teff"])
    assert np.isnan(spectra.labels[2, 0])
    assert np.argwhere(spectra.ivar == 0).tolist() == [[1, 2]]


def test_a_mark_that_is_no_number_marks_nothing(tmp_path):
    path = write_with_attributes(tmp_path / "stars.h5", flux={"missing_value": "none"})
    assert (ss.read_spectra(path).ivar == 1).all()


@pytest.mark.parametrize("word", ["scale_factor", "add_offset"])
def test_packed_values_of_netcdf_are_refused(tmp_path, word):
    path = write_with_attributes(tmp_path / "stars.h5", flux={word: 2.0})
    with pytest.raises(ss.FileFormatError, match=f"got packed ones, with {word}"):
        ss.read_spectra(path)
