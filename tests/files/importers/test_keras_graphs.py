"""Models of Keras that branch, join and nest predict as plain NumPy loops."""

import json

import numpy as np
import pytest
from network_files import (
    WRITERS,
    dense_config,
    functional,
    inner_model,
    input_config,
    layer_config,
    write_h5,
)
from reference_networks import N, assert_predicts, batch_normalize, convolve, draw

from symspec.errors import FileFormatError
from symspec.files.importers.read import import_network
from symspec.networks.shaping import Add


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"  # a name that says nothing


VERSIONS = pytest.mark.parametrize("version", [2, 3])


@WRITERS
@VERSIONS
def test_a_residual_network_of_keras_is_one_list_of_layers(rng, path, write, version):
    """Both orders of the terms, the sum of a + b, and an activation that is called twice."""
    kernels = [
        (draw(3, 1, 3), draw(3)),
        (draw(3, 3, 3), draw(3)),
        (draw(3, 3, 3), draw(3)),
        (draw(3, 2), draw(2)),
    ]
    same = {"kernel_size": 3, "padding": "same", "filters": 3}
    operator = layer_config("TFOpLambda", "sum", function="__operators__.add")
    if version == 3:
        operator = layer_config("Add", "sum") | {
            "module": "keras.src.ops.numpy",
            "registered_name": "Add",
        }
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "a", **same),
        layer_config("Conv1D", "b", **same),
        layer_config("ReLU", "act"),
        layer_config("Add", "join"),
        layer_config("Conv1D", "c", **same),
        operator,
        layer_config("GlobalAveragePooling1D", "pool"),
        dense_config("last", 2),
        sources={"join": ["act", "a"], "sum": ["join", "c"]},
        version=version,
    )
    again = functional(
        layer_config("InputLayer"),
        layer_config("ReLU"),
        sources={"a_layer": ["c"]},
        version=version,
    )
    acts = model["config"]["layers"][3]
    acts["inbound_nodes"] += again["config"]["layers"][1]["inbound_nodes"]
    swap = json.dumps(model["config"]["layers"][6]["inbound_nodes"])
    swap = swap.replace('"c", 0', '"act", 1')  # the second call
    model["config"]["layers"][6]["inbound_nodes"] = json.loads(swap)
    write(path, model, dict(zip("abc", kernels, strict=False)) | {"last": kernels[3]})
    x = rng.normal(size=(3, N, 1))
    a = convolve(x, *kernels[0], 1, (1, 1))
    joined = np.maximum(convolve(a, *kernels[1], 1, (1, 1)), 0) + a
    y = joined + np.maximum(convolve(joined, *kernels[2], 1, (1, 1)), 0)
    net, theta = import_network(path)
    assert_predicts(
        (net, theta), x[..., 0], y.mean(axis=1) @ kernels[3][0].astype(float) + kernels[3][1]
    )
    assert [type(layer) for layer in net.layers].count(Add) == 2


@WRITERS
@VERSIONS
@pytest.mark.parametrize("axis", [-1, 1], ids=["channels", "positions"])
def test_branches_of_keras_are_joined_in_their_order(rng, path, write, version, axis):
    arrays = {
        "a": (draw(1, 1, 2), draw(2)),
        "b": (draw(3, 1, 2), draw(2)),
        "last": (draw(N * 4, 2), draw(2)),
    }
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "b", filters=2, kernel_size=3, padding="same"),
        layer_config("Conv1D", "a", filters=2, kernel_size=1),
        layer_config("Concatenate", "join", axis=axis),
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
        sources={"a": ["input"], "join": ["a", "b"]},
        version=version,
    )
    write(path, model, {name: arrays[name] for name in ("b", "a", "last")})
    x = rng.normal(size=(3, N, 1))
    parts = [convolve(x, *arrays["a"]), convolve(x, *arrays["b"], 1, (1, 1))]
    y = (
        np.concatenate(parts, axis=axis).reshape(3, -1) @ arrays["last"][0].astype(float)
        + arrays["last"][1]
    )
    assert_predicts(import_network(path), x[..., 0], y)


@WRITERS
@VERSIONS
def test_several_inputs_are_one_flat_vector_in_the_order_of_the_model(rng, path, write, version):
    """A spectrum, photometry behind it, and two outputs."""
    arrays = {
        "a": (draw(3, 2, 2), draw(2)),
        "b": (draw(5, 3), draw(3)),
        "c": (draw(7, 1), draw(1)),
        "d": (draw(7, 2),),
    }
    model = functional(
        input_config(4, 2, name="spectrum"),
        input_config(5, name="photometry"),
        layer_config("Conv1D", "a", filters=2, kernel_size=3),
        layer_config("Flatten", "flat"),
        dense_config("b", 3, "tanh"),
        layer_config("Concatenate", "join", axis=-1),
        dense_config("c", 1),
        dense_config("d", 2, use_bias=False),
        sources={"a": ["spectrum"], "b": ["photometry"], "join": ["b", "flat"], "d": ["join"]},
        outputs=["d", "c"],
        version=version,
    )
    write(path, model, arrays)
    x = rng.normal(size=(3, 13))
    flat = convolve(x[:, :8].reshape(3, 4, 2), *arrays["a"]).reshape(3, -1)
    joined = np.concatenate([np.tanh(x[:, 8:] @ arrays["b"][0] + arrays["b"][1]), flat], axis=1)
    y = np.concatenate([joined @ arrays["d"][0], joined @ arrays["c"][0] + arrays["c"][1]], axis=1)
    net, theta = import_network(path, label_names=["TEFF", "LOGG", "FE_H"])
    assert_predicts((net, theta), x, y)
    assert (net.n_pixels, net.n_labels) == (13, 3)
    # Keras takes the inputs of a dict in the order of their names
    names = {"spectrum": ["spectrum", 0, 0], "photometry": ["photometry", 0, 0]}
    model["config"]["input_layers"] = names
    write(path, model, arrays)
    assert_predicts(import_network(path), np.concatenate([x[:, 8:], x[:, :8]], axis=1), y)


@VERSIONS
@pytest.mark.parametrize("kind", ["sequential", "functional"])
@WRITERS
def test_a_model_inside_a_model_is_taken_apart(rng, path, write, kind, version):
    """`.h5` keeps all arrays of the inner model that are trained before all others."""
    held, dense, norm = (
        (draw(6, 4), draw(4)),
        (draw(4, 4), draw(4)),
        (draw(4), draw(4), draw(4), draw(4) ** 2),
    )
    last = draw(4, 2), draw(2)
    model = functional(
        input_config(6), inner_model(kind, version), dense_config("last", 2), version=version
    )
    # some versions count the model itself
    model = json.loads(json.dumps(model).replace('"inner", 0, 0', '"inner", 1, 0'))
    if write is write_h5:
        arrays = {"inner": (*dense, *norm[:2], *held, *norm[2:]), "last": last}
    else:
        arrays = {"inner/held": held, "inner/dense": dense, "inner/norm": norm, "last": last}
    write(path, model, arrays)
    x = rng.normal(size=(3, 6))
    h = (x @ held[0].astype(float) + held[1]) @ dense[0] + dense[1]
    h = np.maximum(batch_normalize(h, norm[2], norm[3], 1e-3, norm[0], norm[1]), 0)
    assert_predicts(import_network(path), x, h @ last[0] + last[1])


def test_models_that_share_weights_are_refused(path):
    model = functional(
        input_config(6), dense_config("a", 6), dense_config("last", 2), sources={"last": ["a"]}
    )
    nodes = model["config"]["layers"][1]["inbound_nodes"]
    nodes.append(json.loads(json.dumps(nodes[0]).replace('"input", 0', '"a", 0')))
    last = model["config"]["layers"][2]
    last["inbound_nodes"] = json.loads(
        json.dumps(last["inbound_nodes"]).replace('"a", 0', '"a", 1')
    )
    write_h5(path, model, {"a": (draw(6, 6), draw(6)), "last": (draw(6, 2), draw(2))})
    with pytest.raises(
        FileFormatError,
        match=r"'a' \(Dense\) is called twice, and symspec's layers share no weights",
    ):
        import_network(path)
    model = functional(input_config(6), inner_model("sequential"), dense_config("last", 2))
    model["config"]["layers"][1]["inbound_nodes"] *= 2
    write_h5(path, model, {})
    with pytest.raises(FileFormatError, match=r"'inner' \(Sequential\) is called 2 times"):
        import_network(path)


@WRITERS
@VERSIONS
@pytest.mark.parametrize("by", ["layer", "operator"])
def test_a_gate_of_keras_multiplies(rng, path, write, version, by):
    """A squeeze-and-excitation, whose gate is one number a channel, and a product of alike ones."""
    arrays = {
        "a": (draw(3, 1, 2), draw(2)),
        "gate": (draw(2, 2), draw(2)),
        "last": (draw(N * 2, 2), draw(2)),
    }
    product = layer_config("Multiply", "product")
    if by == "operator" and version == 2:
        product = layer_config("TFOpLambda", "product", function="math.multiply")
    elif by == "operator":
        product |= {"module": "keras.src.ops.numpy", "registered_name": "Multiply"}
    model = functional(
        input_config(N, 1),
        layer_config("Conv1D", "a", filters=2, kernel_size=3, padding="same"),
        layer_config("GlobalAveragePooling1D", "pool"),
        layer_config("Dense", "gate", units=2, activation="sigmoid"),
        layer_config("Reshape", "reshape", target_shape=[1, 2]),
        layer_config("Multiply", "gated"),
        product,
        layer_config("Flatten", "flat"),
        dense_config("last", 2),
        sources={"gated": ["a", "reshape"], "product": ["gated", "a"]},
        version=version,
    )
    write(path, model, arrays)
    x = rng.normal(size=(3, N, 1))
    a = convolve(x, *arrays["a"], 1, (1, 1))
    z = a.mean(axis=1) @ arrays["gate"][0].astype(float) + arrays["gate"][1]
    y = (a / (1 + np.exp(-z[:, None])) * a).reshape(3, -1)
    expected = y @ arrays["last"][0].astype(float) + arrays["last"][1]
    assert_predicts(import_network(path), x[..., 0], expected)


def test_outputs_are_named_where_one_of_several_is_at_fault(path):
    model = functional(
        input_config(7),
        dense_config("regression", 2),
        layer_config("Dense", "classes", units=3, activation="softmax"),
        sources={"classes": ["input"]},
    )
    last = model["config"]["output_layers"]
    model["config"]["output_layers"] = [["regression", 0, 0], ["classes", 0, 0]]
    assert last != model["config"]["output_layers"]
    write_h5(
        path,
        model,
        {name: (draw(7, n), draw(n)) for name, n in (("regression", 2), ("classes", 3))},
    )
    words = r"'softmax'.* The network has 2 outputs: regression, classes\."
    with pytest.raises(FileFormatError, match=words):
        import_network(path)
