"""Spectra to be walked some stars at a time, from a file or from memory, and what tells them from others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import OptionError
from symspec.safety.checkpoint import find_fingerprint
from symspec.spectra.readers.folder import SpectraFolder
from symspec.spectra.readers.read import open_spectra, read_spectra
from symspec.spectra.readers.spectra_file import SpectraFile
from symspec.spectra.spectra import Spectra


@dataclass(frozen=True)
class SpectraSource:
    """Spectra of which `read` gives some.

    Attributes
    ----------
    name : str
        For messages.
    n_stars, n_pixels : int
    wavelength : numpy.ndarray, shape (pixel,), or None
    wavelength_unit : str
    read : callable
        Of a slice, gives those stars as `Spectra`.
    identity : dict of str to str or int
        What would be another if the spectra were others: a digest of those in memory; of files
        their size, their time of modification, and the options that they are read with.
    """

    name: str
    n_stars: int
    n_pixels: int
    wavelength: np.ndarray | None
    wavelength_unit: str
    read: Callable[[slice], Spectra]
    identity: dict[str, Any]


@contextmanager
def open_source(spectra: Any, **options: Any) -> Iterator[SpectraSource]:
    """Open spectra to walk them.

    Parameters
    ----------
    spectra : path, Spectra, or what else `symspec.read_spectra` takes
        A file or folder is read some stars at a time; the others are in memory already.
    **options
        Of `symspec.open_spectra`, but for `Spectra`.

    Raises
    ------
    OptionError
        Options are given for `Spectra`.
    """
    if not isinstance(spectra, str | os.PathLike):
        spectra = _hold(spectra, options)
        yield _describe(
            "the spectra", spectra, spectra.__getitem__, {"spectra": hash_spectra(spectra)}
        )
        return
    with open_spectra(spectra, **options) as file:
        identity = {"spectra": _identify(Path(spectra), file)}
        identity |= {
            name: value if value is None else str(value) for name, value in options.items()
        }
        yield _describe(str(spectra), file, file.read, identity)


def _hold(spectra: Any, options: dict[str, Any]) -> Spectra:
    if not isinstance(spectra, Spectra):
        return read_spectra(spectra, **options)
    if given := [name for name, value in options.items() if value is not None]:
        raise OptionError(
            f"{given[0]} should go with a file or table to be read, got Spectra: leave it out."
        )
    return spectra


def _identify(path: Path, file: SpectraFile | SpectraFolder) -> str:
    """Size and time of modification of a file, or of all files in a folder."""
    if isinstance(file, SpectraFolder):
        stats = [(one, one.stat()) for one in file.paths]
        digest = find_fingerprint(
            *((one.name, found.st_size, found.st_mtime_ns) for one, found in stats)
        )
        return f"{len(stats)} files, digest {digest}"
    found = path.stat()
    return f"{found.st_size} bytes, modified {np.datetime64(found.st_mtime_ns, 'ns')}"


def _describe(
    name: str, spectra: Any, read: Callable[[slice], Spectra], identity: dict[str, Any]
) -> SpectraSource:
    grid = spectra.wavelength, spectra.wavelength_unit
    return SpectraSource(name, spectra.n_stars, spectra.n_pixels, *grid, read, identity)


def hash_spectra(spectra: Spectra) -> str:
    """SHA-256 of the flux, ivar, labels and ids of some stars."""
    digest = hashlib.sha256()
    for name in ("flux", "ivar", "labels"):
        array = getattr(spectra, name)
        if array is not None:
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    digest.update(b"" if spectra.ids is None else "\n".join(spectra.ids).encode())
    return digest.hexdigest()
