"""Formats are recognised by first bytes; files from strangers are read safely or refused."""

import gzip
import zipfile
from typing import get_args

import h5py
import numpy as np
import pytest
from astropy.io import fits
from starnet_files import FLUX, IDS, starnet, write_hdf5, write_npz

from symspec.cli.shared.options import SpectraFile
from symspec.errors import FileFormatError, OptionError
from symspec.safety.hdf5_files import open_hdf5
from symspec.safety.named_arrays import open_npz
from symspec.spectra.readers.formats import (
    FORMAT_NAMES,
    FORMATS,
    SUFFIXES,
    find_format,
    open_arrays,
)
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.readers.read import read_spectra


@pytest.fixture(params=[write_hdf5, write_npz], ids=["hdf5", "npz"])
def write(request, tmp_path):
    # the name tells nothing about the format
    return lambda **arrays: request.param(tmp_path / "spectra.dat", **arrays)


def test_names_and_suffixes_of_formats_are_those_of_the_table():
    assert FORMAT_NAMES == "HDF5, Excel, npz, FITS, JCAMP-DX or CSV"
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert {".h5", ".npz", ".fits", ".fits.gz", ".csv", ".xlsx", ".jdx"} < set(SUFFIXES)
    help_text = get_args(SpectraFile)[1].help
    assert help_text.startswith(f"{FORMAT_NAMES} file of spectra")


def write_fits(path, flux):
    fits.PrimaryHDU(flux).writeto(path)


def write_gzip(path, flux):
    write_fits(path, flux)
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_csv(path, flux):
    header = ",".join(str(pixel) for pixel in range(flux.shape[1]))
    np.savetxt(path, flux, delimiter=",", header=header, comments="")


WRITERS = {
    "HDF5": lambda path, flux: write_hdf5(path, flux=flux),
    "npz": lambda path, flux: write_npz(path, flux=flux),
    "FITS": write_fits,
    "FITS in gzip": write_gzip,
    "CSV": write_csv,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_opens_as_named_arrays(tmp_path, kind):
    WRITERS[kind](tmp_path / "x", FLUX)
    name = kind.partition(" ")[0]
    assert find_format(tmp_path / "x").name == name
    assert name in {one.name for one in FORMATS}
    with open_arrays(tmp_path / "x", ReadOptions()) as arrays:
        assert arrays.names == ("flux",)
        assert arrays.find_shape("flux") == FLUX.shape
        # savetxt writes 18 digits after the point
        np.testing.assert_allclose(arrays.load("flux"), FLUX, rtol=1e-15)
        np.testing.assert_allclose(arrays.load("flux", slice(1, 3)), FLUX[1:3], rtol=1e-15)


@pytest.mark.parametrize("kind", ["HDF5", "npz", "CSV"])
def test_an_hdu_is_asked_of_fits_files_alone(tmp_path, kind):
    WRITERS[kind](tmp_path / "x", FLUX)
    with pytest.raises(OptionError, match=f"hdu=1 should go with a FITS file, got {kind}: leave"):
        read_spectra(tmp_path / "x", hdu=1)


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
        ("external", "got a link to .*other: links are not followed"),
        ("soft", "got a link to /elsewhere: links are not followed"),
        ("virtual", "values in other files"),
        ("raw_storage", "values in other files"),
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
