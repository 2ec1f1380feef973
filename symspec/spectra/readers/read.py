"""Spectra from files and folders of any format, and from tables and spectra in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from symspec.errors import OptionError
from symspec.safety.named_arrays import Contents
from symspec.spectra.grids import Pixels
from symspec.spectra.readers.folder import SpectraFolder
from symspec.spectra.readers.formats import open_arrays
from symspec.spectra.readers.labelled import LabelledSpectra
from symspec.spectra.readers.memory import arrange_object
from symspec.spectra.readers.options import OF_LABELS, ReadOptions
from symspec.spectra.readers.spectra_file import SpectraFile, noting
from symspec.spectra.spectra import Spectra


class SpectraSource(Pixels, Protocol):
    """Spectra that can be read some stars at a time: of a file, of a folder, or in memory."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def n_stars(self) -> int:
        """Number of stars."""

    @property
    def contents(self) -> Contents:
        """Layout, and where all lies in the file."""

    def read(self, rows: slice = slice(None)) -> Spectra:
        """Read some stars."""

    def read_ids(self) -> np.ndarray | None:
        """Names of all stars."""

    def identity(self) -> dict[str, str | None]:
        """Strings that differ if the spectra do: digests, and options of reading a file."""


def read_spectra(
    source: Any,
    *,
    label_names: Sequence[str] | None = None,
    uncertainty: str | None = None,
    bad_error: float = 999.0,
    mask_bits: Sequence[int] | None = None,
    wavelength_unit: str | None = None,
    wavelength_medium: str | None = None,
    flux: str | None = None,
    wavelength: str | None = None,
    hdu: int | str | None = None,
    arm: str | int | None = None,
    group: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    orientation: str | None = None,
    encoding: str = "utf-8",
    sheet: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    apstar: str = "combined",
    label_errors: str = "auto",
    missing_label_error: str = "refuse",
) -> Spectra:
    r"""Read spectra, with uncertainties and labels, from a file, a folder, a table or memory.

    A file's format is recognised by its first bytes, not by its name:

    - HDF5 and npz hold, under these names in any case, `flux` or `spectrum`, `wavelength` (or
      `loglam`, its log10), `ids`, an uncertainty and a mask (below), and labels: either one array
      `labels` with `label_names` and `label_units`, or one array for each label. Of the latter
      `TEFF`, `LOGG` and `FE_H` (StarNet's, in K, dex, dex) are read unasked, others when
      `label_names` asks for them.
    - FITS, plain or packed by gzip, in the layouts of `symspec.spectra.readers.layouts`: SDSS's
      apStar, aspcapStar, apVisit, BOSS coadds, mwmStar and mwmVisit; DESI, LAMOST, X-shooter and
      ESO's phase 3; IRAF's bands and multispec orders; tables of orders. Else images (pixel,) or
      (star, pixel) whose header holds a linear or logarithmic grid of wavelengths, with their
      uncertainty and mask in HDUs of the names below, and labels in a table of one row a star; or
      tables of one spectrum, or of one pixel, a row, whose columns have these names.
    - CSV and its kin, and Excel (which takes the extra ``chemistry``), hold a header row, then one
      spectrum a row, or wavelengths in the first column, then one spectrum a column. Headers of
      pixels are numbers, ``900 nm``, ``4000 cm-1``, or numbers with one text before or after,
      ``X900``. Columns of numbers are labels, unless they are called id, sample, group, date or
      alike. NA and empty cells are missing. Separators, decimal commas and the place of the header
      are found, and asked for where a table may be read in several ways.
    - JCAMP-DX (extra ``chemistry``): one spectrum a file.

    A folder is read as the stars of its files, one star a file, sorted by name. Files are taken if
    their suffix is that of a format (.fits, .fits.gz, .h5, .npz, .csv, .jdx, ...), or if there are
    none such, .txt, .dpt, .asc, .tsv, .dat and .prn.

    In memory: an astropy Table or QTable (columns as in a FITS table), and objects with `flux`,
    `spectral_axis`, `uncertainty` and `mask`, as specutils has them, or a list of such on one grid.

    An uncertainty becomes an inverse variance, ``ivar = 1 / var = 1 / std**2``. Its kind is never
    guessed: `error_spectrum` (StarNet's), `flux_error`, `sigma` and `std` are standard deviations,
    `var` and `variance` variances, `ivar` and `inverse_variance` inverse variances, and astropy's
    uncertainties state it. Names such as `err` and `uncertainty` are ambiguous, and need the option
    `uncertainty`.

    A pixel gets ``ivar = 0``, no information, where flux is NaN, infinite or -9999, where the
    uncertainty is NaN, infinite, -9999, not above 0, or as a standard deviation `bad_error` or
    more, and where a mask (`mask`, `bad_pixel`, `bitmask`, `and_mask`) is True or has one of
    `mask_bits`. A negative inverse variance other than -9999 is an error, and so is a bad pixel
    where there are no uncertainties. Flux of -9999 becomes NaN. Labels of -9999 become NaN, which
    means missing.

    Wavelengths come out rising, flux and ivar in the same order. Where files hold logarithms
    (``dex(Angstrom)``, ``ln(Angstrom)``), metres, wavenumbers, frequencies or energies, they become
    wavelengths in Angstrom. Without a unit they are taken for Angstrom between 1,000 and 1,000,000,
    and asked for otherwise. Whether they are of air or of vacuum is kept where it is known.

    Numbers that go from pixel to pixel as wavelengths do are not taken for flux, whatever they are
    called. What a file holds besides is named in an `UnusedDataWarning`, and in `symspec info`.

    Parameters
    ----------
    source : path of a file or folder, astropy Table, or objects like those of specutils
    label_names : sequence of str, optional
        The labels to read, in this order, or the names for an array `labels` without names.
    uncertainty : {"std", "var", "ivar"}, optional
        Kind of the uncertainty, or the one to read among several; "std:NAME" with the name of its
        array, column or HDU.
    bad_error : float, default 999.0
        Standard deviations from here on are flags, not numbers, in the flux's units; ``numpy.inf``
        for none. A warning gives the number of those that may be numbers.
    mask_bits : sequence of int, optional
        Bits of a bitmask that mean a bad pixel, 0 being the lowest; ``()`` lets the mask not count.
        By default any, but in apStar and apVisit files (0, 1, 2, 3, 4, 5, 6, 7, 14): BADPIX, CRPIX,
        SATPIX, UNFIXABLE, BADDARK, BADFLAT, BADERR, NOSKY and NOT_ENOUGH_PSF of APOGEE_PIXMASK.
    wavelength_unit : str, optional
        Unit of the wavelengths if the file does not state it, also "cm-1", "eV", "Hz",
        "dex(Angstrom)" or "ln(Angstrom)"; by default Angstrom. Tables whose wavelengths may as well
        be in nm or cm-1 have to say it.
    wavelength_medium : {"air", "vacuum"}, optional
        Of what they are, if the file does not say it.
    flux, wavelength : str, optional
        Names of the array, column or HDU that holds them, if those of the file do not tell. No
        survey's layout is recognised then. In a table of one spectrum a row `flux` is the text that
        the headers of pixels have beside their numbers, such as "X".
    hdu : int or str, optional
        The HDU of a FITS file that holds the flux, by number or name; by default the first that
        can.
    arm : str or int, optional
        Arms or orders to take, such as "B" or "B,R" of DESI, 57 of echelle orders; by default all,
        joined to one spectrum. Those that overlap have to share their pixels.
    group : str, optional
        The column or array that says which spectra are of one sample, so that they are never
        parted; by default one called group or groups.
    separator : {"comma", "semicolon", "tab", "space"}, optional
        What separates the cells of a table in text, or the sign itself; by default found.
    decimal : {".", ","}, optional
        What stands before the decimals in a table; by default found.
    orientation : {"rows", "columns"}, optional
        Whether a table holds one spectrum a row or a column; by default found.
    encoding : str, default "utf-8"
        That of text, such as "cp1252".
    sheet : str, optional
        The sheet of an Excel file that holds the spectra, if there are several.
    labels : path, optional
        A table in text, of a column of names and columns of labels, for spectra that come without,
        such as files of two columns in a folder. A name is that of a spectrum, or of its file.
    apstar : {"combined", "combined_global", "visits", "all"}, default "combined"
        Which rows of an apStar file: the spectrum combined with a weight for each pixel, that
        combined with one weight for each visit, the single visits, or all of them.
    label_errors : {"auto", "none"}
        Whether standard deviations of the labels' errors are read: for a label TEFF those called
        TEFF_ERR, TEFF_ERROR, E_TEFF, ERR_TEFF, SIGMA_TEFF, TEFF_SIGMA or TEFF_STD in any case, or
        arrays `label_errors` (star, label) or `label_covariance` (star, label, label) beside
        `labels`.
    missing_label_error : {"refuse", "infer"}
        What an error means that is missing (-9999, NaN) where its label is there, see `Spectra`.

    Returns
    -------
    Spectra
        All in float64: `flux` and `ivar` (star, pixel), `wavelength` (pixel,), `labels` (star,
        label), `ids` (star,); None if not there. One spectrum (pixel,) becomes (1, pixel).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileFormatError
        The file is empty, truncated, damaged, unsafe, of another format, or lacks the flux or a
        label asked for.
    DataError
        The kind of an uncertainty is ambiguous or contradicted, or values are unusable.
    ShapeError
        The arrays do not fit together.
    OptionError
        An option is not one of those understood.

    Warns
    -----
    UnusedDataWarning
        The file holds arrays, HDUs or columns that were not read.
    ValuesDroppedWarning
        Errors beyond `bad_error` may be numbers rather than flags.
    AssumedUnitWarning
        Wavelengths of a table have no unit, and were taken for Angstrom.
    """
    with open_spectra(
        source,
        label_names=label_names,
        uncertainty=uncertainty,
        bad_error=bad_error,
        mask_bits=mask_bits,
        wavelength_unit=wavelength_unit,
        wavelength_medium=wavelength_medium,
        flux=flux,
        wavelength=wavelength,
        hdu=hdu,
        arm=arm,
        group=group,
        separator=separator,
        decimal=decimal,
        orientation=orientation,
        encoding=encoding,
        sheet=sheet,
        labels=labels,
        apstar=apstar,
        label_errors=label_errors,
        missing_label_error=missing_label_error,
    ) as file:
        return file.read()


@contextmanager
def open_spectra(
    source: Any, **options: Any
) -> Iterator[SpectraFile | SpectraFolder | LabelledSpectra | Spectra]:
    """Open spectra, to read some stars at a time.

    Parameters
    ----------
    source : path, astropy Table, or objects like those of specutils
        As in `read_spectra`; or `Spectra`, which are passed on as they are.
    **options
        As in `read_spectra`, each with the same default.

    Yields
    ------
    SpectraFile, SpectraFolder, LabelledSpectra or Spectra
        `n_stars`, `n_pixels`, `wavelength`, `label_names`, ..., and ``read(slice(start, stop))``,
        which gives those stars as `Spectra`. Rows of HDF5, FITS and npz files cost the memory of
        those rows; files packed by gzip, arrays compressed in npz, and CSV are held whole.

    Raises
    ------
    OptionError
        Options are given for `Spectra`.
    SymspecError
        As `read_spectra`; bad values are found when their rows are read.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec
    >>> source = symspec.datasets.generated_stars(5, n_pixels=9, rng=np.random.default_rng(0))
    >>> with symspec.open_spectra(source) as file:  # or a path, such as "stars.h5"
    ...     for start in range(0, file.n_stars, 2):
    ...         print(file.read(slice(start, start + 2)).n_stars)
    2
    2
    1
    """
    if isinstance(source, Spectra):
        _refuse_options(options)
        yield source
        return
    checked = ReadOptions.parse(options)
    if checked.labels is not None:
        inner = {name: value for name, value in options.items() if name not in OF_LABELS}
        with open_spectra(source, **inner) as file:
            yield LabelledSpectra(file, Path(checked.labels), checked)
        return
    if not isinstance(source, str | os.PathLike):
        name = f"a {type(source).__name__}"
        with noting(name):
            file = SpectraFile(arrange_object(source), name, checked)
        file.warn()
        yield file
    elif Path(source).is_dir():
        yield SpectraFolder(Path(source), checked, open_file)
    else:
        with open_file(Path(source), checked) as file:
            file.warn()
            yield file


@contextmanager
def open_file(path: Path, options: ReadOptions) -> Iterator[SpectraFile]:
    """Open a file of spectra of any format."""
    with ExitStack() as stack:
        with noting(str(path)):
            arrays = stack.enter_context(open_arrays(path, options))
            file = SpectraFile(arrays, str(path), options, path=path)
        yield file


def _refuse_options(options: Mapping[str, Any]) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise OptionError(
            f"{given[0]} should go with a file or table to be read, got Spectra: leave it out."
        )
