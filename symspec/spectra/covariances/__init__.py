"""Covariances of flux whose errors are correlated from pixel to pixel: one file a form.

`laplace.predict(X, flux_covariance=...)` and `Spectra(flux_covariance=...)` take them, of one star
each or of all stars alike: a dense array (pixel, pixel) or (star, pixel, pixel), a
`BandedCovariance`, or a `LowRankCovariance`. Only the dense one takes memory that grows with the
square of the number of pixels. `factors` describes the covariance of training spectra themselves,
by which missing pixels are filled.

>>> import numpy as np
>>> from symspec.spectra.covariances import BandedCovariance
>>> covariance = BandedCovariance([[4.0, 4.0, 4.0], [1.0, 1.0, 0.0]])  # diagonal, and below it
>>> J = np.array([[[1.0, -1.0, 2.0]]])  # of one label of one star
>>> covariance.propagate(J)
array([[[18.]]])
"""

from symspec.spectra.covariances.banded import BandedCovariance
from symspec.spectra.covariances.dense import DenseCovariance
from symspec.spectra.covariances.interface import FluxCovariance
from symspec.spectra.covariances.low_rank import LowRankCovariance

__all__ = ["BandedCovariance", "DenseCovariance", "FluxCovariance", "LowRankCovariance"]
