"""References between layers of an archive are checked as they are read."""

import h5py
import numpy as np
import pytest

from symspec.errors import FileFormatError
from symspec.files.archives import read_network, write_network
from symspec.networks.layers import Activation, Dense
from symspec.networks.network import Network
from symspec.networks.shaping import Add


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
    if others == "1":
        assert read_network(path)[0].sources[2] == (1,)
        return
    with pytest.raises(FileFormatError, match=r"places of the 2 layers before|@others"):
        read_network(path)
