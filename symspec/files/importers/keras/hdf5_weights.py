"""HDF5 files of Keras: arrays of each layer, and strings as attributes.

Keras writes strings of variable length, whose heaps are checked before any is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.files.matching import LARGEST_RATIO, FileArray, bytes_allowed, natural_order, reading
from symspec.safety.hdf5_files import Hdf5File, open_hdf5_file

_LONGEST_LIST = 2**20


@dataclass(frozen=True)
class WeightFile:
    """An open HDF5 file of Keras.

    Attributes
    ----------
    file : Hdf5File
    limit : int
        Bytes that one array may take.
    """

    file: Hdf5File
    limit: int

    def has(self, name: str, key: str) -> bool:
        """Whether a group has an attribute."""
        return key in self.file.find(name).attrs

    def is_group(self, name: str) -> bool:
        """Whether it is a group, not a dataset."""
        import h5py

        return isinstance(self.file.find(name), h5py.Group)

    def identity(self, name: str) -> object:
        """Key that is equal for all names of one group."""
        import h5py

        info = h5py.h5o.get_info(self.file.find(name).id)
        return info.fileno, info.addr

    def children(self, name: str) -> list[str]:
        """Names inside a group, in the order of Keras's numbers."""
        if not self.is_group(name):
            raise self.file.refusal(name, "a group", "a dataset")
        return sorted(self.file.find(name), key=natural_order)

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
            raise self.file.refusal(f"{name}@{key}", "a list of names", "nothing")
        return [string for part in parts for string in part]

    def _strings(self, name: str, key: str, shape: tuple[None, ...]) -> list[str]:
        import h5py

        attributes = self.file.find(name).attrs
        if key not in attributes:
            raise self.file.refusal(f"{name}@{key}", "an attribute", "nothing")
        declared = attributes.get_id(key)
        if len(declared.shape) != len(shape) or math.prod(declared.shape) > _LONGEST_LIST:
            raise self.file.refusal(
                f"{name}@{key}", "a text or a list of names", f"shape {declared.shape}"
            )
        if not math.prod(declared.shape):
            return []  # an empty array of floats, of a layer without weights
        if h5py.check_string_dtype(declared.dtype) is None:
            raise self.file.refusal(f"{name}@{key}", "text", f"{declared.dtype}")
        value = np.asarray(attributes[key]).reshape(-1).tolist()
        return [string.decode() if isinstance(string, bytes) else str(string) for string in value]

    def json(self, name: str, key: str) -> Any:
        """One attribute that is JSON."""
        return json.loads(self.string(name, key))

    def stored(self, name: str) -> FileArray:
        """One dataset, to be read later."""
        dataset = self.file.dataset(name)
        if dataset.dtype.kind not in "fiu":
            raise self.file.refusal(name, "an array of numbers", f"{dataset.dtype}")
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        # a dataset without stored bytes would be filled in by HDF5
        limit = min(self.limit, LARGEST_RATIO * dataset.id.get_storage_size())
        if size > limit:
            raise self.file.refusal(name, f"of {limit:,} bytes at most", f"shape {dataset.shape}")
        return FileArray(name, tuple(dataset.shape), self._reader(name))

    def _reader(self, name: str) -> Callable[[], np.ndarray]:
        return lambda: self.file.load(name)


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
    with reading(path, "an HDF5 file of Keras"), open_hdf5_file(path, content) as file:
        file.check_heaps()
        yield WeightFile(file, bytes_allowed(path))
