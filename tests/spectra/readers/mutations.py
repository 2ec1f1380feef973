"""Files of known layouts with something missing, renamed or moved, and what may be read of them.

A mutated file is refused in words, or read right: the flux of the whole file or of one of its arms,
orders or rows, on their wavelengths or on none, with their ivar, with that before masks, or none.
"""

import copy
import warnings

import numpy as np
from astropy.io import fits
from fits_writing import write
from layout_cases import CASES

from symspec.errors import SymspecError
from symspec.spectra.readers.read import read_spectra

KINDS = (
    "drop an HDU",
    "rename an HDU",
    "move an HDU",
    "drop a column",
    "rename a column",
    "drop a card",
    "drop cards of a grid",
)
GRID_CARDS = (
    "CRVAL1",
    "CDELT1",
    "CD1_1",
    "COEFF0",
    "CRVAL",
    "CDELT",
    "CTYPE1",
    "CTYPE",
    "CUNIT1",
    "CUNIT",
    "DC-FLAG",
    "WAT1_001",
    "WAT0_001",
    "TELESCOP",
    "INSTRUME",
    "BANDID1",
    "TUTYP1",
    "TUCD1",
    "TUNIT1",
    "BUNIT",
    "WAT2_001",
    "WAT2_002",
    "CRPIX1",
)


def mutate(hdus, kind, rng):
    """The HDUs of a file after one change, or None where there is nothing to change."""
    hdus = copy.deepcopy(hdus)
    extensions = [i for i, hdu in enumerate(hdus) if not isinstance(hdu, fits.PrimaryHDU)]
    tables = [i for i in extensions if isinstance(hdus[i], fits.BinTableHDU)]
    if kind.endswith("HDU"):
        if not extensions:
            return None
        at = int(rng.choice(extensions))
        if kind == "drop an HDU":
            del hdus[at]
        elif kind == "rename an HDU":
            hdus[at].name = "OTHER"
        else:
            hdus.insert(int(rng.choice(extensions)), hdus.pop(at))
        return hdus or None
    if kind.endswith("column"):
        if not tables:
            return None
        at = int(rng.choice(tables))
        columns = hdus[at].columns
        name = str(rng.choice(columns.names))
        if kind == "rename a column":
            columns.change_name(name, "OTHER")
            return hdus
        header = hdus[at].header
        kept = {card: header[card] for card in header if card in GRID_CARDS and card[0] != "T"}
        hdus[at] = fits.BinTableHDU.from_columns([c for c in columns if c.name != name])
        hdus[at].header.update(kept)
        return hdus
    present = [(i, c) for i, hdu in enumerate(hdus) for c in GRID_CARDS if c in hdu.header]
    if not present:
        return None
    n_dropped = 1 if kind == "drop a card" else min(3, len(present))
    for i in rng.choice(len(present), n_dropped, replace=False):
        at, card = present[i]
        hdus[at].header.remove(card, ignore_missing=True)
    return hdus


def is_right(spectra, case):
    """Whether all that was read is what the unchanged file holds at these pixels."""
    places = _find_places(spectra, case)
    if places is None:
        return False
    rows, pixels = places
    order = np.argsort(case.wavelength)
    if spectra.wavelength is not None:
        factor = {"nm": 10.0, "Angstrom": 1.0}
        expected = case.wavelength[order][pixels] * factor[case.unit]
        found = spectra.wavelength * factor[spectra.wavelength_unit]
        if not np.allclose(found, expected, rtol=1e-12, atol=0):
            return False
    if spectra.ivar is None or case.ivar is None:
        return spectra.ivar is None
    expected = case.ivar[:, order][np.ix_(rows, pixels)]
    is_same = np.isclose(spectra.ivar, expected, rtol=1e-12)
    return bool((is_same | (expected == 0)).all())  # a mask may be what was dropped


def try_mutation(name, kind, rng, folder):
    """ "refused", "right" or "wrong", or None where there was nothing to change."""
    case = CASES[name]()
    hdus = mutate(case.hdus, kind, rng)
    if hdus is None:
        return None
    path = write(folder / "x.fits", *hdus)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spectra = read_spectra(path, **case.options)
        except SymspecError:
            return "refused"
    return "right" if is_right(spectra, case) else "wrong"


def _find_places(spectra, case):
    """Rows and pixels of the unchanged file whose flux was read, or None."""
    order = np.argsort(case.wavelength)
    flux = case.flux[:, order]
    rows = []
    pixels = None
    for found in spectra.flux:
        hit = _find_row(found, flux)
        if hit is None:
            return None
        rows.append(hit[0])
        pixels = hit[1]
    return rows, pixels


def _find_row(found, flux):
    for row, values in enumerate(flux):
        at = np.flatnonzero(np.isclose(values, found[0], rtol=1e-12, atol=0))
        for first in at:
            pixels = np.arange(first, first + found.size)
            if pixels[-1] < values.size and np.allclose(values[pixels], found, rtol=1e-12, atol=0):
                return row, pixels
    return None
