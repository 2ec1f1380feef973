"""HDF5 and npz give the same spectra, and no array is read by guessing."""

import h5py
import numpy as np
import pytest
from starnet_files import (
    FLUX,
    IDS,
    LABELS,
    N_PIXELS,
    SIGMA,
    WAVELENGTH,
    starnet,
    write_hdf5,
    write_npz,
)

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.spectra.readers.read import read_spectra


@pytest.fixture(params=[write_hdf5, write_npz], ids=["hdf5", "npz"])
def write(request, tmp_path):
    # the name tells nothing about the format
    return lambda **arrays: request.param(tmp_path / "spectra.dat", **arrays)


# --- the arrays and their names


def test_a_starnet_file_is_read_whole(write):
    spectra = read_spectra(write(**starnet()))
    np.testing.assert_array_equal(spectra.flux, FLUX)
    np.testing.assert_allclose(spectra.ivar, 1 / SIGMA**2, rtol=1e-14)  # two roundings
    np.testing.assert_array_equal(spectra.labels, LABELS)
    assert spectra.label_names == ("TEFF", "LOGG", "FE_H")
    assert spectra.label_units == ("K", "dex", "dex")
    assert spectra.ids.tolist() == [name.decode() for name in IDS]
    assert spectra.wavelength is None


@pytest.mark.parametrize(
    "as_text", [np.array, lambda words: np.array(words, dtype="S")], ids=["str", "bytes"]
)
def test_a_plain_file_is_read_whole(tmp_path, as_text):
    arrays = {
        "flux": FLUX,
        "ivar": SIGMA**-2,
        "wavelength": WAVELENGTH,
        "labels": LABELS,
        "label_names": as_text(["a", "b", "c"]),
        "label_units": as_text(["K", "", "dex"]),
        "ids": as_text(["v", "w", "x", "y", "z"]),
        "wavelength_unit": as_text(["nm"]),
    }
    paths = [write_npz(tmp_path / "a", **arrays)]
    in_hdf5 = {
        name: array.astype(h5py.string_dtype()) if array.dtype.kind == "U" else array
        for name, array in arrays.items()
    }
    paths.append(write_hdf5(tmp_path / "b", **in_hdf5))
    for path in paths:
        spectra = read_spectra(path)
        np.testing.assert_array_equal(spectra.flux, FLUX)
        np.testing.assert_array_equal(spectra.ivar, SIGMA**-2)
        np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)
        np.testing.assert_array_equal(spectra.labels, LABELS)
        assert spectra.label_names == ("a", "b", "c")
        assert spectra.label_units == ("K", "", "dex")
        assert spectra.ids.tolist() == ["v", "w", "x", "y", "z"]
        assert spectra.wavelength_unit == "nm"


def test_flux_alone_is_enough(write):
    spectra = read_spectra(write(flux=FLUX.astype(np.float32)))
    assert spectra.flux.dtype == np.float64
    np.testing.assert_array_equal(spectra.flux, FLUX.astype(np.float32))
    assert (spectra.ivar, spectra.labels, spectra.wavelength, spectra.ids) == (
        None,
        None,
        None,
        None,
    )


def test_one_spectrum_keeps_the_star_axis(write):
    spectra = read_spectra(
        write(flux=FLUX[0], sigma=SIGMA[0], labels=LABELS[0], ids=np.array(b"sun"))
    )
    assert spectra.flux.shape == spectra.ivar.shape == (1, N_PIXELS)
    assert spectra.labels.shape == (1, 3)
    assert spectra.ids.tolist() == ["sun"]
    assert read_spectra(write(flux=FLUX[0], TEFF=np.array(5777.0))).labels.tolist() == [[5777.0]]


def test_label_names_pick_and_order(write):
    path = write(**starnet(VMICRO=LABELS[:, :1] + 9))
    spectra = read_spectra(path, label_names=["VMICRO", "FE_H", "teff"])
    np.testing.assert_array_equal(
        spectra.labels, np.c_[LABELS[:, 0] + 9, LABELS[:, 2], LABELS[:, 0]]
    )
    assert spectra.label_names == ("VMICRO", "FE_H", "teff")
    assert spectra.label_units == ("", "dex", "K")
    assert read_spectra(path, label_names=[]).labels is None


def test_label_names_pick_from_a_matrix_by_its_stored_names(write):
    path = write(flux=FLUX, labels=LABELS, label_names=np.array([b"a", b"b", b"c"]))
    spectra = read_spectra(path, label_names=["c", "a"])
    np.testing.assert_array_equal(spectra.labels, LABELS[:, [2, 0]])


def test_label_names_name_a_matrix_that_has_no_names(write):
    path = write(flux=FLUX, labels=LABELS)
    assert read_spectra(path).label_names == ("label_0", "label_1", "label_2")
    assert read_spectra(path, label_names=("x", "y", "z")).label_names == ("x", "y", "z")
    with pytest.raises(ShapeError, match="each of the 3 columns of labels, got 2 and 2"):
        read_spectra(path, label_names=("x", "y"))


# --- bad values


def test_missing_labels_become_nan(write):
    teff = LABELS[:, 0].copy()
    teff[[0, 3]] = -9999, np.nan
    labels = read_spectra(write(**starnet(TEFF=teff))).labels
    np.testing.assert_array_equal(np.isnan(labels[:, 0]), [True, False, False, True, False])
    assert np.isfinite(labels[:, 1:]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("bad_flux", "bad_sigma"),
    [
        (np.nan, None),
        (np.inf, None),
        (-9999, None),
        (None, np.nan),
        (None, np.inf),
        (None, 0),
        (None, -1),
        (None, -9999),
        (None, 999),
        (None, 1e10),
        (np.nan, 999),
    ],
)
def test_bad_pixels_get_no_information(write, bad_flux, bad_sigma, dtype):
    flux, sigma = FLUX.astype(dtype), SIGMA.astype(dtype)
    if bad_flux is not None:
        flux[2, 3] = bad_flux
    if bad_sigma is not None:
        sigma[2, 3] = bad_sigma
    spectra = read_spectra(write(flux=flux, sigma=sigma))
    masked = np.zeros(FLUX.shape, dtype=bool)
    masked[2, 3] = True
    np.testing.assert_array_equal(spectra.ivar == 0, masked)
    expected = np.where(flux == -9999, np.nan, flux)
    np.testing.assert_array_equal(spectra.flux, expected)


@pytest.mark.parametrize("bad", [np.nan, -9999])
def test_bad_flux_without_uncertainties_is_an_error(write, bad):
    flux = FLUX.copy()
    flux[2, 3] = bad
    path = write(flux=flux)
    with pytest.raises(
        DataError, match=r"1 value \(first: star 2, pixel 3 is nan\): give ivar with 0"
    ) as caught:
        read_spectra(path)
    assert str(path) in caught.value.__notes__[0]


def test_errors_of_spectra_in_counts_are_not_taken_for_flags(write):
    sigma = SIGMA * 1e6
    sigma[0, 0] = 1e10
    path = write(flux=FLUX * 1e8, sigma=sigma)
    with pytest.raises(
        DataError, match=r"sigma should mostly be a std within bad_error=999 .* bad_error=numpy.inf"
    ):
        read_spectra(path)
    ivar = read_spectra(path, bad_error=1e9).ivar
    assert ivar[0, 0] == 0
    assert np.count_nonzero(ivar) == FLUX.size - 1
    assert read_spectra(path, bad_error=np.inf).ivar[0, 0] == pytest.approx(1e-20)


# --- what an uncertainty is


UNCERTAIN = SIGMA.copy()
UNCERTAIN[1, 1] = 999.0
KINDS = {"std": UNCERTAIN, "var": UNCERTAIN**2, "ivar": UNCERTAIN**-2}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("error_spectrum", "std"),
        ("flux_error", "std"),
        ("sigma", "std"),
        ("std", "std"),
        ("var", "var"),
        ("Variance", "var"),
        ("IVAR", "ivar"),
        ("inverse_variance", "ivar"),
    ],
)
def test_a_name_that_tells_is_believed(write, name, kind):
    expected = SIGMA**-2
    expected[1, 1] = 0
    path = write(flux=FLUX, **{name: KINDS[kind]})
    np.testing.assert_allclose(read_spectra(path).ivar, expected, rtol=1e-14)  # a few roundings
    np.testing.assert_allclose(read_spectra(path, uncertainty=kind).ivar, expected, rtol=1e-14)


@pytest.mark.parametrize(
    "name", ["err", "error", "uncertainty", "flux_err", "noise", "error_spectrum"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_does_not_tell_is_read_as_the_caller_says(write, name, kind):
    expected = SIGMA**-2
    expected[1, 1] = 0
    path = write(flux=FLUX, **{name: KINDS[kind]})
    np.testing.assert_allclose(
        read_spectra(path, uncertainty=kind).ivar, expected, rtol=1e-14
    )  # a few roundings


@pytest.mark.parametrize("name", ["err", "Error", "uncertainty", "flux_err", "noise"])
def test_a_name_that_does_not_tell_is_not_guessed(write, name):
    with pytest.raises(
        DataError, match=rf'{name} \(which may be anything\): say it, uncertainty="std" \| "var"'
    ):
        read_spectra(write(flux=FLUX, **{name: SIGMA}))


def test_two_uncertainties_are_told_apart_by_the_caller_only(write):
    path = write(flux=FLUX, sigma=SIGMA, ivar=np.ones_like(FLUX))
    with pytest.raises(DataError, match=r"sigma \(std\)"):
        read_spectra(path)
    np.testing.assert_array_equal(read_spectra(path, uncertainty="ivar").ivar, 1.0)
    np.testing.assert_allclose(
        read_spectra(path, uncertainty="std").ivar, SIGMA**-2, rtol=1e-14
    )  # roundings
    with pytest.raises(
        DataError, match="uncertainty='var' should agree with one array of the file"
    ):
        read_spectra(path, uncertainty="var")


@pytest.mark.parametrize(("name", "said"), [("ivar", "std"), ("sigma", "ivar"), ("var", "std")])
def test_a_contradiction_is_refused(write, name, said):
    with pytest.raises(DataError, match=f"uncertainty='{said}' should agree .*got {name} "):
        read_spectra(write(flux=FLUX, **{name: SIGMA}), uncertainty=said)


def test_an_uncertainty_asked_for_and_not_there_is_an_error(write):
    with pytest.raises(
        DataError, match="uncertainty='std' asks for the flux's uncertainty, got a file that holds"
    ):
        read_spectra(write(flux=FLUX), uncertainty="std")


def test_a_negative_inverse_variance_is_no_flag(write):
    with pytest.raises(DataError, match="INVERSE VARIANCE"):
        read_spectra(write(flux=FLUX, ivar=-SIGMA))


# --- arrays that do not fit


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        (
            {"TEFF": LABELS[:, 0]},
            FileFormatError,
            "hold the flux under one of the names flux, spectrum, spectra, got",
        ),
        ({"flux": FLUX, "spectrum": FLUX}, DataError, "got flux, spectrum: keep one of them"),
        ({"flux": FLUX[:0]}, FileFormatError, r"at least one star, got flux of shape \(0, 7\)"),
        (
            {"flux": FLUX[None]},
            ShapeError,
            r"flux should have shape \(star, pixel\), got \(1, 5, 7\)",
        ),
        (
            {"flux": FLUX, "sigma": SIGMA.T},
            ShapeError,
            r"sigma should have the shape of the flux, \(5, 7\), got",
        ),
        (
            {"flux": FLUX, "wavelength": WAVELENGTH[1:]},
            ShapeError,
            r"wavelength should have shape \(7,\)",
        ),
        (
            {"flux": FLUX, "labels": LABELS[:, 0]},
            ShapeError,
            r"labels should have shape \(star, label\), got \(5,\)",
        ),
        ({"flux": FLUX, "labels": LABELS[1:]}, ShapeError, "select the same stars"),
        (
            {"flux": FLUX, "TEFF": LABELS[:, 0], "LOGG": LABELS[1:, 0]},
            ShapeError,
            "'TEFF': 5, 'LOGG': 4",
        ),
        (
            {"flux": FLUX, "TEFF": LABELS},
            ShapeError,
            r"TEFF should have shape \(star,\), got \(5, 3\)",
        ),
        ({"flux": FLUX, "ids": IDS[1:]}, ShapeError, "ids should have shape"),
        (
            {"flux": FLUX, "labels": LABELS, "label_names": np.array([b"a"])},
            ShapeError,
            "3 columns of labels, got 1",
        ),
        (
            {"flux": FLUX, "labels": LABELS, "label_names": np.array([b"a"] * 3)},
            DataError,
            "should all differ",
        ),
        ({"flux": FLUX + 1j}, (DataError), "flux should be real numbers"),
        ({"flux": IDS}, DataError, "flux should be numbers, got strings"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(write, arrays, error, words):
    with pytest.raises(error, match=words):
        read_spectra(write(**arrays))


def test_a_label_that_is_not_there_is_an_error_that_lists_those_that_are(write):
    with pytest.raises(FileFormatError, match=r"hold the label 'ALPHA', got only .*TEFF"):
        read_spectra(write(**starnet()), label_names=["ALPHA"])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"uncertainty": "sdt"}, r"did you mean 'std'\?"),
        ({"bad_error": 0}, "bad_error should be above 0, got 0"),
        ({"bad_error": "999"}, "bad_error should be above 0, got '999'"),
        ({"bad_error": np.nan}, "bad_error should be above 0, got nan"),
        ({"label_names": "TEFF"}, 'write them like \\["TEFF", "LOGG"\\]'),
        ({"label_names": [1]}, "sequence of strings"),
    ],
)
def test_options_are_checked(write, option, words):
    with pytest.raises(OptionError, match=words):
        read_spectra(write(**starnet()), **option)
