"""Parts of a network: the last layer and leading directions, against dense algebra."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.hmc.subsets import (
    check_subset,
    describe_subset,
    find_basis,
    restricted_covariance,
)
from symspec.inverse_hessian.last_layer import split_last_layer


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 4)), 100 + 20 * rng.normal(size=(30, 2))
    Y[3, 1] = np.nan
    net = ss.standardized(ss.mlp([4, 3, 2], activation="tanh"), X, Y)
    S = np.array([[30.0, 8.0], [8.0, 50.0]])
    reg = ss.Regression(net, noise_covariance=S, prior_precision=ss.scaled_prior(net, 2.0))
    theta = ss.polish(reg, 0.3 * rng.normal(size=net.n_params), X, Y).theta
    return reg, theta, X, Y


def fit(problem, structure):
    return ss.fit_laplace(*problem, structure=structure, progress=False, require_minimum=False)


def test_the_last_layer_of_its_features_is_the_whole_network(problem):
    reg, theta, X, Y = problem
    head = split_last_layer(reg, theta)
    features = head.find_features(X)
    assert features.shape == (30, 3)
    whole, part = (
        ss.compile_predict(reg.net)(theta, X),
        ss.compile_predict(head.reg.net)(theta[head.free], features),
    )
    assert_allclose(part, whole, rtol=1e-12)
    # U differs by the prior of the weights that are held
    fixed = np.ones(theta.size, bool)
    fixed[head.free] = False
    precision = reg.prior_precision_vector()[fixed]
    prior = 0.5 * np.sum(precision * theta[fixed] ** 2 - np.log(precision) + np.log(2 * np.pi))
    U, U_part = (
        ss.compile_objective(reg)(theta, X, Y)[0],
        ss.compile_objective(head.reg)(theta[head.free], features, Y)[0],
    )
    assert_allclose(U - prior, U_part, rtol=1e-12)
    assert_allclose(reg.negative_log_prior_of_held(theta, head.free), prior, rtol=1e-12)
    assert head.reg.net.label_names == reg.net.label_names


@pytest.mark.parametrize("structure", ["last_layer", "primal", "dual"])
def test_the_last_layers_inverse_is_that_of_its_block(problem, structure):
    reg, theta, *_ = problem
    free = split_last_layer(reg, theta).free
    A = np.linalg.inv(fit(problem, "primal").inverse_hessian.to_dense())
    found = fit(problem, structure).inverse_hessian.of_last_layer(reg).to_dense()
    assert_allclose(found, np.linalg.inv(A[free, free]), rtol=1e-8, atol=1e-12)


def test_a_restricted_covariance_is_that_of_the_block(problem):
    reg, theta, X, _ = problem
    laplace = fit(problem, "primal")
    A = np.linalg.inv(laplace.inverse_hessian.to_dense())
    J = ss.compile_jacobian(reg.net, "theta")(theta, X[:7])
    free = split_last_layer(reg, theta).free
    expected = J[..., free] @ np.linalg.inv(A[free, free]) @ J[..., free].transpose(0, 2, 1)
    assert_allclose(restricted_covariance(laplace, X[:7], "last_layer"), expected, rtol=1e-9)
    assert_allclose(
        restricted_covariance(laplace, X[:7], "all"), laplace.label_covariance(X[:7]), rtol=0
    )


def test_directions_restrict_laplace_to_a_unit_normal_and_the_prior_to_independent_ones(problem):
    reg, theta, X, _ = problem
    laplace, n = fit(problem, "primal"), 4
    basis, mean, sd = find_basis(laplace, n)
    A = np.linalg.inv(laplace.inverse_hessian.to_dense())
    assert_allclose(basis.T @ A @ basis, np.eye(n), rtol=0, atol=1e-9)
    precision = reg.prior_precision_vector()
    # the prior's exponent along theta* + B z, against that of independent normals: equal up to a
    # constant
    z = np.random.default_rng(1).normal(size=(5, n))
    exponent = np.sum(precision * (theta + z @ basis.T) ** 2, axis=1)
    independent = np.sum(((z - mean) / sd) ** 2, axis=1)
    assert_allclose(exponent - exponent[0], independent - independent[0], rtol=0, atol=1e-8)
    J = ss.compile_jacobian(reg.net, "theta")(theta, X[:7])
    expected = J @ basis @ basis.T @ J.transpose(0, 2, 1)
    assert_allclose(restricted_covariance(laplace, X[:7], n), expected, rtol=1e-9)


def test_all_directions_are_all_weights(problem):
    laplace = fit(problem, "primal")
    X, P = problem[2][:7], laplace.reg.net.n_params
    assert_allclose(restricted_covariance(laplace, X, P), laplace.label_covariance(X), rtol=1e-8)


def test_a_network_without_hidden_layers_is_its_own_last_layer():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    reg = ss.Regression(ss.mlp([3, 1]), sigma_noise=0.5, prior_precision=1.0)
    head = split_last_layer(reg, np.zeros(4))
    assert head.free == slice(0, 4)
    assert_allclose(head.find_features(X), X, rtol=0)
    laplace = ss.fit_laplace(reg, ss.polish(reg, np.zeros(4), X, Y).theta, X, Y, progress=False)
    assert_allclose(
        restricted_covariance(laplace, X, "last_layer"), laplace.label_covariance(X), rtol=1e-9
    )


def test_the_structure_must_know_the_last_layer(problem):
    with pytest.raises(ss.OptionError, match='got "kronecker": fit_laplace'):
        restricted_covariance(fit(problem, "kronecker"), problem[2], "last_layer")


@pytest.mark.parametrize("wrong", ["first_layer", 0, 24, True, 2.0, None])
def test_a_wrong_subset_is_refused(wrong):
    with pytest.raises(ss.OptionError, match="a number of directions from 1 to 23, got"):
        check_subset(wrong, 23)


def test_subsets_are_named():
    assert check_subset(np.int64(3), 23) == 3
    assert describe_subset("all") == "all weights"
    assert describe_subset("last_layer") == "the last layer's weights, the others held fixed"
    assert describe_subset(3) == "the 3 leading directions of the curvature, the others held fixed"
