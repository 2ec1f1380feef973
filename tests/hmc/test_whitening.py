"""Whitening: L L^T is the inverse Hessian, with its log-determinant; graphs agree with numbers."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.errors import TooLargeError
from symspec.hmc.whitening import find_whitening
from symspec.inverse_hessian.low_rank import NEGLIGIBLE

EXACT = ("primal", "kronecker", "ekfac", "diagonal")


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    Y[3, 1] = Y[8, 0] = np.nan
    net = ss.mlp([4, 3, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=ss.scaled_prior(net, 2.0))
    theta = ss.polish(reg, 0.3 * rng.normal(size=net.n_params), X, Y).theta
    return reg, theta, X, Y


def fit(problem, structure, **options):
    return ss.fit_laplace(
        *problem, structure=structure, progress=False, require_minimum=False, options=options
    )


def dense_factor(whitening):
    """L, column by column, from numbers."""
    n = whitening.center.size
    return (whitening.find_theta(np.eye(n)) - whitening.center).T


@pytest.mark.parametrize("structure", [*EXACT, "dual", "low_rank"])
def test_the_factor_times_its_transpose_is_the_inverse_hessian(problem, structure):
    laplace = fit(problem, structure)
    whitening = find_whitening(laplace)
    L, A_inverse = dense_factor(whitening), laplace.inverse_hessian.to_dense()
    # directions with less than NEGLIGIBLE of the prior's curvature are left to the prior
    sd = np.sqrt(np.diag(A_inverse))
    tolerance = 1e-12 if structure in EXACT else NEGLIGIBLE
    assert_allclose(
        L @ L.T / np.outer(sd, sd), A_inverse / np.outer(sd, sd), rtol=0, atol=tolerance
    )
    assert_allclose(whitening.log_det, np.linalg.slogdet(L)[1], rtol=1e-10)


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_few_directions_that_the_data_curve_take_thin_products(problem, curvature):
    reg, theta, X, Y = problem
    reg = ss.Regression(reg.net, sigma_noise=[2.0, 3.0], prior_precision=reg.prior_precision)
    theta = ss.polish(reg, theta, X[:3], Y[:3]).theta
    laplace = ss.fit_laplace(
        reg, theta, X[:3], Y[:3], structure="primal", curvature=curvature, progress=False
    )
    whitening = find_whitening(laplace)
    if curvature == "ggn":  # of five labels; the exact Hessian curves more
        assert whitening.factor.arrays["directions"].shape[1] <= 5
    L, A_inverse = dense_factor(whitening), laplace.inverse_hessian.to_dense()
    sd = np.sqrt(np.diag(A_inverse))
    assert_allclose(
        L @ L.T / np.outer(sd, sd), A_inverse / np.outer(sd, sd), rtol=0, atol=NEGLIGIBLE
    )
    assert_allclose(whitening.log_det, np.linalg.slogdet(L)[1], rtol=1e-10)


@pytest.mark.parametrize("structure", [*EXACT, "low_rank"])
def test_graphs_say_what_numbers_say_and_back(problem, structure):
    whitening = find_whitening(fit(problem, structure))
    z = np.random.default_rng(1).normal(size=(3, whitening.center.size))
    theta = whitening.find_theta(z)
    symbol = pt.vector("z", dtype="float64")
    build = pytensor.function([symbol], whitening.build_theta(symbol), mode="FAST_COMPILE")
    assert_allclose([build(row) for row in z], theta, rtol=1e-12, atol=1e-14)
    assert_allclose(whitening.find_z(theta), z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("structure", ["primal", "dual", "low_rank"])
def test_leading_directions_are_those_of_the_curvature_in_units_of_the_prior(problem, structure):
    laplace, n = fit(problem, structure), 5
    reg = laplace.reg
    precision = reg.prior_precision_vector()
    A = np.linalg.inv(fit(problem, "primal").inverse_hessian.to_dense())
    scaled = (A - np.diag(precision)) / np.sqrt(np.outer(precision, precision))
    values, vectors = np.linalg.eigh(scaled)
    leading = laplace.inverse_hessian.directions(reg, n)
    assert_allclose(leading.eigenvalues, values[::-1][:n], rtol=1e-8)
    overlap = np.abs(np.sum(leading.eigenvectors * vectors[:, ::-1][:, :n], axis=0))
    assert_allclose(overlap, 1, rtol=0, atol=1e-8)


@pytest.mark.parametrize("structure", ["krylov", "last_layer"])
def test_a_structure_without_a_factor_is_refused_with_the_way_out(problem, structure):
    with pytest.raises(ss.OptionError, match=f'got structure="{structure}".*low_rank'):
        find_whitening(fit(problem, structure))


def test_directions_are_refused_where_there_are_none(problem):
    reg = problem[0]
    with pytest.raises(ss.OptionError, match="leading directions should come from"):
        fit(problem, "kronecker").inverse_hessian.directions(reg, 3)
    with pytest.raises(
        ss.OptionError, match="should have 9 leading directions, got 4: ask for fewer"
    ):
        fit(problem, "low_rank", rank=4).inverse_hessian.directions(reg, 9)


def test_directions_that_do_not_fit_are_refused(problem, monkeypatch):
    monkeypatch.setattr("symspec.inverse_hessian.dual.MAX_BYTES", 100)
    with pytest.raises(
        TooLargeError, match=r"58 directions of 23 weights take more than .*low_rank"
    ):
        find_whitening(fit(problem, "dual"))
