"""ONNX files of every form and version are read, into their own layers or into those given."""

import sys

import numpy as np
import pytest
from onnx_graphs import (
    N_STARS,
    TOLERANCE,
    Graph,
    TensorProto,
    assert_same,
    convolution,
    dense,
    draw,
    external,
    gelu_by_erf,
    gemm,
    helper,
    kinds,
    numpy_helper,
    run_reference,
    save,
    spectral_model,
    turned_convolution,
)
from reference_networks import predict

from symspec.errors import DataError, FileFormatError, MissingDependencyError
from symspec.files.archives import read_network as read_archived_network
from symspec.files.archives import write_network
from symspec.files.importers.descriptions import describe_file
from symspec.files.importers.onnx.files import import_onnx
from symspec.files.importers.read import read_network
from symspec.networks.network import Network, mlp


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def build_as_of_opset_9(g, rng):
    """Options that later versions have as inputs."""
    h = g("Pad", "input_0", mode="constant", pads=[0, 0, 1, 0, 0, 1], value=0.0)
    h = g("Dropout", g("Clip", h, min=-1.0, max=1.0), ratio=0.25)
    h = g(
        "Squeeze", g("Unsqueeze", g("Slice", h, starts=[1], ends=[9], axes=[2]), axes=[1]), axes=[1]
    )
    first, second = g("Split", h, n_outputs=2, axis=1, split=[1, 1])
    return g(
        "Add",
        g("ReduceMean", first, axes=[2], keepdims=0),
        g("ReduceMean", second, axes=[-1], keepdims=0),
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_options_of_old_versions_are_read_as_the_inputs_of_new_ones(rng, path, dtype):
    graph = Graph((2, 8), opset=9, dtype=dtype)
    assert_same(graph, [build_as_of_opset_9(graph, rng)], path, rng)


@pytest.mark.parametrize("n_stars", [1, 3, None], ids=str)
def test_models_exported_for_a_number_of_stars_are_read_for_any(rng, path, n_stars):
    graph = Graph((2, 8), n_stars=n_stars)
    h = graph("Reshape", convolution(graph, rng, "input_0"), np.array([n_stars or 0, 18]))
    model = graph.model(gemm(graph, rng, 2, h, 18))
    net, theta = import_onnx(save(model, path))
    x = draw(rng, 6, 16)
    expected = np.concatenate(
        [run_reference(graph, model, some) for some in np.split(x, 6 // (n_stars or 6))]
    )
    np.testing.assert_allclose(predict(net, theta, x), expected, rtol=1e-10, atol=1e-10)


def test_an_example_of_three_stars_that_was_written_down_stands_for_any(rng, path):
    graph = Graph((16,))
    h = convolution(graph, rng, graph("Reshape", "input_0", np.array([3, 2, 8])))
    assert_same(graph, [gemm(graph, rng, 2, graph("Reshape", h, np.array([3, -1])), 18)], path, rng)


def test_numbers_are_read_from_every_form_that_a_tensor_has(rng, path):
    kernel, bias = draw(rng, 6, 3).astype(np.float32), draw(rng, 3).astype(np.float16)
    graph = Graph((6,), dtype=np.float32)
    graph.initializers = [
        helper.make_tensor(
            "kernel", TensorProto.FLOAT, kernel.shape, kernel.ravel()
        ),  # a list of numbers
        helper.make_tensor("bias", TensorProto.FLOAT16, bias.shape, bias.tobytes(), raw=True),
        helper.make_tensor(
            "more",
            TensorProto.BFLOAT16,
            (3,),
            np.array([0x3FC0, 0xC000, 0x3E80], "<u2").tobytes(),
            raw=True,
        ),
    ]
    end = graph("Add", graph("Add", graph("MatMul", "input_0", "kernel"), "bias"), "more")
    net, theta = import_onnx(save(graph.model(end), path))
    x = draw(rng, N_STARS, 6)
    expected = x @ kernel.astype(float) + bias.astype(float) + [1.5, -2.0, 0.25]
    np.testing.assert_allclose(predict(net, theta, x), expected, rtol=1e-12)


def test_an_input_that_is_left_out_is_none_of_those_without_a_name(rng, path):
    graph = Graph((6,))
    end = graph("Gemm", "input_0", draw(rng, 6, 3))
    graph.initializers.append(numpy_helper.from_array(draw(rng, 3), ""))
    assert_same(graph, [end], path, rng)


def test_several_outputs_follow_each_other(rng, path):
    graph = Graph((2, 8))
    assert_same(
        graph,
        [convolution(graph, rng, "input_0"), graph("GlobalAveragePool", "input_0")],
        path,
        rng,
    )


def test_a_model_that_does_nothing_is_a_network_without_weights(rng, path):
    graph = Graph((6,))
    net, theta = assert_same(graph, [graph("Identity", "input_0")], path, rng)
    assert kinds(net) == ["identity"]
    assert theta.size == 0


def test_an_onnx_file_is_known_by_its_content_and_proves_itself(rng, tmp_path):
    graph, model = spectral_model(rng)
    path = save(model, tmp_path / "network.bin")
    x = draw(rng, N_STARS, 12)
    y = run_reference(graph, model, x)
    net, theta = read_network(
        path, label_names=["teff", "logg"], label_units=["K", ""], check=(x, y)
    )
    assert net.label_names == ("teff", "logg")
    np.testing.assert_allclose(predict(net, theta, x), y, rtol=1e-5, atol=1e-5)
    with pytest.raises(DataError, match="should predict check"):
        read_network(path, check=(x, y + 0.1))
    write_network(tmp_path / "network.h5", net, theta)
    again, same = read_archived_network(tmp_path / "network.h5")
    np.testing.assert_array_equal(predict(again, same, x), predict(net, theta, x))


def test_the_weights_are_read_into_layers_given_for_them(rng, path):
    graph = Graph((6,))
    x = graph("HardSwish", dense(graph, rng, "input_0", 6, 4))
    model = graph.model(gemm(graph, rng, 2, x, 4, transB=1))
    save(model, path)
    with pytest.raises(
        FileFormatError, match=r"\(HardSwish\) is no layer of symspec's: build the network.*net="
    ):
        read_network(path)
    net, theta = read_network(path, net=mlp([6, 4, 2], activation="silu"))
    kernel, bias, turned, last = map(numpy_helper.to_array, model.graph.initializer)
    np.testing.assert_array_equal(
        theta, np.concatenate([kernel.ravel(), bias, turned.T.ravel(), last])
    )
    with pytest.raises(
        FileFormatError, match=r"expected dense_0/kernel \(6, 5\), found matmul_0_0 kernel \(6, 4\)"
    ):
        read_network(path, net=mlp([6, 5, 2]))
    assert net.n_params == theta.size


def test_weights_of_every_kind_are_read_into_layers_given_for_them(rng, path):
    _, model = spectral_model(rng, np.float64)
    net, theta = import_onnx(save(model, path))
    _, same = import_onnx(path, net=Network(net.layers, 12))
    np.testing.assert_array_equal(same, theta)
    graph = Graph((2, 8))
    end = graph("LayerNormalization", turned_convolution(graph, rng), draw(rng, 6), draw(rng, 6))
    net, theta = import_onnx(save(graph.model(end), path))
    np.testing.assert_array_equal(import_onnx(path, net=Network(net.layers, 16))[1], theta)


def test_what_a_product_is_multiplied_by_goes_into_layers_given_for_it(rng, path):
    graph = Graph((6,))
    model = graph.model(gemm(graph, rng, 3, transB=1, alpha=0.5, beta=2.0))
    net, theta = import_onnx(save(model, path), net=mlp([6, 3]))
    x = draw(rng, N_STARS, 6)
    np.testing.assert_allclose(predict(net, theta, x), run_reference(graph, model, x), rtol=1e-12)


def test_weights_in_another_file_are_told_where_layers_are_given(rng, path):
    graph = Graph((6,))
    save(graph.model(external(graph, rng)), path)
    with pytest.raises(
        FileFormatError, match="'constant_0' is in another file, which is not opened"
    ):
        import_onnx(path, net=mlp([6, 3]))


def test_a_graph_in_a_circle_is_refused_where_layers_are_given(path):
    graph = Graph((6,))
    graph.nodes.append(helper.make_node("Identity", ["a"], ["a"]))
    save(graph.model(graph("Add", "a", np.ones(6))), path)
    with pytest.raises(FileFormatError, match="takes 'a', which nothing before it makes"):
        import_onnx(path, net=mlp([6, 3]))


def test_a_description_tells_what_is_read_and_what_is_not(rng, path):
    graph = Graph((6,))
    x = gelu_by_erf("x first", "div")(graph, rng)
    save(graph.model(graph("Relu", graph("Round", x))), path)
    described = describe_file(path)
    verdicts = {row.kind: row.verdict for row in described.rows}
    assert verdicts["MatMul"] == verdicts["Erf"] == verdicts["Mul"] == "yes"
    assert verdicts["Round"].startswith("is no layer of symspec's")
    assert verdicts["Relu"].startswith("perhaps")
    assert "net=" in described.advice
    assert next(row for row in described.rows if row.kind == "MatMul").shapes == ((6, 4),)


def test_the_package_that_is_needed_is_named(rng, path, monkeypatch):
    save(spectral_model(rng)[1], path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    for read in (read_network, describe_file):
        with pytest.raises(MissingDependencyError, match=r'pip install "symspec\[onnx\]"'):
            read(path)
