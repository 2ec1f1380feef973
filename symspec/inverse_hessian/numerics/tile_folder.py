"""A folder of arrays, each a file that is whole and of this computation, or is not believed.

A file ends in a seal (`symspec.safety.checkpoint`) with its name, the key of the computation and a
digest of its bytes. It is verified when a process first asks for it, and computed again if anything
is wrong. Arrays are npy, which anyone can read.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from symspec.errors import DataError
from symspec.safety.checkpoint import has_seal, seal_file
from symspec.safety.whole_files import replace_when_complete

Arrays = Mapping[str, np.ndarray]


class TileFolder:
    """Files of one computation.

    Parameters
    ----------
    path : path
    key : str
        Digest of all that the arrays depend on.
    """

    def __init__(self, path: str | os.PathLike[str], key: str):
        self.path = Path(path)
        self.key = key
        self._verified: set[str] = set()
        self._damaged: set[str] = set()

    @classmethod
    def from_arrays(cls, reader: Any, place: str) -> TileFolder:
        """The folder of which `arrays` stand under `place`."""
        return cls(_read_text(reader, f"{place}/folder"), _read_text(reader, f"{place}/key"))

    def arrays(self) -> dict[str, np.ndarray]:
        """Where it is, as plain arrays."""
        return {"folder": _encode(str(self.path)), "key": _encode(self.key)}

    def has(self, name: str) -> bool:
        """Whether a file is there as it was written; with a warning if there is another one.

        Raises
        ------
        DataError
            A folder has its name.
        """
        path = self._path(name)
        if name in self._verified or name in self._damaged or not os.path.lexists(path):
            return name in self._verified
        if path.is_dir():
            raise DataError(f"{path} should be a file, got a folder: move it away.")
        if not has_seal(path, self._name_content(name)):
            warnings.warn(
                f"{path} should hold a part of this kernel, got a damaged file or that of another"
                " one: it is computed again.",
                RuntimeWarning,
                stacklevel=2,
            )
            self._damaged.add(name)
            return False
        self._verified.add(name)
        return True

    def write_matrix(self, name: str, matrix: np.ndarray) -> None:
        """Keep a matrix; it lies in the file row by row."""
        with replace_when_complete(self._path(name), overwrite=True, sync=False) as temporary:
            with temporary.open("wb") as stream:
                np.save(stream, matrix)
            seal_file(temporary, self._name_content(name))
        self._verified.add(name)

    def find_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a matrix.

        Raises
        ------
        DataError
            The file is gone or damaged.
        """
        self._require(name)
        with self._path(name).open("rb") as stream:
            return self._read_shape(name, stream)

    def read_matrix(self, name: str, out: np.ndarray) -> None:
        """Fill `out`, contiguous, with a matrix of its shape.

        Raises
        ------
        DataError
            The file is gone or damaged.
        """
        self._require(name)
        n_read = 0
        with self._path(name).open("rb") as stream:
            if self._read_shape(name, stream) == out.shape:
                n_read = stream.readinto(memoryview(out).cast("B"))
        if n_read != out.nbytes:
            raise self._refuse(name)

    def write_arrays(self, name: str, arrays: Arrays) -> None:
        """Keep arrays by their names."""
        contents: dict[str, Any] = dict(arrays)
        with replace_when_complete(self._path(name), overwrite=True, sync=False) as temporary:
            with temporary.open("wb") as stream:
                np.savez(stream, **contents)
            seal_file(temporary, self._name_content(name))
        self._verified.add(name)

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays that `write_arrays` kept.

        Raises
        ------
        DataError
            The file is gone or damaged.
        """
        self._require(name)
        with self._path(name).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def announce(self, name: str) -> None:
        """Have the system fetch a file that is read next, while something else is computed."""
        path = self._path(name)
        if not hasattr(os, "posix_fadvise") or not path.exists():
            return
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def _read_shape(self, name: str, stream: BinaryIO) -> tuple[int, ...]:
        try:
            np.lib.format.read_magic(stream)
            return np.lib.format.read_array_header_1_0(stream)[0]
        except ValueError as error:
            raise self._refuse(name) from error

    def _require(self, name: str) -> None:
        if not self.has(name) or not self._path(name).exists():
            raise self._refuse(name)

    def _refuse(self, name: str) -> DataError:
        return DataError(
            f"{self._path(name)} should hold a part of the factorised kernel, got no file or a"
            " damaged one: call fit_laplace again with the same folder, which computes it anew."
        )

    def _name_content(self, name: str) -> str:
        return f"{name} of the kernel {self.key}"

    def _path(self, name: str) -> Path:
        return self.path / f"{name}.npy" if name.startswith("tile") else self.path / f"{name}.npz"


def _encode(text: str) -> np.ndarray:
    """Bytes of a text as numbers, which archives hold."""
    return np.frombuffer(text.encode(), np.uint8).astype(float)


def _read_text(reader: Any, name: str) -> str:
    """A text of `_encode`."""
    values = reader.array(name, (None,), finite=True)
    if not ((values > 0) & (values < 256)).all():
        raise reader.refusal(name, "bytes of a text", "other numbers")
    return bytes(values.astype(np.uint8)).decode(errors="replace")
