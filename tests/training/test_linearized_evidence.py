"""Noise and prior of networks that stay where they are, against closed forms and SciPy's mode."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from scipy.stats import t as student_t

import symspec as ss
from symspec.derivatives.compiled import compile_jacobian, compile_predict
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.safety.label_errors import add_errors
from symspec.training import search
from symspec.training.hyperparameters import MIN_COUNT, Hyperparameters
from symspec.training.linearized import linearize

KINDS = [("per_label", "scale"), ("per_label", "per_block"), ("full", "per_layer")]


@cache
def build_problem(n_pixels=3, n_stars=25, activation="tanh", noise="per_label", seed=0):
    """A regression at weights that are no minimum; labels are missing in each way that they can."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_stars, n_pixels))
    Y = np.c_[np.sin(X[:, 0]), X[:, 1] ** 2] + 0.1 * rng.normal(size=(n_stars, 2))
    Y[2, 0] = Y[5, -1] = Y[7] = np.nan
    net = ss.mlp([n_pixels, 4, 2], activation=activation)
    full = {"noise_covariance": [[0.04, 0.03], [0.03, 0.09]]}
    words = full if noise == "full" else {"sigma_noise": [0.2, 0.3]}
    reg = ss.Regression(net, prior_precision=ss.scaled_prior(net, 0.5), **words)
    return reg, net.init_params(rng), X, Y


@cache
def linear_model(n_pixels, activation):
    """Rows of J and the targets y - f + J theta of the labels that are there."""
    reg, theta, X, Y = build_problem(n_pixels, activation=activation)
    seen = ~np.isnan(Y)
    J = compile_jacobian(reg.net, "theta")(theta, X)
    t = Y - compile_predict(reg.net)(theta, X) + J @ theta
    return J[seen], t[seen], np.argwhere(seen)


def find_covariance(reg, J, places):
    """J Lambda^-1 J^T + S, written out row by row."""
    star, label = places.T
    S = np.where(star[:, None] == star, reg.noise_covariance[label[:, None], label], 0.0)
    return J @ np.diag(1 / reg.prior_precision_vector()) @ J.T + S


def log_density(reg, J, t, places):
    """Log N(t | 0, J Lambda^-1 J^T + S)."""
    return multivariate_normal.logpdf(t, np.zeros(len(t)), find_covariance(reg, J, places))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize(("noise", "prior"), KINDS)
@pytest.mark.parametrize(
    ("structure", "memory"),
    [("primal", "1GB"), ("dual", "1GB"), ("primal", "8kB"), ("dual", "8kB")],
    ids=["primal", "dual", "primal, nothing kept", "dual, nothing kept"],
)
def test_value_and_gradient_are_those_of_the_closed_form(
    structure, memory, noise, prior, activation
):
    reg, theta, X, Y = build_problem(activation=activation, noise=noise)
    builder = InverseBuilder(reg, X, Y, structure=structure, memory=memory)
    hyperparameters = Hyperparameters(reg, noise, prior)
    evidence = linearize(builder, hyperparameters, theta)
    h = 0.3 * np.random.default_rng(1).normal(size=len(hyperparameters))
    found = evidence.at(h).evaluate(theta)

    def F(h):
        return log_density(hyperparameters.regression(h), *linear_model(3, activation))

    np.testing.assert_allclose(found.log_marginal_likelihood, F(h), rtol=1e-8)
    step = 1e-4
    slopes = [(F(h + e) - F(h - e)) / (2 * step) for e in step * np.eye(len(h))]
    # step^2 times third derivatives, and rounding over the step
    np.testing.assert_allclose(found.gradient, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("noise", "prior"), KINDS)
@pytest.mark.parametrize("memory", ["1GB", "8kB"], ids=["kept", "nothing kept"])
def test_the_curvature_is_the_average_information_of_the_dense_covariance(memory, noise, prior):
    reg, theta, X, Y = build_problem(noise=noise)
    builder = InverseBuilder(reg, X, Y, structure="dual", memory=memory)
    hyperparameters = Hyperparameters(reg, noise, prior)
    h = 0.3 * np.random.default_rng(1).normal(size=len(hyperparameters))
    found = linearize(builder, hyperparameters, theta).at(h).evaluate(theta).curvature
    J, t, places = linear_model(3, "tanh")

    def M(h):
        return find_covariance(hyperparameters.regression(h), J, places)

    step = 1e-4
    pushes = [(M(h + e) - M(h - e)) / (2 * step) for e in step * np.eye(len(h))]
    columns = np.stack([dM @ np.linalg.solve(M(h), t) for dM in pushes], axis=1)
    expected = 0.5 * columns.T @ np.linalg.solve(M(h), columns)
    floor = 0.5 * MIN_COUNT * np.eye(len(h))  # of a prior that the data do not feel
    # the square of the step times third derivatives
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected + floor, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("structure", ["primal", "dual", "krylov"])
def test_the_weights_and_the_counts_are_those_of_the_linear_model(structure):
    reg, theta, X, Y = build_problem(noise="full")
    options = {"subset": 10} if structure == "krylov" else None
    builder = InverseBuilder(reg, X, Y, structure=structure, options=options)
    found = linearize(builder, Hyperparameters(reg, "full", "per_block"), theta).evaluate(theta)
    J, t, (star, label) = *linear_model(3, "tanh")[:2], linear_model(3, "tanh")[2].T
    S = np.where(star[:, None] == star, reg.noise_covariance[label[:, None], label], 0.0)
    precision = reg.prior_precision_vector()
    A = J.T @ np.linalg.solve(S, J) + np.diag(precision)
    np.testing.assert_allclose(
        found.theta, np.linalg.solve(A, J.T @ np.linalg.solve(S, t)), rtol=1e-8, atol=1e-9
    )
    share = 1 - precision * np.diag(np.linalg.inv(A))
    assert found.newton_decrement < 1e-12
    if structure == "krylov":  # which estimates them
        return
    dense = {name: part.sum() for name, part in reg.net.unpack(share).items()}
    for name, count in dense.items():
        np.testing.assert_allclose(found.n_effective_by_factor[name], count, rtol=1e-8)
    by_label = np.diag(np.linalg.solve(S, J @ np.linalg.solve(A, J.T)))
    expected = [by_label[label == c].sum() for c in range(2)]
    np.testing.assert_allclose(found.n_effective, expected, rtol=1e-8)


@pytest.mark.parametrize("structure", ["primal", "dual"])
@pytest.mark.parametrize(
    ("noise", "prior"), [("per_label", "per_layer"), ("full", "scale"), ("fixed", "scale")]
)
def test_tuning_ends_at_the_maximum_of_the_closed_form_and_keeps_the_weights(
    structure, noise, prior
):
    reg, theta, X, Y = build_problem(noise=noise)
    seen = []
    tuned, same = ss.tune(
        reg, theta, X, Y, noise=noise, prior=prior, structure=structure, move=False,
        tolerance=1e-6, callback=lambda *both: seen.append(both), progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(same, theta)
    hyperparameters = Hyperparameters(tuned, noise, prior)
    n = len(hyperparameters)

    def F(h):
        return log_density(hyperparameters.regression(h), *linear_model(3, "tanh"))

    top = F(np.zeros(n))
    assert top == pytest.approx(max(e.log_marginal_likelihood for _, e in seen), rel=1e-8)
    assert top > seen[0][1].log_marginal_likelihood + 1
    for size in (0.01, 0.1, 0.5):
        for direction in np.vstack([np.eye(n), -np.eye(n)]):
            assert F(size * direction) <= top + 1e-5  # ten tolerances


@cache
def build_lines(n_labels=2):
    """A network far from trained on spectra of two numbers, the first of which is a label."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(-1, 1, size=(80, 2))
    grid = np.linspace(-1, 1, 100)
    X = 1 + 0.3 * np.exp(-0.5 * ((grid - latent[:, :1]) / 0.5) ** 2) + 0.2 * latent[:, 1:] * grid
    X += 1e-3 * rng.normal(size=X.shape)
    Y = np.c_[5000 + 1000 * latent[:, 0], latent[:, 1] + 0.3 * rng.normal(size=len(X))][
        :, :n_labels
    ]
    last = ss.Unstandardize(Y.mean(axis=0), Y.std(axis=0))
    net = ss.Network([ss.Dense(32), ss.Activation("relu"), ss.Dense(n_labels), last], 100)
    return net, net.init_params(rng), X, Y


def find_closed_form(net, theta, X, Y, sigma):
    """F and its gradient by log sigma and log precision, of one label, from singular values of J.

    The square roots of the kernel's eigenvalues have twice as many digits as these.
    """
    J = compile_jacobian(net, "theta")(theta, X)[:, 0]
    t = (Y - compile_predict(net)(theta, X))[:, 0] + J @ theta
    U, d, _ = np.linalg.svd(J, full_matrices=False)
    own = d**2 + sigma**2
    along = U.T @ t
    F = -0.5 * np.sum(along**2 / own + np.log(2 * np.pi * own))
    by_noise = sigma**2 * np.sum((along / own) ** 2 - 1 / own)
    by_prior = 0.5 * np.sum(d**2 * (1 / own - (along / own) ** 2))
    return F, [by_noise, by_prior]


@pytest.mark.parametrize("share", [1e-1, 1e-3, 1e-5])
def test_noise_next_to_nothing_keeps_the_digits_of_the_evidence(share):
    """Residuals are S M^-1 t, no difference of labels of 5000 and what the weights make of them."""
    net, theta, X, Y = build_lines(n_labels=1)
    sigma = share * Y.std()
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=1.0)
    there = linearize(InverseBuilder(reg, X, Y, structure="dual"), Hyperparameters(reg), theta)
    found = there.evaluate(theta)
    F, gradient = find_closed_form(net, theta, X, Y, sigma)
    assert found.is_minimum
    # the kernel's rounding leaves 1e-8; by differences the gradient was off by 3e-5
    assert found.log_marginal_likelihood == pytest.approx(F, rel=1e-7)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-7)


@pytest.mark.filterwarnings("ignore::symspec.EdgeOfRangeWarning")
@pytest.mark.parametrize("share", [1e-4, 1e-5, 1e-6])
def test_tuning_leaves_a_start_of_next_to_no_noise(share):
    """Rounding there is no reason to take other noise or prior: it ends where F is highest."""
    net, theta, X, Y = build_lines()
    sigma = np.array([share, 0.1]) * Y.std(axis=0)
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=ss.scaled_prior(net, 1.0))
    seen = []
    ss.tune(
        reg, theta, X, Y, structure="dual", move=False, progress=False,
        callback=lambda _, evidence: seen.append(evidence),
    )  # fmt: skip
    # labels that are interpolated, with a prior at the edge of its range; without noise at all
    # F ends within the tolerance of 0.01 of the same
    assert seen[-1].log_marginal_likelihood == pytest.approx(-599.67, abs=0.03)
    assert max(e.log_marginal_likelihood for e in seen) == seen[-1].log_marginal_likelihood


def test_evidence_that_still_rises_is_told_unless_few_evaluations_were_asked_for(monkeypatch):
    net, theta, X, Y = build_lines()
    sigma = np.array([1e-4, 0.1]) * Y.std(axis=0)
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=ss.scaled_prior(net, 1.0))
    words = {"structure": "dual", "move": False, "max_evaluations": 3, "progress": False}
    ss.tune(reg, theta, X, Y, **words)
    monkeypatch.setattr("symspec.training.evidence.MANY_EVALUATIONS", 3)  # the default, and more
    with pytest.warns(ss.UnfinishedEvidenceWarning, match="Give a larger max_evaluations"):
        ss.tune(reg, theta, X, Y, **words)


def test_many_stars_start_from_what_few_of_them_tell(monkeypatch):
    problem = build_problem(n_stars=120)

    def tune():
        seen = []
        ss.tune(
            *problem, structure="dual", move=False, tolerance=1e-6, progress=False,
            callback=lambda *both: seen.append(both[1].log_marginal_likelihood),
        )  # fmt: skip
        return seen

    at_once = tune()
    monkeypatch.setattr(search, "FEW_ROWS", 60)
    after_few = tune()
    assert after_few[-1] == pytest.approx(at_once[-1], abs=2e-6)
    assert after_few[0] > at_once[0] + 10
    assert len(after_few) < len(at_once)


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_the_span_of_the_stars_has_the_same_evidence(structure):
    """More pixels than stars: noise and prior are those of the whole network."""
    reg, theta, X, Y = build_problem(n_pixels=30)
    seen = []
    ss.tune(
        reg, theta, X, Y, structure=structure, move=False, progress=False,
        callback=lambda *both: seen.append(both),
    )  # fmt: skip
    assert len(seen) > 1
    for at, evidence in seen:
        expected = log_density(at, *linear_model(30, "tanh"))
        np.testing.assert_allclose(evidence.log_marginal_likelihood, expected, rtol=1e-8)
        assert evidence.theta.shape == theta.shape


@pytest.mark.parametrize("structure", ["kronecker", "ekfac", "diagonal", "low_rank"])
def test_approximations_differ_from_the_closed_form_by_their_determinant_alone(structure):
    reg, theta, X, Y = build_problem()
    builder = InverseBuilder(reg, X, Y, structure=structure)
    hyperparameters = Hyperparameters(reg, "per_label", "scale")
    here = linearize(builder, hyperparameters, theta)
    h = np.array([0.2, -0.1, 0.3])
    J, t, places = linear_model(3, "tanh")

    def F(h):
        at = hyperparameters.regression(h)
        exact = log_density(at, J, t, places)
        weights = 1 / at.noise_covariance[places[:, 1], places[:, 1]]
        A = J.T @ (weights[:, None] * J) + np.diag(at.prior_precision_vector())
        log_det = builder.with_regression(at).build(theta).logdet()
        return exact + 0.5 * np.linalg.slogdet(A)[1] + 0.5 * log_det

    found = here.at(h).evaluate(theta)
    np.testing.assert_allclose(found.log_marginal_likelihood, F(h), rtol=1e-8)
    slopes = [(F(h + e) - F(h - e)) / 2e-3 for e in 1e-3 * np.eye(3)]
    # both from steps of 1e-3, one at fixed weights: their squares times third derivatives
    np.testing.assert_allclose(found.gradient, slopes, rtol=1e-4, atol=1e-4)
    tuned, same = ss.tune(reg, theta, X, Y, structure=structure, move=False, progress=False)
    np.testing.assert_array_equal(same, theta)
    assert F(hyperparameters_between(reg, tuned)) > F(np.zeros(3))


def hyperparameters_between(reg, tuned):
    name = next(iter(reg.prior_precision))
    factor = tuned.prior_precision[name] / reg.prior_precision[name]
    return np.log([*(tuned.sigma_noise / reg.sigma_noise), factor])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"starts": 3}, "leave starts at 1"),
        ({"structure": "last_layer"}, "leave structure out"),
    ],
)
def test_what_has_no_evidence_of_the_linearised_network_is_refused(words, message):
    with pytest.raises(ss.OptionError, match=message):
        ss.tune(*build_problem(), move=False, **words)


# --- Student's t, whose linear model has no closed form


def build_t_problem(has_errors):
    reg, theta, X, Y = build_problem()
    Y = Y.copy()
    Y[[3, 9], [1, 0]] += [4.0, -3.0]
    noise = ss.StudentTNoise([0.1, 0.2], [1.5, 4.0])
    errors = np.exp(np.random.default_rng(2).uniform(-4, -1, Y.shape)) if has_errors else None
    return reg.with_noise(noise), theta, X, Y, errors


def laplace_of_t(reg, J, t, places, variances, theta):
    """Laplace's evidence of the linear model at its mode, found by SciPy; the mode."""
    label = places[:, 1]
    dof = reg.noise.dof[label]
    tau = reg.noise.scale[label] ** 2 + variances
    precision = reg.prior_precision_vector()

    def U(theta):
        density = student_t.logpdf(t - J @ theta, dof, scale=np.sqrt(tau))
        return -density.sum() - norm.logpdf(theta, scale=precision**-0.5).sum()

    def slope(theta):
        r = t - J @ theta
        return precision * theta - J.T @ ((dof + 1) * r / (dof * tau + r**2))

    def hessian(theta):
        r2 = (t - J @ theta) ** 2
        w = (dof + 1) * (dof * tau - r2) / (dof * tau + r2) ** 2
        return J.T @ (w[:, None] * J) + np.diag(precision)

    found = minimize(U, theta, jac=slope, hess=hessian, method="trust-exact", tol=1e-10)
    A = J.T @ (((dof + 1) / (dof + 3) / tau)[:, None] * J) + np.diag(precision)
    F = -found.fun - 0.5 * np.linalg.slogdet(A)[1] + 0.5 * theta.size * np.log(2 * np.pi)
    return F, found.x


@pytest.mark.parametrize("has_errors", [False, True], ids=["alone", "with label errors"])
@pytest.mark.parametrize(
    ("structure", "memory"),
    [("primal", "1GB"), ("dual", "1GB"), ("primal", "8kB"), ("dual", "8kB"), ("krylov", "1GB")],
)
def test_students_t_has_the_evidence_of_its_mode(structure, memory, has_errors):
    reg, theta, X, Y, errors = build_t_problem(has_errors)
    builder = InverseBuilder(reg, X, add_errors(Y, errors), structure=structure, memory=memory)
    hyperparameters = Hyperparameters(reg, "scale_and_dof", "per_layer")
    J, t, places = linear_model(3, "tanh")
    seen = ~np.isnan(Y)
    t = t + (Y - build_problem()[3])[seen]
    variances = 0.0 if errors is None else errors[seen] ** 2
    h = 0.3 * np.random.default_rng(1).normal(size=len(hyperparameters))
    found = linearize(builder, hyperparameters, theta).at(h).evaluate(theta)

    def F(h):
        return laplace_of_t(hyperparameters.regression(h), J, t, places, variances, theta)

    value, mode = F(h)
    np.testing.assert_allclose(found.log_marginal_likelihood, value, rtol=1e-8)
    np.testing.assert_allclose(found.theta, mode, rtol=1e-6, atol=1e-7)
    step = 1e-4
    slopes = [(F(h + e)[0] - F(h - e)[0]) / (2 * step) for e in step * np.eye(len(h))]
    # krylov's own are from steps of 1e-3: their squares times third derivatives
    close = 1e-4 if structure == "krylov" else 1e-6
    np.testing.assert_allclose(found.gradient, slopes, rtol=close, atol=close)


def test_students_t_is_tuned_where_the_weights_stay():
    reg, theta, X, Y, _ = build_t_problem(False)
    seen = []
    tuned, same = ss.tune(
        reg, theta, X, Y, noise="per_label", move=False, tolerance=1e-6, progress=False,
        callback=lambda *both: seen.append(both[1].log_marginal_likelihood),
    )  # fmt: skip
    np.testing.assert_array_equal(same, theta)
    J, t, places = linear_model(3, "tanh")
    t = t + (Y - build_problem()[3])[~np.isnan(Y)]
    hyperparameters = Hyperparameters(tuned, "per_label", "scale")

    def F(h):
        return laplace_of_t(hyperparameters.regression(h), J, t, places, 0.0, theta)[0]

    top = F(np.zeros(3))
    assert top == pytest.approx(max(seen), rel=1e-8)
    assert top > seen[0] + 1
    for direction in np.vstack([np.eye(3), -np.eye(3)]):
        assert F(0.1 * direction) <= top + 1e-5  # ten tolerances
