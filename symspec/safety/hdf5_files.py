"""HDF5 files that may come from strangers: the one place where they are opened to be read.

HDF5's library trusts what a file claims. Here nothing is read before it is known that

- it lies in this file: no link, external storage or virtual dataset is followed;
- its name is nested `MOST_NESTED` groups deep at most;
- it unpacks to no more than the file can hold, and no chunk of it to much more than all of it;
- strings of variable length lie in heaps in good order. Heaps have no checksum, and a damaged one
  may keep HDF5 busy for ever.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.safety.file_formats import as_format_error
from symspec.safety.named_arrays import (
    ALL,
    SMALL_ARRAY,
    NamedArrays,
    check_open,
    refuse_absurd,
    refuse_large,
    shape_of_rows,
)

AGAIN = "the file is damaged or incomplete, so write or copy it again"
MOST_NESTED = 64  # groups in one another
MOST_OBJECTS = 10_000  # groups and datasets in a file that is walked
_LARGEST_SHARE = 4  # of a chunk, in sizes of its dataset: the last chunks reach beyond its ends
_WHAT = "an HDF5 file"
_HEAP = b"GCOL\x01\0\0\0"
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])  # to a string
_DEFLATE = 1  # HDF5's numbers of its filters
_SHUFFLE = 2


@dataclass(frozen=True)
class Hdf5File:
    """An open file, read by full names such as "params/dense_0/kernel".

    Attributes
    ----------
    path : pathlib.Path
        For errors.
    tree : h5py.File
    size : int
        Bytes of the file.
    content : bytes or None
        The file, if it is a member of that at `path`.
    """

    path: Path
    tree: Any
    size: int = 0
    content: bytes | None = None
    _verified: set[str] = field(default_factory=set)

    def refusal(self, name: str, expected: str, got: str, advice: str = AGAIN) -> FileFormatError:
        """Error about one part of the file, to be raised."""
        return FileFormatError(f"{self.path}: {name!r} should be {expected}, got {got}: {advice}.")

    def find(self, name: str) -> Any:
        """Group or dataset; no part of its name may be a link.

        Raises
        ------
        FileFormatError
            There is none, or not in this file, or it is nested too deeply.
        OptionError
            The file is closed.
        """
        import h5py

        check_open(self.path, self.tree)
        parts = name.strip("/").split("/") if name.strip("/") else []
        if len(parts) > MOST_NESTED:
            raise self.refusal(
                name[:80],
                f"nested {MOST_NESTED} groups deep at most",
                f"{len(parts)} groups",
                "store it in fewer",
            )
        node = self.tree
        for part in parts:
            link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise self.refusal(name, "in the file", "nothing")
            if not isinstance(link, h5py.HardLink):
                target = getattr(link, "filename", None) or getattr(link, "path", "elsewhere")
                advice = "links are not followed, copy it in"
                raise self.refusal(name, "in this file", f"a link to {target}", advice)
            node = node[part]
        return node

    def walk(self) -> Iterator[tuple[str, Any]]:
        """Names of all groups and datasets, each once, though hard links may run in a circle.

        Raises
        ------
        FileFormatError
            There are too many, they are nested too deeply, or one is a link.
        """
        import h5py

        seen = set()
        names = ["/"]
        while names:
            name = names.pop()
            node = self.find(name)
            info = h5py.h5o.get_info(node.id)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            if len(seen) > MOST_OBJECTS:
                raise self.refusal("/", f"a group of {MOST_OBJECTS:,} objects at most", "more")
            yield name, node
            if isinstance(node, h5py.Group):
                names += [f"{name.rstrip('/')}/{inside}" for inside in node]

    def dataset(self, name: str) -> Any:
        """Dataset of plain values or strings in this file, no more of them than it can hold.

        Raises
        ------
        FileFormatError
            It is something else, or larger.
        """
        import h5py

        found = self.find(name)
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise self.refusal(name, "a dataset", f"{found!r}", "store an array there")
        if found.is_virtual or found.external:
            got = "values in other files"
            raise self.refusal(name, "in this file", got, "copy them into the file")
        is_string = h5py.check_string_dtype(found.dtype) is not None
        if found.dtype.hasobject and not is_string:
            got = f"{found.dtype} of rows of varying length or references"
            raise self.refusal(name, "a plain array", got, "store an array of floats")
        refuse_absurd(self.path, name, found.shape, found.dtype.itemsize, held=self.size)
        self._refuse_large_chunks(name, found)
        if found.dtype.hasobject and name not in self._verified:
            self._check_strings(name, found)
            self._verified.add(name)
        return found

    def load(self, name: str, rows: slice = ALL) -> np.ndarray:
        """Rows of a dataset.

        Raises
        ------
        FileFormatError
            As `dataset`; or the rows are damaged, or too large for any memory.
        """
        with as_format_error(self.path, _WHAT):
            dataset = self.dataset(name)
            shape = shape_of_rows(dataset.shape, rows)
            refuse_large(self.path, name, shape, dataset.dtype.itemsize)
            return np.asarray(dataset[rows] if dataset.shape else dataset[()])

    def find_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a dataset, found without reading it."""
        with as_format_error(self.path, _WHAT):
            shape: tuple[int, ...] = self.dataset(name).shape
            return shape

    def find_unit(self, name: str) -> str:
        """Unit of a dataset, by its attribute "units" or "unit"; empty without."""
        import h5py

        node = self.find(name)
        for key in ("units", "unit"):
            if key not in node.attrs:
                continue
            kind = h5py.check_string_dtype(node.attrs.get_id(key).dtype)
            if kind is None:  # no words
                continue
            if kind.length is None:  # it lies in a heap
                self.check_heaps()
            with as_format_error(self.path, _WHAT):
                stated = node.attrs[key]
            return stated.decode() if isinstance(stated, bytes) else str(stated)
        return ""

    def load_unpacked(self, name: str, rows: slice = ALL) -> np.ndarray:
        """`load`, with NaN for the values that "_FillValue" or "missing_value" mark as missing.

        Raises
        ------
        FileFormatError
            As `load`; or the values are packed by "scale_factor" or "add_offset".
        """
        with as_format_error(self.path, _WHAT):
            attributes = self.find(name).attrs
            for key in ("scale_factor", "add_offset"):
                if key in attributes:
                    advice = "write it unpacked, as xarray's open_dataset reads it"
                    raise self.refusal(name, "plain values", f"packed ones, with {key}", advice)
            values = self.load(name, rows)
            for key in ("_FillValue", "missing_value"):
                is_number = key in attributes and attributes.get_id(key).dtype.kind in "iuf"
                if is_number and values.dtype.kind in "iuf":  # words may lie in a damaged heap
                    marks = np.asarray(attributes[key])
                    missing = np.isin(values, marks[~np.isnan(marks)])
                    values = np.where(missing, np.nan, values) if missing.any() else values
            return values

    def check_heaps(self) -> None:
        """Refuse a file with a damaged heap of strings anywhere; to be called before any is read.

        It costs as much as reading the file once; `dataset` looks at the heaps of a dataset alone.
        """
        if "/" in self._verified:
            return
        with self._map() as content:
            place = content.find(_HEAP)
            while place >= 0:
                self._check_heap(content, place)
                place = content.find(_HEAP, place + 8)
        self._verified.add("/")

    def _refuse_large_chunks(self, name: str, dataset: Any) -> None:
        """Refuse chunks, which HDF5 unpacks as wholes, that are much larger than the dataset."""
        if dataset.chunks is None:
            return
        itemsize = dataset.dtype.itemsize
        size = math.prod(dataset.chunks) * itemsize
        limit = max(SMALL_ARRAY, _LARGEST_SHARE * math.prod(dataset.shape) * itemsize)
        if size > limit:
            got = f"chunks of shape {dataset.chunks}, {size / 2**20:.0f} MiB each"
            expected = f"stored in chunks of {limit / 2**20:.0f} MiB at most"
            raise self.refusal(name, expected, got, "write it again in smaller chunks")

    def _check_strings(self, name: str, dataset: Any) -> None:
        """Refuse strings of variable length in damaged heaps, or of more bytes than there can be.

        A heap in good order is enough for HDF5, which refuses a wrong place in it itself.
        """
        references = self._find_references(dataset)
        if references is None:
            self.check_heaps()
            return
        # many strings may be one and the same in the heap
        refuse_absurd(self.path, name, (int(references["length"].sum()),), 1, held=self.size)
        with self._map() as content:
            for place in np.unique(references["heap"]).tolist():
                if content[place : place + 4] == _HEAP[:4]:  # HDF5 refuses what is no heap
                    self._check_heap(content, place)

    def _find_references(self, dataset: Any) -> np.ndarray | None:
        """What is stored of strings of variable length; None where that cannot be found out."""
        creation = self.tree.id.get_create_plist()
        if creation.get_sizes() != (8, 8) or creation.get_userblock():
            return None
        if dataset.chunks is not None:
            return _unpack_references(dataset)
        offset = dataset.id.get_offset()
        if offset is None:  # in the header, or nowhere
            return None if dataset.id.get_storage_size() else np.zeros(0, _REFERENCE)
        with self._map() as content:
            stored = content[offset : offset + dataset.size * _REFERENCE.itemsize]
        return np.frombuffer(stored[: len(stored) // 16 * 16], _REFERENCE)

    def _check_heap(self, content: bytes | mmap.mmap, place: int) -> None:
        """Walk a collection of the global heap.

        It has a header of 16 bytes, then objects of 16 bytes and their padded size.
        """
        size = _read_length(content, place + 8)
        end = place + size
        at = place + 16
        is_good = 16 <= size <= len(content) - place
        while is_good and at + 16 <= end:
            index, _, length = struct.unpack_from("<HH4xQ", content, at)
            # object 0 is the free space, its header included
            step = length if index == 0 else 16 + (length + 7) // 8 * 8
            is_good = step >= 16 and at + step <= end
            at += step
        if not is_good:
            raise FileFormatError(
                f"{self.path} should be a file in good order, got a damaged heap of strings: copy"
                " it again."
            )

    @contextmanager
    def _map(self) -> Iterator[bytes | mmap.mmap]:
        """The bytes of the file."""
        if self.content is not None:
            yield self.content
            return
        with (
            self.path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            yield mapped


@contextmanager
def open_hdf5_file(
    path: str | os.PathLike[str], content: bytes | None = None
) -> Iterator[Hdf5File]:
    """Open an HDF5 file to read it.

    Parameters
    ----------
    path : str or path
        The file; only used in errors if `content` is given.
    content : bytes, optional
        The HDF5 file, if it is a member of the zip file at `path`.

    Raises
    ------
    FileFormatError
        The file is truncated, damaged or foreign.
    """
    import h5py

    path = Path(path)
    with as_format_error(path, _WHAT):
        tree = h5py.File(path if content is None else io.BytesIO(content), "r")
    try:
        size = path.stat().st_size if content is None else len(content)
        yield Hdf5File(path, tree, size, content)
    finally:
        with as_format_error(path, _WHAT):
            tree.close()


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[NamedArrays]:
    """Open the datasets of an HDF5 file; rows of an array cost the memory of those rows.

    Raises
    ------
    FileFormatError
        The file is truncated or damaged, now or where an array is asked for.
    """
    with open_hdf5_file(path) as file:
        with as_format_error(path, _WHAT):
            names = tuple(str(name) for name in file.tree)
            units = {name: file.find_unit(name) for name in names if _is_plain(file, name)}
        stated = {name: unit for name, unit in units.items() if unit}
        yield NamedArrays(names, file.find_shape, file.load_unpacked, stated)


def _is_plain(file: Hdf5File, name: str) -> bool:
    """Whether a name leads to something in this file; other links are refused when asked for."""
    import h5py

    return isinstance(file.tree.get(name, getlink=True), h5py.HardLink)


def _read_length(content: bytes | mmap.mmap, place: int) -> int:
    stored = content[place : place + 8]
    return int.from_bytes(stored, "little") if len(stored) == 8 else 0


def _unpack_references(dataset: Any) -> np.ndarray | None:
    """What chunks store of strings of variable length; None where a filter is not known."""
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if not set(filters) <= {_DEFLATE, _SHUFFLE}:
        return None
    n_bytes = math.prod(dataset.chunks) * _REFERENCE.itemsize
    chunks = []
    for i in range(dataset.id.get_num_chunks()):
        offset = dataset.id.get_chunk_info(i).chunk_offset
        mask, packed = dataset.id.read_direct_chunk(offset)
        for place in reversed(range(len(filters))):
            if not mask & (1 << place):
                packed = _undo_filter(filters[place], packed, n_bytes)
        chunks.append(np.frombuffer(packed[: len(packed) // 16 * 16], _REFERENCE))
    return np.concatenate(chunks) if chunks else np.zeros(0, _REFERENCE)


def _undo_filter(code: int, packed: bytes, n_bytes: int) -> bytes:
    if code == _DEFLATE:
        return zlib.decompressobj().decompress(packed, n_bytes)
    # shuffled: the first bytes of all elements, then the second, ...
    return np.frombuffer(packed, np.uint8).reshape(_REFERENCE.itemsize, -1).T.tobytes()
