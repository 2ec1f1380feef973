"""ONNX models that symspec cannot read, damaged or hostile, are refused in words."""

import numpy as np
import pytest
from onnx_graphs import (
    Graph,
    TensorProto,
    convolution,
    draw,
    elu_of_keras,
    external,
    gemm,
    helper,
    save,
    spectral_model,
)
from reference_networks import run_python

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.files import import_onnx


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def subgraph(g):
    info = helper.make_tensor_value_info("inner", g.type, None)
    return helper.make_graph(
        [helper.make_node("Identity", ["input_0"], ["inner"])], "branch", [], [info]
    )


def shared(g, rng):
    kernel = g.constant(draw(rng, 6, 6))
    return g("MatMul", g("Relu", g("MatMul", "input_0", kernel)), g("Identity", kernel))


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
        r"'constant_0' is in another file, which is not opened.*external_data=False",
    ),
    "quantized": (quantized, r"DequantizeLinear.*is quantized: export the weights"),
    "shared-kernel": (
        shared,
        r"has the kernel 'identity.*' of another layer, and symspec's share no weights",
    ),
    "product": (
        lambda g, rng: g("Mul", "input_0", gemm(g, rng, 5)),
        r"multiplies arrays of shapes \(6,\), \(5,\) a star",
    ),
    "scaler": (
        lambda g, rng: g("Scaler", "input_0", domain="ai.onnx.ml", offset=[0.0] * 5, scale=[1.0]),
        "scales arrays of shape .6,. a star by 5 and 1 numbers",
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
    # a flipped bit in a weight is another weight; no truncated file is read
    assert 0 < n_read < 150


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
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

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
    assert run_python(PROGRAM, *paths) == ["refused True", "True True"] * len(HARMFUL)
