"""Arrays with masks and units in every wrapping, and the functions that they are handed to.

NumPy drops both in silence. `find_fault` says what became of one: numbers in the right unit without
masked ones among them, or an error in words, are right.
"""

import warnings

import h5py
import numpy as np
import pandas as pd
import xarray as xr
from astropy import units as u
from astropy.nddata import CCDData, NDData, NDDataArray
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked

import symspec as ss
from symspec.errors import SymspecError
from symspec.safety.arrays import as_float_array

N_STARS, N_PIXELS = 3, 4
RNG = np.random.default_rng(0)
FLUX = RNG.uniform(0.5, 1.5, (N_STARS, N_PIXELS))
GRID = np.linspace(390.0, 690.0, N_PIXELS)  # nm
TEFF = RNG.uniform(4.0, 7.0, (N_STARS, 1))  # kK


class Pint:
    """A quantity as the package pint has it."""

    def __init__(self, values, units):
        self._values = values
        self._units = units

    magnitude = property(lambda self: self._values)
    units = property(lambda self: self._units)

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype=dtype)


class Dask:
    """An array that is computed when it is asked for."""

    def __init__(self, values):
        self._values = values

    def compute(self):
        return self._values

    def __array__(self, dtype=None, copy=None):
        return np.array(self._values, dtype=dtype)


def hold_in_hdf5(values, unit):
    """A dataset in a file in memory."""
    file = h5py.File.in_memory()
    file["x"] = values
    file["x"].attrs["units"] = unit
    return file["x"]


def list_masked(values):
    """Nested lists, with NumPy's constant where values are masked."""
    return [list(row) if row.ndim else row for row in values]


# wrappings of values whose first is masked
MASKED = {
    "numpy": lambda v, m: np.ma.masked_array(v, m),
    "astropy": lambda v, m: Masked(v, m),
    "quantity": lambda v, m: Masked(v, m) * u.dimensionless_unscaled,
    "list of rows": lambda v, m: [np.ma.masked_array(*one) for one in zip(v, m, strict=True)],
    "tuple of rows": lambda v, m: tuple(Masked(*one) for one in zip(v, m, strict=True)),
    "list of numbers": lambda v, m: list_masked(np.ma.masked_array(v, m)),
    "column": lambda v, m: MaskedColumn(v, mask=m),
    "nddata": lambda v, m: NDData(v, mask=m),
    "nddata array": lambda v, m: NDDataArray(v, mask=m),
    "dask": lambda v, m: Dask(np.ma.masked_array(v, m)),
    "object": lambda v, m: np.ma.masked_array(v, m).astype(object),
    "pandas": lambda v, m: pd.DataFrame(np.where(m, np.nan, v)).astype("Float64"),
}
# wrappings of values in a unit
UNITS = {
    "quantity": lambda v, unit: v * u.Unit(unit),
    "masked quantity": lambda v, unit: Masked(v, np.zeros(v.shape, bool)) * u.Unit(unit),
    "column": lambda v, unit: Column(v, unit=unit),
    "masked column": lambda v, unit: MaskedColumn(v, unit=unit),
    "list": lambda v, unit: [row * u.Unit(unit) for row in v],
    "nddata": lambda v, unit: NDData(v, unit=unit),
    "ccddata": lambda v, unit: CCDData(np.atleast_2d(v), unit=unit),
    "xarray": lambda v, unit: xr.DataArray(v, attrs={"units": unit}),
    "xarray of quantity": lambda v, unit: xr.DataArray(v * u.Unit(unit)),
    "dask": lambda v, unit: Dask(v * u.Unit(unit)),
    "hdf5": hold_in_hdf5,
    "pint": lambda v, unit: Pint(v, u.Unit(unit).to_string()),
}


def build_net(**options):
    return ss.Network([ss.Dense(1)], N_PIXELS, label_names=["TEFF"], label_units=["K"], **options)


def learn(Y):
    """Labels as they reach the objective, of a network that is constant: U is theirs alone."""
    reg = ss.Regression(build_net(), sigma_noise=1.0, prior_precision=1.0)
    return ss.compile_objective(reg)(np.zeros(reg.net.n_params), FLUX, Y)[0]


# what a function makes of it; and of plain numbers in the right unit
SINKS = {
    "flux": (lambda x: ss.Spectra(flux=x).flux, FLUX, "mJy", None),
    "ivar": (lambda x: ss.Spectra(flux=FLUX, ivar=x).ivar, FLUX, "1 / mJy2", None),
    "wavelength": (lambda x: ss.Spectra(flux=FLUX, wavelength=x).wavelength, GRID, "nm", 10.0),
    "wavelength of a network": (lambda x: build_net(wavelength=x).wavelength, GRID, "nm", 10.0),
    "labels": (
        lambda x: ss.Spectra(flux=FLUX, labels=x, label_units=["K"]).labels,
        TEFF,
        "kK",
        1000.0,
    ),
    "labels in no unit": (lambda x: ss.Spectra(flux=FLUX, labels=x).labels, TEFF, "kK", None),
    "labels of an objective": (learn, TEFF, "kK", 1000.0),
    "flux of a network": (
        lambda x: ss.compile_predict(build_net())(np.ones(N_PIXELS + 1), x),
        FLUX,
        "mJy",
        None,
    ),
    "mean": (lambda x: ss.Standardize(x, np.ones(N_PIXELS)).mean, GRID, "mJy", None),
    "any": (lambda x: as_float_array(x, "x"), FLUX, "erg / s", None),
}


def list_trials():
    """All trials: mask or unit, wrapping, function."""
    for sink in SINKS:
        yield from (("mask", wrapping, sink) for wrapping in MASKED)
        yield from (("unit", wrapping, sink) for wrapping in UNITS)


def find_fault(kind, wrapping, sink):
    """What went wrong, "" if nothing."""
    use, values, unit, factor = SINKS[sink]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "mask":
            mask = np.zeros(values.shape, bool)
            mask.flat[0] = True
            given = MASKED[wrapping](values, mask)
            expected = find_with_nan(use, np.where(mask, np.nan, values))
        else:
            given = UNITS[wrapping](values, unit)
            expected = None if factor is None else use(factor * values)
        try:
            found = use(given)
        except SymspecError as error:
            return "" if ", got" in str(error) else f"words: {error}"
        except Exception as error:  # whatever a library raises is the fault looked for
            return f"{type(error).__name__}: {error}"[:200]
    is_right = expected is not None and np.allclose(found, expected, rtol=1e-12, equal_nan=True)
    return "" if is_right else "dropped"


def find_with_nan(use, values):
    """What comes of NaN in place of masked values; None where that is refused."""
    try:
        return use(values)
    except SymspecError:
        return None
