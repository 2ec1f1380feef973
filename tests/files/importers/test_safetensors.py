"""Files of safetensors fill the layers that are given; broken ones are refused."""

import json
import struct

import numpy as np
import pytest
from network_files import torch_arrays, write_safetensors
from reference_networks import assert_predicts, draw_layers, forward, refuse

from symspec.errors import FileFormatError
from symspec.files.importers.read import import_network
from symspec.networks.network import mlp


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


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
        r"of shape \[1099511627776, 1099511627776\].* should have data_offsets that fit it",
    ),
    "negative": ({"shape": [-2, -7]}, "should have data_offsets that fit it"),
    "float": ({"shape": [2.0, 7]}, "should have data_offsets that fit it"),
    "axes": ({"shape": [2, 7] + [1] * 40}, "should have data_offsets that fit it"),
    "beyond": ({"shape": [20, 7], "data_offsets": [0, 560]}, "without gap or overlap"),
    "gap": ({"data_offsets": [4, 60]}, "without gap or overlap"),
    "backwards": ({"data_offsets": [56, 0]}, "should have data_offsets that fit it"),
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
    refuse(path, "a name is twice", mlp([7, 2]))
