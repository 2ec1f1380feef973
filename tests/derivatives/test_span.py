"""Reduction to the span of the training spectra changes no minimum, decrement or evidence."""

import numpy as np
import pytest

import symspec as ss
from symspec.derivatives.compiled import compile_objective
from symspec.derivatives.span import compile_response, find_span

PIXELS, STARS = 30, 12


def build_problem(prior=None):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(STARS, PIXELS)) + 1, rng.normal(size=(STARS, 2))
    net = ss.standardized(ss.mlp([PIXELS, 4, 2], activation="tanh"), X, Y)
    reg = ss.Regression(
        net, sigma_noise=[0.1, 0.3], prior_precision=prior or ss.scaled_prior(net, 1.0)
    )
    return reg, net.init_params(rng), X, Y


def test_the_small_minimum_lifted_is_a_minimum_of_the_large_problem():
    reg, theta, X, Y = build_problem()
    span = find_span(reg, X)
    small = ss.polish(span.reg, span.project(theta), span.X, Y, tolerance=1e-12)
    gradient = compile_objective(reg)(span.lift(small.theta), X, Y)[1]
    scale = np.abs(compile_objective(reg)(theta, X, Y)[1]).max()
    assert (
        np.abs(gradient).max() < 1e-5 * scale
    )  # the decrement's tolerance, far below the start's gradient


def test_predictions_and_evidence_of_both_problems_are_equal():
    reg, theta, X, Y = build_problem()
    span = find_span(reg, X)
    small = ss.polish(span.reg, span.project(theta), span.X, Y, tolerance=1e-12).theta
    here = ss.fit_laplace(reg, span.lift(small), X, Y)
    there = ss.fit_laplace(span.reg, small, span.X, Y)
    # two routes of sums and factorisations of order 100 nats in float64
    np.testing.assert_allclose(
        here.log_marginal_likelihood(), there.log_marginal_likelihood(), rtol=1e-10
    )
    np.testing.assert_allclose(
        here.label_covariance(X), there.label_covariance(span.X), rtol=1e-8, atol=1e-12
    )


def test_lifting_and_projecting_is_the_identity_within_the_span():
    reg, theta, X, _ = build_problem()
    span = find_span(reg, X)
    small = span.project(theta)
    np.testing.assert_allclose(span.project(span.lift(small)), small, atol=1e-13)


@pytest.mark.parametrize("n_stars", [PIXELS, PIXELS + 5])
def test_as_many_stars_as_pixels_leave_nothing_to_reduce(n_stars):
    reg, *_ = build_problem()
    assert find_span(reg, np.ones((n_stars, PIXELS))) is None


def test_a_prior_for_each_weight_is_left_alone():
    reg, _, X, _ = build_problem()
    kernel = np.ones((PIXELS, 4))
    reg = ss.Regression(
        reg.net, sigma_noise=0.1, prior_precision=reg.prior_precision | {"dense_0/kernel": kernel}
    )
    assert find_span(reg, X) is None


# --- what changes of the flux do to labels

RESPONSES = {
    "a dense first layer": ss.mlp([7, 4, 2], activation="tanh"),
    "standardised": ss.Network(
        [ss.Standardize(np.ones(7), np.full(7, 2.0)), ss.Dense(4), ss.Activation("tanh")], 7
    ),
    "a layer before": ss.Network([ss.Activation("tanh"), ss.Dense(2)], 7),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_changes_are_those_of_the_network(name):
    net = RESPONSES[name]
    rng = np.random.default_rng(0)
    theta = net.init_params(rng)
    X, errors = rng.normal(size=(3, 7)), rng.normal(size=(5, 3, 7))
    response = compile_response(net, theta)(X)
    predict, jacobian = ss.compile_predict(net), ss.compile_jacobian(net)
    for stars in (np.arange(3), np.array([2, 0])):
        picked = response.pick(stars)
        found = picked.find_changes(errors[:, stars])
        for e, linear, below, above in zip(errors[:, stars], *found, strict=True):
            J = jacobian(theta, X[stars])
            np.testing.assert_allclose(linear, np.einsum("ncp,np->nc", J, e), atol=1e-13)
            np.testing.assert_allclose(below, predict(theta, X[stars] - e), atol=1e-13)
            np.testing.assert_allclose(above, predict(theta, X[stars] + e), atol=1e-13)
