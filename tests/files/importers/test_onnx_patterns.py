"""Several operations that are one layer are known by the ways in which exporters write them."""

import numpy as np
import pytest
from onnx_graphs import (
    CHANNELS,
    ERF,
    N_STARS,
    VECTOR,
    Graph,
    assert_same,
    dense,
    draw,
    elu_of_keras,
    gelu_by_erf,
    gemm,
    kinds,
    save,
)
from reference_networks import predict
from scipy.special import erfc

from symspec.files.importers.onnx.files import import_onnx
from symspec.networks.network import Network


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def rows_of_keras(g, rng):
    """A Dense layer over positions by tf2onnx."""
    shape = g("Concat", g("Gather", g("Shape", "input_0"), np.array([0, 1])), np.array([3]), axis=0)
    x = g("MatMul", g("Reshape", "input_0", np.array([-1, 2])), draw(rng, 2, 3))
    return g("Relu", g("Add", g("Reshape", x, shape), draw(rng, 3)))


def layer_norm_by_parts(style):
    def build(g, rng):
        x = g("Tanh", dense(g, rng, "input_0", 6, 5))
        axes, gamma, beta, epsilon = np.array([-1]), draw(rng, 5), draw(rng, 5), 1e-3
        mean = g("ReduceMean", x, axes)
        centred = g("Sub", x, mean)
        square = g("Pow", centred, 2.0) if style == "pytorch" else g("Mul", centred, centred)
        deviation = g("Sqrt", g("Add", g("ReduceMean", square, axes), epsilon))
        if style == "pytorch":
            normal = g("Add", g("Mul", g("Div", centred, deviation), gamma), beta)
        else:
            factor = g("Mul", g("Reciprocal", deviation), gamma)
            normal = g("Add", g("Mul", x, factor), g("Add", g("Mul", g("Neg", mean), factor), beta))
        return g("Gemm", normal, draw(rng, 5, 2))

    return build


def layer_norm_of_all(g, rng):
    """A normalisation over positions and channels without gamma by tf2onnx."""
    x = g("Unsqueeze", "input_0", np.array([1]))
    mean = g("GlobalAveragePool", x)
    centred = g("Sub", x, mean)
    square = g("GlobalAveragePool", g("Mul", centred, centred))
    factor = g("Reciprocal", g("Sqrt", g("Add", square, 0.1)))
    return g(
        "Add",
        g("Mul", x, factor),
        g("Add", g("Mul", g("Neg", mean), factor), draw(rng, 1, 1, 8, 2)),
    )


def silu(g, rng):
    x = gemm(g, rng, 5)
    return g("Mul", g("Sigmoid", x), x)


def silu_and_factor(g, rng):
    """A silu by tf2onnx, which puts the scaling behind it in between."""
    x = gemm(g, rng, 5)
    return g("Add", g("Mul", g("Mul", draw(rng, 5) ** 2, g("Sigmoid", x)), x), draw(rng, 5))


def silu_and_many_factors(g, rng):
    """Constants whose own product is the work of many nodes."""
    x, factor = "input_0", g.constant(np.array(1.1))
    for i in range(10):
        factor = g("Mul", factor, np.array(1 + i / 10))
    return g("Mul", x, g("Mul", g("Sigmoid", x), factor))


def softplus_with_threshold(g, rng):
    x = g("Mul", gemm(g, rng, 5), 3.0)
    return g("Where", g("Greater", x, 20.0), x, g("Softplus", x))


PATTERNS = {
    "silu": (VECTOR, silu),
    "silu-and-factor": (VECTOR, silu_and_factor),
    "silu-and-many-factors": (VECTOR, silu_and_many_factors),
    "elu-of-keras": (VECTOR, elu_of_keras),
    "rows-of-keras": (CHANNELS, rows_of_keras),
    "row-of-keras": ([(1, 2)], rows_of_keras),
    "layer-norm-of-pytorch": (VECTOR, layer_norm_by_parts("pytorch")),
    "layer-norm-of-keras": (VECTOR, layer_norm_by_parts("keras")),
    "layer-norm-of-keras-by-means": (CHANNELS, layer_norm_of_all),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_operations_that_are_one_layer_give_what_the_evaluator_gives(rng, path, name):
    shapes, build = PATTERNS[name]
    graph = Graph(*shapes)
    assert_same(graph, [build(graph, rng)], path, rng)


@pytest.mark.parametrize("argument", ["div", "mul", "erfc"])
@pytest.mark.parametrize("order", ["x first", "half x", "half phi"])
def test_a_gelu_is_known_by_its_parts(rng, path, order, argument):
    graph = Graph((6,))
    end = gelu_by_erf(order, argument)(graph, rng)
    if argument != "erfc":
        net, theta = assert_same(graph, [end], path, rng, tolerance=ERF)
    else:  # which the evaluator has not
        net, theta = import_onnx(save(graph.model(end), path))
        dense, x = Network(net.layers[:1], 6), draw(rng, N_STARS, 6)
        z = predict(dense, theta, x)
        np.testing.assert_allclose(
            predict(net, theta, x), z * erfc(-z / np.sqrt(2)) / 2, rtol=1e-10
        )
    assert kinds(net) == ["dense", "gelu"]


def test_a_softplus_with_a_threshold_is_one_to_its_rounding(rng, path):
    graph = Graph((6,))
    net, _ = assert_same(graph, [softplus_with_threshold(graph, rng)], path, rng, tolerance=3e-9)
    assert "softplus" in kinds(net)
