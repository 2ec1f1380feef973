"""Noise and prior from the evidence: against differences, grids, formulas and the truth."""

from functools import cache

import numpy as np
import pytest
from conftest import SHARED_DATA
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

import symspec as ss
from symspec.derivatives.compiled import compile_jacobian, compile_predict
from symspec.derivatives.matrices import compile_ggn
from symspec.derivatives.span import find_span
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.training import marginal_likelihood, search
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MarginalLikelihood

TECATOR = SHARED_DATA / "tecator" / "tecator_meats.npz"


@cache
def build_problem(n_pixels, n_stars, hidden=(4,), seed=0, noise="per_label", n_labels=2):
    """A regression and starting weights; labels are missing in each way that they can."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_stars, n_pixels))
    Y = np.c_[np.sin(X[:, 0]), X[:, 1] ** 2][:, :n_labels] + 0.1 * rng.normal(
        size=(n_stars, n_labels)
    )
    Y[2, 0] = Y[5, -1] = Y[7] = np.nan
    net = ss.mlp([n_pixels, *hidden, n_labels], activation="tanh")
    full = {"noise_covariance": [[0.04, 0.03], [0.03, 0.09]]}
    words = full if noise == "full" else {"sigma_noise": [0.2, 0.3][:n_labels]}
    reg = ss.Regression(net, prior_precision=ss.scaled_prior(net, 0.5), **words)
    return reg, net.init_params(rng), X, Y


def build_functions(reg, X, Y, structure, *kinds):
    return MarginalLikelihood(
        InverseBuilder(reg, X, Y, structure=structure), Hyperparameters(reg, *kinds)
    )


def build_reference(net):
    """-U - 1/2 log det A + P/2 log 2 pi, star by star in NumPy."""
    jacobian, predict = compile_jacobian(net, "theta"), compile_predict(net)

    def log_evidence(reg, theta, X, Y):
        precision = reg.prior_precision_vector()
        A, F = np.diag(precision), -0.5 * np.sum(precision * theta**2 - np.log(precision))
        for J, f, y in zip(jacobian(theta, X), predict(theta, X), Y, strict=True):
            seen = ~np.isnan(y)
            S, r = reg.noise_covariance[np.ix_(seen, seen)], (y - f)[seen]
            A = A + J[seen].T @ np.linalg.solve(S, J[seen])
            F -= 0.5 * (r @ np.linalg.solve(S, r) + np.linalg.slogdet(2 * np.pi * S)[1])
        return F - 0.5 * np.linalg.slogdet(A)[1]

    return log_evidence


def log_density(prediction, labels):
    """Mean log density of held-out labels under the total covariance, in nats a star."""
    stars = zip(labels, prediction.labels, prediction.total_cov, strict=True)
    return np.mean([multivariate_normal.logpdf(y, f, S) for y, f, S in stars])


@pytest.mark.parametrize(
    ("structure", "shape", "noise", "prior"),
    [
        ("primal", (3, 25), "per_label", "scale"),
        ("primal", (3, 25), "full", "per_block"),
        ("dual", (3, 25), "per_label", "scale"),
        ("dual", (3, 25), "full", "per_block"),
        ("dual", (20, 12), "full", "per_layer"),
    ],
)
def test_the_gradient_of_the_evidence_is_complete(structure, shape, noise, prior, monkeypatch):
    """Central differences of minimise-then-evaluate see theta* and A move."""
    monkeypatch.setattr(marginal_likelihood, "POLISH_TOLERANCE", 1e-13)
    reg, theta, X, Y = build_problem(*shape, noise=noise)
    functions = build_functions(reg, X, Y, structure, noise, prior)
    n, step = len(functions.hyperparameters), 1e-3
    h = 0.15 * np.random.default_rng(1).normal(size=n)
    here = functions.at(h).evaluate(theta)

    def F(h):
        return functions.at(h).evaluate(here.theta).log_marginal_likelihood

    differences = [(F(h + e) - F(h - e)) / (2 * step) for e in step * np.eye(n)]
    # step^2 times third derivatives, and conjugate gradients stopped at 1e-4
    np.testing.assert_allclose(here.gradient, differences, rtol=3e-4, atol=3e-4)
    assert (
        len(here.names)
        == n
        == {"per_label": 2, "full": 3}[noise] + {"scale": 1, "per_layer": 2, "per_block": 4}[prior]
    )


def test_the_value_and_the_effective_parameters_are_those_of_the_dense_matrix():
    reg, theta, X, Y = build_problem(3, 25, noise="full")
    ggn, reference = compile_ggn(reg), build_reference(reg.net)
    for structure in ["primal", "dual"]:
        here = build_functions(reg, X, Y, structure, "full", "per_block").evaluate(theta)
        G = ggn(here.theta, X, Y)
        # theta is within 1e-6 nats of the minimum, and the value is that at the minimum
        np.testing.assert_allclose(
            here.log_marginal_likelihood, reference(reg, here.theta, X, Y), atol=0.02
        )
        share = 1 - reg.prior_precision_vector() * np.diag(np.linalg.inv(G))
        dense = {name: part.sum() for name, part in reg.net.unpack(share).items()}
        assert dense.keys() == here.n_effective_by_factor.keys()
        np.testing.assert_allclose(
            [here.n_effective_by_factor[k] for k in dense], list(dense.values()), rtol=1e-8
        )
        np.testing.assert_allclose(here.n_effective.sum(), share.sum(), rtol=1e-8)
        assert here.standard_error == 0.0


def test_the_span_of_the_stars_has_the_same_evidence_and_effective_parameters(monkeypatch):
    monkeypatch.setattr(marginal_likelihood, "POLISH_TOLERANCE", 1e-13)
    reg, theta, X, Y = build_problem(20, 12)
    span = find_span(reg, X)
    large = build_functions(reg, X, Y, "dual", "per_label", "per_block").evaluate(theta)
    small = build_functions(span.reg, span.X, Y, "dual", "per_label", "per_block").evaluate(
        span.project(theta)
    )
    assert small.theta.size < large.theta.size
    # the same minimum up to the root of the polish's tolerance
    np.testing.assert_allclose(
        small.log_marginal_likelihood, large.log_marginal_likelihood, rtol=1e-9
    )
    np.testing.assert_allclose(small.gradient, large.gradient, rtol=1e-3, atol=1e-3)
    for name, count in large.n_effective_by_factor.items():
        np.testing.assert_allclose(small.n_effective_by_factor[name], count, rtol=1e-5)


def test_no_point_of_a_grid_has_more_evidence_than_the_maximum_found():
    reg, theta, X, Y = build_problem(3, 60, hidden=(3,), n_labels=1)
    tuned, theta = ss.tune(reg, theta, X, Y, tolerance=1e-5, structure="dual")
    functions, reference = build_functions(tuned, X, Y, "dual"), build_reference(reg.net)
    top = reference(tuned, theta, X, Y)
    for h in [(a, b) for a in np.linspace(-0.6, 0.6, 5) for b in np.linspace(-1.5, 1.5, 5)]:
        there = functions.at(np.array(h))
        here = there.evaluate(theta)
        # theta is within 1e-6 nats of the minimum, which the value is corrected for
        value = here.log_marginal_likelihood
        np.testing.assert_allclose(value, reference(there.reg, here.theta, X, Y), atol=0.02)
        assert value <= top + 1e-4  # ten times the tolerance of the search


def test_the_prior_of_a_linear_network_is_that_of_the_closed_form():
    """Without hidden layers the evidence is log N(y | 0, X X^T / delta + sigma^2)."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 5))
    Y = X @ rng.normal(size=(5, 1)) + 0.3 * rng.normal(size=(40, 1))
    net = ss.Network([ss.Dense(1, use_bias=False)], 5)

    def log_evidence(sigma, delta):
        K = X @ X.T / delta + sigma**2 * np.eye(40)
        return multivariate_normal.logpdf(Y[:, 0], np.zeros(40), K)

    start = ss.Regression(net, sigma_noise=0.4, prior_precision=50.0)
    reg, theta = ss.tune(start, np.zeros(5), X, Y, noise="fixed", tolerance=1e-6, structure="dual")
    best = minimize_scalar(
        lambda h: -log_evidence(0.4, np.exp(h)), (-2, 2), method="brent", tol=1e-10
    )
    np.testing.assert_allclose(reg.prior_precision["dense_0/kernel"], np.exp(best.x), rtol=0.01)
    np.testing.assert_allclose(reg.sigma_noise, 0.4)

    reg, theta = ss.tune(start, np.zeros(5), X, Y, tolerance=1e-6, structure="dual")
    best = reg.sigma_noise[0], reg.prior_precision["dense_0/kernel"]
    grid = np.exp(np.linspace(-0.3, 0.3, 25))
    assert (
        log_evidence(*best)
        >= max(log_evidence(best[0] * a, best[1] * b) for a in grid for b in grid) - 1e-5
    )  # ten tolerances
    np.testing.assert_allclose(
        ss.fit_laplace(reg, theta, X, Y).log_marginal_likelihood(), log_evidence(*best)
    )


@pytest.mark.parametrize("kind", ["miles", "tecator"])
def test_labels_held_out_are_not_less_likely_after_tuning(kind):
    if kind == "tecator":
        if not TECATOR.exists():
            pytest.skip(f"{TECATOR} is not there")
        stars = np.load(TECATOR)
        X, Y = stars["spectra"][:, ::10], stars["labels"]
    else:
        pytest.importorskip("mangadap", reason="the MILES stars come with the extra demo")
        stars = ss.datasets.miles(clip=(0.0, 3.0))
        X, Y = stars.flux[::3, ::80], stars.labels[::3]
    out = np.random.default_rng(0).permutation(len(X)) % 5 == 0
    net = ss.standardized(ss.mlp([X.shape[1], 3, Y.shape[1]], activation="tanh"), X[~out], Y[~out])
    reg = ss.Regression(
        net, sigma_noise=0.3 * Y[~out].std(axis=0), prior_precision=ss.scaled_prior(net, 2.0)
    )
    words = {"init": "glorot_uniform", "rng": np.random.default_rng(0), "progress": False}
    theta = ss.train(reg, X[~out], Y[~out], epochs=20, **words).theta
    theta = ss.polish(reg, theta, X[~out], Y[~out]).theta
    tuned, after = ss.tune(reg, theta, X[~out], Y[~out], max_evaluations=5)
    pairs = [(reg, theta), (tuned, after)]
    fits = [ss.fit_laplace(*pair, X[~out], Y[~out], require_minimum=False) for pair in pairs]
    before, then = (log_density(fit.predict(X[out]), Y[out]) for fit in fits)
    assert then >= before


def draw_stars(n_stars, covariance, seed):
    """A network with eight hidden units, its labels with noise, and a start far from both."""
    rng = np.random.default_rng(seed)
    C = len(covariance)
    X = rng.normal(size=(n_stars, 4))
    net = ss.mlp([4, 8, C], activation="tanh")
    Y = compile_predict(net)(net.init_params(rng, "glorot_uniform"), X)
    Y = Y + rng.multivariate_normal(np.zeros(C), covariance, n_stars)
    return net, X, Y, net.init_params(rng, "glorot_uniform")


def test_tuning_finds_the_noise_that_made_a_thousand_stars():
    sigma = np.array([0.03, 0.5, 0.12])
    net, X, Y, theta = draw_stars(1000, np.diag(sigma**2), seed=5)
    start = ss.Regression(
        net, sigma_noise=sigma * [3, 1 / 3, 3], prior_precision=ss.scaled_prior(net, 1.0)
    )
    reg, theta = ss.tune(start, theta, X, Y)
    # a standard deviation from 1,000 stars is known to 1 / sqrt(2000) = 2.2 %
    np.testing.assert_allclose(reg.sigma_noise, sigma, rtol=0.1)
    assert ss.fit_laplace(reg, theta, X, Y).certificate.is_minimum


def test_tuning_finds_the_correlation_of_the_noise():
    covariance = np.array([[0.04, -0.05], [-0.05, 0.1]])
    net, X, Y, theta = draw_stars(500, covariance, seed=7)
    Y[::10, 0] = Y[5::10, 1] = np.nan
    start = ss.Regression(net, sigma_noise=[0.3, 0.3], prior_precision=ss.scaled_prior(net, 1.0))
    reg, _ = ss.tune(start, theta, X, Y, noise="full")
    assert reg.has_full_noise
    sigma = np.sqrt(np.diag(covariance))
    # 400 stars with both labels: 1 / sqrt(800) of a sigma, (1 - rho^2) / sqrt(400) of the
    # correlation; three of these
    np.testing.assert_allclose(reg.sigma_noise, sigma, rtol=0.11)
    rho = reg.noise_covariance[0, 1] / np.prod(reg.sigma_noise)
    np.testing.assert_allclose(rho, -0.05 / np.prod(sigma), atol=0.06)


# which it may tell of where it ends
@pytest.mark.filterwarnings("ignore::symspec.SeveralMaximaWarning")
def test_tuning_never_ends_below_its_start_and_keeps_the_ratios_of_the_prior():
    reg, theta, X, Y = build_problem(40, 12, seed=1)
    seen = []
    tuned, after = ss.tune(reg, theta, X, Y, callback=lambda *both: seen.append(both))
    values = [e.log_marginal_likelihood for _, e in seen]
    final = ss.fit_laplace(tuned, after, X, Y, require_minimum=True)
    # the last steps of Newton move the weights by the root of the polish's tolerance
    assert final.log_marginal_likelihood() >= max(values) - 1e-3
    assert max(values) > values[0]
    assert all(r.net is reg.net and e.theta.shape == theta.shape for r, e in seen)
    ratios = [tuned.prior_precision[k] / reg.prior_precision[k] for k in reg.prior_precision]
    np.testing.assert_allclose(ratios, ratios[0])


def test_what_is_fixed_stays_and_the_weights_go_to_the_minimum():
    reg, theta, X, Y = build_problem(3, 25, noise="full")
    same, after = ss.tune(reg, theta, X, Y, noise="fixed", prior="fixed", structure="dual")
    np.testing.assert_array_equal(same.noise_covariance, reg.noise_covariance)
    assert same.prior_precision == reg.prior_precision
    assert ss.fit_laplace(same, after, X, Y, require_minimum=True)


def build_linear(rng, bias):
    net = ss.Network([ss.Dense(1, use_bias=bias)], 3)
    X = rng.normal(size=(40, 3))
    X -= X.mean(axis=0)
    return net, X, X @ rng.normal(size=(3, 1))


def test_labels_without_noise_send_sigma_to_its_edge_and_say_so():
    net, X, Y = build_linear(np.random.default_rng(0), bias=False)
    reg = ss.Regression(net, sigma_noise=0.5, prior_precision=1.0)
    with pytest.warns(
        ss.EdgeOfRangeWarning, match=r"sigma_noise of label_0 .* 0\.0001 times .* interpolates"
    ):
        tuned, _ = ss.tune(reg, np.zeros(3), X, Y, structure="dual")
    np.testing.assert_allclose(tuned.sigma_noise, 0.5e-4)


def test_a_block_without_use_is_named():
    """The bias of labels and flux that have a mean of exactly zero."""
    rng = np.random.default_rng(0)
    net, X, Y = build_linear(rng, bias=True)
    Y = Y + 0.3 * rng.normal(size=Y.shape)
    reg = ss.Regression(net, sigma_noise=0.5, prior_precision=1.0)
    with pytest.warns(
        ss.EdgeOfRangeWarning, match=r"prior_precision of dense_0/bias .*the data do not need"
    ):
        tuned, _ = ss.tune(reg, np.zeros(4), X, Y - Y.mean(), prior="per_block", structure="dual")
    assert tuned.prior_precision["dense_0/bias"] > 100 * tuned.prior_precision["dense_0/kernel"]


def test_alternating_ends_at_a_minimum_where_the_noise_and_prior_are_stationary():
    reg, theta, X, Y = build_problem(3, 40)
    functions, reference = (
        build_functions(reg, X, Y, "dual", "per_label", "scale"),
        build_reference(reg.net),
    )
    seen = []
    last, _ = search.alternate(functions, theta, 1e-4, 40, lambda *both: seen.append(both))
    h = last.h

    def F(h):
        return reference(functions.hyperparameters.regression(h), last.theta, X, Y)

    slope = np.array([(F(h + e) - F(h - e)) / 2e-4 for e in 1e-4 * np.eye(3)])
    # nats of a Newton step: the tolerance, and rounding
    assert 0.5 * slope @ np.linalg.solve(last.curvature, slope) < 2e-4
    there = functions.hyperparameters.regression(h)
    # weights of the last round but one step in h, which gains less than the tolerance
    assert ss.fit_laplace(there, last.theta, X, Y).certificate.newton_decrement < 1e-3
    np.testing.assert_allclose(last.F, F(h), atol=1e-3)
    assert len(seen) > 1


@pytest.fixture(scope="module")
def exact():
    """Noise as the exact inverse has it, from a start that is off."""
    reg, theta, X, Y = build_problem(3, 40)
    start = ss.Regression(reg.net, sigma_noise=[0.6, 0.1], prior_precision=reg.prior_precision)
    return start, theta, X, Y, ss.tune(start, theta, X, Y, structure="dual")[0]


@pytest.mark.parametrize(
    "structure", ["kronecker", "ekfac", "diagonal", "low_rank", "last_layer", "krylov"]
)
def test_every_structure_can_be_tuned(structure, exact):
    start, theta, X, Y, reg = exact
    seen, words = (
        [],
        {"structure": structure, "options": {"subset": 10} if structure == "krylov" else None},
    )
    tuned, after = ss.tune(start, theta, X, Y, **words, callback=lambda *both: seen.append(both[1]))
    assert seen[-1].log_marginal_likelihood > seen[0].log_marginal_likelihood + 10
    final = ss.fit_laplace(
        tuned, after, X, Y, **words, require_minimum=False
    ).log_marginal_likelihood()
    # what the last step in the hyperparameters gains is below the tolerance
    np.testing.assert_allclose(final, seen[-1].log_marginal_likelihood, atol=0.1)
    np.testing.assert_allclose(
        tuned.sigma_noise, reg.sigma_noise, rtol=0.5
    )  # approximations of the same problem


@pytest.mark.parametrize("kind", ["full noise", "prior by weight", "unknown noise", "subset"])
def test_what_cannot_be_tuned_is_refused(kind):
    reg, theta, X, Y = build_problem(3, 25)
    noise = {"noise_covariance": np.eye(2)} if kind == "full noise" else {"sigma_noise": 0.1}
    prior = np.ones(reg.net.n_params) if kind == "prior by weight" else 1.0
    words = {
        "full noise": 'use noise="full"',
        "prior by weight": "one number a block",
        "unknown noise": "'per_label'",
    }
    options = {
        "unknown noise": {"noise": "per-label"},
        "subset": {"structure": "dual", "options": {"subset": 9}},
    }
    with pytest.raises(ss.OptionError, match=words.get(kind, "all training stars")):
        ss.tune(
            ss.Regression(reg.net, prior_precision=prior, **noise),
            theta,
            X,
            Y,
            **options.get(kind, {}),
        )
