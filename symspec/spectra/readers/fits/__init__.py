"""Spectra in FITS files: one module a layout, all as named arrays."""
