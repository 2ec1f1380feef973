"""Layers of Keras predict as plain NumPy loops on the same arrays."""

import numpy as np
import pytest
from network_files import WRITERS, dense_config, input_config, layer_config, sequential, write_h5
from reference_networks import (
    CHANNELS,
    N,
    activate,
    assert_predicts,
    batch_normalize,
    convolve,
    draw,
    draw_layers,
    normalize,
    pool,
    turn,
)

from symspec.files.importers.keras.activations import FUNCTIONS
from symspec.files.importers.read import import_network


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


K3, K4, B3 = draw(3, CHANNELS, 3), draw(4, CHANNELS, 3), draw(3)
ON_TURNED = draw(3, N, 3)  # a kernel for N channels

W, GAMMA, BETA, MEAN, VARIANCE = (
    draw(CHANNELS, 3),
    draw(CHANNELS),
    draw(CHANNELS),
    draw(CHANNELS),
    draw(CHANNELS) ** 2,
)

LONG, FULL = (draw(N), draw(N)), (draw(N, CHANNELS), draw(N, CHANNELS))
KS, BS = draw(5, 3 * CHANNELS, 3), draw(5, 3)  # a kernel for each of 5 windows
FIRST, CONV = {"data_format": "channels_first"}, {"filters": 3, "kernel_size": [3]}


KG, BG = draw(3, 1, 4), draw(4)  # a kernel of two groups
DEPTHWISE, POINTWISE = draw(3, CHANNELS, 2), draw(1, 2 * CHANNELS, 3)
SLOPES, SHARED = draw(N, CHANNELS), draw(1, CHANNELS)


def convolve_channels(x, kernel, *options):
    """Each channel by kernels of its own (position, channel, multiplier), side by side."""
    parts = [
        convolve(x[:, :, c : c + 1], kernel[:, c : c + 1], 0.0, *options) for c in range(CHANNELS)
    ]
    return np.concatenate(parts, axis=2)


# layers of Keras, the arrays of the first, and what they do to x (star, N, CHANNELS)
CASES = {
    "conv": ([layer_config("Conv1D", **CONV)], [K3, B3], lambda x: convolve(x, K3, B3)),
    "conv-groups": (
        [layer_config("Conv1D", filters=4, kernel_size=[3], groups=2, activation="tanh")],
        [KG, BG],
        lambda x: np.tanh(convolve_channels(x, KG.reshape(3, 2, 2)) + BG),
    ),
    "depthwise": (
        [layer_config("DepthwiseConv1D", kernel_size=[3], depth_multiplier=2, strides=[2])],
        [DEPTHWISE, BG],
        lambda x: convolve_channels(x, DEPTHWISE, 2) + BG,
    ),
    "separable": (
        [
            layer_config(
                "SeparableConv1D", filters=3, kernel_size=[3], depth_multiplier=2, padding="same"
            )
        ],
        [DEPTHWISE, POINTWISE, B3],
        lambda x: convolve(convolve_channels(x, DEPTHWISE, 1, (1, 1)), POINTWISE, B3),
    ),
    "prelu": (
        [layer_config("PReLU", shared_axes=None)],
        [SLOPES],
        lambda x: np.where(x > 0, x, SLOPES.astype(float) * x),
    ),
    "prelu-shared": (
        [layer_config("PReLU", shared_axes=[1])],
        [SHARED],
        lambda x: np.where(x > 0, x, SHARED.astype(float) * x),
    ),
    "conv-same": (
        [layer_config("Conv1D", **CONV, padding="same")],
        [K3, B3],
        lambda x: convolve(x, K3, B3, 1, (1, 1)),
    ),
    "conv-same-even": (
        [
            layer_config(
                "Conv1D",
                filters=3,
                kernel_size=4,
                padding="same",
                use_bias=False,
                activation="tanh",
            )
        ],
        [K4],
        lambda x: np.tanh(convolve(x, K4, 0.0, 1, (1, 2))),  # the odd zero comes last
    ),
    "conv-same-strides": (
        [layer_config("Conv1D", **CONV, padding="same", strides=[5])],
        [K3, B3],
        lambda x: convolve(x, K3, B3, 5, (0, 1)),  # three windows reach over 13 positions
    ),
    "conv-causal-dilated": (
        [layer_config("Conv1D", **CONV, padding="causal", dilation_rate=[3])],
        [K3, B3],
        lambda x: convolve(x, K3, B3, 1, (6, 0), 3),
    ),
    "conv-channels-first": (
        [
            layer_config(
                "Conv1D", filters=3, kernel_size=3, **FIRST, strides=1, groups=1, padding="same"
            )
        ],
        [ON_TURNED, B3],
        lambda x: turn(convolve(turn(x), ON_TURNED, B3, 1, (1, 1))),
    ),
    "locally-connected": (
        [layer_config("LocallyConnected1D", **CONV, strides=[2], implementation=1)],
        [KS, BS],
        lambda x: np.stack(
            [x[:, 2 * t : 2 * t + 3].reshape(len(x), -1) @ KS[t] + BS[t] for t in range(5)], axis=1
        ),
    ),
    "max": (
        [
            layer_config(
                "MaxPooling1D",
                pool_size=[3],
                strides=[2],
                padding="same",
                data_format="channels_last",
            )
        ],
        [],
        lambda x: pool(x, 3, 2, (0, 1), np.max),
    ),
    "max-default": ([layer_config("MaxPooling1D")], [], lambda x: pool(x, 2, 2, (0, 0), np.max)),
    "average-same": (
        [layer_config("AveragePooling1D", pool_size=5, strides=1, padding="same")],
        [],
        lambda x: pool(x, 5, 1, (2, 2), np.mean),
    ),
    "average-first": (
        [
            layer_config("Permute", dims=[2, 1]),
            layer_config("AveragePooling1D", pool_size=4, **FIRST),
        ],
        [],
        lambda x: turn(pool(x, 4, 4, (0, 0), np.mean)),
    ),
    "global-max": ([layer_config("GlobalMaxPooling1D")], [], lambda x: x.max(axis=1)),
    "global-max-first": (
        [layer_config("GlobalMaxPooling1D", **FIRST)],
        [],
        lambda x: x.max(axis=2),
    ),
    "global-max-kept": (
        [layer_config("GlobalMaxPooling1D", keepdims=True)],
        [],
        lambda x: x.max(axis=1),
    ),
    "global-average": (
        [layer_config("GlobalAveragePooling1D", keepdims=True)],
        [],
        lambda x: x.mean(axis=1),
    ),
    "global-average-first": (
        [layer_config("GlobalAveragePooling1D", **FIRST)],
        [],
        lambda x: x.mean(axis=2),
    ),
    "zeros": (
        [layer_config("ZeroPadding1D", padding=[1, 3])],
        [],
        lambda x: np.pad(x, ((0, 0), (1, 3), (0, 0))),
    ),
    "cropping": ([layer_config("Cropping1D", cropping=[2, 3])], [], lambda x: x[:, 2:-3]),
    "flatten-first": ([layer_config("Flatten", **FIRST)], [], turn),
    "reshape": (
        [layer_config("Reshape", target_shape=[3, -1])],
        [],
        lambda x: x.reshape(len(x), 3, 8),
    ),
    "permute": ([layer_config("Permute", dims=[2, 1])], [], turn),
    "permute-nothing": ([layer_config("Permute", dims=[1, 2])], [], lambda x: x),
    "dense": (
        [layer_config("Dense", units=3, activation="relu")],
        [W, B3],
        lambda x: np.maximum(x @ W + B3, 0),
    ),
    "batch-norm": (
        [layer_config("BatchNormalization", axis=-1, epsilon=0.01)],
        [GAMMA, BETA, MEAN, VARIANCE],
        lambda x: batch_normalize(x, MEAN, VARIANCE, 0.01, GAMMA, BETA),
    ),
    "batch-norm-no-scale": (
        [layer_config("BatchNormalization", axis=[2], scale=False)],
        [BETA, MEAN, VARIANCE],
        lambda x: batch_normalize(x, MEAN, VARIANCE, 1e-3, 1.0, BETA),
    ),
    "batch-norm-bare": (
        [layer_config("BatchNormalization", axis=2, scale=False, center=False)],
        [MEAN, VARIANCE],
        lambda x: batch_normalize(x, MEAN, VARIANCE, 1e-3),
    ),
    "batch-norm-positions": (
        [layer_config("BatchNormalization", axis=1, scale=False, center=False)],
        [LONG[0], LONG[1] ** 2],
        lambda x: batch_normalize(x, LONG[0][:, None], LONG[1][:, None] ** 2, 1e-3),
    ),
    "layer-norm": (
        [layer_config("LayerNormalization", axis=[2], epsilon=0.1)],
        [GAMMA, BETA],
        lambda x: normalize(x, 2, 0.1, GAMMA, BETA),
    ),
    "layer-norm-all": (
        [layer_config("LayerNormalization", axis=[1, 2])],
        list(FULL),
        lambda x: normalize(x, (1, 2), 1e-3, *FULL),
    ),
    "layer-norm-positions": (
        [layer_config("LayerNormalization", axis=1, center=False)],
        [LONG[0]],
        lambda x: normalize(x, 1, 1e-3, LONG[0][:, None]),
    ),
    "normalization-all": (
        [layer_config("Normalization", axis=[1, 2])],
        [FULL[0], FULL[1] ** 2, np.array(9)],
        lambda x: (x - FULL[0]) / np.sqrt((FULL[1] ** 2).astype(float)),
    ),
    "normalization-positions": (
        [layer_config("Normalization", axis=1, invert=True)],
        [LONG[0], LONG[1] ** 2, np.array(9)],
        lambda x: x * np.sqrt((LONG[1][:, None] ** 2).astype(float)) + LONG[0][:, None],
    ),
    "rescaling": (
        [layer_config("Rescaling", scale=[2.0, 0.5], offset=-1.0)],
        [],
        lambda x: x * [2.0, 0.5] - 1,
    ),
    "idle": (
        [
            layer_config(name, f"idle_{name}")
            for name in ("SpatialDropout1D", "GaussianNoise", "GaussianDropout")
        ]
        + [
            layer_config(name, f"idle_{name}")
            for name in ("ActivityRegularization", "AlphaDropout", "Identity")
        ],
        [],
        lambda x: x,
    ),
}


@WRITERS
@pytest.mark.parametrize(("configs", "arrays", "expected"), CASES.values(), ids=CASES)
def test_a_layer_of_keras_does_what_numpy_does(rng, path, write, configs, arrays, expected):
    x = rng.normal(size=(4, N, CHANNELS))
    y = expected(x).reshape(len(x), -1)
    last = rng.normal(size=(y.shape[1], 2)).astype(np.float32), draw(2)
    model = sequential(
        input_config(N, CHANNELS),
        *configs,
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
    )
    write(
        path,
        model,
        {configs[0]["config"]["name"]: arrays, "last": last} if arrays else {"last": last},
    )
    imported = import_network(path, check=(x.reshape(4, -1), y @ last[0].astype(float) + last[1]))
    assert_predicts(imported, x.reshape(4, -1), y @ last[0].astype(float) + last[1])


ACTIVATION_CASES = {
    **{
        f"name-{name}": (name, name, {})
        for name in ("relu", "elu", "selu", "tanh", "sigmoid", "softplus", "gelu")
    },
    "name-linear": ("linear", "linear", {}),
    "name-none": (None, "linear", {}),
    "name-silu": ("silu", "silu", {}),
    "name-swish": ("swish", "silu", {}),
    "name-leaky_relu": ("leaky_relu", "leaky_relu", {"negative_slope": 0.2}),
    "name-relu6": ("relu6", "clip", {"minimum": 0, "maximum": 6}),
    "activation": (layer_config("Activation", activation="softplus"), "softplus", {}),
    "relu": (layer_config("ReLU", negative_slope=0.0, threshold=0.0, max_value=None), "relu", {}),
    "relu-slope": (layer_config("ReLU", negative_slope=0.1), "leaky_relu", {"negative_slope": 0.1}),
    "relu-max": (layer_config("ReLU", max_value=1.5), "clip", {"minimum": 0, "maximum": 1.5}),
    "leaky-3": (
        layer_config("LeakyReLU", negative_slope=0.4),
        "leaky_relu",
        {"negative_slope": 0.4},
    ),
    "leaky-2": (layer_config("LeakyReLU", alpha=0.05), "leaky_relu", {"negative_slope": 0.05}),
    "leaky-numpy": (
        layer_config("LeakyReLU", alpha={"value": 0.25}),
        "leaky_relu",
        {"negative_slope": 0.25},
    ),
    "leaky-default": (layer_config("LeakyReLU"), "leaky_relu", {"negative_slope": 0.3}),
    "elu": (layer_config("ELU", alpha=0.7), "elu", {"alpha": 0.7}),
}


@pytest.mark.parametrize(
    ("written", "name", "options"), ACTIVATION_CASES.values(), ids=ACTIVATION_CASES
)
@pytest.mark.parametrize("place", ["inside", "after"])
def test_activations_mean_what_keras_means_by_them(rng, path, written, name, options, place):
    (kernel, bias), (last, _) = draw_layers(rng, (7, 30, 2))
    inside, after = "linear", []
    if place == "inside" or not isinstance(written, dict):
        inside = written
    else:
        after = [written]
    model = sequential(
        input_config(7), dense_config("a", 30, inside), *after, dense_config("b", 2, None, False)
    )
    write_h5(path, model, {"a": (kernel, bias), "b": (last,)})
    x = rng.normal(size=(5, 7))
    assert_predicts(
        import_network(path), x, activate(name, x @ kernel.astype(float) + bias, **options) @ last
    )


def test_every_name_of_a_function_that_is_read_is_among_the_cases():
    """symspec's activations keep their names in Keras: a new one needs a case above, too."""
    names = {written for written, *_ in ACTIVATION_CASES.values() if isinstance(written, str)}
    assert names == set(FUNCTIONS)
