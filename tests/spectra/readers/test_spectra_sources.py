"""Files, folders, tables and Spectra are read by one protocol, and known by what is in them."""

import os
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from starnet_files import FLUX, IDS, SIGMA, WAVELENGTH, write_npz

import symspec as ss
from symspec.errors import OptionError
from symspec.spectra.readers.read import open_spectra
from symspec.spectra.spectra import hash_spectra

STARS = ss.Spectra(flux=FLUX, ivar=SIGMA**-2, wavelength=WAVELENGTH, ids=IDS)
TIME = 1_700_000_000_123_456_789  # nanoseconds since 1970


def write_file(folder):
    path = write_npz(folder / "x.npz", flux=FLUX, ivar=SIGMA**-2, wavelength=WAVELENGTH, ids=IDS)
    os.utime(path, ns=(TIME, TIME))
    return path


def write_folder(folder):
    for flux, ivar, name in zip(FLUX, SIGMA**-2, IDS, strict=True):
        path = folder / f"{name.decode()}.npz"
        write_npz(path, flux=flux, ivar=ivar, wavelength=WAVELENGTH)
    return folder


def make_table(folder):
    wavelength = np.tile(WAVELENGTH, (len(FLUX), 1))
    columns = {"id": IDS, "flux": FLUX, "ivar": SIGMA**-2, "wavelength": wavelength}
    return Table(columns)


SOURCES = {
    "file": write_file,
    "folder": write_folder,
    "table": make_table,
    "spectra": lambda folder: STARS,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_read_some_stars_at_a_time(tmp_path, kind):
    with open_spectra(SOURCES[kind](tmp_path)) as source:
        assert (source.n_stars, source.n_pixels) == FLUX.shape
        assert source.wavelength_unit == "Angstrom"
        np.testing.assert_array_equal(source.wavelength, WAVELENGTH)
        part = source.read(slice(1, 4, 2))
        np.testing.assert_array_equal(part.flux, FLUX[1:4:2])
        np.testing.assert_array_equal(part.ivar, STARS.ivar[1:4:2])
        assert part.ids.tolist() == STARS.ids[1:4:2].tolist()
        assert source.read().n_stars == len(FLUX)
        with pytest.raises(OptionError, match="rows should be a slice with a step above 0, got 3"):
            source.read(3)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_name_of_a_source_is_for_messages(tmp_path, kind):
    source = SOURCES[kind](tmp_path)
    names = {"table": "a Table", "spectra": "the spectra"}
    with open_spectra(source) as opened:
        assert opened.name == names.get(kind, str(source))


def test_a_file_is_known_by_size_time_and_the_options_given(tmp_path):
    """Byte for byte, as folders of finished pieces hold these strings."""
    path = write_file(tmp_path)
    stamp = f"{path.stat().st_size} bytes, modified 2023-11-14T22:13:20.123456789"
    with open_spectra(path) as file:
        assert file.identity() == {"spectra": stamp}
    with open_spectra(str(path), uncertainty=None, bad_error=9, mask_bits=()) as file:
        expected = {"spectra": stamp, "uncertainty": None, "bad_error": "9", "mask_bits": "()"}
        assert file.identity() == expected
        assert list(file.identity()) == list(expected)


def test_a_folder_is_known_by_its_files_and_the_options_given(tmp_path):
    with open_spectra(write_folder(tmp_path), uncertainty="ivar") as folder:
        identity = folder.identity()
    assert identity.keys() == {"spectra", "uncertainty"}
    assert identity["spectra"].startswith("5 files, digest ")
    assert identity["uncertainty"] == "ivar"


def test_what_is_in_memory_is_known_by_its_numbers(tmp_path):
    table = make_table(tmp_path)
    with open_spectra(table, bad_error=900.0) as opened:
        assert opened.identity() == {"spectra": hash_spectra(STARS)}
    with open_spectra(STARS) as opened:
        assert opened.identity() == {"spectra": hash_spectra(STARS)}
    assert replace(STARS, flux=FLUX + 1e-9).identity() != STARS.identity()


def test_spectra_take_no_options():
    with open_spectra(STARS, uncertainty=None) as opened:
        assert opened is STARS
    with (
        pytest.raises(OptionError, match=r"uncertainty should go with a file or table .* Spectra"),
        open_spectra(STARS, uncertainty="std"),
    ):
        pass
