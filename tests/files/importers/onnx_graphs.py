"""ONNX graphs under construction, and their outputs by the evaluator of the onnx package."""

import numpy as np
import pytest
from reference_networks import predict

from symspec.files.importers.onnx.files import import_onnx
from symspec.networks.layers import Activation

onnx = pytest.importorskip("onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator


# sums in another order, and the rounding of float32 over a few layers
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}
ERF = 1e-6  # the evaluator computes it in float32
N_STARS = 3


class Graph:
    """An ONNX graph under construction: nodes by their operation, constants by their numbers."""

    def __init__(self, *shapes, dtype=np.float64, opset=20, n_stars="star"):
        self.dtype, self.opset, self.nodes, self.initializers = dtype, opset, [], []
        self.type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.shapes = shapes
        self.inputs = [f"input_{i}" for i in range(len(shapes))]
        self.values = [
            helper.make_tensor_value_info(name, self.type, [n_stars, *shape])
            for name, shape in zip(self.inputs, shapes, strict=True)
        ]

    def constant(self, array, dtype=None):
        """An initializer: floats in the model's own type, whole numbers as they are."""
        array = np.asarray(array)
        if array.dtype.kind == "f":
            array = array.astype(dtype or self.dtype)
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def __call__(self, op, *inputs, n_outputs=1, domain="", **attributes):
        """Add a node; arrays among its inputs become constants. Returns the name of its output."""
        names = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        outputs = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(
            helper.make_node(op, names, outputs, name=outputs[0], domain=domain, **attributes)
        )
        return outputs[0] if n_outputs == 1 else outputs

    def model(self, *outputs):
        """The model that gives these arrays."""
        infos = [helper.make_tensor_value_info(name, self.type, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", self.values, infos, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8
        )


# shapes of one star's input
POSITIONS, CHANNELS, VECTOR = [(2, 8)], [(8, 2)], [(6,)]


def draw(rng, *shape, scale=1.0):
    return rng.normal(size=shape) * scale


def run_reference(graph, model, x):
    """Outputs of the evaluator in the onnx package, side by side."""
    feeds, stop = {}, 0
    for name, shape in zip(graph.inputs, graph.shapes, strict=True):
        start, stop = stop, stop + int(np.prod(shape))
        feeds[name] = x[:, start:stop].reshape(len(x), *shape).astype(graph.dtype)
    outputs = ReferenceEvaluator(model).run(None, feeds)
    return np.concatenate([np.reshape(output, (len(x), -1)) for output in outputs], axis=1)


def save(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def assert_same(graph, outputs, path, rng, tolerance=None):
    model = graph.model(*outputs)
    net, theta = import_onnx(save(model, path))
    x = draw(rng, N_STARS, net.n_pixels)
    expected = run_reference(graph, model, x)
    assert np.isfinite(expected).all()
    tolerance = tolerance or TOLERANCE[graph.dtype]
    np.testing.assert_allclose(
        predict(net, theta, x), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
    )
    return net, theta


def kinds(net):
    return [layer.function if isinstance(layer, Activation) else layer.kind for layer in net.layers]


def gemm(g, rng, n_out, x="input_0", n_in=6, **options):
    kernel = draw(rng, n_out, n_in) if options.get("transB") else draw(rng, n_in, n_out)
    return g("Gemm", x, kernel, draw(rng, n_out), **options)


def dense(g, rng, x, n_in, n_out):
    return g("Add", g("MatMul", x, draw(rng, n_in, n_out)), draw(rng, n_out))


def convolution(g, rng, x, n_in=2, n_out=3, size=3, bias=True, **options):
    arrays = [draw(rng, n_out, n_in, size)] + ([draw(rng, n_out)] if bias else [])
    return g("Conv", x, *arrays, **options)


def activation(op, **options):
    return lambda g, rng: g(op, gemm(g, rng, 5), **options)


def batch_norm(g, x, rng, n):
    return g(
        "BatchNormalization",
        x,
        draw(rng, n),
        draw(rng, n),
        draw(rng, n),
        rng.uniform(0.5, 2, n),
        epsilon=1e-3,
    )


def gelu_by_erf(order, argument):
    def build(g, rng):
        x = dense(g, rng, "input_0", 6, 4)
        z = (
            g("Div", x, np.float64(np.sqrt(2)))
            if argument == "div"
            else g("Mul", np.float64(np.sqrt(0.5)), x)
        )
        phi = (
            g("Add", g("Erf", z), 1.0)
            if argument != "erfc"
            else g("Erfc", g("Mul", x, -np.sqrt(0.5)))
        )
        if order == "x first":
            return g("Mul", g("Mul", x, phi), 0.5)
        return (
            g("Mul", g("Mul", 0.5, x), phi)
            if order == "half x"
            else g("Mul", x, g("Mul", 0.5, phi))
        )

    return build


def elu_of_keras(g, rng, of_parts=1.0):
    x = dense(g, rng, "input_0", 6, 4)
    is_above, elu = g("Greater", x, 0.0), g("Elu", x, alpha=of_parts)
    below = g("Mul", g("Mul", 0.25, elu), g("Cast", g("Not", is_above), to=g.type))
    return g("Add", g("Mul", g("Cast", is_above, to=g.type), elu), below)


def turned_convolution(g, rng):
    """A bias on the last axis after the channels have gone there."""
    x = g("Transpose", convolution(g, rng, "input_0", bias=False), perm=[0, 2, 1])
    return g("Transpose", g("Relu", g("Add", x, draw(rng, 1, 1, 3))), perm=[0, 2, 1])


def sum_of_one(g, rng):
    h = gemm(g, rng, 3)
    return g("Concat", g("Tanh", h), g("Neg", g("Sum", h)), axis=1)


def external(g, rng):
    end = gemm(g, rng, 3)
    tensor = g.initializers[0]
    onnx.external_data_helper.set_external_data(tensor, "/etc/hostname")
    tensor.ClearField("raw_data")
    return end


def spectral_model(rng, dtype=np.float32):
    graph = Graph((12,), dtype=dtype)
    x = graph(
        "Unsqueeze",
        graph("Div", graph("Sub", "input_0", draw(rng, 12)), rng.uniform(1, 2, 12)),
        np.array([1]),
    )
    x = graph(
        "MaxPool", graph("Relu", convolution(graph, rng, x, n_in=1)), kernel_shape=[2], strides=[2]
    )
    x = graph("Tanh", batch_norm(graph, gemm(graph, rng, 4, graph("Flatten", x), 15), rng, 4))
    return graph, graph.model(gemm(graph, rng, 2, x, 4, transB=1))
