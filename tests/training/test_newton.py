"""Polishing ends at minima that NumPy confirms, never climbs, and leaves saddles."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse.linalg import LinearOperator

import symspec as ss
from symspec.training.steps.newton_models import minimize_in_ball
from symspec.training.steps.stationary_points import find_lowest


def build_problem(activation, sizes=(4, 3, 2), n_stars=30, seed=0, **options):
    """Labels that a network of the same kind made, with noise; some are missing."""
    rng = np.random.default_rng(seed)
    net = ss.mlp(list(sizes), activation=activation)
    options = {"sigma_noise": 0.2, "prior_precision": 1.0} | options
    X = rng.normal(size=(n_stars, sizes[0]))
    Y = ss.compile_predict(net)(rng.normal(size=net.n_params), X) + 0.2 * rng.normal(
        size=(n_stars, sizes[-1])
    )
    Y[1, 0] = Y[2, -1] = Y[3] = np.nan
    return SimpleNamespace(
        net=net,
        reg=ss.Regression(net, **options),
        X=X,
        Y=Y,
        theta=net.init_params(rng, "glorot_uniform"),
    )


def build_smooth_relu():
    """Stars in two clusters and a hidden unit for each, so that no spectrum lies near a kink."""
    rng = np.random.default_rng(2)
    net = ss.mlp([4, 2, 2])
    side = np.where(np.arange(30) % 2, 1.0, -1.0)[:, None]
    X = 1.5 * side + 0.3 * rng.normal(size=(30, 4))
    truth = {
        "dense_0/kernel": rng.uniform(0.2, 0.6, size=(4, 2)) * [1, -1],
        "dense_0/bias": np.zeros(2),
        "dense_1/kernel": rng.normal(size=(2, 2)),
        "dense_1/bias": rng.normal(size=2),
    }
    theta = net.pack(truth)
    Y = ss.compile_predict(net)(theta, X) + 0.2 * rng.normal(size=(30, 2))
    reg = ss.Regression(net, sigma_noise=0.2, prior_precision=1.0)
    return SimpleNamespace(
        net=net, reg=reg, X=X, Y=Y, theta=theta + 0.1 * rng.normal(size=theta.size)
    )


KINDS = {
    "tanh": lambda: build_problem("tanh", seed=0),
    "tanh-2-hidden": lambda: build_problem("tanh", sizes=(4, 3, 3, 2), seed=4),
    "softplus": lambda: build_problem("softplus", seed=1),
    "relu": build_smooth_relu,
}


@pytest.fixture(scope="module", params=KINDS)
def problem_of_kind(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def polished(problem_of_kind):
    p, steps = problem_of_kind, []
    result = ss.polish(
        p.reg, p.theta, p.X, p.Y, tolerance=1e-10, callback=lambda *step: steps.append(step)
    )
    return SimpleNamespace(result=result, steps=steps)


def test_every_kind_of_network_ends_at_a_minimum(problem_of_kind, polished):
    p, result = problem_of_kind, polished.result
    U, g = ss.compile_objective(p.reg)(result.theta, p.X, p.Y)
    G, H = (
        compile_it(p.reg)(result.theta, p.X, p.Y)
        for compile_it in (ss.compile_ggn, ss.compile_hessian)
    )
    assert result.converged
    assert result.newton_decrement <= 1e-10
    # a decrement below 1e-10 bounds the gradient by the root of 2e-10 times the largest eigenvalue
    # of G
    assert np.linalg.norm(g) <= np.sqrt(2e-10 * np.linalg.eigvalsh(G)[-1])
    assert_allclose(result.newton_decrement, g @ np.linalg.solve(G, g) / 2, rtol=1e-3, atol=1e-16)
    assert np.linalg.eigvalsh(H)[0] > 0
    assert_allclose(result.negative_log_posterior, U, rtol=1e-12)


def test_the_minimum_is_one_in_every_direction(problem_of_kind, polished):
    """By values of U alone: steps of a hundredth of a standard deviation all lead up."""
    p, theta = problem_of_kind, polished.result.theta
    objective, rng = ss.compile_objective(p.reg), np.random.default_rng(0)
    U = objective(theta, p.X, p.Y)[0]
    L = np.linalg.cholesky(ss.compile_ggn(p.reg)(theta, p.X, p.Y))
    for _ in range(20):
        z = rng.normal(size=theta.size)
        step = np.linalg.solve(L.T, 0.01 * z / np.linalg.norm(z))
        assert objective(theta + step, p.X, p.Y)[0] > U


def test_no_step_climbs(polished):
    U = np.array([u for _, u, _ in polished.steps])
    assert len(U) > 2
    assert (np.diff(U) <= 0).all()
    assert U[-1] < U[0] - 1


def test_the_last_steps_converge_faster_than_linearly(polished):
    decrements = np.array([d for *_, d in polished.steps])
    assert decrements[-1] < 1e-3 * decrements[-2]


def test_the_callback_hears_of_every_iteration_and_of_the_end(polished):
    result, steps = polished.result, polished.steps
    assert [k for k, *_ in steps] == list(range(result.iterations + 1))
    assert steps[-1][1:] == (result.negative_log_posterior, result.newton_decrement)


def test_scipy_finds_nothing_below(problem_of_kind, polished):
    p = problem_of_kind
    further = ss.minimize(p.reg, polished.result.theta, p.X, p.Y, method="BFGS", progress=False)
    # a decrement of 1e-10 nats is what may be left
    assert further.fun >= polished.result.negative_log_posterior - 2e-10


def test_polishing_again_changes_nothing(problem_of_kind, polished):
    p = problem_of_kind
    again = ss.polish(p.reg, polished.result.theta, p.X, p.Y, tolerance=1e-10)
    assert again.iterations == 0
    np.testing.assert_array_equal(again.theta, polished.result.theta)


def test_primal_and_dual_lead_to_the_same_minimum():
    p = build_problem("tanh")
    primal, dual = (
        ss.polish(p.reg, p.theta, p.X, p.Y, tolerance=1e-14, structure=s)
        for s in ("primal", "dual")
    )
    assert_allclose(
        primal.theta, dual.theta, rtol=1e-5, atol=1e-6
    )  # the decrement is the square of the distance


def test_a_linear_network_is_solved_by_one_step():
    p = build_problem("relu", sizes=(4, 2))
    result = ss.polish(p.reg, p.theta, p.X, p.Y)
    assert result.iterations <= 2
    design = np.column_stack([p.X, np.ones(len(p.X))])
    columns = []
    for c in range(2):
        seen = ~np.isnan(p.Y[:, c])
        A = design[seen].T @ design[seen] / 0.2**2 + np.eye(5)
        columns.append(np.linalg.solve(A, design[seen].T @ p.Y[seen, c] / 0.2**2))
    # kernel (in, out) in C order, then the bias
    assert_allclose(result.theta, np.column_stack(columns).ravel(), rtol=1e-10)


@pytest.mark.parametrize(
    "prior",
    [1.3, {"dense_0/kernel": 2.0, "dense_0/bias": 0.5, "dense_1": 1.0}],
    ids=["number", "blocks"],
)
def test_more_pixels_than_stars_end_at_a_minimum_of_the_whole_problem(prior):
    """The search runs on the span of the spectra; what it finds is judged on all pixels."""
    p = build_problem("tanh", sizes=(25, 3, 2), n_stars=12, prior_precision=prior)
    result = ss.polish(p.reg, p.theta, p.X, p.Y, tolerance=1e-10)
    U, g = ss.compile_objective(p.reg)(result.theta, p.X, p.Y)
    G = ss.compile_ggn(p.reg)(result.theta, p.X, p.Y)
    assert result.converged
    assert result.theta.shape == p.theta.shape
    assert_allclose(result.negative_log_posterior, U, rtol=1e-12)
    assert g @ np.linalg.solve(G, g) / 2 < 1e-9
    whole = ss.fit_laplace(p.reg, result.theta, p.X, p.Y, require_minimum=True)
    assert whole.certificate.is_minimum


def saddle():
    """A tanh network at theta = 0, labels of mean zero: no gradient, U falls along pairs."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 3))
    Y = X @ rng.normal(size=(3, 2))
    net = ss.mlp([3, 2, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    return SimpleNamespace(reg=reg, X=X, Y=Y - Y.mean(axis=0), theta=np.zeros(net.n_params))


def test_a_small_network_leaves_a_saddle_without_slope():
    p = saddle()
    U, gradient = ss.compile_objective(p.reg)(p.theta, p.X, p.Y)
    assert np.abs(gradient).max() < 1e-9
    result = ss.polish(p.reg, p.theta, p.X, p.Y)
    assert result.converged
    assert result.negative_log_posterior < U - 100
    H = ss.compile_hessian(p.reg)(result.theta, p.X, p.Y)
    assert np.linalg.eigvalsh(H)[0] > 0


def test_a_larger_one_leaves_it_by_products_alone(monkeypatch):
    """The gradient shows nothing there; the lowest eigenvalue is sought by products."""
    monkeypatch.setattr("symspec.training.newton.is_small", lambda net: False)
    p = saddle()
    U, gradient = ss.compile_objective(p.reg)(p.theta, p.X, p.Y)
    assert np.abs(gradient).max() < 1e-9
    result = ss.polish(p.reg, p.theta, p.X, p.Y)
    assert result.converged
    assert result.negative_log_posterior < U - 100
    H = ss.compile_hessian(p.reg)(result.theta, p.X, p.Y)
    assert np.linalg.eigvalsh(H)[0] > 0


def test_without_a_step_it_stays_at_the_saddle_and_the_certificate_says_so():
    p = saddle()
    result = ss.polish(p.reg, p.theta, p.X, p.Y, max_iterations=0)
    assert not result.converged
    np.testing.assert_array_equal(result.theta, p.theta)
    with pytest.warns(ss.NotAtMinimumWarning, match=r"lowest eigenvalue of the Hessian -\d"):
        certificate = ss.fit_laplace(p.reg, result.theta, p.X, p.Y).certificate
    assert not certificate.is_minimum
    assert certificate.smallest_eigenvalue < -1


@pytest.mark.parametrize("lowest", [-3.0, -1e-3, 0.05, 0.7])
def test_the_sign_of_the_lowest_eigenvalue_is_found_among_many(lowest):
    rng = np.random.default_rng(5)
    n = 300
    Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    G = Q * rng.uniform(0.1, 100, size=n) @ Q.T
    L = np.linalg.cholesky(G)
    V = np.linalg.qr(rng.normal(size=(n, n)))[0]
    H = L @ (V * np.append(lowest, rng.uniform(0.8, 1.5, size=n - 1)) @ V.T) @ L.T
    products = []
    inverse = LinearOperator((n, n), matvec=lambda v: np.linalg.solve(G, v), dtype=np.float64)
    found = find_lowest(lambda v: products.append(0) or H @ v, inverse, 40)
    assert np.sign(found.value) == np.sign(lowest)
    assert found.value >= lowest - 1e-9
    assert_allclose(found.vector @ G @ found.vector, 1.0, rtol=1e-6)
    assert_allclose(found.vector @ H @ found.vector, found.value, rtol=1e-6, atol=1e-9)
    assert len(products) <= 40


@pytest.mark.parametrize("hidden", [[8], [5, 4]], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu"])
def test_from_a_random_start_it_ends_at_a_minimum_of_the_dense_hessian(activation, hidden):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 8))
    Y = np.c_[np.sin(X[:, 0]) + X[:, 1] * X[:, 2], np.abs(X[:, 3]) - X[:, 4]]
    net = ss.mlp([8, *hidden, 2], activation=activation)
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    start = net.init_params(np.random.default_rng(1))
    result = ss.polish(reg, start, X, Y, max_iterations=1000)
    assert result.converged, result.reason
    H = ss.compile_hessian(reg)(result.theta, X, Y)
    gradient = ss.compile_objective(reg)(result.theta, X, Y)[1]
    assert np.linalg.eigvalsh(H)[0] > 0
    assert gradient @ np.linalg.solve(H, gradient) / 2 < 1e-6


@pytest.mark.parametrize("radius", [1e-3, 0.7, 3.0, 1e3])
@pytest.mark.parametrize("lowest", [-2.0, 0.5])
def test_a_step_is_the_minimum_of_the_model_within_the_ball(lowest, radius):
    rng = np.random.default_rng(4)
    values = np.sort(np.r_[lowest, rng.uniform(0.6, 3, size=6)])
    slopes = rng.normal(size=7)
    u = minimize_in_ball(values, slopes, radius)
    best = slopes @ u + values @ u**2 / 2
    assert np.linalg.norm(u) <= radius * (1 + 2e-9)
    others = rng.normal(size=(20_000, 7))
    others *= (
        radius
        * rng.uniform(0, 1, size=(20_000, 1)) ** (1 / 7)
        / np.linalg.norm(others, axis=1, keepdims=True)
    )
    assert (others @ slopes + others**2 @ values / 2 >= best - 1e-9 * abs(best)).all()
    # its condition: (H + shift) u = -g with a shift of at least 0 that makes H + shift positive
    shifts = -slopes / u - values
    assert_allclose(shifts, shifts[0], rtol=1e-6, atol=1e-9)
    assert shifts[0] > max(-values[0], 0) - 1e-9


def test_without_a_slope_along_it_the_lowest_direction_is_followed_to_the_edge():
    u = minimize_in_ball(np.array([-1.0, 2.0]), np.array([0.0, 0.3]), 0.5)
    assert_allclose(u[1], -0.1, rtol=1e-9)
    assert_allclose(np.linalg.norm(u), 0.5, rtol=2e-9)


def test_beside_a_saddle_it_follows_negative_curvature_to_a_minimum():
    p = saddle()
    beside = p.theta + 1e-3 * np.random.default_rng(3).normal(size=p.theta.size)
    H = ss.compile_hessian(p.reg)(beside, p.X, p.Y)
    assert np.linalg.eigvalsh(H)[0] < -1
    steps = []
    result = ss.polish(p.reg, beside, p.X, p.Y, callback=lambda *step: steps.append(step[1]))
    assert result.converged
    assert steps[0] - result.negative_log_posterior > 100
    assert (np.diff(steps) <= 1e-12 * np.abs(steps[0])).all()  # rounding
    assert ss.fit_laplace(
        p.reg, result.theta, p.X, p.Y, require_minimum=True
    ).certificate.is_minimum


def test_at_a_kink_of_a_relu_network_it_says_so_and_why_it_ended():
    """U of a small ReLU network is often least on a kink, where no gradient vanishes."""
    p, steps = build_problem("relu", seed=11), []
    result = ss.polish(p.reg, p.theta, p.X, p.Y, callback=lambda *step: steps.append(step[1]))
    assert result.converged
    assert result.at_kink
    assert result.reason.startswith("at a kink")
    g = ss.compile_objective(p.reg)(result.theta, p.X, p.Y)[1]
    G = ss.compile_ggn(p.reg)(result.theta, p.X, p.Y)
    assert result.newton_decrement <= 1e-6
    assert g @ np.linalg.solve(G, g) / 2 > 0.01
    rises = np.diff(steps)
    assert (rises[:-1] <= 1e-12 * np.abs(steps[0])).all()  # rounding
    assert rises[-1] <= 1e-6  # beside the kinks, within the tolerance
    assert result.negative_log_posterior < steps[0] - 10


def test_among_kinks_it_stops_after_the_iterations_allowed_too():
    p = build_problem("relu", seed=11)
    result = ss.polish(p.reg, p.theta, p.X, p.Y, max_iterations=3)
    assert not result.converged
    assert not result.at_kink
    assert result.reason == "the iterations allowed are over"
    assert result.iterations <= 30


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_it_stops_after_the_iterations_allowed(limit):
    p, steps = build_problem("tanh"), []
    result = ss.polish(
        p.reg, p.theta, p.X, p.Y, max_iterations=limit, callback=lambda *step: steps.append(step)
    )
    assert result.iterations == limit
    assert len(steps) == limit + 1
    assert not result.converged
    U, g = ss.compile_objective(p.reg)(result.theta, p.X, p.Y)
    G = ss.compile_ggn(p.reg)(result.theta, p.X, p.Y)
    assert_allclose(result.negative_log_posterior, U, rtol=1e-12)
    assert_allclose(result.newton_decrement, g @ np.linalg.solve(G, g) / 2, rtol=1e-9)


def test_a_looser_tolerance_stops_earlier():
    p = build_problem("tanh")
    loose, tight = (ss.polish(p.reg, p.theta, p.X, p.Y, tolerance=t) for t in (1.0, 1e-8))
    assert loose.iterations < tight.iterations
    assert 1e-8 < loose.newton_decrement <= 1.0
    assert loose.converged
    assert tight.converged


def test_the_start_is_left_as_it_was():
    p = build_problem("tanh")
    before = p.theta.copy()
    result = ss.polish(p.reg, p.theta, p.X, p.Y, max_iterations=2)
    np.testing.assert_array_equal(p.theta, before)
    assert not np.shares_memory(result.theta, p.theta)
    unmoved = ss.polish(p.reg, p.theta, p.X, p.Y, max_iterations=0)
    assert not np.shares_memory(unmoved.theta, p.theta)


def test_bad_weights_and_labels_are_refused():
    p = build_problem("tanh")
    with pytest.raises(
        ss.ShapeError, match=r"got a list of 2 arrays with shapes \[\(4, 3\), \(3,\)\]: pack them"
    ):
        ss.polish(p.reg, [np.ones((4, 3)), np.ones(3)], p.X, p.Y)
    with pytest.raises(
        ss.ShapeError, match=r"labels should have shape \(30, 2\), one row a star, got \(2, 30\)"
    ):
        ss.polish(p.reg, p.theta, p.X, p.Y.T)
    with pytest.raises(ss.OptionError, match="structure should be one of"):
        ss.polish(p.reg, p.theta, p.X, p.Y, structure="best")
