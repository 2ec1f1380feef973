"""Tables are read in one way or asked about: separators, decimals, headers, orientation, groups."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.errors import (
    AssumedUnitWarning,
    DataError,
    FileFormatError,
    OptionError,
    ShapeError,
    UnusedDataWarning,
)

NM = {"wavelength_unit": "nm"}
FLUX = [[0.5, 0.25, 0.75], [1.5, 1.25, 1.0]]
HEADERS = "900,902,904"


def write(folder, text, name="x.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read(folder, text, **options):
    return ss.read_spectra(write(folder, text), **{**NM, **options})


@pytest.mark.parametrize(
    "text",
    [
        "id,900,902,904\na,0.5,0.25,0.75\nb,1.5,1.25,1\n",
        "id;900;902;904\na;0,5;0,25;0,75\nb;1,5;1,25;1\n",
        "id\t900\t902\t904\na\t0,5\t0,25\t0,75\nb\t1.5\t1.25\t1\n".replace(".", ","),
        "id 900  902 904\na 0.5 0.25  0.75\nb 1.5 1.25 1\n",
        'id,"900","902","904"\n"a","0,5","0,25","0,75"\n"b","1,5","1,25","1"\n',
        "id;900 nm;902 nm;904 nm;\na;.5;.25;.75;\nb;15e-1;1.25;+1;\n",
        "Sample No.;X900;X902;X904\na;0.5;0.25;0.75\nb;1.5;1.25;1\n",
        "id\twl_900\twl_902\twl_904\r\n\r\n# remark\r\na\t0.5\t0.25\t0.75\r\nb\t1.5\t1.25\t1",
        "Wavelength;a;b\n900;0,5;1,5\n902;0,25;1,25\n904;0,75;1\n",
        "nm,a,b\n904,0.75,1\n902,0.25,1.25\n900,0.5,1.5\n",
        '"900" "902" "904"\n"a" 0.5 0.25 0.75\n"b" 1.5 1.25 1\n',
        "Wavelength (nm),900,902,904\na,0.5,0.25,0.75\nb,1.5,1.25,1\n",
    ],
    ids=[
        "commas",
        "semicolons",
        "tabs",
        "blanks",
        "quotes",
        "units",
        "prefix",
        "comments",
        "columns",
        "falling columns",
        "names of rows",
        "named corner",
    ],
)
def test_one_table_in_many_spellings(tmp_path, text):
    options = {"flux": "X"} if "X900" in text else {"flux": "wl_"} if "wl_" in text else {}
    stars = read(tmp_path, text, **options)
    assert_array_equal(stars.flux, FLUX)
    assert_array_equal(stars.wavelength, [900, 902, 904])
    assert stars.wavelength_unit == "nm"
    assert list(stars.ids) == ["a", "b"]
    assert stars.labels is None


def test_wavenumbers_in_headers_become_wavelengths(tmp_path):
    stars = read(tmp_path, "4000cm-1,5000 cm^-1\n1,2\n", wavelength_unit=None)
    assert_allclose(stars.wavelength, [20000, 25000], rtol=1e-15)
    assert stars.wavelength_unit == "Angstrom"
    assert stars.wavelength_medium == "vacuum"
    assert_array_equal(stars.flux, [[2, 1]])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("id;900;902\na;1,5;2.5\n", DataError, "one decimal mark, got '2.5' and '1,5': say"),
        ("id;900;902\na;1,234;5,678\n", DataError, "may be that of decimals or of thousands"),
        (
            "Wavelength;100;200;300\n10;1;2;3\n20;4;5;6\n30;7;8;9\n",
            DataError,
            'say orientation="rows" or orientation="columns"',
        ),
        ("900,902,904\n901,903,905\n902,904,906\n", DataError, 'say orientation="rows"'),
        (
            "id," + ",".join(f"PC{i}" for i in range(1, 10)) + "\na,1,2,3,4,5,6,7,8,9\n",
            DataError,
            r'may be pixels or labels, .* say which are pixels, flux="PC" \(9 columns, 1 to 9\)',
        ),
        (
            "id,900,902," + ",".join(f"X{i}" for i in range(400, 410)) + "\na" + ",1" * 12 + "\n",
            DataError,
            r'flux="" \(2 columns, 900 to 902\) or flux="X" \(10 columns, 400 to 409\)',
        ),
        ("id,X900,X902\na,1,2\n", FileFormatError, r'say flux="X" \(2 columns, 900 to 902\) if'),
        ("id,900,902\na,1,2,3\nb,1,2,3\n", FileFormatError, "should have 3 cells as the header"),
        ("id,900,902\na,1,5,2,5\n", FileFormatError, "should have 3 cells as the header"),
        ("900,902,904\n1,2\n3,4\n5,6\n7,8\n", FileFormatError, "should have 3 cells as the header"),
        (
            "id,900,902\na,0.1,0.2\nb,0.3\nc,0.4,0.5\n",
            FileFormatError,
            "line 3: should have 3 cells as the header has, got 2",
        ),
        ("Raman shift (cm-1),a\n100,1\n200,2\n", DataError, "Raman shifts, .* are differences"),
        ("nm,Absorbance,Dark,c\n1,2,3,4\n2,3,4,5\n", DataError, "flux='Absorbance', or orient"),
        ("nm,a,b\n900,1,2\n902,3,4\n901,5,6\n", DataError, "rise or fall from pixel to pixel"),
        ("id,900,902\na,n.d.,2\n", FileFormatError, "line 2, column 900: should be a number"),
        (
            "".join(f"{w},5,0,{w * w % 999}\n" for w in range(1000, 1020)),
            DataError,
            "whole numbers between commas",
        ),
    ],
    ids=[
        "two marks",
        "thousands",
        "either way",
        "numbers alone",
        "counted",
        "two kinds",
        "few",
        "long rows",
        "glued rows",
        "short rows",
        "short row",
        "raman",
        "quantities",
        "unordered",
        "text in a pixel",
        "glued columns",
    ],
)
def test_what_may_be_read_in_two_ways_is_asked_for(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        read(tmp_path, text)


def test_what_is_said_decides(tmp_path):
    text = "Wavelength;100;200;300\n10;1;2;3\n20;4;5;6\n30;7;8;9\n"
    rows = read(tmp_path, text, orientation="rows")
    assert_array_equal(rows.wavelength, [100, 200, 300])
    assert_array_equal(rows.flux, [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    columns = read(tmp_path, text, orientation="columns")
    assert_array_equal(columns.wavelength, [10, 20, 30])
    assert_array_equal(columns.flux, [[1, 4, 7], [2, 5, 8], [3, 6, 9]])
    thousand = read(tmp_path, "id;900;902\na;1,234;5,678\n", decimal=",")
    assert_array_equal(thousand.flux, [[1.234, 5.678]])
    same = read(tmp_path, "id;900;902\na;1;2\n", separator="semicolon")
    assert_array_equal(same.flux, read(tmp_path, "id;900;902\na;1;2\n", separator=";").flux)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"separator": "pipe"}, "separator should be one of 'comma', 'semicolon', 'tab', 'space'"),
        ({"decimal": "'"}, "decimal should be one of"),
        ({"orientation": "across"}, "orientation should be one of 'rows', 'columns'"),
        ({"encoding": "klingon"}, "encoding should be one that Python knows, got 'klingon'"),
        ({"sheet": "one"}, "sheet='one' should go with an Excel file, got CSV: leave sheet out"),
    ],
)
def test_options_of_tables_are_checked(tmp_path, options, words):
    with pytest.raises(OptionError, match=words):
        read(tmp_path, "id,900\na,1\n", **options)


def test_options_of_tables_go_with_tables(tmp_path):
    np.savez(tmp_path / "x.npz", flux=np.ones((2, 3)))
    with pytest.raises(OptionError, match="separator='tab' should go with a CSV file, got npz"):
        ss.read_spectra(tmp_path / "x.npz", separator="tab")
    with pytest.raises(OptionError, match=r"decimal=',' should go with an Excel or CSV file"):
        ss.read_spectra(tmp_path / "x.npz", decimal=",")


def test_a_missing_label_is_nan_and_texts_and_dates_are_named(tmp_path):
    text = (
        "Sample,Date,Site,pH,Clay,900,902\na,2021-01-01,wood,7.1,NA,1,2\nb,2021-01-02,field,,12,3,4"
    )
    with pytest.warns(UnusedDataWarning, match=r"holds what was not read: Date, Site\. Labels"):
        stars = read(tmp_path, text)
    assert stars.label_names == ("pH", "Clay")
    assert_array_equal(stars.labels, [[7.1, np.nan], [np.nan, 12]])
    picked = read(tmp_path, text, label_names=["Clay"])
    assert_array_equal(picked.labels, [[np.nan], [12]])


def test_numbers_that_name_samples_are_no_labels(tmp_path):
    with pytest.warns(UnusedDataWarning, match="Scan"):
        stars = read(tmp_path, "Sample ID,Scan,Fat,900,902\n17,1,3,1,2\n17,2,3,3,4\n")
    assert stars.label_names == ("Fat",)
    assert list(stars.ids) == ["17", "17"]


@pytest.mark.parametrize(
    ("header", "options"),
    [("group", {}), ("Plot", {"group": "plot"}), ("Groups", {})],
)
def test_groups_come_from_their_column(tmp_path, header, options):
    text = f"id,{header},Fat,900,902\na,p1,3,1,2\nb,p2,3,3,4\nc,p1,5,5,6\n"
    stars = read(tmp_path, text, **options)
    assert list(stars.groups) == ["p1", "p2", "p1"]
    assert list(stars.ids) == ["a", "b", "c"]
    assert stars.label_names == ("Fat",)
    assert list(stars[1:].groups) == ["p2", "p1"]
    assert stars[1:].identity() != stars[:2].identity()


def test_a_group_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="a column 'plot', got id: correct group="):
        read(tmp_path, "id,900\na,1\n", group="plot")


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".fits"])
def test_groups_are_read_from_any_format(tmp_path, suffix):
    import h5py
    from astropy.table import Table

    arrays = {"flux": np.ones((3, 4)), "plot": np.array([b"x", b"y", b"x"])}
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.update(arrays)
    else:
        Table(arrays).write(path)
    assert list(ss.read_spectra(path, group="plot").groups) == ["x", "y", "x"]


def test_an_array_called_group_of_another_kind_is_no_group(tmp_path):
    np.savez(tmp_path / "x.npz", flux=np.ones((3, 4)), group=np.ones((2, 2)))
    with pytest.warns(UnusedDataWarning, match="group"):
        assert ss.read_spectra(tmp_path / "x.npz").groups is None
    with pytest.raises(ShapeError, match=r"group should have shape \(3,\), one a star, got"):
        ss.read_spectra(tmp_path / "x.npz", group="group")


def test_a_unit_that_may_be_another_is_asked_for_or_warned_of(tmp_path):
    with pytest.raises(DataError, match="should say the unit of its wavelengths"):
        read(tmp_path, "1100,1102,1104\n1,2,3\n", wavelength_unit=None)
    with pytest.raises(DataError, match="should say the unit of its wavelengths"):
        read(tmp_path, "9000,8998,8996\n1,2,3\n", wavelength_unit=None)
    with pytest.warns(AssumedUnitWarning, match="from 5000 to 5002 have no unit and were taken"):
        stars = read(tmp_path, "5000,5001,5002\n1,2,3\n", wavelength_unit=None)
    assert stars.wavelength_unit == "Angstrom"


def test_one_star_with_a_pixel_a_row_has_errors(tmp_path):
    stars = read(tmp_path, "wavelength flux sigma\n900 1 0.5\n902 2 0.25\n904 4 0.1\n")
    assert_array_equal(stars.flux, [[1, 2, 4]])
    assert_allclose(stars.ivar, [[4, 16, 100]], rtol=1e-15)
    with pytest.raises(DataError, match=r"err \(which may be anything"):
        read(tmp_path, "wavelength flux err\n900 1 0.5\n902 2 0.25\n904 4 0.1\n")


def test_lines_above_few_spectra_are_labels_only_where_they_are_asked_for(tmp_path):
    """With two spectra a column a line about the instrument looks like a label of each."""
    text = "Range;400;2500\nFat;3;4\nnm;a;b\n900;1;2\n902;3;4\n904;5;7\n"
    with pytest.warns(UnusedDataWarning, match=r"lines 1 to 2 before the table \('Range 400"):
        stars = read(tmp_path, text)
    assert stars.labels is None
    assert_array_equal(stars.flux, [[1, 3, 5], [2, 4, 7]])
    asked = read(tmp_path, text, label_names=["Fat"])
    assert_array_equal(asked.labels, [[3], [4]])
    assert list(asked.ids) == ["a", "b"]


def test_columns_are_picked_by_name(tmp_path):
    text = "Dark;nm;White;Green tea\n1;900;10;0.5\n2;902;11;0.6\n3;904;12;0.7\n"
    with pytest.warns(UnusedDataWarning, match="Dark, White"):
        stars = read(tmp_path, text, wavelength="nm", flux="green tea")
    assert_array_equal(stars.flux, [[0.5, 0.6, 0.7]])
    assert_array_equal(stars.wavelength, [900, 902, 904])
    with pytest.raises(FileFormatError, match="should have a column 'wl'"):
        read(tmp_path, text, wavelength="wl", flux="White")


def test_text_files_of_a_folder_count_where_there_are_no_others(tmp_path):
    for name in ("b", "a"):
        write(tmp_path, f"900\t{ord(name)}\n902\t2\n904\t1\n", f"{name}.txt")
    write(tmp_path, "not this one", "notes.md")
    stars = ss.read_spectra(tmp_path, **NM)
    assert list(stars.ids) == ["a", "b"]
    assert_array_equal(stars.flux[:, 0], [97, 98])
    np.savez(tmp_path / "c.npz", flux=np.ones(3), wavelength=[900.0, 902, 904])
    assert list(ss.read_spectra(tmp_path, **NM).ids) == ["c"]


def test_files_of_a_folder_hold_one_quantity(tmp_path):
    for name, quantity in (("a", "Absorbance"), ("b", "absorbance"), ("c", "%T")):
        write(tmp_path, f"nm\t{quantity}\n900\t1\n902\t2\n904\t1\n", f"{name}.txt")
    with pytest.raises(DataError, match=r"hold one quantity, got '%T' in .* 'Absorbance' in"):
        ss.read_spectra(tmp_path)
    (tmp_path / "c.txt").unlink()
    assert len(ss.read_spectra(tmp_path)) == 2


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x00\x4b\x80\x00", r"perhaps a GRAMS file \(.spc\): export it as JCAMP-DX"),
        (b"\n\n\xfe\xfe\x00\x01", "Bruker's OPUS: export it as text"),
        (b"as7\x00\x00\x01", "ASD spectrometer: export it as text"),
        ("id\t900".encode("utf-16"), "text in UTF-16: save it as UTF-8"),
    ],
)
def test_binary_files_of_instruments_say_how_to_convert_them(tmp_path, start, words):
    (tmp_path / "x").write_bytes(start)
    with pytest.raises(FileFormatError, match=words):
        ss.read_spectra(tmp_path / "x")
