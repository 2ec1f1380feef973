"""A file of spectra that other processes, perhaps on other machines, may read as well."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from symspec.safety.file_formats import is_hdf5
from symspec.spectra.readers.read import SpectraSource, open_spectra
from symspec.spectra.spectra import Spectra

FITS_START = b"SIMPLE"


class SharedFile:
    """A file that is read wherever it is seen as the same file.

    Inode, size, and the times of the last changes of content and inode, in nanoseconds, say that it
    is: no program copies the latter. Elsewhere there is another file under this name, or none.

    Parameters
    ----------
    path : str
    options : mapping
        How it is read, see `open_spectra`.
    """

    def __init__(self, path: str, options: Mapping[str, Any]):
        self.path = path
        self.options = dict(options)
        self.state = _find_state(path)
        self._opened = ExitStack()
        self._source: SpectraSource | None = None

    @classmethod
    def of(cls, source: Any, options: Mapping[str, Any]) -> Self | None:
        """The file of which `open_spectra` takes rows alone; None of what else it takes."""
        if not isinstance(source, str | os.PathLike) or options.get("labels") is not None:
            return None
        path = Path(source)
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            start = stream.read(4096)
        is_by_rows = is_hdf5(start) or start.startswith(FITS_START)
        return cls(os.path.abspath(path), options) if is_by_rows else None

    def __call__(self, piece: slice) -> Spectra | None:
        """Read some stars; None if there is another file, or none."""
        if self._source is None and _find_state(self.path) == self.state:
            with warnings.catch_warnings():  # of which whoever has the task has told
                warnings.simplefilter("ignore")
                self._source = self._opened.enter_context(open_spectra(self.path, **self.options))
        return None if self._source is None else self._source.read(piece)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """All but the open file."""
        return vars(self) | {"_opened": None, "_source": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._opened = ExitStack()
        self._source = None


def _find_state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
