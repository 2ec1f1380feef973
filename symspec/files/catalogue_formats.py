"""Formats of tables of stars: their endings, and the texts that each of them can hold.

What a format cannot hold is refused before the work that fills the table, and never cut or changed.
`find_table` reads a catalogue back.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symspec.errors import DataError, OptionError
from symspec.safety.arrays import as_texts


class Rule(NamedTuple):
    """What a text has to be, in words, and whether one is."""

    words: str
    holds: Callable[[str], bool]


_ASCII = Rule("printable ASCII", lambda text: text.isascii() and text.isprintable())
_PRINTABLE = Rule("printable characters", str.isprintable)
_NOT_EMPTY = Rule("names that are not empty", bool)
_NO_BLANK_AT_END = Rule("texts without blanks at their ends", lambda text: text == text.rstrip())
_NO_BLANKS = Rule("texts without blanks at both ends", lambda text: text == text.strip())


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """A format of tables of stars.

    Attributes
    ----------
    name : str
    suffixes : tuple of str
        Endings of such files.
    ids : tuple of Rule
        What its readers give back of the names of stars.
    texts : tuple of Rule
        The same of names and units of labels, and of texts in the header.
    taken : tuple of str
        Names that its columns may not have.
    longest_name, most_columns : int
        Most characters in the name of a column, and most columns.
    """

    name: str
    suffixes: tuple[str, ...]
    ids: tuple[Rule, ...] = ()
    texts: tuple[Rule, ...] = ()
    taken: tuple[str, ...] = ()
    longest_name: int = 255
    most_columns: int = 2000

    def check(self, columns: Sequence[str], texts: Iterable[str], ids: Iterable[str]) -> None:
        """Refuse what it cannot hold.

        Parameters
        ----------
        columns : sequence of str
            Names of all columns that the table may have.
        texts : iterable of str
            Names and units of labels, and texts in the header.
        ids : iterable of str
            Names of stars.

        Raises
        ------
        DataError
        """
        self._check_columns(columns)
        self._check_texts([*columns, *texts], "texts")
        self._check_texts(ids, "ids")

    def _check_columns(self, columns: Sequence[str]) -> None:
        if taken := [name for name in columns if name in self.taken]:
            raise DataError(
                f"{self.name} should have no column named {', '.join(self.taken)}, which are its"
                f" axes, got {', '.join(taken)}: rename the label, or write another dialect or"
                " format."
            )
        longest = max(columns, key=len)
        if len(longest) > self.longest_name:
            raise DataError(
                f"{self.name} should have names of columns of {self.longest_name} characters at"
                f" most, got {len(longest)} in {longest[:80]!r}: shorten the name of the label."
            )
        if len(columns) > self.most_columns:
            raise DataError(
                f"{self.name} should have {self.most_columns:,} columns at most, got up to"
                f" {len(columns):,}: write fewer labels."
            )

    def _check_texts(self, texts: Iterable[str], kind: str) -> None:
        """Check texts of one kind, "ids" or "texts"."""
        for text in as_texts(list(texts), kind):
            broken = self.find_broken(text, kind)
            if broken is not None:
                others = [one for one in CATALOGUES if one.find_broken(text, kind) is None]
                raise DataError(
                    f"{self.name} holds {broken.words} only, got {text[:80]!r} among {kind}: change"
                    f" it; of catalogues, {' and '.join(list_suffixes(others))} hold it."
                )

    def find_broken(self, text: str, kind: str) -> Rule | None:
        """The first rule for a text of this kind, "ids" or "texts", that it breaks."""
        rules: tuple[Rule, ...] = self.ids if kind == "ids" else self.texts
        return next((rule for rule in rules if not rule.holds(text)), None)


FITS = TableFormat(
    name="FITS",
    suffixes=(".fits", ".fit", ".fits.gz"),
    ids=(_ASCII, _NO_BLANK_AT_END),
    texts=(_ASCII, _NO_BLANK_AT_END),
    longest_name=68,
    most_columns=999,
)
ECSV = TableFormat(
    name="ECSV",
    suffixes=(".ecsv",),
    ids=(_PRINTABLE, _NOT_EMPTY, _NO_BLANKS),
    texts=(_PRINTABLE,),
)
HDF5 = TableFormat(name="HDF5", suffixes=(".h5", ".hdf5"))
NETCDF = TableFormat(name="NetCDF", suffixes=(".nc",), taken=("star", "label", "other_label"))
CSV = TableFormat(
    name="CSV",
    suffixes=(".csv",),
    ids=(_PRINTABLE, _NOT_EMPTY, _NO_BLANKS),
    texts=(_PRINTABLE, _NO_BLANKS),
)
CATALOGUES = (FITS, ECSV, HDF5, NETCDF)
TABLE = "catalogue"  # name of the FITS extension and of the HDF5 dataset
STAR_TABLES = (ECSV, CSV)


def list_suffixes(formats: Sequence[TableFormat]) -> tuple[str, ...]:
    """Endings of files of these formats."""
    return tuple(suffix for one in formats for suffix in one.suffixes)


def find_table_format(path: Path, formats: Sequence[TableFormat]) -> TableFormat:
    """Find the format that the ending of a path says.

    Raises
    ------
    OptionError
        It says none of `formats`.
    """
    for one in formats:
        if path.name.lower().endswith(one.suffixes):
            return one
    raise OptionError(
        f"path should end in one of {', '.join(list_suffixes(formats))}, which says the format, got"
        f" {path.name!r}: add one."
    )


def write_text_table(path: Path, table: Any, form: TableFormat) -> None:
    """Write an astropy table as ECSV or CSV, with stars whose names start with # quoted.

    To readers of ECSV such a row would be a comment.
    """
    stream = io.StringIO()
    table.write(stream, format=f"ascii.{form.name.lower()}")
    lines = stream.getvalue().split("\n")
    if form is ECSV:
        n_header = next(i for i, line in enumerate(lines) if not line.startswith("#")) + 1
        lines[n_header:] = map(_quote_name, lines[n_header:])
    path.write_bytes("\n".join(lines).encode())


def _quote_name(line: str) -> str:
    name, _, rest = line.partition(" ")
    return f'"{name}" {rest}' if line.startswith("#") else line


def find_unit(unit: str) -> Any:
    """The unit of astropy, or None if astropy does not know it."""
    from astropy.units import Unit

    try:
        return Unit(unit) if unit else None
    except ValueError:
        return None


def find_fits_unit(unit: str) -> str | None:
    """The unit as the FITS standard spells it, or None if it is not part of the standard."""
    known = find_unit(unit)
    if known is None:
        return None
    try:
        return known.to_string("fits")
    except ValueError:
        return None


class StoredTable(NamedTuple):
    """Columns (star, ...) and header of a catalogue as it is stored."""

    columns: dict[str, np.ndarray]
    header: dict[str, Any]


def find_table(path: Path) -> StoredTable | None:
    """The table of a file, if it is a catalogue by its ending and holds one of symspec's."""
    form = next((one for one in CATALOGUES if path.name.lower().endswith(one.suffixes)), None)
    if form is None or not path.is_file():
        return None
    table = _READ[form.name](path)
    return table if table is not None and "N_LABELS" in table.header else None


def _read_fits(path: Path) -> StoredTable | None:
    from astropy.io import fits

    with fits.open(path) as file:
        if TABLE.upper() not in [hdu.name.upper() for hdu in file]:
            return None
        hdu = file[TABLE]
        names = hdu.columns.names
        return StoredTable({name: np.array(hdu.data[name]) for name in names}, dict(hdu.header))


def _read_ecsv(path: Path) -> StoredTable:
    return _unpack(path, format="ascii.ecsv")


def _read_hdf5(path: Path) -> StoredTable | None:
    import h5py

    with h5py.File(path) as file:
        if not isinstance(file.get(TABLE), h5py.Dataset):
            return None
    return _unpack(path, format="hdf5", path=TABLE)


def _unpack(file: Path, **options: Any) -> StoredTable:
    from astropy.table import Table
    from astropy.units import UnitsWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)  # surveys write what astropy does not know
        table = Table.read(file, **options)
    columns = {name: np.asarray(table[name]) for name in table.colnames}
    return StoredTable(columns, dict(table.meta))


def _read_netcdf(path: Path) -> StoredTable:
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as dataset:
        columns = {str(name): np.asarray(values) for name, values in dataset.data_vars.items()}
        ids = np.asarray(dataset["star"])
        return StoredTable({"ID": ids, "id": ids, **columns}, dict(dataset.attrs))


_READ: Mapping[str, Callable[[Path], StoredTable | None]] = {
    FITS.name: _read_fits,
    ECSV.name: _read_ecsv,
    HDF5.name: _read_hdf5,
    NETCDF.name: _read_netcdf,
}
