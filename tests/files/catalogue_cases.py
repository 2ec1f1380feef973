"""Predictions to be written as catalogues, and readers of every format."""

from dataclasses import replace

import numpy as np
import xarray as xr
from astropy.table import Table

from symspec.laplace.flags import FlagOptions
from symspec.laplace.prediction import Prediction

N, NAMES, UNITS = 4, ("Teff", "log g", "[Fe/H]"), ("K", "dex", "log(Sun)")
COLUMNS = ["TEFF", "LOG_G", "FE_H"]
SUFFIXES = [".fits", ".fit", ".fits.gz", ".ecsv", ".h5", ".hdf5"]
ALL = [*SUFFIXES, ".nc"]
PARTS = {"": "total_cov", "MODEL_": "model_cov", "FLUX_": "flux_cov", "NOISE_": "noise_cov"}


def build_prediction(*, flux_errors=True, names=NAMES, units=UNITS):
    rng, C = np.random.default_rng(5), len(names)

    def covariances():
        A = rng.normal(size=(N, C, C + 1)) * np.array([80.0, 0.2, 0.05])[:C, None]
        return np.einsum("nik,njk->nij", A, A)

    model, flux, noise = covariances(), covariances() * flux_errors, covariances()
    model[2, 0, 0] = np.nan  # a star that failed
    labels = rng.normal(size=(N, C)) + np.array([4800.0, 2.5, -0.3])[:C]
    labels[2] = np.nan
    flags, n_bad = np.array([0, 2, 1, 12], np.int32), np.array([0, 0, 0, 17])
    return Prediction(
        labels=labels,
        model_cov=model,
        flux_cov=flux,
        noise_cov=noise,
        total_cov=model + flux + noise,
        flags=flags,
        n_bad_pixels=n_bad,
        has_flux_errors=flux_errors,
        label_names=names,
        label_units=units,
    )


def read_table(path):
    if path.name.endswith((".h5", ".hdf5")):
        return Table.read(path, character_as_bytes=False)
    return Table.read(path)


def values(column):
    """NaN where astropy masks NaN."""
    return np.ma.filled(column, np.nan) if np.ma.isMaskedArray(column) else np.asarray(column)


def read_columns(path):
    """Columns by name as plain arrays."""
    if path.suffix != ".nc":
        table = read_table(path)
        return {name: values(table[name]) for name in table.colnames}
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return {"ID": dataset["star"].values} | {
            name: v.values for name, v in dataset.data_vars.items()
        }


def build_flagged():
    """A prediction with all that one may carry."""
    label_flags = np.array([[0, 64, 0], [2, 0, 0], [1, 1, 1], [0, 0, 0]], np.int32)
    known = {
        "snr": np.array([100.0, 12.5, np.nan, 40.0]),
        "flux_distance": np.array([0.3, 1.9, np.inf, np.nan]),
    }
    return replace(
        build_prediction(), label_flags=label_flags, flag_options=FlagOptions(min_snr=15), **known
    )
