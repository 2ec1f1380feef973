"""Dense Hessian and covariance of labels from it, against JAX written by hand, in float64.

    OPENBLAS_NUM_THREADS=1 python -m pytest tests/bench/test_matrices.py -q -s

Sides take turns within a round, so that a busy machine is busy for all; medians are compared.
"""

import time
from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg.blas import dsyrk

import symspec as ss
from symspec.derivatives.compiled import compile_tangent_factors
from symspec.derivatives.tangents import compute_tangents
from symspec.inverse_hessian.primal import PrimalInverse

jax = pytest.importorskip("jax")
jnp = jax.numpy

SIGMA, PRIOR = 0.1, 1.0
ACTIVATE = {"relu": jax.nn.relu, "tanh": jnp.tanh}


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def build_setting(sizes, activation, n_stars):
    rng = np.random.default_rng(0)
    net = ss.mlp(sizes, activation=activation)
    X, Y = rng.normal(size=(n_stars, sizes[0])), rng.normal(size=(n_stars, sizes[-1]))
    return ss.Regression(net, sigma_noise=SIGMA, prior_precision=PRIOR), net.init_params(rng), X, Y


def jax_predict(sizes, activation, theta, x):
    at = 0
    for k, (n_in, n_out) in enumerate(pairwise(sizes)):
        z = x @ theta[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        z = z + theta[at : at + n_out]
        at += n_out
        x = z if k == len(sizes) - 2 else ACTIVATE[activation](z)
    return x


def take_turns(sides, rounds):
    """Median seconds of each function, and what it returned."""
    results = {name: np.asarray(side()) for name, side in sides.items()}  # compiles, and warms up
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            jax.block_until_ready(side())
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(t)) for name, t in times.items()}, results


def print_table(what, seconds):
    ours = seconds["symspec"]
    print(f"\n\n| {what} | time [s] | symspec / it |\n|---|---:|---:|")
    for name, t in seconds.items():
        print(f"| {name} | {t:.3g} | {ours / t:.2f} |")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_dense_hessian_costs_less_than_the_jacobians_product_with_itself(activation):
    sizes = [64, 32, 16, 3]
    reg, theta, X, Y = build_setting(sizes, activation, 2000)

    def U(t, X, Y):
        return (
            jnp.sum(((Y - jax_predict(sizes, activation, t, X)) / SIGMA) ** 2) / 2
            + PRIOR * jnp.sum(t**2) / 2
        )

    by_jax, on_device = jax.jit(jax.hessian(U)), jax.device_put((theta, X, Y))
    by_us = ss.compile_hessian(reg)
    # (param, star * label)
    J = np.asfortranarray(np.random.default_rng(1).normal(size=(theta.size, Y.size)))
    seconds, results = take_turns(
        {
            "symspec": lambda: by_us(theta, X, Y),
            "JAX by hand": lambda: by_jax(*on_device),
            "one SYRK of J": lambda: dsyrk(1.0, J, lower=1),
        },
        rounds=3,
    )
    atol = 1e-12 * np.abs(results["symspec"]).max()  # rounding
    np.testing.assert_allclose(results["symspec"], results["JAX by hand"], rtol=1e-9, atol=atol)
    print_table(f"Hessian, {activation}, 64-32-16-3, 2,000 stars", seconds)
    assert 4 * seconds["symspec"] <= seconds["JAX by hand"]
    assert seconds["symspec"] <= 4 * seconds["one SYRK of J"]


def test_the_labels_covariance_is_faster_than_a_triangular_solve_with_the_jacobian():
    sizes, n_stars = [370, 32, 3], 512
    reg, theta, X, _ = build_setting(sizes, "tanh", n_stars)
    P = theta.size
    L = np.asfortranarray(np.tril(np.random.default_rng(2).normal(size=(P, P)) / P) + np.eye(P))
    inverse, factors = PrimalInverse(L), compile_tangent_factors(reg.net)

    def by_us():
        return inverse.label_covariance(compute_tangents(reg.net, factors, theta, X))

    def covariance(t, X, L):
        J = jax.vmap(jax.jacrev(lambda t, x: jax_predict(sizes, "tanh", t, x)), (None, 0))(t, X)
        Z = jax.scipy.linalg.solve_triangular(L, J.reshape(-1, P).T, lower=True).reshape(
            P, n_stars, 3
        )
        return jnp.einsum("inc,ind->ncd", Z, Z)

    by_jax, on_device = jax.jit(covariance), jax.device_put((theta, X, L))
    begin = time.perf_counter()
    assert inverse.root.shape == (P, P)
    seconds_root = time.perf_counter() - begin
    seconds, results = take_turns(
        {"symspec": by_us, "JAX by hand": lambda: by_jax(*on_device)}, rounds=3
    )
    # rounding, P terms a sum
    np.testing.assert_allclose(results["symspec"], results["JAX by hand"], rtol=1e-9, atol=1e-11)
    print_table(f"label covariance, 370-32-3, {P:,} weights, 512 stars", seconds)
    print(f"\nL^-1, once for all stars: {seconds_root:.3g} s")
    assert 1.5 * seconds["symspec"] <= seconds["JAX by hand"]
