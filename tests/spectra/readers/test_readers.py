"""Every format gives the same spectra, and no file is read by guessing."""

import zipfile

import h5py
import numpy as np
import pytest

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.safety.array_files import open_hdf5, open_npz
from symspec.spectra.readers.formats import find_format
from symspec.spectra.readers.read import read_spectra

N_STARS, N_PIXELS = 5, 7
FLUX = 1 + np.random.default_rng(1).normal(scale=0.1, size=(N_STARS, N_PIXELS))
SIGMA = np.random.default_rng(2).uniform(0.01, 0.1, size=(N_STARS, N_PIXELS))
WAVELENGTH = np.linspace(5000.0, 5006.0, N_PIXELS)
LABELS = np.random.default_rng(3).normal(size=(N_STARS, 3))
IDS = np.array([b"2M%02d" % i for i in range(N_STARS)])


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_npz(path, **arrays):
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


@pytest.fixture(params=[write_hdf5, write_npz], ids=["hdf5", "npz"])
def write(request, tmp_path):
    # the name tells nothing about the format
    return lambda **arrays: request.param(tmp_path / "spectra.dat", **arrays)


def starnet(**replaced):
    arrays = {
        "spectrum": FLUX,
        "error_spectrum": SIGMA,
        "TEFF": LABELS[:, 0],
        "LOGG": LABELS[:, 1],
        "FE_H": LABELS[:, 2],
        "IDs": IDS,
    }
    return {name: array for name, array in {**arrays, **replaced}.items() if array is not None}


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


# --- CSV


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_table_is_read_whole(tmp_path):
    header = ",".join(["LOGG", "id", *(str(w) for w in WAVELENGTH), "other"])
    rows = [
        ",".join([repr(float(LABELS[i, 0])), f"star {i}", *(repr(float(f)) for f in FLUX[i]), ""])
        for i in range(N_STARS)
    ]
    path = write_csv(
        tmp_path / "x.h5", "\ufeff# a comment\n" + header + "\r\n\r\n" + "\r\n".join(rows)
    )
    spectra = read_spectra(path)
    np.testing.assert_array_equal(spectra.flux, FLUX)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)
    np.testing.assert_array_equal(spectra.labels[:, 0], LABELS[:, 0])
    assert np.isnan(spectra.labels[:, 1]).all()
    assert spectra.label_names == ("LOGG", "other")
    assert spectra.label_units == ("dex", "")
    assert spectra.ids[2] == "star 2"
    picked = read_spectra(path, label_names=["other", "LOGG"])
    np.testing.assert_array_equal(picked.labels, spectra.labels[:, ::-1])


def test_csv_headers_may_just_count_the_pixels(tmp_path):
    spectra = read_spectra(write_csv(tmp_path / "x", "0,1,2\n1.0,2.0,3.0\n4.0,5.0,6.0\n"))
    assert spectra.wavelength is None
    assert spectra.labels is None
    np.testing.assert_array_equal(spectra.flux, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TEFF,LOGG\n1,2\n", "wavelengths, got 'TEFF, LOGG': write the wavelengths as headers"),
        ("TEFF;5000;5001\n1;2;3\n", "headers separated by commas"),
        ("hello", "should start with a row of headers"),
        ("\n\n", "should start with a row of headers"),
        ("TEFF,5000,5001\n", "at least one star below its header row"),
        ("TEFF,5000,5001\n1,2,3\n1,2\n", "line 3: should have 3 cells as the header has, got 2"),
        ("TEFF,5000,5001\n1,2,x\n", "line 2, column 5001: should be a number, got 'x'"),
        (
            "name,5000,5001\nsun,2,3\n",
            "line 2, column name: .* or pick the label columns with label_names=",
        ),
        (",5000,5001\n0,2,3\n", r"got none in column 0: name it, e.g. id, .*index=False"),
        ("1.0,0.9,1.1\n1.0,0.9,1.1\n", "is the header row missing, so that this is a spectrum"),
        ("a,a,5000\n1,2,3\n", "label columns should differ"),
        ('a,"5000\n1,2', "should"),
    ],
)
def test_a_csv_table_that_is_none_is_refused(tmp_path, text, words):
    with pytest.raises(FileFormatError, match=words):
        read_spectra(write_csv(tmp_path / "x.csv", text))


def test_csv_text_is_utf8(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("id,5000\né,1\n".encode("latin-1"))
    with pytest.raises(FileFormatError, match="CSV table in UTF-8"):
        read_spectra(path)


def test_csv_has_no_uncertainty_and_no_label_it_does_not_hold(tmp_path):
    path = write_csv(tmp_path / "x.csv", "TEFF,5000,5001\n1,2,3\n")
    with pytest.raises(FileFormatError, match="got none for LOGG: it has TEFF"):
        read_spectra(path, label_names=["TEFF", "LOGG"])
    with pytest.raises(DataError, match="got a CSV file, which holds none"):
        read_spectra(path, uncertainty="std")


def test_an_empty_csv_pixel_is_an_error_that_names_it(tmp_path):
    with pytest.raises(DataError, match="first: star 0, pixel 1 is nan"):
        read_spectra(write_csv(tmp_path / "x.csv", "TEFF,5000,5001\n1,2,\n"))


# --- files from strangers


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got an empty file: copy it again"),
        (
            b"SIMPLE  =                    T",
            "FITS file in good order, got a truncated or damaged one",
        ),
        (b"\x93NUMPY\x01\x00", "np.savez"),
        (b"\x1f\x8b\x08\x00", "unpack it with gunzip"),
        (b"\x80\x04\x95", "pickle, which is never opened"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"a file that starts with .*PNG"),
        (b"PK\x03\x04" + bytes(50), "npz file in good order, got a truncated or damaged one"),
        (
            b"\x89HDF\r\n\x1a\n" + bytes(50),
            "HDF5 file in good order, got a truncated or damaged one",
        ),
    ],
)
def test_foreign_and_damaged_files_are_named(tmp_path, content, words):
    path = tmp_path / "spectra.h5"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words) as caught:
        read_spectra(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nope.h5 should be a file, got nothing there"):
        read_spectra(tmp_path / "nope.h5")


def test_a_file_cut_anywhere_is_a_format_error(write, tmp_path):
    content = write(**starnet()).read_bytes()
    cut = tmp_path / "cut"
    for size in np.linspace(0, len(content) - 1, 24).astype(int):
        cut.write_bytes(content[:size])
        with pytest.raises(FileFormatError):
            read_spectra(cut)


def test_an_npz_file_damaged_inside_is_a_format_error(tmp_path):
    content = bytearray(write_npz(tmp_path / "x", **starnet()).read_bytes())
    middle = content.index(FLUX.tobytes()) + 40
    content[middle] ^= 0xFF
    (tmp_path / "y").write_bytes(content)
    with pytest.raises(FileFormatError, match="BadZipFile: Bad CRC-32"):
        read_spectra(tmp_path / "y")


def test_a_pickle_inside_npz_is_never_opened(tmp_path):
    path = write_npz(tmp_path / "x", flux=np.array([FLUX, None], dtype=object))
    with pytest.raises(
        FileFormatError,
        match="'flux' should be a plain array, got an object array, which is a pickle",
    ):
        read_spectra(path)


def test_rows_of_varying_length_in_hdf5_are_refused(tmp_path):
    with h5py.File(tmp_path / "x", "w") as file:
        file.create_dataset("flux", (2,), dtype=h5py.vlen_dtype(np.float64))
    with pytest.raises(
        FileFormatError,
        match="'flux' should be a plain array, got object of rows of varying length",
    ):
        read_spectra(tmp_path / "x")


def test_a_group_where_an_array_should_be_is_refused(tmp_path):
    with h5py.File(tmp_path / "x", "w") as file:
        file.create_group("flux")
    with pytest.raises(FileFormatError, match="'flux' should be a dataset, got <HDF5 group"):
        read_spectra(tmp_path / "x")


def test_values_in_other_files_are_not_fetched(tmp_path):
    other = write_hdf5(tmp_path / "other", flux=FLUX)
    (tmp_path / "raw").write_bytes(FLUX.tobytes())
    layout = h5py.VirtualLayout(FLUX.shape, FLUX.dtype)
    layout[:] = h5py.VirtualSource(other, "flux", FLUX.shape)
    with h5py.File(tmp_path / "external", "w") as file:
        file["flux"] = h5py.ExternalLink(other, "flux")
    with h5py.File(tmp_path / "soft", "w") as file:
        file["flux"] = h5py.SoftLink("/elsewhere")
    with h5py.File(tmp_path / "virtual", "w") as file:
        file.create_virtual_dataset("flux", layout)
    with h5py.File(tmp_path / "raw_storage", "w") as file:
        file.create_dataset(
            "flux", FLUX.shape, FLUX.dtype, external=[(tmp_path / "raw", 0, FLUX.nbytes)]
        )
    for name, words in [
        ("external", "got a link to .*other, which is not followed"),
        ("soft", "got a link to /elsewhere, which is not followed"),
        ("virtual", "values lie in other files"),
        ("raw_storage", "values lie in other files"),
    ]:
        with pytest.raises(FileFormatError, match=words):
            read_spectra(tmp_path / name)


def test_an_absurd_shape_is_refused_before_it_is_allocated(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("flux", (10**7, 10**4), dtype="f8", chunks=(100, 100))
    with pytest.raises(
        FileFormatError, match=r"declared shape \(10000000, 10000\) of .* MiB in a file of"
    ):
        read_spectra(tmp_path / "x.h5")


def test_an_npz_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    for shape, words in [
        ((10**7, 10**4), "declared shape"),
        ((100, 100), r"shape \(100, 100\), got only"),
    ]:
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w") as archive, archive.open("flux.npy", "w") as stream:
            header = {"descr": "<f8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
        with pytest.raises(FileFormatError, match=words):
            read_spectra(path)


def test_an_hdf5_file_may_start_with_a_foreign_block(tmp_path):
    with h5py.File(tmp_path / "x", "w", userblock_size=512) as file:
        file["flux"] = FLUX
    assert find_format(tmp_path / "x").name == "HDF5"
    np.testing.assert_array_equal(read_spectra(tmp_path / "x").flux, FLUX)


def test_an_array_file_reads_what_it_names(write):
    path = write(a=FLUX, b=IDS)
    open_file = {"HDF5": open_hdf5, "npz": open_npz}[find_format(path).name]
    with open_file(path) as file:
        assert sorted(file.names) == ["a", "b"]
        np.testing.assert_array_equal(file.load("a"), FLUX)
        with pytest.raises(FileFormatError):
            file.load("c")
