"""A small file of spectra as StarNet has them, to be written as HDF5 or npz."""

import h5py
import numpy as np

N_STARS, N_PIXELS = 5, 7
FLUX = 1 + np.random.default_rng(1).normal(scale=0.1, size=(N_STARS, N_PIXELS))
SIGMA = np.random.default_rng(2).uniform(0.01, 0.1, size=(N_STARS, N_PIXELS))
WAVELENGTH = np.linspace(5000.0, 5006.0, N_PIXELS)
LABELS = np.random.default_rng(3).normal(size=(N_STARS, 3))
IDS = np.array([b"2M%02d" % i for i in range(N_STARS)])


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def write_npz(path, **arrays):
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def starnet(**replaced):
    arrays = {
        "spectrum": FLUX,
        "error_spectrum": SIGMA,
        "TEFF": LABELS[:, 0],
        "LOGG": LABELS[:, 1],
        "FE_H": LABELS[:, 2],
        "IDs": IDS,
    }
    return {name: array for name, array in {**arrays, **replaced}.items() if array is not None}
