"""FITS files of spectra: what all layouts of them share, as named arrays.

`file` reads the headers of files that may come from strangers, `headers` and `multispec` find
wavelengths in them, `images` and `tables` take arrays by the names of HDUs and columns, and `arms`
joins parts of spectra. `symspec.spectra.readers.layouts` knows the surveys' layouts, and
`symspec.read_spectra` is the way in.
"""
