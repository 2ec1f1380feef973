"""An archive says of which kind it is; any other file is none."""

import h5py
import pytest
from conftest import build_problem

from symspec import FileFormatError, fit_laplace
from symspec.files.archives import write_laplace, write_network
from symspec.files.stored.archive import find_archive_kind, is_archive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.h5"


def write_kind(path, kind):
    p = build_problem("tanh-2-hidden-3-labels-full-noise-missing")
    if kind == "laplace":
        write_laplace(path, fit_laplace(p.reg, p.theta, p.X, p.Y, require_minimum=False))
    else:
        write_network(path, p.net, p.theta, reg=p.reg if kind == "regression" else None)


@pytest.mark.parametrize("kind", ["network", "regression", "laplace"])
def test_an_archive_says_of_which_kind_it_is(path, kind):
    write_kind(path, kind)
    assert find_archive_kind(path) == kind
    assert is_archive(path)


def write_foreign(file):
    file["regression"] = 1.0


def write_foreign_format(file):
    file.attrs["format"] = b"\xff another format"


@pytest.mark.parametrize("write", [write_foreign, write_foreign_format])
def test_a_foreign_hdf5_file_is_no_archive(path, write):
    with h5py.File(path, "w") as file:
        write(file)
    assert find_archive_kind(path) is None
    assert not is_archive(path)


def test_a_file_that_is_not_hdf5_is_no_archive(path):
    path.write_text("1,2\n")
    assert find_archive_kind(path) is None


def test_a_damaged_archive_is_left_to_its_reader(path):
    write_kind(path, "network")
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(FileFormatError, match="truncated"):
        find_archive_kind(path)
    assert is_archive(path)
