"""Operations of ONNX give what the onnx package's own evaluator gives."""

import numpy as np
import pytest
from onnx_graphs import (
    CHANNELS,
    ERF,
    N_STARS,
    POSITIONS,
    VECTOR,
    Graph,
    TensorProto,
    activation,
    assert_same,
    batch_norm,
    convolution,
    dense,
    draw,
    gemm,
    numpy_helper,
    run_reference,
    save,
    turned_convolution,
)
from reference_networks import predict

from symspec.derivatives.compiled import compile_jacobian
from symspec.files.importers.onnx.files import import_onnx


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


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


def rounded_constants(g, rng):
    """Constants that the graph rounds to 16 bits."""
    x = "input_0"
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT):
        x = g("Add", x, g("Cast", g("Cast", draw(rng, 6), to=kind), to=g.type))
    return g("Add", x, g("CastLike", g("CastLike", np.array(2.7), np.array(1)), x))


def flatten_by_shape(g, rng):
    """PyTorch's nodes for x.view(x.size(0), -1)."""
    h = convolution(g, rng, "input_0")
    n_stars = g("Unsqueeze", g("Gather", g("Shape", h), np.array(0), axis=0), np.array([0]))
    flat = g("Reshape", h, g("Concat", n_stars, np.array([-1]), axis=0))
    return gemm(g, rng, 2, flat, 18)


def keras_convolution(g, rng):
    """Conv1D by tf2onnx: two-dimensional, channels first, the bias after Squeeze."""
    x = g("Unsqueeze", "input_0", np.array([1]))  # (1, position, channel)
    x = g("Transpose", x, perm=[0, 3, 1, 2])
    x = g("Conv", x, draw(rng, 4, 2, 1, 3), pads=[0, 1, 0, 1], kernel_shape=[1, 3], strides=[1, 1])
    x = g("Relu", g("Add", g("Squeeze", x, np.array([2])), draw(rng, 1, 4, 1)))
    x = g("MaxPool", g("Unsqueeze", x, np.array([2])), kernel_shape=[1, 2], strides=[1, 2])
    return gemm(
        g, rng, 2, g("Flatten", g("Transpose", g("Squeeze", x, np.array([2])), perm=[0, 2, 1])), 16
    )


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
    "largest-of-two": (VECTOR, lambda g, rng: g("Max", gemm(g, rng, 5), 0.5)),
    "relu-as-a-largest": (VECTOR, lambda g, rng: g("Max", 0.0, gemm(g, rng, 5))),
    "smallest-of-two": (VECTOR, lambda g, rng: g("Min", gemm(g, rng, 5), 0.5)),
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


def test_a_gelu_of_onnx_is_one_to_the_rounding_of_the_evaluator(rng, path):
    graph = Graph((6,))
    assert_same(graph, [activation("Gelu")(graph, rng)], path, rng, tolerance=ERF)


def test_pools_pad_with_what_is_never_the_largest(rng, path):
    """By NumPy, as the evaluator makes wrong numbers of windows for such a padding."""
    graph = Graph((2, 8))
    net, theta = import_onnx(
        save(graph.model(graph("MaxPool", "input_0", kernel_shape=[3], pads=[0, 2])), path)
    )
    x = draw(rng, N_STARS, 16) - 10
    padded = np.pad(x.reshape(N_STARS, 2, 8), ((0, 0), (0, 0), (0, 2)), constant_values=-np.inf)
    expected = np.max([padded[..., i : i + 8] for i in range(3)], axis=0)
    np.testing.assert_array_equal(predict(net, theta, x), expected.reshape(N_STARS, 16))


@pytest.mark.parametrize("name", ["residuals", "convolution-of-keras"])
def test_derivatives_by_the_inputs_are_those_of_the_evaluator(rng, path, name):
    shapes, build = CASES[name]
    graph = Graph(*shapes)
    model = graph.model(build(graph, rng))
    net, theta = import_onnx(save(model, path))
    x, step = draw(rng, N_STARS, net.n_pixels), 1e-6
    jacobian = compile_jacobian(net, backend="numpy")(theta, x)
    for pixel, shift in enumerate(np.eye(net.n_pixels) * step):
        above = run_reference(graph, model, x + shift)
        below = run_reference(graph, model, x - shift)
        expected = (above - below) / (2 * step)
        # rounding over the step
        np.testing.assert_allclose(jacobian[:, :, pixel], expected, rtol=1e-6, atol=1e-7)
