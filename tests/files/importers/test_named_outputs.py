"""Outputs of a model are read by name: labels, what is for their noise, and nothing else."""

import numpy as np
import pytest
from network_files import WRITERS, dense_config, functional, input_config, write_h5
from reference_networks import assert_predicts, draw

from symspec.derivatives.compiled import compile_outputs, compile_predict
from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.importers.read import import_network
from symspec.networks.network import mlp
from symspec.networks.noise import PredictedNoise
from symspec.networks.regression import Regression

X = np.random.default_rng(5).normal(size=(4, 6))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"


@pytest.fixture
def arrays():
    return {
        "hidden": (draw(6, 5), draw(5)),
        "regression": (draw(5, 2), draw(2)),
        "classes": (draw(5, 3), draw(3)),
        "spread": (draw(5, 2), draw(2)),
    }


def write_model(path, write, arrays):
    """Two labels, a classification by softmax, which symspec lacks, and logarithms of scatter."""
    model = functional(
        input_config(6),
        dense_config("hidden", 5, "tanh"),
        dense_config("regression", 2),
        dense_config("classes", 3, "softmax"),
        dense_config("spread", 2),
        sources={name: ["hidden"] for name in ("regression", "classes", "spread")},
        outputs=["classes", "spread", "regression"],
    )
    write(path, model, arrays)


def compute(arrays, name):
    kernel, bias = arrays["hidden"]
    h = np.tanh(X @ kernel + bias)
    return h @ arrays[name][0] + arrays[name][1]


@WRITERS
def test_a_head_that_is_not_named_is_left_out(path, write, arrays):
    write_model(path, write, arrays)
    with pytest.raises(FileFormatError, match="softmax"):
        import_network(path)
    net, theta = import_network(path, outputs="regression", label_names=["TEFF", "LOGG"])
    assert_predicts((net, theta), X, compute(arrays, "regression"))
    assert net.n_params == 6 * 5 + 5 + 5 * 2 + 2
    both, theta = import_network(path, outputs=["spread", "regression"])
    y = np.hstack([compute(arrays, "spread"), compute(arrays, "regression")])
    assert_predicts((both, theta), X, y)
    assert both.n_labels == both.n_outputs == 4


@WRITERS
@pytest.mark.parametrize("option", ["log_sigma", "log_variance"])
def test_logarithms_of_scatter_stand_behind_the_labels(path, write, arrays, option):
    write_model(path, write, arrays)
    factor = 1.0 if option == "log_sigma" else 0.5
    names = {"outputs": "regression", option: "spread", "label_names": ["TEFF", "LOGG"]}
    net, theta = import_network(path, **names)
    assert (net.n_labels, net.n_outputs) == (2, 4)
    labels, spread = compute(arrays, "regression"), factor * compute(arrays, "spread")
    y = np.hstack([labels, spread])
    np.testing.assert_allclose(compile_outputs(net, backend="numpy")(theta, X), y, rtol=1e-6)
    np.testing.assert_allclose(compile_predict(net, backend="numpy")(theta, X), labels, rtol=1e-6)
    scaling = ([5000.0, 4.0], [300.0, 0.5])
    scaled = np.hstack([labels * scaling[1] + scaling[0], spread + np.log(scaling[1])])
    net, theta = import_network(path, **names, label_scaling=scaling, check=(X, scaled))
    reg = Regression(net, noise=PredictedNoise(), prior_precision=1.0)
    assert reg.net is net
    scaled[0, 3] += 1.0
    with pytest.raises(DataError, match="'log sigma of LOGG' of star"):
        import_network(path, **names, label_scaling=scaling, check=(X, scaled))


def test_the_outputs_of_onnx_are_named_likewise(path):
    pytest.importorskip("onnx")
    from onnx_graphs import Graph, save

    rng = np.random.default_rng(1)
    graph = Graph((6,))
    kernels = [rng.normal(size=(6, 2)) for _ in range(2)]
    ends = [graph("MatMul", "input_0", kernel) for kernel in kernels]
    classes = graph("Softmax", graph("MatMul", "input_0", rng.normal(size=(6, 3))))
    save(graph.model(classes, *ends), path)
    net, theta = import_network(path, outputs=ends[1], log_sigma=ends[0])
    assert (net.n_labels, net.n_outputs) == (2, 4)
    y = np.hstack([X @ kernels[1], X @ kernels[0]])
    np.testing.assert_allclose(compile_outputs(net, backend="numpy")(theta, X), y, rtol=1e-6)


def test_one_layer_may_give_labels_and_scatter(path, arrays):
    arrays = {"hidden": arrays["hidden"], "regression": (draw(5, 4), draw(4))}
    model = functional(
        input_config(6), dense_config("hidden", 5, "tanh"), dense_config("regression", 4)
    )
    write_h5(path, model, arrays)
    net, theta = import_network(path, n_labels=2, label_names=["TEFF", "LOGG"])
    expected = compute(arrays, "regression")[:, :2]
    np.testing.assert_allclose(compile_predict(net, backend="numpy")(theta, X), expected, rtol=1e-6)


def test_what_cannot_be_meant_is_refused(path, arrays):
    write_model(path, write_h5, arrays)
    known = "has the outputs 'classes', 'spread', 'regression', got"
    for options, error, words in [
        ({"outputs": "REGRESSION"}, OptionError, f"{known} 'REGRESSION'"),
        ({"outputs": ["spread", "spread"]}, OptionError, f"{known} 'spread', 'spread'"),
        ({"outputs": "spread", "log_sigma": "spread"}, OptionError, known),
        ({"log_sigma": "spread", "log_variance": "classes"}, OptionError, "exclude each other"),
        ({"outputs": "spread", "net": mlp([6, 5, 2])}, OptionError, "got them for net="),
        ({"outputs": "regression", "n_labels": 3}, OptionError, "from 1 to 2, got 3"),
        ({"outputs": ["regression", "spread"], "n_labels": 3}, ShapeError, "got 1 for 3 labels"),
    ]:
        with pytest.raises(error, match=words):
            import_network(path, **options)
