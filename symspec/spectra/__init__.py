"""Spectra of many stars on one grid: pixels, wavelengths, resampling, stars to try things on.

`Spectra` holds flux (star, pixel), its inverse variance `ivar` (0: no information), wavelengths,
labels (star, label; NaN: missing), names, units and ids. `symspec.read_spectra` reads them from
files, `datasets` makes or loads some to try things on. A slice of stars is again `Spectra`.
`train`, `tune`, `fit_laplace` and `laplace.predict` take them whole.

>>> import numpy as np
>>> import symspec as ss
>>> stars = ss.datasets.generated_stars(5, n_pixels=100, rng=np.random.default_rng(0))
>>> stars[:2]
Spectra(2 stars, 100 pixels, ivar, wavelength in Angstrom, labels TEFF [K], LOGG [dex], FE_H [dex])

A network that knows its wavelengths, `Network(..., wavelength=)`, refuses spectra on others, and
those in air where its own are in vacuum (`wavelength_medium`). `resample` takes spectra to its grid
and medium, and to the rest frame of stars that move (`radial_velocity`). The prediction of the
result has the covariance that resampling leaves between pixels:

>>> grid = np.linspace(stars.wavelength[0], stars.wavelength[-1], 50)
>>> ss.resample(stars, grid).spectra.n_pixels
50

Pixels of ``ivar = 0`` in training spectra are filled before a network is trained: they get their
mean given the good pixels, as the other training spectra have it (`pixels.fill_training`). Arrays
come with ``ivar=`` beside them; NaN without it counts as missing, with a `MissingPixelsWarning`.
Errors of the flux that are correlated go into ``flux_covariance=``, see `covariances`.

The demonstration runs on 785 stars of the MILES library (`datasets.miles`): Sanchez-Blazquez et al.
2006, MNRAS 371, 703; Falcon-Barroso et al. 2011, A&A 532, A95; labels of Cenarro et al. 2007, MNRAS
374, 664. Please cite them if you use these stars.
"""

from symspec.spectra import datasets
from symspec.spectra.resampling import Resampled, resample
from symspec.spectra.spectra import Spectra

__all__ = ["Resampled", "Spectra", "datasets", "resample"]
