"""Products, learnt slopes, groups, scalers and the standard normal variate come over from ONNX."""

import numpy as np
import pytest
from onnx_graphs import (
    CHANNELS,
    POSITIONS,
    VECTOR,
    Graph,
    assert_same,
    dense,
    draw,
    gemm,
    helper,
    kinds,
    run_reference,
    save,
)
from reference_networks import predict

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.files import import_onnx


@pytest.fixture
def rng():
    return np.random.default_rng(9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def gate(g, rng):
    return g("Gemm", g("Mul", g("Sigmoid", gemm(g, rng, 5)), gemm(g, rng, 5)), draw(rng, 5, 2))


def square(g, rng):
    x = gemm(g, rng, 5)
    return g("Gemm", g("Mul", x, g("Mul", x, x)), draw(rng, 5, 2))


def squeeze(g, rng):
    """A gate of one number a channel, as squeeze-and-excitation has it."""
    x = g("Conv", "input_0", draw(rng, 3, 2, 3), draw(rng, 3))
    means = g("ReduceMean", x, np.array([2]), keepdims=1)
    inner = g("Sigmoid", g("Conv", means, draw(rng, 3, 3, 1)))
    return g("Flatten", g("Mul", inner, x))


def groups(count, n_out):
    def build(g, rng):
        kernel = draw(rng, n_out, 2 // count, 3)
        x = g("Mul", "input_0", -(draw(rng, 2, 1) ** 2))
        shifted = g("Conv", x, draw(rng, 2, 2, 1))
        return g("Flatten", g("Conv", shifted, kernel, draw(rng, n_out), group=count))

    return build


def prelu(*shape):
    def build(g, rng):
        x = g("Conv", "input_0", draw(rng, 3, 2, 3), draw(rng, 3))
        return g("Flatten", g("PRelu", x, draw(rng, *shape)))

    return build


def prelu_of_vector(g, rng):
    return gemm(g, rng, 2, g("PRelu", gemm(g, rng, 5), draw(rng, 5)), 5)


GRAPHS = {
    "gate": (VECTOR, gate),
    "square": (VECTOR, square),
    "squeeze": (POSITIONS, squeeze),
    "groups": (POSITIONS, groups(2, 4)),
    "depthwise": (POSITIONS, groups(2, 2)),
    "prelu": (POSITIONS, prelu(3, 1)),
    "prelu-of-all": (POSITIONS, prelu(1)),
    "prelu-with-stars": (POSITIONS, prelu(1, 3, 1)),
    "prelu-of-vector": (VECTOR, prelu_of_vector),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_operations_give_what_the_evaluator_gives(rng, path, name):
    shapes, build = GRAPHS[name]
    graph = Graph(*shapes)
    assert_same(graph, [build(graph, rng)], path, rng)


# --- the standard normal variate

N = 6


def snv(style):
    """Ways to write (x - mean) / std before a network."""

    def build(g, rng):
        x, axes = "input_0", np.array([1])
        centred = g("Sub", x, g("ReduceMean", x, axes, keepdims=1))
        square = g("Pow", centred, 2.0) if "pow" in style else g("Mul", centred, centred)
        if "sum" in style:
            variance = g("Div", g("ReduceSum", square, axes, keepdims=1), float(N - 1))
        else:
            variance = g("ReduceMean", square, axes, keepdims=1)
        if "bessel" in style:  # PyTorch's std
            variance = g("Div", g("Mul", variance, float(N)), float(N - 1))
        if "factor" in style:
            variance = g("Mul", variance, N / (N - 1))
        spread = g("Sqrt", variance)
        if "epsilon" in style:
            spread = g("Add", spread, 1e-3)
        return dense(g, rng, g("Div", centred, spread), N, 2)

    return build


@pytest.mark.parametrize(
    ("style", "ddof", "epsilon"),
    [
        (("pow",), 0, 0.0),
        (("mul", "bessel"), 1, 0.0),
        (("pow", "factor"), 1, 0.0),
        (("mul", "sum"), 1, 0.0),
        (("pow", "bessel", "epsilon"), 1, 1e-3),
    ],
    ids=["population", "of-pytorch", "by-a-factor", "by-a-sum", "with-epsilon"],
)
def test_the_standard_normal_variate_before_a_network_is_one_layer(rng, path, style, ddof, epsilon):
    graph = Graph((N,))
    net, _ = assert_same(graph, [snv(style)(graph, rng)], path, rng)
    assert kinds(net) == ["snv", "dense"]
    assert net.layers[0].ddof == ddof
    assert net.layers[0].epsilon == pytest.approx(epsilon, rel=1e-12)


@pytest.mark.parametrize("divisor", [N - 2.0, N / 2.0])
def test_another_divisor_is_no_standard_deviation(rng, path, divisor):
    graph = Graph((N,))
    x, axes = "input_0", np.array([1])
    centred = graph("Sub", x, graph("ReduceMean", x, axes, keepdims=1))
    square = graph("ReduceSum", graph("Mul", centred, centred), axes, keepdims=1)
    end = dense(
        graph, rng, graph("Div", centred, graph("Sqrt", graph("Div", square, divisor))), N, 2
    )
    save(graph.model(end), path)
    with pytest.raises(FileFormatError, match=r"is no layer of symspec's|of different shapes"):
        import_onnx(path)


def test_the_variate_of_each_channel_is_not_that_of_all(rng, path):
    """Over positions alone it is no layer of symspec's, and is not taken for one."""
    graph = Graph(*CHANNELS)
    x, axes = "input_0", np.array([2])
    centred = graph("Sub", x, graph("ReduceMean", x, axes, keepdims=1))
    square = graph("ReduceMean", graph("Mul", centred, centred), axes, keepdims=1)
    end = graph("Flatten", graph("Div", centred, graph("Sqrt", square)))
    save(graph.model(end), path)
    with pytest.raises(FileFormatError):
        import_onnx(path)


# --- scikit-learn


def sklearn_model(rng, activation="Relu"):
    """StandardScaler and MLPRegressor by skl2onnx: a Scaler, casts, products and sums."""
    graph = Graph((6,), dtype=np.float32)
    numbers = {"offset": draw(rng, 6).tolist(), "scale": (1 + draw(rng, 6) ** 2).tolist()}
    x = graph("Scaler", "input_0", domain="ai.onnx.ml", **numbers)
    x = graph("Cast", x, to=1)
    x = graph(activation, dense(graph, rng, x, 6, 5))
    end = graph("Reshape", dense(graph, rng, x, 5, 1), np.array([-1, 1]))
    model = graph.model(end)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return graph, model


def test_labels_below_each_other_at_the_end_are_those_of_stars(rng, path):
    """skl2onnx ends the graph of several labels by a reshape to one column."""
    graph = Graph((6,))
    labels = gemm(graph, rng, 3)
    end = graph("Reshape", labels, np.array([-1, 1]))
    model = graph.model(end)
    net, theta = import_onnx(save(model, path))
    x = draw(rng, 4, 6)
    np.testing.assert_allclose(predict(net, theta, x), run_reference(graph, model, x), rtol=1e-10)
    assert net.n_labels == 3
    save(graph.model(graph("Tanh", end)), path)
    with pytest.raises(FileFormatError, match="symspec keeps the stars apart"):
        import_onnx(path)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid"])
def test_a_pipeline_of_scikit_learn_is_read(rng, path, activation):
    graph, model = sklearn_model(rng, activation)
    net, theta = import_onnx(save(model, path))
    x = draw(rng, 3, 6)
    # float32 over a few layers
    np.testing.assert_allclose(predict(net, theta, x), run_reference(graph, model, x), rtol=1e-5)
    assert kinds(net) == ["standardize", "dense", activation.lower(), "dense"]


def test_a_pipeline_of_scikit_learn_itself_is_read(path):
    pytest.importorskip("skl2onnx")
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    X, Y = rng.normal(3, 2, (60, 6)), rng.normal(size=(60, 2))
    for labels in (Y, Y[:, 0]):
        mlp = MLPRegressor(hidden_layer_sizes=(8, 4), max_iter=9, tol=1e9, n_iter_no_change=2)
        pipeline = make_pipeline(StandardScaler(), mlp).fit(X, labels)
        save(to_onnx(pipeline, X[:1].astype(np.float32)), path)
        net, theta = import_onnx(path)
        expected = pipeline.predict(X).reshape(60, -1)
        # float32 in the file
        np.testing.assert_allclose(predict(net, theta, X), expected, rtol=1e-4, atol=1e-5)


def test_outputs_are_named_where_one_of_several_is_at_fault(rng, path):
    graph = Graph((6,))
    ends = [gemm(graph, rng, 2), graph("Softmax", gemm(graph, rng, 3))]
    save(graph.model(*ends), path)
    words = rf"\(Softmax\) is no layer.* The network has 2 outputs: {ends[0]}, {ends[1]}\."
    with pytest.raises(FileFormatError, match=words):
        import_onnx(path)
