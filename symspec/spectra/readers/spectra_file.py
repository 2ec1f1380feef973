"""Named arrays as spectra: the part that each array has, and some stars of them at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import (
    DataError,
    FileFormatError,
    ShapeError,
    SymspecError,
    UnusedDataWarning,
    ValuesDroppedWarning,
)
from symspec.safety.arrays import as_float_array, as_texts
from symspec.safety.checkpoint import hash_file
from symspec.safety.named_arrays import Contents, NamedArrays
from symspec.spectra.names import (
    GROUPS,
    IDS,
    MASKS,
    find_array,
    find_first_array,
    find_flux,
    find_named_array,
    find_uncertainty,
    name_label_errors,
)
from symspec.spectra.pixels import (
    as_nan,
    check_bad_error,
    find_bad_bits,
    find_ivar,
    find_mask_row,
    has_usable_errors,
)
from symspec.spectra.readers.labels import find_labels, load_label_errors, load_labels
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.readers.stored_grid import check_stored_grids, find_stored_grid
from symspec.spectra.readers.unused import describe_contents, describe_unused, find_unused
from symspec.spectra.spectra import Spectra, check_rows
from symspec.spectra.spectral_axis import rises_like_wavelengths
from symspec.spectra.wavelengths import find_unit_factor

_N_SAMPLED = 16  # stars whose flux and uncertainties are looked at before any is read


class SpectraFile:
    """Spectra in an open file or a table; `read` gives the stars asked for.

    Attributes
    ----------
    name : str
        The path, or the kind of table, for messages.
    n_stars, n_pixels : int
    wavelength : numpy.ndarray, shape (pixel,), or None
        Rising wavelengths in `wavelength_unit`.
    wavelength_unit : str
        As astropy spells it.
    wavelength_medium : {"air", "vacuum"} or None
        None where nobody says it.
    label_names, label_units : tuple of str
        Names and units of the labels; empty without labels.
    has_ids : bool
        Whether the stars have names.
    flux_unit : str
        Unit or quantity of the flux as the file spells it; "" where it does not.
    has_uncertainty : bool
        Whether the flux has an uncertainty, which `read` turns into `Spectra.ivar`.
    contents : Contents
        The layout recognised, where flux, ivar, ... lie in the file, and what is left out.
    """

    def __init__(
        self, arrays: NamedArrays, name: str, options: ReadOptions, path: Path | None = None
    ):
        self.name = name
        self._arrays = arrays
        self._options = options
        self._path = path
        self._flux = find_flux(arrays, name, options.named)
        self.flux_unit = arrays.units.get(self._flux) or ""
        shape = arrays.find_shape(self._flux)
        self._is_single = len(shape) == 1
        self.n_stars, self.n_pixels = _check_shape(
            (1, *shape) if self._is_single else shape, self._flux, name
        )
        self._labels = find_labels(
            arrays, options.label_names, self.n_stars, self._is_single, name, options.label_errors
        )
        self.label_names = self._labels.names if self._labels else ()
        self.label_units = self._labels.units if self._labels else ()
        self._uncertainty = find_uncertainty(arrays, options.named, name)
        self.has_uncertainty = self._uncertainty is not None
        self._mask = self._find_mask()
        self._ids = self._find_names(find_first_array(arrays, IDS))
        self._groups = self._find_names(self._find_groups())
        self.has_ids = self._ids is not None
        self._grid = find_stored_grid(arrays, options, self.n_stars, self.n_pixels, name)
        self.wavelength = self._grid.wavelength
        self.wavelength_unit = self._grid.unit
        self.wavelength_medium = self._grid.medium
        self._check_flux()
        self._doubt = ""
        self._scale = self._check_uncertainty()
        self.contents = self._find_contents()

    def __repr__(self) -> str:
        return f"SpectraFile({self.name}: {self.n_stars} stars, {self.n_pixels} pixels)"

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if the spectra do.

        Those of a file are a digest of its bytes, and the options given; that of a table is a
        digest of its spectra.
        """
        if self._path is None:
            return self.read().identity()
        return {"spectra": f"SHA-256 {hash_file(self._path)}"} | self._options.identity()

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Read some stars, in the memory that they take.

        Parameters
        ----------
        rows : slice, default all
            The stars wanted, with a positive step.

        Returns
        -------
        Spectra
            All in float64; None for what the file lacks.

        Raises
        ------
        OptionError
            `rows` is no such slice, or the file is closed.
        FileFormatError
            The file is damaged there.
        DataError
            Values are unusable.
        """
        rows = check_rows(rows, self.n_stars)
        with noting(self.name):
            check_stored_grids(self._arrays, self._grid, rows, self.n_stars, self.n_pixels)
            flux = as_nan(as_float_array(self._load_pixels(self._flux, rows), self._flux))
            labels = None
            errors: dict[str, Any] = {}
            if self._labels is not None:
                labels = load_labels(self._arrays, self._labels, rows, self._is_single)
                errors = load_label_errors(self._arrays, self._labels, rows, self._is_single)
            return Spectra(
                flux=flux,
                ivar=self._read_ivar(flux, rows),
                wavelength=self.wavelength,
                labels=labels,
                label_names=self.label_names,
                label_units=self.label_units,
                ids=self._read_ids(rows, len(flux)),
                groups=self._read_names(self._groups, rows, len(flux)),
                wavelength_unit=self.wavelength_unit,
                wavelength_medium=self.wavelength_medium,
                missing_label_error=self._options.missing_label_error,
                **errors,
            )

    def read_ids(self) -> np.ndarray | None:
        """Names of all stars (star,), without reading their flux; None without.

        Raises
        ------
        FileFormatError
            The file is damaged there.
        DataError
            A name is no text that a file can hold.
        """
        with noting(self.name):
            ids = self._read_ids(slice(None), self.n_stars)
            return None if ids is None else np.array(as_texts(ids, "ids"), dtype=str)

    def _load_pixels(self, name: str, rows: slice) -> np.ndarray:
        """Rows of an array (star, pixel), with pixels in the order of rising wavelength."""
        if self._is_single:
            return self._arrays.load(name)[None][rows, self._grid.order]
        return self._arrays.load(name, rows)[:, self._grid.order]

    def _read_ids(self, rows: slice, n_rows: int) -> np.ndarray | None:
        return self._read_names(self._ids, rows, n_rows)

    def _read_names(self, name: str | None, rows: slice, n_rows: int) -> np.ndarray | None:
        if name is None:
            return None
        names = np.atleast_1d(self._arrays.load(name, rows))[:n_rows]
        return names[:, 0] if names.ndim == 2 else names

    def _read_ivar(self, flux: np.ndarray, rows: slice) -> np.ndarray | None:
        masked = None if self._mask is None else self._read_mask(self._mask, rows, flux.shape)
        if self._uncertainty is None:
            return find_ivar(flux, mask=masked)
        name, kind = self._uncertainty
        error = as_float_array(self._load_pixels(name, rows), name)
        return find_ivar(
            flux, error, kind, scale=self._scale, mask=masked, bad_error=self._options.bad_error
        )

    def _read_mask(self, name: str, rows: slice, shape: tuple[int, ...]) -> np.ndarray:
        """Which pixels (star, pixel) the mask marks as bad."""
        bits = self._options.mask_bits
        if bits is None:
            bits = self._arrays.mask_bits
        if len(self._arrays.find_shape(name)) == 1:  # one mask for all stars
            stored = self._arrays.load(name)[None, self._grid.order]
        else:
            stored = self._load_pixels(name, rows)
        return np.broadcast_to(find_bad_bits(stored, name, bits), shape)

    def _find_mask(self) -> str | None:
        bits = self._options.mask_bits
        if bits is not None and not len(bits):
            return None
        if (name := find_array(self._arrays, MASKS)) is None:
            if bits is not None:
                raise DataError(
                    f"mask_bits={tuple(bits)} asks for bits of a mask, got no array named"
                    f" {', '.join(MASKS)}: leave mask_bits out, or rename the mask."
                )
        elif self._arrays.find_shape(name) != (self.n_pixels,):
            self._check_pixels(name)
        return name

    def _find_groups(self) -> str | None:
        if self._options.group is None:
            return self._find_unasked_groups()
        try:
            return find_named_array(self._arrays, self._options.group, "group", self.name)
        except FileFormatError:
            if (name := find_array(self._arrays, GROUPS)) is None:
                raise
            return name  # a table's reader has found the column already

    def _find_unasked_groups(self) -> str | None:
        """An array called group, if it has one text or number a star."""
        if (name := find_array(self._arrays, GROUPS)) is not None:
            with suppress(FileFormatError, ShapeError):  # what is no array, or of another kind
                return self._find_names(name)
        return None

    def _find_names(self, name: str | None) -> str | None:
        """The same name of an array, which should hold one text a star."""
        if name is None:
            return None
        shape = self._arrays.find_shape(name)
        allowed: list[tuple[int, ...]] = [(self.n_stars,), (self.n_stars, 1)]
        if self.n_stars == 1:
            allowed.append(())
        if shape not in allowed:
            raise ShapeError(
                f"{name} should have shape ({self.n_stars},), one a star, got {shape}: select the"
                " same stars."
            )
        return name

    def warn(self) -> None:
        """Say what may have been meant otherwise.

        Warns
        -----
        UnusedDataWarning
            Arrays, HDUs or columns are not read, and their layout is not a known one.
        ValuesDroppedWarning
            Errors that may be numbers count as flags.
        """
        depth = 5  # who called read_spectra
        if self.contents.left_out and not self.contents.is_known:
            warnings.warn(
                f"{self.name} holds what was not read: {describe_unused(self.contents.left_out)}."
                " Labels are read with label_names=; say flux=, wavelength=, uncertainty= or hdu="
                " if these are not what was meant.",
                UnusedDataWarning,
                stacklevel=depth,
            )
        if self._doubt:
            warnings.warn(f"{self.name}: {self._doubt}", ValuesDroppedWarning, stacklevel=depth)

    def _find_contents(self) -> Contents:
        used = {
            "flux": self._flux,
            "uncertainty": self._uncertainty[0] if self._uncertainty else None,
            "mask": self._mask,
            "wavelength": self._grid.name,
            "ids": self._ids,
            "groups": self._groups,
        }
        names = {name for name in used.values() if name is not None}
        names |= self._labels.arrays if self._labels else set()
        if self._options.label_errors == "none":
            declined = {error for label in self.label_names for error in name_label_errors(label)}
            names |= {name for name in self._arrays.names if name.lower() in declined}
        if self._options.mask_bits is not None and not len(self._options.mask_bits):
            names |= {name for name in self._arrays.names if name.lower() in MASKS}
        unused = find_unused(self._arrays, names, self._options, self.n_stars)
        kind = self._uncertainty[1] if self._uncertainty else None
        return describe_contents(self._arrays, used, unused, kind)

    def _check_flux(self) -> None:
        """Refuse wavelengths in the place of flux, unless the caller names them so."""
        if self._options.flux is not None:
            return
        rows = as_nan(self._load_sampled(self._flux))
        for star, row in zip(self._sampled, rows, strict=True):
            if rises_like_wavelengths(row):
                raise DataError(
                    f"{self._flux} should hold the flux, one star a row, got numbers in row {star}"
                    f" that go from pixel to pixel as wavelengths do, {row[0]:.7g}, {row[1]:.7g},"
                    f" {row[2]:.7g}, ...: say where the flux is, flux= or hdu=; if rows are"
                    " flux, errors and wavelengths of one star, store each under its name."
                )
        if (mask := find_mask_row(rows)) is not None:
            raise DataError(
                f"{self._flux} should hold the flux, one star a row, got whole numbers in row"
                f" {self._sampled[mask]} alone, as of a mask: if rows are flux, errors and masks of"
                " one star, store each under its name; else say flux=."
            )

    @property
    def _sampled(self) -> range:
        """Stars that are looked at before any is read."""
        return range(self.n_stars)[:: -(-self.n_stars // _N_SAMPLED)]

    def _load_sampled(self, name: str) -> np.ndarray:
        rows = slice(0, self.n_stars, self._sampled.step)
        return as_float_array(self._load_pixels(name, rows), name)

    def _check_uncertainty(self) -> float:
        """Check the uncertainties of some stars; return their factor to the flux's units."""
        if self._uncertainty is None:
            return 1.0
        name, kind = self._uncertainty
        self._check_pixels(name)
        units = self._arrays.units
        scale = find_unit_factor(units.get(name), units.get(self._flux), kind, name)
        error = self._load_sampled(name)
        if not has_usable_errors(error, kind) and not self._has_usable_errors(name, kind):
            raise DataError(
                f"{name} as {kind} should hold usable errors, got none in any pixel of any star:"
                " nothing would have any weight; correct it, say another array, uncertainty=, or"
                " leave it out of the file."
            )
        self._doubt = check_bad_error(
            error, kind, name, scale=scale, bad_error=self._options.bad_error
        )
        return scale

    def _has_usable_errors(self, name: str, kind: str) -> bool:
        """Whether any star has, looked at some stars at a time."""
        starts = range(0, self.n_stars, _N_SAMPLED)
        parts = (self._load_pixels(name, slice(i, i + _N_SAMPLED)) for i in starts)
        return any(has_usable_errors(as_float_array(part, name), kind) for part in parts)

    def _check_pixels(self, name: str) -> None:
        """Refuse an array of another shape than the flux."""
        shape = self._arrays.find_shape(name)
        wanted = self._arrays.find_shape(self._flux)
        if shape != wanted:
            raise ShapeError(
                f"{name} should have the shape of the flux, {wanted}, got {shape}: store one for"
                " each pixel."
            )


@contextmanager
def noting(source: str) -> Iterator[None]:
    """Add to an error the name of the source that was read."""
    try:
        yield
    except SymspecError as error:
        error.add_note(f"This happened while reading {source}.")
        raise


def _check_shape(shape: tuple[int, ...], name: str, source: str) -> tuple[int, int]:
    if len(shape) == 2 and shape[0] == 0:
        raise FileFormatError(
            f"{source} should hold at least one star, got {name} of shape {shape}."
        )
    if len(shape) != 2 or shape[1] == 0:
        advice = "give at least one pixel" if len(shape) == 2 else "store one row a star"
        raise ShapeError(f"{name} should have shape (star, pixel), got {shape}: {advice}.")
    n_stars, n_pixels = shape
    return n_stars, n_pixels
