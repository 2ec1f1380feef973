"""Folders of spectra, one file a star, as archives of surveys hand them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.spectra.readers.spectra_file import SpectraFile, check_rows
from symspec.spectra.spectra import Spectra

SUFFIXES = (".fits", ".fits.gz", ".fit", ".fit.gz", ".h5", ".hdf5", ".npz", ".csv")
_SAME = ("n_pixels", "wavelength_unit", "has_uncertainty", "label_names", "label_units")


class SpectraFolder:
    """Files of one spectrum each in a folder, by their names in order, of which `read` opens those asked for.

    Attributes
    ----------
    paths : list of path
        One a star.
    n_stars, n_pixels, wavelength, wavelength_unit, label_names, label_units, has_uncertainty
        As of a `SpectraFile`, out of the first file; the others have to be alike.
    has_ids : bool
        True: a spectrum without a name is called by that of its file.
    """

    has_ids = True

    def __init__(
        self, folder: Path, open_file: Callable[[Path], AbstractContextManager[SpectraFile]]
    ):
        self.paths = sorted(path for path in folder.iterdir() if _is_spectrum(path))
        if not self.paths:
            raise DataError(
                f"{folder} should hold files of one spectrum each, named {', '.join(SUFFIXES)}, got"
                " none: give the folder that they lie in."
            )
        self._open = open_file
        with open_file(self.paths[0]) as first:
            self.n_stars = len(self.paths)
            self.n_pixels = first.n_pixels
            self.wavelength = first.wavelength
            self.wavelength_unit = first.wavelength_unit
            self.label_names = first.label_names
            self.label_units = first.label_units
            self.has_uncertainty = first.has_uncertainty

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Read some stars, in the memory that they take.

        Raises
        ------
        ShapeError, DataError
            A file holds several stars, or other pixels, wavelengths or labels than the first.
        SymspecError
            As of `SpectraFile.read`.
        """
        paths = self.paths[check_rows(rows, self.n_stars)]
        stars = [self._read_star(path) for path in paths]
        return _join(stars) if stars else self._read_star(self.paths[0])[:0]

    def _read_star(self, path: Path) -> Spectra:
        with self._open(path) as file:
            self._check(file, path)
            star = file.read()
        return (
            star
            if star.ids is not None
            else replace(star, ids=np.array([_strip_suffix(path.name)]))
        )

    def _check(self, file: SpectraFile, path: Path) -> None:
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
                    f" in {first}: put those of each kind into a folder of their own."
                )
        if not np.array_equal(file.wavelength, self.wavelength):
            raise ShapeError(
                f"files of a folder should be on one grid, got other wavelengths in {path} than in"
                f" {first}: resample each (symspec.resample), and join them."
            )


def _is_spectrum(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _strip_suffix(name: str) -> str:
    return name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]


def _join(stars: Sequence[Spectra]) -> Spectra:
    """Spectra of stars that differ in their numbers alone."""
    first = stars[0]
    names = [name for name in ("flux", "ivar", "labels", "ids") if getattr(first, name) is not None]
    return replace(
        first, **{name: np.concatenate([getattr(star, name) for star in stars]) for name in names}
    )
