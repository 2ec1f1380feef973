"""Noise and prior from the evidence: its gradient against differences, its maximum against a grid and the truth."""

import numpy as np
import pytest

import symspec as ss
from symspec import evidence
from symspec.evidence import EvidenceFunctions, with_hyperparameters
from symspec.inverse_hessian import InverseBuilder


def build_problem(n_pixels, n_stars, hidden=(4,), seed=0, missing=True):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_stars, n_pixels))
    Y = np.c_[np.sin(X[:, 0]), X[:, 1] ** 2] + 0.1 * rng.normal(size=(n_stars, 2))
    if missing:
        Y[2, 0] = np.nan
    net = ss.mlp([n_pixels, *hidden, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=[0.2, 0.3], prior_precision=ss.scaled_prior(net, 0.5))
    theta = ss.polish(reg, net.init_params(rng), X, Y).theta
    return reg, theta, X, Y


@pytest.mark.parametrize("structure", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(3, 25), (40, 12)], ids=["few pixels", "few stars"])
def test_the_gradient_of_the_evidence_is_complete(shape, structure, monkeypatch):
    """Central differences of minimise-then-evaluate see theta* and A move with the hyperparameters."""
    monkeypatch.setattr(evidence, "POLISH_TOLERANCE", 1e-13)
    reg, theta, X, Y = build_problem(*shape)
    functions = EvidenceFunctions(InverseBuilder(reg, X, Y, structure=structure))
    h, step = np.array([0.1, -0.1, 0.2]), 1e-3
    here = functions.at(h).evaluate(theta)

    def F(h):
        return functions.at(h).evaluate(theta).log_marginal_likelihood

    differences = [(F(h + e) - F(h - e)) / (2 * step) for e in step * np.eye(3)]
    # step^2 times third derivatives, and conjugate gradients stopped at 1e-4
    np.testing.assert_allclose(here.gradient, differences, rtol=1e-3, atol=1e-3)
    laplace = ss.fit_laplace(with_hyperparameters(reg, h), here.theta, X, Y, structure=structure)
    np.testing.assert_allclose(here.log_marginal_likelihood, laplace.log_marginal_likelihood(), rtol=1e-10)


def test_the_evidence_of_a_linear_network_peaks_where_a_grid_says():
    """Without hidden layers the evidence is log N(y | 0, X X^T / delta + sigma^2), with no minimum to find."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 5))
    Y = X @ rng.normal(size=(5, 1)) + 0.3 * rng.normal(size=(40, 1))
    net = ss.Network([ss.Dense(1, use_bias=False)], 5)
    start = ss.Regression(net, sigma_noise=1.0, prior_precision=5.0)
    reg, theta = ss.tune(start, np.zeros(5), X, Y, tolerance=1e-4)

    def log_evidence(log_sigma, log_delta):
        K = X @ X.T / np.exp(log_delta) + np.exp(2 * log_sigma) * np.eye(40)
        return -0.5 * (Y[:, 0] @ np.linalg.solve(K, Y[:, 0]) + np.linalg.slogdet(K)[1] + 40 * np.log(2 * np.pi))

    best = np.log([reg.sigma_noise[0], reg.prior_precision["dense_0/kernel"]])
    grid = np.linspace(-0.3, 0.3, 25)
    values = [log_evidence(best[0] + a, best[1] + b) for a in grid for b in grid]
    assert log_evidence(*best) >= max(values) - 1e-4  # no point of the grid is better
    np.testing.assert_allclose(ss.fit_laplace(reg, theta, X, Y).log_marginal_likelihood(), log_evidence(*best))


def test_tuning_finds_the_noise_that_made_the_data():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(400, 4))
    net = ss.mlp([4, 5, 2], activation="tanh")
    truth, sigma = net.init_params(rng, "glorot_uniform"), np.array([0.05, 0.2])
    Y = ss.compile_predict(net)(truth, X) + sigma * rng.normal(size=(400, 2))
    start = ss.Regression(net, sigma_noise=0.3 * Y.std(axis=0), prior_precision=ss.scaled_prior(net, 1.0))
    theta = ss.polish(start, net.init_params(rng), X, Y).theta
    reg, theta = ss.tune(start, theta, X, Y)
    # a standard deviation from 400 stars is known to 1 / sqrt(800) = 3.5 %: three of these
    np.testing.assert_allclose(reg.sigma_noise, sigma, rtol=0.11)
    assert ss.fit_laplace(reg, theta, X, Y).certificate.is_minimum


def test_tuning_never_ends_below_its_start_and_keeps_the_ratios_of_the_prior():
    reg, theta, X, Y = build_problem(40, 12, seed=1)
    seen = []
    tuned, after = ss.tune(reg, theta, X, Y, callback=lambda r, e: seen.append(e.log_marginal_likelihood))
    final = ss.fit_laplace(tuned, after, X, Y, require_minimum=True)
    assert final.log_marginal_likelihood() >= max(seen) - 1e-3
    assert len(seen) > 1
    assert max(seen) > seen[0]
    ratios = [tuned.prior_precision[k] / reg.prior_precision[k] for k in reg.prior_precision]
    np.testing.assert_allclose(ratios, ratios[0])


@pytest.mark.parametrize("kind", ["full noise", "prior by weight"])
def test_what_cannot_be_tuned_is_refused(kind):
    reg, theta, X, Y = build_problem(3, 25)
    noise = {"noise_covariance": np.eye(2)} if kind == "full noise" else {"sigma_noise": 0.1}
    prior = 1.0 if kind == "full noise" else np.ones(reg.net.n_params)
    with pytest.raises(ss.OptionError, match="one sigma_noise a label and one scale of the prior"):
        ss.tune(ss.Regression(reg.net, prior_precision=prior, **noise), theta, X, Y)
