"""Small functions, an emulator and epochs of training, beside JAX written by hand, in one run.

    python tests/bench/small_functions.py        # four minutes; JAX is in the extra `test`

Calls are those of users, checks of the arguments included; JAX's are jitted and have their
arguments on the device. Threads are what each of the two chooses. The two take turns; times are
medians of five, results are compared first.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import symspec as ss

SIGMA, PRIOR, BATCH, RATE = 0.1, 1.0, 64, 1e-3
REPEATS, SECONDS = 5, 0.2
FUNCTIONS = [100, 32, 3]
EMULATOR = [5, 300, 300, 7214]  # The Payne's: labels in, flux out
FULL = (7213, 2048, 1024, 512, 256, 128, 32, 3)
# layers, activation, stars and epochs: a hundred, as `train` has it where nothing is said
TRAINED = [
    ((100, 32, 3), "tanh", 6400, 100),
    ((713, 64, 32, 3), "relu", 6400, 100),
    (FULL, "relu", 1280, 5),
]

jax.config.update("jax_enable_x64", True)


def predict(params, X, activation=jax.nn.relu):
    for W, b in params[:-1]:
        X = activation(X @ W + b)
    W, b = params[-1]
    return X @ W + b


def negative_log_posterior(params, X, Y, weight=1.0, activation=jax.nn.relu):
    prior = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
    misfit = jnp.sum(((Y - predict(params, X, activation)) / SIGMA) ** 2)
    return misfit / 2 + weight * PRIOR * prior / 2


def find_flux_jacobian(params, X):
    return jax.vmap(jax.jacrev(lambda x: predict(params, x)))(X)


@partial(jax.jit, static_argnames="activation")
def train_by_hand(params, X, Y, order, activation):
    """Epochs of Adam, as `train` has it: a scan over batches of `order` (epoch, star)."""

    def step(state, rows):
        params, m, v, t = state
        share = BATCH / len(X)
        U, g = jax.value_and_grad(negative_log_posterior)(
            params, X[rows], Y[rows], share, activation
        )
        g = jax.tree.map(lambda a: a / BATCH, g)
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b**2, v, g)
        rate = (RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)).astype(X.dtype)
        params = jax.tree.map(lambda p, a, b: p - rate * a / (jnp.sqrt(b) + 1e-7), params, m, v)
        return (params, m, v, t + 1), U

    zeros = jax.tree.map(jnp.zeros_like, params)
    (params, *_), _ = jax.lax.scan(step, (params, zeros, zeros, 1.0), order.reshape(-1, BATCH))
    return params


def split(net, theta):
    blocks = net.unpack(theta)
    names = [name.removesuffix("/kernel") for name in blocks if name.endswith("/kernel")]
    return [
        tuple(jnp.array(blocks[f"{name}/{part}"]) for part in ("kernel", "bias")) for name in names
    ]


def time_once(call, n):
    begin = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - begin) / n


def compare(name, ours, by_hand, share=1):
    """Print the times of one of so many equal shares of a call."""
    jax.block_until_ready(by_hand())
    ours()
    n = max(1, int(SECONDS / max(time_once(ours, 2), 1e-6)))
    times = [[], []]
    for _ in range(REPEATS):
        times[0].append(time_once(ours, n))
        times[1].append(time_once(lambda: jax.block_until_ready(by_hand()), n))
    a, b = 1e3 / share * np.median(times, axis=1)
    print(f"| {name} | {a:.3g} | {b:.3g} | {a / b:.2f} |", flush=True)


def compare_functions(backend="auto"):
    rng = np.random.default_rng(0)
    net = ss.mlp(FUNCTIONS)
    reg = ss.Regression(net, sigma_noise=SIGMA, prior_precision=PRIOR)
    theta = net.init_params(rng)
    params = split(net, theta)
    U = jax.jit(jax.value_and_grad(negative_log_posterior))
    jacobian = jax.jit(find_flux_jacobian)
    for n in (1, 200, 2000):
        X, Y = rng.normal(size=(n, FUNCTIONS[0])), rng.normal(size=(n, FUNCTIONS[-1]))
        on_device = jnp.array(X), jnp.array(Y)
        ours = ss.compile_objective(reg, backend=backend)
        gradient = np.concatenate([np.ravel(p) for p in jax.tree.leaves(U(params, *on_device)[1])])
        np.testing.assert_allclose(ours(theta, X, Y)[1], gradient, rtol=1e-9, atol=1e-8)
        compare(
            f"gradient, 100-32-3, {n} spectra",
            partial(ours, theta, X, Y),
            partial(U, params, *on_device),
        )
        flux = ss.compile_jacobian(net, backend=backend)
        np.testing.assert_allclose(
            flux(theta, X), jacobian(params, on_device[0]), rtol=1e-9, atol=1e-12
        )
        compare(
            f"flux Jacobian, 100-32-3, {n} spectra",
            partial(flux, theta, X),
            partial(jacobian, params, on_device[0]),
        )


def compare_emulator(backend="auto"):
    """The Jacobian of flux by labels, of one star; leaky relu, as The Payne has it."""
    rng = np.random.default_rng(0)
    layers = []
    for units in EMULATOR[1:]:
        layers += [ss.Dense(units), ss.Activation("leaky_relu", {"negative_slope": 0.01})]
    net = ss.Network(layers[:-1], EMULATOR[0])
    theta = net.init_params(rng)
    x = rng.normal(size=EMULATOR[0])
    activation = partial(jax.nn.leaky_relu, negative_slope=0.01)
    by_hand = jax.jit(jax.jacfwd(lambda x, params: predict(params, x, activation)))
    params = split(net, theta)
    at = jnp.array(x)
    ours = ss.compile_jacobian(net, backend=backend)
    np.testing.assert_allclose(ours(theta, x), by_hand(at, params), rtol=1e-9, atol=1e-12)
    compare(
        "Jacobian of an emulator, 7,214 x 5", partial(ours, theta, x), partial(by_hand, at, params)
    )


def compare_training(sizes, activation, n_stars, epochs, backend="auto"):
    """Times of an epoch, of so many; the weights after the first are compared."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_stars, sizes[0])).astype("f4")
    Y = rng.normal(size=(n_stars, sizes[-1])).astype("f4")
    net = ss.mlp(sizes, activation=activation)
    reg = ss.Regression(net, sigma_noise=SIGMA, prior_precision=PRIOR)
    theta = net.init_params(rng)
    options = {"theta": theta, "batch_size": BATCH, "progress": False, "backend": backend}

    def train(epochs=epochs):
        return ss.train(reg, X, Y, epochs=epochs, rng=np.random.default_rng(1), **options)

    shuffle = np.random.default_rng(1)
    order = jnp.array([shuffle.permutation(n_stars) for _ in range(epochs)])
    given = split(net, theta.astype("f4")), jnp.array(X), jnp.array(Y)
    by_name = {"relu": jax.nn.relu, "tanh": jnp.tanh}[activation]
    by_hand = partial(train_by_hand, *given, activation=by_name)
    found = np.concatenate([np.ravel(p) for p in jax.tree.leaves(by_hand(order[:1]))])
    apart = np.abs(train(1).theta - found) > 2e-3
    # where a gradient is as small as its rounding, Adam's first steps may have either sign: so it
    # is for one weight in 10,000 of millions, and for none of thousands
    assert np.mean(apart) < (2e-4 if apart.size > 1e6 else 1 / apart.size)
    name = "-".join(map(str, sizes))
    compare(
        f"Adam, an epoch of {epochs}, {name} {activation}, {n_stars:,} spectra, batches of {BATCH}",
        train,
        partial(by_hand, order),
        share=epochs,
    )


if __name__ == "__main__":
    print("| | symspec [ms] | JAX [ms] | ratio |\n|---|---:|---:|---:|")
    compare_functions()
    compare_emulator()
    for case in TRAINED:
        compare_training(*case)
