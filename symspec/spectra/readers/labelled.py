"""Spectra whose labels are in a table of their own, joined by the names of samples."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from symspec.errors import DataError, UnusedDataWarning
from symspec.safety.checkpoint import hash_file
from symspec.safety.named_arrays import Contents
from symspec.spectra.readers.folder import SpectraFolder, strip_suffix
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.readers.spectra_file import SpectraFile
from symspec.spectra.readers.tables.reference import read_reference
from symspec.spectra.readers.unused import describe_unused
from symspec.spectra.spectra import Spectra


class LabelledSpectra:
    """Spectra of a file or folder, with the labels of a table; `read` gives the stars asked for.

    Attributes
    ----------
    source : SpectraFile, SpectraFolder or Spectra
        Without labels of its own; its spectra have names.
    reference : Reference
        Names in it may end in the suffix of a file.
    """

    def __init__(
        self,
        source: SpectraFile | SpectraFolder | LabelledSpectra | Spectra,
        path: Path,
        options: ReadOptions,
    ):
        self.source = source
        self.reference = read_reference(path, options)
        self._path = path
        self.name: str = source.name
        self.n_stars: int = source.n_stars
        self.n_pixels: int = source.n_pixels
        self.wavelength: np.ndarray | None = source.wavelength
        self.wavelength_unit: str = source.wavelength_unit
        self.wavelength_medium: str | None = source.wavelength_medium
        self.contents: Contents = source.contents
        self.label_names = self.reference.label_names
        if source.label_names:
            raise DataError(
                f"labels={str(path)!r} should go with spectra without labels, got"
                f" {', '.join(source.label_names)} in {source.name}: leave labels out."
            )
        self._takes_errors = options.label_errors != "none"
        stems = Counter(map(strip_suffix, self.reference.places))
        self._places = {
            strip_suffix(name): i
            for name, i in self.reference.places.items()
            if stems[strip_suffix(name)] == 1
        } | self.reference.places
        self._check_names()

    def _check_names(self) -> None:
        """Refuse a table of other samples; name what it holds besides."""
        ids = self.source.read_ids()
        if ids is None:
            raise DataError(
                f"{self.name} should have names of samples, by which labels are found, got none:"
                " name the spectra, or give the labels in the same table."
            )
        found = {self._places[name] for name in ids if name in self._places}
        if not found:
            raise DataError(
                f"{self._path} should have the labels of samples such as {str(ids[0])!r},"
                " got"
                f" {', '.join(list(self.reference.places)[:5])}: name the samples alike."
            )
        unread = [name for name, i in self.reference.places.items() if i not in found]
        if unread or self.reference.left_out:
            warnings.warn(
                f"{self._path} holds what was not read:"
                f" {describe_unused((*self.reference.left_out, *unread))}.",
                UnusedDataWarning,
                stacklevel=5,
            )

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if the spectra or the table do."""
        return self.source.identity() | {"labels": f"SHA-256 {hash_file(self._path)}"}

    def read_ids(self) -> np.ndarray | None:
        """Names of all stars (star,)."""
        return self.source.read_ids()

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Read some stars, with their labels; NaN where the table has none."""
        stars = self.source.read(rows)
        ids = np.array([] if stars.ids is None else stars.ids)
        places = np.array([self._places.get(name, -1) for name in ids], dtype=int)
        known = places >= 0
        labels = np.full((len(stars), len(self.reference.label_names)), np.nan)
        labels[known] = self.reference.labels[places[known]]
        errors = None
        if self.reference.errors is not None and self._takes_errors:
            errors = np.full(labels.shape, np.nan)
            errors[known] = self.reference.errors[places[known]]
        groups = stars.groups
        if self.reference.groups is not None:
            own = self.reference.groups[places]
            groups = np.where(known, own, np.char.add("no group of ", ids.astype(str)))
        return replace(
            stars,
            labels=labels,
            label_names=self.reference.label_names,
            label_units=self.reference.label_units,
            label_errors=errors,
            groups=groups,
        )
