"""FITS files that may come from strangers: astropy reads their headers, and no size that they claim is trusted."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.safety.array_files import check_open
from symspec.safety.damaged_files import as_format_error
from symspec.safety.named_arrays import ALL, StoredArray

_BLOCK = 2880
_MAX_HDUS = 1000
_SMALL = 64 * 2**20  # bytes: as little as this may come out of any gzip file
_LARGEST_RATIO = 20  # spectra are packed 2 to 10 to 1
_EXTENSIONS = ("IMAGE", "TABLE", "BINTABLE", "IUEIMAGE", "A3DTABLE", "FOREIGN", "DUMP")
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class FitsFile:
    """An open FITS file.

    Attributes
    ----------
    path : path
    hdus : list of astropy HDU
        Their headers; the data are not read through astropy, which would scale or copy them as a
        whole. Tiled compressed images are left as the tables that hold them.
    content : numpy.ndarray of uint8
        All bytes of the file: mapped, or, of a file packed by gzip, in memory.
    stream : file
        Closed once the file is.
    """

    path: Path
    hdus: list[Any]
    content: np.ndarray
    stream: Any


@contextmanager
def open_fits(path: Path, *, is_compressed: bool) -> Iterator[FitsFile]:
    """Open a FITS file, of which every header can be read and all data are there.

    Parameters
    ----------
    path : path
        The file.
    is_compressed : bool
        Whether it is packed by gzip.

    Yields
    ------
    FitsFile
        Its headers and bytes.

    Raises
    ------
    FileFormatError
        When the file is truncated, damaged, or unpacks to far more than spectra do.
    """
    from astropy.io import fits

    unpacked = _unpack(path) if is_compressed else None
    with path.open("rb") if unpacked is None else io.BytesIO(unpacked) as stream:
        with reading_fits(path):
            opened = fits.open(stream, lazy_load_hdus=True, disable_image_compression=True)
        with opened:
            with reading_fits(path):
                content = (
                    np.memmap(path, mode="r")
                    if unpacked is None
                    else np.frombuffer(unpacked, np.uint8)
                )
                file = FitsFile(path, _read_headers(path, opened), content, stream)
                _check_extent(file)
            yield file


@contextmanager
def reading_fits(path: Path) -> Iterator[None]:
    """Silence astropy, which warns of cards off the standard, and turn what it raises into a `FileFormatError`.

    What matters among its warnings, data that are cut off or headers that cannot be read, is
    checked on its own.
    """
    with as_format_error(path, "a FITS file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def find_hdu(file: FitsFile, hdu: int | str) -> Any:
    """Find an HDU by its number or its name."""
    names = [one.name for one in file.hdus]
    if isinstance(hdu, str) and hdu.upper() in names:
        return file.hdus[names.index(hdu.upper())]
    if isinstance(hdu, int) and 0 <= hdu < len(names):
        return file.hdus[hdu]
    raise DataError(
        f"hdu={hdu!r} should be one of those of {file.path}, got {list_hdus(file)}: correct hdu=."
    )


def list_hdus(file: FitsFile) -> str:
    """Numbers and names of the HDUs, for an error."""
    return ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(file.hdus[:20]))


def is_table(hdu: Any) -> bool:
    """Whether an HDU is a table of columns."""
    return hdu.header.get("XTENSION", "").strip() == "BINTABLE" and not hdu.header.get(
        "ZIMAGE", False
    )


def find_image_shape(hdu: Any) -> tuple[int, ...]:
    """Shape of an image, the fastest axis last; () of anything that is none, or has no data."""
    return tuple(hdu.shape) if hasattr(hdu, "section") and hdu.size else ()


def store_image(file: FitsFile, hdu: Any, picked: slice = ALL) -> StoredArray:
    """An image (pixel,), or some rows of an image (star, pixel), in its file."""
    dtype = np.dtype(_DTYPES[hdu.header["BITPIX"]])
    image = _find_data(file, hdu, hdu.size).view(dtype).reshape(hdu.shape)[picked]
    scale = (hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0), hdu.header.get("BLANK"))
    return _store(file, image, *scale)


def store_columns(file: FitsFile, hdu: Any) -> dict[str, StoredArray]:
    """Columns (row, ...) of a table in its file, by name; those of varying length are left out."""
    with reading_fits(file.path):
        dtype = hdu.columns.dtype.newbyteorder(">")
        n_rows = hdu.header["NAXIS2"]
        if dtype.itemsize != hdu.header["NAXIS1"]:
            raise FileFormatError(
                f"{file.path}: columns of table {hdu.name!r} should take {hdu.header['NAXIS1']}"
                f" bytes a row, got {dtype.itemsize}: its header is damaged, so copy the file"
                " again."
            )
        table = _find_data(file, hdu, n_rows * dtype.itemsize).view(dtype)
        stored = {}
        for column in hdu.columns:
            if column.format.format == "L":
                stored[column.name] = _store_logical(file, table[column.name])
            elif column.format.format not in "PQ":
                scale = (
                    1 if column.bscale in ("", None) else column.bscale,
                    column.bzero or 0,
                    column.null,
                )
                stored[column.name] = _store(file, table[column.name], *scale)
        return stored


def find_column_units(hdu: Any) -> dict[str, str]:
    """Units of the columns of a table, by name, where they are stated."""
    return {column.name: str(column.unit) for column in hdu.columns if column.unit}


def _find_data(file: FitsFile, hdu: Any, n_bytes: int) -> np.ndarray:
    start = hdu.fileinfo()["datLoc"]
    return file.content[start : start + n_bytes]


def _store(file: FitsFile, raw: np.ndarray, scale: float, zero: float, blank: Any) -> StoredArray:
    def load(rows: slice) -> np.ndarray:
        check_open(file.path, not file.stream.closed)
        with reading_fits(file.path):
            return _unscale(np.array(raw[rows]), scale, zero, blank)

    return StoredArray(raw.shape, load)


def _store_logical(file: FitsFile, raw: np.ndarray) -> StoredArray:
    def load(rows: slice) -> np.ndarray:
        check_open(file.path, not file.stream.closed)
        return raw[rows] == ord("T")

    return StoredArray(raw.shape, load)


def _unscale(raw: np.ndarray, scale: float, zero: float, blank: Any) -> np.ndarray:
    """Numbers that integers stand for, NaN where these are `blank`; strings without what pads them."""
    if raw.dtype.kind == "S":
        return np.strings.rstrip(raw)
    is_blank = (
        raw == blank
        if isinstance(blank, int) and raw.dtype.kind in "iu"
        else np.zeros((), dtype=bool)
    )
    if (
        scale == 1 and zero == 2**63
    ):  # the standard's unsigned integers, of which floats would lose bits
        values = raw.astype(np.uint64) + np.uint64(2**63)
    elif scale == 1 and raw.dtype.kind in "iu" and float(zero).is_integer():
        values = raw.astype(np.int64) + int(zero) if zero else raw
    else:
        values = raw if (scale, zero) == (1, 0) else raw.astype(np.float64) * scale + zero
    return np.where(is_blank, np.nan, values) if is_blank.any() else values


def _unpack(path: Path) -> bytes:
    limit = _SMALL + _LARGEST_RATIO * path.stat().st_size
    with (
        as_format_error(path, "FITS packed by gzip (else unpack it with gunzip first)"),
        gzip.open(path) as packed,
    ):
        start = packed.read(_BLOCK)
        if not start.startswith(b"SIMPLE  ="):
            raise FileFormatError(
                f"{path} should hold a FITS file, as the one kind that is read from gzip, got one"
                f" that starts with {start[:8]!r}: unpack it with gunzip first."
            )
        content = start + packed.read(limit + 1 - len(start))
    if len(content) > limit:
        raise FileFormatError(
            f"{path} should unpack to no more than {limit / 2**20:.0f} MiB, got more out of its "
            f"{path.stat().st_size} bytes: unpack it with gunzip first if that is right."
        )
    return content


def _read_headers(path: Path, opened: Any) -> list[Any]:
    hdus = []
    for hdu in opened:
        if hdus and hdu.header.get("XTENSION", "").strip() not in _EXTENSIONS:
            raise FileFormatError(
                f"{path}: HDU {len(hdus)} should begin with XTENSION and a kind that is known, got"
                f" {str(hdu.header.get('XTENSION'))[:20]!r}: the file is damaged there, so copy it"
                " again."
            )
        hdus.append(hdu)
        if len(hdus) > _MAX_HDUS:
            raise FileFormatError(
                f"{path} should hold at most {_MAX_HDUS} HDUs, got more: split it."
            )
    return hdus


def _check_extent(file: FitsFile) -> None:
    """Refuse a file that ends before its data do, or goes on where no header can be read."""
    end = 0
    n_bytes = file.content.size
    if n_bytes % _BLOCK:  # what was cut off may have been a whole HDU, so that nothing else tells
        raise FileFormatError(
            f"{file.path} should consist of blocks of {_BLOCK} bytes, as every FITS file does, got"
            f" {n_bytes} bytes: it is truncated, so copy it again."
        )
    for i, hdu in enumerate(file.hdus):
        place = hdu.fileinfo()
        end = place["datLoc"] + place["datSpan"]
        if hdu.size < 0 or place["datLoc"] + hdu.size > n_bytes:
            raise FileFormatError(
                f"{file.path}: HDU {i} should hold {hdu.size} bytes of data, as its header says,"
                f" got a file that ends {n_bytes - place['datLoc']} bytes after that header: it is"
                " truncated or damaged, so copy it again."
            )
    if file.content[end : end + _BLOCK].tobytes().strip(b"\0 "):
        raise FileFormatError(
            f"{file.path} should end after HDU {len(file.hdus) - 1}, got {n_bytes - end} bytes that"
            " are no HDU: the file is damaged there, so copy it again."
        )
