"""Predictions as a catalogue, one row a star, in FITS, ECSV, HDF5 or NetCDF; the same input gives the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symspec.errors import DataError, OptionError, ShapeError
from symspec.files.catalogue_columns import (
    DIALECTS,
    Column,
    build_columns,
    build_header,
    name_labels,
)
from symspec.laplace.calibration import ErrorCalibration
from symspec.laplace.flags import Flag
from symspec.laplace.prediction import Prediction
from symspec.safety.checks import check_choice
from symspec.safety.whole_files import replace_when_complete

if TYPE_CHECKING:
    from xarray import Dataset

SUFFIXES = {
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".ecsv": "ecsv",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".nc": "netcdf",
}
Columns = Mapping[str, Column]
_TABLE = "catalogue"  # name of the FITS extension and of the HDF5 dataset


def write_catalogue(
    path: str | os.PathLike[str],
    prediction: Prediction,
    ids: Any = None,
    *,
    overwrite: bool = False,
    true_labels: Any = None,
    calibration: ErrorCalibration | None = None,
    dialect: str = "upper",
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write predicted labels with their error budget as a table, one row a star.

    =================================  ==========================  ==============================================
    upper                              lower                       what it is
    =================================  ==========================
    ============================================== ID                                 id
    the star TEFF                               teff                        the label; so for each
    of them: TEFF_ERR                           e_teff                      total standard deviation
    TEFF_MODEL_ERR, TEFF_FLUX_ERR,     e_teff_model, e_teff_flux,  its parts TEFF_NOISE_ERR
    e_teff_noise TEFF_CAL_ERR                       e_teff_cal                  TEFF_ERR times the
    factor of `calibration` TEFF_FLAGS                         f_teff                      bits of
    FLAGS that concern this label alone TEFF_TRUE                          teff_true
    known label COV, MODEL_COV, FLUX_COV,          cov, cov_model, cov_flux,   covariances (label,
    label), labels in their NOISE_COV                          cov_noise                   order, in
    products of their units FLAGS                              flags                       bits of
    `Flag` N_BAD_PIXELS, SNR, FLUX_DISTANCE   the same in lower case      see `Prediction`
    =================================  ==========================
    ==============================================

    Columns of what is not there (flux errors, known labels, ...) are left out. The header says
    versions, the order and units of the labels (LABEL1, UNIT1, ...), what the flags mean (FLAG1,
    FLAG2, ...: by value of the bit), the limits behind them, which of them could not be looked at
    (NOTEVAL), and where a calibration comes from (CALFROM, CAL1, ...). Nothing depends on the time
    or the place of writing.

    FITS: a unit that the standard has is in TUNITn, in the standard's words. One that it has not,
    such as dex, is in the column's comment, TCOMMn, and in the header's UNITn; astropy is told of
    it in comments of its own, so that `astropy.table.Table.read` gives the column its unit, without
    a warning. A unit that astropy does not know either, such as log(cgs), is in TCOMMn and UNITn
    only.

    NetCDF: the file of `catalogue_dataset`, for `xarray.open_dataset`.

    Parameters
    ----------
    path : str or path
        Its ending says the format: .fits, .fit, .fits.gz; .ecsv; .h5, .hdf5; .nc.
    prediction : Prediction
    ids : array_like of str or int, shape (star,), optional
        Default: the rows' numbers, from 0.
    overwrite : bool, default False
        Whether a file already there is replaced.
    true_labels : array_like, shape (star, label), optional
        Known labels in the labels' units, NaN where unknown.
    calibration : ErrorCalibration, optional
        Errors times its factors stand beside the errors themselves.
    dialect : {"upper", "lower"}
        Convention of the columns' names.
    meta : mapping of str to str or number, optional
        More for the header. For FITS, text of printable ASCII.

    Raises
    ------
    OptionError
        The ending, the dialect or an entry of `meta` is none that can be written.
    ShapeError
        `ids`, `true_labels` or `calibration` do not match the prediction.
    DataError
        `ids` are neither words nor whole numbers, or labels' names give the same column twice,
        or there is no star.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    path = Path(path)
    file_format = _find_suffix(path)
    columns, header = _prepare(prediction, ids, true_labels, calibration, dialect, meta)
    if file_format == "fits":
        ids = next(iter(columns.values())).values
        _check_ascii([*map(str, header.values()), *map(str, ids.tolist())])
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        _WRITE[file_format](temporary, columns, header)


def check_catalogue(
    path: str | os.PathLike[str],
    label_names: Sequence[str],
    label_units: Sequence[str] = (),
    ids: Iterable[str] = (),
    *,
    dialect: str = "upper",
) -> None:
    """Refuse what `write_catalogue` would refuse in the end, before any work: ending, dialect, and words.

    Raises
    ------
    OptionError, DataError
        As `write_catalogue`.
    """
    check_choice(dialect, "dialect", DIALECTS)
    name_labels(tuple(label_names))
    if _find_suffix(Path(path)) == "fits":
        _check_ascii([*label_names, *label_units, *ids])


def catalogue_dataset(
    prediction: Prediction,
    ids: Any = None,
    *,
    true_labels: Any = None,
    calibration: ErrorCalibration | None = None,
    dialect: str = "upper",
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Arrange a catalogue as an `xarray.Dataset`.

    Its variables are the columns of `write_catalogue`, with the dimensions star, and label and
    other_label of the covariances; coordinates are the stars' ids and the labels' columns. Units
    and descriptions are attributes (units, long_name) of the variables, and the header those of the
    dataset.

    Parameters
    ----------
    prediction, ids, true_labels, calibration, dialect, meta
        As in `write_catalogue`.

    Raises
    ------
    OptionError, ShapeError, DataError
        As `write_catalogue`.
    """
    columns, header = _prepare(prediction, ids, true_labels, calibration, dialect, meta)
    return _build_dataset(columns, header)


def _find_suffix(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise OptionError(
            f"path should end in one of {', '.join(SUFFIXES)}, which says the format, got"
            f" {path.name!r}: add one."
        )
    return SUFFIXES[suffix]


def _prepare(
    prediction: Prediction,
    ids: Any,
    true_labels: Any,
    calibration: ErrorCalibration | None,
    dialect: str,
    meta: Mapping[str, Any] | None,
) -> tuple[Columns, dict[str, Any]]:
    """Columns and header, checked."""
    check_choice(dialect, "dialect", DIALECTS)
    if len(prediction.labels) == 0:
        raise DataError(
            "prediction should hold at least one star, got none: check what selects stars."
        )
    n_labels = len(prediction.label_names)
    if calibration is not None and len(calibration.factor) != n_labels:
        raise ShapeError(
            f"calibration should have {n_labels} factors, one a label, got"
            f" {len(calibration.factor)}."
        )
    words = {"true_labels": true_labels, "calibration": calibration, "dialect": dialect}
    return build_columns(prediction, ids, **words), build_header(
        prediction, meta or {}, calibration
    )


def _check_ascii(texts: Iterable[str]) -> None:
    if bad := next(
        (text for text in texts if not (text.isascii() and (text.isprintable() or not text))), None
    ):
        raise DataError(
            f"FITS holds printable ASCII only, got {bad!r}: write .ecsv or .hdf5, or change the"
            " text."
        )


# --- formats


def _build_table(columns: Columns, header: dict[str, Any]) -> Any:
    from astropy.table import Column as TableColumn
    from astropy.table import Table
    from astropy.units import Unit

    table = Table(meta=header)
    for name, (values, unit, words) in columns.items():
        # surveys write units that astropy does not know, such as log(cgs): they stay as they are
        known = Unit(unit, parse_strict="silent") if unit else None
        table[name] = TableColumn(values, unit=known, description=words)
    return table


def _write_ecsv(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    _build_table(columns, header).write(path, format="ascii.ecsv")


def _write_hdf5(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    _build_table(columns, header).write(path, format="hdf5", path=_TABLE, serialize_meta=True)


def _build_dataset(columns: Columns, header: dict[str, Any]) -> Any:
    import xarray as xr

    (id_name, ids), *others = columns.items()
    variables = {}
    masks = np.array([flag.value for flag in Flag], np.int32)
    bits = {"flag_masks": masks, "flag_meanings": " ".join(flag.name for flag in Flag)}
    for name, (values, unit, words) in others:
        dims = ("star", "label", "other_label")[: values.ndim]
        more = {"units": unit} if unit else bits if words.startswith("bits") else {}
        variables[name] = (dims, values, {"long_name": words} | more)
    names = name_labels(tuple(header[f"LABEL{i}"] for i in range(1, header["N_LABELS"] + 1)))
    star = ("star", ids.values, {"long_name": f"{ids.words} ({id_name})"})
    coords = {"star": star, "label": names, "other_label": names}
    attributes = {
        key: int(value) if isinstance(value, bool) else value for key, value in header.items()
    }
    return xr.Dataset(variables, coords, attributes)


def _write_netcdf(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    _build_dataset(columns, header).to_netcdf(path, engine="h5netcdf")


def _write_fits(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    from astropy.io import fits

    with fits.open(_build_fits(columns)) as file:
        hdu = file[1]
        hdu.name = _TABLE
        for i, (_, unit, words) in enumerate(columns.values(), 1):
            standard = _find_fits_unit(unit)
            if standard:
                hdu.columns[i - 1].unit = standard
            # astropy keeps descriptions in comments of its own; TCOMMn is where other readers look
            hdu.header.set(
                f"TCOMM{i}",
                words if standard or not unit else f"{words} [{unit}]",
                after=f"TFORM{i}",
            )
        for key, value in header.items():
            _add_card(hdu.header, key, value)
        for part in file:
            part.add_checksum(when="")  # without the time that astropy would put there
        with path.open("wb") as raw, _compress(raw, path) as stream:
            file.writeto(stream)


def _build_fits(columns: Columns) -> io.BytesIO:
    """File of the bare columns, in whose comments astropy finds descriptions, and units that FITS has not."""
    from astropy.table import Column as TableColumn
    from astropy.table import QTable
    from astropy.units import Quantity
    from astropy.utils.exceptions import AstropyUserWarning

    table = QTable()
    buffer = io.BytesIO()
    for name, (values, unit, words) in columns.items():
        known = None if _find_fits_unit(unit) else _find_unit(unit)
        table[name] = TableColumn(values) if known is None else Quantity(values, known, subok=True)
        table[name].info.description = words
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*could not be saved in native FITS format", AstropyUserWarning
        )
        table.write(buffer, format="fits")
    buffer.seek(0)
    return buffer


def _find_unit(unit: str) -> Any:
    """The unit as astropy has it, or None where it has none."""
    from astropy.units import Unit

    try:
        return Unit(unit) if unit else None
    except ValueError:
        return None


def _find_fits_unit(unit: str) -> str | None:
    """The unit as the FITS standard writes it, or None where it has no word for it."""
    try:
        return _find_unit(unit).to_string("fits")
    except (AttributeError, ValueError):
        return None


def _compress(raw: io.BufferedWriter, path: Path) -> Any:
    """The stream itself, or gzip without the name and time that it would note down."""
    return (
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.name.lower().endswith(".gz") else raw
    )


def _add_card(header: Any, key: str, value: Any) -> None:
    """A card, or a comment for what no card holds: no finite number, or long text under a long name."""
    finite = isinstance(value, str) or np.isfinite(value)
    text = str(value).replace("'", "''")
    if finite and len(key) <= 8:
        header[key] = value
    elif finite and len(f"HIERARCH {key} = '{text}'") <= 80:
        header[f"HIERARCH {key}"] = value
    else:
        header.add_comment(f"{key} = {value}")


_WRITE: dict[str, Callable[[Path, Columns, dict[str, Any]], None]] = {
    "fits": _write_fits,
    "ecsv": _write_ecsv,
    "hdf5": _write_hdf5,
    "netcdf": _write_netcdf,
}
