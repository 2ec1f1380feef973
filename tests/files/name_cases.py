"""Names of stars, names of labels and units that are hard to keep, and how each format keeps them.

`find_fault` writes one of them and reads it back by the format's own reader.
"""

import csv
import warnings
from dataclasses import replace

import numpy as np
import xarray as xr
from astropy.io import fits
from catalogue_cases import build_prediction, read_table

from symspec.errors import SymspecError
from symspec.files.catalogues import check_catalogue, write_catalogue
from symspec.reports.star_tables import check_star_table, write_star_table

CATALOGUES = (".fits", ".fits.gz", ".ecsv", ".h5", ".nc")
TABLES = (".ecsv", ".csv")

TEXTS = [
    "",
    " ",
    "  ",
    "#1",
    "#",
    "# a",
    " #a",
    "a#b",
    " a",
    "a ",
    " a b ",
    "a b",
    "a  b",
    "\t",
    "a\tb",
    "a\t",
    "a\n",
    "a\nb",
    "\r",
    "a\r\nb",
    "a\x0bb",
    "a\x0cb",
    "a\x1cb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\xa0",
    "\u3000a",
    "\ufeffa",
    "a\x00",
    "a\x00b",
    "\x00",
    "a\x7f",
    "\x1b[31m",
    "\ud800",
    "a\udcffb",
    "é",
    "e\u0301",
    "ß",
    "星",
    "\u03b1 Cen",
    "🌟",
    "\U0010ffff",
    "'",
    "''",
    '"',
    '""',
    "a'b",
    'a"b',
    '"a"',
    "'a'",
    "a,b",
    ",",
    ";",
    "a|b",
    "\\",
    "\\n",
    "a\\",
    "--",
    "N/A",
    "nan",
    "NaN",
    "null",
    "None",
    "True",
    "masked",
    "0",
    "007",
    "1e5",
    "1_000",
    "-0",
    "+1",
    "inf",
    "%",
    "{}",
    "$x$",
    "!",
    "---",
    "- a",
    "? a",
    "a: b",
    "&a",
    "*a",
    "@a",
    "`a`",
    "[a]",
    "<b>",
    "2MASS J00000032+5737103",
    "x" * 68,
    "x" * 69,
    "x" * 300,
    "x" * 70_000,
    "END",
    "SIMPLE  =",
    "CONTINUE",
    "HIERARCH a = 1",
]
NAMES = [
    "star",
    "label",
    "other_label",
    "Star",
    "LABEL",
    "OTHER_LABEL",
    "ID",
    "id",
    "COV",
    "cov",
    "FLAGS",
    "flags",
    "SNR",
    "N_BAD_PIXELS",
    "FLUX_DISTANCE",
    "MODEL_COV",
    "cov_model",
    "TEFF_ERR",
    "e_teff",
    "summary",
    "chain",
    "units",
    "dtype",
    "meta",
    "[Fe/H]",
    "log g",
    "x",
    "_x",
    "x_",
    "1x",
    "x1",
    "123",
    "a/b",
    "a.b",
    "a" * 60,
    "a" * 62,
    "a" * 68,
    "a" * 69,
    "a" * 80,
    "a" * 300,
    "END",
    "COMMENT",
    "HISTORY",
    "CONTINUE",
    "NAXIS1",
    "TTYPE1",
    "XTENSION",
    " x",
    "x ",
    "#x",
    "x\ty",
    "x\ny",
    "x\x00",
    "x\ud800",
    "é",
    "Tэ",
]
UNITS = [
    "K",
    "kK",
    "dex",
    "dex(cm / s2)",
    "log(cgs)",
    "log10(cm.s**-2)",
    "cm s-2",
    "km/s",
    "km / s",
    "%",
    "Kelvin",
    "degC",
    "solRad",
    "mag",
    "1e-17 erg",
    "10**3 K",
    "unitless",
    "none",
    "-",
    " K",
    "K ",
    " ",
    "K\n",
    "K\x00",
    "K\ud800",
    "µm",
    "Å",
    "x" * 68,
    "x" * 69,
    "x" * 200,
    "'K'",
    '"K"',
    "#K",
    "[K]",
    "((",
    "K**",
    "\\",
    "1",
    "0",
    "nan",
]


def find_fault(kind, text, suffix, folder, dialect="upper"):
    """What went wrong with one text, "" if it was kept or refused before the work.

    Parameters
    ----------
    kind : {"id", "table id", "name", "unit"}
    text : str
    suffix : str
    folder : path
    dialect : {"upper", "lower"}
    """
    path = folder / f"x{suffix}"
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if kind == "table id":
                return _try_table(path, text)
            return _try_catalogue(path, kind, text, dialect)
        except SymspecError:
            return "refused after the work"
        except Exception as error:  # whatever a library raises is the fault looked for
            return f"{type(error).__name__}: {error}"[:200]


def _try_catalogue(path, kind, text, dialect):
    names = (text, "y") if kind == "name" else ("TEFF", "y")
    units = (text, "K") if kind == "unit" else ("K", "dex")
    ids = [text, "b", "c", text + "2"] if kind == "id" else ["a", "b", "c", "d"]
    if kind == "name":
        try:
            prediction = build_prediction(names=names, units=units)
        except SymspecError:
            return ""
    prediction = replace(build_prediction(names=names, units=units), snr=np.ones(4))
    try:
        check_catalogue(path, names, units, ids, dialect=dialect)
    except SymspecError as error:
        return _find_fault_of_refusal(path, error)
    write_catalogue(path, prediction, ids, dialect=dialect)
    found_ids, header, labels = _read(path, dialect)
    if found_ids != ids:
        return f"ids {found_ids!r:.60}"
    if not np.array_equal(labels, prediction.labels[:, 1], equal_nan=True):
        return f"labels {labels}"
    kept = [header["LABEL1"], header.get("UNIT1", "")]
    return "" if kept == [names[0], units[0]] else f"header {kept!r:.100}"


def _find_fault_of_refusal(path, error):
    return "left a file" if path.exists() else "" if ", got" in str(error) else f"words: {error}"


def _read(path, dialect):
    """Ids, header, and the second label of a catalogue."""
    fold = str.upper if dialect == "upper" else str.lower
    if path.suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset["star"].values.tolist(), dataset.attrs, dataset[fold("y")].values
    table = read_table(path)
    ids = table[fold("id")]
    labels = np.ma.filled(table[fold("y")], np.nan)
    if ".fits" in path.name:
        return ids.tolist(), fits.getheader(path, 1), labels
    return ids.tolist(), table.meta, labels


def _try_table(path, text):
    ids = [text, "b", text + "2"]
    columns = {"X": np.arange(3.0)}
    try:
        check_star_table(path, ids)
    except SymspecError as error:
        return _find_fault_of_refusal(path, error)
    write_star_table(path, columns, ids, {"NOTE": "x"})
    if path.suffix == ".ecsv":
        table = read_table(path)
        found = table["ID"].tolist()
        numbers = table["X"].tolist()
    else:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
        found = [row[0] for row in rows]
        numbers = [float(row[1]) for row in rows]
    if numbers != [0.0, 1.0, 2.0]:
        return f"numbers {numbers}"
    return "" if found == ids else f"ids {found!r:.60}"


def list_trials():
    """All trials: kind, text, suffix, dialect."""
    for text in TEXTS:
        yield from (("id", text, suffix, "upper") for suffix in CATALOGUES)
        yield from (("table id", text, suffix, "upper") for suffix in TABLES)
    for suffix in CATALOGUES:
        for dialect in ("upper", "lower"):
            yield from (("name", name, suffix, dialect) for name in NAMES)
        yield from (("unit", unit, suffix, "upper") for unit in UNITS)
