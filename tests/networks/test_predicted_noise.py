"""Noise that the network predicts: densities, information, evidence, predictions, by NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, special, stats

import symspec as ss
from symspec.derivatives.backends import find_mode
from symspec.derivatives.compiled import compile_outputs
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.noise.mixtures import (
    find_half_widths,
    find_log_densities,
    find_probabilities,
)
from symspec.safety.label_errors import add_errors
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MarginalLikelihood

N = 30
PIXELS = 4
PRECISION = 4.0
BACKENDS = ("c", "numba", "jax")
PLAIN = {"backend": "numpy"}  # compiled in no time
ERRORS = ("alone", "label errors", "label covariances")
UNIT = np.eye(2)


def make_errors(kind, rng):
    if kind == "alone":
        return None
    if kind == "label errors":
        return np.exp(rng.uniform(-3, 0, size=(N, 2)))
    roots = 0.5 * rng.normal(size=(N, 2, 2))
    return roots @ roots.transpose(0, 2, 1) + 0.1 * UNIT


class Problem:
    """A regression of two labels, stars, some of which lack labels, and errors of these."""

    def __init__(self, kind):
        rng = np.random.default_rng(3)
        self.net = ss.mlp([PIXELS, 2, 4], activation="tanh", n_labels=2)
        self.reg = ss.Regression(self.net, noise=ss.PredictedNoise(), prior_precision=PRECISION)
        self.X = rng.normal(size=(N, PIXELS))
        scatter = np.exp(0.5 * self.X[:, 1:2]) * rng.normal(size=(N, 2))
        self.Y = self.X[:, :2] + 0.5 * scatter
        self.Y[1, 0] = self.Y[2, 1] = np.nan
        self.Y[4] = np.nan
        self.errors = make_errors(kind, rng)
        self.words = {"label_errors": self.errors}
        self.theta = 0.7 * rng.normal(size=self.net.n_params)
        self.E = np.zeros((N, 2, 2))
        if self.errors is not None:
            self.E = self.errors if self.errors.ndim == 3 else self.errors[:, :, None] ** 2 * UNIT
        self.observed = ~np.isnan(self.Y)

    def outputs(self, theta):
        """Means and log standard deviations (star, output) by NumPy; theta may be complex."""
        b = self.net.layout.unpack(theta)
        h = np.tanh(self.X @ b["dense_0/kernel"] + b["dense_0/bias"])
        return h @ b["dense_1/kernel"] + b["dense_1/bias"]

    def covariances(self, f):
        """S_n, with a unit variance and no covariance where a label is missing."""
        S = np.exp(2 * f[:, 2:, None]) * UNIT + self.E
        both = self.observed[:, :, None] & self.observed[:, None]
        return np.where(both, S, UNIT)

    def negative_log_densities(self, f, Y=None):
        """Of each star (star,)."""
        S = self.covariances(f)
        r = np.where(self.observed, (self.Y if Y is None else Y) - f[:, :2], 0)
        squares = np.einsum("nc,nc->n", r, np.linalg.solve(S, r[:, :, None])[:, :, 0])
        n = self.observed.sum(axis=1)
        return 0.5 * (squares + np.log(np.linalg.det(S)) + n * np.log(2 * np.pi))

    def negative_log_posterior(self, theta):
        prior = PRECISION * theta**2 - np.log(PRECISION) + np.log(2 * np.pi)
        return np.sum(self.negative_log_densities(self.outputs(theta))) + 0.5 * np.sum(prior)

    def gradient(self, theta):
        steps = 1e-20j * np.eye(theta.size)  # complex steps are exact to rounding
        return np.array([self.negative_log_posterior(theta + s).imag for s in steps]) / 1e-20

    def hessian(self, theta):
        """By differences of the exact gradient, of sixth order."""
        h = 5e-3
        columns = []
        for e in np.eye(theta.size):
            d = [self.gradient(theta + k * h * e) - self.gradient(theta - k * h * e) for k in
                 (1, 2, 3)]  # fmt: skip
            columns.append((45 * d[0] - 9 * d[1] + d[2]) / (60 * h))
        return np.array(columns)

    def jacobian(self, theta):
        """df/dtheta (star, output, param)."""
        steps = 1e-20j * np.eye(theta.size)
        return np.stack([self.outputs(theta + s).imag / 1e-20 for s in steps], axis=2)

    def slopes(self, f):
        """Of the log densities by the outputs (star, output)."""
        steps = 1e-20j * np.eye(4)
        return -np.stack([self.negative_log_densities(f + s).imag for s in steps], axis=1) / 1e-20

    def information(self, f):
        """Mean of score times score over the labels, by a quadrature exact for its degree."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        roots = np.linalg.cholesky(self.covariances(f))
        total = np.zeros((N, 4, 4))
        for a, w in zip(nodes, weights, strict=True):
            for b, v in zip(nodes, weights, strict=True):
                Y = f[:, :2] + roots @ np.array([a, b])
                steps = 1e-20j * np.eye(4)
                rows = [self.negative_log_densities(f + s, Y).imag / 1e-20 for s in steps]
                score = np.stack(rows, axis=1)
                total += w * v / (2 * np.pi) * score[:, :, None] * score[:, None]
        return total

    def ggn(self, theta):
        J = self.jacobian(theta)
        W = self.information(self.outputs(theta))
        return np.einsum("nci,ncd,ndj->ij", J, W, J) + PRECISION * np.eye(theta.size)

    def fit(self, structure="primal", **words):
        return ss.fit_laplace(
            self.reg, self.theta, self.X, self.Y, **self.words,
            structure=structure, require_minimum=False, progress=False, **PLAIN, **words,
        )  # fmt: skip


@pytest.fixture(scope="module", params=ERRORS)
def p(request):
    return Problem(request.param)


@pytest.fixture(scope="module")
def alone():
    return Problem("alone")


# --- derivatives


def test_u_and_its_derivatives(p):
    given = (p.theta, p.X, p.Y)
    v = np.linspace(-1, 1, p.theta.size)
    value, gradient = ss.compile_objective(p.reg, **PLAIN)(*given, **p.words)
    assert_allclose(value, p.negative_log_posterior(p.theta), rtol=1e-12)
    assert_allclose(gradient, p.gradient(p.theta), rtol=1e-10, atol=1e-10)
    H = p.hessian(p.theta)
    scale = np.abs(H).max()
    # the differences' rounding, 1e-13 over the step
    found = ss.compile_hessian(p.reg, **PLAIN)(*given, **p.words)
    assert_allclose(found, H, atol=1e-9 * scale)
    product = ss.compile_hessian_vector_product(p.reg, **PLAIN)(*given, v, **p.words)
    assert_allclose(product, H @ v, atol=1e-9 * scale)
    G = p.ggn(p.theta)
    scale = np.abs(G).max()
    assert_allclose(ss.compile_ggn(p.reg, **PLAIN)(*given, **p.words), G, atol=1e-12 * scale)
    product = ss.compile_ggn_vector_product(p.reg, **PLAIN)(*given, v, **p.words)
    assert_allclose(product, G @ v, atol=1e-11 * scale)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_computes_the_same(alone, backend):
    if backend == "jax":
        pytest.importorskip("jax")
    p = alone
    value, gradient = ss.compile_objective(p.reg, backend=backend)(p.theta, p.X, p.Y)
    assert_allclose(value, p.negative_log_posterior(p.theta), rtol=1e-12)
    assert_allclose(gradient, p.gradient(p.theta), rtol=1e-10, atol=1e-10)


def test_one_star_is_a_sum_of_one(p):
    star = 0
    errors = None if p.errors is None else p.errors[star]
    objective = ss.compile_objective(p.reg, **PLAIN)
    value, gradient = objective(p.theta, p.X[star], p.Y[star], label_errors=errors)
    prior = PRECISION * p.theta**2 - np.log(PRECISION) + np.log(2 * np.pi)
    expected = p.negative_log_densities(p.outputs(p.theta))[star] + 0.5 * prior.sum()
    assert_allclose(value, expected, rtol=1e-12)
    many = objective(
        p.theta, p.X[:1], p.Y[:1], label_errors=None if errors is None else errors[None]
    )
    assert_allclose(gradient, many[1])


def test_a_network_that_does_not_factorise_has_the_same_derivatives(alone):
    """By products and the Jacobian itself, in place of the closed form."""
    layers = [
        ss.Reshape((PIXELS, 1)),
        ss.Conv1D(2, 3),
        ss.Activation("tanh"),
        ss.Flatten(),
        ss.Dense(4),
    ]
    net = ss.Network(layers, PIXELS)
    reg = ss.Regression(net, noise=ss.PredictedNoise(), prior_precision=1.0)
    theta = 0.5 * np.random.default_rng(0).normal(size=net.n_params)
    objective = ss.compile_objective(reg, **PLAIN)
    step = 1e-5
    expected = [
        (objective(theta + e, alone.X, alone.Y)[1] - objective(theta - e, alone.X, alone.Y)[1])
        / (2 * step)
        for e in step * np.eye(theta.size)
    ]
    H = ss.compile_hessian(reg, **PLAIN)(theta, alone.X, alone.Y)
    assert_allclose(H, expected, atol=1e-7 * np.abs(H).max())  # rounding over the step
    laplace = ss.fit_laplace(
        reg,
        theta,
        alone.X,
        alone.Y,
        structure="dual",
        require_minimum=False,
        progress=False,
        **PLAIN,
    )
    G = ss.compile_ggn(reg, **PLAIN)(theta, alone.X, alone.Y)
    assert_allclose(np.linalg.inv(laplace.inverse_hessian.to_dense()), G, atol=1e-9 * G.max())


def test_a_constant_head_is_normal_noise():
    """With the same U but for the head's prior, and the same error bars."""
    rng = np.random.default_rng(1)
    sigma = np.array([0.3, 2.0])
    X, Y = rng.normal(size=(15, 3)), rng.normal(size=(15, 2))
    Y[3, 1] = np.nan
    narrow = ss.mlp([3, 4, 2], activation="tanh")
    wide = ss.mlp([3, 4, 4], activation="tanh", n_labels=2)
    blocks = narrow.unpack(0.5 * rng.normal(size=narrow.n_params))
    head = {"dense_1/kernel": np.zeros((4, 2)), "dense_1/bias": np.log(sigma)}
    joined = blocks | {name: np.concatenate([blocks[name], head[name]], axis=-1) for name in head}
    theta, both = narrow.pack(blocks), wide.pack(joined)
    normal = ss.Regression(narrow, sigma_noise=sigma, prior_precision=1.0)
    predicted = ss.Regression(wide, noise=ss.PredictedNoise(), prior_precision=1.0)
    words = {"structure": "primal", "require_minimum": False, "progress": False} | PLAIN
    for errors in (None, 0.5 * np.ones((15, 2))):
        U, gradient = ss.compile_objective(normal, **PLAIN)(theta, X, Y, label_errors=errors)
        V, other = ss.compile_objective(predicted, **PLAIN)(both, X, Y, label_errors=errors)
        extra = np.log(sigma) ** 2 @ np.ones(2) / 2 + 10 * np.log(2 * np.pi) / 2
        assert_allclose(V, U + extra, rtol=1e-12)
        slopes = wide.unpack(other)
        for name, slope in narrow.unpack(gradient).items():
            assert_allclose(slopes[name][..., : slope.shape[-1]], slope, rtol=1e-9, atol=1e-10)
        one = ss.fit_laplace(normal, theta, X, Y, label_errors=errors, **words)
        two = ss.fit_laplace(predicted, both, X, Y, label_errors=errors, **words)
        assert_allclose(two.label_covariance(X), one.label_covariance(X), rtol=1e-9)
        a, b = one.predict(X, progress=False), two.predict(X, progress=False)
        assert_allclose(b.labels, a.labels)
        assert_allclose(b.noise_cov[:, 0, 1], 0)
        mean = sigma**2 * np.exp(
            2 * b.noise_mixture[:, :, 1] ** 2
        )  # over what is left open of log sigma
        assert_allclose(np.einsum("ncc->nc", b.noise_cov), mean, rtol=1e-12)


# --- the inverse Hessian


@pytest.mark.parametrize("structure", ["primal", "dual", "krylov"])
def test_exact_structures_invert_the_information(p, structure):
    G = p.ggn(p.theta)
    laplace = p.fit(structure)
    inverse = laplace.inverse_hessian.to_dense()
    assert_allclose(np.linalg.inv(inverse), G, atol=1e-9 * np.abs(G).max())
    J = p.jacobian(p.theta)[:, :2]
    V = J @ np.linalg.inv(G) @ J.transpose(0, 2, 1)
    # krylov gives bounds
    rtol = 0.03 if structure == "krylov" else 1e-9
    assert_allclose(laplace.label_covariance(p.X), V, rtol=rtol, atol=rtol * V.max())
    lower, upper = laplace.label_covariance_bounds(p.X)
    assert (np.linalg.eigvalsh(upper - V) > -1e-9 * V.max()).all()
    assert (np.linalg.eigvalsh(V - lower) > -1e-9 * V.max()).all()
    prediction = laplace.predict(p.X, progress=False)
    assert_allclose(prediction.model_cov, V, rtol=rtol, atol=rtol * V.max())
    assert prediction.labels.shape == (N, 2)
    assert laplace.certificate.newton_shift.shape == (2,)


def test_approximate_structures_take_the_same_information(p):
    G = p.ggn(p.theta)
    diagonal = p.fit("diagonal").inverse_hessian.diagonal()
    assert_allclose(diagonal, 1 / np.diag(G), rtol=1e-9)
    last = p.fit("last_layer").inverse_hessian
    block = last.free
    assert_allclose(
        last.to_dense()[block, block], np.linalg.inv(G[block, block]), rtol=1e-8, atol=1e-9
    )
    upper = p.fit("low_rank", options={"rank": 22}).inverse_hessian.to_dense()
    assert_allclose(np.linalg.inv(upper), G, atol=1e-7 * np.abs(G).max())
    labels = p.fit("kronecker").predict(p.X, progress=False)
    assert np.isfinite(labels.total_cov).all()


def test_the_exact_hessian_and_stars_left_out_at_the_minimum(alone):
    p, stars = alone, (alone.X, alone.Y)
    theta = ss.polish(p.reg, p.theta, *stars, progress=False, **PLAIN).theta
    laplace = ss.fit_laplace(p.reg, theta, *stars, curvature="hessian", progress=False, **PLAIN)
    assert laplace.certificate.is_minimum
    J, f = p.jacobian(theta), p.outputs(theta)
    V = J[:, :2] @ np.linalg.inv(p.hessian(theta)) @ J[:, :2].transpose(0, 2, 1)
    assert_allclose(laplace.label_covariance(p.X), V, rtol=1e-6, atol=1e-8)
    left = ss.fit_laplace(p.reg, theta, *stars, progress=False, **PLAIN).leave_one_out()
    A, W, slopes = p.ggn(theta), p.information(f), p.slopes(f)
    for n in (0, 1, 4):  # all labels, one, none; the weights are not quite at the minimum
        V = J[n] @ np.linalg.inv(A - J[n].T @ W[n] @ J[n]) @ J[n].T
        without = f[n] - V @ slopes[n]
        assert_allclose(left.labels[n], without[:2], rtol=1e-4)
        assert_allclose(left.model_cov[n], V[:2, :2], rtol=1e-4, atol=1e-6)
        noise = np.exp(2 * without[2:] + 2 * np.diag(V)[2:])
        assert_allclose(left.noise_cov[n], np.diag(noise), rtol=1e-4)


def test_the_sandwich_is_that_of_the_scores(p):
    """Of all outputs, among them those of log sigma."""
    laplace = p.fit("dual")
    f = p.outputs(p.theta)
    J = p.jacobian(p.theta)
    scores = np.einsum("nci,nc->ni", J, p.slopes(f))
    A = np.linalg.inv(p.ggn(p.theta))
    V = J[:, :2] @ A @ scores.T @ scores @ A @ J[:, :2].transpose(0, 2, 1)
    found = ss.sandwich_covariance(laplace, p.X, p.Y, p.X, **p.words)
    assert_allclose(found, V, rtol=1e-8, atol=1e-9 * V.max())


# --- evidence


@pytest.mark.parametrize(
    ("kind", "structure"), [("alone", "primal"), ("alone", "dual"), ("label covariances", "dual")]
)
def test_the_gradient_of_the_evidence_by_differences(kind, structure):
    """Of the prior; each point at its own minimum, where the information is another."""
    p = Problem(kind)
    hyper = Hyperparameters(p.reg, prior="per_layer")
    labels = add_errors(p.Y, p.errors)
    F = MarginalLikelihood(InverseBuilder(p.reg, p.X, labels, structure=structure, **PLAIN), hyper)
    here = F.evaluate(p.theta)
    G = p.ggn(here.theta)
    by_hand = (
        -p.negative_log_posterior(here.theta)
        - 0.5 * np.linalg.slogdet(G)[1]
        + 0.5 * p.theta.size * np.log(2 * np.pi)
    )
    # the weights are a small step from the minimum, which F takes into account
    assert_allclose(here.log_marginal_likelihood, by_hand, rtol=1e-7)
    assert here.n_effective.shape == (2,)
    assert_allclose(here.n_effective.sum(), sum(here.n_effective_by_factor.values()), rtol=1e-6)
    step = 1e-4
    differences = [
        (
            F.at(step * e).evaluate(here.theta).log_marginal_likelihood
            - F.at(-step * e).evaluate(here.theta).log_marginal_likelihood
        )
        / (2 * step)
        for e in np.eye(len(hyper))
    ]
    assert_allclose(here.gradient, differences, rtol=1e-5, atol=1e-5)


def test_the_change_of_the_weights_with_the_outputs(p):
    """Of the trace of W V, by differences of the whiteners."""
    f = p.outputs(p.theta)
    labels = add_errors(p.Y, p.errors)
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(N, 4, 4))
    V = roots @ roots.transpose(0, 2, 1)

    def trace(f):
        W = p.reg.noise.of_stars(labels, lambda: f).weights
        return 0.5 * np.einsum("ncd,ndc->n", W, V)

    step = 1e-6
    columns = [(trace(f + e) - trace(f - e)) / (2 * step) for e in step * np.eye(4)]
    found = p.reg.noise.differentiate_weights(f, labels, V)
    assert_allclose(found, np.stack(columns, axis=1), rtol=1e-6, atol=1e-7)


def test_tuning_sets_the_prior_and_ends_at_a_minimum(alone):
    stars = (alone.X, alone.Y)
    reg, theta = ss.tune(alone.reg, alone.theta, *stars, progress=False, **PLAIN)
    assert isinstance(reg.noise, ss.PredictedNoise)
    assert reg.prior_precision != alone.reg.prior_precision
    laplace = ss.fit_laplace(reg, theta, *stars, progress=False, **PLAIN)
    assert laplace.certificate.is_minimum


# --- predictions


def test_the_noise_of_new_stars_is_the_mean_over_draws(alone):
    """Of the linear model: log sigma has the variance that the weights leave it."""
    laplace = alone.fit()
    prediction = laplace.predict(alone.X, progress=False)
    f = alone.outputs(alone.theta)
    J = alone.jacobian(alone.theta)
    n = 20_000
    draws = laplace.inverse_hessian.draw(n, np.random.default_rng(0)) @ J.reshape(N * 4, -1).T
    outputs = f + draws.reshape(n, N, 4)
    variances = np.exp(2 * outputs[:, :, 2:])
    # five standard errors
    error = 5 * variances.std(axis=0) / np.sqrt(n)
    found = np.einsum("ncc->nc", prediction.noise_cov)
    assert (np.abs(variances.mean(axis=0) - found) < error).all()
    assert (found > 1.05 * np.exp(2 * f[:, 2:])).any()  # the weights leave something open
    drawn = alone.reg.noise.draw(outputs, np.random.default_rng(1))
    total = np.einsum("ncc->nc", prediction.total_cov)
    squares = (drawn - f[:, :2]) ** 2
    assert (np.abs(squares.mean(axis=0) - total) < 5 * squares.std(axis=0) / np.sqrt(n)).all()
    for level in (0.5, 0.68, 0.95):
        low, high = np.moveaxis(prediction.interval(level), 2, 0)
        inside = np.mean((drawn >= low) & (drawn <= high), axis=0)
        # five standard errors, and that label and log sigma are taken as independent
        assert_allclose(inside, level, atol=5 * np.sqrt(level * (1 - level) / n) + 0.01)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("level", [0.5, 0.68, 0.95])
def test_intervals_and_densities_of_mixtures_by_quadrature(spread, level):
    v, sigma = 0.7, 1.3
    grid = [np.full((1, 1), number) for number in (v, sigma, spread)]
    x = find_half_widths(*grid, level)[0, 0]

    def sd(z):
        return np.sqrt(v + sigma**2 * np.exp(2 * spread * z))

    def mean(function):
        return integrate.quad(lambda z: function(z) * stats.norm.pdf(z), -9, 9, limit=200)[0]

    assert_allclose(mean(lambda z: 2 * stats.norm.cdf(x / sd(z)) - 1), level, rtol=1e-8)
    density = find_log_densities(np.full((1, 1), x), *grid)[0, 0]
    assert_allclose(density, np.log(mean(lambda z: stats.norm.pdf(x, scale=sd(z)))), rtol=1e-8)
    below = find_probabilities(np.full((1, 1), x), *grid)
    assert_allclose(below, 0.5 + level / 2, rtol=1e-10)
    missing = find_half_widths(np.full((1, 1), np.nan), *grid[1:], level)
    assert np.isnan(missing).all()


@pytest.mark.parametrize(
    ("residual", "spread"), [(100.0, 0.1), (30.0, 0.4), (1e4, 0.5), (1e3, 0.05), (10.0, 0.0)]
)
def test_densities_of_labels_that_are_far_out_by_sums_over_all_scatters(residual, spread):
    """They come from scatters that are far larger than is likely."""
    v, sigma = 0.3, 1.0
    z, step = np.linspace(-12, 300, 1_000_001, retstep=True)  # the density of z=300 is exp(-45000)
    variance = v + sigma**2 * np.exp(2 * spread * z)
    exponents = stats.norm.logpdf(residual, scale=np.sqrt(variance)) + stats.norm.logpdf(z)
    arguments = [np.full((1, 1), number) for number in (residual, v, sigma, spread)]
    found = find_log_densities(*arguments)[0, 0]
    assert_allclose(found, special.logsumexp(exponents) + np.log(step), rtol=1e-12)


def test_scatter_that_grows_is_held_on_both_sides():
    """From 0.02 to 0.5: 68 % intervals hold 64 to 72 % on either side, those of one scatter not."""
    rng = np.random.default_rng(2)

    def draw(n):
        x = rng.uniform(-1, 1, size=n)
        sigma = 0.02 * 25 ** ((x + 1) / 2)
        return np.stack([x, x**2], axis=1), (np.sin(2 * x) + sigma * rng.normal(size=n))[:, None]

    X, Y = draw(400)
    new, truth = draw(4000)
    held = {}
    for noise, n_outputs in ((ss.PredictedNoise(), 2), (ss.GaussianNoise(0.2), 1)):  # its rms
        net = ss.standardized(ss.mlp([2, 4, n_outputs], activation="tanh", n_labels=1), X, Y)
        reg = ss.Regression(net, noise=noise, prior_precision=ss.scaled_prior(net, 0.1))
        theta = net.init_params(np.random.default_rng(0), "glorot_uniform")
        theta = ss.polish(reg, theta, X, Y, progress=False, **PLAIN).theta
        laplace = ss.fit_laplace(reg, theta, X, Y, progress=False, **PLAIN)
        prediction = laplace.predict(new, progress=False)
        low, high = np.moveaxis(prediction.interval(0.68), 2, 0)
        inside = (truth >= low) & (truth <= high)
        held[noise.kind] = [inside[side].mean() for side in (new[:, 0] < -0.3, new[:, 0] > 0.3)]
        assert_allclose(ss.coverage(prediction, truth, [0.68])[0, 0], inside.mean())
    assert all(0.64 < share < 0.72 for share in held["predicted"]), held
    assert held["gaussian"][0] > 0.9
    assert held["gaussian"][1] < 0.6


# --- HMC


def test_pymc_has_the_same_density_and_draws(p):
    import pymc as pm

    model = ss.pymc_model(p.reg, p.X, p.Y, **p.words, X_check=p.X[:3])
    mode = find_mode("numpy", "float64")
    logp = model.compile_logp(mode=mode)({"theta": p.theta})
    assert_allclose(logp, -p.negative_log_posterior(p.theta), rtol=1e-12)
    draws, f = pm.draw([model["y"], model["f"]], draws=3, random_seed=1, mode=mode)
    assert draws.shape == (3, N, 2)
    assert np.isfinite(draws).all()
    assert f.shape == (3, 3, 2)
    with pytest.raises(ss.OptionError, match="stands for noise of one output a label"):
        ss.pymc_model(p.reg, p.X, p.Y, sigma_noise=pm.HalfNormal.dist(1.0))


# --- networks and files


def test_labels_are_the_first_outputs(alone):
    net, theta, X = alone.net, alone.theta, alone.X
    f = alone.outputs(theta)
    assert (net.n_outputs, net.n_labels) == (4, 2)
    assert_allclose(ss.compile_predict(net)(theta, X), f[:, :2])
    assert_allclose(compile_outputs(net)(theta, X), f)
    assert_allclose(ss.compile_jacobian(net, "theta")(theta, X), alone.jacobian(theta)[:, :2])
    J = ss.compile_jacobian(net)(theta, X)
    assert J.shape == (N, 2, PIXELS)
    step = 1e-6
    moved = [ss.compile_predict(net)(theta, X + e) for e in step * np.eye(PIXELS)]
    assert_allclose(J, (np.stack(moved, axis=2) - f[:, :2, None]) / step, atol=1e-4)


def test_standardized_outputs_come_out_in_the_units_of_the_labels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 5))
    Y = np.array([5000.0, 4.0]) + np.array([300.0, 0.5]) * rng.normal(size=(30, 2))
    inner = ss.mlp([5, 4])
    net = ss.standardized(inner, X, Y)
    theta = net.init_params(rng)
    f = compile_outputs(inner)(theta, (X - X.mean(axis=0)) / X.std(axis=0))
    reg = ss.Regression(net, noise=ss.PredictedNoise(), prior_precision=1.0)
    assert reg.net.label_names == ("label_0", "label_1")
    expected = np.hstack(
        [Y.mean(axis=0) + Y.std(axis=0) * f[:, :2], np.log(Y.std(axis=0)) + f[:, 2:]]
    )
    assert_allclose(compile_outputs(reg.net)(theta, X), expected)


def test_archives_keep_the_noise_and_the_labels(p, tmp_path):
    for structure in ("primal", "dual", "krylov"):
        laplace = p.fit(structure)
        path = tmp_path / f"{structure}.h5"
        ss.write_laplace(path, laplace)
        again = ss.read_laplace(path)
        assert isinstance(again.reg.noise, ss.PredictedNoise)
        assert again.reg.net.n_labels == 2
        one, other = (lap.predict(p.X, progress=False) for lap in (laplace, again))
        for name, array in one.to_arrays().items():
            assert_array_equal(other.to_arrays()[name], array, err_msg=name)
        assert_array_equal(one.interval(0.9), other.interval(0.9))
    ss.write_network(tmp_path / "net.h5", p.reg.net, p.theta, reg=p.reg)
    reg, theta = ss.read_regression(tmp_path / "net.h5")
    value = ss.compile_objective(reg)(theta, p.X, p.Y, **p.words)[0]
    assert_allclose(value, p.negative_log_posterior(p.theta), rtol=1e-12)


def test_surveys_catalogues_and_derivatives_are_of_the_labels(alone, tmp_path):
    laplace = alone.fit()
    spectra = ss.Spectra(flux=alone.X, ivar=np.full(alone.X.shape, 1e4))
    whole = laplace.predict(spectra, progress=False)
    path = tmp_path / "catalogue.fits"
    ss.write_catalogue(path, whole, np.arange(N))
    from astropy.table import Table

    table = Table.read(path)
    assert_allclose(table["LABEL_1"], whole.labels[:, 1], rtol=1e-6)
    assert_allclose(table["LABEL_1_NOISE_ERR"] ** 2, whole.noise_cov[:, 1, 1], rtol=1e-5)
    survey = tmp_path / "survey.fits"
    ss.predict_survey(survey, laplace, spectra, progress=False)
    table = Table.read(survey)
    assert_allclose(table["LABEL_0_ERR"], whole.errors[:, 0], rtol=1e-6)
    assert table.meta["NOISE"] == "normal, sigma predicted by the network for each star"
    ss.write_jacobian(tmp_path / "jacobian.h5", alone.net, alone.theta, spectra, progress=False)
    import h5py

    with h5py.File(tmp_path / "jacobian.h5") as file:
        J = next(a for a in file.values() if a.shape == (N, 2, PIXELS))
        assert_allclose(J[()], ss.compile_jacobian(alone.net)(alone.theta, alone.X), rtol=1e-6)


# --- errors


def test_heads_of_the_wrong_width_are_refused_by_words():
    def regress(net, noise):
        return ss.Regression(net, noise=noise, prior_precision=1.0)

    predicted = ss.PredictedNoise()
    with pytest.raises(
        ss.ShapeError, match=r"2 outputs a label, got .* 3 outputs for 3 labels: give it 6"
    ):
        regress(ss.mlp([5, 3]), predicted)
    named = ss.mlp([5, 4], label_names=["TEFF", "LOGG", "FE_H", "MG_FE"])
    with pytest.raises(ss.ShapeError, match=r"4 outputs for 4 labels: give it 8, with n_labels=4"):
        regress(named, predicted)
    wide = ss.mlp([5, 6], n_labels=3)
    with pytest.raises(ss.ShapeError, match=r"takes one output a label, got .* 6 outputs for 3"):
        regress(wide, ss.GaussianNoise(0.1))
    with pytest.raises(ss.ShapeError, match="takes one output a label"):
        regress(wide, predicted).with_noise(ss.StudentTNoise(1.0))
    with pytest.raises(ss.OptionError, match="n_labels should be an integer from 1 to 6"):
        ss.mlp([5, 6], n_labels=7)
    with pytest.raises(ss.OptionError, match="label_names should be 3 words"):
        ss.mlp([5, 6], n_labels=3, label_names=["a"] * 6)


def test_what_does_not_go_with_it_is_refused(alone):
    given = (alone.reg, alone.theta, alone.X, alone.Y)
    for noise in ("full", "scale_and_dof"):
        with pytest.raises(ss.OptionError, match=f"noise='{noise}' goes with"):
            ss.tune(*given, noise=noise)
    with pytest.raises(ss.OptionError, match=r"move=False\) is known for"):
        ss.tune(*given, move=False)
    with pytest.raises(ss.OptionError, match="depends on what the network says"):
        alone.reg.noise.of_stars(alone.Y)
    with pytest.raises(ss.ShapeError, match=r"labels should have shape \(30, 2\)"):
        ss.compile_objective(alone.reg)(alone.theta, alone.X, np.zeros((N, 4)))
