"""Calls of NumPy in place of PyTensor's thunks: the same numbers, dtypes and arguments."""

import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.link.vm import VMLinker
from pytensor.scalar.basic import Switch
from pytensor.tensor.elemwise import Elemwise

from symspec.derivatives.backends import compile_graph
from symspec.derivatives.machine import calls, joins
from symspec.derivatives.machine.linker import DirectLinker
from symspec.derivatives.machine.tanh import take_tanh

x, y = pt.matrices("xy")
z = pt.matrix("z", dtype="float32")
k = pt.matrix("k", dtype="int64")
s = pt.scalar("s")
GRAPHS = {
    "sum of two": x + y,
    "sum of many, the last is larger": x[0][None] + y[1][None] + x[2][None] + y,
    "product of many": x * y * (x + 1) * s,
    "overwritten, by tanh": pt.exp(pt.tanh(pt.dot(x, y)) + 1) * y,
    "tanh of single precision": pt.tanh(z),
    "sum of many, overwritten": pt.dot(x, y) + x + y,
    "mask": pt.switch(x > 0, y, 0.0),
    "mask of a mask, overwritten": pt.switch(pt.isnan(x), 0.0, pt.exp(y) * 2),
    "comparisons": pt.and_(x > y, pt.le(y, 0.5)),
    "two precisions": x * z,
    "single": pt.sqrt(pt.abs(z)) + z,
    "casts": pt.cast(x, "float32") * z + pt.cast(x > 0, "float32"),
    "integers": k + 2 * k,
    "integers to floats": pt.exp(k) + k / 2,
    "of SciPy": pt.erf(x) + pt.gammaln(pt.abs(y)),
    "softplus and sigmoid": pt.softplus(x) * pt.sigmoid(y),
    "scalars": pt.exp(s) + pt.sum(x) * s,
    "a scalar overwritten": pt.exp(pt.sum(pt.sqr(x)) + s) - s,
    "shapes": pt.reshape(x, (9,)) + pt.reshape(y.T, (9,)),
    "shapes that are computed": pt.reshape(x, (x.shape[0] * 3,)),
    "axes in another order": (x + 1).T[None, :, :, None] * y.dimshuffle(1, "x", 0, "x"),
    "axes left out": pt.specify_shape(x[:1], (1, 3))[0] + pt.specify_shape(y[:1, :1], (1, 1))[0, 0],
    "slices": x[1:, ::2] * y[:-1, 1:3] + x[0, 1] + y[1, -1:].sum(),
    "products": pt.dot(x, y) + pt.dot(x.T, y[:, :1]) + pt.dot(x[:1], y),
}


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 3, 3))
    a[0, 1] = np.nan
    return {x: a, y: b, z: c.astype("f4"), k: np.arange(9).reshape(3, 3), s: np.array(0.7)}


def compile_with(linker, graph):
    inputs = [v for v in (x, y, z, k, s) if v in pytensor.graph.traversal.ancestors([graph])]
    mode = Mode(linker=linker, optimizer="fast_run").excluding("fusion")
    return inputs, pytensor.function(inputs, graph, mode=mode)


CHOICES = {
    "the second": (pt.switch(x > 0, 0.0, pt.switch(x > 0, 1.0, x * y)), 1),
    "the first": (pt.switch(x > 0, pt.switch(x > 0, y, 1.0), x), 1),
    "three times": (pt.switch(x > 0, 0.0, pt.switch(x > 0, 0.0, pt.switch(x > 0, 0.0, y))), 1),
    "another condition": (pt.switch(x > 0, 0.0, pt.switch(y > 0, 0.0, x)), 2),
    "what is left out is larger": (pt.switch(x[0] > 0, 0.0, pt.switch(x[0] > 0, y, x[1])), 2),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_within_another_by_the_same_condition_is_left_out(values, name):
    graph, n_left = CHOICES[name]
    found = compile_graph([x, y], [graph], "numpy", "float64")
    mode = Mode(linker=VMLinker(use_cloop=False, c_thunks=False), optimizer=None)
    expected = pytensor.function([x, y], graph, mode=mode, on_unused_input="ignore")
    given = values[x], values[y]
    np.testing.assert_allclose(found(*given)[0], expected(*given), rtol=1e-14)
    ops = [node.op for node in found.function.maker.fgraph.toposort()]
    switches = [op for op in ops if isinstance(op, Elemwise) and isinstance(op.scalar_op, Switch)]
    assert len(switches) == n_left


SUMS = {
    "over the first axis": pt.sum(x, axis=0),
    "over the last axis": pt.sum(x * y, axis=1),
    "of a transposed array": pt.sum(x.T + 0, axis=0) + pt.sum((x * y).T, axis=1),
    "in single precision": pt.sum(z, axis=0, acc_dtype="float32"),
    "of many axes, the first": pt.sum(x[:, :, None, None] * y, axis=(0, 1)),
    "of many axes, the last": pt.sum(x[:, :, None, None] * y, axis=(2, 3)),
    "of many axes, transposed": pt.sum((x[:, :, None] * y).transpose(2, 0, 1), axis=0),
    "of an axis between": pt.sum(x[:, :, None] * y, axis=1),
    "of integers": pt.sum(k, axis=0),
    "of all": pt.sum(x),
}


@pytest.mark.parametrize("n", [0, 1, 3, 40])
@pytest.mark.parametrize("name", SUMS)
def test_sums_are_numpys(name, n):
    graph = SUMS[name]
    rng = np.random.default_rng(1)
    given = {v: rng.normal(size=(n, n)).astype(v.dtype) for v in (x, y, z)}
    given[k] = rng.integers(9, size=(n, n))
    inputs, direct = compile_with(DirectLinker(), graph)
    _, own = compile_with(VMLinker(use_cloop=False, c_thunks=False), graph)
    found, expected = (fn(*(given[v] for v in inputs)) for fn in (direct, own))
    assert found.dtype == expected.dtype
    rounding = 10 * n * np.finfo(graph.dtype).eps if graph.dtype != "int64" else 0
    np.testing.assert_allclose(found, expected, rtol=rounding, atol=rounding)


def test_products_are_written_where_they_are_joined(monkeypatch):
    monkeypatch.setattr(joins, "LEAST_JOINED", 6)
    written = []
    dot = np.dot

    def watch(*args, out=None):
        written.append(out is not None)
        return dot(*args, out=out)

    w = pt.matrix("w", shape=(3, 2))
    v = pt.matrix("v", shape=(2, 4))
    small = pt.matrix("small", shape=(2, 1))
    wv, shared = pt.dot(w, v), pt.dot(w, 2 * v)
    parts = [wv, v, shared, pt.dot(w, small), w, pt.dot(v.T, w.T)]
    joined = pt.join(0, *(pt.reshape(part, (np.prod(part.type.shape),)) for part in parts))
    mode = Mode(linker=DirectLinker(), optimizer="fast_run").excluding("fusion")
    found = pytensor.function([w, v, small], [joined, pt.exp(shared)], mode=mode)
    monkeypatch.setattr(np, "dot", watch)
    rng = np.random.default_rng(0)
    results = []
    for _ in range(2):
        a, b, c = (rng.normal(size=x.type.shape) for x in (w, v, small))
        expected = [a @ b, b, a @ (2 * b), a @ c, a, (a @ b).T]
        results.append((found(a, b, c)[0], np.concatenate([part.ravel() for part in expected])))
    for result, expected in results:  # the second call leaves the first one's result alone
        np.testing.assert_allclose(result, expected, rtol=1e-14)
    assert any(written)
    assert not all(written)  # what is small, or needed elsewhere


def test_a_result_may_be_written_where_another_was(monkeypatch):
    monkeypatch.setattr(joins, "LEAST_JOINED", 4)
    w = pt.matrix("w", shape=(3, 2))
    joined = pt.join(0, pt.reshape(pt.dot(w, w.T), (9,)), w[0])
    found = compile_graph([w], [joined], "numpy", "float64")
    first, second = np.random.default_rng(0).normal(size=(2, 3, 2))
    one = found(first)[0]
    assert found(second, into=one)[0] is one
    np.testing.assert_allclose(one, [*(second @ second.T).ravel(), *second[0]], rtol=1e-14)
    assert found(first)[0] is not one  # only the call that was given it
    for unlike in (one[:-1], one.astype("f4")):
        np.testing.assert_array_equal(found(second, into=unlike)[0], one)


def test_two_results_are_not_written_to_one_place(monkeypatch):
    monkeypatch.setattr(joins, "LEAST_JOINED", 4)
    w = pt.matrix("w", shape=(3, 2))
    v = pt.matrix("v", shape=(3, 2))
    results = [pt.join(0, pt.reshape(pt.dot(a, b.T), (9,)), a[0]) for a, b in ((w, v), (v, w))]
    found = compile_graph([w, v], results, "numpy", "float64")
    a, b = np.random.default_rng(0).normal(size=(2, 3, 2))
    expected = [np.concatenate([(x @ y.T).ravel(), x[0]]) for x, y in ((a, b), (b, a))]
    for result, value in zip(found(a, b, into=np.empty(11)), expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-14)


def test_a_sum_of_very_many_numbers_is_not_a_product():
    x = np.full((2**17, 2), 0.1, "f4")
    _, found = compile_with(DirectLinker(), pt.sum(z, axis=0, acc_dtype="float32"))
    np.testing.assert_array_equal(found(x), np.add.reduce(x, axis=0))


def test_a_shape_that_is_not_as_specified_is_refused():
    inputs, found = compile_with(DirectLinker(), pt.specify_shape(x, (y.shape[0], 3)) * 2 + y[0])
    with pytest.raises(ValueError, match="shape should be"):
        found(*(np.ones((2 if v is x else 3, 3)) for v in inputs))


@pytest.mark.parametrize("name", GRAPHS)
def test_numbers_and_dtypes_are_those_of_pytensor(values, name, monkeypatch):
    monkeypatch.setattr(calls, "TANH", np.tanh)  # which is PyTensor's
    graph = GRAPHS[name]
    inputs, direct = compile_with(DirectLinker(), graph)
    _, own = compile_with(VMLinker(use_cloop=False, c_thunks=False), graph)
    before = {v: values[v].copy() for v in inputs}
    with np.errstate(all="ignore"):
        for _ in range(2):  # the second call finds what the first one left
            found = direct(*(values[v] for v in inputs))
            expected = own(*(values[v] for v in inputs))
            assert isinstance(found, np.ndarray)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    for v in inputs:
        np.testing.assert_array_equal(values[v], before[v])


@pytest.mark.parametrize("name", ["overwritten, by tanh", "sum of many, overwritten"])
def test_what_may_be_overwritten_is(name):
    _, direct = compile_with(DirectLinker(), GRAPHS[name])
    nodes = direct.maker.fgraph.toposort()
    assert any(isinstance(n.op, Elemwise) and n.op.inplace_pattern for n in nodes)


def test_tanh_of_exp_may_overwrite_too(values, monkeypatch):
    monkeypatch.setattr(calls, "TANH", take_tanh)
    inputs, direct = compile_with(DirectLinker(), GRAPHS["overwritten, by tanh"])
    a, b = (values[v] for v in inputs)
    for _ in range(2):
        np.testing.assert_allclose(direct(a, b), np.exp(np.tanh(a @ b) + 1) * b, rtol=1e-14)


def test_elementwise_operations_are_calls_of_numpy():
    _, direct = compile_with(DirectLinker(), GRAPHS["overwritten, by tanh"])
    thunks = zip(direct.vm.nodes, direct.vm.thunks, strict=True)
    assert not [
        n for n, thunk in thunks if isinstance(n.op, Elemwise) and hasattr(thunk, "perform")
    ]


def test_shapes_that_do_not_go_together_are_refused():
    _, direct = compile_with(DirectLinker(), GRAPHS["sum of two"])
    with pytest.raises(ValueError, match="could not be broadcast together with shapes"):
        direct(np.ones((2, 3)), np.ones((3, 3)))


@pytest.mark.parametrize(
    "x",
    [
        np.r_[np.linspace(-800, 800, 50_001), np.linspace(-1, 1, 20_001)],
        np.asfortranarray(np.random.default_rng(0).normal(size=(300, 200))),
        np.random.default_rng(0).normal(size=(300, 200))[:, ::2],
        np.array(0.3),
        np.empty((0, 3)),
    ],
    ids=["far and near", "columns in memory", "every other column", "scalar", "empty"],
)
def test_tanh_of_exp_is_tanh_to_the_last_digits_of_one(x):
    expected = np.tanh(x)
    np.testing.assert_allclose(take_tanh(x), expected, rtol=0, atol=4e-16)
    assert take_tanh(x, out=x) is x  # which may be overwritten
    np.testing.assert_allclose(x, expected, rtol=0, atol=4e-16)


def test_tanh_of_what_is_not_finite():
    found = take_tanh(np.array([np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(found, [1.0, -1.0, np.nan])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of another library")
def test_memory_of_intermediates_comes_back_from_the_heap():
    """Not from the system, page by page: 40 MB in arrays of a quarter of one, again and again."""
    script = """
        import resource
        import numpy as np
        import symspec as ss

        net = ss.mlp([4, 2])
        ss.compile_predict(net)(np.zeros(net.n_params), np.zeros((3, 4)))
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            del_at_once = [np.ones(2**15) for _ in range(160)]
            del del_at_once
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000  # of the 10,240 pages that they are
