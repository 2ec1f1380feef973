"""Every minimiser arrives at the closed form of a linear network."""

import numpy as np
import pytest
from linear_networks import (
    build_linear,
    build_small,
    interrupt_after,
    make_stars,
    rng,
    share_of_U,
    solve_ridge,
)
from scipy.optimize import OptimizeResult

from symspec.derivatives.compiled import compile_objective
from symspec.errors import DivergedError, OptionError, ShapeError, TooLargeError
from symspec.networks.network import mlp
from symspec.networks.regression import Regression
from symspec.training.minimization import HESSIAN_METHODS, METHODS, PRODUCT_METHODS, minimize


@pytest.fixture(scope="module")
def linear():
    return build_linear()


@pytest.fixture(scope="module")
def small():
    return build_small()


@pytest.fixture(scope="module")
def stars():
    return make_stars(40)


# tol is the norm of the gradient, but for these the change of U (first three) or of the weights
TOL = {"L-BFGS-B": 1e-14, "TNC": 1e-11, "SLSQP": 1e-12, "Newton-CG": 1e-8}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_every_method_arrives_at_the_closed_form(linear, stars, method, missing):
    X, Y = stars[0], stars[1].copy()
    if missing:
        Y[::3, 0] = np.nan
    result = minimize(
        linear, np.zeros(10), X, Y, method=method, tol=TOL.get(method, 1e-6), progress=False
    )
    # |gradient| of 1e-6 over the smallest eigenvalue of the Hessian, 8; where changes of U are
    # compared, the square root of the smallest visible one (1e-14 of 100, some steps early) over 8
    np.testing.assert_allclose(result.x, solve_ridge(X, Y), atol=1e-5 if method in TOL else 1e-6)
    U, gradient = compile_objective(linear)(result.x, X, Y)
    assert result.fun == pytest.approx(U, rel=1e-12)
    np.testing.assert_allclose(result.jac, gradient, rtol=1e-6, atol=1e-8)
    assert result.nit >= 1
    assert result.success, result.message
    assert result.message


@pytest.mark.parametrize("method", METHODS)
def test_scipy_is_handed_the_exact_derivatives(linear, stars, method, monkeypatch):
    X, Y = stars
    handed = {}

    def scipy_minimize(fun, theta, **arguments):
        handed.update(arguments, fun=fun)
        return OptimizeResult(x=theta, fun=0.0, jac=theta, grad=theta)

    monkeypatch.setattr("scipy.optimize.minimize", scipy_minimize)
    minimize(linear, np.zeros(10), X, Y, method=method, progress=False)
    theta = rng(7).normal(size=10)
    U, gradient = share_of_U(theta, X, Y, 1.0)
    assert handed["jac"] is True
    # without its constant, which is no matter of the weights
    assert handed["fun"](theta)[0] == pytest.approx(U - linear.constant(Y), rel=1e-12)
    np.testing.assert_allclose(handed["fun"](theta)[1], gradient, rtol=1e-10, atol=1e-10)
    # the gradient is affine in theta: its differences are the Hessian, but for rounding
    H = np.array([share_of_U(theta + e, X, Y, 1.0)[1] - gradient for e in np.eye(10)])
    if method in PRODUCT_METHODS:
        products = [handed["hessp"](theta, e) for e in np.eye(10)]
        np.testing.assert_allclose(products, H, rtol=1e-10, atol=1e-10)
    if method in HESSIAN_METHODS:
        np.testing.assert_allclose(handed["hess"](theta), H, rtol=1e-10, atol=1e-10)
    assert (handed["hessp"] is not None) == (method in PRODUCT_METHODS)
    assert (handed["hess"] is not None) == (method in HESSIAN_METHODS)


def test_a_hidden_layer_is_minimised_by_gradient_and_by_products_alike(small, stars):
    start = small.net.init_params(rng(2))
    values = {
        method: minimize(small, start, *stars, method=method, progress=False, tol=1e-7)
        for method in ("BFGS", "trust-krylov")
    }
    for result in values.values():
        assert np.abs(result.jac).max() < 1e-5
        assert result.fun < compile_objective(small)(start, *stars)[0]


def test_max_iterations_is_obeyed(small, stars):
    start = small.net.init_params(rng())
    for method in ("L-BFGS-B", "trust-krylov"):
        result = minimize(small, start, *stars, method=method, max_iterations=2, progress=False)
        assert (result.nit, result.success) == (2, False)
    result = minimize(small, start, *stars, method="TNC", max_iterations=3, progress=False)
    assert result.nfev <= 4
    assert not result.success


def test_ctrl_c_returns_the_best_point_so_far(small, stars, monkeypatch):
    start = small.net.init_params(rng())
    U_start, _ = compile_objective(small)(start, *stars)
    interrupt_after(monkeypatch, 6)
    result = minimize(small, start, *stars, progress=False)
    assert (result.success, result.nfev) == (False, 6)
    assert "interrupted" in result.message
    assert result.fun < U_start


def test_ctrl_c_before_the_first_value_is_ctrl_c(linear, stars, monkeypatch):
    interrupt_after(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        minimize(linear, np.zeros(10), *stars, progress=False)


def test_the_interrupted_result_is_that_of_its_point(small, stars, monkeypatch):
    start = small.net.init_params(rng())
    objective = compile_objective(small)
    interrupt_after(monkeypatch, 4)
    result = minimize(small, start, *stars, method="CG", progress=False)
    interrupt_after(monkeypatch, 1000)
    U, gradient = objective(result.x, *stars)
    assert result.fun == U
    np.testing.assert_array_equal(result.jac, gradient)


BAD_MINIMIZE = {
    "gradient_free": (
        {"method": "Nelder-Mead"},
        OptionError,
        "'Nelder-Mead' uses none .*choose one of L-BFGS-B",
    ),
    "unknown": ({"method": "l-bfgs-b"}, OptionError, "did you mean 'L-BFGS-B'"),
    "not_a_word": ({"method": None}, OptionError, "method should be one of"),
    "options": ({"options": "maxiter"}, OptionError, "options should be a dict"),
    "twice": ({"options": {"maxiter": 3}, "max_iterations": 3}, OptionError, "say the same thing"),
    "iterations": (
        {"max_iterations": 0},
        OptionError,
        "max_iterations should be a positive integer, got 0",
    ),
    "backend": ({"backend": "torch"}, OptionError, "backend should be one of"),
    "theta": (
        {"theta": [np.zeros((4, 2)), np.zeros(2)]},
        ShapeError,
        "theta should be one flat array .*net.pack",
    ),
    "flux": ({"X": np.ones((10, 3))}, ShapeError, "flux should have shape"),
    "infinite": (
        {"theta": np.full(10, 1e200)},
        DivergedError,
        "minimize should .* finite .*: start from weights",
    ),
}


@pytest.mark.parametrize(("changes", "error", "words"), BAD_MINIMIZE.values(), ids=BAD_MINIMIZE)
def test_minimize_refuses_in_words(linear, changes, error, words):
    X, Y = make_stars(10)
    arguments = {"theta": np.zeros(10), "X": X, "Y": Y, "progress": False} | changes
    with pytest.raises(error, match=words):
        minimize(linear, **arguments)


def test_a_matrix_too_large_is_refused_before_any_work():
    reg = Regression(mlp([3000, 1000, 2]), sigma_noise=1.0, prior_precision=1.0)
    with pytest.raises(TooLargeError, match=r"method='BFGS' keeps a matrix .*Choose \"L-BFGS-B\""):
        minimize(
            reg, np.zeros(reg.net.n_params), np.ones((2, 3000)), np.ones((2, 2)), method="BFGS"
        )
