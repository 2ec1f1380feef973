"""Hessian and Gauss-Newton matrix in closed form, against the graph's and NumPy's derivatives."""

from functools import cache
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytensor.tensor as pt
import pytest
from conftest import CASES, assert_entries, build_problem
from numpy.testing import assert_allclose, assert_array_equal

from symspec.derivatives import compiled, matrices
from symspec.derivatives.compiled import (
    compile_generic_ggn,
    compile_generic_hessian,
    compile_objective,
)
from symspec.derivatives.curvature import has_elementwise_layers
from symspec.derivatives.matrices import compile_ggn, compile_hessian, sum_products
from symspec.networks.layers import Activation, Dense, Layer, Standardize, Unstandardize
from symspec.networks.network import Network
from symspec.networks.regression import Regression

COMPILE = {"hessian": compile_hessian, "ggn": compile_ggn}
GENERIC = {"hessian": compile_generic_hessian, "ggn": compile_generic_ggn}
HARDEST = "tanh-2-hidden-3-labels-full-noise-missing"
DEEP = "tanh-4-hidden-3-labels-own-units"

ROUTES = {"closed": COMPILE, "generic": GENERIC}

matrix = pytest.mark.parametrize("name", COMPILE)


@cache
def find_function(case, name, route="closed"):
    """One compilation for all tests of a row of the table: it takes most of their time."""
    return ROUTES[route][name](build_problem(case).reg)


def reverse_differences(objective, theta, *data, step=1e-5):
    """Hessian from central differences of the exact gradient."""
    steps = step * np.eye(theta.size)
    return np.array(
        [objective(theta + s, *data)[1] - objective(theta - s, *data)[1] for s in steps]
    ) / (2 * step)


# --- against derivatives that were got in other ways


@matrix
@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_what_numpy_derives_forward(case, name):
    p = build_problem(case)
    actual = find_function(case, name)(p.theta, p.X, p.Y)
    # rounding, 1e-16 times the tens of terms of a sum; entries that cancel lose three digits more
    assert_entries(actual, getattr(p, name)(p.theta), 1e-11)


@matrix
@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_the_generic_route(case, name):
    p = build_problem(case)
    assert has_elementwise_layers(p.net)
    closed, generic = (find_function(case, name, route)(p.theta, p.X, p.Y) for route in ROUTES)
    assert_entries(closed, generic, 1e-11)  # as above


@matrix
@pytest.mark.parametrize("case", CASES)
def test_the_matrix_is_symmetric_to_the_last_bit(case, name):
    p = build_problem(case)
    H = find_function(case, name)(p.theta, p.X, p.Y)
    assert_array_equal(H, H.T)


@pytest.fixture(scope="module")
def crowded():
    """Fixed layers, two activations in a row, none between dense layers, one after the last."""
    rng = np.random.default_rng(3)
    stack = [
        Activation("softplus"),
        Standardize(rng.normal(size=4), rng.uniform(0.5, 2, 4)),
        Dense(5),
        Activation("tanh"),
        Unstandardize(rng.normal(size=5), rng.uniform(0.5, 2, 5)),
        Activation("gelu"),
        Dense(3, use_bias=False),
        Dense(4),
        Activation("sigmoid"),
        Dense(2),
        Unstandardize(np.array([5.0, 1.0]), np.array([3.0, 0.5])),
        Activation("softplus"),
    ]
    reg = Regression(
        Network(stack, 4), noise_covariance=[[0.5, 0.2], [0.2, 0.4]], prior_precision=1.5
    )
    theta, X, Y = (
        rng.normal(size=reg.net.n_params),
        rng.normal(size=(9, 4)),
        rng.normal(size=(9, 2)),
    )
    Y[0, 1] = Y[3, 0] = np.nan
    return reg, theta, X, Y


@matrix
def test_elementwise_layers_may_stand_anywhere(crowded, name):
    reg, *args = crowded
    assert type(COMPILE[name](reg)) is matrices.CurvatureMatrix
    assert_entries(
        COMPILE[name](reg)(*args), GENERIC[name](reg)(*args), 1e-10
    )  # entries span six decades


def test_the_closed_form_hessian_is_the_difference_of_gradients(crowded):
    reg, *args = crowded
    H = compile_hessian(reg)(*args)
    expected = reverse_differences(compile_objective(reg), *args)
    # the step's square, 1e-10, times fourth derivatives; rounding of 1e-16 over the step
    assert_allclose(H, expected, rtol=1e-6, atol=1e-7 * np.abs(H).max())


# --- however it is summed


@matrix
@pytest.mark.parametrize("case", [HARDEST, DEEP])
@pytest.mark.parametrize("block_bytes", [1, 600, 2**20])
@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_neither_chunks_of_stars_nor_blocks_of_rows_change_anything(
    case, name, block_bytes, chunk, monkeypatch
):
    p, function = build_problem(case), find_function(case, name)
    at_once = function(p.theta, p.X, p.Y)
    monkeypatch.setattr(matrices, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(matrices, "MIRROR_ROWS", 1 + block_bytes % 5)
    monkeypatch.setattr(function, "chunk", chunk)
    assert_entries(function(p.theta, p.X, p.Y), at_once, 1e-12)  # the same sums in another order


@pytest.mark.parametrize("upper", [False, True], ids=["all", "upper"])
@pytest.mark.parametrize("block_bytes", [1, 900, 2**20])
@pytest.mark.parametrize(
    "n_k", [2, 20], ids=["a product for each k", "products a b as one operand"]
)
def test_sums_of_three_factors_are_einsum_by_either_route(n_k, block_bytes, upper, monkeypatch):
    monkeypatch.setattr(matrices, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(1)
    a, M = rng.normal(size=(6, 11)), rng.normal(size=(n_k, 11))
    b = a if upper else rng.normal(size=(4, 11))
    expected = np.einsum("in,pn,kn->kip", a, b, M)
    seen = np.zeros(expected.shape, int)
    for rows, columns, R in sum_products(a, b, M, upper=upper):
        assert_allclose(
            R, expected[:, rows, columns], rtol=1e-12, atol=1e-13
        )  # eleven terms of order one
        seen[:, rows, columns] += 1
    i, p = np.indices(seen.shape[1:])
    assert seen.max() == 1
    assert (seen[:, (i <= p) | (not upper)] == 1).all()


@matrix
@pytest.mark.parametrize("case", [HARDEST, "relu-3-hidden-2-labels-own-units-missing"])
def test_single_precision_stays_single_and_agrees(case, name):
    p = build_problem(case)
    H = COMPILE[name](p.reg, dtype="float32")(p.theta, p.X, p.Y)
    expected = find_function(case, name)(p.theta, p.X, p.Y)
    assert H.dtype == np.float32
    assert_array_equal(H, H.T)
    assert_allclose(
        H, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )  # 6e-8 times tens of terms


# --- layers that are not elementwise


class Softmax(Layer):
    """Each feature depends on all."""

    def build(self, x, params, shape):
        e = pt.exp(x)
        return e / pt.sum(e, axis=-1, keepdims=True)


class Doubled(Layer):
    """Elementwise, and says so."""

    elementwise: ClassVar[bool] = True

    def build(self, x, params, shape):
        return x + x**2


def build_regression(layer):
    rng = np.random.default_rng(5)
    net = Network([Dense(4), layer, Dense(2)], 3)
    reg = Regression(net, sigma_noise=0.4, prior_precision=2.0)
    args = rng.normal(size=net.n_params), rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    return SimpleNamespace(reg=reg, args=args)


def test_a_layer_that_mixes_features_takes_the_generic_route_and_is_right():
    p = build_regression(Softmax())
    assert not has_elementwise_layers(p.reg.net)
    hessian = compile_hessian(p.reg)
    assert not isinstance(hessian, matrices.CurvatureMatrix)
    assert not isinstance(compile_ggn(p.reg), matrices.CurvatureMatrix)
    expected = reverse_differences(compile_objective(p.reg), *p.args)
    assert_allclose(
        hessian(*p.args), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max()
    )  # as above
    J = compiled.compile_jacobian(p.reg.net, "theta")(*p.args[:2])
    G = np.einsum("nci,ncj->ij", J, J) / 0.4**2 + 2 * np.eye(p.reg.net.n_params)
    assert_entries(compile_ggn(p.reg)(*p.args), G, 1e-11)


def test_a_new_layer_that_says_it_is_elementwise_takes_the_closed_form():
    p = build_regression(Doubled())
    assert isinstance(compile_hessian(p.reg), matrices.CurvatureMatrix)
    assert_entries(compile_hessian(p.reg)(*p.args), compile_generic_hessian(p.reg)(*p.args), 1e-11)


def test_layers_are_not_elementwise_unless_they_say_so():
    assert not Layer.elementwise
    assert not Dense(3).elementwise
    assert Activation("tanh").elementwise
