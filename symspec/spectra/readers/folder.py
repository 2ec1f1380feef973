"""Folders of spectra, one file a star, as archives of surveys hand them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.safety.checkpoint import find_fingerprint, hash_file
from symspec.spectra.readers.formats import SUFFIXES, TEXT_SUFFIXES
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.readers.spectra_file import SpectraFile
from symspec.spectra.spectra import Spectra, check_rows

_SAME = (
    "n_pixels",
    "wavelength_unit",
    "wavelength_medium",
    "has_uncertainty",
    "label_names",
    "label_units",
)


class SpectraFolder:
    """Files of one spectrum each, sorted by name; `read` opens those of the stars asked for.

    Attributes
    ----------
    name : str
        The path, for messages.
    paths : list of path
        One a star.
    n_stars : int
    n_pixels, wavelength, wavelength_unit, wavelength_medium, label_names, label_units
    flux_unit, has_uncertainty, contents
        Those of the first file as a `SpectraFile`; the other files have to agree.
    has_ids : bool
        True: a spectrum without a name takes that of its file.
    """

    has_ids = True

    def __init__(
        self,
        folder: Path,
        options: ReadOptions,
        open_file: Callable[[Path, ReadOptions], AbstractContextManager[SpectraFile]],
    ):
        self.name = str(folder)
        files = sorted(path for path in folder.iterdir() if _is_file(path))
        self.paths = [path for path in files if _has_suffix(path.name, SUFFIXES)] or [
            path for path in files if _has_suffix(path.name, TEXT_SUFFIXES)
        ]
        if not self.paths:
            raise DataError(
                f"{folder} should hold files of one spectrum each, named"
                f" {', '.join((*SUFFIXES, *TEXT_SUFFIXES))}, got"
                " none: give the folder of these files."
            )
        self._options = options
        self._open_file = open_file
        with open_file(self.paths[0], options) as first:
            self.n_stars = len(self.paths)
            self.n_pixels = first.n_pixels
            self.flux_unit = first.flux_unit
            self.wavelength = first.wavelength
            self.wavelength_unit = first.wavelength_unit
            self.wavelength_medium = first.wavelength_medium
            self.contents = first.contents
            self.label_names = first.label_names
            self.label_units = first.label_units
            self.has_uncertainty = first.has_uncertainty
            first.warn()  # of the others, which are alike, it would be said once each

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if names or bytes of the files, or the options given do."""
        digest = find_fingerprint({path.name: hash_file(path) for path in self.paths})
        return {"spectra": f"{self.n_stars} files, digest {digest}"} | self._options.identity()

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Read some stars, in the memory that they take.

        Raises
        ------
        ShapeError, DataError
            A file holds several stars, or other pixels, wavelengths or labels than the first.
        SymspecError
            As `SpectraFile.read`.
        """
        paths = self.paths[check_rows(rows, self.n_stars)]
        stars = [self._read_star(path) for path in paths]
        return _join(stars) if stars else self._read_star(self.paths[0])[:0]

    def read_ids(self) -> np.ndarray:
        """Names of all stars (star,), for which each file is opened, without reading its flux.

        Raises
        ------
        SymspecError
            As `read`.
        """
        return np.concatenate([self._read_id(path) for path in self.paths])

    def _read_id(self, path: Path) -> np.ndarray:
        with self._open_file(path, self._options) as file:
            self._check(file, path)
            ids = file.read_ids()
        return np.array([strip_suffix(path.name)]) if ids is None else ids

    def _read_star(self, path: Path) -> Spectra:
        with self._open_file(path, self._options) as file:
            self._check(file, path)
            star = file.read()
        if star.ids is not None:
            return star
        return replace(star, ids=np.array([strip_suffix(path.name)]))

    def _check_flux_unit(self, file: SpectraFile, path: Path) -> None:
        """Refuse absorbance among transmittance, or counts among flux."""
        units = (self.flux_unit, file.flux_unit)
        spelled = {"".join(unit.lower().split()) for unit in units}
        if all(units) and len(spelled) > 1:
            raise DataError(
                f"files of a folder should hold one quantity, got {units[1]!r} in {path} and"
                f" {units[0]!r} in {self.paths[0].name}: convert them, or put each kind into a"
                " folder of its own."
            )

    def _check(self, file: SpectraFile, path: Path) -> None:
        self._check_flux_unit(file, path)
        if file.n_stars != 1:
            raise ShapeError(
                f"{path} should hold one star, as files of a folder do, got {file.n_stars:,}: read"
                " it on its own."
            )
        first = self.paths[0].name
        for name in _SAME:
            if (got := getattr(file, name)) != (want := getattr(self, name)):
                raise DataError(
                    f"files of a folder should be alike, got {name} {got!r} in {path} and {want!r}"
                    f" in {first}: put each kind into a folder of its own."
                )
        if not _is_same_grid(file.wavelength, self.wavelength):
            raise ShapeError(
                f"files of a folder should be on one grid, got other wavelengths in {path} than in"
                f" {first}: resample each (symspec.resample), and join them."
            )


def _is_file(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file()


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def strip_suffix(name: str) -> str:
    """The name of a file without its suffix, if that is one of spectra."""
    known = (*SUFFIXES, *TEXT_SUFFIXES)
    length = max((len(suffix) for suffix in known if name.lower().endswith(suffix)), default=0)
    return name[: len(name) - length]


def _is_same_grid(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _join(stars: Sequence[Spectra]) -> Spectra:
    """Join stars that agree in all but their numbers and names."""
    return replace(
        stars[0],
        flux=np.concatenate([star.flux for star in stars]),
        ivar=_concatenate([star.ivar for star in stars]),
        labels=_concatenate([star.labels for star in stars]),
        label_errors=_concatenate([star.label_errors for star in stars]),
        label_covariance=_concatenate([star.label_covariance for star in stars]),
        groups=_concatenate([star.groups for star in stars]),
        ids=_concatenate([star.ids for star in stars]),
    )


def _concatenate(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if known else None
