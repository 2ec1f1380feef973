"""Layers of an archive are read as they were written, and references between them are checked."""

import h5py
import numpy as np
import pytest

from symspec.errors import FileFormatError
from symspec.files.archives import read_network, write_network
from symspec.networks.convolutions import Conv1D, MaxPool1D, ZeroPadding1D
from symspec.networks.layers import Activation, Dense
from symspec.networks.network import Network
from symspec.networks.shaping import Add, Flatten, Reshape


@pytest.mark.parametrize("others", ["1", "7", "-1", "same", ""])
def test_a_layer_refers_to_layers_before_it_alone(tmp_path, others):
    start = Dense(3)
    net = Network([start, Activation("tanh"), Add(start)], 4)
    path = tmp_path / "net.h5"
    write_network(path, net, np.ones(net.n_params))
    with h5py.File(path, "a") as file:
        attributes = file["layers/2"].attrs
        assert attributes["others"] == b"0"
        attributes["others"] = np.bytes_(others)
        file.attrs["format_version"] = 1  # without a digest
    if others == "1":
        assert read_network(path)[0].sources[2] == (1,)
        return
    with pytest.raises(FileFormatError, match=r"places of the 2 layers before|@others"):
        read_network(path)


@pytest.mark.parametrize("padding", [1, (1, 1), (2, 0)])
def test_padding_is_read_in_the_form_it_was_given(tmp_path, padding):
    layers = [
        Reshape((6, 1)),
        ZeroPadding1D(padding),
        Conv1D(2, 3, padding=padding),
        MaxPool1D(3, padding=padding),
        Flatten(),
        Dense(2),
    ]
    net = Network(layers, 6)
    theta = np.arange(net.n_params, dtype=float)
    write_network(tmp_path / "net.h5", net, theta)
    again, weights = read_network(tmp_path / "net.h5")
    assert [layer.padding for layer in again.layers[1:4]] == [padding] * 3
    assert repr(again.layers) == repr(net.layers)
    np.testing.assert_array_equal(weights, theta)
