"""FITS files that may come from strangers: astropy reads their headers, no size is trusted."""

from __future__ import annotations

import gzip
import io
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from symspec.errors import DataError, FileFormatError
from symspec.safety.file_formats import as_format_error
from symspec.safety.named_arrays import ALL, LazyArray, check_open
from symspec.spectra.names import NamedByCaller, is_id_name, is_same_name

Hdu = Any  # of astropy, which has no types
Header = Any

FITS_START = b"SIMPLE  ="
GZIP_START = b"\x1f\x8b"
_BLOCK = 2880
_MAX_HDUS = 1000
_SMALL = 64 * 2**20  # bytes that any gzip file may unpack to
_LARGEST_RATIO = 20  # spectra are packed 2 to 10 to 1
_EXTENSIONS = ("IMAGE", "TABLE", "BINTABLE", "IUEIMAGE", "A3DTABLE", "FOREIGN", "DUMP")
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


class FitsOptions(Protocol):
    """Options of `symspec.read_spectra` that matter to FITS files."""

    @property
    def hdu(self) -> int | str | None: ...
    @property
    def arm(self) -> int | str | None: ...
    @property
    def apstar(self) -> str: ...
    @property
    def mask_bits(self) -> Sequence[int] | None: ...
    @property
    def bad_error(self) -> float: ...
    @property
    def named(self) -> NamedByCaller: ...


@dataclass(frozen=True, kw_only=True)
class FitsFile:
    """An open FITS file.

    Attributes
    ----------
    path : path
    hdus : list of astropy HDU
        For their headers. The data are not read by astropy, which scales or copies them as a whole.
        Tiled compressed images are left as the tables that hold them.
    content : numpy.ndarray of uint8
        All bytes of the file: mapped, or in memory if gzip packed the file.
    stream : file
        Closed together with the file.
    """

    path: Path
    hdus: list[Hdu]
    content: np.ndarray
    stream: IO[bytes]


@contextmanager
def open_fits_file(path: Path) -> Iterator[FitsFile]:
    """Open a FITS file, plain or packed by gzip.

    Every header can be read then, and all data are there.

    Raises
    ------
    FileFormatError
        The file is truncated, damaged, or unpacks to far more than spectra do.
    """
    from astropy.io import fits

    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_START)) == GZIP_START
    unpacked = _unpack(path) if is_packed else None
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
                hdus = _read_headers(path, opened)
                fits_file = FitsFile(path=path, hdus=hdus, content=content, stream=stream)
                _check_extent(fits_file)
            yield fits_file


@contextmanager
def reading_fits(path: Path) -> Iterator[None]:
    """Turn whatever astropy raises into a `FileFormatError`, and silence its warnings.

    It warns of cards off the standard. Truncated data and unreadable headers, of which it only
    warns as well, are checked here.
    """
    with as_format_error(path, "a FITS file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def find_hdu(file: FitsFile, hdu: int | str) -> Hdu:
    """Find an HDU by its number or its name."""
    if isinstance(hdu, str):
        found = next((one for one in file.hdus if is_same_name(one.name, hdu)), None)
        if found is not None:
            return found
    elif 0 <= hdu < len(file.hdus):
        return file.hdus[hdu]
    raise DataError(
        f"hdu={hdu!r} should be one of those of {file.path}, got {list_hdus(file)}: correct hdu=."
    )


def list_hdus(file: FitsFile) -> str:
    """Numbers and names of the HDUs, for an error."""
    return ", ".join(f"{i} {hdu.name}".strip() for i, hdu in enumerate(file.hdus[:20]))


def describe_hdu(file: FitsFile, hdu: Hdu) -> str:
    """Number and name of an HDU, as "HDU 1 COADD"."""
    number = next(i for i, one in enumerate(file.hdus) if one is hdu)
    return f"HDU {number} {hdu.name}".strip()


def list_others(file: FitsFile, used: Collection[Hdu]) -> tuple[str, ...]:
    """HDUs with data that are not among those `used`, each described."""
    return tuple(
        describe_hdu(file, hdu)
        for hdu in file.hdus
        if hdu.size and not any(hdu is one for one in used)
    )


def is_table(hdu: Hdu) -> bool:
    """Whether an HDU is a table of columns."""
    return hdu.header.get("XTENSION", "").strip() == "BINTABLE" and not is_tiled(hdu)


def is_tiled(hdu: Hdu) -> bool:
    """Whether an HDU is an image that is stored in compressed tiles, which are not read."""
    return bool(hdu.header.get("ZIMAGE", False))


def is_bitmask(hdu: Hdu) -> bool:
    """Whether an image holds integers."""
    return hdu.header["BITPIX"] > 0


def find_image_shape(hdu: Hdu) -> tuple[int, ...]:
    """Shape of an image, the fastest axis last; () for anything else, and without data."""
    return tuple(hdu.shape) if hasattr(hdu, "section") and hdu.size else ()


def store_image(file: FitsFile, hdu: Hdu, picked: slice = ALL) -> LazyArray:
    """An image (pixel,), or the rows `picked` of an image (star, pixel), not read yet."""
    header = hdu.header
    dtype = np.dtype(_DTYPES[header["BITPIX"]])
    image = _find_data(file, hdu, hdu.size).view(dtype).reshape(hdu.shape)[picked]
    return _store(
        file,
        image,
        scale=header.get("BSCALE", 1),
        zero=header.get("BZERO", 0),
        blank=header.get("BLANK"),
    )


def store_columns(file: FitsFile, hdu: Hdu) -> dict[str, LazyArray]:
    """Columns (row, ...) of a table by name, not read yet; without those of varying length."""
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
                stored[column.name] = _store(
                    file,
                    table[column.name],
                    scale=1 if column.bscale in ("", None) else column.bscale,
                    zero=column.bzero or 0,
                    blank=column.null,
                    is_name=is_id_name(column.name),
                )
        return stored


def find_column_units(hdu: Hdu) -> dict[str, str]:
    """Units of the columns of a table, by name, where they are stated."""
    return {column.name: str(column.unit) for column in hdu.columns if column.unit}


def find_image_unit(hdu: Hdu) -> str:
    """Unit of an image, "" where it is not stated."""
    return str(hdu.header.get("BUNIT") or "").strip()


def _find_data(file: FitsFile, hdu: Hdu, n_bytes: int) -> np.ndarray:
    start = hdu.fileinfo()["datLoc"]
    return file.content[start : start + n_bytes]


def _store(
    file: FitsFile,
    raw: np.ndarray,
    *,
    scale: float,
    zero: float,
    blank: int | None,
    is_name: bool = False,
) -> LazyArray:
    if not (_is_finite(scale) and _is_finite(zero) and scale):
        raise FileFormatError(
            f"{file.path} should scale its numbers by a factor other than 0, and by finite ones,"
            f" got the factor {scale!r} and the offset {zero!r} in a header: correct its cards"
            " BSCALE and BZERO, or TSCALn and TZEROn."
        )

    def load(rows: slice) -> np.ndarray:
        check_open(file.path, not file.stream.closed)
        with reading_fits(file.path):
            return _unscale(np.array(raw[rows]), scale, zero, blank, is_name)

    return LazyArray(raw.shape, load)


def _store_logical(file: FitsFile, raw: np.ndarray) -> LazyArray:
    def load(rows: slice) -> np.ndarray:
        check_open(file.path, not file.stream.closed)
        return raw[rows] == ord("T")

    return LazyArray(raw.shape, load)


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def _unscale(
    raw: np.ndarray, scale: float, zero: float, blank: int | None, is_name: bool
) -> np.ndarray:
    """Numbers that stored ones stand for, NaN where these are `blank`; strings without padding.

    Names of stars that are numbers become strings if one is blank: NaN has a type that would cost
    them digits.
    """
    if raw.dtype.kind == "S":
        return np.strings.rstrip(raw)
    is_integer = raw.dtype.kind in "iu"
    values: np.ndarray
    # the standard's unsigned integers, which lose bits as floats
    if scale == 1 and zero == 2**63:
        values = raw.astype(np.uint64) + np.uint64(2**63)
    elif scale == 1 and is_integer and float(zero).is_integer():
        values = raw.astype(np.int64) + int(zero) if zero else raw
    else:
        values = raw if (scale, zero) == (1, 0) else raw.astype(np.float64) * scale + zero
    if not (isinstance(blank, int) and is_integer):
        return values
    is_blank = raw == blank
    if not is_blank.any():
        return values
    return (
        np.where(is_blank, "", values.astype(str))
        if is_name
        else np.where(is_blank, np.nan, values)
    )


def _unpack(path: Path) -> bytes:
    limit = _SMALL + _LARGEST_RATIO * path.stat().st_size
    with (
        as_format_error(path, "FITS packed by gzip (else unpack it with gunzip first)"),
        gzip.open(path) as packed,
    ):
        start = packed.read(_BLOCK)
        if not start.startswith(FITS_START):
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


def _read_headers(path: Path, opened: Any) -> list[Hdu]:
    hdus: list[Hdu] = []
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
    """Refuse a file that ends before its data, or goes on with bytes that are no header."""
    end = 0
    n_bytes = file.content.size
    if n_bytes % _BLOCK:  # nothing else shows that a whole HDU was cut off
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
