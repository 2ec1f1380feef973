"""Damage to an archive is found, wherever it is, or changes no number."""

from pathlib import Path

import numpy as np
import pytest
from conftest import build_problem

from symspec import fit_laplace, read_laplace, read_network, read_spectra, write_laplace
from symspec.errors import FileFormatError, SymspecError
from symspec.files.stored.archive import is_archive

OLD = Path(__file__).parent / "files_of_version_0_1/posteriors"
N_MUTANTS = 150


def flip_bit(content, rng):
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)


def cut_end(content, rng):
    del content[rng.integers(len(content)) :]


def clear_range(content, rng):
    start = rng.integers(len(content))
    size = min(64, len(content) - start)
    content[start : start + size] = bytes(size)


def exchange_blocks(content, rng):
    a, b = 16 * rng.integers(len(content) // 16, size=2)
    first, second = content[a : a + 16], content[b : b + 16]
    content[a : a + 16] = second
    content[b : b + 16] = first


WAYS = (flip_bit, cut_end, clear_range, exchange_blocks)


def read_numbers(path):
    laplace = read_laplace(path)
    arrays = [laplace.theta, laplace.flux_mean, laplace.label_range]
    arrays += [*laplace.inverse_hessian.arrays().values(), *laplace.reg.prior_precision.values()]
    arrays += [*laplace.reg.noise.to_arrays().values(), laplace.negative_log_posterior]
    words = [repr(laplace.reg.net), repr(laplace.certificate), laplace.reason, laplace.curvature]
    return [np.asarray(array).tobytes() for array in arrays], words


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    p = build_problem("tanh-2-hidden-3-labels-full-noise-missing")
    path = tmp_path_factory.mktemp("archives") / "laplace.h5"
    write_laplace(path, fit_laplace(p.reg, p.theta, p.X, p.Y, require_minimum=False))
    return path


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_damaged_archive_is_refused_or_gives_the_same_numbers(archive, tmp_path, way):
    content = archive.read_bytes()
    expected = read_numbers(archive)
    rng = np.random.default_rng(WAYS.index(way))
    path = tmp_path / "mutant.h5"
    n_refused = n_same = 0
    for _ in range(N_MUTANTS // len(WAYS)):
        mutant = bytearray(content)
        way(mutant, rng)
        path.write_bytes(mutant)
        try:
            n_same += read_numbers(path) == expected
        except FileFormatError as error:
            n_refused += str(path) in str(error)
    assert n_refused + n_same == N_MUTANTS // len(WAYS)
    assert n_refused > n_same


@pytest.mark.parametrize("name", ["primal.h5", "kronecker.h5"])
def test_readers_of_a_damaged_file_of_an_earlier_version_raise_errors_of_symspec_alone(
    tmp_path, name
):
    content = (OLD / name).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "mutant.h5"
    for i in range(40):
        mutant = bytearray(content)
        WAYS[i % len(WAYS)](mutant, rng)
        path.write_bytes(mutant)
        is_archive(path)
        for read in (read_laplace, read_network, read_spectra):
            try:
                read(path)
            except SymspecError as error:
                said = [str(error), *getattr(error, "__notes__", ())]
                assert any(str(path) in words for words in said)
