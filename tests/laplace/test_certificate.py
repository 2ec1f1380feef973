"""The certificate's numbers against dense algebra, its iterative eigenvalue against `eigvalsh`."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.laplace import certificate as module
from symspec.laplace.certificate import certify, find_extreme_eigenvalues

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
    assert_allclose(certificate.largest_eigenvalue, np.linalg.eigvalsh(dense.H)[-1], rtol=1e-11)
    assert certificate.eigenvalue_error == 0
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


# --- the smallest eigenvalue of more parameters than fit in a dense matrix ---


def assert_bounds_the_smallest(value, error, eigenvalues):
    """A Rayleigh quotient is never below the smallest eigenvalue; one is within its residual."""
    rounding = 1e-12 * np.abs(eigenvalues).max()
    assert value >= eigenvalues[0] - rounding
    assert np.abs(eigenvalues - value).min() <= error + rounding


@over_networks
def test_the_iterative_eigenvalue_of_a_network_is_numpys(problem, dense, monkeypatch):
    eigenvalues = np.linalg.eigvalsh(dense.H)
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    found = fit(problem, structure="dual").certificate
    assert_bounds_the_smallest(found.smallest_eigenvalue, found.eigenvalue_error, eigenvalues)
    # the quotient's error is the square of the residual over the gap to the next eigenvalue
    assert_allclose(
        found.smallest_eigenvalue, eigenvalues[0], rtol=1e-4, atol=1e-10 * eigenvalues[-1]
    )


SPECTRA = {
    "well-above-zero": np.r_[0.7, np.linspace(1, 50, 39)],
    "nearly-singular": np.r_[1e-6, np.linspace(1, 50, 39)],
    "one-negative": np.r_[-0.3, np.linspace(1, 50, 39)],
    "one-very-negative": np.r_[-40.0, np.linspace(1, 50, 39)],
    "barely-negative-among-small": np.r_[-0.01, np.geomspace(0.02, 1e4, 39)],
    "many-negative": np.linspace(-5, 50, 40),
    "all-alike": np.full(40, 2.0),
}


def build_matrix(eigenvalues, seed=0):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(eigenvalues.size,) * 2))
    H = (Q * eigenvalues) @ Q.T
    return (H + H.T) / 2


def build_preconditioner(eigenvalues):
    """Inverse of a positive definite neighbour of the matrix, as the GGN is one of the Hessian."""
    return PrimalInverse.factorize(build_matrix(np.abs(eigenvalues) + 0.1))


@pytest.mark.parametrize("eigenvalues", SPECTRA.values(), ids=SPECTRA)
def test_the_iterative_eigenvalue_of_a_known_spectrum_bounds_it_and_has_its_sign(
    eigenvalues, monkeypatch
):
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    H = build_matrix(eigenvalues)
    value, error, largest = find_extreme_eigenvalues(
        lambda v: H @ v, build_preconditioner(eigenvalues), n_stars=1
    )
    expected = np.sort(eigenvalues)
    assert_bounds_the_smallest(value, error, expected)
    # lobpcg stops at a residual of 1e-6; the error of the quotient is its square over the gap
    assert_allclose(value, expected[0], rtol=0, atol=1e-6 * np.abs(expected).max())
    assert (value > 0) == (expected[0] > 0)
    assert_allclose(largest, expected[-1], rtol=1e-4)  # twenty steps of Lanczos
    assert largest <= expected[-1] + 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("eigenvalues", SPECTRA.values(), ids=SPECTRA)
def test_the_dense_eigenvalue_of_a_known_spectrum_is_exact(eigenvalues):
    H = build_matrix(eigenvalues)
    value, error, largest = find_extreme_eigenvalues(
        lambda v: H @ v, build_preconditioner(eigenvalues), n_stars=1
    )
    assert_allclose(value, eigenvalues.min(), rtol=0, atol=1e-13 * np.abs(eigenvalues).max())
    assert_allclose(largest, eigenvalues.max(), rtol=0, atol=1e-13 * np.abs(eigenvalues).max())
    assert error == 0


def test_a_network_of_many_weights_gets_few_products_and_an_honest_error(monkeypatch):
    """An unfinished search still bounds the eigenvalue from above, and gives its own error."""
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    monkeypatch.setattr(module, "PRODUCT_BUDGET", 1.0)
    eigenvalues, calls = np.geomspace(1e-3, 1e3, 40), []
    H = build_matrix(eigenvalues)

    def product(v):
        calls.append(v)
        return H @ v

    preconditioner = PrimalInverse.factorize(build_matrix(np.ones(40)))  # none at all
    value, error, largest = find_extreme_eigenvalues(product, preconditioner, n_stars=10**9)
    assert_bounds_the_smallest(value, error, eigenvalues)
    assert error > 1e-6
    assert 0 < largest <= eigenvalues[-1] * (1 + 1e-12)
    # two iterations, one product to begin with, one each for the final residuals of SciPy and ours;
    # two for the largest
    assert len(calls) <= 8


# --- verdict ---


def certify_at(g, eigenvalues, shift=(1.0,)):
    """Certificate of a Hessian with these eigenvalues; the curvature A is diag(1, 2, 3, ...)."""
    A = np.diag(np.arange(1.0, len(g) + 1))
    H = build_matrix(np.asarray(eigenvalues, float))
    return certify(
        np.asarray(g, float), PrimalInverse.factorize(A), lambda v: H @ v, np.asarray(shift), 1
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
    assert found.message.startswith("at a minimum: " if is_minimum else "not at a minimum: ")


def test_the_verdict_says_its_numbers():
    good = certify_at([0.001, -0.002], [1.5, 4])
    assert (
        good.message
        == "at a minimum: |gradient| 0.002, Newton decrement 1.5e-06 nats (at most 0.01), smallest"
        " eigenvalue of the Hessian 1.5 +- 0, largest 4."
    )
    bad = certify_at([0.0, -20.0], [-1.5, 4], shift=[12.3456, 0.00789])
    assert (
        bad.message
        == "not at a minimum: |gradient| 20, Newton decrement 100 nats (at most 0.01), smallest"
        " eigenvalue of the Hessian -1.5 +- 0, largest 4; a Newton step would change the labels"
        " by 12.3, 0.00789 (rms)."
    )


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
