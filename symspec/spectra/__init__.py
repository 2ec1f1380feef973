"""Spectra of many stars on one grid: pixels, wavelengths, resampling, stars to try things on."""

from symspec.spectra import datasets
from symspec.spectra.resampling import Resampled, resample
from symspec.spectra.spectra import Spectra

__all__ = ["Resampled", "Spectra", "datasets", "resample"]
