"""CSV tables are read entry by entry, and what is none is refused with the place."""

import numpy as np
import pytest
from starnet_files import FLUX, LABELS, N_STARS, WAVELENGTH

from symspec.errors import DataError, FileFormatError
from symspec.spectra.readers.read import read_spectra


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
        ("hello", "should start with a row of headers"),
        ("\n\n", "should start with a row of headers"),
        ("TEFF,5000,5001\n", "at least one star below its header row"),
        ("TEFF,5000,5001\n1,2,3\n1,2\n", "line 3: should have 3 cells as the header has, got 2"),
        ("TEFF,5000,5001\n1,2,x\n", "line 2, column 5001: should be a number, got 'x'"),
        (
            "FE_H,5000,5001\n<0.1,2,3\n4,2,3\n",
            "line 2, column FE_H: .* or pick the label columns with label_names=",
        ),
        ("a,,5000\n0,1,3\n", "got none in column 1: name it, or leave it out"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TEFF,5000,5001\n4_000,2,3\n", "column TEFF: should be a number, got '4_000'"),
        ("TEFF,5000,5001\n4000,2_0,3\n", "column 5000: should be a number, got '2_0'"),
        ("TEFF,5_000,5_001\n1,2,3\n", "headers of pixels should be plain numbers, got '5_000'"),
        ("TEFF,5000,5001\n\u0664\u0660,2,3\n", "column TEFF: should be a number"),
        ("TEFF,-5000,-4999\n1,2,3\n", "wavelength should not be negative, got 2 values"),
    ],
)
def test_what_only_python_takes_for_a_number_is_refused(tmp_path, text, words):
    with pytest.raises((DataError, FileFormatError), match=words):
        read_spectra(write_csv(tmp_path / "x", text))
