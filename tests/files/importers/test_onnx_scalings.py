"""Standardisations of ONNX graphs stay fixed layers, and signs go into weights."""

import numpy as np
import pytest
from onnx_graphs import Graph, assert_same, convolution, dense, draw, gemm, kinds, save, sum_of_one

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.files import import_onnx
from symspec.networks.layers import Standardize, Unstandardize


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def test_standardisations_are_fixed_layers_and_biases_parameters(rng, path):
    mean, scale, low, high = (
        draw(rng, 6),
        rng.uniform(1, 2, 6),
        np.array([4000.0, 2.0]),
        np.array([300.0, 0.5]),
    )
    graph = Graph((6,))
    x = graph("Div", graph("Sub", "input_0", mean), scale)
    x = graph("Relu", dense(graph, rng, x, 6, 4))
    end = graph("Add", graph("Mul", dense(graph, rng, x, 4, 2), high), low)
    net, theta = assert_same(graph, [end], path, rng)
    assert kinds(net) == ["standardize", "dense", "relu", "dense", "unstandardize"]
    assert theta.size == 6 * 4 + 4 + 4 * 2 + 2
    first, last = net.layers[0], net.layers[-1]
    assert isinstance(first, Standardize)
    assert isinstance(last, Unstandardize)
    for got, want in (
        (first.mean, mean),
        (first.scale, scale),
        (last.mean, low),
        (last.scale, high),
    ):
        np.testing.assert_array_equal(got, want)


def flip_before(g, rng):
    """1 - flux, whose sign the kernel takes."""
    return dense(g, rng, g("Sub", 1.0, "input_0"), 6, 3)


def flip_before_convolution(g, rng):
    x = g("Unsqueeze", g("Mul", "input_0", np.array(-2.0)), np.array([1]))
    return convolution(g, rng, x, n_in=1, pads=[1, 1])


def flip_after(g, rng):
    return g(
        "Add",
        g("Mul", dense(g, rng, "input_0", 6, 3), np.array([-1.0, 0.0, 2.0])),
        np.array([1.0, 2.0, 3.0]),
    )


def flip_after_convolution(g, rng):
    h = convolution(g, rng, g("Unsqueeze", "input_0", np.array([1])), n_in=1, bias=False)
    return g("Relu", g("Mul", g("Transpose", h, perm=[0, 2, 1]), np.array([-1.0, 1.0, 0.0])))


def flip_twice(g, rng):
    return g("Tanh", g("Neg", g("Mul", g("Add", "input_0", 1.0), -(draw(rng, 6) ** 2) - 0.1)))


def flip_between(g, rng):
    """A batch normalisation with a negative gamma between a relu and a pool."""
    h = g("Relu", convolution(g, rng, g("Unsqueeze", "input_0", np.array([1])), n_in=1))
    h = g("Add", g("Mul", h, np.array([[-1.5], [0.5], [2.0]])), draw(rng, 3, 1))
    return g("MaxPool", h, kernel_shape=[2])


def flip_layer_norm(g, rng):
    return g("Mul", g("LayerNormalization", "input_0", draw(rng, 6), draw(rng, 6)), -1.0)


SIGNS = {
    "before": (flip_before, ["unstandardize", "dense"]),
    "before-convolution": (flip_before_convolution, ["unstandardize", "reshape", "conv1d"]),
    "after": (flip_after, ["dense", "unstandardize"]),
    "after-convolution": (flip_after_convolution, ["reshape", "conv1d", "permute", "relu"]),
    "twice": (flip_twice, ["standardize", "tanh"]),
    "between": (flip_between, ["reshape", "conv1d", "relu", "batchnorm", "maxpool1d"]),
    "layer-norm": (flip_layer_norm, ["layernorm"]),
}


@pytest.mark.parametrize("name", SIGNS)
def test_signs_go_into_the_weights_beside_them(rng, path, name):
    build, expected = SIGNS[name]
    graph = Graph((6,))
    net, _ = assert_same(graph, [build(graph, rng)], path, rng)
    assert [kind for kind in kinds(net) if kind != "flatten"] == expected


def test_two_branches_take_a_scaled_input_each_with_its_own_sign(rng, path):
    graph = Graph((6,))
    x = graph("Mul", "input_0", -1.0)
    assert_same(graph, [graph("Add", gemm(graph, rng, 3, x), gemm(graph, rng, 3, x))], path, rng)


def test_a_sign_stays_out_of_weights_that_somebody_else_sees(rng, path):
    graph = Graph((6,))
    save(graph.model(sum_of_one(graph, rng)), path)
    with pytest.raises(FileFormatError, match="put the sign into the kernel"):
        import_onnx(path)
