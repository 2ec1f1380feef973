"""Predictions as a catalogue, one row a star, in FITS, ECSV or HDF5; files appear whole or not at all."""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from symspec.checks import as_float_array
from symspec.errors import DataError, OptionError, ShapeError, SymspecError
from symspec.prediction import Flag, Prediction, standard_deviations
from symspec.version import __version__

SUFFIXES = {
    ".fits": "fits",
    ".fit": "fits",
    ".fits.gz": "fits",
    ".ecsv": "ecsv",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}
Columns = dict[str, tuple[np.ndarray, str, str]]  # by name: values, unit, description
_TABLE = "catalogue"  # name of the FITS extension and of the HDF5 dataset
_FITS_OWN = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|TFIELDS|THEAP|EXTNAME|EXTVER|EXTLEVEL|EXTEND|BLOCKED|CHECKSUM|DATASUM|"
    r"COMMENT|COMMENTS|HISTORY|CONTINUE|HIERARCH|END|T[A-Z]{3,4}\d+"
)


class FileKeptError(SymspecError, FileExistsError):
    """A file lies where another should be written, and nobody said to overwrite it."""


@contextmanager
def replace_when_complete(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary name beside `path`, and rename the file written there once it is complete.

    Whatever goes wrong in between, the temporary file is removed, and a file at `path` stays as it was.

    Parameters
    ----------
    path : str or path
        Where the file belongs; a symbolic link is followed.
    overwrite : bool, default False
        Whether a file already there is replaced.

    Yields
    ------
    pathlib.Path
        Where to write; nothing is there yet. It ends as `path` does.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False; or something that is no regular file.
    FileNotFoundError
        The folder does not exist.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path} should lie in a folder, got none at {target.parent}: create it first.")
    _refuse_existing(path, target, overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name[-40:]}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        _refuse_existing(path, target, overwrite)  # writing may have taken an hour
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refuse_existing(path: Any, target: Path, overwrite: bool) -> None:
    if target.exists() and not target.is_file():
        raise FileKeptError(f"{path} should be the name of a file, got a folder or device: add a file name to it.")
    if target.exists() and not overwrite:
        raise FileKeptError(
            f"{path} should not exist yet, got a file of {target.stat().st_size} bytes, which is kept: "
            "choose another name, or give overwrite=True to replace it."
        )


def write_catalogue(
    path: str | os.PathLike[str],
    prediction: Prediction,
    ids: Any = None,
    *,
    overwrite: bool = False,
    true_labels: Any = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write predicted labels with their error budget as a table, one row a star.

    For a label TEFF the columns are TEFF; TEFF_ERR (total), TEFF_MODEL_ERR, TEFF_FLUX_ERR and TEFF_NOISE_ERR,
    standard deviations in the label's unit; and TEFF_TRUE. COV, MODEL_COV, FLUX_COV and NOISE_COV hold the
    covariances (label, label) in the order of the labels, in products of their units. Columns of flux errors
    are left out where the prediction was made without them. The header says the order and units of the labels
    (LABEL1, UNIT1, ...), what the flags mean (FLAG1, FLAG2, ...: by value of the bit) and symspec's version.

    Units go into FITS as the network has them. Of those that the FITS standard does not list, such as
    dex, `astropy.table.Table.read` warns, and keeps the word; unit_parse_strict="silent" quiets it.

    Parameters
    ----------
    path : str or path
        Its ending says the format: .fits, .fit, .fits.gz; .ecsv; .h5, .hdf5.
    prediction : Prediction
    ids : array_like of str or int, shape (star,), optional
        Default: the rows' numbers, from 0.
    overwrite : bool, default False
        Whether a file already there is replaced.
    true_labels : array_like, shape (star, label), optional
        Known labels in the labels' units, NaN where unknown.
    meta : mapping of str to str or number, optional
        More for the header. For FITS, text of printable ASCII.

    Raises
    ------
    OptionError
        The ending or an entry of `meta` is none that can be written.
    ShapeError
        `ids` or `true_labels` do not match the prediction.
    DataError
        `ids` are neither words nor whole numbers, or labels' names give the same column twice,
        or there is no star.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    path = Path(path)
    file_format = _find_suffix(path)
    if len(prediction.labels) == 0:
        raise DataError("prediction should hold at least one star, got none: check what selects stars.")
    columns = _list_columns(prediction, ids, true_labels)
    header = _build_header(prediction, meta or {})
    if file_format == "fits":
        _check_ascii(columns, header)
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        _WRITE[file_format](temporary, columns, header)


def _find_suffix(path: Path) -> str:
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise OptionError(
            f"path should end in one of {', '.join(SUFFIXES)}, which says the format, got {path.name!r}: add one."
        )
    return SUFFIXES[suffix]


def _list_columns(prediction: Prediction, ids: Any, true_labels: Any) -> Columns:
    """By name of column: values, unit, description."""
    names = _name_columns(prediction.label_names)
    covariances = {"": prediction.total_cov, "MODEL_": prediction.model_cov, "FLUX_": prediction.flux_cov}
    covariances["NOISE_"] = prediction.noise_cov
    if not prediction.has_flux_errors:
        del covariances["FLUX_"]
    with np.errstate(invalid="ignore"):  # a variance that rounding made negative has the error NaN
        errors = {part: standard_deviations(cov) for part, cov in covariances.items()}
    truth = _check_truth(true_labels, prediction.labels.shape)
    listed = [("ID", _check_ids(ids, len(prediction.labels)), "", "the star")]
    for i, (name, label) in enumerate(zip(names, prediction.label_names, strict=True)):
        unit = prediction.label_units[i]
        listed.append((name, prediction.labels[:, i], unit, f"predicted {label}"))
        for part, error in errors.items():
            listed.append((f"{name}_{part}ERR", error[:, i], unit, f"{_SOURCES[part]} standard deviation of {name}"))
        if truth is not None:
            listed.append((f"{name}_TRUE", truth[:, i], unit, f"known {label}"))
    for part, covariance in covariances.items():
        words = f"{_SOURCES[part]} covariance of {', '.join(names)}, in products of their units"
        listed.append((f"{part}COV", covariance, "", words))
    listed.append(
        (
            "FLAGS",
            prediction.flags,
            "",
            "bits, see FLAG1, FLAG2, ... in the header; 0: nothing known against it",
        )
    )
    listed.append(("N_BAD_PIXELS", prediction.n_bad_pixels, "", "pixels without information, replaced by a mean"))
    return _refuse_duplicates(listed)


_SOURCES = {
    "": "total",
    "MODEL_": "model (weights)",
    "FLUX_": "flux-error",
    "NOISE_": "noise (label scatter)",
}


def _name_columns(label_names: tuple[str, ...]) -> list[str]:
    """Upper case, with an underscore for whatever is no letter or digit: [Fe/H] becomes FE_H."""
    for label in label_names:
        if not label.isascii() or not re.search("[A-Za-z]", label):
            raise DataError(
                f"label names should have letters, and ASCII ones only, to name columns, got {label!r}: "
                "rename it in the network, say ALPHA_FE."
            )
    return [re.sub(r"[^A-Z0-9]+", "_", label.upper()).strip("_") for label in label_names]


def _refuse_duplicates(listed: list[tuple[str, np.ndarray, str, str]]) -> Columns:
    names = [name for name, *_ in listed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"columns should have different names, got {', '.join(twice)} twice: rename the labels of the "
            "network (case does not count, nor signs such as brackets)."
        )
    return {name: (values, unit, words) for name, values, unit, words in listed}


def _check_ids(ids: Any, n_stars: int) -> np.ndarray:
    ids = np.arange(n_stars) if ids is None else np.asarray(ids)
    if ids.shape != (n_stars,):
        raise ShapeError(
            f"ids should have shape ({n_stars},), one a star of the prediction, got {ids.shape}: give the "
            "ids of the same stars in the same order."
        )
    if ids.dtype.kind == "O" and all(isinstance(i, str | bytes) for i in ids):
        ids = np.array([i.decode() if isinstance(i, bytes) else i for i in ids], dtype=str)
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8")
    if ids.dtype.kind not in "Uiu":
        raise DataError(f"ids should be words or whole numbers, got {ids.dtype}: give np.array(ids, dtype=str).")
    return ids


def _check_truth(true_labels: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    if true_labels is None:
        return None
    truth = as_float_array(true_labels, "true_labels")
    if truth.shape != shape:
        raise ShapeError(
            f"true_labels should have shape {shape}, that of the predicted labels, got {truth.shape}: give "
            "NaN where a label is unknown."
        )
    return truth


def _build_header(prediction: Prediction, meta: Mapping[str, Any]) -> dict[str, Any]:
    header: dict[str, Any] = {"SYMSPEC": __version__, "N_LABELS": len(prediction.label_names)}
    for i, (name, unit) in enumerate(zip(prediction.label_names, prediction.label_units, strict=True), 1):
        header |= {f"LABEL{i}": name, f"UNIT{i}": unit}
    header["ERRTYPE"] = "columns _ERR are standard deviations"
    header["FLUXERR"] = bool(prediction.has_flux_errors)
    header |= {f"FLAG{flag.value}": f"{flag.name}: {flag.meaning}" for flag in Flag}
    for key, value in meta.items():
        header[key] = _check_entry(key, value, header)
    return header


def _check_entry(key: Any, value: Any, header: dict[str, Any]) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        raise OptionError(f"keys of meta should be of letters, digits, _ and -, got {key!r}: rename it.")
    if key.upper() in map(str.upper, header) or _FITS_OWN.fullmatch(key.upper()):
        raise OptionError(f"meta should not hold {key!r}, which the header has already: rename it.")
    if not isinstance(value, str | int | float):
        raise OptionError(f"meta should hold words and numbers, got {value!r} for {key!r}: write it as a text.")
    return value


def _check_ascii(columns: Columns, header: dict[str, Any]) -> None:
    texts = [str(value) for value in header.values()]
    texts += columns["ID"][0].tolist() if columns["ID"][0].dtype.kind == "U" else []
    if bad := next((text for text in texts if not (text.isascii() and (text.isprintable() or not text))), None):
        raise DataError(f"FITS holds printable ASCII only, got {bad!r}: write .ecsv or .hdf5, or change the text.")


def _build_table(columns: Columns, header: dict[str, Any]) -> Any:
    from astropy.table import Column, Table
    from astropy.units import Unit

    table = Table(meta=header)
    for name, (values, unit, description) in columns.items():
        # surveys write units that astropy does not know, such as log(cgs): they stay as they are
        known = Unit(unit, parse_strict="silent") if unit else None
        table[name] = Column(values, unit=known, description=description)
    return table


def _write_ecsv(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    _build_table(columns, header).write(path, format="ascii.ecsv")


def _write_hdf5(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    _build_table(columns, header).write(path, format="hdf5", path=_TABLE, serialize_meta=True)


def _write_fits(path: Path, columns: Columns, header: dict[str, Any]) -> None:
    """Units go into TUNITn as they are, also dex, which surveys write and the FITS standard does not list."""
    from astropy.io import fits

    # astropy keeps descriptions in comments of its own; TCOMMn is where other readers look
    buffer = io.BytesIO()
    without_units = {name: (values, "", words) for name, (values, _, words) in columns.items()}
    _build_table(without_units, {}).write(buffer, format="fits")
    buffer.seek(0)
    with fits.open(buffer) as file:
        hdu = file[1]
        hdu.name = _TABLE
        for i, (_, unit, description) in enumerate(columns.values(), 1):
            if unit:
                hdu.columns[i - 1].unit = unit
            hdu.header.set(f"TCOMM{i}", description, after=f"TFORM{i}")
        for key, value in header.items():
            _add_card(hdu.header, key, value)
        file.writeto(path, checksum=True)


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


_WRITE = {"fits": _write_fits, "ecsv": _write_ecsv, "hdf5": _write_hdf5}
