"""Every derivative agrees, entry by entry, with NumPy, differences and pytensor.gradient."""

from types import SimpleNamespace

import numpy as np
import pytensor.tensor as pt
import pytest
from conftest import assert_entries
from numpy.testing import assert_allclose
from pytensor.gradient import hessian, jacobian

from symspec.derivatives.compiled import (
    compile_ggn_vector_product,
    compile_hessian_vector_product,
    compile_jacobian,
    compile_objective,
    compile_predict,
    compile_tangent_factors,
)
from symspec.derivatives.matrices import compile_ggn, compile_hessian
from symspec.derivatives.weighted_sums import (
    compile_weighted_hessian_vector_product,
    compile_weighted_squares,
)
from symspec.networks.layers import Activation, Dense
from symspec.networks.network import Network
from symspec.networks.normalizations import BatchNorm
from symspec.networks.regression import Regression

# float64 rounding, 1e-16, through a handful of products and a solve of condition below 1e3
EXACT = 1e-9
# central differences with step 1e-5: truncation 1e-10 and rounding 1e-16 / 1e-5, times derivatives
# up to 1e3
CENTRAL = 1e-6
STEP = 1e-5


def central_differences(function, at):
    """Derivative after `at`, along a new last axis."""
    steps = STEP * np.eye(at.size)
    return np.stack([(function(at + e) - function(at - e)) / (2 * STEP) for e in steps], axis=-1)


@pytest.fixture(scope="module")
def computed(problem):
    """All that the package says of one problem."""
    net, reg, theta, X, Y, v = (
        problem.net,
        problem.reg,
        problem.theta,
        problem.X,
        problem.Y,
        problem.v,
    )
    objective = compile_objective(reg)
    value, gradient = objective(theta, X, Y)
    return SimpleNamespace(
        objective=objective,
        labels=compile_predict(net)(theta, X),
        value=value,
        gradient=gradient,
        theta_jacobian=compile_jacobian(net, "theta")(theta, X),
        flux_jacobian=compile_jacobian(net, "flux")(theta, X),
        hessian=compile_hessian(reg)(theta, X, Y),
        ggn=compile_ggn(reg)(theta, X, Y),
        hessian_product=compile_hessian_vector_product(reg)(theta, X, Y, v),
        ggn_product=compile_ggn_vector_product(reg)(theta, X, Y, v),
    )


# --- against the derivation in NumPy


def test_labels_are_those_of_a_forward_pass_in_numpy(problem, computed):
    assert_entries(computed.labels, problem.predict(problem.theta), EXACT)


def test_theta_jacobian_is_that_of_forward_accumulation_in_numpy(problem, computed):
    assert_entries(computed.theta_jacobian, problem.theta_jacobian(problem.theta), EXACT)


def test_flux_jacobian_is_that_of_forward_accumulation_in_numpy(problem, computed):
    assert_entries(computed.flux_jacobian, problem.flux_jacobian(problem.theta), EXACT)


def test_objective_and_gradient_are_sums_over_stars_of_their_observed_labels(problem, computed):
    assert_allclose(computed.value, problem.value(problem.theta), rtol=EXACT)
    assert_entries(computed.gradient, problem.gradient(problem.theta), EXACT)


def test_hessian_and_its_products_are_complex_steps_of_the_gradient(problem, computed):
    H = problem.hessian(problem.theta)
    assert_entries(computed.hessian, H, EXACT)
    assert_entries(computed.hessian_product, H @ problem.v, EXACT)


def test_ggn_and_its_products_are_sums_of_weighted_jacobian_products(problem, computed):
    G = problem.ggn(problem.theta)
    assert_entries(computed.ggn, G, EXACT)
    assert_entries(computed.ggn_product, G @ problem.v, EXACT)


# --- against central differences


def test_jacobians_are_central_differences_of_the_forward_pass(problem, computed):
    by_theta = central_differences(problem.predict, problem.theta)
    assert_allclose(
        computed.theta_jacobian, by_theta, rtol=CENTRAL, atol=CENTRAL * np.abs(by_theta).max()
    )
    by_flux = [
        central_differences(lambda x: problem.propagate(problem.theta, x)[0], x) for x in problem.X
    ]  # a pixel's step is a larger part of its scale than a parameter's
    assert_allclose(
        computed.flux_jacobian, by_flux, rtol=CENTRAL, atol=10 * CENTRAL * np.abs(by_flux).max()
    )


def test_gradient_is_the_central_difference_of_the_objective(problem, computed):
    g = central_differences(lambda t: computed.objective(t, problem.X, problem.Y)[0], problem.theta)
    # the objective's rounding, 1e-16 of it, is divided by the step
    rounding = 1e-15 * abs(computed.value) / STEP
    assert_allclose(computed.gradient, g, rtol=CENTRAL, atol=rounding + CENTRAL * np.abs(g).max())


def test_hessian_is_the_central_difference_of_the_gradient(problem, computed):
    H = central_differences(lambda t: computed.objective(t, problem.X, problem.Y)[1], problem.theta)
    assert_allclose(computed.hessian, H, rtol=CENTRAL, atol=CENTRAL * np.abs(H).max())


@pytest.mark.parametrize(
    "problem",
    [
        "tanh-1-hidden-2-labels-own-units-missing",
        "tanh-2-hidden-3-labels-full-noise-missing",
        "selu-1-hidden-3-labels-full-noise-missing",
        "relu-0-hidden-3-labels-full-noise-missing",
    ],
    indirect=True,
)
def test_ggn_is_the_hessian_of_the_linearised_models_objective(problem, computed):
    """The objective of f(theta) + J (t - theta) is quadratic: its second differences are exact."""
    theta, J = problem.theta, central_differences(problem.predict, problem.theta)
    f, n = problem.predict(theta), problem.theta.size

    def objective(t):
        return problem.value_of(f + J @ (t - theta), t)

    def mixed(i, j):
        a, b = np.eye(n)[i], np.eye(n)[j]
        corners = objective(theta + a + b) - objective(theta + a - b) - objective(theta - a + b)
        return (corners + objective(theta - a - b)) / 4

    G = np.array([[mixed(i, j) if j <= i else 0.0 for j in range(n)] for i in range(n)])
    G = G + np.tril(G, -1).T
    assert_allclose(computed.ggn, G, rtol=CENTRAL, atol=CENTRAL * np.abs(G).max())


# --- against pytensor.gradient, applied to the same graph with theta as one vector


def test_jacobians_are_those_of_pytensor_for_each_spectrum(problem, computed, compile_plainly):
    theta, x = pt.vector("theta", shape=(problem.net.n_params,)), pt.vector("x")
    f = problem.net(theta, x)
    J = compile_plainly([theta, x], [jacobian(f, x), jacobian(f, theta)])
    for n, spectrum in enumerate(problem.X):
        by_flux, by_theta = J(problem.theta, spectrum)
        assert_entries(computed.flux_jacobian[n], by_flux, EXACT)
        assert_entries(computed.theta_jacobian[n], by_theta, EXACT)


def test_hessian_and_gradient_are_those_of_pytensor(problem, computed, compile_plainly):
    theta, X, Y = pt.vector("theta", shape=(problem.net.n_params,)), pt.matrix("X"), pt.matrix("Y")
    U = problem.reg.negative_log_posterior(theta, X, Y)
    direct = compile_plainly([theta, X, Y], [U, jacobian(U, theta), hessian(U, theta)])
    value, gradient, H = direct(problem.theta, problem.X, problem.Y)
    assert_allclose(computed.value, value, rtol=EXACT)
    assert_entries(computed.gradient, gradient, EXACT)
    assert_entries(computed.hessian, H, EXACT)


# --- what the two curvatures have to do with each other


def relative_difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(
    "problem",
    ["linear-0-hidden-1-label", "relu-0-hidden-3-labels-full-noise-missing"],
    indirect=True,
)
def test_hessian_is_the_ggn_where_the_network_is_linear_in_its_parameters(computed):
    assert (
        relative_difference(computed.hessian, computed.ggn) < 1e-14
    )  # the same sums in another order


@pytest.mark.parametrize(
    "problem",
    [
        "linear-1-hidden-2-labels",
        "tanh-2-hidden-3-labels-full-noise-missing",
        "relu-2-hidden-3-labels-full-noise",
    ],
    indirect=True,
)
def test_hessian_is_not_the_ggn_where_two_layers_multiply(computed):
    assert relative_difference(computed.hessian, computed.ggn) > 0.01


def test_a_star_without_any_label_adds_nothing(problem, computed):
    X, Y = (
        np.vstack([problem.X, problem.X[0]]),
        np.vstack([problem.Y, np.full(problem.net.n_labels, np.nan)]),
    )
    value, gradient = computed.objective(problem.theta, X, Y)
    assert_allclose(value, computed.value, rtol=1e-14)  # the same sums in another order
    assert_entries(gradient, computed.gradient, 1e-12)


# --- the factors


def test_theta_jacobian_is_the_outer_product_of_its_tangent_factors(problem, computed):
    factors = compile_tangent_factors(problem.net)(problem.theta, problem.X)
    half = len(factors) // 2
    blocks = []
    for a, g in zip(factors[:half], factors[half:], strict=True):
        assert a.shape[0] == g.shape[0] == len(problem.X)
        assert g.shape[1] == problem.net.n_labels
        kernel = np.stack(
            [np.stack([np.outer(x, row).ravel() for row in c]) for x, c in zip(a, g, strict=True)]
        )
        blocks += [kernel, g] if problem.case.use_bias else [kernel]
    assert_entries(np.concatenate(blocks, axis=2), problem.theta_jacobian(problem.theta), EXACT)


def build_batch_normalized():
    """A network whose gradient by beta is a step on the way to that by gamma, and a point."""
    rng = np.random.default_rng(0)
    norm = BatchNorm(np.array([0.1, -0.2, 0.3]), np.array([1.5, 0.7, 1.0]))
    net = Network([Dense(3), norm, Activation("tanh"), Dense(2)], 4)
    X, Y = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    return net, *rng.normal(size=(2, net.n_params)), X, Y


def test_products_with_the_ggn_know_all_ways_through_a_batch_normalisation():
    net, theta, v, X, Y = build_batch_normalized()
    reg = Regression(net, sigma_noise=[0.3, 0.5], prior_precision=1.3)
    J = compile_jacobian(net, "theta")(theta, X) / reg.sigma_noise[:, None]
    expected = np.einsum("nci,ncj,j->i", J, J, v) + 1.3 * v
    product = compile_ggn_vector_product(reg)(theta, X, Y, v)
    assert_allclose(product, expected, rtol=1e-11)


def test_products_with_the_hessian_know_all_ways_through_a_batch_normalisation():
    net, theta, v, X, Y = build_batch_normalized()
    W = np.broadcast_to([[9.0, 2.0], [2.0, 4.0]], (6, 2, 2))
    squares = compile_weighted_squares(net)
    h = 1e-5
    ends = [squares(theta + step, X, Y, W)[1] for step in (h * v, -h * v)]
    product = compile_weighted_hessian_vector_product(net)(theta, X, Y, W, v)
    # h^2 times fourth derivatives, and rounding over h
    assert_allclose(product, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-6)
