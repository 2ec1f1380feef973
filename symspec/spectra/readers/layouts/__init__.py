"""Layouts of FITS files of spectra: one module for each survey, pipeline or program.

Each module has two functions: whether an open file has its layout, told by what marks it, and what
is taken from where. `recognise` asks them in turn, and takes images and tables by the names of
their HDUs and columns if none of them knows the file. `symspec info` shows the answer.
"""
