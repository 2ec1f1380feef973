"""What is sent to workers, and what they are told of files; no cluster is needed."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import symspec as ss
from symspec.errors import DivergedError, MissingDependencyError
from symspec.spectra.readers.shared_file import SharedFile
from symspec.workers import open_workers, versions
from symspec.workers.interface import Task


def write_stars(path, flux):
    with h5py.File(path, "w") as file:
        file["flux"] = flux
        file["wavelength"] = np.linspace(5150, 5300, flux.shape[1])


def test_this_process_is_the_worker_by_default():
    task = Task(read=abs, prepare=lambda x: 10 * x, find=str)
    with open_workers() as workers, open_workers(workers) as same:
        assert same is workers
        assert list(workers.map(task, [-1, -2, -3])) == [(0, "10"), (1, "20"), (2, "30")]


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "symspec.workers.cluster", None)
    with (
        pytest.raises(MissingDependencyError, match=r'pip install "symspec\[dask\]"'),
        open_workers("local"),
    ):
        pass


def test_a_shared_file_is_read_in_another_process(tmp_path):
    flux = np.arange(12.0).reshape(4, 3)
    write_stars(tmp_path / "stars.h5", flux)
    shared = pickle.loads(pickle.dumps(SharedFile.of(tmp_path / "stars.h5", {})))
    np.testing.assert_array_equal(shared(slice(1, 3)).flux, flux[1:3])
    again = pickle.loads(pickle.dumps(shared))  # while the file is open
    shared.close()
    np.testing.assert_array_equal(again(slice(0, 1)).flux, flux[:1])
    again.close()


def test_another_file_under_the_name_of_a_shared_one_is_not_read(tmp_path):
    path = tmp_path / "stars.h5"
    write_stars(path, np.ones((4, 3)))
    shared = SharedFile.of(path, {})
    state = path.stat()
    write_stars(tmp_path / "other.h5", np.full((4, 3), 2.0))
    os.utime(tmp_path / "other.h5", ns=(state.st_atime_ns, state.st_mtime_ns))
    os.replace(tmp_path / "other.h5", path)
    assert path.stat().st_size == state.st_size
    assert shared(slice(0, 1)) is None
    path.unlink()
    assert shared(slice(0, 1)) is None


def test_only_files_whose_rows_are_read_alone_are_shared(tmp_path):
    write_stars(tmp_path / "stars.h5", np.ones((4, 3)))
    np.savez(tmp_path / "stars.npz", flux=np.ones((4, 3)))
    assert SharedFile.of(tmp_path / "stars.h5", {"labels": "labels.csv"}) is None
    assert SharedFile.of(tmp_path / "stars.npz", {}) is None
    assert SharedFile.of(tmp_path, {}) is None
    assert SharedFile.of(ss.Spectra(flux=np.ones((4, 3))), {}) is None


def test_a_changed_copy_of_the_package_is_told_by_its_code(tmp_path, monkeypatch):
    here = versions.find_own_versions()
    copy = tmp_path / "symspec"
    shutil.copytree(Path(ss.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))

    def find_there():
        versions.hash_code.cache_clear()
        return versions.find_own_versions()

    monkeypatch.setattr(versions, "__file__", str(copy / "workers/versions.py"))
    assert versions.describe_difference(here, find_there()) == ""
    with (copy / "networks/layers.py").open("a") as stream:
        stream.write("# changed\n")
    difference = versions.describe_difference(here, find_there())
    assert difference.startswith("code of symspec ")
    assert difference.endswith(f" where {here['code of symspec']} is expected")
    versions.hash_code.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        ss.NotPositiveDefiniteError("no minimum", -2.0),
        ss.DataError("no flux"),
        ss.DiskFullError("full"),
        DivergedError("too long", 3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_from_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_compiled_function_is_sent_as_what_it_was_made_of():
    net = ss.mlp([4, 3, 2], activation="tanh")
    theta = net.init_params(np.random.default_rng(0))
    X = np.random.default_rng(1).normal(size=(5, 4))
    function = ss.compile_jacobian(net, "flux", dtype="float32")
    again = pickle.loads(pickle.dumps(function))
    assert again is not function
    assert again.dtype == "float32"
    assert pickle.loads(pickle.dumps(function)) is again  # which is compiled once
    np.testing.assert_array_equal(again(theta, X), function(theta, X))
