"""Workbooks and JCAMP-DX files: the same numbers as from text; what is unclear is asked for."""

import sys
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.errors import DataError, FileFormatError, MissingDependencyError, UnusedDataWarning

NM = {"wavelength_unit": "nm"}
TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="rels"'
    ' ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>'
)
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    "{}</Relationships>"
)
RELATION = (
    '<Relationship Id="rId{}" Target="{}"'
    ' Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{}"/>'
)
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def write_workbook(path, sheets):
    """A workbook of Excel, as plain as the format allows."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{i}" r:id="rId{i}"/>'
        for i, name in enumerate(sheets, start=1)
    )
    targets = "".join(
        RELATION.format(i, f"worksheets/sheet{i}.xml", "worksheet")
        for i in range(1, len(sheets) + 1)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        main = RELATION.format(1, "xl/workbook.xml", "officeDocument")
        archive.writestr("_rels/.rels", RELATIONS.format(main))
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{listed}</sheets></workbook>',
        )
        archive.writestr("xl/_rels/workbook.xml.rels", RELATIONS.format(targets))
        for i, rows in enumerate(sheets.values(), start=1):
            body = "".join(f"<row>{''.join(map(write_cell, row))}</row>" for row in rows)
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml",
                f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>',
            )
    return path


def write_cell(value):
    if value is None:
        return "<c/>"
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
    return f"<c><v>{value!r}</v></c>"


ROWS = [
    ["Report of the laboratory"],
    ["Sample", "Fat", "Group", 1100, 1102.5, 1105],
    ["a", 3.25, "x", 0.1, 0.2, 1 / 3],
    ["b", "NA", "y", 1, 0.5, 0.25],
]


@pytest.fixture(scope="module")
def calamine():
    return pytest.importorskip("python_calamine")


def test_a_sheet_is_read_number_by_number(calamine, tmp_path):
    path = write_workbook(tmp_path / "x.bin", {"Spectra": ROWS, "Empty": []})
    with pytest.warns(UnusedDataWarning, match=r"line 1 before the table \('Report of the labora"):
        stars = ss.read_spectra(path, **NM)
    assert_array_equal(stars.flux, [[0.1, 0.2, 1 / 3], [1, 0.5, 0.25]])
    assert_array_equal(stars.wavelength, [1100, 1102.5, 1105])
    assert_array_equal(stars.labels, [[3.25], [np.nan]])
    assert stars.label_names == ("Fat",)
    assert list(stars.ids) == ["a", "b"]
    assert list(stars.groups) == ["x", "y"]


def test_one_of_several_sheets_is_asked_for(calamine, tmp_path):
    path = write_workbook(tmp_path / "x.xlsx", {"Spectra": ROWS[1:], "Notes": [["by", "Ann"]]})
    with pytest.raises(DataError, match="several sheets, 'Spectra', 'Notes': say which"):
        ss.read_spectra(path, **NM)
    assert len(ss.read_spectra(path, sheet="Spectra", **NM)) == 2
    with pytest.raises(FileFormatError, match="should have a sheet 'spectra' with a table"):
        ss.read_spectra(path, sheet="spectra", **NM)


def test_damaged_workbooks_are_refused(calamine, tmp_path):
    path = write_workbook(tmp_path / "x.xlsx", {"Spectra": ROWS})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="Excel file in good order, got a truncated"):
        ss.read_spectra(path)
    write_workbook(path, {"Spectra": []})
    with pytest.raises(FileFormatError, match="empty sheets alone"):
        ss.read_spectra(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("xl/bomb", bytes(100 * 2**20))
    with pytest.raises(FileFormatError, match="should unpack to at most 66 MiB, got 100 MiB"):
        ss.read_spectra(path)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    monkeypatch.setitem(sys.modules, "jcamp", None)
    path = write_workbook(tmp_path / "x.xlsx", {"Spectra": ROWS})
    with pytest.raises(MissingDependencyError, match=r'pip install "symspec\[chemistry\]"'):
        ss.read_spectra(path)
    path.write_text("##TITLE=x\n")
    with pytest.raises(MissingDependencyError, match=r'pip install "symspec\[chemistry\]"'):
        ss.read_spectra(path)


SPECTRUM = """##TITLE=ethanol
##JCAMP-DX=4.24
##DATA TYPE=INFRARED SPECTRUM
##XUNITS={unit}
##YUNITS={quantity}
##FIRSTX=4000
##LASTX=4006
##NPOINTS={n}
##FIRSTY=0.5
##XFACTOR=1
##YFACTOR=0.001
##XYDATA=(X++(Y..Y))
4000 500 250
4004 750 {last}
##END=
"""


@pytest.fixture(scope="module")
def jcamp():
    return pytest.importorskip("jcamp")


def write_jcamp(path, unit="1/CM", n=4, last=100, quantity="ABSORBANCE"):
    path.write_text(SPECTRUM.format(unit=unit, n=n, last=last, quantity=quantity))
    return path


def test_a_jcamp_file_is_read_number_by_number(jcamp, tmp_path):
    stars = ss.read_spectra(write_jcamp(tmp_path / "x.txt"))
    assert_allclose(stars.wavelength, 1e8 / np.array([4006, 4004, 4002, 4000]), rtol=1e-14)
    assert_allclose(stars.flux, [[0.1, 0.75, 0.25, 0.5]], rtol=1e-14)
    assert stars.wavelength_medium == "vacuum"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n": 5}, FileFormatError, "checks agree, got one where they do not"),
        ({"unit": "SECONDS"}, DataError, "##XUNITS of 1/CM, NANOMETERS or MICROMETERS, got"),
        ({"last": "7x"}, FileFormatError, "JCAMP-DX file in good order"),
    ],
)
def test_a_jcamp_file_that_does_not_check_is_refused(jcamp, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        ss.read_spectra(write_jcamp(tmp_path / "x.jdx", **changes))


def test_a_folder_of_jcamp_files(jcamp, tmp_path):
    write_jcamp(tmp_path / "b.jdx")
    write_jcamp(tmp_path / "a.dx")
    assert list(ss.read_spectra(tmp_path).ids) == ["a", "b"]
    write_jcamp(tmp_path / "c.jdx", quantity="TRANSMITTANCE")
    with pytest.raises(DataError, match=r"one quantity, got 'transmittance' in .* 'absorbance'"):
        ss.read_spectra(tmp_path)
