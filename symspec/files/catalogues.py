"""Catalogues of predictions in FITS, ECSV, HDF5 or NetCDF: equal input gives equal bytes."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, ShapeError
from symspec.files.catalogue_columns import (
    DIALECTS,
    Column,
    build_columns,
    build_header,
    list_columns,
    name_labels,
)
from symspec.files.catalogue_formats import (
    CATALOGUES,
    ECSV,
    FITS,
    HDF5,
    NETCDF,
    TABLE,
    TableFormat,
    find_fits_unit,
    find_table_format,
    find_unit,
    list_suffixes,
    write_text_table,
)
from symspec.laplace.flags import Flag
from symspec.laplace.prediction import Prediction
from symspec.safety.options import check_choice, check_level
from symspec.safety.whole_files import replace_when_complete, stream_for_hdf5
from symspec.validation.calibration import ErrorCalibration

if TYPE_CHECKING:
    from xarray import Dataset

SUFFIXES = list_suffixes(CATALOGUES)
Columns = Mapping[str, Column]


def write_catalogue(
    path: str | os.PathLike[str],
    prediction: Prediction,
    ids: ArrayLike | None = None,
    *,
    overwrite: bool = False,
    true_labels: ArrayLike | None = None,
    calibration: ErrorCalibration | None = None,
    interval: float | None = None,
    dialect: str = "upper",
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write predicted labels with their error budget as a table, one row a star.

    =================  =================  ==============================================
    upper              lower              content
    =================  =================  ==============================================
    ID                 id                 the star
    TEFF               teff               a label, followed by columns of the same kind:
    TEFF_ERR           e_teff             its total standard deviation
    TEFF_MODEL_ERR     e_teff_model       the part of it from the weights
    TEFF_BETWEEN_ERR   e_teff_between     the part of that between the networks of a mixture
    TEFF_FLUX_ERR      e_teff_flux        the part from the errors of the flux
    TEFF_NOISE_ERR     e_teff_noise       the part from the scatter of the training labels
    TEFF_CAL_ERR       e_teff_cal         TEFF_ERR times the factor of `calibration`
    TEFF_LO, TEFF_HI   teff_lo, teff_hi   the ends of its `interval`
    TEFF_NEWTON_SHIFT  teff_newton_shift  see `Prediction`
    TEFF_FLAGS         f_teff             the bits of FLAGS that concern this label alone
    TEFF_TRUE          teff_true          its known value
    COV                cov                total covariance (label, label) in products of units
    MODEL_COV          cov_model          its parts, as above
    BETWEEN_COV        cov_between
    FLUX_COV           cov_flux
    NOISE_COV          cov_noise
    FLAGS              flags              bits of `Flag`
    N_BAD_PIXELS       n_bad_pixels       see `Prediction`
    SNR                snr                see `Prediction`
    FLUX_DISTANCE      flux_distance      see `Prediction`
    =================  =================  ==============================================

    Columns without content (no flux errors, no known labels, ...) are left out. The header gives
    versions, the order and units of the labels (LABEL1, UNIT1, ...), what they are (CENTER), the
    meanings of the flags (FLAG1, FLAG2, FLAG4, ..., by the value of the bit), their limits, the
    flags that could not be evaluated (NOTEVAL), the level of the intervals (INTERVAL), and the
    source of a calibration (CALFROM, CAL1, ...). Nothing depends on the time or place of writing.

    FITS: a unit of the FITS standard is in TUNITn, as the standard spells it. Another unit, such as
    dex, is in the column's comment, TCOMMn, and in the header's UNITn; comments of astropy's own
    give it to `astropy.table.Table.read`, without a warning. A unit that astropy does not know,
    such as log(cgs), is in TCOMMn and UNITn only.

    NetCDF: the file of `catalogue_dataset`, for `xarray.open_dataset`.

    Parameters
    ----------
    path : str or path
        Its ending says the format: .fits, .fit, .fits.gz; .ecsv; .h5, .hdf5; .nc.
    prediction : Prediction
    ids : array_like of str or int, shape (star,), optional
        By default the numbers of the rows, from 0.
    overwrite : bool, default False
        Whether a file already there is replaced.
    true_labels : array_like, shape (star, label), optional
        Known labels in the labels' units, NaN where unknown.
    calibration : ErrorCalibration, optional
        Errors times its factors are written beside the errors themselves.
    interval : float, optional
        Level between 0 and 1 of the intervals to write, see `Prediction.interval`.
    dialect : {"upper", "lower"}
        Convention of the columns' names.
    meta : mapping of str to str or number, optional
        More for the header. For FITS, text of printable ASCII.

    Raises
    ------
    OptionError
        The ending, the dialect or an entry of `meta` cannot be written, or `interval` is no level.
    ShapeError
        `ids`, `true_labels` or `calibration` do not match the prediction.
    DataError
        `ids` are neither strings nor whole numbers, two labels give the same column, there is no
        star, or a text is one that the format cannot hold, see `symspec.files.catalogue_formats`.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    path = Path(path)
    form = find_table_format(path, CATALOGUES)
    columns, header = _prepare(
        prediction, ids, true_labels, calibration, interval, dialect, meta, form
    )
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        _WRITE[form.name](temporary, columns, header)


def write_columns(
    path: str | os.PathLike[str],
    columns: Columns,
    header: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write other columns (row,) in the formats of catalogues; the first one names the rows.

    Raises
    ------
    OptionError, DataError, FileKeptError
        As `write_catalogue`.
    """
    path = Path(path)
    form = find_table_format(path, CATALOGUES)
    _check_texts(columns, header, form)
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        _WRITE[form.name](temporary, columns, header)


def check_catalogue(
    path: str | os.PathLike[str],
    label_names: Sequence[str],
    label_units: Sequence[str] = (),
    ids: Iterable[str] = (),
    *,
    dialect: str = "upper",
    interval: float | None = None,
) -> None:
    """Refuse, before any work, an ending, dialect, level or texts that `write_catalogue` would.

    It takes the catalogue to have all columns that one may have.

    Raises
    ------
    OptionError, DataError
        As `write_catalogue`.
    """
    check_choice(dialect, "dialect", DIALECTS)
    if interval is not None:
        check_level(interval, "interval")
    form = find_table_format(Path(path), CATALOGUES)
    form.check(list_columns(label_names, dialect), [*label_names, *label_units], ids)


def catalogue_dataset(
    prediction: Prediction,
    ids: ArrayLike | None = None,
    *,
    true_labels: ArrayLike | None = None,
    calibration: ErrorCalibration | None = None,
    interval: float | None = None,
    dialect: str = "upper",
    meta: Mapping[str, Any] | None = None,
) -> Dataset:
    """Arrange a catalogue as an `xarray.Dataset`.

    Its variables are the columns of `write_catalogue`, with the dimension star, and for covariances
    label and other_label. Coordinates are the ids of the stars and the columns of the labels. Units
    and descriptions are attributes (units, long_name) of the variables; the header gives those of
    the dataset.

    Parameters
    ----------
    prediction, ids, true_labels, calibration, interval, dialect, meta
        As in `write_catalogue`.

    Raises
    ------
    OptionError, ShapeError, DataError
        As `write_catalogue`.
    """
    columns, header = _prepare(
        prediction, ids, true_labels, calibration, interval, dialect, meta, NETCDF
    )
    return _build_dataset(columns, header)


def _prepare(
    prediction: Prediction,
    ids: ArrayLike | None,
    true_labels: ArrayLike | None,
    calibration: ErrorCalibration | None,
    interval: float | None,
    dialect: str,
    meta: Mapping[str, Any] | None,
    form: TableFormat,
) -> tuple[Columns, dict[str, Any]]:
    """Columns and header, which the format can hold."""
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
    columns = build_columns(
        prediction,
        ids,
        true_labels=true_labels,
        calibration=calibration,
        interval=interval,
        dialect=dialect,
    )
    header = build_header(prediction, meta or {}, calibration, interval)
    _check_texts(columns, header, form)
    return columns, header


def _check_texts(columns: Columns, header: dict[str, Any], form: TableFormat) -> None:
    texts = [value for value in header.values() if isinstance(value, str)]
    words = [one.values for one in columns.values() if one.values.dtype.kind == "U"]
    form.check(list(columns), texts, [text for values in words for text in values.tolist()])


# --- formats


def _build_table(columns: Columns, header: dict[str, Any]) -> Any:
    from astropy.table import Column as TableColumn
    from astropy.table import Table
    from astropy.units import Unit

    table = Table(meta=header)
    for name, (values, unit, description) in columns.items():
        # surveys write units that astropy does not know, such as log(cgs): they are kept
        known = Unit(unit, parse_strict="silent") if unit else None
        table[name] = TableColumn(values, unit=known, description=description)
    return table


def _write_ecsv(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    write_text_table(path, _build_table(columns, header), ECSV)


def _write_hdf5(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    import h5py

    table = _build_table(columns, header)
    with stream_for_hdf5(path) as stream, h5py.File(stream, "w") as file:
        table.write(file, format="hdf5", path=TABLE, serialize_meta=True)


def _build_dataset(columns: Columns, header: dict[str, Any]) -> Any:
    import xarray as xr

    (id_name, ids), *others = columns.items()
    variables = {}
    for name, (values, unit, description) in others:
        attributes: dict[str, Any] = {"long_name": description}
        if unit:
            attributes["units"] = unit
        elif description.startswith("bits"):
            attributes["flag_masks"] = np.array([flag.value for flag in Flag], np.int32)
            attributes["flag_meanings"] = " ".join(Flag.__members__)
        dims = ("star", "label", "other_label")[: values.ndim]
        variables[name] = (dims, values, attributes)
    star = ("star", ids.values, {"long_name": f"{ids.description} ({id_name})"})
    coordinates: dict[str, Any] = {"star": star}
    if "N_LABELS" in header:
        names = name_labels([header[f"LABEL{i}"] for i in range(1, header["N_LABELS"] + 1)])
        coordinates |= {"label": names, "other_label": names}
    numbers = {
        key: int(value) if isinstance(value, bool) else value for key, value in header.items()
    }
    return xr.Dataset(variables, coordinates, numbers)


def _write_netcdf(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    dataset = _build_dataset(columns, header)
    with stream_for_hdf5(path) as stream:
        dataset.to_netcdf(stream, engine="h5netcdf")


def _write_fits(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    from astropy.io import fits

    with fits.open(_build_fits(columns)) as file:
        hdu = file[1]
        hdu.name = TABLE
        for i, (_, unit, description) in enumerate(columns.values(), 1):
            standard = find_fits_unit(unit)
            if standard:
                hdu.columns[i - 1].unit = standard
            elif unit:
                description = f"{description} [{unit}]"
            # astropy keeps descriptions in comments of its own; TCOMMn is where other readers look
            hdu.header.set(f"TCOMM{i}", description, after=f"TFORM{i}")
        for key, value in header.items():
            _add_card(hdu.header, key, value)
        for part in file:
            part.add_checksum(when="")  # without the time that astropy would put there
        content = io.BytesIO()  # astropy says of a full disk what no program understands
        file.writeto(content)
        path.write_bytes(_compress(content.getvalue(), path))


def _build_fits(columns: Columns) -> io.BytesIO:
    """File of the bare columns, with descriptions and units in astropy's own comments."""
    from astropy.table import Column as TableColumn
    from astropy.table import QTable
    from astropy.units import Quantity
    from astropy.utils.exceptions import AstropyUserWarning

    table = QTable()
    buffer = io.BytesIO()
    for name, (values, unit, description) in columns.items():
        known = None if find_fits_unit(unit) else find_unit(unit)
        table[name] = TableColumn(values) if known is None else Quantity(values, known, subok=True)
        table[name].info.description = description
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*could not be saved in native FITS format", AstropyUserWarning
        )
        table.write(buffer, format="fits")
    buffer.seek(0)
    return buffer


def _compress(content: bytes, path: Path) -> bytes:
    """The bytes themselves, or packed by gzip without the usual name and time in its header."""
    if path.name.lower().endswith(".gz"):
        return gzip.compress(content, mtime=0)
    return content


def _add_card(header: Any, key: str, value: Any) -> None:
    """Add a card, or a comment for what no card holds: numbers not finite, and long texts."""
    finite = isinstance(value, str) or np.isfinite(value)
    text = str(value).replace("'", "''")
    if finite and len(key) <= 8:
        header[key] = value
    elif finite and len(f"HIERARCH {key} = '{text}'") <= 80:
        header[f"HIERARCH {key}"] = value
    else:
        header.add_comment(f"{key} = {value}")


_WRITE: dict[str, Callable[[Path, Columns, dict[str, Any]], None]] = {
    FITS.name: _write_fits,
    ECSV.name: _write_ecsv,
    HDF5.name: _write_hdf5,
    NETCDF.name: _write_netcdf,
}
