"""Spectra out of HDF5, npz, FITS and CSV files, and out of tables and spectra in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from symspec.errors import OptionError
from symspec.safety.array_files import open_array_file
from symspec.safety.file_formats import find_format
from symspec.safety.named_arrays import NamedArrays
from symspec.spectra.readers.csv import _hold_csv
from symspec.spectra.readers.fits import open_fits_spectra
from symspec.spectra.readers.folder import SpectraFolder
from symspec.spectra.readers.memory import arrange_object
from symspec.spectra.readers.spectra_file import ReadOptions, SpectraFile, noting
from symspec.spectra.spectra import Spectra


def read_spectra(
    source: Any,
    *,
    label_names: Sequence[str] | None = None,
    uncertainty: str | None = None,
    bad_error: float = 999.0,
    mask_bits: Sequence[int] | None = None,
    wavelength_unit: str | None = None,
    hdu: int | str | None = None,
    apstar: str = "combined",
) -> Spectra:
    r"""Read spectra, their uncertainties and their labels from a file, a table or spectra in memory.

    A file's format is told by its first bytes, not by its name:

    - HDF5 and npz hold, under these names in any case, `flux` or `spectrum`, `wavelength` (or
      `loglam`, its log10), `ids`, an uncertainty and a mask (below), and labels: either one array
      `labels` with `label_names` and `label_units`, or one array for each label. Of the latter
      `TEFF`, `LOGG` and `FE_H` (StarNet's, in K, dex, dex) are read unasked, others when
      `label_names` asks for them.
    - FITS, plain or packed by gzip: SDSS's apStar, aspcapStar, apVisit and BOSS coadds; images
      (pixel,) or (star, pixel) whose header holds a linear or logarithmic grid of wavelengths, with
      their uncertainty and mask in HDUs of the names below, and labels in a table of one row a
      star; tables of one spectrum, or of one pixel, a row, whose columns have these names.
    - CSV holds a header row, then one spectrum a row, without uncertainties; see
      `symspec.spectra.readers.csv.read_csv_spectra`.

    A folder is read as the stars of its files, one star a file, by name in order; it may hold other
    files, too, but all that are named as one of these formats (.fits, .fits.gz, .h5, .npz, .csv,
    ...) are taken.

    In memory: an astropy Table or QTable (columns as in a FITS table), and objects with `flux`,
    `spectral_axis`, `uncertainty` and `mask`, as specutils has them, or a list of such on one grid.

    An uncertainty becomes an inverse variance, ``ivar = 1 / var = 1 / std**2``, and what it is is
    never guessed: `error_spectrum` (StarNet's), `flux_error`, `sigma` and `std` are standard
    deviations, `var` and `variance` variances, `ivar` and `inverse_variance` inverse variances, and
    astropy's uncertainties say it themselves. Where the name does not tell (`err`, `uncertainty`,
    ...) the option `uncertainty` has to.

    A pixel gets ``ivar = 0``, no information, where flux is NaN, infinite or -9999, where the
    uncertainty is NaN, infinite, -9999, not above 0, or as a standard deviation `bad_error` or
    more, and where a mask (`mask`, `bad_pixel`, `bitmask`, `and_mask`) is True or has one of
    `mask_bits`. A negative inverse variance other than -9999 is an error, and so is a bad pixel
    where there are no uncertainties. Flux of -9999 becomes NaN. Labels of -9999 become NaN, which
    means missing.

    Wavelengths come out rising, flux and ivar in the same order. Vacuum and air wavelengths are not
    told apart.

    Parameters
    ----------
    source : path of a file or folder, astropy Table, or objects like those of specutils
        What to read.
    label_names : sequence of str, optional
        The labels to read, in this order. To an array `labels` that comes without names it gives
        them.
    uncertainty : {"std", "var", "ivar"}, optional
        What the uncertainty is, or which one to read if there are several.
    bad_error : float, default 999.0
        Standard deviations from here on are flags, not numbers, in the flux's units; ``numpy.inf``
        for none.
    mask_bits : sequence of int, optional
        Bits of a bitmask that mean a bad pixel, 0 being the lowest; ``()`` lets the mask not count.
        By default any, but in apStar and apVisit files (0, 1, 2, 3, 4, 5, 6, 7, 14): BADPIX, CRPIX,
        SATPIX, UNFIXABLE, BADDARK, BADFLAT, BADERR, NOSKY and NOT_ENOUGH_PSF of APOGEE_PIXMASK.
    wavelength_unit : str, optional
        Unit of the wavelengths, where the file does not state it; by default Angstrom.
    hdu : int or str, optional
        The HDU of a FITS file that holds the flux, by number or name; by default the first that
        can.
    apstar : {"combined", "combined_global", "visits", "all"}, default "combined"
        Which rows of an apStar file: the spectrum combined with a weight for each pixel, that
        combined with one weight for each visit, the single visits, or all of them.

    Returns
    -------
    Spectra
        All in float64: `flux` and `ivar` (star, pixel), `wavelength` (pixel,), `labels` (star,
        label), `ids` (star,); what is not there is None. One spectrum (pixel,) becomes (1, pixel).

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    FileFormatError
        When the file is empty, truncated, damaged, of another format, not to be read safely, or
        lacks the flux or a label asked for.
    DataError
        When what an uncertainty is cannot be told or is contradicted, or values are unusable.
    ShapeError
        When the arrays do not fit together.
    OptionError
        When an option is not understood.
    """
    options = {
        "label_names": label_names,
        "uncertainty": uncertainty,
        "bad_error": bad_error,
        "mask_bits": mask_bits,
    }
    with open_spectra(
        source, **options, wavelength_unit=wavelength_unit, hdu=hdu, apstar=apstar
    ) as file:
        return file.read()


@contextmanager
def open_spectra(source: Any, **options: Any) -> Iterator[SpectraFile | SpectraFolder]:
    """Open spectra, to read some stars at a time.

    Parameters
    ----------
    source : path, astropy Table, or objects like those of specutils
        As in `read_spectra`.
    **options
        As in `read_spectra`, each with the same default.

    Yields
    ------
    SpectraFile or SpectraFolder
        What there is (`n_stars`, `n_pixels`, `wavelength`, `label_names`, ...), and
        ``read(slice(start, stop))``, which gives those stars as `Spectra`. The rows of HDF5, FITS
        and npz files cost the memory of those rows; files packed by gzip, arrays compressed in npz,
        and CSV are held whole.

    Raises
    ------
    SymspecError
        As `read_spectra` does; what is wrong with rows is found when they are read.

    Examples
    --------
    >>> import numpy as np
    >>> np.savez("stars.npz", flux=np.ones((5, 100)))
    >>> with open_spectra("stars.npz") as file:
    ...     for start in range(0, file.n_stars, 2):
    ...         print(file.read(slice(start, start + 2)).n_stars)
    2
    2
    1
    """
    checked = ReadOptions(**options)
    is_path = isinstance(source, str | os.PathLike)
    if is_path and Path(source).is_dir():
        yield SpectraFolder(Path(source), partial(open_spectra, **options))
        return
    name = str(source) if is_path else f"a {type(source).__name__}"
    with ExitStack() as stack:
        with noting(name):
            arrays = (
                stack.enter_context(_open_file(Path(source), checked))
                if is_path
                else arrange_object(source)
            )
            file = SpectraFile(arrays, name, checked)
        yield file


@contextmanager
def _open_file(path: Path, options: ReadOptions) -> Iterator[NamedArrays]:
    file_format = find_format(path)
    if file_format in ("fits", "gzip"):
        words = {
            "hdu": options.hdu,
            "apstar": options.apstar,
            "is_unit_known": options.wavelength_unit is not None,
        }
        with open_fits_spectra(path, is_compressed=file_format == "gzip", **words) as arrays:
            yield arrays
    elif options.hdu is not None:
        raise OptionError(
            f"hdu={options.hdu!r} should go with a FITS file, got {file_format}: leave hdu out."
        )
    elif file_format == "csv":
        yield _hold_csv(path, options)
    else:
        with open_array_file(path, file_format) as arrays:
            yield arrays
