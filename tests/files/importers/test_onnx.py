"""ONNX models predict as the onnx package's own evaluator says; what symspec has not is refused in words."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import erfc

from symspec.derivatives.compiled import compile_jacobian, compile_predict
from symspec.errors import DataError, FileFormatError, MissingDependencyError
from symspec.files.archives import read_network as read_archived_network
from symspec.files.archives import write_network
from symspec.files.importers.descriptions import describe_file
from symspec.files.importers.onnx.files import import_onnx
from symspec.files.importers.read import read_network
from symspec.networks.layers import Activation, Standardize, Unstandardize
from symspec.networks.network import Network, mlp

onnx = pytest.importorskip("onnx")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
ReferenceEvaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator

TOLERANCE = {
    np.float64: 1e-10,
    np.float32: 1e-5,
}  # sums in another order, and what float32 loses over a few layers
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
        """A node; arrays among its inputs become constants. Gives the name of its output."""
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


def predict(net, theta, x):
    return compile_predict(net, backend="numpy")(theta, x)


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


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def kinds(net):
    return [layer.function if isinstance(layer, Activation) else layer.kind for layer in net.layers]


# --- operations one by one: input shapes of a star, and what is made of them


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


def pool(op, **options):
    return lambda g, rng: g(op, "input_0", **options)


def branches(g, rng):
    h = g("Tanh", gemm(g, rng, 4))
    left, right, last = (
        g("Relu", dense(g, rng, h, 4, 4)),
        dense(g, rng, h, 4, 4),
        dense(g, rng, h, 4, 4),
    )
    return g("Add", g("Sum", left, h, right), g("Sub", left, last))


def two_inputs(g, rng):
    spectrum = g("Relu", dense(g, rng, "input_0", 6, 4))
    return dense(g, rng, g("Concat", spectrum, "input_1", axis=1), 6, 3)


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


def rows_of_keras(g, rng):
    """What tf2onnx writes for a Dense layer over positions."""
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
    """What tf2onnx writes for a normalisation over positions and channels without gamma."""
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
    """As tf2onnx puts the scaling after it in between."""
    x = gemm(g, rng, 5)
    return g("Add", g("Mul", g("Mul", draw(rng, 5) ** 2, g("Sigmoid", x)), x), draw(rng, 5))


def silu_and_many_factors(g, rng):
    """Constants whose own product is the work of many nodes."""
    x, factor = "input_0", g.constant(np.array(1.1))
    for i in range(10):
        factor = g("Mul", factor, np.array(1 + i / 10))
    return g("Mul", x, g("Mul", g("Sigmoid", x), factor))


def rounded_constants(g, rng):
    """Of halves, of which the file says that they are rounded."""
    x = "input_0"
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT):
        x = g("Add", x, g("Cast", g("Cast", draw(rng, 6), to=kind), to=g.type))
    return g("Add", x, g("CastLike", g("CastLike", np.array(2.7), np.array(1)), x))


def sum_of_one(g, rng):
    h = gemm(g, rng, 3)
    return g("Concat", g("Tanh", h), g("Neg", g("Sum", h)), axis=1)


def softplus_with_threshold(g, rng):
    x = g("Mul", gemm(g, rng, 5), 3.0)
    return g("Where", g("Greater", x, 20.0), x, g("Softplus", x))


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


def flatten_by_shape(g, rng):
    """What PyTorch writes for x.view(x.size(0), -1)."""
    h = convolution(g, rng, "input_0")
    n_stars = g("Unsqueeze", g("Gather", g("Shape", h), np.array(0), axis=0), np.array([0]))
    flat = g("Reshape", h, g("Concat", n_stars, np.array([-1]), axis=0))
    return gemm(g, rng, 2, flat, 18)


def keras_convolution(g, rng):
    """What tf2onnx writes for Conv1D: two-dimensional, channels first, the bias after the axis is gone."""
    x = g("Unsqueeze", "input_0", np.array([1]))  # (1, position, channel)
    x = g("Transpose", x, perm=[0, 3, 1, 2])
    x = g("Conv", x, draw(rng, 4, 2, 1, 3), pads=[0, 1, 0, 1], kernel_shape=[1, 3], strides=[1, 1])
    x = g("Relu", g("Add", g("Squeeze", x, np.array([2])), draw(rng, 1, 4, 1)))
    x = g("MaxPool", g("Unsqueeze", x, np.array([2])), kernel_shape=[1, 2], strides=[1, 2])
    return gemm(
        g, rng, 2, g("Flatten", g("Transpose", g("Squeeze", x, np.array([2])), perm=[0, 2, 1])), 16
    )


def turned_convolution(g, rng):
    """A bias on the last axis after the channels have gone there."""
    x = g("Transpose", convolution(g, rng, "input_0", bias=False), perm=[0, 2, 1])
    return g("Transpose", g("Relu", g("Add", x, draw(rng, 1, 1, 3))), perm=[0, 2, 1])


def split(g, rng):
    first, second = g("Split", "input_0", np.array([2, 4]), n_outputs=2, axis=1)
    return g(
        "Concat", second, g("Slice", first, np.array([-1]), np.array([9]), np.array([1])), axis=-1
    )


def turned_slices(g, rng):
    h = g(
        "Slice",
        "input_0",
        np.array([0, 1]),
        np.array([2**62, -1]),
        np.array([0, 2]),
        np.array([1, 1]),
    )
    return g("Concat", h, g("Gather", "input_0", np.array([2, 3]), axis=2), axis=2)


def many_axes(g, rng):
    h = g("Reshape", "input_0", np.array([0, 2, 2, 3]))
    return g(
        "Add", g("MatMul", g("Transpose", h, perm=[0, 3, 1, 2]), draw(rng, 2, 4)), draw(rng, 4)
    )


POSITIONS, CHANNELS, VECTOR = [(2, 8)], [(8, 2)], [(6,)]
CASES = {
    "gemm": (VECTOR, lambda g, rng: gemm(g, rng, 3)),
    "gemm-turned": (VECTOR, lambda g, rng: gemm(g, rng, 3, transB=1, alpha=0.5, beta=2.0)),
    "gemm-no-bias": (VECTOR, lambda g, rng: g("Gemm", "input_0", draw(rng, 6, 3), alpha=1.5)),
    "gemm-scalar-bias": (
        VECTOR,
        lambda g, rng: g("Gemm", "input_0", draw(rng, 6, 3), np.array([0.5])),
    ),
    "matmul-add": (VECTOR, lambda g, rng: dense(g, rng, "input_0", 6, 3)),
    "matmul-vector": (VECTOR, lambda g, rng: g("Add", g("MatMul", "input_0", draw(rng, 6)), 0.5)),
    "matmul-of-rows": (
        CHANNELS,
        lambda g, rng: g("Add", g("MatMul", "input_0", draw(rng, 1, 2, 3)), draw(rng, 3)),
    ),
    "matmul-of-many-axes": ([(12,)], many_axes),
    "constant-node": (
        VECTOR,
        lambda g, rng: g(
            "MatMul", "input_0", g("Constant", value=numpy_helper.from_array(draw(rng, 6, 3)))
        ),
    ),
    "turned-constant": (
        VECTOR,
        lambda g, rng: g("MatMul", "input_0", g("Transpose", draw(rng, 3, 6), perm=[1, 0])),
    ),
    "relu": (VECTOR, activation("Relu")),
    "leaky-relu": (VECTOR, activation("LeakyRelu", alpha=0.25)),
    "leaky-relu-default": (VECTOR, activation("LeakyRelu")),
    "elu": (VECTOR, activation("Elu", alpha=0.5)),
    "tanh": (VECTOR, activation("Tanh")),
    "sigmoid": (VECTOR, activation("Sigmoid")),
    "softplus": (VECTOR, activation("Softplus")),
    "silu": (VECTOR, silu),
    "silu-and-factor": (VECTOR, silu_and_factor),
    "silu-and-many-factors": (VECTOR, silu_and_many_factors),
    "elu-of-keras": (VECTOR, elu_of_keras),
    "largest-of-two": (VECTOR, lambda g, rng: g("Max", gemm(g, rng, 5), 0.5)),
    "relu-as-a-largest": (VECTOR, lambda g, rng: g("Max", 0.0, gemm(g, rng, 5))),
    "smallest-of-two": (VECTOR, lambda g, rng: g("Min", gemm(g, rng, 5), 0.5)),
    "rows-of-keras": (CHANNELS, rows_of_keras),
    "row-of-keras": ([(1, 2)], rows_of_keras),
    "rounded-constants": (VECTOR, rounded_constants),
    "identity": (VECTOR, lambda g, rng: g("Identity", g("Cast", gemm(g, rng, 3), to=g.type))),
    "clip": (VECTOR, lambda g, rng: g("Clip", gemm(g, rng, 5), np.array(-0.5), np.array(1.0))),
    "clip-below": (VECTOR, lambda g, rng: g("Clip", gemm(g, rng, 5), np.array(0.0))),
    "dropout": (VECTOR, lambda g, rng: g("Dropout", gemm(g, rng, 5), np.array(0.3))),
    "residuals": (VECTOR, branches),
    "two-inputs": ([(6,), (2,)], two_inputs),
    "twice-the-same": (
        VECTOR,
        lambda g, rng: (lambda h: g("Concat", h, g("Add", h, h), axis=1))(gemm(g, rng, 2)),
    ),
    "layer-norm-of-pytorch": (VECTOR, layer_norm_by_parts("pytorch")),
    "layer-norm-of-keras": (VECTOR, layer_norm_by_parts("keras")),
    "layer-norm-of-keras-by-means": (CHANNELS, layer_norm_of_all),
    "convolution": (
        POSITIONS,
        lambda g, rng: convolution(g, rng, "input_0", pads=[1, 2], strides=[2]),
    ),
    "convolution-dilated": (
        POSITIONS,
        lambda g, rng: convolution(g, rng, "input_0", dilations=[2], kernel_shape=[3]),
    ),
    "convolution-of-one-window": (
        POSITIONS,
        lambda g, rng: convolution(g, rng, "input_0", strides=[10**9]),
    ),
    **{
        f"convolution-{word}": (
            POSITIONS,
            lambda g, rng, word=word: convolution(
                g, rng, "input_0", size=4, auto_pad=word, strides=[2]
            ),
        )
        for word in ("SAME_UPPER", "SAME_LOWER", "VALID")
    },
    "convolution-of-keras": (CHANNELS, keras_convolution),
    "convolution-turned": (POSITIONS, turned_convolution),
    "max-pool": (POSITIONS, pool("MaxPool", kernel_shape=[3], strides=[2], pads=[1, 1])),
    "max-pool-overlapping": (POSITIONS, pool("MaxPool", kernel_shape=[3])),
    "max-pool-even": (POSITIONS, pool("MaxPool", kernel_shape=[2], strides=[2], ceil_mode=1)),
    "average-pool": (POSITIONS, pool("AveragePool", kernel_shape=[3], strides=[2], pads=[1, 0])),
    "average-pool-counting": (
        POSITIONS,
        pool("AveragePool", kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1),
    ),
    "global-average": (POSITIONS, pool("GlobalAveragePool")),
    "global-max": (
        [(2, 4, 3)],
        pool("GlobalMaxPool"),
    ),  # with one axis of positions the evaluator mixes channels
    "mean-over-positions": (
        POSITIONS,
        lambda g, rng: g("ReduceMean", "input_0", np.array([-1]), keepdims=0),
    ),
    "mean-over-first-axis": (CHANNELS, lambda g, rng: g("ReduceMean", "input_0", np.array([1]))),
    "mean-over-all": (
        POSITIONS,
        lambda g, rng: g("ReduceMean", "input_0", np.array([1, 2]), keepdims=0),
    ),
    "largest": (CHANNELS, lambda g, rng: g("ReduceMax", "input_0", np.array([1]), keepdims=0)),
    "padding": (POSITIONS, lambda g, rng: g("Pad", "input_0", np.array([0, 0, 1, 0, 0, 3]))),
    "padding-first-axis": (
        CHANNELS,
        lambda g, rng: g("Pad", "input_0", np.array([2, 1]), 0.0, np.array([1])),
    ),
    "padding-none": (VECTOR, lambda g, rng: g("Pad", "input_0", np.array([0, 0, 0, 0]))),
    "batch-norm": (VECTOR, lambda g, rng: batch_norm(g, "input_0", rng, 6)),
    "batch-norm-of-channels": (POSITIONS, lambda g, rng: batch_norm(g, "input_0", rng, 2)),
    "layer-norm": (
        VECTOR,
        lambda g, rng: g("LayerNormalization", "input_0", draw(rng, 6), draw(rng, 6), epsilon=0.1),
    ),
    "layer-norm-of-all": (
        POSITIONS,
        lambda g, rng: g("LayerNormalization", "input_0", draw(rng, 2, 8), axis=1),
    ),
    "flatten": (POSITIONS, lambda g, rng: gemm(g, rng, 2, g("Flatten", "input_0"), 16)),
    "flatten-by-shape": (POSITIONS, flatten_by_shape),
    "reshape": (
        VECTOR,
        lambda g, rng: convolution(g, rng, g("Reshape", "input_0", np.array([-1, 2, 3]))),
    ),
    "reshape-open": (
        CHANNELS,
        lambda g, rng: convolution(g, rng, g("Reshape", "input_0", np.array([0, 2, -1]))),
    ),
    "transpose": (
        CHANNELS,
        lambda g, rng: convolution(g, rng, g("Transpose", "input_0", perm=[0, 2, 1])),
    ),
    "squeeze": (
        VECTOR,
        lambda g, rng: g(
            "Squeeze", g("Unsqueeze", gemm(g, rng, 1), np.array([1, 3])), np.array([1])
        ),
    ),
    "split-and-concat": (VECTOR, split),
    "slices-of-positions": (POSITIONS, turned_slices),
    "one-of-all": (VECTOR, lambda g, rng: g("Gather", "input_0", np.array(-2), axis=1)),
    "concat-of-channels": (
        POSITIONS,
        lambda g, rng: g("Concat", "input_0", g("Tanh", "input_0"), axis=1),
    ),
    "concat-of-positions": (
        POSITIONS,
        lambda g, rng: g("Concat", "input_0", g("Tanh", "input_0"), axis=2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_gives_what_the_evaluator_gives(rng, path, name):
    shapes, build = CASES[name]
    graph = Graph(*shapes)
    assert_same(graph, [build(graph, rng)], path, rng)


def test_self_normalising_constants_are_those_of_onnx_to_their_seven_digits(rng, path):
    graph = Graph((6,))
    assert_same(graph, [activation("Selu")(graph, rng)], path, rng, tolerance=1e-6)


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


def test_a_gelu_of_onnx_is_one_to_the_rounding_of_the_evaluator(rng, path):
    graph = Graph((6,))
    assert_same(graph, [activation("Gelu")(graph, rng)], path, rng, tolerance=ERF)


def test_a_softplus_with_a_threshold_is_one_to_its_rounding(rng, path):
    graph = Graph((6,))
    net, _ = assert_same(graph, [softplus_with_threshold(graph, rng)], path, rng, tolerance=3e-9)
    assert "softplus" in kinds(net)


# --- networks of random operations


def scale_randomly(g, rng, x, shape):
    """Standardisation, or the scaling that a folded batch normalisation leaves, of either sign behind weights."""
    lengths = (
        [n if rng.random() < 0.5 else 1 for n in shape[-1:]]
        if rng.random() < 0.5
        else [shape[0]] + [1] * (len(shape) - 1)
    )
    words = rng.choice(["Add", "Sub", "Mul", "Div"], size=rng.integers(1, 4))
    for word in words:
        constant = rng.uniform(0.5, 2, lengths)
        x = (
            g(word, x, constant)
            if word in ("Sub", "Div") or rng.random() < 0.5
            else g(word, constant, x)
        )
    return x, shape


def sign_randomly(g, rng, x, shape):
    """Signs between two layers of weights, with and without a bias after them."""
    n, n_out = shape[-1], int(rng.integers(2, 5))
    h = g("MatMul", x, draw(rng, n, n_out)) if rng.random() < 0.5 else dense(g, rng, x, n, n_out)
    h = g(
        str(rng.choice(["Mul", "Div"])),
        h,
        rng.choice([-1.0, 1.0], n_out) * rng.uniform(0.5, 2, n_out),
    )
    if rng.random() < 0.5:
        h = g("Sub", draw(rng, n_out), h)
    if rng.random() < 0.5:
        h = g("Relu", h)
    return (
        (h, (*shape[:-1], n_out))
        if rng.random() < 0.5
        else (dense(g, rng, h, n_out, 3), (*shape[:-1], 3))
    )


def activate_randomly(g, rng, x, shape):
    op = str(
        rng.choice(
            [
                "Relu",
                "LeakyRelu",
                "Elu",
                "Tanh",
                "Sigmoid",
                "Softplus",
                "Identity",
                "Clip",
                "Dropout",
            ]
        )
    )
    return (g(op, x, -0.5, 1.5) if op == "Clip" else g(op, x)), shape


def multiply_randomly(g, rng, x, shape):
    n, n_out = shape[-1], int(rng.integers(1, 6))
    if len(shape) == 1 and rng.random() < 0.5:
        turned = int(rng.integers(2))
        kernel = draw(rng, n_out, n) if turned else draw(rng, n, n_out)
        return g("Gemm", x, kernel, draw(rng, n_out), transB=turned, alpha=0.5), (n_out,)
    return dense(g, rng, x, n, n_out), (*shape[:-1], n_out)


def move_randomly(g, rng, x, shape):
    """Other axes, another order of them, or a piece along one."""
    word = rng.choice(["turn", "flat", "split", "slice", "unit", "pad"])
    size = int(np.prod(shape))
    if word == "turn" and len(shape) > 1:
        order = [0, *(1 + np.roll(np.arange(len(shape)), 1))]
        return g("Transpose", x, perm=[int(i) for i in order]), tuple(np.roll(shape, 1).tolist())
    if word == "split" and size % 2 == 0:
        return g("Reshape", x, np.array([0, 2, -1])), (2, size // 2)
    if word == "unit":
        axis = int(rng.integers(1, len(shape) + 2))
        return g("Unsqueeze", x, np.array([axis])), (*shape[: axis - 1], 1, *shape[axis - 1 :])
    axis = int(rng.integers(len(shape)))
    if word == "slice" and shape[axis] > 1:
        start, stop = sorted(rng.choice(shape[axis] + 1, 2, replace=False).tolist())
        arrays = [np.array([start]), np.array([stop]), np.array([axis + 1])]
        return g("Slice", x, *arrays), (*shape[:axis], stop - start, *shape[axis + 1 :])
    if word == "pad":
        axis = len(shape) - 1
        pads = np.zeros((2, len(shape) + 1), int)
        pads[:, -1] = rng.integers(0, 3, 2)
        return g("Pad", x, pads.ravel()), (*shape[:-1], shape[-1] + int(pads.sum()))
    return g("Flatten", x), (size,)


def slide_randomly(g, rng, x, shape):
    if len(shape) != 2:
        return g("Reshape", x, np.array([-1, 1, int(np.prod(shape))])), (1, int(np.prod(shape)))
    n, size, stride = shape[1], int(rng.integers(1, min(4, shape[1]) + 1)), int(rng.integers(1, 3))
    pads = rng.integers(0, size, 2)
    made = (n + int(pads.sum()) - size) // stride + 1
    options = {"strides": [stride], "pads": pads.tolist(), "kernel_shape": [size]}
    word = rng.choice(
        ["Conv", "MaxPool", "AveragePool", "BatchNormalization", "GlobalAveragePool"],
        p=[0.4, 0.2, 0.1, 0.2, 0.1],
    )
    if word == "Conv":
        n_out = int(rng.integers(1, 4))
        return convolution(g, rng, x, shape[0], n_out, size, bias=rng.random() < 0.7, **options), (
            n_out,
            made,
        )
    if word == "BatchNormalization":
        return batch_norm(g, x, rng, shape[0]), shape
    if word == "GlobalAveragePool":
        return g(word, x), (shape[0], 1)
    if word == "AveragePool":
        return g(word, x, count_include_pad=int(rng.integers(2)), **options), (shape[0], made)
    del options[
        "pads"
    ]  # with which the evaluator's MaxPool makes another number of windows, or none
    return g("MaxPool", x, **options), (shape[0], (n - size) // stride + 1)


def join_randomly(g, rng, x, shape):
    word = rng.choice(["add", "last", "first", "less"])
    h = g("Tanh", x)
    if word == "add":
        return g("Add", x, h), shape
    if word == "less":
        return g("Sub", x, dense(g, rng, h, shape[-1], shape[-1])), shape
    axis = len(shape) if word == "last" else 1
    lengths = [n * 3 if i == axis - 1 else n for i, n in enumerate(shape)]
    return g("Concat", x, h, x, axis=axis), tuple(lengths)


RANDOM_STEPS = [
    scale_randomly, sign_randomly, activate_randomly, multiply_randomly, move_randomly, slide_randomly, join_randomly,
]  # fmt: skip


def build_randomly(rng, dtype=np.float64):
    shape = (
        (int(rng.integers(3, 9)),)
        if rng.random() < 0.5
        else (int(rng.integers(1, 4)), int(rng.integers(3, 9)))
    )
    graph = Graph(shape, dtype=dtype)
    x, weight = "input_0", rng.random(len(RANDOM_STEPS)) + 0.2
    for _ in range(rng.integers(3, 10)):
        step = RANDOM_STEPS[rng.choice(len(RANDOM_STEPS), p=weight / weight.sum())]
        if np.prod(shape) < 200:
            x, shape = step(graph, rng, x, shape)
    x = graph("Flatten", x)
    return graph, [dense(graph, rng, x, int(np.prod(shape)), 2)]


@pytest.mark.parametrize("seed", range(40))
def test_a_network_of_random_operations_gives_what_the_evaluator_gives(path, seed):
    rng = np.random.default_rng(seed)
    graph, outputs = build_randomly(rng, np.float32 if seed % 4 == 0 else np.float64)
    assert_same(graph, outputs, path, rng)


# --- versions of the format, and the forms of a model


def test_pools_pad_with_what_is_never_the_largest(rng, path):
    """Beside the evaluator, whose own numbers of windows are wrong for such a padding."""
    graph = Graph((2, 8))
    net, theta = import_onnx(
        save(graph.model(graph("MaxPool", "input_0", kernel_shape=[3], pads=[0, 2])), path)
    )
    x = draw(rng, N_STARS, 16) - 10
    padded = np.pad(x.reshape(N_STARS, 2, 8), ((0, 0), (0, 0), (0, 2)), constant_values=-np.inf)
    expected = np.max([padded[..., i : i + 8] for i in range(3)], axis=0)
    np.testing.assert_array_equal(predict(net, theta, x), expected.reshape(N_STARS, 16))


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


# --- what becomes a parameter, and what stays fixed


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
    """As a batch normalisation between a relu and a pool is written, with a gamma below zero."""
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


@pytest.mark.parametrize("name", ["residuals", "convolution-of-keras"])
def test_derivatives_by_the_inputs_are_those_of_the_evaluator(rng, path, name):
    shapes, build = CASES[name]
    graph = Graph(*shapes)
    model = graph.model(build(graph, rng))
    net, theta = import_onnx(save(model, path))
    x, step = draw(rng, N_STARS, net.n_pixels), 1e-6
    jacobian = compile_jacobian(net, backend="numpy")(theta, x)
    for pixel, shift in enumerate(np.eye(net.n_pixels) * step):
        expected = (
            run_reference(graph, model, x + shift) - run_reference(graph, model, x - shift)
        ) / (2 * step)
        np.testing.assert_allclose(
            jacobian[:, :, pixel], expected, rtol=1e-6, atol=1e-7
        )  # rounding / step


# --- through the entry to all formats


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
        FileFormatError, match="'constant_0' lies in another file, which is not opened"
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


# --- what is refused, in words


def subgraph(g):
    info = helper.make_tensor_value_info("inner", g.type, None)
    return helper.make_graph(
        [helper.make_node("Identity", ["input_0"], ["inner"])], "branch", [], [info]
    )


def shared(g, rng):
    kernel = g.constant(draw(rng, 6, 6))
    return g("MatMul", g("Relu", g("MatMul", "input_0", kernel)), g("Identity", kernel))


def external(g, rng):
    end = gemm(g, rng, 3)
    tensor = g.initializers[0]
    onnx.external_data_helper.set_external_data(tensor, "/etc/hostname")
    tensor.ClearField("raw_data")
    return end


def quantized(g, rng):
    scale = np.float64(0.1)
    return g("MatMul", "input_0", g("DequantizeLinear", np.ones((6, 3), np.int8), scale))


def mismatched(g, rng):
    return g("Add", "input_0", gemm(g, rng, 5))


def sampled(g, rng):
    return g("Dropout", "input_0", np.array(0.5), np.array(True))


def softplus_beside_more_axes(g, rng):
    return g(
        "Where",
        g("Greater", "input_0", np.full((1, 1, 1), 20.0)),
        "input_0",
        g("Softplus", "input_0"),
    )


def count_stars(g):
    return g("Gather", g("Shape", "input_0"), np.array([0]))


def linked(g, rng):
    """An option that a function would be given."""
    end = g("Clip", "input_0", min=-1.0)
    g.nodes[-1].attribute[0].ref_attr_name = "min"
    return end


def add_three(g, rng):
    return g("Add", "input_0", g("Add", draw(rng, 6), draw(rng, 6), g("Neg", draw(rng, 6))))


COUNTS_STARS = (
    "computes with the number of stars: export the model so that its first axis is theirs"
)
REFUSED = {
    "bias-of-stars": (
        lambda g, rng: g("Gemm", "input_0", draw(rng, 6, 3), draw(rng, 3, 1)),
        r"should have 3 numbers a layer, got a constant of shape \(3, 1\)",
    ),
    "kernel-of-more-axes": (
        lambda g, rng: g("ReduceMean", g("MatMul", "input_0", draw(rng, 1, 6, 3)), np.array([1])),
        r"multiplies arrays of shape \(6,\) a star by \(1, 6, 3\)",
    ),
    "largest-of-more-axes": (
        lambda g, rng: g("ReduceMean", g("Max", "input_0", np.zeros((1, 1, 1))), np.array([1])),
        r"should have one number as input 1, got a constant of shape \(1, 1, 1\)",
    ),
    "clip-of-more-axes": (
        lambda g, rng: g("ReduceMean", g("Clip", "input_0", np.zeros((1, 1, 1))), np.array([1])),
        r"should have one number as input 1, got a constant of shape \(1, 1, 1\)",
    ),
    "several-bounds": (
        lambda g, rng: g("Max", "input_0", draw(rng, 6)),
        r"one number .* of shape \(6,\)",
    ),
    "pattern-of-more-axes": (softplus_beside_more_axes, r"\(Greater\) is no layer"),
    "elu-of-an-elu": (
        lambda g, rng: elu_of_keras(g, rng, of_parts=0.5),
        r"\(Greater\) is no layer",
    ),
    "factor-of-stars": (
        lambda g, rng: gemm(g, rng, 3, g("Mul", "input_0", g("Cast", count_stars(g), to=g.type))),
        COUNTS_STARS,
    ),
    "like-number-of-stars": (
        lambda g, rng: gemm(
            g, rng, 3, g("Mul", "input_0", g("CastLike", count_stars(g), "input_0"))
        ),
        COUNTS_STARS,
    ),
    "slice-from-stars": (
        lambda g, rng: g("Slice", "input_0", count_stars(g), np.array([6]), np.array([1])),
        COUNTS_STARS,
    ),
    "beyond": (
        lambda g, rng: g("Gather", "input_0", np.array([7]), axis=1),
        "takes numbers beyond the 6 there are",
    ),
    "three-arrays": (add_three, "takes 3 arrays: the file is damaged"),
    "linked-option": (linked, "has min in a form that symspec does not read"),
    "whole-numbers": (
        lambda g, rng: g("Mul", "input_0", np.array([2])),
        "joins floats with numbers of type int64",
    ),
    "unknown": (
        lambda g, rng: g("Softmax", "input_0"),
        r"'softmax_0_0' \(Softmax\) is no layer.*give it as net=",
    ),
    "control-flow": (
        lambda g, rng: g("If", np.array(True), then_branch=subgraph(g), else_branch=subgraph(g)),
        r"\(If\) is no layer.*holds a graph of its own, which is never run",
    ),
    "domain": (
        lambda g, rng: g("Gemm", "input_0", domain="com.example"),
        r"\(com\.example\.Gemm\) is of another domain",
    ),
    "option": (
        lambda g, rng: g("Relu", "input_0", threshold=1.0),
        r"has threshold, of which symspec knows nothing",
    ),
    "external": (
        external,
        r"'constant_0' lies in another file, which is not opened.*external_data=False",
    ),
    "quantized": (quantized, r"DequantizeLinear.*is quantized: export the weights"),
    "shared-kernel": (
        shared,
        r"has the kernel 'identity.*' of another layer, and symspec's share no weights",
    ),
    "product": (
        lambda g, rng: g("Mul", "input_0", gemm(g, rng, 6)),
        "multiplies two arrays that depend on the spectrum",
    ),
    "mismatch": (mismatched, r"adds arrays of different shapes, \(6,\), \(5,\)"),
    "negative": (
        lambda g, rng: g("Tanh", g("Neg", "input_0")),
        "negative numbers or zero: put the sign into the kernel",
    ),
    "division": (lambda g, rng: g("Div", "input_0", np.arange(6.0)), "divides by zero"),
    "gelu-by-tanh": (
        lambda g, rng: g("Gelu", "input_0", approximate="tanh"),
        "is the approximation by a tanh",
    ),
    "groups": (
        lambda g, rng: g(
            "Conv", g("Reshape", "input_0", np.array([0, 2, 3])), draw(rng, 4, 1, 2), group=2
        ),
        "has 2 groups of channels",
    ),
    "kernel-shape": (
        lambda g, rng: convolution(
            g, rng, g("Reshape", "input_0", np.array([0, 2, 3])), kernel_shape=[2]
        ),
        r"has a kernel \(3, 2, 3\) and says \[2\] of it",
    ),
    "two-dimensions": (
        lambda g, rng: g(
            "MaxPool", g("Reshape", "input_0", np.array([0, 1, 2, 3])), kernel_shape=[2, 2]
        ),
        r"slides along the axes \[1, 2\]|slides along the axes \[2, 3\]",
    ),
    "ceil": (
        lambda g, rng: g(
            "MaxPool",
            g("Unsqueeze", "input_0", np.array([1])),
            kernel_shape=[4],
            ceil_mode=1,
            strides=[3],
        ),
        "ceil_mode=0",
    ),
    "stars": (
        lambda g, rng: g("Reshape", "input_0", np.array([-1, 3])),
        r"shape \[-1, 3\] of one of shape \(6,\).*stars",
    ),
    "mean-of-stars": (
        lambda g, rng: g("ReduceMean", "input_0", np.array([0])),
        "along the axis of the stars",
    ),
    "padding": (
        lambda g, rng: g("Pad", "input_0", np.array([0, 1, 0, 1]), mode="reflect"),
        "pads in the mode reflect",
    ),
    "order": (
        lambda g, rng: g("Gather", "input_0", np.array([3, 1]), axis=1),
        "takes numbers in another order",
    ),
    "every-second": (
        lambda g, rng: g(
            "Slice", "input_0", np.array([0]), np.array([6]), np.array([1]), np.array([2])
        ),
        "takes every 2th",
    ),
    "random": (sampled, "is to be random in use"),
    "constant": (
        lambda g, rng: g("Identity", np.ones((1, 3))),
        "should take what comes from the spectrum",
    ),
    "not-finite": (
        lambda g, rng: g("MatMul", "input_0", np.full((6, 2), np.nan)),
        "matmul_0_0 kernel should be finite",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_symspec_has_not_is_refused_by_its_name_with_what_to_do(rng, path, name):
    build, words = REFUSED[name]
    graph = Graph((6,))
    save(graph.model(build(graph, rng)), path)
    with pytest.raises(FileFormatError, match=words):
        import_onnx(path)


def set_opset(model):
    model.opset_import[0].version = 8


def set_input_type(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def set_sequence(model):
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def open_pixels(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "pixel"


def declare_output(model):
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, [1, 7])
    )


def shadow(model):
    model.functions.append(helper.make_function("", "Gemm", ["x"], ["y"], [], model.opset_import))


def give_twice(model):
    model.graph.output.append(model.graph.output[0])


def mix_stars(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    lose_constant(model)


def lose_constant(model):
    model.graph.input.append(helper.make_tensor_value_info("lost", TensorProto.FLOAT, [1, 12]))


MODELS = {
    "lost-constant": (
        lose_constant,
        r"got 'input_0' \[None, 12\], 'lost' \[1, 12\]: those .* constants that were lost",
    ),
    "numbers-of-stars": (mix_stars, r"got 'input_0' \[3, 12\], 'lost' \[1, 12\]"),
    "output-twice": (give_twice, "name each array once"),
    "old": (set_opset, "opset of 9 or newer, got 8"),
    "whole-numbers": (set_input_type, "arrays of floats, got type 7 as 'input_0'"),
    "sequence": (set_sequence, "arrays of floats, got sequence_type as 'input_0'"),
    "open": (open_pixels, r"known number of pixels, got \[None, None\]"),
    "declared": (declare_output, r"is declared to be \(7,\) a star, and comes out as \(2,\)"),
    "function": (shadow, "keep ONNX's own operations"),
    "unmade": (lambda model: model.graph.node.pop(0), "which nothing before it makes"),
    "made-twice": (
        lambda model: model.graph.node.append(model.graph.node[0]),
        "makes 'sub_0_0' a second time",
    ),
    "no-output": (lambda model: model.graph.output.pop(), "should give 1 to"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_another_kind_are_refused(rng, path, name):
    change, words = MODELS[name]
    _, model = spectral_model(rng)
    change(model)
    save(model, path)
    with pytest.raises(FileFormatError, match=words):
        import_onnx(path)


# --- damaged files, and such as are made to do harm


def test_truncated_and_damaged_files_are_refused_or_read_in_good_order(rng, path):
    content = spectral_model(rng)[1].SerializeToString()
    n_read = 0
    for i in range(300):
        damaged = bytearray(content if i % 2 else content[: rng.integers(len(content))])
        for place in rng.integers(len(damaged), size=i % 2 * 2) if damaged else ():
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            import_onnx(path)
        except FileFormatError:
            continue
        n_read += 1
    assert (
        0 < n_read < 150
    )  # a flipped bit in a weight is another weight; no truncated file is read


def repeat(n, *fields):
    """Messages within each other by the numbers of their fields, the innermost n empty ones."""
    content = bytes([fields[-1] << 3 | 2, 0]) * n
    for field in fields[-2::-1]:
        length, digits = len(content), []
        while length > 127:
            digits, length = [*digits, (length & 127) | 128], length >> 7
        content = bytes([field << 3 | 2, *digits, length]) + content
    return content


def grow(g, rng):
    x = "input_0"
    for _ in range(60):
        x = g("Concat", x, x, axis=1)
    return x


def multiply_in_a_circle(g, rng):
    g.nodes.append(helper.make_node("Mul", ["a"], ["a"]))
    return g("Mul", "a", "input_0")


def resemble_patterns(g, rng):
    """Nearly a normalisation, in which any array might be any of its constants."""
    x, axes = "input_0", np.array([-1])
    mean = g("ReduceMean", x, axes)
    centred = g("Sub", x, mean)
    square = g("ReduceMean", g("Mul", centred, centred), axes)
    inverse = g("Reciprocal", g("Sqrt", g("Add", square, square)))
    factor = g("Mul", inverse, inverse)
    second = g("Mul", g("Neg", mean), factor)
    first, both = g("Mul", x, factor), g("Add", second, second)
    return [g("Add", first, both) for _ in range(4900)][-1]


HARMFUL = {
    "circle": multiply_in_a_circle,
    "nearly-patterns": resemble_patterns,
    "many-nodes": lambda g, rng: repeat(4_000_000, 7, 1),
    "many-attributes": lambda g, rng: repeat(4_000_000, 7, 1, 5),
    "many-empty-nodes": lambda g, rng: repeat(250_000, 7, 1),
    "nested": lambda g, rng: repeat(1, 7, *[1, 5, 6] * 3000, 1),
    "concatenations": grow,
    "constants": lambda g, rng: g("Mul", "input_0", g("ConstantOfShape", np.array([10**9]))),
    "expanded": lambda g, rng: g("Mul", "input_0", g("Expand", 1.0, np.array([10**6, 10**6]))),
    "padding": lambda g, rng: g("Pad", "input_0", np.array([0, 0, 0, 10**9])),
    "windows": lambda g, rng: g(
        "Conv", g("Unsqueeze", "input_0", np.array([1])), draw(rng, 1, 1, 3), pads=[10**9, 10**9]
    ),
    "axes": lambda g, rng: g("Unsqueeze", "input_0", np.arange(1, 1000)),
    "kernel": lambda g, rng: gemm(g, rng, 3),
    "input": lambda g, rng: g("Mul", "input_0", 2.0),
    "long-name": lambda g, rng: g("O" * 1_000_000, "input_0"),
}
PROGRAM = """
import resource, sys, time
from symspec.errors import FileFormatError
from symspec.files.importers.onnx.files import import_onnx
import onnx

def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = most_memory()
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        import_onnx(path)
        print("read", path)
    except FileFormatError as error:
        print("refused", len(str(error)) < 2000)
    print(time.process_time() - start < 5, most_memory() - before < 800 * 2**20)
"""


def test_files_that_claim_much_are_refused_within_5_s_and_1_gib(rng, tmp_path):
    paths = []
    for name, build in HARMFUL.items():
        graph = Graph((6,))
        made = build(graph, rng)
        if isinstance(made, str):
            made = graph.model(made)
            if name == "kernel":
                made.graph.initializer[0].dims[:] = [10**9, 10**9]
            if name == "input":
                made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**8
            made = made.SerializeToString()
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(made)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines() == ["refused True", "True True"] * len(HARMFUL)
