"""Convolutions, normalizations and branches of other programs predict as plain NumPy loops on the same arrays."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from network_files import (
    dense_config,
    functional,
    input_config,
    layer_config,
    sequential,
    state_dict,
    tensor,
    write_groups,
    write_h5,
    write_keras,
    write_safetensors,
    write_torch,
)
from test_importers import assert_predicts, needs, refuse

from symspec.errors import DataError, FileFormatError, OptionError
from symspec.files.importers.descriptions import describe_file, is_foreign_network
from symspec.files.importers.read import import_network
from symspec.networks.convolutions import AveragePool1D, Conv1D, GlobalAveragePool1D, MaxPool1D
from symspec.networks.layers import Activation, Dense, Dropout, Unstandardize
from symspec.networks.network import Network, mlp
from symspec.networks.normalizations import BatchNorm, LayerNorm
from symspec.networks.shaping import Add, Flatten, Permute, Reshape

N, CHANNELS = 12, 2  # positions and channels of what the layers tested see
WRITERS = pytest.mark.parametrize("write", [write_h5, write_keras], ids=["h5", "keras"])


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"


# --- the layers again, one window and one star after the other, on arrays (star, position, channel)


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


DRAWN = np.random.default_rng(4)


def draw(*shape):
    return DRAWN.normal(size=shape).astype(np.float32)


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

# layers of Keras, the arrays of the first, and what they do to x (star, N, CHANNELS)
CASES = {
    "conv": ([layer_config("Conv1D", **CONV)], [K3, B3], lambda x: convolve(x, K3, B3)),
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


def test_the_layers_are_those_that_a_reader_would_have_written(path):
    model = sequential(
        input_config(24),
        layer_config("Reshape", "a", target_shape=[24, 1]),
        layer_config("Conv1D", "b", filters=3, kernel_size=3, padding="same", activation="relu"),
        layer_config("BatchNormalization", "c"),
        layer_config("MaxPooling1D", "d", pool_size=4),
        layer_config("Dropout", "e", rate=0.1),
        layer_config("Flatten", "f"),
        dense_config("g", 2),
    )
    arrays = {
        "b": (draw(3, 1, 3), draw(3)),
        "c": (draw(3), draw(3), draw(3), draw(3) ** 2),
        "g": (draw(18, 2), draw(2)),
    }
    write_keras(path, model, arrays)
    net, theta = import_network(path)
    kinds = [type(layer) for layer in net.layers]
    assert kinds == [Reshape, Conv1D, Activation, BatchNorm, MaxPool1D, Dropout, Flatten, Dense]
    np.testing.assert_array_equal(net.layers[3].mean, arrays["c"][2])
    np.testing.assert_array_equal(net.layers[3].variance, arrays["c"][3])
    np.testing.assert_array_equal(net.unpack(theta)["batchnorm_0/gamma"], arrays["c"][0])
    np.testing.assert_array_equal(net.unpack(theta)["conv1d_0/kernel"], arrays["b"][0])


# --- models that branch and join


VERSIONS = pytest.mark.parametrize("version", [2, 3])


@WRITERS
@VERSIONS
def test_a_residual_network_of_keras_is_one_list_of_layers(rng, path, write, version):
    """Both orders of the terms, the sum of a + b, and an activation that is called twice."""
    kernels = [
        (draw(3, 1, 3), draw(3)),
        (draw(3, 3, 3), draw(3)),
        (draw(3, 3, 3), draw(3)),
        (draw(3, 2), draw(2)),
    ]
    same = {"kernel_size": 3, "padding": "same", "filters": 3}
    operator = layer_config("TFOpLambda", "sum", function="__operators__.add")
    if version == 3:
        operator = layer_config("Add", "sum") | {
            "module": "keras.src.ops.numpy",
            "registered_name": "Add",
        }
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "a", **same),
        layer_config("Conv1D", "b", **same),
        layer_config("ReLU", "act"),
        layer_config("Add", "join"),
        layer_config("Conv1D", "c", **same),
        operator,
        layer_config("GlobalAveragePooling1D", "pool"),
        dense_config("last", 2),
        sources={"join": ["act", "a"], "sum": ["join", "c"]},
        version=version,
    )
    again = functional(
        layer_config("InputLayer"),
        layer_config("ReLU"),
        sources={"a_layer": ["c"]},
        version=version,
    )
    acts = model["config"]["layers"][3]
    acts["inbound_nodes"] += again["config"]["layers"][1]["inbound_nodes"]
    swap = json.dumps(model["config"]["layers"][6]["inbound_nodes"])
    swap = swap.replace('"c", 0', '"act", 1')  # the second call
    model["config"]["layers"][6]["inbound_nodes"] = json.loads(swap)
    write(path, model, dict(zip("abc", kernels, strict=False)) | {"last": kernels[3]})
    x = rng.normal(size=(3, N, 1))
    a = convolve(x, *kernels[0], 1, (1, 1))
    joined = np.maximum(convolve(a, *kernels[1], 1, (1, 1)), 0) + a
    y = joined + np.maximum(convolve(joined, *kernels[2], 1, (1, 1)), 0)
    net, theta = import_network(path)
    assert_predicts(
        (net, theta), x[..., 0], y.mean(axis=1) @ kernels[3][0].astype(float) + kernels[3][1]
    )
    assert [type(layer) for layer in net.layers].count(Add) == 2


@WRITERS
@VERSIONS
@pytest.mark.parametrize("axis", [-1, 1], ids=["channels", "positions"])
def test_branches_of_keras_are_joined_in_their_order(rng, path, write, version, axis):
    arrays = {
        "a": (draw(1, 1, 2), draw(2)),
        "b": (draw(3, 1, 2), draw(2)),
        "last": (draw(N * 4, 2), draw(2)),
    }
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "b", filters=2, kernel_size=3, padding="same"),
        layer_config("Conv1D", "a", filters=2, kernel_size=1),
        layer_config("Concatenate", "join", axis=axis),
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
        sources={"a": ["input"], "join": ["a", "b"]},
        version=version,
    )
    write(path, model, {name: arrays[name] for name in ("b", "a", "last")})
    x = rng.normal(size=(3, N, 1))
    parts = [convolve(x, *arrays["a"]), convolve(x, *arrays["b"], 1, (1, 1))]
    y = (
        np.concatenate(parts, axis=axis).reshape(3, -1) @ arrays["last"][0].astype(float)
        + arrays["last"][1]
    )
    assert_predicts(import_network(path), x[..., 0], y)


@WRITERS
@VERSIONS
def test_several_inputs_are_one_flat_vector_in_the_order_of_the_model(rng, path, write, version):
    """A spectrum, photometry behind it, and two outputs."""
    arrays = {
        "a": (draw(3, 2, 2), draw(2)),
        "b": (draw(5, 3), draw(3)),
        "c": (draw(7, 1), draw(1)),
        "d": (draw(7, 2),),
    }
    model = functional(
        input_config(4, 2, name="spectrum"),
        input_config(5, name="photometry"),
        layer_config("Conv1D", "a", filters=2, kernel_size=3),
        layer_config("Flatten", "flat"),
        dense_config("b", 3, "tanh"),
        layer_config("Concatenate", "join", axis=-1),
        dense_config("c", 1),
        dense_config("d", 2, use_bias=False),
        sources={"a": ["spectrum"], "b": ["photometry"], "join": ["b", "flat"], "d": ["join"]},
        outputs=["d", "c"],
        version=version,
    )
    write(path, model, arrays)
    x = rng.normal(size=(3, 13))
    flat = convolve(x[:, :8].reshape(3, 4, 2), *arrays["a"]).reshape(3, -1)
    joined = np.concatenate([np.tanh(x[:, 8:] @ arrays["b"][0] + arrays["b"][1]), flat], axis=1)
    y = np.concatenate([joined @ arrays["d"][0], joined @ arrays["c"][0] + arrays["c"][1]], axis=1)
    net, theta = import_network(path, label_names=["TEFF", "LOGG", "FE_H"])
    assert_predicts((net, theta), x, y)
    assert (net.n_pixels, net.n_labels) == (13, 3)
    names = {"spectrum": ["spectrum", 0, 0], "photometry": ["photometry", 0, 0]}
    model["config"]["input_layers"] = (
        names  # Keras takes the inputs of a dict in the order of their names
    )
    write(path, model, arrays)
    assert_predicts(import_network(path), np.concatenate([x[:, 8:], x[:, :8]], axis=1), y)


def inner_model(kind, version=3):
    layers = [
        dense_config("dense", 4),
        layer_config("BatchNormalization", "norm"),
        layer_config("ReLU", "act"),
    ]
    frozen = {**layers[0], "config": {**layers[0]["config"], "trainable": False, "name": "held"}}
    layers = [input_config(6, name="inner_input"), frozen, *layers]
    model = sequential(*layers) if kind == "sequential" else functional(*layers, version=version)
    return model | {"config": {**model["config"], "name": "inner"}}


@VERSIONS
@pytest.mark.parametrize("kind", ["sequential", "functional"])
@WRITERS
def test_a_model_inside_a_model_is_taken_apart(rng, path, write, kind, version):
    """`.h5` keeps all arrays of the inner model that are trained before those that are not, or are held."""
    held, dense, norm = (
        (draw(6, 4), draw(4)),
        (draw(4, 4), draw(4)),
        (draw(4), draw(4), draw(4), draw(4) ** 2),
    )
    last = draw(4, 2), draw(2)
    model = functional(
        input_config(6), inner_model(kind, version), dense_config("last", 2), version=version
    )
    text = json.dumps(model).replace(
        '"inner", 0, 0', '"inner", 1, 0'
    )  # some versions count the model itself
    model = json.loads(text)
    if write is write_h5:
        arrays = {"inner": (*dense, *norm[:2], *held, *norm[2:]), "last": last}
    else:
        arrays = {"inner/held": held, "inner/dense": dense, "inner/norm": norm, "last": last}
    write(path, model, arrays)
    x = rng.normal(size=(3, 6))
    h = (x @ held[0].astype(float) + held[1]) @ dense[0] + dense[1]
    h = np.maximum(batch_normalize(h, norm[2], norm[3], 1e-3, norm[0], norm[1]), 0)
    assert_predicts(import_network(path), x, h @ last[0] + last[1])


def test_models_that_share_weights_are_refused(path):
    model = functional(
        input_config(6), dense_config("a", 6), dense_config("last", 2), sources={"last": ["a"]}
    )
    nodes = model["config"]["layers"][1]["inbound_nodes"]
    nodes.append(json.loads(json.dumps(nodes[0]).replace('"input", 0', '"a", 0')))
    last = model["config"]["layers"][2]
    last["inbound_nodes"] = json.loads(
        json.dumps(last["inbound_nodes"]).replace('"a", 0', '"a", 1')
    )
    write_h5(path, model, {"a": (draw(6, 6), draw(6)), "last": (draw(6, 2), draw(2))})
    with pytest.raises(
        FileFormatError,
        match=r"'a' \(Dense\) is called twice, and symspec's layers share no weights",
    ):
        import_network(path)
    model = functional(input_config(6), inner_model("sequential"), dense_config("last", 2))
    model["config"]["layers"][1]["inbound_nodes"] *= 2
    write_h5(path, model, {})
    with pytest.raises(FileFormatError, match=r"'inner' \(Sequential\) is called 2 times"):
        import_network(path)


# --- weights only


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


def test_moments_of_a_weights_only_file_take_the_place_of_those_given(rng, path):
    """Also where another layer refers to the one that they are put into."""
    arrays, x = convolutional_arrays(), rng.normal(size=(3, N))
    write_h5(path, {}, arrays)
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    given = convolutional_net()
    given = Network(given.layers, N, label_names=["TEFF", "LOGG"], wavelength=4000.0 + np.arange(N))
    net, theta = import_network(path, net=given, label_units=["K", "dex"])
    assert (net.label_names, net.label_units) == (("TEFF", "LOGG"), ("K", "dex"))
    np.testing.assert_array_equal(net.wavelength, given.wavelength)
    assert_predicts((net, theta), x, convolutional_forward(arrays, x))
    np.testing.assert_array_equal(net.layers[2].mean, arrays["norm"][2])
    assert given.layers[2].mean.tolist() == [0, 0, 0]
    assert net.layers[5].others == (net.layers[2],)


def test_layers_of_keras_3_are_told_by_their_shapes_where_their_names_say_no_order(rng, path):
    arrays, x = convolutional_arrays(), rng.normal(size=(3, N))
    kinds = {"one": "Conv1D", "norm": "BatchNormalization", "two": "Conv1D", "last": "Dense"}
    with h5py.File(path, "w") as file:
        write_groups(
            file, sequential(*(layer_config(kind, name) for name, kind in kinds.items())), arrays
        )
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    assert_predicts(
        import_network(path, net=convolutional_net()), x, convolutional_forward(arrays, x)
    )


def test_a_mismatch_of_convolutions_is_explained_layer_by_layer(path):
    write_h5(path, {}, convolutional_arrays())
    with pytest.raises(FileFormatError) as error:
        import_network(
            path, net=Network([Reshape((N, 1)), Conv1D(4, 3), blank(4), Flatten(), Dense(2)], N)
        )
    lines = str(error.value).splitlines()
    assert "8 arrays of a network 12-10x4-10x4-2 in this order, got 10: give net=" in lines[0]
    assert (
        "  ! expected conv1d_0/kernel (3, 1, 4), found model_weights/one/one_2/kernel:0 (3, 1, 3)"
        in lines
    )
    assert any(
        re.search(r"! expected batchnorm_0/variance \(4,\), found .*moving_variance", line)
        for line in lines
    )
    negative = convolutional_arrays()
    negative["norm"][3][1] = -1
    write_h5(path, {}, negative)
    with pytest.raises(FileFormatError, match=r"variance \+ epsilon should be positive"):
        import_network(path, net=convolutional_net())


has_wdtools, WDTOOLS_FILE = needs("wdtools/bayesnn.h5")


@has_wdtools
def test_a_published_network_of_white_dwarfs_imports_from_its_weights_alone(rng):
    layers = [
        Reshape((3000, 1)),
        Conv1D(2, 8, padding="same"),
        Activation("relu"),
        Conv1D(4, 8, padding="same"),
    ]
    layers += [
        Activation("relu"),
        MaxPool1D(4),
        Flatten(),
        Dense(196),
        Activation("relu"),
        Dense(86),
    ]
    layers += [Activation("relu"), Dense(2), Unstandardize([2500.0, 5.0], [97500.0, 5.0])]
    net, theta = import_network(
        WDTOOLS_FILE,
        net=Network(layers, 3000),
        label_names=["TEFF", "LOGG"],
        label_units=["K", "dex"],
    )
    with h5py.File(WDTOOLS_FILE) as file:
        names = ("Conv_1", "Conv_2", "Dense_1", "Dense_2", "Output")
        first, second, *dense = [
            [file[f"{n}/{n}_2/{kind}:0"][()] for kind in ("kernel", "bias")] for n in names
        ]
    x = 1 + 0.05 * rng.normal(size=(3, 3000))
    h = np.maximum(convolve(x[..., None], *first, 1, (3, 4)), 0)
    h = np.maximum(convolve(h, *second, 1, (3, 4)), 0)
    h = pool(h, 4, 4, (0, 0), np.max).reshape(3, -1)
    for i, (kernel, bias) in enumerate(dense):
        h = h @ kernel.astype(float) + bias
        h = np.maximum(h, 0) if i < 2 else h
    y = h * [97500, 5] + [2500, 5]
    assert net.n_params == 605_398
    assert_predicts((net, theta), x, y)
    assert ((y > [2500, 5]) & (y < [100_000, 10])).all()


# --- PyTorch: arrays (channel, position)


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
    """Tensors as modules keep them: kernels (out, in, position), a counter, and LayerNorm over the positions."""
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


def write_pt(path, state):
    kinds = {"f": "FloatStorage", "i": "LongStorage"}
    items = {
        name: tensor(array, i, kinds[array.dtype.kind])
        for i, (name, array) in enumerate(state.items())
    }
    write_torch(
        path, state_dict(items), {i: array.tobytes() for i, array in enumerate(state.values())}
    )


def write_safe(path, state):
    write_safetensors(
        path, {name: ("I64", a) if a.dtype.kind == "i" else a for name, a in state.items()}
    )


TORCH = pytest.mark.parametrize("write", [write_pt, write_safe], ids=["pt", "safetensors"])


@TORCH
def test_convolutions_and_normalizations_of_pytorch_fill_the_layers_given(rng, path, write):
    state, x = torch_state(), rng.normal(size=(3, N))
    write(path, state)
    y = torch_forward(state, x)
    net, theta = import_network(path, net=torch_net(), check=(x, y))
    assert_predicts((net, theta), x, y)
    np.testing.assert_array_equal(net.layers[2].variance, state["features.1.running_var"])
    again, weights = import_network(path, net=torch_net())
    np.testing.assert_array_equal(weights, theta)
    assert_predicts((again, weights), x, y)


def test_modules_made_in_another_order_are_told_by_their_shapes(rng, path):
    state, x = torch_state(), rng.normal(size=(3, N))
    last = [name for name in state if name.startswith("last")]
    write_pt(
        path, {name: state[name] for name in [*last, *(name for name in state if name not in last)]}
    )
    assert_predicts(import_network(path, net=torch_net()), x, torch_forward(state, x))


@TORCH
def test_layers_with_positions_first_are_refused_for_pytorch_unless_proved(rng, path, write):
    state = {
        "0.weight": draw(3, 1, 3),
        "0.bias": draw(3),
        "3.weight": draw(2, 30),
        "3.bias": draw(2),
    }
    x = rng.normal(size=(3, N))
    write(path, state)
    last_first = Network(
        [Reshape((N, 1)), Conv1D(3, 3), Activation("relu"), Flatten(), Dense(2)], N
    )
    words = (
        r"net should make vectors of \(channel, position\) as PyTorch does, got flatten_0 of \(10,"
        r" 3\).*channels_first"
    )
    with pytest.raises(OptionError, match=words):
        import_network(path, net=last_first)
    h = np.maximum(convolve(x[..., None], state["0.weight"].transpose(2, 1, 0), state["0.bias"]), 0)
    theirs, permuted = (
        a.reshape(3, -1) @ state["3.weight"].T.astype(float) + state["3.bias"] for a in (turn(h), h)
    )
    with pytest.raises(DataError, match="largest difference"):
        import_network(path, net=last_first, check=(x, theirs))
    assert_predicts(import_network(path, net=last_first, check=(x, permuted)), x, permuted)
    turned = Network(
        [Reshape((N, 1)), Conv1D(3, 3), Activation("relu"), Permute(), Flatten(), Dense(2)], N
    )
    assert_predicts(import_network(path, net=turned), x, theirs)
    pooled = Network([Reshape((N, 1)), Conv1D(3, 3), GlobalAveragePool1D(), Dense(2)], N)
    write(path, state | {"3.weight": draw(2, 3)})
    import_network(path, net=pooled)  # no vector is made of positions and channels


# --- what is in a file


def test_a_description_names_the_layers_that_are_read_and_why_others_are_not(path):
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "conv", filters=3, kernel_size=3),
        layer_config("LSTM", "memory", units=3),
        layer_config("Flatten", "flat"),
        layer_config("Embedding", "lookup"),
        inner_model("sequential"),
        dense_config("last", 2),
    )
    held = {"inner/held": (draw(6, 4), draw(4)), "inner/dense": (draw(4, 4), draw(4))}
    write_keras(
        path, model, {"conv": (draw(3, 1, 3), draw(3)), **held, "last": (draw(30, 2), draw(2))}
    )
    assert is_foreign_network(path)
    description = describe_file(path)
    assert description.format == "whole model of Keras (.keras)"
    assert "net=" in description.advice
    rows = {row.name: row for row in description.rows}
    assert list(rows) == ["input", "conv", "memory", "flat", "lookup", "inner", "last"]
    assert (rows["conv"].kind, rows["conv"].verdict, rows["conv"].out) == ("Conv1D", "yes", (10, 3))
    assert (rows["conv"].shapes, rows["conv"].n_numbers) == (((3, 1, 3), (3,)), 12)
    assert rows["memory"].verdict.startswith(
        "is no layer of symspec's: build the network of symspec's layers"
    )
    assert (rows["flat"].verdict, rows["flat"].out) == (
        "perhaps; a layer before it is not read",
        None,
    )
    assert rows["lookup"].verdict.startswith("is no layer of symspec's")
    assert (rows["inner"].kind, rows["inner"].n_numbers) == ("Sequential", 6 * 4 + 4 + 4 * 4 + 4)


def test_descriptions_of_weights_list_their_arrays(path, rng):
    write_h5(path, sequential(input_config(6), dense_config("a", 2)), {"a": (draw(6, 2), draw(2))})
    description = describe_file(path)
    assert [(row.name, row.verdict) for row in description.rows] == [("input", "yes"), ("a", "yes")]
    assert description.advice == "symspec.read_network(path)"
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    assert [row.shapes for row in describe_file(path).rows] == [((6, 2),), ((2,),)]
    assert describe_file(path).format == "weights of Keras (.h5)"
    for write, words in (
        (write_pt, "state_dict of PyTorch"),
        (write_safe, "weights in safetensors"),
    ):
        write(path, torch_state())
        description = describe_file(path)
        rows = {row.name: row.shapes for row in description.rows}
        assert description.format == words
        assert rows["features.0.weight"] == ((3, 1, 3),)
        assert rows["features.1.num_batches_tracked"] == ((),)
        assert is_foreign_network(path)
    with path.open("wb") as stream:
        np.savez(stream, w_array_0=draw(2, 3), x_min=draw(3))
    assert [(row.name, row.n_numbers) for row in describe_file(path).rows] == [
        ("w_array_0", 6),
        ("x_min", 3),
    ]
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones((3, 4))
        file.create_group("labels")
    assert not is_foreign_network(path)
    path.write_bytes(b"name,flux\n")
    assert not is_foreign_network(path)
    assert not is_foreign_network(path.parent / "missing")


def test_the_command_line_tells_what_a_foreign_file_holds(tmp_path):
    from typer.testing import CliRunner

    from symspec.cli.app import app

    path = tmp_path / "model.keras"
    model = sequential(input_config(6), dense_config("[first]", 2), layer_config("Lambda", "code"))
    write_keras(path, model, {"[first]": (draw(6, 2), draw(2))})
    result = CliRunner().invoke(app, ["info", str(path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["[first]", "Dense", "6", "x", "2,", "2", "yes", "2", "14"] in lines
    assert any(line[:2] == ["code", "Lambda"] and "never" in line for line in lines)
    assert ["all", "14"] in lines
    write_pt(path, torch_state())
    result = CliRunner().invoke(app, ["info", str(path)], env={"COLUMNS": "200"})
    assert "features.0.weight" in result.output
    assert "net=" in result.output
    path.write_bytes(path.read_bytes()[:300])
    assert CliRunner().invoke(app, ["info", str(path)]).exit_code == 1


# --- hostile and broken files


TINY = (draw(3, 1, 3), draw(3))


def huge(*layers):
    return sequential(
        input_config(N, 1), *layers, layer_config("Flatten", "flat"), dense_config("last", 2)
    )


CLAIMS = {
    "filters": huge(layer_config("Conv1D", "a", filters=10**9, kernel_size=3)),
    "kernel": huge(layer_config("Conv1D", "a", filters=3, kernel_size=10**12, padding="same")),
    "dilation": huge(
        layer_config("Conv1D", "a", filters=3, kernel_size=3, dilation_rate=10**15, padding="same")
    ),
    "causal": huge(layer_config("Conv1D", "a", filters=3, kernel_size=10**12, padding="causal")),
    "filters-without-end": huge(layer_config("Conv1D", "a", filters=10**40, kernel_size=3)),
    "units": huge(layer_config("Dense", "a", units=10**9)),
    "pool": huge(layer_config("MaxPooling1D", "a", pool_size=10**12, padding="same")),
    "average": huge(
        layer_config("AveragePooling1D", "a", pool_size=10**12, padding="same", strides=1)
    ),
    "zeros": huge(layer_config("ZeroPadding1D", "a", padding=[10**12, 10**12])),
    "zeros-scaled": huge(
        layer_config("ZeroPadding1D", "a", padding=[2**26, 0]),
        layer_config("Rescaling", "b", scale=2.0, offset=0.0),
    ),
    "reshape": huge(layer_config("Reshape", "a", target_shape=[10**15, -1])),
    "reshape-nothing": huge(layer_config("Reshape", "a", target_shape=[0, -1])),
    "crop": huge(layer_config("Cropping1D", "a", cropping=[10**12, -(10**13)])),
    "norm": huge(
        layer_config("ZeroPadding1D", "a", padding=10**8),
        layer_config("LayerNormalization", "b", axis=[1, 2]),
    ),
    "batch": huge(
        layer_config("ZeroPadding1D", "a", padding=10**8),
        layer_config("BatchNormalization", "b", axis=1),
    ),
    "input": sequential(
        input_config(10**12, 10**12), layer_config("Flatten", "flat"), dense_config("last", 2)
    ),
    "scaled-input": sequential(
        input_config(2**26), layer_config("Rescaling", scale=2.0, offset=0.0)
    ),
    "doubled": huge(
        *(layer_config("ZeroPadding1D", f"z{i}", padding=[0, 2**24]) for i in range(20))
    ),
}


@pytest.mark.parametrize("model", CLAIMS.values(), ids=CLAIMS)
@WRITERS
def test_layers_that_claim_to_be_huge_are_refused_before_anything_is_made(path, write, model):
    names = {layer["config"]["name"] for layer in model["config"]["layers"]}
    arrays = {"a": TINY, "last": (draw(36, 2), draw(2))}
    write(path, model, {name: own for name, own in arrays.items() if name in names})
    refuse(path, str(path))
    begin = time.process_time()
    with contextlib.suppress(FileFormatError):
        describe_file(path)
    assert time.process_time() - begin < 5


def test_hundreds_of_models_inside_each_other_are_read_or_refused_soon(path):
    model = sequential(input_config(3), dense_config("last", 2))
    for i in range(300):
        model = sequential(
            input_config(3), model | {"config": {**model["config"], "name": f"m{i}"}}
        )
    arrays = {"m299": (draw(3, 2), draw(2))}
    write_h5(path, model, arrays)
    begin = time.process_time()
    with contextlib.suppress(FileFormatError):
        import_network(path)
    assert time.process_time() - begin < 5


def test_layers_that_refer_to_many_others_take_no_time(path):
    names = [f"n{i}" for i in range(2000)]
    layers = [layer_config("Add", name) for name in names]
    sources = {
        name: ["input"] * 2 if i == 0 else [names[i - 1]] * 2 for i, name in enumerate(names)
    }
    model = functional(input_config(3), *layers, sources=sources)  # 2^2000 paths
    write_h5(path, model, {"gone": ()})
    begin = time.process_time()
    net, theta = import_network(path)
    assert theta.size == 0
    assert len(net.layers) == 2001
    assert time.process_time() - begin < 5


def test_groups_that_hold_themselves_end(path):
    with h5py.File(path, "w") as file:
        write_groups(file, sequential(dense_config("a", 2)), {"a": (draw(3, 2), draw(2))})
        for i in range(6):
            file["layers"][f"loop_{i}"] = file["layers"]
    refuse(
        path, r"expected dense_0/kernel \(3, 4\), found layers/dense/vars/0 \(3, 2\)", mlp([3, 4])
    )
    import_network(path, net=mlp([3, 2]))


def test_names_of_a_zip_file_that_lead_elsewhere_write_nothing(path, tmp_path):
    write_keras(
        path, sequential(input_config(3), dense_config("a", 2)), {"a": (draw(3, 2), draw(2))}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.txt", "evil")
        archive.writestr("/tmp/evil_of_symspec.txt", "evil")
    before = sorted(os.listdir(tmp_path.parent))
    import_network(path)
    assert sorted(os.listdir(tmp_path.parent)) == before
    assert not Path("/tmp/evil_of_symspec.txt").exists()


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """One good file of each format, of convolutions and branches."""
    folder, arrays = tmp_path_factory.mktemp("whole"), convolutional_arrays()
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "one", filters=3, kernel_size=3, padding="same"),
        layer_config("BatchNormalization", "norm"),
        layer_config("ReLU", "act"),
        layer_config("Conv1D", "two", filters=3, kernel_size=3, padding="same"),
        layer_config("Add", "join"),
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
        sources={"join": ["norm", "two"]},
    )
    write_h5(folder / "h5", model, arrays)
    write_keras(folder / "keras", model, arrays)
    write_pt(folder / "pt", torch_state())
    write_safe(folder / "safetensors", torch_state())
    return {name: (folder / name).read_bytes() for name in ("h5", "keras", "pt", "safetensors")}


@pytest.mark.parametrize("kind", ["h5", "keras", "pt", "safetensors"])
def test_files_cut_or_with_flipped_bits_are_read_or_refused(path, whole_files, kind):
    """Formats without checksums let some flips pass, which `check` is for; none may do anything else."""
    rng, content = np.random.default_rng(23), np.frombuffer(whole_files[kind], np.uint8)
    net = torch_net() if kind in ("pt", "safetensors") else None
    path.write_bytes(whole_files[kind])
    import_network(path, net=net)
    broken = [content[:length] for length in rng.integers(0, len(content), 50)]
    for place in rng.choice(np.flatnonzero(content), 150):
        broken.append(content.copy())
        broken[-1][place] ^= np.uint8(1 << rng.integers(0, 8))
    n_refused = 0
    for one in broken:
        path.write_bytes(one.tobytes())
        begin = time.process_time()
        for call in (lambda: import_network(path, net=net), lambda: describe_file(path)):
            try:
                call()
            except (FileFormatError, OptionError):  # without a description, layers are asked for
                n_refused += 1
        assert time.process_time() - begin < 5
    assert n_refused >= 60


def test_ten_megabytes_of_description_take_little_time_and_memory(path):
    """Asked of a process of its own, whose memory can be limited."""
    layers = [layer_config("ReLU", f"relu_{i}") for i in range(20_000)]
    write_h5(
        path,
        sequential(input_config(3), *layers, dense_config("last", 2)),
        {"last": (draw(3, 2), draw(2))},
    )
    program = (
        "import time; from symspec.importers import import_network\n"
        "begin = time.process_time()\n"
        f"net, theta = import_network({str(path)!r})\n"
        "assert time.process_time() - begin < 5, time.process_time() - begin\n"
        # ru_maxrss would be that of the process that started this one
        "most = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "assert int(most.split()[1]) < 2**20, most\n"
        "print(len(net.layers))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "20001", answer.stderr
