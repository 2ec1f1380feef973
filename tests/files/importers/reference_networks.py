"""Networks computed by plain NumPy, and what tests assert of an imported or a refused file."""

import itertools
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import REFERENCE_ACTIVATIONS, SHARED_DATA
from network_files import SIZES

import symspec
from symspec.derivatives.compiled import compile_predict
from symspec.errors import FileFormatError
from symspec.files.importers.read import import_network
from symspec.networks.convolutions import AveragePool1D, Conv1D
from symspec.networks.layers import Activation, Dense
from symspec.networks.network import Network
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Add, Flatten, Reshape

TOLERANCE = 1e-12  # both sides are float64 on the same numbers: only sums in another order differ
MEMORY = 200 * 2**20  # bytes
SECONDS = 10


def needs(name):
    """Mark that skips a test without a published file, and the path of that file."""
    path = SHARED_DATA / name
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not there"), path


def activate(name, x, **options):
    defaults = {"leaky_relu": {"negative_slope": 0.3}, "elu": {"alpha": 1.0}}
    return REFERENCE_ACTIVATIONS[name][0](x, **(defaults.get(name, {}) | options))


def predict(net, theta, x):
    return compile_predict(net, backend="numpy")(theta, x)


def assert_predicts(imported, x, expected):
    net, theta = imported
    assert theta.dtype == np.float64
    np.testing.assert_allclose(predict(net, theta, x), expected, rtol=TOLERANCE, atol=TOLERANCE)


def refuse(path, words, net=None):
    """Assert that the file is refused, soon and without taking much memory."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(FileFormatError, match=words):
            import_network(path, net=net)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < SECONDS


def run_python(program, *arguments, cwd=None):
    """Lines that a fresh interpreter prints."""
    answer = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(symspec.__file__).parents[1])},
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def draw_layers(rng, sizes=SIZES):
    """Kernel (in, out) and bias of each dense layer, float32 as trained networks are."""
    return [
        (rng.normal(size=pair).astype(np.float32), rng.normal(size=pair[1]).astype(np.float32))
        for pair in itertools.pairwise(sizes)
    ]


def forward(layers, x, activation="tanh"):
    for i, (kernel, bias) in enumerate(layers):
        x = x @ kernel.astype(float) + bias
        x = activate(activation, x) if i < len(layers) - 1 else x
    return x


# --- layers one window and one star after the other, on arrays (star, position, channel)

N, CHANNELS = 12, 2  # positions and channels
DRAWN = np.random.default_rng(4)


def draw(*shape):
    return DRAWN.normal(size=shape).astype(np.float32)


def convolve(x, kernel, bias=0.0, strides=1, padding=(0, 0), dilation=1):
    x = np.pad(x, ((0, 0), padding, (0, 0)))
    extent = (len(kernel) - 1) * dilation + 1
    starts = range(0, x.shape[1] - extent + 1, strides)
    out = np.zeros((len(x), len(starts), kernel.shape[2]))
    for t, start in enumerate(starts):
        for k in range(len(kernel)):
            out[:, t] += x[:, start + k * dilation] @ kernel[k].astype(float)
    return out + bias


def pool(x, size, strides, padding, of):
    """Windows without what lies outside."""
    n = (x.shape[1] + sum(padding) - size) // strides + 1
    starts = [t * strides - padding[0] for t in range(n)]
    return np.stack(
        [of(x[:, max(s, 0) : min(s + size, x.shape[1])], axis=1) for s in starts], axis=1
    )


def normalize(x, axes, epsilon, gamma=1.0, beta=0.0):
    mean, variance = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def batch_normalize(x, mean, variance, epsilon, gamma=1.0, beta=0.0):
    return (x - mean) / np.sqrt(variance.astype(float) + epsilon) * gamma + beta


def turn(x):
    return x.swapaxes(1, 2)


def blank(n, **options):
    """BatchNorm whose moments hold the place of those in the file."""
    return BatchNorm(np.zeros(n), np.ones(n), **options)


def convolutional_net():
    conv, norm = Conv1D(3, 3, padding="same"), blank(3)
    return Network(
        [
            Reshape((N, 1)),
            conv,
            norm,
            Activation("relu"),
            Conv1D(3, 3, padding="same"),
            Add(norm),
            Flatten(),
            Dense(2),
        ],
        N,
    )


def convolutional_arrays():
    return {
        "one": (draw(3, 1, 3), draw(3)),
        "norm": (draw(3), draw(3), draw(3), draw(3) ** 2),
        "two": (draw(3, 3, 3), draw(3)),
        "last": (draw(N * 3, 2), draw(2)),
    }


def convolutional_forward(arrays, x):
    a = convolve(x[..., None], *arrays["one"], 1, (1, 1))
    gamma, beta, mean, variance = arrays["norm"]
    a = batch_normalize(a, mean, variance, 1e-3, gamma, beta)
    a = a + convolve(np.maximum(a, 0), *arrays["two"], 1, (1, 1))
    return a.reshape(len(x), -1) @ arrays["last"][0].astype(float) + arrays["last"][1]


def torch_net():
    first = {"data_format": "channels_first"}
    layers = [
        Reshape((1, N)),
        Conv1D(3, 3, padding=1, **first),
        blank(3, epsilon=1e-5, axis=0),
        Activation("relu"),
    ]
    layers += [
        AveragePool1D(2, padding=1, count_padding=True, **first),
        LayerNorm(1e-5),
        Flatten(),
        Dense(2),
    ]
    return Network(layers, N)


def torch_state():
    """Tensors as PyTorch keeps them: kernels (out, in, position) and a counter of batches."""
    norm = {
        "weight": draw(3),
        "bias": draw(3),
        "running_mean": draw(3),
        "running_var": draw(3) ** 2,
    }
    return {
        "features.0.weight": draw(3, 1, 3),
        "features.0.bias": draw(3),
        **{f"features.1.{key}": array for key, array in norm.items()},
        "features.1.num_batches_tracked": np.array(100),
        "norm.weight": draw(7),
        "norm.bias": draw(7),
        "last.weight": draw(2, 21),
        "last.bias": draw(2),
    }


def torch_forward(state, x):
    get = {key.removeprefix("features."): array.astype(float) for key, array in state.items()}
    h = convolve(x[..., None], get["0.weight"].transpose(2, 1, 0), get["0.bias"], 1, (1, 1))
    h = batch_normalize(
        h, get["1.running_mean"], get["1.running_var"], 1e-5, get["1.weight"], get["1.bias"]
    )
    h = np.pad(np.maximum(h, 0), ((0, 0), (1, 1), (0, 0)))
    h = turn(pool(h, 2, 2, (0, 0), np.mean))
    h = normalize(h, 2, 1e-5, get["norm.weight"], get["norm.bias"])
    return h.reshape(len(x), -1) @ get["last.weight"].T + get["last.bias"]
