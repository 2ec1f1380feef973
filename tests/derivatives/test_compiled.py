"""Compiled functions agree on every backend, in single precision, in chunks, for one spectrum."""

import copy
import importlib.util
import os
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytensor
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from symspec.derivatives import functions as limits
from symspec.derivatives.compiled import (
    compile_ggn_vector_product,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
    compile_tangent_factors,
)
from symspec.derivatives.matrices import compile_ggn, compile_hessian
from symspec.errors import (
    DataError,
    MissingDependencyError,
    OptionError,
    ShapeError,
    SymspecError,
    TooLargeError,
)
from symspec.networks.network import mlp
from symspec.networks.regression import Regression

PER_STAR = {
    "predict": lambda reg, **how: compile_predict(reg.net, **how),
    "flux jacobian": lambda reg, **how: compile_jacobian(reg.net, "flux", **how),
    "theta jacobian": lambda reg, **how: compile_jacobian(reg.net, "theta", **how),
    "tangent factors": lambda reg, **how: compile_tangent_factors(reg.net, **how),
}
SUMMED = {
    "objective": compile_objective,
    "hessian-vector product": compile_hessian_vector_product,
    "ggn-vector product": compile_ggn_vector_product,
    "hessian": compile_hessian,
    "ggn": compile_ggn,
}
FUNCTIONS = PER_STAR | SUMMED

# tangent factors are most of the theta Jacobian
COMPARED = [name for name in FUNCTIONS if name != "tangent factors"]
# each costs ten seconds on the backends that compile; the objective has the predictions in it
COMPILED = [name for name in COMPARED if name != "predict"]

HARDEST = "tanh-2-hidden-3-labels-full-noise-missing"
RELU = "relu-3-hidden-2-labels-own-units-missing"


def arguments(name, problem, stars=slice(None)):
    own = (problem.theta, problem.X[stars])
    own += () if name in PER_STAR else (problem.Y[stars],)
    return own + ((problem.v,) if "vector" in name else ())


def arrays(result):
    """The outputs as a list of arrays, whether one or several."""
    return [np.asarray(r) for r in (result if isinstance(result, list | tuple) else [result])]


def assert_same(actual, expected, rtol, atol_of_largest=None):
    """Entry by entry to `rtol`; those that cancel, to `atol_of_largest` (default `rtol` / 1000)."""
    part = 1e-3 * rtol if atol_of_largest is None else atol_of_largest
    actual, expected = arrays(actual), arrays(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert_allclose(a, e, rtol=rtol, atol=part * np.abs(e).max())


class Compiled(dict):
    """Functions of one regression by name, each compiled when it is first asked for."""

    def __init__(self, reg, **how):
        self.reg, self.how = reg, how

    def __missing__(self, name):
        self[name] = FUNCTIONS[name](self.reg, **self.how)
        return self[name]


@pytest.fixture(scope="module")
def numpy_functions(problem):
    return Compiled(problem.reg, backend="numpy")


@pytest.fixture(scope="module")
def single_functions(problem):
    return Compiled(problem.reg, dtype="float32")


# --- backends


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "c", marks=pytest.mark.skipif(not pytensor.config.cxx, reason="no C++ compiler")
        ),
        "numba",
    ],
)
def test_compiled_backends_say_what_numpy_says(problem, numpy_functions, backend, name):
    args = arguments(name, problem)
    result = FUNCTIONS[name](problem.reg, backend=backend)(*args)
    assert_same(
        result, numpy_functions[name](*args), 1e-9
    )  # rounding, as sums run in another order


@pytest.mark.parametrize(
    "problem",
    [
        HARDEST,
        RELU,
        "linear-0-hidden-1-label",
        "gelu-2-hidden-3-labels-full-noise-missing-own-units",
        "elu-2-hidden-1-label-missing",
        "clip-1-hidden-2-labels",
    ],
    indirect=True,
)
@pytest.mark.parametrize("name", COMPARED)
def test_jax_says_what_numpy_says(problem, numpy_functions, name):
    pytest.importorskip("jax")
    args = arguments(name, problem)
    result = FUNCTIONS[name](problem.reg, backend="jax")(*args)
    assert_same(
        result, numpy_functions[name](*args), 1e-9
    )  # rounding, as sums run in another order


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
def test_the_automatic_backend_is_numpy(problem, numpy_functions):
    assert compile_predict(problem.net).backend == "numpy"
    assert_array_equal(
        compile_predict(problem.net, backend="auto")(problem.theta, problem.X),
        numpy_functions["predict"](problem.theta, problem.X),
    )


# --- single precision


@pytest.mark.parametrize(
    "problem",
    [
        HARDEST,
        RELU,
        "gelu-2-hidden-3-labels-full-noise-missing-own-units",
        "elu-2-hidden-1-label-missing",
    ],
    indirect=True,
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_precision_agrees_with_double_and_stays_single(
    problem, numpy_functions, single_functions, name
):
    args = arguments(name, problem)
    result, expected = single_functions[name](*args), numpy_functions[name](*args)
    # 6e-8 of rounding, times the tens of terms in a sum
    assert_same(result, expected, 1e-5, atol_of_largest=1e-5)
    assert {a.dtype for a in arrays(expected)} == {np.dtype("float64")}
    assert {a.dtype for a in arrays(result) if a.ndim} == {np.dtype("float32")}


@pytest.mark.parametrize("problem", [HARDEST, RELU], indirect=True)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_single_precision_function_computes_nothing_in_double(single_functions, name):
    """One double constant would turn every matrix product after it into one of double width."""
    graph = single_functions[name]._function.function.maker.fgraph
    assert not [
        n
        for n in graph.apply_nodes
        if any(getattr(o.type, "dtype", "") == "float64" for o in n.outputs)
    ]


def test_single_precision_refuses_numbers_that_are_too_large_for_it():
    net = mlp([3, 1])
    with pytest.raises(
        DataError, match="theta should fit float32, got 1 values that are too large"
    ):
        compile_predict(net, dtype="float32")([1e300, 0, 0, 0], np.ones(3))


# --- chunks


def eleven_stars(problem):
    X = np.vstack([problem.X, 2 * problem.X[:4]])
    Y = np.vstack([problem.Y, problem.Y[3:0:-1], problem.Y[:1]])
    return X, Y


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "limit", [("MAX_CHUNK", 3), ("CHUNK_BYTES", 1)], ids=["three stars", "one star"]
)
def test_walking_in_chunks_changes_nothing_and_counts_the_prior_once(
    problem, numpy_functions, name, limit, monkeypatch
):
    X, Y = eleven_stars(problem)
    args = (problem.theta, X) if name in PER_STAR else (problem.theta, X, Y)
    args += (problem.v,) if "vector" in name else ()
    at_once = numpy_functions[name](*args)
    monkeypatch.setattr(limits, *limit)
    by_chunks = FUNCTIONS[name](copy.deepcopy(problem.reg))  # which has nothing compiled yet
    assert_same(by_chunks(*args), at_once, 1e-12)  # the same sums in another order


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
@pytest.mark.parametrize(
    "build", [PER_STAR["predict"], compile_objective], ids=["predict", "objective"]
)
def test_eleven_stars_are_walked_in_three_chunks_of_three_and_one_of_two(
    problem, build, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_CHUNK", 3)
    function = build(copy.deepcopy(problem.reg))  # which has nothing compiled yet
    inner, seen = function._function, []

    def watch(theta, X, *rest, **options):
        seen.append(len(X))
        return inner(theta, X, *rest, **options)

    monkeypatch.setattr(function, "_function", watch)
    function(problem.theta, *eleven_stars(problem)[: 1 if build is PER_STAR["predict"] else 2])
    assert seen == [3, 3, 3, 2]


def test_a_chunk_keeps_its_share_of_memory():
    """More floats a star, fewer stars a chunk, and single precision twice as many."""
    sizes = [limits._chunk_size(floats, "float64") for floats in (10**4, 10**6, 10**8)]
    assert sizes == [256 * 2**20 // (8 * 10**4), 33, 1]
    assert limits._chunk_size(10**6, "float32") == 67


# --- one spectrum


@pytest.mark.parametrize("problem", [HARDEST, "linear-0-hidden-1-label"], indirect=True)
@pytest.mark.parametrize("name", PER_STAR)
def test_one_spectrum_drops_the_star_axis_of_the_first_row(problem, numpy_functions, name):
    alone = arrays(numpy_functions[name](problem.theta, problem.X[0]))
    rows = arrays(numpy_functions[name](problem.theta, problem.X))
    assert all(r.shape[0] == len(problem.X) for r in rows)
    assert_same(
        alone, [r[0] for r in rows], 1e-13
    )  # a product with one row may be summed in another order


@pytest.mark.parametrize("problem", [HARDEST, "linear-0-hidden-1-label"], indirect=True)
@pytest.mark.parametrize("name", SUMMED)
def test_one_spectrum_with_its_labels_is_a_matrix_of_one_row(problem, numpy_functions, name):
    alone, row = arguments(name, problem, 1), arguments(name, problem, slice(1, 2))
    assert (alone[1].ndim, alone[2].ndim) == (1, 1)
    assert_same(numpy_functions[name](*alone), numpy_functions[name](*row), 1e-14)


@pytest.mark.parametrize("problem", ["relu-2-hidden-3-labels-full-noise"], indirect=True)
def test_single_stars_add_up_to_all_of_them_with_the_prior_once(problem, numpy_functions):
    objective, theta, d = numpy_functions["objective"], problem.theta, problem.prior_precision
    parts = [objective(theta, x, y) for x, y in zip(problem.X, problem.Y, strict=True)]
    value, gradient = objective(theta, problem.X, problem.Y)
    prior = np.sum(d * theta**2 - np.log(d) + np.log(2 * np.pi)) / 2
    assert_allclose(sum(p[0] for p in parts) - (len(parts) - 1) * prior, value, rtol=1e-12)
    assert_same(sum(p[1] for p in parts) - (len(parts) - 1) * d * theta, gradient, 1e-12)


# --- what goes in and comes out


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_and_earlier_results_are_left_alone(problem, numpy_functions, name):
    args = [np.array(a) for a in arguments(name, problem)]
    before = [a.copy() for a in args]
    first = arrays(numpy_functions[name](*args))
    kept = [a.copy() for a in first]
    numpy_functions[name](-args[0], *args[1:])
    for a, b in zip([*args, *first], [*before, *kept], strict=True):
        assert_array_equal(a, b)
    assert not any(np.shares_memory(result, a) for result in first for a in args)


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_lists_integers_single_precision_and_strides_are_taken_as_they_mean(
    problem, numpy_functions, name
):
    theta, X, *rest = arguments(name, problem)
    X = np.round(4 * X)
    expected = numpy_functions[name](theta, X, *rest)
    others = [
        X.astype(int),
        X.astype("float32"),
        X.tolist(),
        np.asfortranarray(X),
        np.repeat(X, 2, axis=1)[:, ::2],
    ]
    for other in others:
        assert_same(
            numpy_functions[name](theta, other, *[np.asfortranarray(r) for r in rest]),
            expected,
            1e-12,
        )
    assert_same(
        numpy_functions[name](theta.tolist(), X, *[r.tolist() for r in rest]), expected, 1e-14
    )


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
def test_shapes_are_star_label_and_then_what_is_differentiated_after(problem, numpy_functions):
    n, C, P = 7, 3, 51
    shapes = {
        name: [a.shape for a in arrays(numpy_functions[name](*arguments(name, problem)))]
        for name in FUNCTIONS
    }
    factors = shapes.pop("tangent factors")
    assert factors == [(n, 5), (n, 4), (n, 3), (n, C, 4), (n, C, 3), (n, C, C)]
    assert shapes == {
        "predict": [(n, C)],
        "flux jacobian": [(n, C, 5)],
        "theta jacobian": [(n, C, P)],
        "objective": [(), (P,)],
        "hessian-vector product": [(P,)],
        "ggn-vector product": [(P,)],
        "hessian": [(P, P)],
        "ggn": [(P, P)],
    }
    assert type(numpy_functions["objective"](*arguments("objective", problem))[0]) is float


# --- too large


@pytest.fixture(scope="module")
def wide():
    return Regression(mlp([7213, 2048, 1024, 512, 3]), sigma_noise=1.0, prior_precision=1.0)


@pytest.mark.parametrize("build", [compile_hessian, compile_ggn], ids=["hessian", "ggn"])
def test_a_square_of_seventeen_million_parameters_is_refused_before_any_work(wide, build):
    n = wide.net.n_params
    assert n > 17_000_000
    with pytest.raises(
        TooLargeError, match=f"{n} x {n} parameters takes .* GiB and this machine has"
    ) as caught:
        build(wide)
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize("problem", [HARDEST], indirect=True)
def test_a_result_beyond_memory_is_refused_before_any_work(problem, monkeypatch):
    monkeypatch.setattr(limits, "MAX_CHUNK", 3)
    function = compile_jacobian(copy.deepcopy(problem.net), "theta")
    monkeypatch.setattr(function, "_function", lambda *_: pytest.fail("worked"))
    # a machine of 7 stars' 3 labels' 51 parameters of 8 bytes, less one
    monkeypatch.setattr(
        os, "sysconf", lambda name: 7 * 3 * 51 * 8 - 1 if name == "SC_PHYS_PAGES" else 1
    )
    with pytest.raises(
        TooLargeError, match=r"the result for 7 stars takes .* ask for fewer at a time"
    ):
        function(problem.theta, problem.X)


# --- errors


@pytest.fixture(scope="module")
def reg():
    return Regression(mlp([4, 3, 2], activation="tanh"), sigma_noise=0.3, prior_precision=1.0)


@pytest.fixture(scope="module")
def functions(reg):
    kept = ("predict", "flux jacobian", "objective", "hessian-vector product", "hessian")
    return {name: FUNCTIONS[name](reg) for name in kept}


THETA, X, Y = np.ones(23), np.ones((6, 4)), np.ones((6, 2))
WEIGHTS = [np.ones((4, 3)), np.ones(3), np.ones((3, 2)), np.ones(2)]
RAGGED = [[1.0, 2, 3, 4], [1.0, 2, 3]]
REFUSED = {
    "one pixel too many": (
        ShapeError,
        THETA,
        np.ones((6, 5)),
        Y,
        r"\(star, 4\) or \(4,\), got \(6, 5\): trim the last",
    ),
    "one pixel too few": (
        ShapeError,
        THETA,
        np.ones((6, 3)),
        Y,
        r"got \(6, 3\): one pixel was cut",
    ),
    "one spectrum, one pixel too many": (
        ShapeError,
        THETA,
        np.ones(5),
        Y[0],
        r"got \(5,\): trim the last pixel",
    ),
    "flux transposed": (
        ShapeError,
        THETA,
        np.ones((4, 6)),
        Y,
        r"got \(4, 6\): transpose it: flux.T",
    ),
    "three axes": (ShapeError, THETA, np.ones((6, 1, 4)), Y, r"flux.reshape\(6, 4\)"),
    "flux a number": (
        ShapeError,
        THETA,
        1.0,
        Y,
        r"got \(\): give an array with one spectrum a row",
    ),
    "no star": (DataError, THETA, np.ones((0, 4)), Y[:0], "at least one star"),
    "NaN flux": (
        DataError,
        THETA,
        np.where(np.eye(6, 4), np.nan, X),
        Y,
        r"flux should be finite, got 4 values \(first: star 0",
    ),
    "infinite flux": (DataError, THETA, X * np.inf, Y, "flux should be finite"),
    "ragged flux": (DataError, THETA, RAGGED, Y, "rows of one length, got rows of lengths 4 and 3"),
    "object flux": (
        DataError,
        THETA,
        np.full((6, 4), None),
        Y,
        "flux should be .* object array holding NoneType",
    ),
    "flux of words": (DataError, THETA, np.full((6, 4), "a"), Y, "got strings such as 'a'"),
    "list of weights": (ShapeError, WEIGHTS, X, Y, r"shape \(23,\), got a list of 4 arrays .*pack"),
    "dict of weights": (
        ShapeError,
        {"dense_0/kernel": WEIGHTS[0]},
        X,
        Y,
        r"got a dict of 1 blocks .*net.pack\(params\)",
    ),
    "theta too short": (
        ShapeError,
        np.ones(22),
        X,
        Y,
        "the network has 23 parameters and theta 22",
    ),
    "theta a matrix": (ShapeError, np.ones((23, 1)), X, Y, r"got \(23, 1\): give theta.ravel"),
    "several draws": (ShapeError, np.ones((5, 23)), X, Y, r"give one, theta\[i\]"),
    "NaN theta": (
        DataError,
        np.where(np.arange(23) == 3, np.nan, 1),
        X,
        Y,
        r"theta should be finite, got 1 value \(first: entry 3",
    ),
}
REFUSED_LABELS = {
    "one label for several stars": (
        ShapeError,
        X,
        Y[:, 0],
        r"shape \(6, 2\), one row a star, got \(6,\)",
    ),
    "one star's labels for several": (
        ShapeError,
        X,
        Y[0],
        r"shape \(6, 2\), one row a star, got \(2,\)",
    ),
    "two rows of labels for one spectrum": (
        ShapeError,
        X[0],
        Y[:2],
        r"shape \(1, 2\), one row a star, got \(2, 2\)",
    ),
    "labels transposed": (ShapeError, X, Y.T, r"got \(2, 6\): transpose it: labels.T"),
    "stars differ": (ShapeError, X, Y[:5], "spectra of 6 stars and labels of 5"),
    "a label too many": (ShapeError, X, np.ones((6, 3)), "the network gives 2 labels"),
    "all labels missing": (DataError, X, np.nan * Y, "got only missing ones"),
    "one label always missing": (DataError, X, Y * [1, np.nan], "only NaN in column 1"),
    "infinite label": (
        DataError,
        X,
        np.where(np.eye(6, 2), np.inf, Y),
        "labels should not be infinite",
    ),
    "ragged labels": (DataError, X, [[1, 2]] * 5 + [[1]], "labels should have rows of one length"),
    "object labels": (DataError, X, np.full((6, 2), None), "labels should be .* object array"),
}


@pytest.mark.parametrize("name", ["predict", "flux jacobian"])
@pytest.mark.parametrize(
    ("error", "theta", "flux", "labels", "words"), REFUSED.values(), ids=REFUSED
)
def test_a_network_refuses_in_words(functions, name, error, theta, flux, labels, words):
    with pytest.raises(error, match=words) as caught:
        functions[name](theta, flux)
    assert isinstance(caught.value, SymspecError)


@pytest.mark.parametrize("name", ["objective", "hessian"])
@pytest.mark.parametrize(
    ("error", "theta", "flux", "labels", "words"), REFUSED.values(), ids=REFUSED
)
def test_a_regression_refuses_what_a_network_refuses(
    functions, name, error, theta, flux, labels, words
):
    with pytest.raises(error, match=words):
        functions[name](theta, flux, labels)


@pytest.mark.parametrize("name", ["objective", "hessian"])
@pytest.mark.parametrize(
    ("error", "flux", "labels", "words"), REFUSED_LABELS.values(), ids=REFUSED_LABELS
)
def test_a_regression_refuses_labels_in_words(functions, name, error, flux, labels, words):
    with pytest.raises(error, match=words):
        functions[name](THETA, flux, labels)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ((), "takes theta, X, Y and then v, got 0 further arguments"),
        ((THETA, THETA), "got 2 further arguments"),
        ((np.ones(22),), r"v should have 1 axes, the last of 23, got \(22,\)"),
        ((np.ones((2, 23)),), r"got \(2, 23\)"),
    ],
    ids=["none", "two", "short", "matrix"],
)
def test_a_product_refuses_a_direction_that_is_none(functions, extra, words):
    with pytest.raises(ShapeError, match=words):
        functions["hessian-vector product"](THETA, X, Y, *extra)


def test_an_objective_refuses_a_further_argument(functions):
    with pytest.raises(ShapeError, match="takes theta, X, Y and then nothing, got 1"):
        functions["objective"](THETA, X, Y, THETA)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "numbaa"}, "backend should be one of .*got 'numbaa': did you mean 'numba'?"),
        (
            {"backend": "torch"},
            "backend should be one of 'auto', 'numpy', 'c', 'numba', 'jax', got 'torch'",
        ),
        ({"backend": None}, "backend should be one of .*got None"),
        ({"dtype": "float16"}, "dtype should be one of 'float64', 'float32', got 'float16'"),
    ],
    ids=["slip", "unknown", "none", "half precision"],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_options_are_refused_in_words(reg, name, options, words):
    with pytest.raises(OptionError, match=words):
        FUNCTIONS[name](reg, **options)


def test_a_jacobian_is_after_flux_or_theta(reg):
    with pytest.raises(OptionError, match="wrt should be one of 'flux', 'theta', got 'labels'"):
        compile_jacobian(reg.net, "labels")


def test_a_missing_jax_is_named_with_the_extra_that_brings_it(reg, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r'needs JAX: pip install "symspec\[jax\]"'):
        compile_predict(reg.net, backend="jax")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's memory")
def test_memory_of_intermediates_stays_where_the_environment_gives_it_back():
    """Workers of dask have this threshold: every array would come from the system anew."""
    script = """
        import resource
        import numpy as np
        from symspec.derivatives.backends import _keep_freed_memory
        def count():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                np.empty(2**20).fill(0)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(count())
        _keep_freed_memory()
        count()
        print(count())
    """
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    without, with_it = map(int, done.stdout.split())
    assert with_it < 20 <= without  # of twenty arrays each needs a page at least, large or small
