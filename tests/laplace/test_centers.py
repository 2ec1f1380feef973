"""Newton shifts of single stars, and the centre of the linearised network, by dense algebra."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.laplace.budget import choose_center

NETWORKS = [
    "tanh-1-hidden-2-labels-own-units-missing",
    "relu-3-hidden-2-labels-own-units-missing",
]
STRUCTURES = {
    "primal": {},
    "dual": {},
    "krylov": {"subset": 3, "tolerance": 1e-6},
    "kronecker": {},
}
SOLVED = 1e-8  # rounding times the condition of labels in K beside dex

ONE_PRIOR_A_PARAMETER = "tanh-2-hidden-3-labels-full-noise-missing"  # which Kronecker has not
PAIRS = [(name, structure) for name in NETWORKS for structure in STRUCTURES]
PAIRS += [(ONE_PRIOR_A_PARAMETER, structure) for structure in ("primal", "dual", "krylov")]

over_networks = pytest.mark.parametrize("problem", NETWORKS, indirect=True)


def fit(problem, structure="primal", **words):
    return ss.fit_laplace(
        problem.reg,
        problem.theta,
        problem.X,
        problem.Y,
        structure=structure,
        require_minimum=False,
        **words,
    )


def find_step(problem, laplace):
    """Newton step by NumPy; an approximation's by its own matrix."""
    if laplace.inverse_hessian.accuracy == "approximate":
        return -laplace.inverse_hessian.to_dense() @ problem.gradient(problem.theta)
    return -np.linalg.solve(problem.ggn(problem.theta), problem.gradient(problem.theta))


@pytest.mark.parametrize(("problem", "structure"), PAIRS, indirect=["problem"])
def test_centres_are_apart_by_the_newton_step_in_units_of_the_model_error(problem, structure):
    laplace = fit(problem, structure, options=STRUCTURES[structure])
    change = problem.theta_jacobian(problem.theta) @ find_step(problem, laplace)
    ivar = np.full(problem.X.shape, 25.0)
    trained = laplace.predict(problem.X, ivar=ivar)
    linearized = laplace.predict(problem.X, ivar=ivar, center="linearized")
    sd = np.sqrt(np.einsum("ncc->nc", trained.model_cov))
    size = np.abs(change / sd).max()
    assert_allclose(trained.newton_shift, change / sd, rtol=SOLVED, atol=SOLVED * size)
    assert_allclose(linearized.labels, trained.labels + change, rtol=SOLVED)
    assert_array_equal(linearized.newton_shift, trained.newton_shift)
    assert_array_equal(linearized.model_cov, trained.model_cov)
    assert trained.center == "weights"
    assert linearized.center == "linearized"
    far = np.abs(change / sd) > 0.5
    assert far.any()
    assert_array_equal((trained.label_flags & ss.Flag.NOT_AT_MINIMUM) > 0, far)
    assert_array_equal((trained.flags & ss.Flag.NOT_AT_MINIMUM) > 0, far.any(axis=1))
    assert not (linearized.flags & ss.Flag.NOT_AT_MINIMUM).any()


@over_networks
def test_flux_errors_are_those_of_the_linearised_labels(problem):
    """Its flux Jacobian changes along the step, by a complex step of the network's."""
    laplace = fit(problem)
    step = find_step(problem, laplace)
    ivar = np.random.default_rng(0).uniform(10, 50, problem.X.shape)
    found = laplace.predict(problem.X, ivar=ivar, center="linearized").flux_cov
    h = 1e-20
    for x, w, covariance in zip(problem.X, ivar, found, strict=True):
        J = problem.propagate(problem.theta + 1j * h * step, x)[2]
        J_x = J.real + J.imag / h
        expected = (J_x / w) @ J_x.T
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert_allclose(covariance / scale, expected / scale, rtol=0, atol=SOLVED)


def test_for_a_linear_network_the_linearised_centre_is_the_regression_itself():
    """Wherever training stopped: ridge regression in closed form."""
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    X_new = rng.normal(size=(9, 5))
    net = ss.mlp([5, 2])
    reg = ss.Regression(net, sigma_noise=0.3, prior_precision=2.0)
    laplace = ss.fit_laplace(reg, rng.normal(size=net.n_params), X, Y, require_minimum=False)
    design, new = np.c_[X, np.ones(40)], np.c_[X_new, np.ones(9)]
    A = design.T @ design / 0.3**2 + 2.0 * np.eye(6)
    expected = new @ np.linalg.solve(A, design.T @ Y / 0.3**2)
    found = laplace.predict(X_new, center="linearized")
    assert_allclose(found.labels, expected, rtol=1e-11)


@over_networks
def test_at_a_minimum_the_centres_are_one(problem):
    theta = ss.polish(problem.reg, problem.theta, problem.X, problem.Y, tolerance=1e-14).theta
    laplace = ss.fit_laplace(problem.reg, theta, problem.X, problem.Y, require_minimum=False)
    if laplace.certificate.newton_decrement > 1e-12:
        pytest.skip("a kink, where the gradient does not vanish")
    prediction = laplace.predict(problem.X)
    assert np.abs(prediction.newton_shift).max() < 2e-6  # the root of twice the decrement
    assert not (prediction.flags & ss.Flag.NOT_AT_MINIMUM).any()


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
def test_the_limit_is_an_option(problem):
    laplace = fit(problem)
    shift = np.abs(laplace.predict(problem.X).newton_shift)
    for limit in (0.0, float(np.median(shift)), np.inf):
        options = ss.FlagOptions(max_newton_shift=limit)
        flags = laplace.predict(problem.X, flag_options=options).label_flags
        assert_array_equal((flags & ss.Flag.NOT_AT_MINIMUM) > 0, shift > limit)


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
def test_a_model_that_was_written_and_read_has_both_centres(problem, tmp_path):
    laplace = fit(problem)
    ss.write_laplace(tmp_path / "model.h5", laplace)
    read = ss.read_laplace(tmp_path / "model.h5")
    for center in ("weights", "linearized"):
        one, other = (p.predict(problem.X, center=center) for p in (laplace, read))
        assert_array_equal(one.labels, other.labels)
        assert_array_equal(one.newton_shift, other.newton_shift)


@pytest.mark.parametrize("problem", NETWORKS[:1], indirect=True)
def test_a_posterior_without_a_linearised_centre_refuses_it(problem):
    subset = fit(problem, "dual", options={"subset": 4})
    with pytest.raises(ss.OptionError, match="all training stars"):
        subset.predict(problem.X, center="linearized")
    theta = ss.polish(problem.reg, problem.theta, problem.X, problem.Y, tolerance=1e-12).theta
    exact = ss.fit_laplace(problem.reg, theta, problem.X, problem.Y, curvature="hessian")
    with pytest.raises(ss.OptionError, match='curvature="ggn"'):
        exact.predict(problem.X, center="linearized")
    with pytest.raises(ss.OptionError, match="center should be one of 'weights', 'linearized'"):
        exact.predict(problem.X, center="minimum")


@over_networks
def test_the_centre_is_chosen_by_whether_the_weights_are_a_minimum(problem):
    laplace = fit(problem)
    assert not laplace.certificate.is_minimum
    assert choose_center([laplace], "auto") == "linearized"
    at_minimum = SimpleNamespace(
        certificate=SimpleNamespace(is_minimum=True),
        curvature="ggn",
        inverse_hessian=SimpleNamespace(is_complete=True),
        gradient=problem.theta,
    )
    assert choose_center([at_minimum], "auto") == "weights"
    assert choose_center([at_minimum, laplace], "auto") == "linearized"
    no_centre = replace(laplace, gradient=None)
    assert choose_center([laplace, no_centre], "auto") == "weights"
    assert choose_center([laplace], "weights") == "weights"
    with pytest.raises(ss.OptionError, match="center"):
        choose_center([laplace], "middle")
