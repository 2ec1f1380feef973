"""Weights-only files of Keras fill the layers that are given."""

import re

import h5py
import numpy as np
import pytest
from network_files import (
    SIZES,
    layer_config,
    sequential,
    write_groups,
    write_h5,
    write_layers,
    write_vars,
)
from reference_networks import (
    N,
    assert_predicts,
    blank,
    convolutional_arrays,
    convolutional_forward,
    convolutional_net,
    convolve,
    draw_layers,
    forward,
    needs,
    pool,
)

from symspec.errors import FileFormatError, OptionError
from symspec.files.importers.read import import_network
from symspec.networks.convolutions import Conv1D, MaxPool1D
from symspec.networks.layers import Activation, Dense, Unstandardize
from symspec.networks.network import Network, mlp
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
