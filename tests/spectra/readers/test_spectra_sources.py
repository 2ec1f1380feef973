"""Files, folders, tables and Spectra are read by one protocol, and known by what is in them."""

import hashlib
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from astropy.table import Table
from starnet_files import FLUX, IDS, SIGMA, WAVELENGTH, write_npz

import symspec as ss
from symspec.errors import OptionError
from symspec.spectra.readers.read import open_spectra

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


def test_a_file_is_known_by_its_bytes_and_the_options_given(tmp_path):
    path = write_file(tmp_path)
    stamp = f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    with open_spectra(path) as file:
        assert file.identity() == {"spectra": stamp}
    with open_spectra(str(path), uncertainty=None, bad_error=9, mask_bits=()) as file:
        expected = {"spectra": stamp, "uncertainty": None, "bad_error": "9", "mask_bits": "()"}
        assert file.identity() == expected
        assert list(file.identity()) == list(expected)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_spectra_changed_with_size_and_time_kept_are_others(tmp_path, kind):
    source = SOURCES[kind](tmp_path)
    path = source if source.is_file() else sorted(source.iterdir())[2]
    with open_spectra(source) as opened:
        before = opened.identity()
        stat = path.stat()
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        assert opened.identity() != before
        path.write_bytes(content)
        assert opened.identity() == before


def test_a_folder_is_known_by_its_files_and_the_options_given(tmp_path):
    with open_spectra(write_folder(tmp_path), uncertainty="ivar") as folder:
        identity = folder.identity()
    assert identity.keys() == {"spectra", "uncertainty"}
    assert identity["spectra"].startswith("5 files, digest ")
    assert identity["uncertainty"] == "ivar"


LABELS = np.full((len(FLUX), 1), 0.5)
ERRORS = {"label_errors": LABELS, "label_covariance": LABELS[:, :, None]}


def test_what_is_in_memory_is_known_by_its_numbers(tmp_path):
    table = make_table(tmp_path)
    with open_spectra(table, bad_error=900.0) as opened:
        assert opened.identity() == STARS.identity()
    with open_spectra(STARS) as opened:
        assert opened.identity() == STARS.identity()
    changed = [
        {"flux": FLUX + 1e-9},
        {"ivar": None},
        {"ivar": STARS.ivar * 2},
        {"wavelength": WAVELENGTH + 1},
        {"wavelength_unit": "nm"},
        {"wavelength_medium": "air"},
        {"labels": np.ones((len(FLUX), 1))},
        {"labels": np.ones((len(FLUX), 1)), "label_names": ["TEFF"]},
        {"labels": np.ones((len(FLUX), 1)), "label_units": ["K"]},
        {"ids": IDS[::-1]},
        {"ids": None},
        {"groups": IDS},
        {
            "ivar": None,
            "flux_covariance": np.broadcast_to(np.eye(FLUX.shape[1]), (*FLUX.shape, FLUX.shape[1])),
        },
        *[{"labels": LABELS, name: errors} for name, errors in ERRORS.items()],
        {"labels": LABELS, "label_errors": LABELS, "missing_label_error": "infer"},
    ]
    assert {name for change in changed for name in change} == {f.name for f in fields(STARS)}
    digests = [replace(STARS, **change).identity()["spectra"] for change in changed]
    assert len({*digests, STARS.identity()["spectra"]}) == len(changed) + 1


def test_spectra_take_no_options():
    with open_spectra(STARS, uncertainty=None) as opened:
        assert opened is STARS
    with (
        pytest.raises(OptionError, match=r"uncertainty should go with a file or table .* Spectra"),
        open_spectra(STARS, uncertainty="std"),
    ):
        pass
