"""StarNet as published (7,419,191 weights): import, 21,033 predictions, 300 Jacobians; and JAX.

    python -m pytest tests/bench/test_starnet.py -q -s -o addopts=""

Rounds of symspec and of `jax.jit(vmap(jacrev))` alternate, so that a busy machine is busy for both;
medians are compared. Both get batches that fit in memory.
"""

import time

import h5py
import numpy as np
import pytest

import symspec as ss

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)

N_PIXELS, N_PREDICTED, N_DIFFERENTIATED, ROUNDS, BATCH = 7214, 21_033, 300, 5, 30
SHAPES = {
    "conv1d_1": (8, 1, 4),
    "conv1d_2": (8, 4, 16),
    "dense_1": (28848, 256),
    "dense_2": (256, 128),
    "dense_3": (128, 3),
}


def build_network():
    layers = [ss.Reshape((N_PIXELS, 1)), ss.Conv1D(4, 8, padding="same"), ss.Activation("relu")]
    layers += [
        ss.Conv1D(16, 8, padding="same"),
        ss.Activation("relu"),
        ss.MaxPool1D(4),
        ss.Flatten(),
    ]
    layers += [
        ss.Dense(256),
        ss.Activation("relu"),
        ss.Dense(128),
        ss.Activation("relu"),
        ss.Dense(3),
    ]
    return ss.Network(layers, N_PIXELS, label_names=["TEFF", "LOGG", "FE_H"])


@pytest.fixture(scope="module")
def weights():
    """Kernel and bias of each layer, float32 as networks are trained."""
    rng = np.random.default_rng(0)
    draw = {k: rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1])) for k, s in SHAPES.items()}
    return {k: (W.astype(np.float32), np.zeros(W.shape[-1], np.float32)) for k, W in draw.items()}


@pytest.fixture(scope="module")
def starnet(weights, tmp_path_factory):
    """The network, read from a file as Keras 2 writes weights."""
    path = tmp_path_factory.mktemp("starnet") / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in ("kernel", "bias")]
            for key, array in zip(("kernel", "bias"), arrays, strict=True):
                group[f"{name}/{key}:0"] = array
    begin = time.perf_counter()
    net, theta = ss.read_network(path, net=build_network())
    print(f"\nread {net.n_params:,} weights in {time.perf_counter() - begin:.2f} s")
    assert net.n_params == 7_419_191
    return net, theta


def build_jax(weights):
    """StarNet of one spectrum by hand."""
    lax, relu, order = jax.lax, jax.nn.relu, ("NWC", "WIO", "NWC")

    def predict(params, x):
        x = x[None, :, None]
        for name in ("conv1d_1", "conv1d_2"):
            W, b = params[name]
            x = relu(lax.conv_general_dilated(x, W, (1,), "SAME", dimension_numbers=order) + b)
        x = lax.reduce_window(x, -np.inf, lax.max, (1, 4, 1), (1, 4, 1), "VALID").reshape(-1)
        for name in ("dense_1", "dense_2"):
            x = relu(x @ params[name][0] + params[name][1])
        return x @ params["dense_3"][0] + params["dense_3"][1]

    return predict


def measure(functions):
    """Median seconds of each, the first round not counted."""
    seconds = {name: [] for name in functions}
    for _ in range(ROUNDS + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: float(np.median(times[1:])) for name, times in seconds.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jacobians_are_no_slower_than_those_of_jax(starnet, weights, dtype):
    net, theta = starnet
    params = jax.tree.map(lambda a: jax.numpy.asarray(a, dtype), weights)
    X = np.random.default_rng(1).normal(size=(N_DIFFERENTIATED, N_PIXELS)).astype(dtype)
    ours, predict = ss.compile_jacobian(net, dtype=dtype), build_jax(weights)
    theirs = jax.jit(jax.vmap(jax.jacrev(predict, argnums=1), in_axes=(None, 0)))

    def run_jax():
        return np.concatenate(
            [np.asarray(theirs(params, X[i : i + BATCH])) for i in range(0, len(X), BATCH)]
        )

    J = ours(theta, X)
    np.testing.assert_allclose(
        J, run_jax(), atol={"float32": 2e-4, "float64": 1e-11}[dtype] * np.abs(J).max()
    )
    seconds = measure({"symspec": lambda: ours(theta, X), "jax": run_jax})
    rates = ", ".join(f"{name} {N_DIFFERENTIATED / s:.0f}" for name, s in seconds.items())
    print(
        f"\n{dtype}: Jacobians a second: {rates}; ratio of times"
        f" {seconds['symspec'] / seconds['jax']:.2f}"
    )
    assert seconds["symspec"] <= seconds["jax"]


def test_predictions_of_all_spectra(starnet, weights):
    net, theta = starnet
    X = np.random.default_rng(1).normal(size=(N_PREDICTED // 3, N_PIXELS)).astype(np.float32)
    ours = ss.compile_predict(net, dtype="float32")
    theirs = jax.jit(jax.vmap(build_jax(weights), in_axes=(None, 0)))
    params = jax.tree.map(jax.numpy.asarray, weights)

    def run_jax():
        return np.concatenate(
            [np.asarray(theirs(params, X[i : i + 64])) for i in range(0, len(X), 64)]
        )

    labels = ours(theta, X)
    np.testing.assert_allclose(labels, run_jax(), atol=2e-4 * np.abs(labels).max())
    seconds = measure({"symspec": lambda: ours(theta, X), "jax": run_jax})
    mine, theirs = (3 * seconds[name] for name in ("symspec", "jax"))
    print("\n\n| StarNet, float32 | symspec [s] | JAX [s] | ratio |\n|---|---:|---:|---:|")
    print(f"| {N_PREDICTED:,} predictions | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |")
