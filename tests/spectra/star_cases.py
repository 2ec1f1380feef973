"""Stars to compute lines of, and the width of one line in them."""

import numpy as np

from symspec.spectra.line_list import LINE_WAVELENGTH, equivalent_widths

SUN = np.array([[5772.0, 4.44, 0.0]])
CASES = {
    "sun": [5772.0, 4.44, 0.0],
    "cool giant": [4200.0, 1.2, -0.3],
    "metal-poor turn-off": [6400.0, 4.1, -1.9],
    "hot dwarf": [7400.0, 4.3, 0.4],
}


def width_of(wavelength, labels):
    nearest = np.argmin(np.abs(LINE_WAVELENGTH - wavelength))
    assert abs(LINE_WAVELENGTH[nearest] - wavelength) < 0.02
    return equivalent_widths(np.atleast_2d(labels))[0][:, nearest]
