"""U is minus PyMC's logp to the last constant, and what is no noise or no prior is refused."""

import warnings

import numpy as np
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from symspec.derivatives.backends import find_mode
from symspec.derivatives.compiled import compile_objective
from symspec.errors import DataError, OptionError, ShapeError, SymspecError
from symspec.networks.layers import Standardize
from symspec.networks.network import Network, mlp
from symspec.networks.noise.gaussian import MAX_LABELS_OF_TABLE
from symspec.networks.prior import prior_precision_from_weight_decay
from symspec.networks.regression import Regression

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # what PyMC's own imports deprecate is not ours to turn into an error
    import pymc as pm


@pytest.fixture(scope="module")
def net():
    return mlp([4, 3, 2], activation="tanh")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    return rng.normal(size=(6, 4)), rng.normal(size=(6, 2))


def given(net, **options):
    return Regression(net, **({"sigma_noise": 0.3, "prior_precision": 1.0} | options))


# --- against PyMC


def pymc_logp(problem):
    """Minus U, from a model that has the network's graph and takes all else from `pymc`."""
    with pm.Model() as model:
        theta = pm.Normal(
            "theta", 0, 1 / np.sqrt(problem.prior_precision), shape=problem.theta.size
        )
        mu = problem.net(theta, problem.X)
        for n, y in enumerate(problem.Y):
            seen = np.flatnonzero(~np.isnan(y))
            S = problem.noise_covariance[np.ix_(seen, seen)]
            if seen.size == 0:
                continue
            if problem.case.noise == "full":
                pm.MvNormal(f"y{n}", mu[n][seen], cov=S, observed=y[seen])
            else:
                pm.Normal(f"y{n}", mu[n][seen], np.sqrt(np.diag(S)), observed=y[seen])
    return model.compile_logp(mode=find_mode("numpy", "float64"))({"theta": problem.theta})


def test_objective_is_minus_the_logp_of_pymc_with_all_constants(problem):
    value, _ = compile_objective(problem.reg)(problem.theta, problem.X, problem.Y)
    assert_allclose(
        value, -pymc_logp(problem), rtol=1e-9
    )  # float64 rounding through a Cholesky factor


@pytest.mark.parametrize(
    "problem",
    ["tanh-2-hidden-3-labels-full-noise-missing", "tanh-1-hidden-2-labels-own-units-missing"],
    indirect=True,
)
def test_objective_of_one_observed_matrix_is_minus_the_logp_of_pymc(problem):
    seen = ~np.isnan(problem.Y).any(axis=1)
    X, Y = problem.X[seen], problem.Y[seen]
    with pm.Model() as model:
        theta = pm.Normal(
            "theta", 0, 1 / np.sqrt(problem.prior_precision), shape=problem.theta.size
        )
        pm.MvNormal("y", problem.net(theta, X), cov=problem.noise_covariance, observed=Y)
    logp = model.compile_logp(mode=find_mode("numpy", "float64"))({"theta": problem.theta})
    assert 0 < seen.sum() < len(seen)
    assert_allclose(compile_objective(problem.reg)(problem.theta, X, Y)[0], -logp, rtol=1e-9)


# --- pieces of the graph


def test_symbolic_objective_of_one_spectrum_is_that_of_a_matrix_of_one_row(
    problem, compile_plainly
):
    theta = pt.vector("theta")
    x, y, X, Y = pt.vector("x"), pt.vector("y"), pt.matrix("X"), pt.matrix("Y")
    U = problem.reg.negative_log_posterior
    both = compile_plainly([theta, x, y, X, Y], [U(theta, x, y), U(theta, X, Y)])
    for n in (0, 1, 6):
        alone, as_row = both(
            problem.theta, problem.X[n], problem.Y[n], problem.X[[n]], problem.Y[[n]]
        )
        assert alone.shape == ()
        assert_allclose(alone, as_row, rtol=1e-14)


@pytest.mark.parametrize(
    "problem",
    ["tanh-2-hidden-3-labels-full-noise-missing", "tanh-1-hidden-2-labels-own-units-missing"],
    indirect=True,
)
def test_whitening_and_weighing_are_the_inverse_of_the_observed_noise(problem, compile_plainly):
    """T^T T and the weights are the inverse of each star's sub-block, zero for missing labels."""
    C, Y = problem.net.n_labels, pt.matrix("Y")
    u, f = pt.tensor3("u"), pt.matrix("f")
    noise = problem.reg.noise
    T = noise.whiten(u, f, Y)
    weights = [noise.weigh(u[:, :, c], f, Y) for c in range(C)]
    unit = np.tile(np.eye(C), (len(problem.Y), 1, 1))
    whitener, *columns = compile_plainly([u, Y], [T, *weights])(unit, problem.Y)
    for n, y in enumerate(problem.Y):
        seen, expected = np.flatnonzero(~np.isnan(y)), np.zeros((C, C))
        expected[np.ix_(seen, seen)] = np.linalg.inv(problem.noise_covariance[np.ix_(seen, seen)])
        assert_allclose(whitener[n].T @ whitener[n], expected, rtol=1e-10, atol=1e-14)
        assert_allclose(np.stack([w[n] for w in columns], axis=1), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("C", [MAX_LABELS_OF_TABLE, MAX_LABELS_OF_TABLE + 1, 30])
def test_correlated_noise_of_many_labels_compiles_and_skips_missing_ones(C):
    """Against a density for each star; a graph number by number took a quarter hour to compile."""
    rng = np.random.default_rng(2)
    root, Y = rng.normal(size=(C, C)), rng.normal(size=(20, C))
    Y[rng.random(Y.shape) < 0.3] = np.nan
    Y[3] = np.nan
    reg = Regression(mlp([4, C]), noise_covariance=root @ root.T + np.eye(C), prior_precision=1.0)
    theta = np.zeros(reg.net.n_params)  # the network says 0
    value, _ = compile_objective(reg)(theta, rng.normal(size=(20, 4)), Y)
    expected = 0.5 * theta.size * np.log(2 * np.pi)
    for y in Y:
        seen = ~np.isnan(y)
        if seen.any():
            S = reg.noise_covariance[np.ix_(seen, seen)]
            expected -= multivariate_normal(np.zeros(seen.sum()), S).logpdf(y[seen])
    assert_allclose(value, expected, rtol=1e-12)


def test_prior_precision_vector_is_the_one_meant(problem):
    assert_array_equal(problem.reg.prior_precision_vector(), problem.prior_precision)
    log_det = np.log(problem.prior_precision).sum()
    assert_allclose(problem.reg.log_det_prior_precision(), log_det, rtol=1e-13, atol=1e-13)


def test_a_layers_name_stands_for_both_of_its_blocks_and_a_blocks_name_wins(net):
    reg = given(net, prior_precision={"dense_0": 2.0, "dense_1": 3.0, "dense_1/bias": [5.0, 7.0]})
    assert_array_equal(reg.prior_precision_vector(), [2.0] * 15 + [3.0] * 6 + [5.0, 7.0])


def test_sigma_noise_is_the_root_of_the_diagonal_of_the_covariance(net):
    assert_array_equal(given(net, sigma_noise=0.5).noise_covariance, [[0.25, 0], [0, 0.25]])
    assert_array_equal(given(net, sigma_noise=[0.5, 2]).noise_covariance, [[0.25, 0], [0, 4]])
    S = [[4.0, -1.5], [-1.5, 9.0]]
    reg = Regression(net, noise_covariance=S, prior_precision=1)
    assert_array_equal(reg.noise_covariance, S)
    assert_array_equal(reg.sigma_noise, [2, 3])


def test_a_diagonal_covariance_is_the_same_as_its_sigmas(net, data):
    X, Y = data
    Y = np.where(np.arange(12).reshape(6, 2) % 5 == 0, np.nan, Y)
    theta = net.init_params(np.random.default_rng(1))
    diagonal = compile_objective(given(net, sigma_noise=[0.2, 3.0]))(theta, X, Y)
    full = compile_objective(
        Regression(net, noise_covariance=np.diag([0.04, 9.0]), prior_precision=1.0)
    )
    assert_allclose(full(theta, X, Y)[0], diagonal[0], rtol=1e-13)
    assert_allclose(full(theta, X, Y)[1], diagonal[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "noise",
    [{"sigma_noise": 0.3}, {"sigma_noise": None, "noise_covariance": [[0.5, 0.1], [0.1, 0.4]]}],
    ids=["sigma", "full"],
)
def test_labels_given_as_integers_are_the_same_as_floats(net, compile_plainly, noise):
    """Effective temperatures often are integers; the noise must not become one, too."""
    theta, X, Y = pt.vector("theta"), np.ones((3, 4)), np.array([[4, 2], [3, 1], [5, 5]])
    U = given(net, **noise).negative_log_posterior
    integers, floats = compile_plainly([theta], [U(theta, X, Y), U(theta, X, Y.astype(float))])(
        np.linspace(-1, 1, 23)
    )
    assert integers == floats


# --- weight decay


@pytest.mark.parametrize(("weight_decay", "sigma"), [(1e-3, 1.0), (0.2, 0.3)])
def test_weight_decay_of_a_mean_squared_error_is_the_prior_precision(
    net, data, compile_plainly, weight_decay, sigma
):
    """PyTorch's form of the loss, differentiated by itself, is 2 sigma^2 / (stars labels) of U."""
    X, Y = data
    theta_sym = pt.vector("theta", shape=(net.n_params,))
    loss = pt.mean((net(theta_sym, X) - Y) ** 2) + weight_decay / 2 * pt.sum(theta_sym**2)
    theta = np.random.default_rng(2).normal(size=net.n_params)
    precision = prior_precision_from_weight_decay(
        weight_decay, sigma_noise=sigma, n_stars=6, n_labels=2
    )
    _, gradient = compile_objective(given(net, sigma_noise=sigma, prior_precision=precision))(
        theta, X, Y
    )
    expected = compile_plainly([theta_sym], pt.grad(loss, theta_sym))(theta)
    assert_allclose(gradient * 2 * sigma**2 / (6 * 2), expected, rtol=1e-12, atol=1e-14)


# --- errors

INDEFINITE = [[1.0, 2.0], [2.0, 1.0]]
REFUSED = {
    "no noise": (
        OptionError,
        {"sigma_noise": None},
        "give either sigma_noise .* or noise_covariance",
    ),
    "both noises": (
        OptionError,
        {"noise_covariance": np.eye(2)},
        "give either sigma_noise .* or noise_covariance",
    ),
    "sigma zero": (
        DataError,
        {"sigma_noise": 0.0},
        "standard deviation and should be positive, got 0.0",
    ),
    "one sigma negative": (DataError, {"sigma_noise": [0.1, -0.1]}, "should be positive"),
    "sigma infinite": (DataError, {"sigma_noise": np.inf}, "should be positive, got inf"),
    "sigma NaN": (DataError, {"sigma_noise": np.nan}, "should be positive, got nan"),
    "three sigmas for two labels": (
        ShapeError,
        {"sigma_noise": [1, 1, 1]},
        r"shape \(2,\), one a label, got \(3,\)",
    ),
    "covariance as sigma": (
        ShapeError,
        {"sigma_noise": np.eye(2)},
        "a full covariance goes into noise_covariance",
    ),
    "sigma of words": (DataError, {"sigma_noise": "small"}, "sigma_noise should be numbers"),
    "covariance of three labels": (
        ShapeError,
        {"sigma_noise": None, "noise_covariance": np.eye(3)},
        r"noise_covariance should have shape \(2, 2\), got \(3, 3\)",
    ),
    "covariance not symmetric": (
        DataError,
        {"sigma_noise": None, "noise_covariance": [[1.0, 0.2], [0.3, 1.0]]},
        "finite and symmetric",
    ),
    "covariance NaN": (
        DataError,
        {"sigma_noise": None, "noise_covariance": [[1.0, np.nan], [np.nan, 1.0]]},
        "finite and symmetric",
    ),
    "covariance indefinite": (
        DataError,
        {"sigma_noise": None, "noise_covariance": INDEFINITE},
        "positive definite, got a smallest eigenvalue of -1",
    ),
    "covariance singular": (
        DataError,
        {"sigma_noise": None, "noise_covariance": np.zeros((2, 2))},
        "positive definite, got a smallest eigenvalue of 0",
    ),
    "prior zero": (
        DataError,
        {"prior_precision": 0},
        "should be positive .*got 0 for dense_0/kernel",
    ),
    "prior negative in one block": (
        DataError,
        {"prior_precision": {"dense_0": 1.0, "dense_1/kernel": 1.0, "dense_1/bias": -2.0}},
        "got -2 for dense_1/bias",
    ),
    "prior NaN for one parameter": (
        DataError,
        {"prior_precision": np.where(np.arange(23) == 4, np.nan, 1.0)},
        "should be positive .*dense_0/kernel",
    ),
    "prior of wrong length": (
        ShapeError,
        {"prior_precision": np.ones(22)},
        r"shape \(23,\), got \(22,\)",
    ),
    "prior names an unknown block": (
        OptionError,
        {"prior_precision": {"dense_0": 1, "dense_1": 1, "dense_2": 1}},
        r"\['dense_2'\] are unknown",
    ),
    "prior leaves a block out": (
        OptionError,
        {"prior_precision": {"dense_0": 1, "dense_1/kernel": 1}},
        r"\['dense_1/bias'\] have no value",
    ),
    "prior of a block transposed": (
        ShapeError,
        {"prior_precision": {"dense_0/kernel": np.ones((3, 4)), "dense_0/bias": 1, "dense_1": 1}},
        r"of dense_0/kernel should be a number or have shape \(4, 3\), got \(3, 4\)",
    ),
    "prior of nothing": (
        DataError,
        {"prior_precision": None},
        "prior_precision should be .*got None",
    ),
}


def test_a_network_without_weights_is_refused():
    fixed = Network([Standardize(np.zeros(3), np.ones(3))], n_pixels=3)
    with pytest.raises(OptionError, match="net should have weights to train, got Network"):
        Regression(fixed, sigma_noise=0.1, prior_precision=1.0)


@pytest.mark.parametrize(("error", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_a_noise_or_prior_that_is_none_is_refused_in_words(net, error, options, words):
    with pytest.raises(error, match=words) as caught:
        given(net, **options)
    assert isinstance(caught.value, SymspecError)


@pytest.mark.parametrize(
    ("flux", "labels"),
    [(pt.matrix(), pt.vector()), (pt.vector(), pt.matrix()), (pt.matrix(), pt.tensor3())],
    ids=["vector of labels for a matrix", "matrix of labels for a spectrum", "three axes"],
)
def test_symbolic_labels_have_as_many_axes_as_the_flux(net, flux, labels):
    with pytest.raises(
        ShapeError, match=f"labels should have {flux.ndim} axes .*got {labels.ndim}"
    ):
        given(net).negative_log_posterior(pt.vector(), flux, labels)


def test_the_repr_says_the_network_and_its_noise(net):
    assert (
        repr(given(net, sigma_noise=[0.25, 4]))
        == "Regression(Network(4-3-2, 23 parameters, labels label_0, label_1), sigma_noise=[0.25"
        " 4.  ])"
    )
