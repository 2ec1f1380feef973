"""Spectra in JCAMP-DX files, .dx and .jdx, read by the package jcamp: one spectrum a file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import DataError, FileFormatError, MissingDependencyError
from symspec.safety.file_formats import as_format_error
from symspec.safety.named_arrays import Contents, NamedArrays, hold_array, name_arrays
from symspec.spectra.readers.tables.columns import TableOptions

JCAMP_STARTS = (b"##TITLE", b"##Title", b"##title")
_UNITS = {
    "1/cm": "cm-1",
    "cm-1": "cm-1",
    "cm^-1": "cm-1",
    "nanometers": "nm",
    "nanometer": "nm",
    "nm": "nm",
    "micrometers": "um",
    "micrometer": "um",
    "microns": "um",
}
_TOLERANCE = 1e-3  # relative, of ordinates written with few digits


@contextmanager
def open_jcamp(path: Path, options: TableOptions) -> Iterator[NamedArrays]:
    """Read the spectrum of a JCAMP-DX file; it is held whole.

    Yields
    ------
    NamedArrays
        `flux` and `wavelength` (pixel,), the latter with its unit.

    Raises
    ------
    MissingDependencyError
        The package that reads such files is not installed.
    FileFormatError
        The file is damaged, or its numbers do not check.
    DataError
        It holds several spectra, peaks alone, or no wavelengths.
    """
    try:
        import jcamp
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a JCAMP-DX file, which takes the package jcamp: install it with pip install"
            ' "symspec[chemistry]", or export the spectrum as a text file of two columns.'
        ) from error
    said = io.StringIO()  # where the package prints checks that fail
    with as_format_error(path, "a JCAMP-DX file"), redirect_stdout(said):
        read = jcamp.readfile(str(path))
    if said.getvalue().strip():
        raise FileFormatError(
            f"{path} should be a JCAMP-DX file whose checks agree, got one where they do not"
            f" ({said.getvalue().strip().splitlines()[0]}): export it again, with"
            " uncompressed numbers (AFFN) or as a text file of two columns."
        )
    unit = _find_unit(read, path)
    x = np.asarray(read["x"], dtype=np.float64)
    y = np.asarray(read["y"], dtype=np.float64)
    _check_numbers(read, x, y, path)
    flux = options.named.flux or "flux"
    yield name_arrays(
        {flux: hold_array(y), "wavelength": hold_array(x)},
        units={"wavelength": unit, flux: str(read.get("yunits", "")).strip().lower()},
        contents=Contents(
            layout="JCAMP-DX",
            sources={
                "flux": f"##YUNITS={read.get('yunits', '?')}",
                "wavelength": f"##XUNITS={read.get('xunits', '?')}",
            },
        ),
    )


def _find_unit(read: Mapping[str, Any], path: Path) -> str:
    if read.get("children"):
        raise DataError(
            f"{path} should hold one spectrum, got {len(read['children'])} linked ones: export each"
            " to a file of its own, and read their folder."
        )
    if not ({"xydata", "xypoints"} & set(read)):
        raise DataError(
            f"{path} should hold a spectrum, ##XYDATA or ##XYPOINTS, got"
            f" {read.get('data type', 'none')}: export the spectrum rather than its peaks."
        )
    stated = str(read.get("xunits", "")).strip()
    if stated.lower() not in _UNITS:
        raise DataError(
            f"{path} should have ##XUNITS of 1/CM, NANOMETERS or MICROMETERS, got {stated!r}:"
            " correct it, or export a text file of two columns."
        )
    return _UNITS[stated.lower()]


def _check_numbers(read: Mapping[str, Any], x: np.ndarray, y: np.ndarray, path: Path) -> None:
    """Hold the numbers against those of the header: their count, ends and first ordinate."""
    if x.size != y.size or x.size == 0:
        raise FileFormatError(
            f"{path} should hold as many ordinates as abscissas, got {y.size} and {x.size}: export"
            " it again."
        )
    measured = {"npoints": y.size, "firstx": x[0], "lastx": x[-1], "firsty": y[0]}
    for name, value in measured.items():
        stated = read.get(name)
        if isinstance(stated, int | float) and not math.isclose(
            value, stated, rel_tol=_TOLERANCE, abs_tol=1e-12
        ):
            raise FileFormatError(
                f"{path} should hold numbers that agree with ##{name.upper()}={stated}, got"
                f" {value:.9g}: the file is damaged or of an unusual form; export it again, with"
                " uncompressed numbers (AFFN) or as a text file of two columns."
            )
