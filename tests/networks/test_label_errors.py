"""Labels with errors of their own: weighted Bayesian regression in closed form, by every way."""

import dataclasses

import numpy as np
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.derivatives.backends import find_mode
from symspec.safety.label_errors import add_errors

N = 14
SHAPES = ("deviations", "covariances")
NOISES = {
    "per label": {"sigma_noise": [0.3, 0.5]},
    "full": {"noise_covariance": [[0.09, 0.06], [0.06, 0.25]]},
}
EXACT = ("primal", "dual", "krylov")


def make_errors(rng, kind):
    sd = np.exp(rng.uniform(-3, 1, size=(N, 2)))
    if kind == "deviations":
        return sd
    correlation = np.tile(np.eye(2), (N, 1, 1))
    correlation[:, 0, 1] = correlation[:, 1, 0] = rng.uniform(-0.9, 0.9, size=N)
    return sd[:, :, None] * correlation * sd[:, None, :]


@pytest.fixture(scope="module", params=[(n, k) for n in NOISES for k in SHAPES], ids=str)
def linear(request):
    """A linear network, stars of which some lack a label, and its posterior in closed form."""
    noise, kind = request.param
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(N, 3)), rng.normal(size=(N, 2))
    Y[1, 0] = Y[2, 1] = np.nan
    Y[3] = np.nan
    errors = make_errors(rng, kind)
    reg = ss.Regression(ss.mlp([3, 2]), **NOISES[noise], prior_precision=0.7)
    return Problem(reg, X, Y, errors)


class Problem:
    """The answer by NumPy: every star's own covariance, one row of the design a label."""

    def __init__(self, reg, X, Y, errors):
        self.reg = reg
        self.X = X
        self.Y = Y
        self.errors = errors
        design = np.zeros((N, 2, reg.net.n_params))
        for c in range(2):  # kernel (in, out), then bias
            design[:, c, c:6:2] = X
            design[:, c, 6 + c] = 1.0
        E = errors[:, :, None] ** 2 * np.eye(2) if errors.ndim == 2 else errors
        seen = [~np.isnan(y) for y in Y]
        self.S = [(reg.noise_covariance + e)[np.ix_(s, s)] for e, s in zip(E, seen, strict=True)]
        self.rows = [J[s] for J, s in zip(design, seen, strict=True)]
        self.y = [y[s] for y, s in zip(Y, seen, strict=True)]
        self.W = [np.linalg.inv(S) for S in self.S]
        self.A = 0.7 * np.eye(8) + sum(J.T @ W @ J for J, W in zip(self.rows, self.W, strict=True))
        b = sum(J.T @ W @ y for J, W, y in zip(self.rows, self.W, self.y, strict=True))
        self.theta = np.linalg.solve(self.A, b)
        self.design = design

    def evidence(self, delta=0.7):
        """Log density of all observed labels, jointly normal, at this prior precision."""
        J = np.vstack(self.rows)
        y = np.concatenate(self.y)
        M = J @ J.T / delta
        at = 0
        for S in self.S:
            n = len(S)
            M[at : at + n, at : at + n] += S
            at += n
        return -0.5 * (y @ np.linalg.solve(M, y) + np.linalg.slogdet(2 * np.pi * M)[1])


@pytest.mark.parametrize("structure", EXACT)
def test_the_posterior_is_that_of_weighted_bayesian_regression(linear, structure):
    p = linear
    laplace = ss.fit_laplace(
        p.reg, p.theta, p.X, p.Y, label_errors=p.errors, structure=structure, progress=False,
        options={"tolerance": 1e-10} if structure == "krylov" else None,
    )  # fmt: skip
    inverse = np.linalg.inv(p.A)
    assert_allclose(laplace.inverse_hessian @ np.eye(8), inverse, atol=1e-10)
    prediction = laplace.predict(p.X, progress=False)
    expected = p.design @ inverse @ p.design.transpose(0, 2, 1)
    assert_allclose(prediction.model_cov, expected, rtol=1e-9, atol=1e-11)
    # a new star's labels are measured by nobody yet: the noise alone
    assert_allclose(prediction.noise_cov, np.tile(p.reg.noise_covariance, (N, 1, 1)))
    assert laplace.certificate.newton_decrement < 1e-18
    if structure != "krylov":  # whose determinant is an estimate
        assert_allclose(laplace.log_marginal_likelihood(), p.evidence(), rtol=1e-10)


def test_all_ways_to_the_weights_arrive_at_the_weighted_mean(linear):
    p = linear
    start = np.zeros(8)
    polished = ss.polish(p.reg, start, p.X, p.Y, label_errors=p.errors, progress=False)
    assert_allclose(polished.theta, p.theta, atol=1e-8)
    found = ss.minimize(p.reg, start, p.X, p.Y, label_errors=p.errors, progress=False)
    assert_allclose(found.x, p.theta, atol=1e-4)


def test_spectra_bring_the_errors_of_their_labels_in_the_order_and_units_of_the_network(linear):
    p = linear
    name = "label_errors" if p.errors.ndim == 2 else "label_covariance"
    swap = [1, 0]
    scale = np.array([1e3, 1.0])  # kK to K
    errors = p.errors[:, swap] if p.errors.ndim == 2 else p.errors[:, swap][:, :, swap]
    given = errors / (scale[swap] if errors.ndim == 2 else np.outer(scale, scale)[swap][:, swap])
    stars = ss.Spectra(
        flux=p.X, labels=(p.Y / scale)[:, swap], label_names=("B", "A"), label_units=("", "kK"),
        **{name: given},
    )  # fmt: skip
    net = ss.mlp([3, 2], label_names=("A", "B"), label_units=("K", ""))
    reg = ss.Regression(net, noise=p.reg.noise, prior_precision=0.7)
    laplace = ss.fit_laplace(reg, p.theta, stars[::-1], structure="primal", progress=False)
    assert_allclose(laplace.inverse_hessian.to_dense(), np.linalg.inv(p.A), atol=1e-10)


@pytest.mark.parametrize(
    ("noise", "kind", "backend"),
    [
        *[(noise, kind, "numpy") for noise in NOISES for kind in SHAPES],
        *[("per label", "deviations", backend) for backend in ("c", "jax")],
        *[("full", "covariances", backend) for backend in ("numba", "jax")],
    ],
)
def test_derivatives_of_a_network_with_label_errors(noise, kind, backend):
    """U by NumPy, its gradient and both matrices by differences and by the Jacobian."""
    if backend == "jax":
        pytest.importorskip("jax")
    rng = np.random.default_rng(7)
    X, Y = rng.normal(size=(N, 3)), rng.normal(size=(N, 2))
    Y[1, 0] = Y[2] = np.nan
    errors = make_errors(rng, kind)
    net = ss.mlp([3, 4, 2], activation="tanh")
    reg = ss.Regression(net, **NOISES[noise], prior_precision=0.7)
    theta = 0.5 * rng.normal(size=net.n_params)
    objective = ss.compile_objective(reg, backend=backend)
    p = Problem(ss.Regression(ss.mlp([3, 2]), noise=reg.noise, prior_precision=0.7), X, Y, errors)
    f = ss.compile_predict(net)(theta, X)
    U = 0.35 * theta @ theta - 0.5 * theta.size * np.log(0.7 / (2 * np.pi))
    for y, S, row, label in zip(p.y, p.S, f, Y, strict=True):
        r = y - row[~np.isnan(label)]
        U += 0.5 * (r @ np.linalg.solve(S, r) + np.linalg.slogdet(2 * np.pi * S)[1])
    value, gradient = objective(theta, X, Y, label_errors=errors)
    assert_allclose(value, U, rtol=1e-12)
    step = 1e-5
    units = step * np.eye(theta.size)
    differences = [
        np.subtract(*(objective(theta + s * e, X, Y, label_errors=errors)[0] for s in (1, -1)))
        for e in units
    ]
    # the third derivative times step^2, and rounding over the step
    assert_allclose(gradient, np.array(differences) / (2 * step), rtol=1e-6, atol=1e-7)
    H = ss.compile_hessian(reg, backend=backend)(theta, X, Y, label_errors=errors)
    slopes = [
        np.subtract(*(objective(theta + s * e, X, Y, label_errors=errors)[1] for s in (1, -1)))
        for e in units
    ]
    assert_allclose(H, np.array(slopes) / (2 * step), rtol=1e-6, atol=1e-6)
    J = ss.compile_jacobian(net, "theta")(theta, X)
    rows = [j[~np.isnan(label)] for j, label in zip(J, Y, strict=True)]
    G = 0.7 * np.eye(theta.size) + sum(j.T @ W @ j for j, W in zip(rows, p.W, strict=True))
    ggn = ss.compile_ggn(reg, backend=backend)(theta, X, Y, label_errors=errors)
    assert_allclose(ggn, G, rtol=1e-9, atol=1e-9)
    v = np.linspace(-1, 1, theta.size)
    for compile_product, matrix in (
        (ss.compile_ggn_vector_product, G),
        (ss.compile_hessian_vector_product, H),
    ):
        product = compile_product(reg, backend=backend)(theta, X, Y, v, label_errors=errors)
        assert_allclose(product, matrix @ v, rtol=1e-9, atol=1e-9)


def test_a_symbolic_u_takes_labels_with_errors_of_a_stated_shape(linear, compile_plainly):
    p = linear
    columns = p.errors**2 if p.errors.ndim == 2 else p.errors.reshape(N, -1)
    theta, flux = pt.vector("theta"), pt.matrix("flux")
    targets = pt.matrix("targets", shape=(None, 2 + columns.shape[1]))
    U = compile_plainly(
        [theta, flux, targets], [p.reg.negative_log_posterior(theta, flux, targets)]
    )
    expected, _ = ss.compile_objective(p.reg)(p.theta, p.X, p.Y, label_errors=p.errors)
    assert_allclose(U(p.theta, p.X, np.hstack([p.Y, columns]))[0], expected, rtol=1e-12)


def test_pymc_has_the_errors_as_data_and_the_same_density(linear):
    p = linear
    model = ss.pymc_model(p.reg, p.X, p.Y, label_errors=p.errors)
    name = "label_errors" if p.errors.ndim == 2 else "label_covariance"
    assert name in model.named_vars
    logp = model.compile_logp(mode=find_mode("numpy", "float64"))
    objective = ss.compile_objective(p.reg)
    for theta in (p.theta, 0 * p.theta):
        U, _ = objective(theta, p.X, p.Y, label_errors=p.errors)
        assert_allclose(logp({"theta": theta}), -U, rtol=1e-12)


def test_pymc_draws_labels_with_their_errors(compile_plainly):
    import pymc as pm

    rng = np.random.default_rng(0)
    E = np.array([[4.0, 3.0], [3.0, 9.0]])
    X = np.zeros((1, 3))
    for errors, noise, expected in (
        ([[2.0, 3.0]], {"sigma_noise": [0.3, 0.5]}, np.diag([4.09, 9.25])),
        (E[None], {"sigma_noise": [0.3, 0.5]}, E + np.diag([0.09, 0.25])),
        ([[2.0, 3.0]], NOISES["full"], np.diag([4.0, 9.0]) + NOISES["full"]["noise_covariance"]),
    ):
        reg = ss.Regression(ss.mlp([3, 2]), **noise, prior_precision=1e8)
        model = ss.pymc_model(reg, X, [[0.0, 0.0]], label_errors=errors)
        draws = pm.draw(model["y"], draws=4000, random_seed=rng, mode=find_mode("numpy", "float64"))
        # five standard errors of a covariance
        assert_allclose(np.cov(draws[:, 0].T), expected, atol=5 * 9.25 * np.sqrt(2 / 4000))


def test_the_evidence_with_label_errors_and_its_gradient(linear):
    """Of the noise between labels and the prior, by central differences of the closed form."""
    from symspec.inverse_hessian.builder import InverseBuilder
    from symspec.safety.label_errors import add_errors
    from symspec.training.hyperparameters import Hyperparameters
    from symspec.training.linearized import linearize
    from symspec.training.marginal_likelihood import MarginalLikelihood

    p = linear
    kind = "full" if p.reg.has_full_noise else "per_label"
    hyper = Hyperparameters(p.reg, noise=kind, prior="scale")
    step = 1e-4
    expected = []
    for e in step * np.eye(len(hyper)):
        values = []
        for sign in (1, -1):
            reg = hyper.regression(sign * e)
            other = Problem(reg, p.X, p.Y, p.errors)
            delta = float(next(iter(reg.prior_precision.values())))
            values.append(other.evidence(delta))
        expected.append((values[0] - values[1]) / (2 * step))
    for structure in ("primal", "dual"):
        builder = InverseBuilder(p.reg, p.X, add_errors(p.Y, p.errors), structure=structure)
        for F in (MarginalLikelihood(builder, hyper), linearize(builder, hyper, p.theta)):
            found = F.evaluate(p.theta)
            assert_allclose(found.log_marginal_likelihood, p.evidence(), rtol=1e-9)
            assert_allclose(found.gradient, expected, rtol=1e-6, atol=1e-6)


def test_well_known_labels_count_for_more():
    """Half of the labels known to 0.05 and half to 2: weighted, not plain, least squares."""
    rng = np.random.default_rng(2)
    n = 200
    X = rng.normal(size=(n, 3))
    truth = X @ [1.0, -2.0, 0.5]
    errors = np.where(np.arange(n) % 2, 0.05, 2.0)[:, None]
    Y = truth[:, None] + errors * rng.normal(size=(n, 1))
    reg = ss.Regression(ss.mlp([3, 1]), sigma_noise=0.02, prior_precision=1e-4)
    tuned, theta = ss.tune(reg, np.zeros(4), X, Y, label_errors=errors, progress=False)
    laplace = ss.fit_laplace(tuned, theta, X, Y, label_errors=errors, progress=False)
    new = rng.normal(size=(500, 3))
    prediction = laplace.predict(new, progress=False)
    design = np.column_stack([X, np.ones(n)])
    W = 1 / (errors[:, 0] ** 2 + tuned.sigma_noise[0] ** 2)
    (delta,) = set(tuned.prior_precision.values())
    cov = np.linalg.inv(design.T @ (W[:, None] * design) + delta * np.eye(4))
    weighted = cov @ design.T @ (W * Y[:, 0])
    both = np.column_stack([new, np.ones(500)])
    assert_allclose(prediction.labels[:, 0], both @ weighted, atol=1e-4 * np.sqrt(cov.max()))
    sd = np.sqrt(np.einsum("ni,ij,nj->n", both, cov, both))
    assert_allclose(np.sqrt(prediction.model_cov[:, 0, 0]), sd, rtol=1e-8)
    assert tuned.sigma_noise[0] < 0.05


def test_an_archive_of_a_dual_keeps_the_errors(linear, tmp_path):
    p = linear
    for structure in ("primal", "dual", "krylov"):
        laplace = ss.fit_laplace(
            p.reg, p.theta, p.X, p.Y, label_errors=p.errors, structure=structure, progress=False
        )
        path = ss.write_laplace(tmp_path / f"{structure}.h5", laplace) or tmp_path
        again = ss.read_laplace(tmp_path / f"{structure}.h5")
        new = p.X[:3] + 0.1
        assert_array_equal(
            again.label_covariance(new), laplace.label_covariance(new), err_msg=str(path)
        )
        rng = [np.random.default_rng(0) for _ in range(2)]
        assert_array_equal(again.sample(3, rng=rng[0]), laplace.sample(3, rng=rng[1]))


def test_the_sandwich_weighs_residuals_by_their_own_errors(linear):
    p = linear
    laplace = ss.fit_laplace(
        p.reg, p.theta, p.X, p.Y, label_errors=p.errors, structure="primal", progress=False
    )
    inverse = np.linalg.inv(p.A)
    scores = [J.T @ W @ (y - J @ p.theta) for J, W, y in zip(p.rows, p.W, p.y, strict=True)]
    B = sum(np.outer(s, s) for s in scores)
    expected = p.design @ inverse @ B @ inverse @ p.design.transpose(0, 2, 1)
    V = ss.sandwich_covariance(laplace, p.X, p.Y, p.X, label_errors=p.errors)
    assert_allclose(V, expected, rtol=1e-8, atol=1e-12)


# --- errors that are none

GOOD = np.full((3, 2), 0.1)
BAD = {
    "zero": (np.where([[0, 0], [0, 1], [0, 0]], 0.0, GOOD), r"positive standard deviations, got 1"),
    "negative": (-GOOD, "positive standard deviations, got 6"),
    "infinite": (GOOD * np.inf, "positive standard deviations"),
    "unknown": (np.full((3, 2), np.nan), "known where the label is.*missing_label_error='infer'"),
    "not definite": (np.tile([[1.0, 2.0], [2.0, 1.0]], (3, 1, 1)), "not indefinite.*star 0"),
    "not symmetric": (np.tile([[1.0, 0.5], [0.0, 1.0]], (3, 1, 1)), "symmetric"),
    "of other stars": (GOOD[:2], r"should have shape \(3, 2\)"),
    "of other labels": (GOOD[:, :1], r"should have shape \(3, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize(("errors", "words"), BAD.values(), ids=BAD)
def test_what_are_no_errors_is_refused_before_any_work(errors, words):
    reg = ss.Regression(ss.mlp([4, 2]), sigma_noise=0.3, prior_precision=1.0)
    X, Y = np.ones((3, 4)), np.zeros((3, 2))
    with pytest.raises((ss.DataError, ss.ShapeError), match=words):
        ss.fit_laplace(reg, np.zeros(10), X, Y, label_errors=errors)
    name = "label_errors" if errors.ndim == 2 else "label_covariance"
    with pytest.raises((ss.DataError, ss.ShapeError), match=words):
        ss.Spectra(flux=X, labels=Y, **{name: errors})


def test_covariances_of_labels_in_units_far_apart_are_taken():
    scales = np.array([280.0, 0.3, 0.16])  # K and dex, of one spectrum's noise: nearly of rank one
    along = scales * [[1.0], [-0.999], [0.998]]
    E = np.einsum("ic,jc->ij", along, along) / 3 + np.diag(1e-16 * scales**2)
    labels = add_errors(np.ones((4, 3)), np.tile(E, (4, 1, 1)))
    np.testing.assert_array_equal(labels.covariance[2], (E + E.T) / 2)


def test_errors_of_missing_labels_are_ignored_and_missing_errors_are_what_is_said():
    Y = np.array([[1.0, np.nan], [2.0, 3.0]])
    errors = np.array([[0.1, -9999.0], [np.nan, 0.2]])
    with pytest.raises(ss.DataError, match="known where the label is, got 1 value "):
        ss.Spectra(flux=np.ones((2, 3)), labels=Y, label_errors=errors)
    stars = ss.Spectra(
        flux=np.ones((2, 3)), labels=Y, label_errors=errors, missing_label_error="infer"
    )
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=0.5, prior_precision=1.0)
    G = ss.fit_laplace(reg, np.zeros(8), stars, structure="primal", require_minimum=False)
    W = [1 / 0.26, 1 / 0.25, 1 / 0.29]  # label 0 of both stars, label 1 of the second
    own = np.linalg.inv(G.inverse_hessian.to_dense())
    assert_allclose(np.diag(own)[6:], [1 + W[0] + W[1], 1 + W[2]], rtol=1e-12)


def test_errors_of_labels_go_where_the_stars_go():
    rng = np.random.default_rng(0)
    stars = ss.Spectra(
        flux=rng.normal(size=(5, 3)), labels=rng.normal(size=(5, 2)),
        label_errors=rng.uniform(0.1, 1, size=(5, 2)),
    )  # fmt: skip
    assert_array_equal(stars[[3, 1]].label_errors, stars.label_errors[[3, 1]])
    assert "errors of labels" in repr(stars)
    plain = dataclasses.replace(stars, label_errors=None)
    assert stars.identity() != plain.identity()
    with pytest.raises(ss.OptionError, match="give one of the two"):
        dataclasses.replace(stars, label_covariance=np.tile(np.eye(2), (5, 1, 1)))
    with pytest.raises(ss.OptionError, match="without labels"):
        ss.Spectra(flux=stars.flux, label_errors=stars.label_errors)
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=0.3, prior_precision=1.0)
    with pytest.raises(ss.OptionError, match="label_errors should be left out with Spectra"):
        ss.fit_laplace(reg, np.zeros(8), stars, label_errors=stars.label_errors)
