"""Labels in a table of their own are joined to spectra by name."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import symspec as ss
from symspec.errors import DataError, FileFormatError, OptionError, UnusedDataWarning

TABLE = "Sample;Fat;Fat_ERR;Plot\nb;3,5;0,5;p\na.dpt;NA;0,25;q\n"
READ = {"wavelength_unit": "nm"}


@pytest.fixture
def folder(tmp_path):
    inner = tmp_path / "spectra"
    inner.mkdir()
    for name in "abc":
        (inner / f"{name}.dpt").write_text(f"900\t{ord(name)}\n902\t2\n904\t1\n")
    return inner


def write(folder, text):
    path = folder.parent / "lab.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_column_files_take_their_labels_from_a_table(folder):
    path = write(folder, TABLE)
    stars = ss.read_spectra(folder, labels=path, group="Plot", **READ)
    assert list(stars.ids) == ["a", "b", "c"]
    assert_array_equal(stars.flux[:, 0], [97, 98, 99])
    assert stars.label_names == ("Fat",)
    assert_array_equal(stars.labels, [[np.nan], [3.5], [np.nan]])
    assert_array_equal(stars.label_errors, [[0.25], [0.5], [np.nan]])
    assert list(stars.groups) == ["q", "p", "no group of c"]
    declined = ss.read_spectra(folder, labels=path, group="Plot", label_errors="none", **READ)
    assert declined.label_errors is None


def test_pieces_and_digests_know_of_the_table(folder):
    path = write(folder, "id,Fat,Water\na,1,2\nb,3,4\nc,5,6\n")
    with ss.open_spectra(folder, labels=path, label_names=["Water"], **READ) as file:
        part = file.read(slice(1, 3))
        before = file.identity()
    assert_array_equal(part.labels, [[4], [6]])
    assert part.groups is None
    write(folder, "id,Fat,Water\na,1,2\nb,3,4\nc,5,7\n")
    with ss.open_spectra(folder, labels=path, label_names=["Water"], **READ) as file:
        assert file.identity() != before


def test_samples_without_spectra_are_named(folder):
    path = write(folder, "id,Note,Fat\na,fresh,1\nx,dry,3\n")
    with pytest.warns(UnusedDataWarning, match="lab.csv holds what was not read: Note, x"):
        stars = ss.read_spectra(folder, labels=path, **READ)
    assert_array_equal(stars.labels, [[1], [np.nan], [np.nan]])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("id,Fat\nx,1\ny,2\n", DataError, "labels of samples such as 'a', got x, y: name the"),
        ("id,Fat\na,1\na,2\n", DataError, "each sample once, got 'a' several times"),
        ("Fat,Water\n1,2\n3,4\n", DataError, "should have a column of names, such as id"),
        ("id,Fat\na,1\nb,2,3\n", FileFormatError, "rows as long as it, got 3 rows of which 1"),
        ("id,Fat\na,1\nb,low\n", FileFormatError, "line 3, column Fat: should be a number"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, text, error, words):
    with pytest.raises(error, match=words):
        ss.read_spectra(folder, labels=write(folder, text), **READ)


def test_labels_are_not_given_twice(folder, tmp_path):
    path = write(folder, "id,Fat\na,1\n")
    np.savez(tmp_path / "x.npz", flux=np.ones((1, 3)), ids=["a"], TEFF=[5000.0])
    with pytest.raises(DataError, match="should go with spectra without labels, got TEFF"):
        ss.read_spectra(tmp_path / "x.npz", labels=path)
    np.savez(tmp_path / "y.npz", flux=np.ones((1, 3)))
    with pytest.raises(DataError, match="should have names of samples"):
        ss.read_spectra(tmp_path / "y.npz", labels=path)
    with pytest.raises(OptionError, match="labels should be the path of a table, got ndarray"):
        ss.read_spectra(tmp_path / "y.npz", labels=np.ones(3))
