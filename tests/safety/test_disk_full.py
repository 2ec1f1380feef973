"""A disk that is full leaves no part of a file, and ends no process."""

import resource

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from conftest import build_problem

from symspec import write_catalogue, write_network
from symspec.errors import DiskFullError
from symspec.files.stored.archive import create_archive, write_array
from symspec.laplace.prediction import Prediction
from symspec.reports.star_tables import write_draws, write_star_table

STEPS = 25


def predict(n_stars):
    covariance = np.tile(np.eye(2), (n_stars, 1, 1))
    return Prediction(
        labels=np.ones((n_stars, 2)),
        model_cov=covariance,
        flux_cov=covariance,
        noise_cov=covariance,
        total_cov=3 * covariance,
        flags=np.zeros(n_stars, int),
        n_bad_pixels=np.zeros(n_stars, int),
        has_flux_errors=True,
        label_flags=np.zeros((n_stars, 2), int),
        label_names=("TEFF", "LOGG"),
        label_units=("K", "dex"),
    )


def write_arrays(path):
    with create_archive(path, "symspec test", overwrite=False) as file:
        for i in range(20):
            write_array(file, f"group/{i}", np.full((30, 10), float(i)))


def write_problem(path):
    p = build_problem("tanh-2-hidden-3-labels-full-noise-missing")
    write_network(path, p.net, p.theta, reg=p.reg)


def write_tree(path):
    arrays = xr.Dataset({"theta": (("chain", "draw"), np.ones((4, 1000)))})
    write_draws(path, xr.DataTree.from_dict({"posterior": arrays, "sample_stats": arrays}))


WRITERS = {
    "archive.h5": write_arrays,
    "network.h5": write_problem,
    "catalogue.fits": lambda path: write_catalogue(path, predict(50)),
    "catalogue.fits.gz": lambda path: write_catalogue(path, predict(50)),
    "catalogue.ecsv": lambda path: write_catalogue(path, predict(50)),
    "catalogue.h5": lambda path: write_catalogue(path, predict(50)),
    "catalogue.nc": lambda path: write_catalogue(path, predict(50)),
    "draws.nc": write_tree,
    "table.csv": lambda path: write_star_table(path, {"X": np.arange(9000)}, None, {}),
}


@pytest.fixture
def limit():
    """Let no file of this process grow beyond some bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_is_whole_or_absent(tmp_path, limit, name):
    write = WRITERS[name]
    path = tmp_path / name
    write(path)
    expected = path.read_bytes()
    path.unlink()
    for size in np.linspace(1, len(expected) - 1, STEPS).astype(int).tolist():
        limit(size)
        with pytest.raises(DiskFullError, match=rf"{name} should fit on its disk.* bytes are free"):
            write(path)
        limit(resource.RLIM_INFINITY)
        assert list(tmp_path.iterdir()) == []
    limit(len(expected))
    write(path)
    assert path.read_bytes() == expected


def test_an_archive_written_through_the_stream_is_plain_hdf5(tmp_path):
    write_arrays(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["group/7"][()].tolist() == [[7.0] * 10] * 30


def test_a_table_of_astropy_is_read_back(tmp_path):
    write_catalogue(tmp_path / "x.h5", predict(5))
    assert Table.read(tmp_path / "x.h5", path="catalogue")["TEFF"].tolist() == [1.0] * 5
