"""Names of stars, labels and units: kept exactly by each format, or refused before the work."""

from functools import partial

import numpy as np
import pytest
from catalogue_cases import build_prediction, read_table
from name_cases import CATALOGUES, find_fault, list_trials

import symspec as ss
from symspec.errors import DataError
from symspec.files.catalogue_formats import CATALOGUES as FORMATS
from symspec.files.catalogues import catalogue_dataset, check_catalogue, write_catalogue
from symspec.reports.star_tables import check_star_table

HARD = [
    "#1",
    "# a",
    "007",
    "1e5",
    "nan",
    '"a"',
    "a'b",
    "a,b",
    "a  b",
    "\\n",
    "--",
    "é",
    "\U0001f31f",
]


def test_no_name_is_lost(tmp_path):
    """A twentieth of the trials of tests/bench/fuzz_names.py."""
    trials = list(list_trials())[::20]
    faults = [(trial, find_fault(*trial[:3], tmp_path, trial[3])) for trial in trials]
    assert [fault for fault in faults if fault[1]] == []


@pytest.mark.parametrize("suffix", [".ecsv", ".h5", ".nc"])
def test_hard_names_of_stars_are_kept(tmp_path, suffix):
    prediction = build_prediction()
    refuse = partial(check_catalogue, tmp_path / f"x{suffix}", ["TEFF"])
    for name in HARD:
        refuse(ids=[name])
        assert find_fault("id", name, suffix, tmp_path) == ""
    assert len(prediction.labels) == 4


def test_a_star_whose_name_starts_with_a_hash_has_its_row(tmp_path):
    prediction = build_prediction()
    write_catalogue(tmp_path / "x.ecsv", prediction, ["#1", "b", "#2 c", "d"])
    table = read_table(tmp_path / "x.ecsv")
    assert table["ID"].tolist() == ["#1", "b", "#2 c", "d"]
    np.testing.assert_array_equal(np.ma.filled(table["TEFF"], np.nan), prediction.labels[:, 0])


@pytest.mark.parametrize(
    ("suffix", "name", "words"),
    [
        (".fits", "é", "FITS holds printable ASCII only, got 'é' among ids"),
        (".fits", "a ", "FITS holds texts without blanks at their ends only, got 'a '"),
        (".ecsv", "", "ECSV holds names that are not empty only, got ''"),
        (".ecsv", " a", r"ECSV holds .* both ends only, got ' a' .* \.fits and .*\.nc hold it"),
        (".ecsv", "a\nb", r"ECSV holds printable characters only, got 'a\\nb'"),
        (".h5", "a\0", r"ids should be texts that a file can hold, got 'a\\x00'"),
        (".nc", "\ud800", "half of a surrogate pair: remove it"),
    ],
)
def test_a_name_that_a_format_cannot_hold_is_refused_before_the_work(tmp_path, suffix, name, words):
    with pytest.raises(DataError, match=words):
        check_catalogue(tmp_path / f"x{suffix}", ["TEFF"], ids=["b", name])
    with pytest.raises(DataError, match=words):
        write_catalogue(tmp_path / f"x{suffix}", build_prediction(), ["b", name, "c", "d"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "names", "dialect", "words"),
    [
        (".nc", ["star"], "lower", "no column named star, label, other_label, .* got star"),
        (".nc", ["LABEL"], "lower", "got label: rename the label"),
        (".fits", ["a" * 60], "upper", "68 characters at most, got 73"),
        (".fits", [f"x{i}" for i in range(130)], "upper", "999 columns at most, got up to"),
        (".h5", ["TEFF", "TEFF_ERR"], "upper", "got TEFF_ERR twice"),
        (".h5", ["TEFF", "teff_true"], "lower", "got teff_true twice"),
        (".ecsv", ["SNR"], "upper", "got SNR twice"),
    ],
)
def test_labels_without_a_column_of_their_own_are_refused_before_the_work(
    tmp_path, suffix, names, dialect, words
):
    with pytest.raises(DataError, match=words):
        check_catalogue(tmp_path / f"x{suffix}", names, dialect=dialect)


def test_a_dataset_in_memory_keeps_its_axes_apart_from_its_columns():
    prediction = build_prediction(names=("label", "y", "z"))
    assert "LABEL" in catalogue_dataset(prediction)
    with pytest.raises(DataError, match="no column named star, label, other_label"):
        catalogue_dataset(prediction, dialect="lower")


@pytest.mark.parametrize("suffix", [".ecsv", ".csv"])
def test_a_table_of_stars_is_checked_before_the_work(tmp_path, suffix):
    check_star_table(tmp_path / f"x{suffix}", ["#1", "b"], ["TEFF"])
    check_star_table(tmp_path / f"x{suffix}", np.array([1, 2]), ["TEFF"])
    with pytest.raises(DataError, match="not empty only, got '' among ids"):
        check_star_table(tmp_path / f"x{suffix}", ["a", ""], ["TEFF"])
    with pytest.raises(DataError, match="printable characters only, got 'T"):
        check_star_table(tmp_path / f"x{suffix}", ["a"], ["T\n"])


def test_the_trials_are_of_every_format():
    assert {suffix for _, _, suffix, _ in list_trials()} == {*CATALOGUES, ".csv"}
    assert all(any(s in CATALOGUES for s in one.suffixes) for one in FORMATS)


def test_names_are_texts_that_any_file_holds():
    flux = np.ones((2, 3))
    assert ss.Spectra(flux=flux, ids=[b"caf\xe9", b"caf\xc3\xa9"]).ids.tolist() == ["café", "café"]
    assert ss.Spectra(flux=flux, ids=[2**62 + 1, 5]).ids.tolist() == [str(2**62 + 1), "5"]
    with pytest.raises(DataError, match=r"ids should be texts .* NUL"):
        ss.Spectra(flux=flux, ids=["a\0", "b"])
    with pytest.raises(DataError, match=r"1 masked values: write '' there, ids.filled\(''\)"):
        ss.Spectra(flux=flux, ids=np.ma.masked_array(["a", "b"], [True, False]))
    with pytest.raises(DataError, match="label_names should be texts"):
        ss.Spectra(flux=flux, labels=np.ones((2, 1)), label_names=["\ud800"])
    with pytest.raises(DataError, match="label_units should be texts"):
        ss.Network([ss.Dense(1)], 3, label_units=["K\0"])
