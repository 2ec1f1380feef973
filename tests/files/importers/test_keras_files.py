"""Whole models of Keras are read by their own description."""

import h5py
import numpy as np
import pytest
from network_files import (
    NAMES,
    SIZES,
    WRITERS,
    chain,
    dense_config,
    functional,
    input_config,
    layer_config,
    sequential,
    write_h5,
    write_keras,
)
from reference_networks import assert_predicts, draw, draw_layers, forward, predict

from symspec.errors import FileFormatError, OptionError
from symspec.files.importers.read import import_network
from symspec.networks.convolutions import Conv1D, MaxPool1D
from symspec.networks.layers import Activation, Dense, Dropout, Standardize, Unstandardize
from symspec.networks.network import mlp
from symspec.networks.normalizations import BatchNorm
from symspec.networks.shaping import Flatten, Reshape


@pytest.fixture
def rng():
    return np.random.default_rng(3)


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
    arrays = {"norm": (mean, variance, np.array(50)), "a": (kernel, bias)}
    write(path, model, arrays if write is write_keras else {})
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
    scale = np.maximum(np.sqrt(variance.astype(float)), 1e-7)  # one pixel never varied
    s = (x - mean) / scale
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
    # the statistics are in the layers given
    np.testing.assert_array_equal(import_network(path, net=net)[1], theta)


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
