"""Compiled functions may be called by several threads at once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytensor
import pytest

import symspec as ss

NEEDS_COMPILER = pytest.mark.skipif(not pytensor.config.cxx, reason="no C++ compiler")


@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("c", marks=NEEDS_COMPILER), "numba", "jax"]
)
def test_threads_that_share_a_function_get_the_bits_of_one_thread(backend):
    """Without a lock a fourth of such calls raise, some mix up their stars, and "c" aborts."""
    if backend == "jax":
        pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    net = ss.mlp([20, 2])
    theta = net.init_params(rng)
    predict = ss.compile_predict(net, backend=backend)
    spectra = [rng.normal(size=(1 + i % 5, 20)) for i in range(400)]
    expected = [predict(theta, X) for X in spectra]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda X: predict(theta, X), spectra))
    for one, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, right)
