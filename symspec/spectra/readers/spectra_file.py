"""Named arrays as spectra: the part that each array has, and some stars of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from symspec.errors import DataError, FileFormatError, ShapeError, SymspecError
from symspec.safety.arrays import as_float_array, as_texts
from symspec.safety.checkpoint import hash_file
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.names import (
    IDS,
    LOG_WAVELENGTH,
    MASKS,
    WAVELENGTH,
    find_array,
    find_first_array,
    find_flux,
    find_uncertainty,
)
from symspec.spectra.pixels import as_nan, check_bad_error, find_bad_bits, find_ivar
from symspec.spectra.readers.labels import find_labels, load_labels, read_strings
from symspec.spectra.readers.options import ReadOptions
from symspec.spectra.spectra import Spectra, check_rows
from symspec.spectra.wavelengths import (
    DEFAULT_UNIT,
    find_pixel_order,
    find_unit_factor,
    is_same_unit,
    is_unit,
    parse_unit,
)

_N_SAMPLED = 16  # stars whose uncertainties are looked at before any is read


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
    label_names, label_units : tuple of str
        Names and units of the labels; empty without labels.
    has_ids : bool
        Whether the stars have names.
    has_uncertainty : bool
        Whether the flux has an uncertainty, which `read` turns into `Spectra.ivar`.
    """

    def __init__(
        self, arrays: NamedArrays, name: str, options: ReadOptions, path: Path | None = None
    ):
        self.name = name
        self._arrays = arrays
        self._options = options
        self._path = path
        self._flux = find_flux(arrays, name)
        shape = arrays.find_shape(self._flux)
        self._is_single = len(shape) == 1
        self.n_stars, self.n_pixels = _check_shape(
            (1, *shape) if self._is_single else shape, self._flux, name
        )
        self._labels = find_labels(arrays, options.label_names, self.n_stars, self._is_single, name)
        self.label_names = self._labels.names if self._labels else ()
        self.label_units = self._labels.units if self._labels else ()
        self._uncertainty = find_uncertainty(arrays, options.uncertainty)
        self.has_uncertainty = self._uncertainty is not None
        self._mask = self._find_mask()
        self._ids = self._find_ids()
        self.has_ids = self._ids is not None
        self._grid, self.wavelength, self._pixels = self._find_wavelength()
        self.wavelength_unit = self._find_wavelength_unit()
        self._scale = self._check_uncertainty()

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
            self._check_grid(rows)
            flux = as_nan(as_float_array(self._load_pixels(self._flux, rows), self._flux))
            labels = None
            if self._labels is not None:
                labels = load_labels(self._arrays, self._labels, rows, self._is_single)
            return Spectra(
                flux=flux,
                ivar=self._read_ivar(flux, rows),
                wavelength=self.wavelength,
                labels=labels,
                label_names=self.label_names,
                label_units=self.label_units,
                ids=self._read_ids(rows, len(flux)),
                wavelength_unit=self.wavelength_unit,
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
            return self._arrays.load(name)[None][rows, self._pixels]
        return self._arrays.load(name, rows)[:, self._pixels]

    def _read_ids(self, rows: slice, n_rows: int) -> np.ndarray | None:
        if self._ids is None:
            return None
        ids = np.atleast_1d(self._arrays.load(self._ids, rows))[:n_rows]
        return ids[:, 0] if ids.ndim == 2 else ids

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
            stored = self._arrays.load(name)[None, self._pixels]
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

    def _find_ids(self) -> str | None:
        if (name := find_first_array(self._arrays, IDS)) is None:
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

    def _find_wavelength(self) -> tuple[str | None, np.ndarray | None, slice]:
        """Find the array of wavelengths, the first star's, and the order in which they rise."""
        name = find_array(self._arrays, WAVELENGTH) or find_array(self._arrays, LOG_WAVELENGTH)
        if name is None:
            return None, None, slice(None)
        shape = self._arrays.find_shape(name)
        if shape[-1:] != (self.n_pixels,) or shape[:-1] not in ((), (1,), (self.n_stars,)):
            advice = "give one wavelength for each pixel of flux"
            if len(shape) == 2:
                advice = "all stars share one grid, so resample their spectra to one and give that"
            raise ShapeError(f"{name} should have shape ({self.n_pixels},), got {shape}: {advice}.")
        first = self._load_grid(name, slice(0, 1))[0]
        order = find_pixel_order(first, name)
        return name, first[order], order

    def _load_grid(self, name: str, rows: slice) -> np.ndarray:
        is_one = len(self._arrays.find_shape(name)) == 1
        stored = as_float_array(
            self._arrays.load(name) if is_one else self._arrays.load(name, rows), name
        )
        with np.errstate(over="ignore"):
            return np.atleast_2d(stored if name.lower() in WAVELENGTH else 10.0**stored)

    def _check_grid(self, rows: slice) -> None:
        """Refuse stars whose wavelengths are not those of the first."""
        if self._grid is None:
            return
        if self._arrays.find_shape(self._grid) != (self.n_stars, self.n_pixels):
            return  # one grid for all stars
        grids = self._load_grid(self._grid, rows)[:, self._pixels]
        if (other := (grids != self.wavelength).any(axis=1)).any():
            raise ShapeError(
                f"{self._grid} should be the same for all stars, got another grid for star"
                f" {rows.start + rows.step * int(np.argmax(other))} than for star 0: read the stars"
                " of each grid on their own, resample them to one (symspec.resample), and join"
                " them."
            )

    def _find_wavelength_unit(self) -> str:
        strings = read_strings(self._arrays, "wavelength_unit")
        stated = strings[0] if strings else None
        # a logarithm has no unit
        if stated is None and self._grid is not None and self._grid.lower() in WAVELENGTH:
            stated = self._arrays.units.get(self._grid)
        said = self._options.wavelength_unit
        if not stated or (said is not None and not is_unit(stated)):
            return parse_unit(said or DEFAULT_UNIT)
        if said is not None and not is_same_unit(said, stated):
            raise DataError(
                f"wavelength_unit={said!r} should agree with the file, got {stated!r} there: leave"
                " wavelength_unit out."
            )
        return parse_unit(stated)

    def _check_uncertainty(self) -> float:
        """Check the uncertainties of some stars; return their factor to the flux's units."""
        if self._uncertainty is None:
            return 1.0
        name, kind = self._uncertainty
        self._check_pixels(name)
        units = self._arrays.units
        scale = find_unit_factor(units.get(name), units.get(self._flux), kind, name)
        sampled = slice(0, self.n_stars, -(-self.n_stars // _N_SAMPLED))
        error = as_float_array(self._load_pixels(name, sampled), name)
        check_bad_error(error, kind, name, scale=scale, bad_error=self._options.bad_error)
        return scale

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
