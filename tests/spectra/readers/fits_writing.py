"""Spectra to be written as FITS files, and the writing."""

import gzip

import numpy as np
from astropy.io import fits

RNG = np.random.default_rng(0)
N_STARS, N_PIXELS = 6, 50
FLUX = (1 + RNG.normal(scale=0.1, size=(N_STARS, N_PIXELS))).astype(np.float32)
SIGMA = RNG.uniform(0.01, 0.1, size=(N_STARS, N_PIXELS)).astype(np.float32)
IVAR = SIGMA.astype(float) ** -2
WAVELENGTH = np.linspace(5000.0, 5100.0, N_PIXELS)
LABELS = RNG.normal(size=(N_STARS, 2))


def write(path, *hdus, compressed=False):
    primary = hdus[0] if isinstance(hdus[0], fits.PrimaryHDU) else fits.PrimaryHDU()
    content = fits.HDUList([primary, *(hdu for hdu in hdus if hdu is not primary)])
    content.writeto(path, overwrite=True)
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def image(data, name="", primary=False, **cards):
    hdu = (fits.PrimaryHDU if primary else fits.ImageHDU)(data)
    if name:
        hdu.name = name
    for card, value in cards.items():
        hdu.header[card.replace("_FLAG", "-FLAG")] = value
    return hdu
