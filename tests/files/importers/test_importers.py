"""Networks of other programs import by their files alone and predict as a plain NumPy pass through the same arrays."""

import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from conftest import REFERENCE_ACTIVATIONS, SHARED_DATA
from network_files import (
    NAMES,
    SIZES,
    dense_config,
    functional,
    input_config,
    layer_config,
    numbers,
    sequential,
    state_dict,
    tensor,
    torch_arrays,
    word,
    write_h5,
    write_keras,
    write_layers,
    write_safetensors,
    write_torch,
    write_vars,
)

from symspec.derivatives.compiled import compile_jacobian, compile_predict
from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.archives import write_network
from symspec.files.importers.payne import import_payne
from symspec.files.importers.read import import_network, read_network
from symspec.networks.layers import Dense, Dropout, Standardize, Unstandardize
from symspec.networks.network import mlp

TOLERANCE = 1e-12  # both sides are float64 on the same numbers: only sums in another order differ


def needs(name):
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


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# --- The Payne


def payne_arrays(rng, sizes=(3, 6, 5, 8)):
    arrays = {"x_min": np.array([4000.0, 0.0, -2.0]), "x_max": np.array([7000.0, 5.0, 0.5])}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        arrays[f"w_array_{i}"] = rng.normal(size=(n_out, n_in)).astype(np.float32)
        arrays[f"b_array_{i}"] = rng.normal(size=n_out).astype(np.float32)
    return arrays


def payne_labels(rng):
    return np.array([5500.0, 2.5, -1.0]) + rng.normal(size=(4, 3)) * [500, 1, 0.3]


def payne_spectra(arrays, labels, activation):
    """The formula of The Payne's own code, star by star."""
    spectra = []
    for star in (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5:
        x = star
        n = sum(name.startswith("w_") for name in arrays)
        for i in range(n):
            x = (
                np.einsum("ij,j->i", arrays[f"w_array_{i}"].astype(float), x)
                + arrays[f"b_array_{i}"]
            )
            x = activation(x) if i < n - 1 else x
        spectra.append(x)
    return np.array(spectra)


def payne_leaky_relu(z):
    return np.maximum(0, z) + 0.01 * np.minimum(0, z)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


PAYNE = {"leaky_relu": payne_leaky_relu, "sigmoid": sigmoid}


@pytest.mark.parametrize("activation", PAYNE)
def test_an_emulator_of_the_payne_gives_the_spectra_of_its_own_formula(rng, tmp_path, activation):
    arrays, labels = payne_arrays(rng), payne_labels(rng)
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = payne_spectra(arrays, labels, PAYNE[activation])
    assert_predicts(import_payne(tmp_path / "nn.npz", activation=activation), labels, spectra)
    chosen = import_payne(tmp_path / "nn.npz", activation=activation, pixels=[6, 1])
    assert_predicts(chosen, labels, spectra[:, [6, 1]])


@pytest.mark.parametrize("activation", PAYNE)
def test_a_sample_of_spectra_tells_the_activation_that_the_file_does_not_say(
    rng, tmp_path, activation
):
    arrays, labels = payne_arrays(rng), payne_labels(rng)
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = payne_spectra(arrays, labels, PAYNE[activation])
    names = [f"flux_{i}" for i in range(8)]
    net, theta = import_network(tmp_path / "nn.npz", check=(labels, spectra), label_names=names)
    assert_predicts((net, theta), labels, spectra)
    assert net.label_names == tuple(names)
    with pytest.raises(
        OptionError, match=r"activation should be given.*does not say it.*leaky_relu.*check="
    ):
        import_network(tmp_path / "nn.npz")
    with pytest.raises(DataError, match=r"should predict check, got a largest difference of 0\.00"):
        import_network(tmp_path / "nn.npz", check=(labels, spectra + 1e-3))


def emulate(arrays, labels):
    """Spectra of networks of one pixel each, as El-Badry et al. (2018) have it."""
    s = (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5
    inside = np.einsum("ijk,nk->nij", arrays["w_array_0"], s) + arrays["b_array_0"]
    return np.einsum("ij,nij->ni", arrays["w_array_1"], sigmoid(inside)) + arrays["b_array_1"]


def test_networks_of_one_pixel_each_become_one(rng, tmp_path):
    arrays, labels = payne_arrays(rng, (3,)), payne_labels(rng)
    arrays |= {"w_array_0": rng.normal(size=(7, 4, 3)), "b_array_0": rng.normal(size=(7, 4))}
    arrays |= {"w_array_1": rng.normal(size=(7, 4)), "b_array_1": rng.normal(size=7)}
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = emulate(arrays, labels)
    assert_predicts(import_network(tmp_path / "nn.npz"), labels, spectra)
    assert_predicts(
        import_network(tmp_path / "nn.npz", pixels=slice(2, 5)), labels, spectra[:, 2:5]
    )
    with pytest.raises(OptionError, match="pixels should choose from the 7 in the file"):
        import_network(tmp_path / "nn.npz", pixels=[7])


def test_a_third_layer_of_one_pixel_networks_is_a_number_a_pixel(rng, tmp_path):
    """Ting et al. (2018): w_array_2 sigmoid(w_array_1 sigmoid(w_array_0 s + b_0) + b_1) + b_2."""
    arrays, labels = payne_arrays(rng, (3,)), payne_labels(rng)
    shapes = {"w_array_0": (7, 4, 3), "b_array_0": (7, 4), "w_array_1": (7, 4)}
    shapes |= dict.fromkeys(("b_array_1", "w_array_2", "b_array_2"), (7,))
    arrays |= {name: rng.normal(size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "nn.npz", **arrays)
    s = (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5
    inside = sigmoid(np.einsum("ijk,nk->nij", arrays["w_array_0"], s) + arrays["b_array_0"])
    outside = sigmoid(np.einsum("ij,nij->ni", arrays["w_array_1"], inside) + arrays["b_array_1"])
    assert_predicts(
        import_network(tmp_path / "nn.npz"),
        labels,
        arrays["w_array_2"] * outside + arrays["b_array_2"],
    )


has_payne, PAYNE_FILE = needs("payne_binspec/NN_normalized_spectra.npz")


@has_payne
def test_the_published_emulator_gives_its_spectrum_and_its_derivatives():
    """7,214 pixels x 5 labels, by central differences of NumPy's formula."""
    with np.load(PAYNE_FILE, allow_pickle=False) as file:
        arrays = {name: file[name].astype(float) for name in file.files}
    labels = np.array([[5000, 4.5, -0.1, 0.0, 5.0], [6100, 4.2, 0.1, 0.05, 8.0]])
    spectra = emulate(arrays, labels)
    assert spectra.shape == (2, 7214)
    assert 0.9 < np.median(spectra) < 1.05  # of a normalised spectrum
    net, theta = import_network(PAYNE_FILE)
    assert_predicts((net, theta), labels, spectra)
    assert_predicts(
        import_network(PAYNE_FILE, pixels=slice(3000, 3100)), labels, spectra[:, 3000:3100]
    )
    J = compile_jacobian(net, backend="numpy")(theta, labels)
    for i, step in enumerate(1e-5 * (arrays["x_max"] - arrays["x_min"]) * np.eye(5)):
        differences = (emulate(arrays, labels + step) - emulate(arrays, labels - step)) / (
            2 * step[i]
        )
        # truncation 1e-10 of third derivatives, which weights up to 20 make, and rounding 1e-16 /
        # 1e-5
        np.testing.assert_allclose(
            J[:, :, i], differences, rtol=1e-6, atol=1e-8 * np.abs(differences).max()
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_max": None}, r"should hold w_array_0, b_array_0, \.\.\., x_min and x_max"),
        (
            {"b_array_1": np.zeros(4, np.float32)},
            r"! expected dense_1/bias|expected dense_1/kernel",
        ),
        ({"w_array_1": np.full((5, 6), np.nan)}, "w_array_1 should be finite"),
        ({"w_array_1": np.array([None, 1], dtype=object)}, "object array, which is a pickle"),
        ({"x_min": np.array([4000.0, 0.0, 9.0])}, "scale positive"),
        ({"x_min": np.zeros(2)}, "of one length"),
        ({"w_array_0": np.zeros(3)}, r"w_array_0 should have shape \(neuron, label\)"),
        ({"w_array_0": np.zeros((8, 4, 3))}, "a network .* for each pixel"),
        ({"w_array_0": np.array(["a"])}, "should hold numbers"),
    ],
    ids=["missing", "shape", "nan", "pickle", "range", "lengths", "axes", "pixels", "words"],
)
def test_a_broken_file_of_the_payne_is_refused(rng, tmp_path, change, words):
    arrays = payne_arrays(rng) | change
    np.savez(
        tmp_path / "nn.npz", **{name: array for name, array in arrays.items() if array is not None}
    )
    with pytest.raises(FileFormatError, match=words):
        import_network(tmp_path / "nn.npz", activation="sigmoid")


# --- networks to write in the layouts of Keras and PyTorch


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


@pytest.fixture
def layers(rng):
    return draw_layers(rng)


@pytest.fixture
def x(rng):
    return rng.normal(size=(6, SIZES[0]))


@pytest.fixture
def net():
    return mlp(list(SIZES), activation="tanh")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


# --- Keras: weights only


def test_weights_of_keras_2_fill_the_layers_that_are_given(path, layers, net, x):
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
    y = forward(layers, x)
    imported = import_network(
        path, net=net, check=(x, y), label_names=["TEFF", "LOGG"], label_units=["K", ""]
    )
    assert_predicts(imported, x, y)
    assert (imported[0].label_names, imported[0].label_units) == (("TEFF", "LOGG"), ("K", ""))


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
def test_weights_of_keras_3_keep_their_order_beyond_ten_layers(rng, path, container):
    layers = draw_layers(rng, (4,) * 13)
    with h5py.File(path, "w") as file:
        write_vars(file, layers, container=container)
        file["optimizer/vars/0"] = np.ones((4, 4))
    x = rng.normal(size=(5, 4))
    assert_predicts(
        import_network(path, net=mlp([4] * 13, activation="tanh")), x, forward(layers, x)
    )


def test_a_model_written_as_a_class_is_told_by_its_shapes(rng, path):
    layers = draw_layers(rng, (7, 5, 5, 5, 2))
    net, x = mlp([7, 5, 5, 5, 2], activation="tanh"), rng.normal(size=(4, 7))

    def write(*names):
        with h5py.File(path, "w") as file:
            file.create_group("vars")
            file["optimizer/vars/0"] = np.ones((5, 5))
            for name, arrays in zip(names, layers, strict=True):
                for key, array in enumerate(arrays):
                    file[f"{name}/vars/{key}"] = array

    write("input", "hidden_1", "hidden_2", "a")
    assert_predicts(import_network(path, net=net), x, forward(layers, x))
    write("input", "hidden", "again", "a")
    with pytest.raises(
        FileFormatError, match=r"equal shapes named again, hidden, of which any may come first"
    ):
        import_network(path, net=net)


def test_long_lists_of_names_are_put_together_again(path, layers, net, x):
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = np.array([b"input_1", b"zeta", b"dense_10"])
        file.attrs["layer_names1"] = np.array([b"dense_2", b"alpha"])
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_a_mismatch_is_explained_layer_by_layer(path, layers):
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
    with pytest.raises(FileFormatError) as error:
        import_network(path, net=mlp([7, 5, 4, 5, 2]))
    lines = str(error.value).splitlines()
    assert (
        "should hold the 8 arrays of a network 7-5-4-5-2 in this order, got 8: give net= with the"
        " layers" in lines[0]
    )
    assert "    expected dense_0/bias (5,), found zeta/zeta_2/bias:0 (5,)" in lines
    assert "  ! expected dense_1/kernel (5, 4), found dense_10/dense_10_2/kernel:0 (5, 5)" in lines
    with pytest.raises(
        FileFormatError, match=r"! expected nothing, found alpha/alpha_2/kernel:0 \(5, 2\)"
    ):
        import_network(path, net=mlp([7, 5, 5, 5]))
    with pytest.raises(
        OptionError, match=r"net should be given for .* zeta/zeta_2/kernel:0 \(7, 5\).*symspec\.mlp"
    ):
        import_network(path)
    with pytest.raises(OptionError, match=r"net should be a symspec\.Network, got list"):
        import_network(path, net=[7, 5, 2])


has_wdtools, WDTOOLS_FILE = needs("wdtools/bayesnn.h5")


@has_wdtools
def test_a_published_file_of_weights_is_explained_by_its_convolutions():
    with pytest.raises(FileFormatError) as error:
        import_network(WDTOOLS_FILE, net=mlp([3000, 196, 86, 2]))
    assert "! expected dense_0/kernel (3000, 196), found Conv_1/Conv_1_2/kernel:0 (8, 1, 2)" in str(
        error.value
    )
    assert "Dense_1/Dense_1_2/kernel:0 (3000, 196)" in str(error.value)


@has_wdtools
def test_the_dense_part_of_a_published_network_imports(path):
    with h5py.File(WDTOOLS_FILE) as file, h5py.File(path, "w") as dense:
        dense.attrs["layer_names"] = file.attrs["layer_names"][-5:]
        for name in dense.attrs["layer_names"].astype(str):
            file.copy(name, dense)
        arrays = [
            [file[f"{name}/{name}_2/{kind}:0"][()] for kind in ("kernel", "bias")]
            for name in ("Dense_1", "Dense_2", "Output")
        ]
    x = np.random.default_rng(1).normal(size=(3, 3000))
    assert_predicts(
        import_network(path, net=mlp([3000, 196, 86, 2])), x, forward(arrays, x, "relu")
    )


# --- Keras: whole models


WRITERS = pytest.mark.parametrize("write", [write_h5, write_keras], ids=["h5", "keras"])


def chain(names=NAMES, activation="tanh"):
    last = len(names) - 1
    dense = [
        dense_config(name, SIZES[i + 1], "linear" if i == last else activation)
        for i, name in enumerate(names)
    ]
    return [input_config(SIZES[0]), *dense]


@WRITERS
@pytest.mark.parametrize(
    "model",
    [sequential(*chain()), functional(*chain()), functional(*chain(), version=2)],
    ids=["sequential", "functional", "functional-2"],
)
def test_a_whole_model_of_keras_says_its_own_layers(path, layers, x, write, model):
    write(path, model, dict(zip(NAMES, layers, strict=True)))
    y = forward(layers, x)
    net, theta = import_network(path, label_names=["TEFF", "LOGG"], check=(x, y))
    assert_predicts((net, theta), x, y)
    assert net.label_names == ("TEFF", "LOGG")
    with pytest.raises(OptionError, match="label_names should be 2 words"):
        import_network(path, label_names=["TEFF"])
    with pytest.raises(OptionError, match="activation and pixels are for files of The Payne"):
        import_network(path, activation="sigmoid")


def test_the_layers_of_a_functional_model_may_be_listed_in_any_order(path, layers, x):
    model = functional(*chain())
    model["config"]["layers"].reverse()
    write_h5(path, model, dict(zip(NAMES, layers, strict=True)))
    assert_predicts(import_network(path), x, forward(layers, x))


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


@WRITERS
def test_scalings_of_keras_become_fixed_layers(rng, path, write):
    kernel, bias = draw_layers(rng, (4, 2))[0]
    mean, variance = rng.normal(size=4).astype(np.float32), np.array([4, 0.25, 0, 1], np.float32)
    model = sequential(
        layer_config(
            "Normalization",
            "norm",
            axis=[-1],
            invert=False,
            mean=None,
            variance=None,
            batch_shape=[None, 4],
        ),
        layer_config("Dropout", "drop", rate=0.25),
        dense_config("a", 2),
        layer_config("Rescaling", "scale", scale=[3.0, 5.0], offset=-1.0),
        layer_config(
            "Normalization",
            "norm_out",
            axis=-1,
            invert=True,
            mean=[4000.0, 2.0],
            variance=[250000.0, 4.0],
        ),
    )
    write(
        path,
        model,
        (
            {"norm": (mean, variance, np.array(50)), "a": (kernel, bias)}
            if write is write_keras
            else {}
        ),
    )
    if write is write_h5:
        with h5py.File(path, "a") as file:
            group = file["model_weights"]
            group.attrs["layer_names"] = ["norm", "drop", "a", "scale", "norm_out"]
            for name, arrays in {
                "norm": {"mean:0": mean, "variance:0": variance, "count:0": 50},
                "a": {"a/kernel:0": kernel, "a/bias:0": bias},
            }.items():
                group.create_group(name).attrs["weight_names"] = list(arrays)
                for word, array in arrays.items():
                    group[name][word] = array
            for name in ("drop", "scale", "norm_out"):
                group.create_group(name).attrs["weight_names"] = np.zeros(0)
    x = mean + rng.normal(size=(5, 4)) * 1e-3
    s = (x - mean) / np.maximum(
        np.sqrt(variance.astype(float)), 1e-7
    )  # a pixel that never varied, too
    y = ((s @ kernel.astype(float) + bias) * [3, 5] - 1) * [500, 2] + [4000, 2]
    net, theta = import_network(path)
    np.testing.assert_allclose(predict(net, theta, x), y, rtol=1e-10)
    assert [type(layer) for layer in net.layers] == [
        Standardize,
        Dropout,
        Dense,
        Unstandardize,
        Unstandardize,
    ]
    assert (
        import_network(path, net=net)[1].tolist() == theta.tolist()
    )  # the statistics are in the layers given


def test_the_number_of_pixels_is_found_wherever_it_is_said(path, layers, x):
    arrays = dict(zip(NAMES, layers, strict=True))
    bare = chain()[1:]
    first = dense_config(NAMES[0], SIZES[1], "tanh")
    first["config"]["batch_input_shape"] = [None, 7]
    built = sequential(*bare)
    built["config"]["build_input_shape"] = [None, 7]
    old = sequential(*bare) | {"config": bare}
    for model in (sequential(*bare), built, sequential(first, *bare[1:]), old):
        write_h5(path, model, arrays)
        assert_predicts(import_network(path), x, forward(layers, x))


REFUSED = {
    "lambda": (
        layer_config("Lambda", function="import os"),
        ["(Lambda)", "Lambda layers hold code, which is never run"],
    ),
    "unknown": (
        layer_config("LSTM", units=4),
        ["(LSTM) is no layer of symspec's: build the network of symspec's layers"],
    ),
    "groups": (
        layer_config("Conv1D", filters=4, kernel_size=3, groups=2),
        ["(Conv1D) has 2 groups of channels"],
    ),
    "vector": (
        layer_config("Conv1D", filters=4, kernel_size=3),
        ["takes an array (position, channel)", "Reshape"],
    ),
    "window": (
        [
            layer_config("Reshape", target_shape=[7, 1]),
            layer_config("MaxPooling1D", pool_size=8, padding="valid"),
        ],
        ["a window of 8 positions should fit in 7"],
    ),
    "padding": (
        [
            layer_config("Reshape", target_shape=[7, 1]),
            layer_config("AveragePooling1D", padding="reflect"),
        ],
        ["padding should be one of", "reflect"],
    ),
    "reshape": (
        layer_config("Reshape", target_shape=[2, 4]),
        ["(Reshape) cannot be built", "the sizes differ"],
    ),
    "permute": (layer_config("Permute", dims=[1, 3, 2]), ["puts axes into the order [1, 3, 2]"]),
    "local": (
        layer_config("LocallyConnected1D", filters=2, kernel_size=3, implementation=3),
        ["has implementation 3, padding 'valid' and data_format 'channels_last'", "use 1, 'valid'"],
    ),
    "rms": (layer_config("LayerNormalization", rms_scaling=True), ["has rms_scaling"]),
    "norm-axis": (
        layer_config("LayerNormalization", axis=2),
        ["has axis 2, where a star's array has 1 axes"],
    ),
    "multiply": (layer_config("Multiply"), ["(Multiply) is no layer of symspec's"]),
    "constant": (layer_config("TFOpLambda", function="__operators__.add"), ["adds a constant"]),
    "operator": (layer_config("TFOpLambda", function="math.exp"), ["calls 'math.exp'"]),
    "operation": (
        layer_config("Exp") | {"module": "keras.src.ops.numpy"},
        ["(ops.Exp) is no layer of symspec's"],
    ),
    "own": (
        layer_config("Dense") | {"module": "my.module"},
        [
            "(my.module>Dense) is of a class that is not Keras's own",
            "whose code is not in the file and is never run",
        ],
    ),
    "registered": (layer_config("Dense") | {"registered_name": "mine>Dense"}, ["mine>Dense"]),
    "disguised": (
        layer_config("Add") | {"module": "ops"},
        ["(ops>Add) is of a class that is not Keras's own"],
    ),
    "activation-class": (
        layer_config("Activation", activation=layer_config("ReLU") | {"module": "mine"}),
        ["the activation 'mine>ReLU'"],
    ),
    "function": (
        layer_config("Activation", activation={"class_name": "function", "config": "evil"}),
        ["'evil'"],
    ),
    "hard-sigmoid": (
        layer_config("Activation", activation="hard_sigmoid"),
        ["'hard_sigmoid'", "symspec has linear"],
    ),
    "gelu": (layer_config("Activation", activation="gelu_tanh"), ["activation 'gelu_tanh'"]),
    "threshold": (layer_config("ReLU", threshold=1.0), ["threshold 1.0"]),
    "slope-and-max": (
        layer_config("ReLU", negative_slope=0.1, max_value=6.0),
        ["negative_slope 0.1"],
    ),
    "axis": (layer_config("Normalization", axis=[0], mean=1.0, variance=1.0), ["axis"]),
    "negative-scale": (layer_config("Rescaling", scale=-1.0, offset=0.0), ["positive scale"]),
    "no-number": (layer_config("ELU", alpha="a"), ["a number as alpha"]),
    "no-rate": (layer_config("Dropout", rate=1.5), ["rate should be at least 0 and below 1"]),
    "lengths": (
        layer_config("Rescaling", scale=[1.0, 2.0], offset=0.0),
        ["1 or 7 numbers as scale, got 2"],
    ),
    "variance": (
        layer_config("Normalization", mean=0.0, variance=-1.0),
        ["variances of at least 0"],
    ),
    "statistics": (
        layer_config("Normalization"),
        ["should have the arrays mean and variance, got fewer"],
    ),
    "infinite": (
        layer_config("LeakyReLU", negative_slope=float("inf")),
        ["a number as negative_slope, got inf"],
    ),
    "no-arrays": (dense_config("lost", 5), ["shapes [(7, 5), (5,)], got nothing"]),
    "units": (dense_config("lost", "5"), ["(Dense)"]),
}


@pytest.mark.parametrize(("layer", "words"), REFUSED.values(), ids=REFUSED)
def test_layers_that_symspec_has_not_are_refused_by_name(path, layers, layer, words):
    listed = layer if isinstance(layer, list) else [layer]
    write_h5(
        path,
        sequential(input_config(7), *listed, *chain()[1:]),
        dict(zip(NAMES, layers, strict=True)),
    )
    with pytest.raises(FileFormatError) as error:
        import_network(path)
    assert [word for word in words if word not in str(error.value)] == []


def test_models_whose_layers_hang_together_otherwise_are_refused(path, layers):
    arrays = dict(zip(NAMES, layers, strict=True))

    def refusal(change, version=3):
        model = functional(*chain(), version=version)
        change(model["config"], model["config"]["layers"])
        write_h5(path, model, arrays)
        with pytest.raises(FileFormatError) as error:
            import_network(path)
        return str(error.value)

    def node(layer):
        return layer["inbound_nodes"][0]

    twice = functional(*chain(), sources={"alpha": ["dense_2", "dense_10"]})["config"]["layers"][4]
    assert "'alpha' (Dense) takes 2 inputs" in refusal(lambda config, la: la[4].update(twice))
    assert "outputs zeta, got dense_10" in refusal(
        lambda config, la: config.update(output_layers=["zeta", 0, 0])
    )
    assert "'second' (InputLayer) takes its input from nothing" in refusal(
        lambda config, la: la.append(input_config(3, name="second"))
    )
    assert "takes its input from input" in refusal(
        lambda config, la: (la.pop(0), config.update(input_layers=[]))
    )
    assert "from its own output" in refusal(
        lambda config, la: la[1].update(inbound_nodes=la[4]["inbound_nodes"])
    )
    assert "should have inputs and outputs" in refusal(
        lambda config, la: config.update(output_layers=["gone", 0, 0])
    )
    assert "output 1 of layer" in refusal(
        lambda config, la: config.update(output_layers=["alpha", 0, 1])
    )
    assert "random at every call" in refusal(
        lambda config, la: node(la[2])["kwargs"].update(training=True)
    )
    assert "random at every call" in refusal(
        lambda config, la: node(la[2])[0][3].update(training=True), 2
    )
    write_h5(path, {"class_name": "MyModel", "config": {}}, arrays)
    with pytest.raises(
        FileFormatError, match=r"type Sequential, Functional, Model, got 'MyModel'.*give net="
    ):
        import_network(path)
    for shape in ([None], [None, None], [None, None, 1], [None, "7"], [None, 0]):
        write_h5(
            path, sequential(layer_config("InputLayer", batch_shape=shape), *chain()[1:]), arrays
        )
        with pytest.raises(
            FileFormatError,
            match=r"inputs of shape \(star, pixel\) or .* with known lengths, got \[",
        ):
            import_network(path)


def test_the_layers_given_stand_in_for_a_description_that_cannot_be_read(path, layers, net, x):
    model = sequential(input_config(7), layer_config("Lambda", function="import os"), *chain()[1:])
    for write in (write_h5, write_keras):
        write(path, model, dict(zip(NAMES, layers, strict=True)))
        assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_groups_that_are_of_other_layers_are_refused(path, layers):
    write_keras(path, sequential(*chain()), dict(zip(sorted(NAMES), layers, strict=True)))
    with pytest.raises(FileFormatError, match=r"'zeta'.*layers/dense, which are of 'alpha'"):
        import_network(path)
    write_keras(path, sequential(*chain()), {"zeta": layers[0]})
    with pytest.raises(
        FileFormatError, match=r"'dense_10' \(Dense\) should have arrays .*got nothing"
    ):
        import_network(path)


# --- PyTorch


TYPES = {
    "float": ("FloatStorage", "<f4"),
    "double": ("DoubleStorage", "<f8"),
    "half": ("HalfStorage", "<f2"),
    "big-endian": ("FloatStorage", ">f4"),
}


@pytest.mark.parametrize(("kind", "dtype"), TYPES.values(), ids=TYPES)
def test_a_state_dict_of_pytorch_fills_the_layers_that_are_given(rng, path, net, x, kind, dtype):
    layers = [tuple(a.astype(dtype) for a in pair) for pair in draw_layers(rng)]
    arrays = torch_arrays(layers, ("zeta", "10", "2", "alpha"))  # the order of the file counts
    items = {name: tensor(array, i, kind) for i, (name, array) in enumerate(arrays.items())}
    storages = {i: array.tobytes() for i, array in enumerate(arrays.values())}
    write_torch(path, state_dict(items), storages, b"big" if dtype[0] == ">" else b"little")
    y = forward(layers, x)
    assert_predicts(import_network(path, net=net, check=(x, y)), x, y)


def test_numbers_of_bfloat16_are_widened(rng, path, net):
    layers = draw_layers(rng)
    bits = {
        name: (a.view(np.uint32) >> 16).astype("<u2") for name, a in torch_arrays(layers).items()
    }
    items = {
        name: tensor(array, i, "BFloat16Storage") for i, (name, array) in enumerate(bits.items())
    }
    write_torch(
        path, state_dict(items), {i: array.tobytes() for i, array in enumerate(bits.values())}
    )
    theta = import_network(path, net=net)[1]
    exact = np.concatenate([array.ravel() for pair in layers for array in pair])
    np.testing.assert_allclose(
        theta, exact, rtol=2**-7
    )  # bfloat16 has 7 bits after the first, and these are cut
    assert np.abs(theta - exact).max() > 0
    write_safetensors(path, {name: ("BF16", array) for name, array in bits.items()})
    np.testing.assert_array_equal(import_network(path, net=net)[1], theta)


def test_strides_and_offsets_of_tensors_are_followed(rng, path):
    """All tensors in one storage, with kernels turned, a row used twice and numbers that are of no tensor."""
    storage = rng.normal(size=100).astype(np.float32)
    items = {
        "0.weight": tensor(np.empty((4, 7)), 0, size=100, offset=3, strides=(1, 4)),
        "0.bias": tensor(np.empty(4), 0, size=100, offset=40, strides=(2,)),
        "2.weight": tensor(np.empty((2, 4)), 0, size=100, offset=96, strides=(0, 1)),
        "2.bias": tensor(np.empty(2), 0, size=100, offset=50, strides=(9,)),
    }
    write_torch(path, state_dict(items), {0: storage.tobytes()})
    net = mlp([7, 4, 2])
    blocks = net.unpack(import_network(path, net=net)[1])
    np.testing.assert_array_equal(blocks["dense_0/kernel"], storage[3:31].reshape(7, 4))
    np.testing.assert_array_equal(blocks["dense_0/bias"], storage[40:48:2])
    np.testing.assert_array_equal(blocks["dense_1/kernel"], np.stack([storage[96:100]] * 2).T)
    np.testing.assert_array_equal(blocks["dense_1/bias"], storage[[50, 59]])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_checkpoint_has_its_state_dict_inside(path, layers, net, x, key):
    arrays = torch_arrays(layers)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    inner = state_dict(items)[2:-1]
    content = (
        b"\x80\x02}("
        + word("epoch")
        + b"K\x03"
        + word(key)
        + inner
        + word("loss")
        + b"G"
        + bytes(8)
        + b"u."
    )
    write_torch(path, content, {i: array.tobytes() for i, array in enumerate(arrays.values())})
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_newer_protocols_of_pickle_are_read(path, layers, net, x):
    """Words with a length of one byte, names on the stack, references to what came before."""
    arrays = torch_arrays(layers)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    content = state_dict(items).replace(b"\x80\x02", b"\x80\x04\x95" + bytes(8))
    named = b"\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94"
    content = content.replace(b"ccollections\nOrderedDict\n", named, 1).replace(
        b"ccollections\nOrderedDict\n", b"h\x02"
    )
    write_torch(path, content, {i: array.tobytes() for i, array in enumerate(arrays.values())})
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


def test_kernels_that_are_not_turned_are_explained(path, layers, net):
    arrays = {name: array.T.copy() for name, array in torch_arrays(layers).items()}
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    write_torch(
        path, state_dict(items), {i: array.tobytes() for i, array in enumerate(arrays.values())}
    )
    with pytest.raises(FileFormatError, match=r"\(out, in\), got 8: .*the other way round"):
        import_network(path, net=net)
    with pytest.raises(OptionError, match=r"net should be given for .* 0\.weight \(7, 5\)"):
        import_network(path)


# --- safetensors


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_safetensors_fill_the_layers_in_the_order_of_their_numbers(rng, path, dtype):
    layers = [tuple(a.astype(dtype) for a in pair) for pair in draw_layers(rng, (7,) + (5,) * 7)]
    write_safetensors(path, torch_arrays(layers))  # "10.weight" stands before "2.weight"
    x = rng.normal(size=(4, 7))
    y = forward(layers, x)
    assert_predicts(
        import_network(path, net=mlp([7] + [5] * 7, activation="tanh"), check=(x, y)), x, y
    )


def test_safetensors_without_numbers_are_told_by_their_shapes(rng, path):
    layers = draw_layers(rng, (7, 6, 5, 2))
    write_safetensors(path, torch_arrays(layers, ["input", "hidden", "out"]))
    x = rng.normal(size=(4, 7))
    net = mlp([7, 6, 5, 2], activation="tanh")
    assert_predicts(import_network(path, net=net), x, forward(layers, x))
    with pytest.raises(
        FileFormatError, match=r"expected dense_0/kernel \(4, 7\), found hidden\.weight"
    ):
        import_network(path, net=mlp([7, 4, 5, 2]))


def test_safetensors_whose_order_cannot_be_told_are_refused(rng, path):
    layers, x = draw_layers(rng, (7, 5, 5, 5, 2)), rng.normal(size=(4, 7))
    net = mlp([7, 5, 5, 5, 2], activation="tanh")
    write_safetensors(path, torch_arrays(layers, ["first", "second", "third", "out"]))
    with pytest.raises(
        FileFormatError,
        match=r"equal shapes named second, third.*torch\.save, which keeps the order",
    ):
        import_network(path, net=net)
    write_safetensors(path, torch_arrays(layers, ["fc1", "fc2", "fc3", "out"]))
    assert_predicts(import_network(path, net=net), x, forward(layers, x))


# --- what a file is


def test_the_content_decides_what_a_file_is_and_not_its_name(tmp_path, layers, net, x):
    write_h5(tmp_path / "model.pt", sequential(*chain()), dict(zip(NAMES, layers, strict=True)))
    write_keras(tmp_path / "model.npz", sequential(*chain()), dict(zip(NAMES, layers, strict=True)))
    write_safetensors(tmp_path / "model.h5", torch_arrays(layers))
    arrays = torch_arrays(layers)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    storages = {i: array.tobytes() for i, array in enumerate(arrays.values())}
    write_torch(tmp_path / "model.keras", state_dict(items), storages)
    for name in ("model.pt", "model.npz", "model.h5", "model.keras"):
        assert_predicts(import_network(tmp_path / name, net=net), x, forward(layers, x))


def test_what_is_no_network_is_said_so(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="got nothing there"):
        import_network(path)
    with pytest.raises(FileFormatError, match=r"got a directory: of a TensorFlow SavedModel"):
        import_network(tmp_path)
    for content, words in {
        b"": "starts with b''",
        b"name,flux\n1,2\n": "of another format",
        b"\x80\x02}q\x00.": "a bare pickle, which is never opened",
        b"\x08\x07\x12\x00ONNX": "should be an ONNX model, got .* it is damaged",
    }.items():
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=words):
            import_network(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(FileFormatError, match=r"got a zip file of a\.txt"):
        import_network(path)
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones(3)
    with pytest.raises(
        FileFormatError,
        match=r"with arrays of layers, got one with flux: read files of symspec's own",
    ):
        import_network(path, net=mlp([3, 1]))


def test_a_sample_of_another_network_is_told_apart(path, layers, net, x):
    write_safetensors(path, torch_arrays(layers))
    y = forward(layers, x)
    for wrong in (y * 1.0001, y[::-1], y[:, ::-1], np.full_like(y, np.nan)):
        with pytest.raises(DataError, match="largest difference"):
            import_network(path, net=net, check=(x, wrong))
    with pytest.raises(DataError, match="largest difference"):
        import_network(path, net=mlp(list(SIZES), activation="softplus"), check=(x, y))
    with pytest.raises(
        ShapeError, match=r"check should be input \(star, 7\) and output \(star, 2\)"
    ):
        import_network(path, net=net, check=(x, y[:-1]))
    import_network(path, net=net, check=(x.astype(np.float32), y.astype(np.float32)))
    import_network(path, net=net, check=(x[0], y[0]))


# --- hostile and broken files


MEMORY, SECONDS = 200 * 2**20, 10


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


class Planted:
    """What a pickle would call as it is opened by Python's own reader."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_planted_call_is_refused_by_its_name_and_not_made(path, tmp_path, net, protocol):
    marker = tmp_path / "executed"
    content = pickle.dumps({"0.weight": Planted(marker)}, protocol)
    write_torch(path, content, {})
    refuse(path, "the (name|step)", net)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # so that it would have been


PICKLES = {
    "class": (
        b"\x80\x02c__main__\nNet\n)R.",
        "the name __main__.Net, which is not run.*save .*state_dict",
    ),
    "builtin": (b"\x80\x02c__builtin__\neval\n(" + word("1") + b"tR.", "the name __builtin__.eval"),
    "attribute": (
        b"\x80\x04" + b"\x8c\x02os" + b"\x8c\x06system" + b"\x93.",
        r"the name os\.system",
    ),
    "hidden-torch": (b"\x80\x02ctorch\nload\n.", r"the name torch\.load"),
    "dotted": (b"\x80\x04\x8c\x0ccollections.\x8c\x03abc\x93.", "the name"),
    "instance": (b"(ios\nsystem\n.", "the step INST"),
    "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "the step NEWOBJ"),
    "extension": (b"\x80\x02\x82\x01.", "the step EXT1"),
    "call-of-a-word": (b"\x80\x02" + word("a") + b")R.", "a call of what is no function"),
    "dict-with-items": (
        b"\x80\x02ccollections\nOrderedDict\n(]tR.",
        "a call of collections.OrderedDict with 1",
    ),
    "empty-stack": (b"\x80\x02R.", "a step without its operand"),
    "no-mark": (b"\x80\x02}u.", "a step without its operands"),
    "memo": (b"\x80\x02h\x05.", "a reference to nothing"),
    "no-end": (b"\x80\x02}", "damaged one"),
    "path": (
        state_dict({"a": tensor(np.ones(1, "f4"), "../../etc/passwd")}),
        "a storage with the key '../../etc",
    ),
    "list": (
        b"\x80\x02].",
        "should be a dict of tensors, or have one under state_dict.*, got list",
    ),
    "numbers": (b"\x80\x02}" + word("a") + b"K\x01s.", "got a: save"),
    "tuple-key": (b"\x80\x02}(K\x01tK\x01s.", "a key of type tuple"),
    "long-memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "should be a dict of tensors"),
    "huge-word": (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged one"),
    "beyond": (
        state_dict({"0.weight": tensor(np.ones((4, 7), "f4"), 0, size=27)}),
        "reaches beyond its storage of 27",
    ),
    "offset": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, offset=1)}),
        "reaches beyond its storage of 4",
    ),
    "strides": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, strides=(2,))}),
        "reaches beyond its storage of 4",
    ),
    "negative": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, offset=-1)}),
        "a tensor without a storage",
    ),
    "negative-stride": (
        state_dict({"a": tensor(np.ones(4, "f4"), 0, strides=(-1,))}),
        "a tensor without a storage",
    ),
    "nested-names": (
        b"\x80\x04)"
        + b"\x94h\x00h\x00\x86" * 1
        + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(1, 60))
        + b"K\x01\x93.",
        "a name that is no word",
    ),
}


@pytest.mark.parametrize(("content", "words"), PICKLES.values(), ids=PICKLES)
def test_pickles_of_anything_but_tensors_are_refused(path, net, content, words):
    write_torch(path, content, {})
    refuse(path, words, net)


def test_storages_must_be_as_large_as_they_claim(path):
    net = mlp([7, 2])
    arrays = {"0.weight": np.ones((2, 7), "f4"), "0.bias": np.ones(2, "f4")}
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    storages = {i: array.tobytes() for i, array in enumerate(arrays.values())}
    write_torch(path, state_dict(items), storages | {0: bytes(52)})
    refuse(path, r"data/0 should hold 14 numbers of 4 bytes, got 52 bytes", net)
    write_torch(path, state_dict(items), {0: storages[0]})
    refuse(path, r"data/1 should hold 2 numbers of 4 bytes, got nothing", net)
    write_torch(path, state_dict(items), storages, byteorder=b"middle")
    refuse(path, "byteorder should be little or big", net)
    write_torch(
        path,
        state_dict(items | {"0.weight": tensor(arrays["0.weight"], 0, "IntStorage")}),
        storages,
    )
    refuse(path, "should hold floats, got int32", net)
    write_torch(path, state_dict(items), storages | {1: np.array([1, np.nan], "f4").tobytes()})
    refuse(path, r"0\.bias should be finite", net)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/constants.pkl", b"")
    refuse(path, "TorchScript, which holds code", net)


def test_a_shape_that_repeats_one_number_takes_no_memory_of_its_size(path, net):
    huge = tensor(np.empty(1, "f4"), 0, size=1, strides=(0,)).replace(
        numbers((1,)), numbers((2**40,)), 1
    )
    write_torch(path, state_dict({"0.weight": huge}), {0: bytes(4)})
    refuse(path, r"expected dense_0/kernel \(5, 7\), found 0\.weight \(1099511627776,\)", net)


def bomb(path, member, n_bytes, **members):
    """A zip file whose member unpacks to so many zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        with archive.open(member, "w", force_zip64=True) as stream:
            for _ in range(n_bytes // 2**20):
                stream.write(bytes(2**20))


@pytest.mark.parametrize(
    "member", ["model.weights.h5", "config.json", "w_array_0.npy", "model/data.pkl"]
)
def test_zip_files_that_unpack_to_far_more_are_refused(path, member):
    bomb(path, member, 64 * 2**20)
    refuse(
        path, r"should unpack to .* at most, got a claim of 67,108,864 in a file of", mlp([7, 2])
    )


def test_a_zip_file_that_claims_ten_gigabytes_is_refused(path):
    write_keras(path, sequential(*chain()), {})
    content = bytearray(path.read_bytes())
    at = content.rindex(
        b"PK\x01\x02"
    )  # the directory's entry of the last member, whose size is at 24
    struct.pack_into("<I", content, at + 24, 2**32 - 2)
    path.write_bytes(content)
    refuse(path, "got a claim of 4,294,9", mlp([7, 2]))


SAFETENSORS = {
    "length": (
        struct.pack("<Q", 2**39) + b"{}",
        "should hold a header of 549,755,813,888 bytes, got a file of 10",
    ),
    "truncated": (struct.pack("<Q", 100) + b'{"a"', "should hold a header of 100 bytes"),
    "no-json": (struct.pack("<Q", 4) + b"{{{{", "damaged one"),
    "deep": (struct.pack("<Q", 10**5) + b'{"a":' + b"[" * (10**5 - 5), "damaged one"),
    "list": (struct.pack("<Q", 7) + b'{"a":1}', "damaged one"),
}


@pytest.mark.parametrize(("content", "words"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_broken_headers_of_safetensors_are_refused(path, content, words):
    path.write_bytes(content)
    refuse(path, words, mlp([7, 2]))


ENTRIES = {
    "huge": (
        {"shape": [2**40, 2**40]},
        r"of shape \[1099511627776, 1099511627776\].* should lie in as many bytes",
    ),
    "negative": ({"shape": [-2, -7]}, "should lie in as many bytes"),
    "float": ({"shape": [2.0, 7]}, "should lie in as many bytes"),
    "axes": ({"shape": [2, 7] + [1] * 40}, "should lie in as many bytes"),
    "beyond": ({"shape": [20, 7], "data_offsets": [0, 560]}, "without gap or overlap"),
    "gap": ({"data_offsets": [4, 60]}, "without gap or overlap"),
    "backwards": ({"data_offsets": [56, 0]}, "should lie in as many bytes"),
    "type": ({"dtype": "F8_E4M3"}, "should be of F64, F32.*save it as F32"),
    "integers": ({"dtype": "I32"}, "should hold floats, got int32"),
    "missing": ({"shape": None}, "damaged one"),
}


@pytest.mark.parametrize(("change", "words"), ENTRIES.values(), ids=ENTRIES)
def test_broken_entries_of_safetensors_are_refused(path, change, words):
    entry = {"dtype": "F32", "shape": [2, 7], "data_offsets": [0, 56]} | change
    header = json.dumps(
        {"0.weight": entry, "0.bias": {"dtype": "F32", "shape": [2], "data_offsets": [56, 64]}}
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    refuse(path, words, mlp([7, 2]))


def test_a_name_that_stands_twice_is_refused(path):
    entry = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    header = "{" + entry + "," + entry + "}"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    refuse(path, "a name stands twice", mlp([7, 2]))


def test_nothing_outside_an_hdf5_file_is_opened(path, tmp_path, layers, net):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        write_layers(file, layers)
    for link in (
        h5py.ExternalLink(str(tmp_path / "secret.h5"), "/zeta"),
        h5py.SoftLink("/dense_10"),
    ):
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            del file["zeta"]
            file["zeta"] = link
        refuse(
            path, r"'zeta'.* should be in this file, got a link to .*links are not followed", net
        )
    name = "zeta/zeta_2/kernel:0"
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        del file[name]
        (tmp_path / "secret.bin").write_bytes(bytes(4 * 35))
        file.create_dataset(
            name, (7, 5), "f4", external=[(str(tmp_path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
        )
    refuse(path, "should be in this file, got values in other files", net)
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        del file[name]
        layout = h5py.VirtualLayout((7, 5), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), name, (7, 5))
        file.create_virtual_dataset(name, layout)
    refuse(path, "should be in this file, got values in other files", net)


def test_arrays_that_claim_more_than_the_file_holds_are_refused(path, layers, net):
    name = "zeta/zeta_2/kernel:0"
    for options, words in {
        "chunked": (
            {"shape": (2**20, 2**20), "dtype": "f4", "chunks": (1024, 1024)},
            "of 0 bytes at most",
        ),
        "packed": (
            {"data": np.zeros((2**12, 2**11), "f4"), "compression": "gzip"},
            "bytes at most, got shape",
        ),
        "text": ({"data": np.array([b"a"])}, "should be an array of numbers"),
        "references": ({"shape": (3,), "dtype": h5py.ref_dtype}, "should be an array of numbers"),
        "whole": ({"data": np.ones((7, 5), np.int32)}, "should hold floats, got int32"),
        "nan": ({"data": np.full((7, 5), np.nan)}, "should be finite"),
    }.values():
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            del file[name]
            file.create_dataset(name, **options)
        refuse(path, words, net)


def test_words_of_an_hdf5_file_are_checked_before_they_are_read(path, layers, net):
    for value, words in {
        "number": (7, r"layer_names.* should be a text or a list of names, got shape \(\)"),
        "floats": (np.ones(3), "should be text, got float64"),
        "table": (np.ones((2, 2)), r"a text or a list of names, got shape \(2, 2\)"),
    }.values():
        with h5py.File(path, "w") as file:
            write_layers(file, layers)
            file.attrs["layer_names"] = value
        refuse(path, words, net)
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
        file.attrs["layer_names"] = ["zeta", "missing"]
    refuse(path, "'missing' should be in the file, got nothing", net)


def test_a_heap_of_words_that_runs_in_a_circle_is_refused(path, layers, net):
    with h5py.File(path, "w") as file:
        write_layers(file, layers)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    for place, value in ((heap + 8, 2**40), (heap + 8, 8), (heap + 16 + 8, 2**50)):
        broken = bytearray(content)
        struct.pack_into("<Q", broken, place, value)
        path.write_bytes(broken)
        refuse(path, "a damaged heap of words", net)
    struct.pack_into(
        "<HHIQ", content, heap + 16, 0, 0, 0, 0
    )  # free space of no size: HDF5 would stay there
    path.write_bytes(content)
    refuse(path, "a damaged heap of words", net)


def test_broken_descriptions_of_keras_are_refused(path, layers):
    arrays = dict(zip(NAMES, layers, strict=True))
    for model in (
        None,
        [],
        {"class_name": "Sequential"},
        {"class_name": "Sequential", "config": {"layers": 3}},
        {"class_name": "Sequential", "config": {"layers": []}},
        {"class_name": "Sequential", "config": {"layers": [None]}},
        sequential(
            layer_config("InputLayer", batch_shape=[None, 10**15]),
            layer_config("Rescaling", scale=1, offset=0),
        ),
        sequential(input_config(7), dense_config("zeta", 10**12)),
        sequential(input_config(7), dense_config("zeta", -5)),
    ):
        write_h5(path, model, arrays)
        refuse(path, str(path))
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "[" * 5000
    refuse(path, "damaged one")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refuse(path, r"should hold model\.weights\.h5, got config\.json")


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """One good file of each format, with the layers to give."""
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(5)
    layers = draw_layers(rng)
    arrays, named = torch_arrays(layers), dict(zip(NAMES, layers, strict=True))
    np.savez(folder / "payne", **payne_arrays(rng))
    write_h5(folder / "h5", sequential(*chain()), named)
    write_keras(folder / "keras", functional(*chain()), named)
    items = {name: tensor(array, i) for i, (name, array) in enumerate(arrays.items())}
    write_torch(
        folder / "torch",
        state_dict(items),
        {i: array.tobytes() for i, array in enumerate(arrays.values())},
    )
    write_safetensors(folder / "safetensors", arrays)
    return {
        name: (folder / name).read_bytes() for name in ("h5", "keras", "torch", "safetensors")
    } | {"payne": (folder / "payne.npz").read_bytes()}


def options_of(kind, net):
    return {
        "payne": {"activation": "sigmoid"},
        "torch": {"net": net},
        "safetensors": {"net": net},
    }.get(kind, {})


FORMATS = pytest.mark.parametrize("kind", ["payne", "h5", "keras", "torch", "safetensors"])


@FORMATS
def test_a_truncated_file_is_refused(path, whole_files, net, kind):
    content = whole_files[kind]
    path.write_bytes(content)
    import_network(path, **options_of(kind, net))
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError):
            import_network(path, **options_of(kind, net))


@FORMATS
def test_a_file_with_flipped_bits_is_read_or_refused(path, whole_files, net, kind):
    """Formats without checksums let some flips pass, which `check` is for; none may do anything else."""
    rng, content = np.random.default_rng(17), np.frombuffer(whole_files[kind], np.uint8)
    used, n_refused = np.flatnonzero(content), 0
    for _ in range(200):
        broken = content.copy()
        broken[rng.choice(used, 2)] ^= (1 << rng.integers(0, 8, 2)).astype(np.uint8)
        path.write_bytes(broken.tobytes())
        begin = time.process_time()
        try:
            import_network(path, **options_of(kind, net))
        except (FileFormatError, OptionError):  # without a description, layers are asked for
            n_refused += 1
        assert time.process_time() - begin < SECONDS
    assert n_refused > 0


def test_nothing_is_written_and_nothing_foreign_is_imported(path, whole_files, net):
    """Asked of a fresh interpreter."""
    folder = path.parent
    for kind, content in whole_files.items():
        (folder / kind).write_bytes(content)
    program = (
        "import sys; from symspec import mlp; from symspec.importers import import_network\nnet ="
        f" mlp({list(SIZES)})\nfor kind in ('payne', 'h5', 'keras', 'torch', 'safetensors'):\n   "
        " options = {'payne': {'activation': 'sigmoid'}, 'torch': {'net': net},"
        " 'safetensors': {'net': net}}\n    import_network(kind, **options.get(kind,"
        " {}))\nprint([m for m in ('torch', 'keras', 'tensorflow', 'safetensors') if m in"
        " sys.modules])"
    )
    names = sorted(os.listdir(folder))
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder
    )
    assert answer.stdout.strip() == "[]"
    assert sorted(os.listdir(folder)) == names


# --- one name for all


def test_read_network_takes_archives_and_files_of_other_programs(tmp_path):
    net = mlp([3, 4, 2], activation="tanh", label_names=["TEFF", "LOGG"])
    theta = np.random.default_rng(0).normal(size=net.n_params)
    write_network(tmp_path / "own.h5", net, theta)
    own, again = read_network(tmp_path / "own.h5")
    assert own.label_names == ("TEFF", "LOGG")
    np.testing.assert_array_equal(again, theta)
    with pytest.raises(OptionError, match="own archive and needs no options, got check"):
        read_network(tmp_path / "own.h5", check=(np.ones(3), np.ones(2)))
    arrays = payne_arrays(np.random.default_rng(1))
    np.savez(tmp_path / "nn.npz", **arrays)
    imported, weights = read_network(tmp_path / "nn.npz", activation="leaky_relu")
    assert imported.n_pixels == 3
    assert weights.shape == (imported.n_params,)
    (tmp_path / "broken.h5").write_bytes((tmp_path / "own.h5").read_bytes()[:3000])
    with pytest.raises(FileFormatError):
        read_network(tmp_path / "broken.h5")
