"""The certificate's numbers against dense algebra, its iterative ratio against `eigh`."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import eigh, null_space

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.laplace.certificate import MAX_DECREMENT, Certificate
from symspec.training.steps import stationary_points as module
from symspec.training.steps.bundles import Place
from symspec.training.steps.proofs import find_kink_proof
from symspec.training.steps.shared import find_shared_objective
from symspec.training.steps.stationary_points import (
    LowestCurvature,
    count_products,
    find_lowest_curvature,
)

TANH, TANH_FULL = (
    "tanh-1-hidden-2-labels-own-units-missing",
    "tanh-2-hidden-3-labels-full-noise-missing",
)
RELU_FULL = "relu-2-hidden-3-labels-full-noise"

# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8

over_networks = pytest.mark.parametrize("problem", [TANH, TANH_FULL, RELU_FULL], indirect=True)


def fit(problem, **options):
    return ss.fit_laplace(
        problem.reg, problem.theta, problem.X, problem.Y, require_minimum=False, **options
    )


@pytest.fixture(scope="module", params=["primal", "dual"])
def certificate(request, problem):
    return fit(problem, structure=request.param).certificate


@pytest.fixture(scope="module")
def dense(problem):
    """Gradient, Gauss-Newton matrix and Hessian by NumPy."""
    at = problem.theta
    return SimpleNamespace(
        g=problem.gradient(at),
        G=problem.ggn(at),
        H=problem.hessian(at),
        J=problem.theta_jacobian(at),
    )


@over_networks
def test_the_numbers_are_those_of_dense_algebra(problem, certificate, dense):
    step = np.linalg.solve(dense.G, dense.g)
    assert_allclose(certificate.gradient_norm, np.abs(dense.g).max(), rtol=1e-11)
    assert_allclose(certificate.newton_decrement, dense.g @ step / 2, rtol=SOLVED)
    smallest = np.linalg.eigvalsh(dense.H)[0]
    assert_allclose(
        certificate.smallest_eigenvalue, smallest, rtol=0, atol=1e-12 * np.abs(dense.H).max()
    )
    ratios = eigh(dense.H, dense.G, eigvals_only=True)
    assert_allclose(certificate.smallest_ratio, ratios[0], rtol=SOLVED, atol=SOLVED * ratios[-1])
    assert certificate.eigenvalue_error == certificate.smallest_ratio_error == 0
    shifts = np.array([J @ step for J in dense.J])
    assert_allclose(certificate.newton_shift, np.sqrt(np.mean(shifts**2, axis=0)), rtol=SOLVED)
    assert not certificate.is_minimum


@over_networks
def test_the_decrement_is_what_a_newton_step_gains_in_the_quadratic_model(certificate, dense):
    step = -np.linalg.solve(dense.G, dense.g)
    gain = -(dense.g @ step + step @ dense.G @ step / 2)
    assert_allclose(certificate.newton_decrement, gain, rtol=SOLVED)


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_with_the_exact_hessian_the_decrement_is_its_own(problem):
    theta = ss.polish(problem.reg, problem.theta, problem.X, problem.Y, tolerance=1e-12).theta
    near = theta + 1e-3 * problem.v
    found = ss.fit_laplace(
        problem.reg, near, problem.X, problem.Y, curvature="hessian", require_minimum=False
    )
    g, H = problem.gradient(near), problem.hessian(near)
    assert_allclose(found.certificate.newton_decrement, g @ np.linalg.solve(H, g) / 2, rtol=SOLVED)


NOISES = {
    "covariance": ss.GaussianNoise(covariance=[[0.04, 0.01], [0.01, 0.09]]),
    "Student's t": ss.StudentTNoise([0.2, 0.3], dof=3.0),
    "predicted": ss.PredictedNoise(),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("with_errors", [False, True], ids=["labels alone", "with errors"])
def test_the_dual_differentiates_by_the_tangents_that_it_keeps(noise, with_errors):
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    Y[rng.random(Y.shape) < 0.2] = np.nan
    errors = rng.uniform(0.1, 0.4, Y.shape) if with_errors else None
    net = ss.mlp([4, 6, 2 * noise.outputs_per_label], activation="tanh")
    reg = ss.Regression(net, noise=noise, prior_precision=2.0)
    theta = net.init_params(rng)
    options = {"label_errors": errors, "structure": "dual", "require_minimum": False}
    laplace = ss.fit_laplace(reg, theta, X, Y, **options)
    U, gradient = ss.compile_objective(reg)(theta, X, Y, label_errors=errors)
    rounding = 1e-13 * np.abs(gradient).max()
    assert_allclose(laplace.negative_log_posterior, U, rtol=1e-13)
    assert_allclose(laplace.gradient, gradient, rtol=0, atol=rounding)


# --- the lowest ratio of more parameters than fit in a dense matrix ---


def assert_bounds_the_smallest(value, error, eigenvalues):
    """A Rayleigh quotient is never below the smallest eigenvalue; one is within its residual."""
    rounding = 1e-11 * np.abs(eigenvalues).max()
    assert value >= eigenvalues[0] - rounding
    assert np.abs(eigenvalues - value).min() <= error + rounding


@pytest.fixture
def iterative(monkeypatch):
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    monkeypatch.setattr("symspec.laplace.certificate.DENSE_LIMIT", 0)


@over_networks
@pytest.mark.usefixtures("iterative")
def test_the_iterative_ratio_of_a_network_is_numpys(problem, dense):
    ratios = eigh(dense.H, dense.G, eigvals_only=True)
    found = fit(problem, structure="dual").certificate
    assert_bounds_the_smallest(found.smallest_ratio, found.smallest_ratio_error, ratios)
    assert found.sign == ("positive" if ratios[0] > 0 else "negative")
    # it stops at a residual of a tenth, and the quotient's error is of the order of its square
    assert_allclose(found.smallest_ratio, ratios[0], rtol=0.05)
    eigenvalues = np.linalg.eigvalsh(dense.H)
    assert_bounds_the_smallest(found.smallest_eigenvalue, found.eigenvalue_error, eigenvalues)


@pytest.mark.usefixtures("iterative")
@pytest.mark.parametrize("problem", [TANH], indirect=True)
def test_the_sign_is_looked_for_when_it_is_asked_for(problem):
    certificate = fit(problem, structure="primal").certificate
    assert certificate.known is None
    copied = pickle.loads(pickle.dumps(certificate))
    assert "in units of A" not in certificate.message
    assert not np.isnan(certificate.smallest_ratio)
    assert certificate.known is not None
    assert "in units of A" in certificate.message
    assert copied.sign == "not decided"  # it has no training set
    assert np.isnan(copied.smallest_ratio)
    assert pickle.loads(pickle.dumps(certificate)).known == certificate.known


@pytest.mark.usefixtures("iterative")
def test_the_sign_is_that_of_the_span_of_the_stars_where_they_are_fewer_than_the_pixels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 50))
    Y = np.tanh(X[:, :2]) + 0.1 * rng.normal(size=(20, 2))
    Y[3, 1] = np.nan
    net = ss.standardized(ss.mlp([50, 3, 2], activation="tanh"), X, Y)
    reg = ss.Regression(net, sigma_noise=[0.3, 0.2], prior_precision=ss.scaled_prior(net, 1.0))
    for theta in (net.init_params(rng), net.init_params(rng) / 10):
        H, G = (compile_it(reg)(theta, X, Y) for compile_it in (ss.compile_hessian, ss.compile_ggn))
        ratios = eigh(H, G, eigvals_only=True)
        fitted = ss.fit_laplace(reg, theta, X, Y, structure="dual", require_minimum=False)
        found = fitted.certificate.decide()
        assert_bounds_the_smallest(found.smallest_ratio, found.smallest_ratio_error, ratios)
        assert_allclose(found.smallest_ratio, ratios[0], rtol=0.05)
        eigenvalues = np.linalg.eigvalsh(H)
        assert_bounds_the_smallest(found.smallest_eigenvalue, found.eigenvalue_error, eigenvalues)


def build_matrix(eigenvalues, seed=0):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(eigenvalues.size,) * 2))
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2


RATIOS = {
    "all-alike": np.ones(60),
    "a-minimum": np.r_[0.4, np.linspace(0.8, 1.3, 59)],
    "nearly-flat": np.r_[0.02, np.linspace(0.8, 1.3, 59)],
    "one-negative": np.r_[-0.3, np.linspace(0.8, 1.3, 59)],
    "one-very-negative": np.r_[-40.0, np.linspace(0.8, 1.3, 59)],
    "barely-negative": np.r_[-1e-5, np.linspace(0.8, 1.3, 59)],
    "many-negative": np.linspace(-5, 3, 60),
    "at-the-edge-of-many": np.linspace(0.3, 2, 60),
}


@pytest.mark.parametrize("ratios", RATIOS.values(), ids=RATIOS)
@pytest.mark.usefixtures("iterative")
def test_the_iterative_ratio_of_a_known_pencil_bounds_it_and_has_its_sign(ratios):
    """H = L K L^T and A = L L^T of very different scales, with K of known eigenvalues."""
    n = ratios.size
    L = np.tril(np.random.default_rng(1).normal(size=(n, n)) / n) + np.diag(np.geomspace(1, 1e3, n))
    H = L @ build_matrix(ratios) @ L.T
    found = find_lowest_curvature(lambda v: H @ v, PrimalInverse.factorize(L @ L.T), 60)
    assert_bounds_the_smallest(found.smallest_ratio, found.smallest_ratio_error, ratios)
    assert found.sign == ("positive" if ratios[0] > 0 else "negative")
    eigenvalues = np.linalg.eigvalsh(H)
    assert_bounds_the_smallest(found.smallest_eigenvalue, found.eigenvalue_error, eigenvalues)


@pytest.mark.parametrize("ratios", RATIOS.values(), ids=RATIOS)
def test_the_dense_ratio_of_a_known_pencil_is_exact(ratios):
    n = ratios.size
    L = np.tril(np.random.default_rng(1).normal(size=(n, n)) / n) + np.diag(np.geomspace(1, 1e3, n))
    H = L @ build_matrix(ratios) @ L.T
    found = find_lowest_curvature(lambda v: H @ v, PrimalInverse.factorize(L @ L.T), 60)
    assert_allclose(found.smallest_ratio, ratios.min(), rtol=0, atol=1e-10 * np.abs(ratios).max())
    smallest = np.linalg.eigvalsh(H)[0]
    assert_allclose(found.smallest_eigenvalue, smallest, rtol=0, atol=1e-12 * np.abs(H).max())
    assert found.smallest_ratio_error == found.eigenvalue_error == found.missed == 0


@pytest.mark.usefixtures("iterative")
def test_a_search_that_ends_early_is_not_decided():
    """Without a preconditioner a low eigenvalue among many is far from found after ten products."""
    eigenvalues = np.geomspace(1e-3, 1e3, 60)
    H = build_matrix(eigenvalues)
    calls = []

    def product(v):
        calls.append(v)
        return H @ v

    found = find_lowest_curvature(product, PrimalInverse.factorize(np.eye(60)), 10)
    assert_bounds_the_smallest(found.smallest_ratio, found.smallest_ratio_error, eigenvalues)
    assert found.sign == "not decided"
    assert len(calls) == 10


def test_a_search_takes_at_most_ten_products_where_one_takes_long():
    assert count_products(17_600_000, 2_000) == 10
    assert count_products(1_000, 100) == 500
    assert count_products(10_000_000, 10) == 26  # vectors of 2 GiB


# --- verdict ---


def certify_at(g, eigenvalues, shift=(1.0,)):
    """Certificate of a Hessian with these eigenvalues; the curvature A is diag(1, 2, 3, ...)."""
    g = np.asarray(g, float)
    diagonal = np.arange(1.0, len(g) + 1)
    H = build_matrix(np.asarray(eigenvalues, float))
    inverse = PrimalInverse.factorize(np.diag(diagonal))
    return Certificate(
        gradient_norm=float(np.abs(g).max()),
        newton_decrement=0.5 * float(g @ (g / diagonal)),
        newton_shift=np.asarray(shift),
        lowest=find_lowest_curvature(lambda v: H @ v, inverse, 10),
    )


VERDICTS = {
    "at-a-minimum": ([0.0, 0.0], [1, 2], True),
    "nearly": ([0.1, 0.1], [1, 2], True),  # 0.01 / 2 + 0.01 / 4 = 0.0075 nats
    "on-a-slope": ([0.2, 0.0], [1, 2], False),  # 0.04 / 2 = 0.02 nats
    "flat-at-a-saddle": ([0.0, 0.0], [-1e-3, 2], False),
    "on-a-slope-by-a-saddle": ([3.0, 0.0], [-1, 2], False),
}


@pytest.mark.parametrize(("g", "eigenvalues", "is_minimum"), VERDICTS.values(), ids=VERDICTS)
def test_a_minimum_needs_a_small_decrement_and_no_negative_eigenvalue(g, eigenvalues, is_minimum):
    found = certify_at(g, eigenvalues)
    assert found.is_minimum is is_minimum
    assert_allclose(found.newton_decrement, g[0] ** 2 / 2 + g[1] ** 2 / 4, rtol=1e-14)
    assert_allclose(found.smallest_eigenvalue, min(eigenvalues), rtol=1e-12)
    assert found.message.startswith("at a minimum: " if is_minimum else "not at a minimum")


def test_the_verdict_says_its_numbers():
    good = certify_at([0.001, -0.002], [2, 2])
    assert (
        good.message
        == "at a minimum: |gradient| 0.002, Newton decrement 1.5e-06 nats (at most 0.01), lowest"
        " eigenvalue of the Hessian 2, 1 +- 0 in units of A."
    )
    bad = certify_at([0.0, -20.0], [-4, -4], shift=[12.3456, 0.00789])
    assert (
        bad.message
        == "not at a minimum: |gradient| 20, Newton decrement 100 nats (at most 0.01), lowest"
        " eigenvalue of the Hessian -4, -4 +- 0 in units of A; a Newton step would change the"
        " labels by 12.3, 0.00789 (rms)."
    )


SIGNS = {
    "known": ((0.3, 0.02, 0.005), "positive"),
    "a lower one may be there": ((0.3, 0.02, 0.02), "not decided"),
    "within its error of zero": ((0.01, 0.02, 0.0), "not decided"),
    "down": ((-0.01, 0.2, 0.0), "negative"),
    "rounding": ((-1e-14, 0.0, 0.0), "not decided"),
}


@pytest.mark.parametrize(("numbers", "sign"), SIGNS.values(), ids=SIGNS)
def test_a_sign_is_said_when_it_is_known(numbers, sign):
    ratio, error, missed = numbers
    found = LowestCurvature(
        smallest_ratio=ratio,
        smallest_ratio_error=error,
        smallest_eigenvalue=1.0,
        eigenvalue_error=0.0,
        missed=missed,
    )
    assert found.sign == sign


def test_a_decrement_that_is_not_a_number_is_no_minimum():
    assert not certify_at([np.nan, 0.0], [1, 2]).is_minimum


def test_a_saddle_without_any_gradient_is_not_taken_for_a_minimum():
    """Labels of mean zero, weights all zero: pairs of weights change U, single weights do not."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 3))
    Y = X @ rng.normal(size=(3, 2))
    Y -= Y.mean(axis=0)
    net = ss.mlp([3, 2, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    found = ss.fit_laplace(reg, np.zeros(net.n_params), X, Y, require_minimum=False).certificate
    # U couples hidden and output kernels alone, by -sum_n x_n y_n^T / sigma^2: its singular values
    # are the
    # eigenvalues of H, either sign, beside the prior's 1; each hidden unit has a pair of its own
    coupling = np.linalg.svd(X.T @ Y / 0.1**2, compute_uv=False)
    assert found.gradient_norm < 1e-10
    assert found.newton_decrement < 1e-20
    assert_allclose(found.smallest_eigenvalue, 1 - coupling[0], rtol=1e-10)
    assert not found.is_minimum


# --- kinks ---


@pytest.fixture(scope="module")
def kinked():
    """A network whose first layer takes the units away, and its end, at kinks."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 4))
    Y = np.maximum(X[:, :1], 0) - np.maximum(X[:, 1:2], 0) + 0.3 * rng.normal(size=(60, 1))
    net = ss.standardized(ss.mlp([4, 6, 1], activation="relu"), X, Y)
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    polished = ss.polish(reg, net.init_params(rng), X, Y, progress=False)
    assert polished.at_kink
    return reg, polished.theta, X, Y


def test_a_kink_is_certified_by_the_pieces_that_meet_there(kinked, tmp_path):
    """Where a unit turns on at a star, the gradient of neither side vanishes."""
    reg, theta, X, Y = kinked
    laplace = ss.fit_laplace(reg, theta, X, Y)  # without a warning
    certificate = laplace.certificate
    assert certificate.n_pieces > 1
    assert certificate.newton_decrement < 1e-6
    assert certificate.is_minimum
    _, g = ss.compile_objective(reg)(theta, X, Y)
    assert 0.5 * g @ (laplace.inverse_hessian @ g) > MAX_DECREMENT
    assert not (laplace.predict(X).flags & ss.Flag.NOT_AT_MINIMUM).any()
    ss.write_laplace(tmp_path / "model.h5", laplace)
    again = ss.read_laplace(tmp_path / "model.h5").certificate
    assert again.n_pieces == certificate.n_pieces
    assert again.message == certificate.message


@pytest.mark.parametrize("unit", [1e-17, 1e12])
def test_rounding_does_not_decide_on_which_side_of_a_kink_weights_are(kinked, unit):
    reg, theta, X, Y = kinked
    net = ss.standardized(ss.mlp([4, 6, 1], activation="relu"), unit * X, Y)
    laplace = ss.fit_laplace(reg, theta, X, Y)
    in_units = ss.fit_laplace(reg.with_network(net), theta, unit * X, Y)
    jitter = theta * (1 + 1e-13 * np.random.default_rng(0).normal(size=theta.shape))
    beside = ss.fit_laplace(reg, jitter, X, Y)
    new = X + 0.1
    for other, flux in ((in_units, unit * new), (beside, new)):
        V = other.label_covariance(flux)
        np.testing.assert_allclose(V, laplace.label_covariance(new), rtol=1e-6)
        certificate = other.certificate
        expected = laplace.certificate
        assert certificate.n_pieces == expected.n_pieces
        np.testing.assert_allclose(
            [certificate.smallest_ratio, certificate.newton_decrement],
            [expected.smallest_ratio, expected.newton_decrement],
            rtol=1e-6,
        )


def test_the_lowest_curvature_at_a_kink_is_that_of_the_ridge(kinked):
    """Against the Hessian by differences at the shares, on the null space of the kinks' rows."""
    reg, theta, X, Y = kinked
    laplace = ss.fit_laplace(reg, theta, X, Y)
    shared = find_shared_objective(InverseBuilder(reg, X, Y))
    U, gradient = ss.compile_objective(reg)(theta, X, Y)
    place = Place(theta, float(U), gradient)
    proof = find_kink_proof(shared, place, laplace.inverse_hessian, 1e-3, MAX_DECREMENT)
    held = proof.ridge.held
    shares = (shared.arguments(theta) > 0).astype(float)
    shares[tuple(held.kinks.T)] = held.shares
    gradients = [
        shared.differentiate(theta + sign * e, shares)[1]
        for e in 1e-5 * np.eye(theta.size)
        for sign in (1, -1)
    ]
    H = (np.array(gradients[::2]) - gradients[1::2]) / 2e-5
    along = null_space(shared.rows(theta, shares, held.kinks))
    A = np.linalg.inv(laplace.inverse_hessian.to_dense())
    ratios = eigh(along.T @ (H + H.T) @ along / 2, along.T @ A @ along, eigvals_only=True)
    # differences of gradients of size 100, of rounding 1e-14, over 1e-5
    np.testing.assert_allclose(laplace.certificate.smallest_ratio, ratios[0], rtol=1e-5)


def test_on_a_slope_of_a_piecewise_smooth_network_there_is_no_kink():
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(60, 4)), rng.normal(size=(60, 1))
    net = ss.mlp([4, 6, 1], activation="relu")
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    found = ss.fit_laplace(reg, net.init_params(rng), X, Y, require_minimum=False).certificate
    assert found.n_pieces == 1
    assert not found.is_stationary
