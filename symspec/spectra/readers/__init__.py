"""Readers of spectra: one file a format, one contract: named arrays.

`read_spectra(path)` reads a file or folder whole; `open_spectra(path)` opens it to read some stars
at a time. Both take HDF5, npz, FITS (`symspec.spectra.readers.layouts`; .gz too), CSV, Excel and
JCAMP-DX (`symspec.spectra.readers.tables`), astropy Tables and specutils spectra in memory, and
folders of such files with one star each. The content of a file decides what it is, not its name.
`help(symspec.read_spectra)` lists the names of arrays.

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(5, n_pixels=100, rng=np.random.default_rng(0))
>>> np.savez("stars.npz", flux=stars.flux, err=stars.ivar**-0.5, wavelength=stars.wavelength)
>>> ss.read_spectra("stars.npz", uncertainty="std")
Spectra(5 stars, 100 pixels, ivar, wavelength in Angstrom, no labels)

- Uncertainties: the file has to say what they are, or you have to. A column called `ivar` or
  `flux_var` says it; one called `err` may hold anything, and nobody but you can tell:
  ``uncertainty="std"``, ``"var"`` or ``"ivar"`` (`--uncertainty std` on the command line).
- Bad pixels get ``ivar = 0``: flux or uncertainty not finite or -9999, a standard deviation of
  `bad_error` (999) or more, a mask that is set. ``mask_bits=(0, 1, 14)`` names the bits that count,
  ``mask_bits=()`` lets the mask not count, ``bad_error=numpy.inf`` keeps large errors. On the
  command line: `--read mask_bits=0,1,14`.
- Wavelengths: ``wavelength_unit="nm"`` where the file does not say so, ``"dex(Angstrom)"`` for
  logarithms. If a network is on "other wavelengths" or of the other medium still,
  `symspec.resample` (`--resample flux_conserving`) takes the spectra there, and to the rest frame.
- Layouts: `symspec info FILE` says which one was recognised, what comes from where, and what is not
  read. Else say it: ``hdu=``, ``flux="NAME"``, ``wavelength="NAME"``, ``uncertainty="std:NAME"``;
  ``arm="B"`` takes one of several arms or orders.
- Tables, CSV and its kin as spectrometers, spreadsheets and R write them: commas, semicolons, tabs
  or blanks; decimal points or commas; headers such as ``900``, ``900 nm``, ``4000 cm-1``, ``X900``;
  one spectrum a row or a column; lines before the table. What may be read in two ways is asked for:
  ``separator=``, ``decimal=``, ``orientation=``, ``flux="X"``, ``wavelength_unit=``. Columns of
  numbers are labels, unless they name samples. Rows of one sample, by ``group="COLUMN"`` or else by
  equal names, stay together where stars are set aside. Excel and JCAMP-DX take the extra
  ``chemistry``.
- Labels of -9999 are missing (NaN). ``label_names=["TEFF", "LOGG"]`` picks labels and their order.
"""

from symspec.spectra.readers.read import open_spectra, read_spectra

__all__ = ["open_spectra", "read_spectra"]
