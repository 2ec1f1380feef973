"""Spectra in FITS files: one module a layout, all as named arrays.

`file` reads the headers of files that may come from strangers, `headers` finds wavelengths in them,
`layouts` tells by them what a file is, and `apstar`, `apvisit`, `images` and `tables` read one kind
each. `symspec.read_spectra` is the way in.
"""
