"""Activations equal SciPy's and stay finite at knots and far out; layers refuse what they must."""

import warnings

import numpy as np
import pytensor.tensor as pt
import pytest
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from pytensor.scalar.basic import Cast
from pytensor.tensor.elemwise import Elemwise

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.activations import ACTIVATIONS
from symspec.networks.layers import Activation, Dense, Dropout, Standardize, Unstandardize
from symspec.networks.network import Network, mlp, standardized

EXPECTED = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.maximum(x, 0.3 * x),
    "elu": lambda x: np.maximum(x, 0) + np.expm1(np.minimum(x, 0)),
    "selu": lambda x: (
        1.0507009873554805 * (np.maximum(x, 0) + 1.6732632423543772 * np.expm1(np.minimum(x, 0)))
    ),
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "softplus": lambda x: np.logaddexp(0, x),
    "gelu": lambda x: x * scipy.stats.norm.cdf(x),
    "silu": lambda x: x * scipy.special.expit(x),
    "clip": lambda x: np.clip(x, 0, 9999),
}


def with_derivatives(compile_plainly, function, at):
    """Value, first and second derivative of an elementwise graph at each number."""
    x = pt.vector("x")
    y = function(x)
    slope = pt.grad(y.sum(), x)
    curvature = pt.grad(slope.sum(), x, disconnected_inputs="ignore")
    with warnings.catch_warnings():
        # rewrites of a second derivative may fold 0 / 0 of constants in a branch that they then
        # drop
        warnings.simplefilter("ignore", RuntimeWarning)
        # the second derivative of a straight line has no x in it
        compiled = compile_plainly([x], [y, slope, curvature + 0 * x])
    return compiled(np.asarray(at, float))


# --- activations


def test_every_activation_has_an_expected_value_here():
    assert set(EXPECTED) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", EXPECTED)
def test_activation_is_that_of_scipy(name, compile_plainly):
    at = np.concatenate([np.linspace(-6, 6, 41), [-750.0, -30, 30, 750, 2e4]])
    value, _, _ = with_derivatives(compile_plainly, ACTIVATIONS[name], at)
    # 1 + erf cancels in gelu's left tail: to the rounding of 1, times x
    assert_allclose(value, EXPECTED[name](at), rtol=1e-14, atol=1e-14 if name == "gelu" else 1e-300)


@pytest.mark.parametrize("name", EXPECTED)
def test_activation_derivatives_are_central_differences(name, compile_plainly):
    at = np.linspace(-4.1, 4.3, 29)  # no knot within a step
    h = 1e-5
    _, slope, curvature = with_derivatives(compile_plainly, ACTIVATIONS[name], at)
    differences = (EXPECTED[name](at + h) - EXPECTED[name](at - h)) / (2 * h)
    assert_allclose(slope, differences, atol=1e-9)  # h^2 truncation and 1e-16 / h rounding
    _, above, _ = with_derivatives(compile_plainly, ACTIVATIONS[name], at + h)
    _, below, _ = with_derivatives(compile_plainly, ACTIVATIONS[name], at - h)
    assert_allclose(curvature, (above - below) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("name", EXPECTED)
def test_activation_and_both_derivatives_are_finite_far_out(name, compile_plainly):
    at = np.array([-1e5, -800.0, -40.0, -1e-300, 0.0, 1e-300, 40.0, 800.0, 1e5])
    for values in with_derivatives(compile_plainly, ACTIVATIONS[name], at):
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("function", "options", "knot", "slopes", "curvatures"),
    [
        ("relu", {}, 0.0, (0, 0, 1), (0, 0, 0)),
        ("leaky_relu", {"negative_slope": 0.2}, 0.0, (0.2, 0.2, 1), (0, 0, 0)),
        ("elu", {"alpha": 0.7}, 0.0, (0.7, 0.7, 1), (0.7, 0.7, 0)),
        ("clip", {"minimum": -0.5, "maximum": 2.0}, -0.5, (0, 0, 1), (0, 0, 0)),
        ("clip", {"minimum": -0.5, "maximum": 2.0}, 2.0, (1, 0, 0), (0, 0, 0)),
    ],
    ids=["relu", "leaky_relu", "elu", "clip below", "clip above"],
)
def test_derivatives_at_a_knot_are_those_of_one_side(
    compile_plainly, function, options, knot, slopes, curvatures
):
    """Neither a mean of both sides, nor a sum, nor NaN: the flat or lower piece owns its knot."""
    build, at = Activation(function, options).build, [knot - 1e-9, knot, knot + 1e-9]
    _, slope, curvature = with_derivatives(compile_plainly, lambda x: build(x, {}, (3,)), at)
    assert_allclose(slope, slopes, rtol=1e-8)  # 1e-9 away an exponential differs by that much
    assert_allclose(curvature, curvatures, rtol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (7,), (2, 7)])
def test_relu_is_computed_in_one_pass_and_keeps_what_is_not_a_number(compile_plainly, dtype, shape):
    x = pt.tensor("x", dtype=dtype, shape=shape)
    fn = compile_plainly([x], ACTIVATIONS["relu"](x))
    assert [str(node.op) for node in fn.maker.fgraph.apply_nodes] == ["Maximum"]
    at = np.broadcast_to(np.array([-np.inf, -2, -0.0, 0, 3, np.inf, np.nan], dtype), shape or (7,))
    found = fn(at if shape else at[4])
    assert found.dtype == dtype
    assert_array_equal(found, np.maximum(at if shape else at[4], 0))


@pytest.mark.parametrize("name", EXPECTED)
def test_no_activation_or_derivative_is_a_python_call_for_each_number(compile_plainly, name):
    """As PyTensor's operations are that name no function of NumPy or SciPy."""
    x, v = pt.vectors("x", "v")
    y = ACTIVATIONS[name](x)
    slope = pt.grad(y.sum(), x)
    curvature = pt.grad((slope * v).sum(), x, disconnected_inputs="ignore")
    fn = compile_plainly([x, v], [y, slope, curvature + 0 * x * v])
    ops = {node.op for node in fn.maker.fgraph.apply_nodes if isinstance(node.op, Elemwise)}
    assert [op for op in ops if op.nfunc_spec is None and not isinstance(op.scalar_op, Cast)] == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x * (y > 0),
        lambda x, y: x * (x > 1),
        lambda x, y: x * (x < 0),
        lambda x, y: x * y,
    ],
    ids=["another's mask", "another bound", "the other side", "no mask"],
)
def test_other_products_are_no_relu(compile_plainly, function):
    x, y = pt.vectors("x", "y")
    at = np.array([-2.0, 0.5, 3.0]), np.array([1.0, 1.0, -1.0])
    assert_array_equal(compile_plainly([x, y], function(x, y) + 0 * y)(*at), function(*at))


@pytest.mark.parametrize("name", EXPECTED)
def test_activation_of_single_precision_stays_single(name):
    x = pt.fmatrix("x")
    assert ACTIVATIONS[name](x).dtype == "float32"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("rellu", {}, "activation should be one of 'linear', .*got 'rellu': did you mean 'relu'?"),
        ("ReLU", {}, "did you mean 'relu'?"),
        ("swoosh!", {}, "got 'swoosh!': choose one of these"),
        (np.tanh, {}, "activation should be one of"),
        ("relu", {"alpha": 1}, "'relu' takes no options, got 'alpha': leave it out"),
        ("elu", {"negative_slope": 1}, "'elu' takes alpha, got 'negative_slope'"),
        ("clip", {"max": 1}, "'clip' takes minimum, maximum, got 'max'"),
    ],
    ids=[
        "slip",
        "capitals",
        "unknown",
        "function",
        "option of none",
        "option of another",
        "option of clip",
    ],
)
def test_an_unknown_activation_or_option_is_refused_in_words(name, options, words):
    with pytest.raises(OptionError, match=words):
        Activation(name, options)


@pytest.mark.parametrize("sizes", [[4, 2], [4, 3, 2]], ids=["no hidden layer", "one hidden layer"])
def test_mlp_refuses_an_unknown_activation(sizes):
    with pytest.raises(OptionError, match="did you mean 'softplus'"):
        mlp(sizes, activation="sofplus")


# --- dense and dropout


@pytest.mark.parametrize("units", [0, -3, 2.0, "8", None])
def test_units_that_are_no_positive_integer_are_refused(units):
    with pytest.raises(OptionError, match=f"units should be a positive integer, got {units!r}"):
        Dense(units)


def test_dense_is_the_product_with_the_kernel_plus_bias_for_one_spectrum_and_many(compile_plainly):
    rng = np.random.default_rng(0)
    W, b, X = rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=(4, 3))
    params = {"kernel": pt.as_tensor_variable(W), "bias": pt.as_tensor_variable(b)}
    x, xs = pt.vector("x"), pt.matrix("xs")
    one, many = compile_plainly(
        [x, xs], [Dense(2).build(x, params, (3,)), Dense(2).build(xs, params, (3,))]
    )(X[1], X)
    expected = np.array(
        [[sum(X[n, i] * W[i, o] for i in range(3)) + b[o] for o in range(2)] for n in range(4)]
    )
    assert_allclose(many, expected, rtol=1e-13)
    assert_allclose(one, expected[1], rtol=1e-13)


def test_dropout_is_the_identity_without_a_mask_and_a_product_with_one(compile_plainly):
    x, mask = pt.matrix("x"), pt.matrix("mask")
    assert Dropout(0.5).build(x, {}, (2,)) is x
    X, M = np.array([[1.0, 2.0]]), np.array([[0.0, 2.0]])
    assert_array_equal(
        compile_plainly([x, mask], Dropout(0.5).build(x, {"mask": mask}, (2,)))(X, M), [[0, 4]]
    )


def test_dropout_masks_keep_the_mean():
    M = Dropout(0.2).draw_mask((300, 200), np.random.default_rng(0), "float32")
    assert M.dtype == np.float32
    assert_allclose(np.unique(M), [0, 1.25], rtol=1e-7)
    # 60,000 draws of variance 0.25: five standard errors
    assert abs(M.mean() - 1) < 5 * 0.5 / np.sqrt(M.size)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_dropout_rate_that_is_no_fraction_is_refused(rate):
    with pytest.raises(OptionError, match=f"rate should be at least 0 and below 1, got {rate}"):
        Dropout(rate)


# --- fixed layers


def test_standardize_then_unstandardize_is_the_identity(compile_plainly):
    rng = np.random.default_rng(0)
    X, mean, scale = rng.normal(size=(4, 3)), [1.0, 2, 3], [0.1, 5, 7]
    x = pt.matrix("x")
    z = Standardize(mean, scale).build(x, {}, (2,))
    forth, back = compile_plainly([x], [z, Unstandardize(mean, scale).build(z, {}, (2,))])(X)
    assert_allclose(forth, (X - mean) / scale, rtol=1e-14)
    assert_allclose(back, X, rtol=1e-13)


def test_standardize_of_an_array_takes_the_mean_and_spread_of_each_column_without_nan():
    array = np.array([[1.0, 10.0], [3.0, np.nan], [8.0, 30.0]])
    layer = Standardize.of(array)
    assert_allclose(layer.mean, [4, 20], rtol=1e-15)
    assert_allclose(layer.scale, [np.sqrt(26 / 3), 10], rtol=1e-15)


def test_a_standardized_network_takes_flux_and_gives_labels_in_their_own_units(compile_plainly):
    rng = np.random.default_rng(3)
    X, Y = rng.normal(1, 0.1, (20, 4)), rng.normal([4800, 2], [300, 0.5], (20, 2))
    Y[3, 1] = np.nan
    inner = mlp(
        [4, 3, 2], activation="tanh", label_names=["TEFF", "LOGG"], label_units=["K", "dex"]
    )
    net = standardized(inner, X, Y)
    t = inner.init_params(rng)
    theta, x = pt.vector("theta"), pt.matrix("x")
    outer, plain = compile_plainly(
        [theta, x], [net(theta, x), inner(theta, (x - X.mean(0)) / X.std(0))]
    )(t, X)
    assert_allclose(outer, plain * np.nanstd(Y, axis=0) + np.nanmean(Y, axis=0), rtol=1e-12)
    assert (net.label_names, net.label_units) == (("TEFF", "LOGG"), ("K", "dex"))
    assert [b.name for b in net.layout.blocks] == [b.name for b in inner.layout.blocks]


def test_pixels_that_never_vary_may_keep_their_own_size_for_a_scale():
    x = np.column_stack([[1.0, 3.0, 5.0], np.full(3, 0.1), np.zeros(3)])
    # standard deviation of 1, 3, 5; a size; the largest of the other scales
    scale = np.array([np.sqrt(8 / 3), 0.1, np.sqrt(8 / 3)])
    for unit in (1.0, 1e-17, 1e12):
        layer = Standardize.of(unit * x, constant="keep")
        assert_allclose(layer.mean, unit * np.array([3, 0.1, 0]), rtol=1e-15)
        assert_allclose(layer.scale, unit * scale, rtol=1e-15)


def test_constants_are_seen_through_the_rounding_of_a_long_sum():
    flux = np.full((100_000, 2), 0.1)
    assert np.all(np.std(flux, axis=0) > 1e-13)  # the mean of a long sum is not the constant
    with pytest.raises(DataError, match="2 of zero variance"):
        Standardize.of(flux)


def test_fixed_layers_keep_copies_that_cannot_be_written():
    mean = np.zeros(2)
    layer = Standardize(mean, np.ones(2))
    mean[0] = 7
    assert layer.mean[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        layer.scale[0] = 2


@pytest.mark.parametrize(
    ("error", "build", "words"),
    [
        (
            DataError,
            lambda: Standardize.of(np.column_stack([np.arange(4.0), np.full(4, 2.5)])),
            r"1 of zero variance, the first at position 1 \(all 2.5\): drop these columns",
        ),
        (
            DataError,
            lambda: Standardize.of(1 + 1e-15 * np.arange(8.0).reshape(4, 2)),
            "2 of zero variance, the first at position 0",
        ),
        (
            DataError,
            lambda: Standardize.of(np.ones((1, 3))),
            r"got shape \(1, 3\): a mean .* cannot come from one star",
        ),
        (
            DataError,
            lambda: Unstandardize.of([[1.0, np.nan], [2.0, 3.0]]),
            "Unstandardize.of needs .*at least two numbers",
        ),
        (DataError, lambda: Standardize.of(np.ones(4)), r"got shape \(4,\)"),
        (
            DataError,
            lambda: Standardize([0, 0], [1, 0]),
            "scale positive, got mean 0.0, scale 0.0 at position 1",
        ),
        (DataError, lambda: Standardize([0, 0], [1, -1]), "scale positive"),
        (DataError, lambda: Standardize([np.nan, 0], [1, 1]), "mean should be finite .*position 0"),
        (
            ShapeError,
            lambda: Standardize([0, 0], [1, 1, 1]),
            r"vectors of one length, got \(2,\), \(3,\)",
        ),
        (ShapeError, lambda: Standardize(0.0, 1.0), "vectors of one length"),
        (
            ShapeError,
            lambda: Network([Standardize(np.zeros(3), np.ones(3)), Dense(1)], 4),
            "standardize of 3 features stands where there are 4",
        ),
        (
            ShapeError,
            lambda: Network([Dense(2), Unstandardize(np.zeros(3), np.ones(3))], 4),
            "unstandardize of 3 features stands where there are 2",
        ),
    ],
    ids=[
        "flat pixel",
        "flat to rounding",
        "one star",
        "label of one star",
        "vector",
        "scale zero",
        "scale negative",
        "mean NaN",
        "two lengths",
        "numbers",
        "other pixels",
        "other labels",
    ],
)
def test_a_fixed_layer_that_cannot_work_is_refused_in_words(error, build, words):
    with pytest.raises(error, match=words):
        build()
