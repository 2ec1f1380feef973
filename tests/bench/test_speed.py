"""The network of 17.6 million weights against its matrix products alone, and JAX written by hand.

    python -m pytest tests/bench/test_speed.py -q -s

Batch of 256, float32. Rounds are interleaved (the floor, JAX, symspec, the floor, ...), so that a
busy machine is busy for all three; medians are compared. The floor counts matrix products only:
activations and sums are free.
"""

import time
from itertools import pairwise

import numpy as np
import pytest

import symspec as ss

jax = pytest.importorskip("jax")

SIZES = [7213, 2048, 1024, 512, 256, 128, 32, 3]
N_STARS, ROUNDS, SIGMA, PRIOR = 256, 9, 0.1, 1.0
LIMITS = {"flux Jacobian": 1.15, "gradient": 1.5}  # times the floor


@pytest.fixture(scope="module")
def setting():
    """Network, weights flat and by layer, and a batch; all float32."""
    rng = np.random.default_rng(0)
    net = ss.mlp(SIZES, label_names=["TEFF", "LOGG", "FE_H"])
    theta, v = (net.init_params(rng).astype(np.float32) for _ in range(2))
    X = rng.normal(size=(N_STARS, SIZES[0])).astype(np.float32)
    Y = rng.normal(size=(N_STARS, SIZES[-1])).astype(np.float32)
    return ss.Regression(net, sigma_noise=SIGMA, prior_precision=PRIOR), theta, X, Y, v


@pytest.fixture(scope="module")
def table():
    """Rows to print when all is done."""
    rows = []
    yield rows
    heads = (
        f"batch of {N_STARS}, float32 | symspec [ms] | matrix products [ms] | ratio | JAX by hand"
        " [ms] | ratio"
    )
    print(f"\n\n| {heads} |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, ours, floor, theirs in rows:
        rivals = " | ".join(f"{1e3 * t:.0f} | {ours / t:.2f}" for t in (floor, theirs))
        print(f"| {name} | {1e3 * ours:.0f} | {rivals} |")


def kernels(theta):
    """Kernel (in, out) and bias (out,) of each layer."""
    out, at = [], 0
    for n_in, n_out in pairwise(SIZES):
        W = theta[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        out.append((W, theta[at : at + n_out]))
        at += n_out
    return out


# The floor: every function does the matrix products that its result needs, and nothing else.


def forward(Ws, X):
    """7 products: the input of each layer, and the output."""
    inputs = [X]
    for W in Ws:
        inputs.append(inputs[-1] @ W)
    return inputs


def forward_tangent(Ws, Vs, inputs):
    """13 products: a dW for each layer, (da) W for all but the first, whose input is fixed."""
    tangents = [None]
    for W, V, a in zip(Ws, Vs, inputs, strict=False):
        dz = a @ V
        tangents.append(dz if tangents[-1] is None else dz + tangents[-1] @ W)
    return tangents


def backward(Ws, inputs, d):
    """13 products: the kernels' gradients a^T d, and d W^T for all but the first layer."""
    for k in reversed(range(len(Ws))):
        inputs[k].T @ d
        d = d @ Ws[k].T if k else None


def floor_predict(Ws, Vs, X):
    forward(Ws, X)


def floor_gradient(Ws, Vs, X):
    inputs = forward(Ws, X)
    backward(Ws, inputs, inputs[-1])


def floor_ggn(Ws, Vs, X):
    """Forward, tangent forward, one backward: 33 products."""
    inputs = forward(Ws, X)
    backward(Ws, inputs, forward_tangent(Ws, Vs, inputs)[-1])


def floor_hessian(Ws, Vs, X):
    """51 products: forward, tangents, cotangents d, their tangents e, and the kernels' backward."""
    inputs = forward(Ws, X)
    tangents = forward_tangent(Ws, Vs, inputs)
    d, e = inputs[-1], tangents[-1]
    for k in reversed(range(len(Ws))):
        _ = inputs[k].T @ e if k == 0 else inputs[k].T @ e + tangents[k].T @ d
        if k:
            d, e = d @ Ws[k].T, e @ Ws[k].T + d @ Vs[k].T


def floor_jacobian(Ws, Vs, X):
    """Forward, and one row a star and label through the transposed layers: 14 products."""
    forward(Ws, X)
    rows = np.tile(np.eye(SIZES[-1], dtype=np.float32), (len(X), 1))
    for W in reversed(Ws):
        rows = rows @ W.T


# JAX as one would write it: weights as a list of pairs, on the device before the clock starts.


def jax_predict(params, X):
    for W, b in params[:-1]:
        X = jax.nn.relu(X @ W + b)
    W, b = params[-1]
    return X @ W + b


def jax_objective(params, X, Y):
    """U up to its constants."""
    prior = sum((W**2).sum() + (b**2).sum() for W, b in params)
    return (((Y - jax_predict(params, X)) / SIGMA) ** 2).sum() / 2 + PRIOR * prior / 2


def jax_hessian_product(params, X, Y, v):
    return jax.jvp(lambda p: jax.grad(jax_objective)(p, X, Y), (params,), (v,))[1]


def jax_ggn_product(params, X, Y, v):
    f = lambda p: jax_predict(p, X)  # noqa: E731
    _, Jv = jax.jvp(f, (params,), (v,))
    (product,) = jax.vjp(f, params)[1](Jv / SIGMA**2)
    return jax.tree.map(lambda p, u: p + PRIOR * u, product, v)


def jax_jacobian(params, X, Y, v):
    return jax.vmap(jax.jacrev(lambda x: jax_predict(params, x)))(X)


CASES = {
    "predict": (
        lambda reg, **how: ss.compile_predict(reg.net, **how),
        2,
        floor_predict,
        lambda params, X, Y, v: jax_predict(params, X),
    ),
    "gradient": (
        ss.compile_objective,
        3,
        floor_gradient,
        lambda params, X, Y, v: jax.value_and_grad(jax_objective)(params, X, Y),
    ),
    "Hessian-vector product": (
        ss.compile_hessian_vector_product,
        4,
        floor_hessian,
        jax_hessian_product,
    ),
    "Gauss-Newton-vector product": (ss.compile_ggn_vector_product, 4, floor_ggn, jax_ggn_product),
    "flux Jacobian": (
        lambda reg, **how: ss.compile_jacobian(reg.net, "flux", **how),
        2,
        floor_jacobian,
        jax_jacobian,
    ),
}


def flat(result):
    """A result of JAX as symspec gives it: pairs of kernel and bias joined."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(result)]
    return leaves[0] if len(leaves) == 1 else np.concatenate([leaf.ravel() for leaf in leaves])


@pytest.mark.parametrize("name", CASES)
def test_the_full_network_runs_near_the_speed_of_its_matrix_products(
    name, setting, table, benchmark
):
    compile_, n_arguments, floor, by_hand = CASES[name]
    reg, theta, X, Y, v = setting
    function = compile_(reg, dtype="float32")
    arguments = (theta, X, Y, v)[:n_arguments]
    Ws, Vs = ([W for W, _ in kernels(t)] for t in (theta, v))
    on_device = jax.device_put((kernels(theta), X, Y, kernels(v)))
    jitted = jax.jit(by_hand)

    # compiles both; they should say the same
    ours = function(*arguments)
    theirs = jitted(*on_device)
    if name == "gradient":
        ours, theirs = ours[1], theirs[1]
    atol = 1e-4 * np.abs(ours).max()  # float32, sums of thousands
    np.testing.assert_allclose(ours, flat(theirs), rtol=1e-3, atol=atol)

    times = {"floor": [], "jax": []}

    def run_rivals():
        begin = time.perf_counter()
        floor(Ws, Vs, X)
        times["floor"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        jax.block_until_ready(jitted(*on_device))
        times["jax"].append(time.perf_counter() - begin)

    benchmark.pedantic(function, args=arguments, setup=run_rivals, rounds=ROUNDS, warmup_rounds=1)
    ours, floor_time, jax_time = (
        benchmark.stats.stats.median,
        np.median(times["floor"]),
        np.median(times["jax"]),
    )
    benchmark.extra_info.update(floor=floor_time, jax=jax_time)
    table.append((name, ours, floor_time, jax_time))
    assert ours <= LIMITS.get(name, np.inf) * floor_time
