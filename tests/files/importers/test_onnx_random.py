"""Networks of random operations give what the onnx package's own evaluator gives."""

import numpy as np
import pytest
from onnx_graphs import Graph, assert_same, batch_norm, convolution, dense, draw


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def scale_randomly(g, rng, x, shape):
    """Standardisation, or the scaling that a folded batch normalisation leaves."""
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
    del options["pads"]  # the evaluator's MaxPool makes wrong numbers of windows with them
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
    scale_randomly,
    sign_randomly,
    activate_randomly,
    multiply_randomly,
    move_randomly,
    slide_randomly,
    join_randomly,
]


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
