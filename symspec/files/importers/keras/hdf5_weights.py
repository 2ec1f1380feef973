"""HDF5 files of Keras: arrays of each layer, and strings as attributes.

No link is followed and nothing outside the file is opened. Keras writes strings of variable length,
which HDF5 keeps in its global heap. That heap has no checksum, and a damaged one can keep HDF5 busy
for ever, so that its chain is checked first.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.archive_format import Archive
from symspec.files.matching import LARGEST_RATIO, FileArray, bytes_allowed, natural_order, reading

_HEAP = b"GCOL\x01\0\0\0"
_LONGEST_LIST = 2**20


@dataclass(frozen=True)
class WeightFile:
    """An open HDF5 file of Keras.

    Attributes
    ----------
    archive : Archive
        Finds groups and datasets without following a link.
    limit : int
        Bytes that one array may take.
    """

    archive: Archive
    limit: int

    def has(self, name: str, key: str) -> bool:
        """Whether a group has an attribute."""
        return key in self.archive.find(name).attrs

    def is_group(self, name: str) -> bool:
        """Whether it is a group, not a dataset."""
        import h5py

        return isinstance(self.archive.find(name), h5py.Group)

    def identity(self, name: str) -> object:
        """Key that is equal for all names of one group."""
        import h5py

        info = h5py.h5o.get_info(self.archive.find(name).id)
        return info.fileno, info.addr

    def children(self, name: str) -> list[str]:
        """Names inside a group, in the order of Keras's numbers."""
        if not self.is_group(name):
            raise self.archive.refusal(name, "a group", "a dataset")
        return sorted(self.archive.find(name), key=natural_order)

    def string(self, name: str, key: str) -> str:
        """One attribute that is a string."""
        return self._strings(name, key, ())[0]

    def strings(self, name: str, key: str) -> list[str]:
        """Attribute that is a list of strings; long ones are split into key0, key1, ..."""
        if self.has(name, key):
            return self._strings(name, key, (None,))
        parts: list[list[str]] = []
        while self.has(name, f"{key}{len(parts)}"):
            parts.append(self._strings(name, f"{key}{len(parts)}", (None,)))
        if not parts:
            raise self.archive.refusal(f"{name}@{key}", "a list of names", "nothing")
        return [string for part in parts for string in part]

    def _strings(self, name: str, key: str, shape: tuple[None, ...]) -> list[str]:
        import h5py

        attributes = self.archive.find(name).attrs
        if key not in attributes:
            raise self.archive.refusal(f"{name}@{key}", "an attribute", "nothing")
        declared = attributes.get_id(key)
        if len(declared.shape) != len(shape) or math.prod(declared.shape) > _LONGEST_LIST:
            raise self.archive.refusal(
                f"{name}@{key}", "a text or a list of names", f"shape {declared.shape}"
            )
        if not math.prod(declared.shape):
            return []  # an empty array of floats, of a layer without weights
        if h5py.check_string_dtype(declared.dtype) is None:
            raise self.archive.refusal(f"{name}@{key}", "text", f"{declared.dtype}")
        value = np.asarray(attributes[key]).reshape(-1).tolist()
        return [string.decode() if isinstance(string, bytes) else str(string) for string in value]

    def json(self, name: str, key: str) -> Any:
        """One attribute that is JSON."""
        return json.loads(self.string(name, key))

    def stored(self, name: str) -> FileArray:
        """One dataset, to be read later."""
        import h5py

        dataset = self.archive.find(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise self.archive.refusal(name, "an array", "none")
        if dataset.is_virtual or dataset.external:
            raise self.archive.refusal(
                name, "in this file", "values in other files", "copy them into the file"
            )
        if dataset.dtype.kind not in "fiu":
            raise self.archive.refusal(name, "an array of numbers", f"{dataset.dtype}")
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        # a dataset without stored bytes would be filled in by HDF5
        limit = min(self.limit, LARGEST_RATIO * dataset.id.get_storage_size())
        if size > limit:
            raise self.archive.refusal(
                name, f"of {limit:,} bytes at most", f"shape {dataset.shape}"
            )
        return FileArray(name, tuple(dataset.shape), self._reader(name))

    def _reader(self, name: str) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(self.archive.find(name)[()])


@contextmanager
def open_weights(path: Path, content: bytes | None = None) -> Iterator[WeightFile]:
    """Open an HDF5 file of Keras.

    Parameters
    ----------
    path : pathlib.Path
        The file; only used in errors if `content` is given.
    content : bytes, optional
        The HDF5 file, if it is a member of the zip file at `path`.
    """
    import h5py

    with reading(path, "an HDF5 file of Keras"):
        if content is not None:
            _check_heaps(path, content)
        else:
            with (
                path.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                _check_heaps(path, mapped)
        with h5py.File(path if content is None else io.BytesIO(content), "r") as tree:
            archive = Archive(path, tree, _unused)
            yield WeightFile(archive, bytes_allowed(path))


def _unused(name: str) -> np.ndarray:
    raise NotImplementedError(f"{name} is read by WeightFile.stored, with its own checks")


def _check_heaps(path: Path, content: bytes | mmap.mmap) -> None:
    """Walk each collection of the global heap.

    It has a header of 16 bytes, then objects of 16 bytes and their padded size.
    """
    place = content.find(_HEAP)
    while place >= 0:
        (size,) = struct.unpack_from("<Q", content, place + 8)
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
                f"{path} should be a file in good order, got a damaged heap of strings: copy it"
                " again."
            )
        place = content.find(_HEAP, place + 8)
