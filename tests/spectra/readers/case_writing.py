"""A file of a layout to be written, and what has to come back of it."""

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits
from fits_writing import write


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is written, and what has to come back."""

    hdus: list
    flux: np.ndarray
    ivar: np.ndarray | None
    wavelength: np.ndarray
    unit: str = "Angstrom"
    medium: str | None = "vacuum"
    layout: str = ""
    options: dict = field(default_factory=dict)
    ids: list | None = None

    def write(self, folder):
        return write(folder / "x.fits", *self.hdus)


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    flux = 1 + 0.1 * rng.normal(size=shape)
    ivar = rng.uniform(100, 400, size=shape)
    return flux, ivar


def table(columns, name="", units=None, cards=None):
    made = [
        fits.Column(name=column, format=form, array=array, unit=(units or {}).get(column))
        for column, (form, array) in columns.items()
    ]
    hdu = fits.BinTableHDU.from_columns(made, name=name)
    for card, value in (cards or {}).items():
        hdu.header[card] = value
    return hdu
