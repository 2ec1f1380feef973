"""A network without hidden layers is Bayesian linear regression, whose posterior is known.

The reference stacks the design matrix of every star by Kronecker products and solves with
`numpy.linalg`. Its evidence is the density of the labels themselves, log N(y | m, Phi Lambda^-1
Phi^T + S), in which no posterior, no Hessian and no factor of 2 pi to the number of parameters
appears.
"""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss

N_NEW = 4
# float64 rounding, 1e-16, times condition numbers of the curvature of up to 1e4, with a margin of a
# hundred
EXACT = 1e-10


@dataclass(frozen=True)
class Case:
    n_stars: int = 20
    n_pixels: int = 5
    n_labels: int = 2
    noise: str = "per label"  # or "number", "full"
    prior: str = "number"  # or "per block", "per parameter"
    missing: bool = False
    own_units: bool = False


CASES = {
    "one-label": Case(n_labels=1, noise="number"),
    "sigma-per-label": Case(n_labels=3),
    "missing-labels": Case(n_labels=3, missing=True),
    "full-noise": Case(n_labels=3, noise="full"),
    "full-noise-missing-prior-per-parameter": Case(
        n_labels=3, noise="full", prior="per parameter", missing=True
    ),
    "prior-per-block": Case(prior="per block"),
    "own-units": Case(n_labels=3, prior="per block", own_units=True),
    "own-units-full-noise-missing": Case(n_labels=3, noise="full", missing=True, own_units=True),
    "more-pixels-than-stars": Case(
        n_stars=7, n_pixels=12, prior="per block", missing=True, own_units=True
    ),
}


def draw_noise(case, y_scale, rng):
    C = case.n_labels
    if case.noise == "number":
        return {"sigma_noise": 0.4}, 0.4**2 * np.eye(C)
    if case.noise == "per label":
        sigma = y_scale * rng.uniform(0.2, 0.8, C)
        return {"sigma_noise": sigma}, np.diag(sigma**2)
    A = rng.normal(size=(C, C))
    S = (A @ A.T / C + 0.2 * np.eye(C)) * np.outer(y_scale, y_scale)
    return {"noise_covariance": S}, S


def draw_prior(case, rng):
    n_kernel, n_bias = case.n_pixels * case.n_labels, case.n_labels
    if case.prior == "number":
        return 1.3, np.full(n_kernel + n_bias, 1.3)
    if case.prior == "per block":
        return {"dense_0/kernel": 2.5, "dense_0/bias": 0.3}, np.r_[
            np.full(n_kernel, 2.5), np.full(n_bias, 0.3)
        ]
    precision = rng.uniform(0.3, 3, n_kernel + n_bias)
    return precision, precision


def draw_labels(case, y_mean, y_scale, rng):
    Y = y_mean + y_scale * rng.normal(size=(case.n_stars, case.n_labels))
    if case.missing:
        Y[0, 0] = Y[3, -1] = np.nan
        Y[5, 1:] = np.nan
        Y[-1] = np.nan
    return Y


@cache
def build(name):
    """The regression of the package, and the closed form of the same."""
    case, rng = CASES[name], np.random.default_rng(len(name))
    D, C = case.n_pixels, case.n_labels
    x_mean, x_scale, y_mean, y_scale = np.zeros(D), np.ones(D), np.zeros(C), np.ones(C)
    net = ss.mlp([D, C])
    if case.own_units:
        x_mean, x_scale = rng.uniform(0.7, 1.1, D), rng.uniform(0.05, 0.2, D)
        y_mean, y_scale = np.array([4800.0, 2.5, -0.3])[:C], np.array([300.0, 0.8, 0.2])[:C]
        net = ss.Network(
            [ss.Standardize(x_mean, x_scale), *net.layers, ss.Unstandardize(y_mean, y_scale)], D
        )
    X, X_new = (x_mean + x_scale * rng.normal(size=(n, D)) for n in (case.n_stars, N_NEW))
    Y = draw_labels(case, y_mean, y_scale, rng)
    noise, S = draw_noise(case, y_scale, rng)
    prior, precision = draw_prior(case, rng)

    def design(x):
        """d labels / d theta (label, param) of a star; theta: kernel (in, out) in C order, bias."""
        return np.diag(y_scale) @ np.hstack([np.kron((x - x_mean) / x_scale, np.eye(C)), np.eye(C)])

    seen = ~np.isnan(Y).ravel()
    Phi = np.vstack([design(x) for x in X])[seen]
    noise_matrix = np.kron(np.eye(case.n_stars), S)[np.ix_(seen, seen)]
    y = (Y - y_mean).ravel()[seen]
    weighted = Phi.T @ np.linalg.inv(noise_matrix)
    A = weighted @ Phi + np.diag(precision)
    marginal = Phi @ np.diag(1 / precision) @ Phi.T + noise_matrix
    log_evidence = (
        -(y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1]) / 2
    )
    return SimpleNamespace(
        reg=ss.Regression(net, prior_precision=prior, **noise),
        X=X,
        Y=Y,
        X_new=X_new,
        mean=np.linalg.solve(A, weighted @ y),
        covariance=np.linalg.inv(A),
        labels=np.array([design(x) @ np.linalg.solve(A, weighted @ y) + y_mean for x in X_new]),
        predictive=np.array([design(x) @ np.linalg.inv(A) @ design(x).T for x in X_new]),
        S=S,
        log_evidence=log_evidence,
    )


@pytest.fixture(scope="module", params=CASES)
def closed_form(request):
    return build(request.param)


@pytest.fixture(scope="module", params=["primal", "dual"])
def posterior(closed_form, request):
    c = closed_form
    return ss.fit_laplace(c.reg, c.mean, c.X, c.Y, structure=request.param)


def assert_entries(actual, expected):
    """Entry by entry to EXACT; entries that cancel to nearly nothing, to EXACT of the largest."""
    assert np.shape(actual) == np.shape(expected)
    assert_allclose(actual, expected, rtol=EXACT, atol=EXACT * np.max(np.abs(expected)))


def test_one_newton_step_from_zero_is_the_posterior_mean(closed_form):
    c = closed_form
    result = ss.polish(c.reg, np.zeros_like(c.mean), c.X, c.Y)
    assert result.converged
    assert result.iterations == 1
    assert_entries(result.theta, c.mean)


@pytest.mark.parametrize("method", ["trust-exact", "L-BFGS-B"])
def test_scipy_ends_at_the_posterior_mean(method):
    c = build("full-noise-missing-prior-per-parameter")
    result = ss.minimize(
        c.reg, np.zeros_like(c.mean), c.X, c.Y, method=method, tol=1e-13, progress=False
    )
    # L-BFGS-B stops when a step changes U, about 100 here, by less than 1e-13 of itself: the
    # weights are good
    # to the root of that, 3e-6, and a little more; trust-exact ends with a Newton step
    assert_allclose(result.x, c.mean, atol=1e-10 if method == "trust-exact" else 2e-5, rtol=0)


def test_the_inverse_hessian_is_the_posterior_covariance(closed_form, posterior):
    assert_entries(posterior.inverse_hessian.to_dense(), closed_form.covariance)


def test_the_diagonal_holds_the_posterior_variances(closed_form, posterior):
    assert_allclose(
        posterior.inverse_hessian.diagonal(), np.diag(closed_form.covariance), rtol=EXACT
    )


def test_the_log_determinant_is_that_of_the_posterior_covariance(closed_form, posterior):
    expected = np.linalg.slogdet(closed_form.covariance)[1]
    # an absolute error of log det is a relative one of the determinant
    assert_allclose(
        posterior.inverse_hessian.logdet(), expected, rtol=0, atol=EXACT * abs(expected) + 1e-10
    )


def test_predictions_have_the_posterior_predictive_distribution(closed_form, posterior):
    prediction = posterior.predict(closed_form.X_new)
    assert_entries(prediction.labels, closed_form.labels)
    assert_entries(prediction.model_cov, closed_form.predictive)
    assert_entries(prediction.noise_cov, np.broadcast_to(closed_form.S, prediction.noise_cov.shape))
    assert_entries(prediction.total_cov, closed_form.predictive + closed_form.S)


def test_laplace_evidence_is_the_density_of_the_labels(closed_form, posterior):
    assert_allclose(posterior.log_marginal_likelihood(), closed_form.log_evidence, rtol=EXACT)


def test_the_closed_form_is_certified_to_be_the_minimum(closed_form, posterior):
    certificate = posterior.certificate
    assert certificate.is_minimum
    # the decrement is a square: rounding of 1e-12 in the gradient, in units of its own size, leaves
    # 1e-20
    assert 0 <= certificate.newton_decrement < 1e-18
    expected = 1 / np.linalg.eigvalsh(closed_form.covariance)[-1]
    assert_allclose(certificate.smallest_eigenvalue, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "name", ["own-units-full-noise-missing", "full-noise-missing-prior-per-parameter"]
)
def test_hessian_and_ggn_are_one_matrix_when_the_network_is_linear(name):
    c = build(name)
    somewhere = np.random.default_rng(0).normal(
        size=c.mean.size
    )  # the Hessian is the same everywhere
    fit = ss.fit_laplace(c.reg, somewhere, c.X, c.Y, curvature="hessian", require_minimum=False)
    assert_entries(fit.inverse_hessian.to_dense(), c.covariance)
    assert_entries(fit.label_covariance(c.X_new), c.predictive)


def test_evidence_notices_a_prior_and_a_noise_of_the_wrong_size():
    """The closed form holds at these hyperparameters only: nothing above passes by chance."""
    c = build("sigma-per-label")
    for factor_noise, factor_prior in [(1.1, 1.0), (1.0, 1.1)]:
        prior = {name: p * factor_prior for name, p in c.reg.prior_precision.items()}
        other = ss.Regression(
            c.reg.net, sigma_noise=c.reg.sigma_noise * factor_noise, prior_precision=prior
        )
        theta = ss.polish(other, c.mean, c.X, c.Y).theta
        found = ss.fit_laplace(other, theta, c.X, c.Y).log_marginal_likelihood()
        assert abs(found - c.log_evidence) > 1e-3
