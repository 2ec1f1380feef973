"""Figures and tables of a page, without any HTML: `parts` is what pages are made of.

Each function of `sample_figures`, `calibration_figures` and `derivative_figures` gives one figure:
pictures with their content in words, and the same numbers as a table. `samples` and `derivatives`
find these numbers.
"""
