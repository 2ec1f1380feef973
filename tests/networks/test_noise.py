"""Noise as numbers and as graphs, and a further noise, which needs nothing but its own class."""

import numpy as np
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.derivatives.backends import find_mode
from symspec.networks.noise import LOG_2PI, NOISES, GaussianNoise, Noise
from symspec.networks.noise.star_noise import StarNoise

S = np.array([[0.5, 0.1, 0.2], [0.1, 0.4, -0.1], [0.2, -0.1, 0.9]])
OBSERVED = np.array([[True, True, True], [True, False, True], [False] * 3, [True, True, True]])


class Logistic(Noise):
    """Logistic noise of each label, with the weights of the expected Fisher information."""

    kind = "logistic"

    def __init__(self, scale):
        self.scale = np.asarray(scale, float)

    def for_labels(self, n_labels):
        return Logistic(np.broadcast_to(self.scale, n_labels))

    @property
    def covariance(self):
        return np.diag(self.scale**2 * np.pi**2 / 3)

    def log_likelihood(self, f, targets):
        observed = ~pt.isnan(targets)
        z = pt.switch(observed, targets - f, 0.0) / self.scale
        density = -z - np.log(self.scale) - 2 * pt.softplus(-z)
        return pt.sum(pt.switch(observed, density, 0.0), axis=-1)

    def whiten(self, u, f, targets):
        weights = pt.switch(pt.isnan(targets), 0.0, np.sqrt(1 / 3) / self.scale)
        return u * pt.shape_padright(weights, u.ndim - weights.ndim)

    def weigh(self, u, f, targets):
        return self.whiten(self.whiten(u, f, targets), f, targets)

    def of_stars(self, labels, find_outputs=None):
        return StarNoise(~np.isnan(labels), np.diag(3 * self.scale**2))

    def predict(self, outputs, variances, labels=None):
        return np.broadcast_to(self.covariance, (*outputs.shape, outputs.shape[-1])).copy()

    def score(self, f, labels):
        return np.nan_to_num(np.tanh((labels - f) / (2 * self.scale)) / self.scale)

    def draw(self, f, rng):
        return f + self.scale * rng.logistic(size=np.shape(f))

    def describe(self):
        return f"logistic, scale {self.scale}"

    def identity(self):
        return self.kind, self.scale

    def to_arrays(self):
        return {"scale": self.scale}

    @classmethod
    def stored_shapes(cls, names, n_labels):
        return {"scale": (n_labels,)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(arrays["scale"])


@pytest.fixture(scope="module")
def problem():
    """A regression with logistic noise, weights, stars, one of which lacks a label."""
    rng = np.random.default_rng(3)
    net = ss.mlp([4, 3, 2], activation="tanh")
    reg = ss.Regression(net, noise=Logistic([0.3, 0.5]), prior_precision=2.0)
    X, Y = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    Y[1, 0] = np.nan
    return reg, 0.7 * rng.normal(size=net.n_params), X, Y


# --- numbers


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "of each star"])
def test_star_noise_is_that_of_the_observed_sub_blocks(is_shared):
    each = np.array([S, 2 * S, S, np.diag([1.0, 2.0, 3.0])])
    noise = StarNoise(OBSERVED, S if is_shared else each)
    log_det = 0.0
    for n, seen in enumerate(OBSERVED):
        block = (S if is_shared else each[n])[np.ix_(seen, seen)]
        expected = np.zeros((3, 3))
        expected[np.ix_(seen, seen)] = np.linalg.inv(block)
        log_det += np.log(np.linalg.det(block))
        # float64 rounding of a Cholesky factor of condition about 3
        assert_allclose(noise.weights[n], expected, rtol=1e-12, atol=1e-14)
        assert_array_equal(noise.whiteners[n], np.tril(noise.whiteners[n]))
    assert_allclose(noise.log_det, log_det, rtol=1e-12)


@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "of each star"])
def test_draws_of_star_noise_have_its_covariance(is_shared):
    n = 20_000
    covariance = S if is_shared else np.broadcast_to(S, (n, 3, 3))
    draws = StarNoise(np.ones((n, 3), bool), covariance).draw(np.random.default_rng(0))
    # five standard errors of a covariance of variances below 1
    assert_allclose(draws.T @ draws / n, S, atol=5 * np.sqrt(2 / n))


def test_draws_around_predictions_have_the_covariance_of_the_noise():
    f = np.tile([1.0, -2.0, 30.0], (20_000, 1))
    draws = GaussianNoise(covariance=S).draw(f, np.random.default_rng(0)) - f
    assert_allclose(draws.T @ draws / len(f), S, atol=5 * np.sqrt(2 / len(f)))


# --- the noise of a regression


def test_a_noise_is_the_same_as_its_keyword():
    net = ss.mlp([4, 3])
    for noise, keywords in [
        (ss.GaussianNoise(0.3), {"sigma_noise": 0.3}),
        (ss.GaussianNoise(sigma=[0.1, 0.2, 0.3]), {"sigma_noise": [0.1, 0.2, 0.3]}),
        (ss.GaussianNoise(covariance=S), {"noise_covariance": S}),
    ]:
        given = ss.Regression(net, noise=noise, prior_precision=1.0)
        meant = ss.Regression(net, **keywords, prior_precision=1.0)
        assert_array_equal(given.noise_covariance, meant.noise_covariance)
        assert_array_equal(given.sigma_noise, meant.sigma_noise)
        assert given.has_full_noise == meant.has_full_noise
        assert list(given.noise.to_arrays()) == list(meant.noise.to_arrays()) == [*keywords]


def test_another_network_or_noise_leaves_the_rest_as_it_is():
    reg = ss.Regression(ss.mlp([4, 2, 3]), noise_covariance=S, prior_precision={"dense_0": 1.0,
                        "dense_1": 2.0})  # fmt: skip
    wide = reg.with_network(ss.mlp([9, 2, 3]))
    assert (wide.net.n_pixels, wide.noise, wide.prior_precision) == (
        9,
        reg.noise,
        reg.prior_precision,
    )
    other = reg.with_noise(ss.GaussianNoise(0.5))
    assert_array_equal(other.sigma_noise, [0.5, 0.5, 0.5])
    assert (other.net, other.prior_precision) == (reg.net, reg.prior_precision)


@pytest.mark.parametrize("name", ["sigma_noise", "noise_covariance", "prior_precision"])
def test_a_regression_cannot_be_changed_in_place(name):
    reg = ss.Regression(ss.mlp([4, 3]), sigma_noise=0.3, prior_precision=1.0)
    with pytest.raises(AttributeError):
        setattr(reg, name, 1.0)


# --- a noise that the package does not have


def negative_log_posterior(problem, theta):
    """U by NumPy; complex theta is allowed."""
    reg, _, X, Y = problem
    blocks = reg.net.layout.unpack(theta)
    h = np.tanh(X @ blocks["dense_0/kernel"] + blocks["dense_0/bias"])
    z = (Y - h @ blocks["dense_1/kernel"] - blocks["dense_1/bias"]) / reg.noise.scale
    density = -z - np.log(reg.noise.scale) - 2 * np.log(1 + np.exp(-z))
    prior = np.sum(2.0 * theta**2 - np.log(2.0) + LOG_2PI) / 2
    return prior - np.sum(density[~np.isnan(Y)])


def test_value_and_gradient_of_another_noise_are_those_of_numpy(problem):
    reg, theta, X, Y = problem
    value, gradient = ss.compile_objective(reg)(theta, X, Y)
    steps = 1e-20j * np.eye(theta.size)  # complex steps are exact to rounding
    expected = [negative_log_posterior(problem, theta + step).imag / 1e-20 for step in steps]
    assert_allclose(value, negative_log_posterior(problem, theta), rtol=1e-12)
    assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_closed_hessian_of_another_noise_is_that_of_differences(problem):
    """Its second derivatives, unlike those of normal noise, are not its weights."""
    reg, theta, X, Y = problem
    objective = ss.compile_objective(reg)
    step = 1e-6
    expected = [
        (objective(theta + e, X, Y)[1] - objective(theta - e, X, Y)[1]) / (2 * step)
        for e in step * np.eye(theta.size)
    ]
    H = ss.compile_hessian(reg)(theta, X, Y)
    assert_allclose(H, expected, atol=1e-7 * np.abs(H).max())  # rounding over the step
    assert np.abs(H - ss.compile_ggn(reg)(theta, X, Y)).max() > 0.1 * np.abs(H).max()


def test_the_gauss_newton_matrix_takes_the_weights_of_another_noise(problem):
    reg, theta, X, Y = problem
    J = ss.compile_jacobian(reg.net, "theta")(theta, X)
    weights = ~np.isnan(Y) / 3 / reg.noise.scale**2
    expected = np.einsum("nci,nc,ncj->ij", J, weights, J) + 2.0 * np.eye(theta.size)
    v = np.linspace(-1, 1, theta.size)
    scale = np.abs(expected).max()
    assert_allclose(ss.compile_ggn(reg)(theta, X, Y), expected, atol=1e-12 * scale)
    product = ss.compile_ggn_vector_product(reg)(theta, X, Y, v)
    assert_allclose(product, expected @ v, atol=1e-11 * scale)
    for structure in ("primal", "dual"):
        laplace = ss.fit_laplace(
            reg, theta, X, Y, structure=structure, require_minimum=False, progress=False
        )
        A = np.linalg.inv(laplace.inverse_hessian.to_dense())
        assert_allclose(A, expected, atol=1e-9 * scale)
        noise_cov = laplace.predict(X).noise_cov
        assert_allclose(noise_cov, np.broadcast_to(reg.noise_covariance, (6, 2, 2)))


def test_archives_give_another_noise_back(problem, tmp_path, monkeypatch):
    reg, theta, *_ = problem
    path = tmp_path / "network.h5"
    ss.write_network(path, reg.net, theta, reg=reg)
    with pytest.raises(
        ss.FileFormatError, match="should be one of gaussian, student_t, predicted, got logistic"
    ):
        ss.read_regression(path)
    monkeypatch.setitem(NOISES, "logistic", Logistic)
    again, _ = ss.read_regression(path)
    assert isinstance(again.noise, Logistic)
    assert_array_equal(again.noise.scale, reg.noise.scale)


@pytest.mark.parametrize("n_stars", [1, 6], ids=["all observed", "one missing"])
def test_the_pymc_model_of_another_noise_is_minus_u_and_predicts_labels(
    problem, n_stars, compile_plainly
):
    reg, theta, X, Y = problem
    X, Y = X[:n_stars], Y[:n_stars]
    model = ss.pymc_model(reg, X, Y)
    mode = find_mode("numpy", "float64")
    logp = model.compile_logp(mode=mode)({"theta": theta})
    assert_allclose(logp, -ss.compile_objective(reg)(theta, X, Y)[0], rtol=1e-12)
    draws = compile_plainly([], [model["y"]])()[0]
    assert draws.shape == Y.shape
    assert np.isfinite(draws).all()


def test_tuning_refuses_a_noise_whose_evidence_it_does_not_know(problem):
    reg, theta, X, Y = problem
    with pytest.raises(ss.OptionError, match="goes with normal and Student t noise"):
        ss.tune(reg, theta, X, Y)


# --- errors

REFUSED = {
    "nothing": ({}, ss.OptionError, "give either sigma .* or covariance"),
    "both": ({"sigma": 1, "covariance": S}, ss.OptionError, "give either sigma .* or covariance"),
    "sigma zero": ({"sigma": 0.0}, ss.DataError, "sigma is a standard deviation .*got 0.0"),
    "matrix": ({"sigma": S}, ss.ShapeError, "a full covariance goes into covariance"),
    "rows": (
        {"covariance": S[:2]},
        ss.ShapeError,
        r"covariance should have shape \(label, label\)",
    ),
    "indefinite": ({"covariance": -S}, ss.DataError, "covariance should be positive definite"),
}


@pytest.mark.parametrize(("options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_numbers_that_are_no_noise_are_refused_by_the_names_of_the_arguments(options, error, words):
    with pytest.raises(error, match=words):
        ss.GaussianNoise(**options)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (
            ss.GaussianNoise([1.0, 2.0]),
            r"sigma should be a number or have shape \(3,\).*got \(2,\)",
        ),
        (ss.GaussianNoise(covariance=np.eye(2)), r"covariance should have shape \(3, 3\)"),
    ],
    ids=["sigma", "covariance"],
)
def test_a_noise_of_other_labels_is_refused(noise, words):
    with pytest.raises(ss.ShapeError, match=words):
        ss.Regression(ss.mlp([4, 3]), noise=noise, prior_precision=1.0)


def test_one_noise_is_given_and_it_is_one():
    net = ss.mlp([4, 3])
    with pytest.raises(ss.OptionError, match="give one of the three"):
        ss.Regression(net, noise=ss.GaussianNoise(0.1), sigma_noise=0.1, prior_precision=1.0)
    with pytest.raises(ss.OptionError, match=r"noise should be one such as .*got 0.1"):
        ss.Regression(net, noise=0.1, prior_precision=1.0)
